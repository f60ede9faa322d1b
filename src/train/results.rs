//! What a step computed, on the host.

use std::ops::Range;

use tch::Tensor;

use super::arrivals::Arrivals;
use super::groups::MainBatch;
use super::learn::{Forward, Gradients, TwinForward};
use super::optimizer::MainGradients;
use super::price::NextPrice;
use super::progressive::Ranked;
use super::readback::Readback;
use super::report::StepReport;

/// How model and twin, as they were before a step, rank the behavior pairs of its batch.
pub(super) fn ranked_pairs(main: &MainBatch, results: &Results) -> Vec<Ranked> {
    let ranks = results.ranks.iter().zip(&results.twin_ranks).zip(&main.preferred);
    let of_behavior = ranks.filter(|(_, preferred)| **preferred != 0);
    of_behavior.map(|((&model, &twin), _)| Ranked::new(model, twin)).collect()
}

/// What a step computes, on its device: perhaps not yet.
pub(super) struct Computed {
    pub(super) forward: Forward,
    pub(super) twin: Option<TwinForward>,
    pub(super) price: NextPrice,
    pub(super) gradients: Gradients,
    pub(super) twin_gradients: Option<MainGradients>,
}

/// What a step computed, on the host; empty where it did not.
#[derive(Debug)]
pub(super) struct Results {
    /// ŷ of the batch's views by model and twin.
    pub(super) scores: Vec<f64>,
    twin_scores: Vec<f64>,
    /// See [`Forward::ranks`].
    ranks: Vec<f64>,
    twin_ranks: Vec<f64>,
    /// Row-major [n, K]
    gates: Vec<f64>,
    satisfaction: Vec<f64>,
    /// L_main, L_satis, L_DPO
    pub(super) losses: [Option<f64>; 3],
    twin_loss: Option<f64>,
    /// λ2 and cost.
    pub(super) price: [f64; 2],
    pub(super) norms: Norms,
}

impl Results {
    /// The one read of a step. It brings what `arrivals` has pending too.
    pub(super) fn fetch(computed: &Computed, arrivals: &mut Arrivals) -> Results {
        let Computed { forward, twin, price, gradients, twin_gradients } = computed;
        let mut readback = Readback::default();
        let pending = arrivals.add_to(&mut readback);
        let mut add = |tensor: Option<&Tensor>| tensor.map(|tensor| readback.add(tensor)).unwrap_or_default();
        let output = forward.scores.as_ref();
        let scores = add(output.map(|output| &output.score));
        let gates = add(output.map(|output| &output.gates));
        let ranks = add(forward.ranks.as_ref());
        let satisfaction = add(forward.satisfaction.as_ref());
        let losses = [&forward.main, &forward.satisfaction_loss, &forward.dpo].map(|loss| add(loss.as_ref()));
        let twin_scores = add(twin.as_ref().map(|twin| &twin.score));
        let twin_ranks = add(twin.as_ref().and_then(|twin| twin.ranks.as_ref()));
        let twin_loss = add(twin.as_ref().and_then(|twin| twin.loss.as_ref()));
        let mut add_norm = |gradient: &Tensor| add(Some(&gradient.norm()));
        let mains = [gradients.main.as_ref(), twin_gradients.as_ref()];
        let main_norms = mains.map(|main| main.map(|main| add_norm(&main.flat)).unwrap_or_default());
        let rows = mains.into_iter().flatten().flat_map(|main| &main.rows);
        let other_norms: Vec<_> = rows.chain(&gradients.satisfaction).map(add_norm).collect();
        let price = [&price.weight, &price.cost].map(|value| add(Some(value)));

        let values = readback.fetch();
        arrivals.settle(&values[pending]);
        let scalar = |slot: Range<usize>| values[slot].first().copied();
        let [main, twin] = main_norms.map(|norm| scalar(norm).unwrap_or(0.0));
        let others = other_norms.into_iter().filter_map(scalar).collect();
        Results {
            scores: values[scores].to_vec(),
            twin_scores: values[twin_scores].to_vec(),
            ranks: values[ranks].to_vec(),
            twin_ranks: values[twin_ranks].to_vec(),
            gates: values[gates].to_vec(),
            satisfaction: values[satisfaction].to_vec(),
            losses: losses.map(scalar),
            twin_loss: scalar(twin_loss),
            price: price.map(|value| values[value][0]),
            norms: Norms { main, twin, others },
        }
    }

    /// The first thing that is not finite, if there is one.
    pub(super) fn non_finite(&self) -> Option<&'static str> {
        let [main, satisfaction, dpo] = self.losses.map(|loss| loss.unwrap_or(0.0));
        let scores = self.scores.iter().chain(&self.twin_scores).sum::<f64>();
        first_not_finite([
            (main, "L_main"),
            (satisfaction, "L_satis"),
            (dpo, "L_DPO"),
            (self.twin_loss.unwrap_or(0.0), "the twin's L_main"),
            (scores, "a score"),
        ])
        .or_else(|| self.norms.non_finite())
    }

    pub(super) fn describe(&self, report: &mut StepReport) {
        [report.loss_main, report.loss_satisfaction, report.loss_dpo] = self.losses;
        (report.score_mean, report.score_min) = mean_and_min(&self.scores).unwrap_or_default();
        let satisfaction = mean_and_min(&self.satisfaction);
        report.satisfaction_mean = satisfaction.map(|(mean, _)| mean);
        report.satisfaction_min = satisfaction.map(|(_, min)| min);
        let views = self.scores.len();
        let Some(experts) = self.gates.len().checked_div(views) else { return };
        let share = |dead: usize| dead as f64 / views as f64;
        let rows = || self.gates.chunks(experts);
        report.dead_gates =
            (0..experts).map(|k| share(rows().filter(|gates| gates[k] == 0.0).count())).collect();
        report.mean_gates =
            (0..experts).map(|k| rows().map(|gates| gates[k]).sum::<f64>() / views as f64).collect();
        report.all_gates_dead = share(rows().filter(|gates| gates.iter().all(|gate| *gate == 0.0)).count());
    }
}

/// Norms of the gradients of a step. A norm is finite exactly when all elements are, unless it
/// overflows, which is as bad.
#[derive(Debug)]
pub(super) struct Norms {
    pub(super) main: f64,
    pub(super) twin: f64,
    /// Of everything else that is learned from.
    others: Vec<f64>,
}

impl Norms {
    /// The first gradient that is not finite, if there is one.
    fn non_finite(&self) -> Option<&'static str> {
        first_not_finite([
            (self.main, "the gradient of projection and main head"),
            (self.twin, "the gradient of the twin"),
            (self.others.iter().sum(), "the gradient of embeddings, LoRA or satisfaction head"),
        ])
    }
}

fn first_not_finite<const N: usize>(named: [(f64, &'static str); N]) -> Option<&'static str> {
    named.into_iter().find(|(value, _)| !value.is_finite()).map(|(_, what)| what)
}

fn mean_and_min(values: &[f64]) -> Option<(f64, f64)> {
    let min = values.iter().copied().reduce(f64::min)?;
    Some((values.iter().sum::<f64>() / values.len() as f64, min))
}
