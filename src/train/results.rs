//! What a step computed, on the host.

use tch::Tensor;

use super::groups::MainBatch;
use super::learn::{Forward, Gradients, Readback, TwinForward};
use super::optimizer::MainGradients;
use super::progressive::Ranked;
use super::report::StepReport;

/// How the scores from before a step rank the behavior pairs of its batch.
pub(super) fn ranked_pairs(main: &MainBatch, results: &Results) -> Vec<Ranked> {
    let pairs = main.left.iter().zip(&main.right).zip(&main.preferred);
    let ranked = |((&left, &right), &preferred): ((&i64, &i64), &i8)| {
        let difference =
            |scores: &[f64]| f64::from(preferred) * (scores[left as usize] - scores[right as usize]);
        Ranked::new(difference(&results.scores), difference(&results.twin_scores))
    };
    pairs.filter(|(_, preferred)| **preferred != 0).map(ranked).collect()
}

/// What the forward passes of a step computed, on the host.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// ŷ of the batch's views by model and twin.
    scores: Vec<f64>,
    twin_scores: Vec<f64>,
    /// Row-major [n, K]
    gates: Vec<f64>,
    satisfaction: Option<Vec<f64>>,
    /// L_main, L_satis, L_DPO
    pub(super) losses: [Option<f64>; 3],
    twin_loss: Option<f64>,
}

impl Results {
    pub(super) fn fetch(forward: &Forward, twin: Option<&TwinForward>) -> Results {
        let mut readback = Readback::default();
        let scores = forward.scores.as_ref();
        let losses = [&forward.main, &forward.satisfaction_loss, &forward.dpo];
        let mut add = |tensor: Option<&Tensor>| tensor.map(|tensor| readback.add(tensor)).is_some();
        let has_scores = add(scores.map(|output| &output.score));
        add(scores.map(|output| &output.gates));
        let has_satisfaction = add(forward.satisfaction.as_ref());
        let has_losses = losses.map(|loss| add(loss.as_ref()));
        let has_twin = add(twin.map(|twin| &twin.score));
        let has_twin_loss = add(twin.and_then(|twin| twin.loss.as_ref()));

        let mut fetched = readback.fetch();
        let mut next = |is_there: bool| is_there.then(|| fetched.next().unwrap_or_default());
        let scalar = |values: Option<Vec<f64>>| values.and_then(|values| values.first().copied());
        Results {
            scores: next(has_scores).unwrap_or_default(),
            gates: next(has_scores).unwrap_or_default(),
            satisfaction: next(has_satisfaction),
            losses: has_losses.map(|is_there| scalar(next(is_there))),
            twin_scores: next(has_twin).unwrap_or_default(),
            twin_loss: scalar(next(has_twin_loss)),
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
    }

    pub(super) fn describe(&self, report: &mut StepReport) {
        [report.loss_main, report.loss_satisfaction, report.loss_dpo] = self.losses;
        (report.score_mean, report.score_min) = mean_and_min(&self.scores).unwrap_or_default();
        let satisfaction = self.satisfaction.as_deref().and_then(mean_and_min);
        report.satisfaction_mean = satisfaction.map(|(mean, _)| mean);
        report.satisfaction_min = satisfaction.map(|(_, min)| min);
        let views = self.scores.len();
        let Some(experts) = self.gates.len().checked_div(views) else { return };
        let share = |dead: usize| dead as f64 / views as f64;
        let rows = || self.gates.chunks(experts);
        report.dead_gates =
            (0..experts).map(|k| share(rows().filter(|gates| gates[k] == 0.0).count())).collect();
        report.all_gates_dead = share(rows().filter(|gates| gates.iter().all(|gate| *gate == 0.0)).count());
    }
}

/// Norms of the gradients of a step. A norm is finite exactly when all elements are, unless it
/// overflows, which is as bad.
pub(super) struct Norms {
    pub(super) main: f64,
    pub(super) twin: f64,
    /// Of everything else that is learned from.
    others: Vec<f64>,
}

impl Norms {
    pub(super) fn fetch(gradients: &Gradients, twin: Option<&MainGradients>) -> Norms {
        let mut readback = Readback::default();
        let main = gradients.main.as_ref();
        let flat = [main, twin]
            .map(|gradients| gradients.map(|gradients| readback.add(&gradients.flat.norm())).is_some());
        let rows = main.into_iter().chain(twin).flat_map(|gradients| &gradients.rows);
        rows.chain(&gradients.satisfaction).for_each(|gradient| readback.add(&gradient.norm()));
        let mut fetched = readback.fetch().flatten();
        let [main, twin] = flat.map(|is_there| if is_there { fetched.next() } else { None });
        Norms { main: main.unwrap_or(0.0), twin: twin.unwrap_or(0.0), others: fetched.collect() }
    }

    /// The first gradient that is not finite, if there is one.
    pub(super) fn non_finite(&self) -> Option<&'static str> {
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
