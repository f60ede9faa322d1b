//! The price of alignment: λ2 follows a budget of behavior accuracy.

use tch::{Device, Kind, Tensor};

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

/// The price that a step results in, on its device: 0-dimensional, F64.
pub(super) struct NextPrice {
    pub(super) weight: Tensor,
    pub(super) cost: Tensor,
}

/// `d` of a batch with so many behavior pairs, F64, from how model and twin
/// [rank](crate::model::ScoreDifferences::ranks) them: ranks differ by 2 where one is right and the
/// other wrong, and a tie is half of either.
pub(super) fn cost_of(model_ranks: &Tensor, twin_ranks: &Tensor, behavior_pairs: usize) -> Tensor {
    (twin_ranks - model_ranks).sum(Kind::Double) / (2 * behavior_pairs) as f64
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

    /// The price once `d` of a batch is known, an F64 on the device, which nothing waits for. None: a
    /// batch without behavior pairs, which leaves both as they are. `may_move`: enough has been learned
    /// for λ2 to move.
    pub(super) fn after(&self, d: Option<&Tensor>, may_move: bool, device: Device) -> NextPrice {
        let known = |value: f64| Tensor::full([0_i64; 0], value, (Kind::Double, device));
        let cost = match d {
            Some(d) => (d - self.cost) * RATE + self.cost,
            None => known(self.cost),
        };
        let weight = match self.budget.filter(|_| may_move && d.is_some()) {
            Some(budget) => {
                let room = ((budget - &cost) / budget).clamp(-1.0, 1.0);
                (room * RATE + self.weight.ln()).exp().clamp(RANGE.0, RANGE.1)
            }
            None => known(self.weight),
        };
        NextPrice { weight, cost }
    }

    /// With what [`after`](Self::after) gave, on the host.
    pub(super) fn moved_to(self, weight: f64, cost: f64) -> Price {
        Price { weight, cost, ..self }
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
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::model::ScoreDifferences;
    use crate::settings::Settings;
    use crate::train::readback::Readback;

    fn price(change: impl FnOnce(&mut settings::Train)) -> Price {
        let mut train = Settings::default().train;
        (train.price_control, train.behavior_budget_points) = (Switch::On, 1.0);
        change(&mut train);
        Price::new(&train)
    }

    fn on_the_host(price: Price, next: &NextPrice) -> Price {
        let [weight, cost] = [&next.weight, &next.cost].map(|value| Readback::of(value)[0]);
        price.moved_to(weight, cost)
    }

    fn observe(price: Price, d: f64, may_move: bool) -> Price {
        on_the_host(price, &price.after(Some(&Tensor::from(d)), may_move, Device::Cpu))
    }

    #[test]
    fn the_weight_follows_the_budget_within_its_range() {
        let mut price = price(|_| ());
        assert_eq!((price.weight, price.cost), (0.3, 0.0));
        price = observe(price, 0.5, true);
        assert_eq!(price.cost, 0.005);
        assert!((price.weight - 0.3 * (0.01_f64 * 0.5).exp()).abs() < 1e-15, "{price:?}");
        price = observe(price, 2.0, true);
        assert!(
            (price.weight - 0.3 * (0.01_f64 * (0.5 - 1.0)).exp()).abs() < 1e-15,
            "cost above two budgets"
        );
        (0..1_000).for_each(|_| price = observe(price, 1.0, true));
        assert_eq!(price.weight, 0.02);
        (0..5_000).for_each(|_| price = observe(price, -1.0, true));
        assert_eq!(price.weight, 4.0);
    }

    #[test]
    fn what_the_device_computes_is_the_formula() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..20 {
            let points: f64 = random.random_range(0.1..5.0);
            let mut price = price(|train| train.behavior_budget_points = points);
            for _ in 0..200 {
                let d: f64 = random.random_range(-0.1..0.2);
                let budget = points / 100.0;
                let cost = price.cost + 0.01 * (d - price.cost);
                let change = 0.01 * ((budget - cost) / budget).clamp(-1.0, 1.0);
                let weight = (price.weight.ln() + change).clamp(0.02_f64.ln(), 4.0_f64.ln()).exp();
                price = observe(price, d, true);
                assert_eq!(price.cost, cost);
                assert!((price.weight / weight - 1.0).abs() < 1e-14, "{price:?}, expected {weight}");
            }
        }
    }

    #[test]
    fn the_cost_of_a_batch_counts_what_behavior_prefers_and_a_tie_as_half() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let (views, pairs) = (20, 300);
        let mut scores = || (0..views).map(|_| f64::from(random.random_range(0..4))).collect::<Vec<f64>>();
        let of_both = [scores(), scores()];
        let mut index = |below: i64| (0..pairs).map(|_| random.random_range(0..below)).collect::<Vec<_>>();
        let (left, right) = (index(views), index(views));
        let preferred: Vec<i64> = index(3).into_iter().map(|value| value - 1).collect();
        let wins = |scores: &[f64]| -> f64 {
            let ranked = left.iter().zip(&right).zip(&preferred).map(|((&left, &right), &preferred)| {
                let (left, right) = (scores[left as usize], scores[right as usize]);
                match preferred {
                    0 => 0.0,
                    _ if left == right => 0.5,
                    _ => f64::from(u8::from((left > right) == (preferred == 1))),
                }
            });
            ranked.sum()
        };
        let behavior_pairs = preferred.iter().filter(|preferred| **preferred != 0).count();
        let expected = (wins(&of_both[1]) - wins(&of_both[0])) / behavior_pairs as f64;
        for kind in [Kind::Float, Kind::Double] {
            let [left, right, preferred] =
                [&left, &right, &preferred].map(|values| Tensor::from_slice(values));
            let preferred = preferred.to_kind(kind);
            let [model, twin] = [0, 1].map(|index| {
                let scores = Tensor::from_slice(&of_both[index]).to_kind(kind);
                ScoreDifferences::new(&scores, &left, &right).ranks(&preferred)
            });
            let d = cost_of(&model, &twin, behavior_pairs);
            assert_eq!((d.kind(), Readback::of(&d)), (Kind::Double, vec![expected]));
        }
    }

    #[test]
    fn a_batch_without_behavior_pairs_leaves_both_as_they_are() {
        let moved = observe(price(|_| ()), 0.5, true);
        assert_eq!(on_the_host(moved, &moved.after(None, true, Device::Cpu)), moved);
    }

    #[test]
    fn until_it_may_move_only_the_mean_does() {
        let mut price = price(|_| ());
        price = observe(price, 0.5, false);
        assert_eq!((price.weight, price.cost), (0.3, 0.005));
        let may = Price::may_move;
        assert_eq!([may(99, 16, 16), may(100, 15, 16), may(100, 16, 16)], [false, false, true]);
    }

    #[test]
    fn without_control_the_weight_is_that_of_the_settings_and_the_cost_is_still_known() {
        let fixed = price(|train| train.price_control = Switch::Off);
        let none = price(|train| train.dpo = Dpo::Off);
        for (mut price, weight) in [(fixed, Settings::default().train.dpo_weight), (none, 0.0)] {
            price = observe(price, 0.5, true);
            assert_eq!((price.weight, price.cost), (weight, 0.005));
        }
    }

    #[test]
    fn a_checkpoint_keeps_both_and_a_fixed_weight_is_never_taken_from_it() {
        let mut saved = price(|_| ());
        saved = observe(saved, 0.5, true);
        let tensors = || TensorMap::new([saved.save()]);
        assert_eq!(price(|_| ()).load(&mut tensors()), Some(saved));
        let fixed = price(|train| train.price_control = Switch::Off).load(&mut tensors()).expect("it fits");
        assert_eq!((fixed.weight, fixed.cost), (Settings::default().train.dpo_weight, saved.cost));
        assert_eq!(price(|_| ()).load(&mut TensorMap::new([])), Some(price(|_| ())));
    }
}
