//! The price of alignment: λ2 follows a budget of behavior accuracy.

use crate::model::{Dtype, HostTensor, TensorMap};
use crate::settings::{self, Dpo, Switch};

/// λ2 before the first update, and the least and the greatest that it may become.
const START: f64 = 0.3;
const RANGE: (f64, f64) = (0.02, 4.0);
/// Of the running mean, and of log λ2.
const RATE: f64 = 0.01;
/// Steps before λ2 first moves: the mean has to mean something.
const FROZEN_STEPS: u64 = 100;
const TENSOR: &str = "training.price";

/// The weight of L_DPO, and what alignment costs.
///
/// Per batch with behavior pairs, scored and not yet learned, with
/// `d = (pairs the twin ranks right − pairs the model ranks right) / pairs`:
///
/// ```text
/// cost   ← cost + 0.01 (d − cost)
/// log λ2 ← clip(log λ2 + 0.01 · clip((B − cost) / B, −1, 1), log 0.02, log 4)
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Price {
    /// B, a share of the behavior pairs; None: λ2 is what the settings say.
    budget: Option<f64>,
    /// λ2
    pub(super) weight: f64,
    /// Running mean of the share of behavior pairs that alignment costs.
    pub(super) cost: f64,
}

impl Price {
    pub(super) fn new(train: &settings::Train) -> Price {
        let is_on = train.price_control == Switch::On && train.dpo != Dpo::Off;
        let budget = is_on.then_some(train.behavior_budget_points / 100.0);
        let weight = match train.dpo {
            Dpo::Off => 0.0,
            _ if is_on => START,
            _ => train.dpo_weight,
        };
        Price { budget, weight, cost: 0.0 }
    }

    /// `d` of a batch; `may_move`: enough has been learned for λ2 to move.
    pub(super) fn observe(&mut self, d: f64, may_move: bool) {
        self.cost += RATE * (d - self.cost);
        if let Some(budget) = self.budget.filter(|_| may_move) {
            let room = ((budget - self.cost) / budget).clamp(-1.0, 1.0);
            self.weight = (self.weight.ln() + RATE * room).exp().clamp(RANGE.0, RANGE.1);
        }
    }

    /// Whether λ2 may move at a step that so many went before, when so many preference pairs have come
    /// and so many make a batch.
    pub(super) fn may_move(steps: u64, arrived: u64, batch_pairs: usize) -> bool {
        steps >= FROZEN_STEPS && arrived >= batch_pairs as u64
    }

    pub(super) fn save(&self) -> HostTensor {
        HostTensor::from_f64(TENSOR, vec![2], &[self.weight, self.cost])
    }

    /// What was saved in place of this; λ2 only where a budget rules it. None when the tensor does not
    /// fit, which `tensors` remembers.
    pub(super) fn load(self, tensors: &mut TensorMap) -> Option<Price> {
        // Checkpoints from before there was a price do not have it.
        if !tensors.has(TENSOR) {
            return Some(self);
        }
        let saved = tensors.take(TENSOR, &[Dtype::F64], &[Some(2)])?.to_f64()?;
        let weight = if self.budget.is_some() { saved[0].clamp(RANGE.0, RANGE.1) } else { self.weight };
        Some(Price { weight, cost: saved[1], ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn price(change: impl FnOnce(&mut settings::Train)) -> Price {
        let mut train = Settings::default().train;
        (train.price_control, train.behavior_budget_points) = (Switch::On, 1.0);
        change(&mut train);
        Price::new(&train)
    }

    #[test]
    fn the_weight_follows_the_budget_within_its_range() {
        let mut price = price(|_| ());
        assert_eq!((price.weight, price.cost), (0.3, 0.0));
        price.observe(0.5, true);
        assert_eq!(price.cost, 0.005);
        assert!((price.weight - 0.3 * (0.01_f64 * 0.5).exp()).abs() < 1e-15, "{price:?}");
        price.observe(2.0, true);
        assert!(
            (price.weight - 0.3 * (0.01_f64 * (0.5 - 1.0)).exp()).abs() < 1e-15,
            "cost above two budgets"
        );
        (0..1_000).for_each(|_| price.observe(1.0, true));
        assert_eq!(price.weight, 0.02);
        (0..5_000).for_each(|_| price.observe(-1.0, true));
        assert_eq!(price.weight, 4.0);
    }

    #[test]
    fn until_it_may_move_only_the_mean_does() {
        let mut price = price(|_| ());
        price.observe(0.5, false);
        assert_eq!((price.weight, price.cost), (0.3, 0.005));
        let may = Price::may_move;
        assert_eq!([may(99, 16, 16), may(100, 15, 16), may(100, 16, 16)], [false, false, true]);
    }

    #[test]
    fn without_control_the_weight_is_that_of_the_settings_and_the_cost_is_still_known() {
        let fixed = price(|train| train.price_control = Switch::Off);
        let none = price(|train| train.dpo = Dpo::Off);
        for (mut price, weight) in [(fixed, Settings::default().train.dpo_weight), (none, 0.0)] {
            price.observe(0.5, true);
            assert_eq!((price.weight, price.cost), (weight, 0.005));
        }
    }

    #[test]
    fn a_checkpoint_keeps_both_and_a_fixed_weight_is_never_taken_from_it() {
        let mut saved = price(|_| ());
        saved.observe(0.5, true);
        let tensors = || TensorMap::new([saved.save()]);
        assert_eq!(price(|_| ()).load(&mut tensors()), Some(saved));
        let fixed = price(|train| train.price_control = Switch::Off).load(&mut tensors()).expect("it fits");
        assert_eq!((fixed.weight, fixed.cost), (Settings::default().train.dpo_weight, saved.cost));
        assert_eq!(price(|_| ()).load(&mut TensorMap::new([])), Some(price(|_| ())));
    }
}
