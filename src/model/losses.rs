//! The three losses. Means over an empty set do not exist here: callers leave the term out.

use tch::{Kind, Tensor, no_grad};

/// Score differences `left − right` of all pairs i < j of the groups of a batch, with what the
/// losses on the main path share.
pub(crate) struct ScoreDifferences {
    difference: Tensor,
    /// softplus(−difference)
    cost: Tensor,
}

impl ScoreDifferences {
    /// `score` [n]; `left`, `right` [m] are views' positions in it.
    pub(crate) fn new(score: &Tensor, left: &Tensor, right: &Tensor) -> ScoreDifferences {
        // A view is in many pairs. On a GPU the gradients of `index` are summed in a fixed order, those of
        // `index_select` in any.
        let of = |views: &Tensor| score.index(&[Some(views)]);
        let difference = of(left) - of(right);
        let cost = difference.neg().softplus();
        ScoreDifferences { difference, cost }
    }

    /// `p · softplus(−difference) + (1 − p) · softplus(difference)` per pair, written with
    /// `softplus(z) = z + softplus(−z)`; p [m] is the probability that the left one is better.
    fn cross_entropy(&self, right_is_better: &Tensor) -> Tensor {
        &self.cost + right_is_better * &self.difference
    }

    /// L_main: mean over behavior pairs of softplus(−(ŷ_better − ŷ_worse)). `right_is_better` is 0
    /// or 1, `weight` is 1 / (behavior pairs) where the rewards differ enough and 0 elsewhere.
    pub(crate) fn main_loss(&self, right_is_better: &Tensor, weight: &Tensor) -> Tensor {
        (self.cross_entropy(right_is_better) * weight).sum(None::<Kind>)
    }

    /// How each pair is ranked: 1 as `preferred` [m] has it (1 the left one, −1 the right one), −1 the
    /// other way, 0 where the scores tie or neither is preferred. Without gradient.
    pub(crate) fn ranks(&self, preferred: &Tensor) -> Tensor {
        no_grad(|| self.difference.sign() * preferred)
    }

    /// L_DPO in its live form: mean over all pairs of the cross entropy with the satisfaction
    /// head's labels (see [`live_labels`]).
    pub(crate) fn dpo_live(&self, right_is_better: &Tensor) -> Tensor {
        self.cross_entropy(right_is_better).mean(None::<Kind>)
    }
}

/// `1 − σ(ŝ_left − ŝ_right)` [m] without gradient.
pub(crate) fn live_labels(satisfaction: &Tensor, left: &Tensor, right: &Tensor) -> Tensor {
    no_grad(|| (satisfaction.index_select(0, right) - satisfaction.index_select(0, left)).sigmoid())
}

/// L_satis: mean of softplus(−(ŝ⁺ − ŝ⁻)); `satisfaction` [2m] holds the chosen views, then the
/// rejected ones in the same order.
pub(crate) fn satisfaction_loss(satisfaction: &Tensor) -> Tensor {
    let (chosen, rejected) = halves(satisfaction);
    (rejected - chosen).softplus().mean(None::<Kind>)
}

/// Constants of L_DPO as printed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DpoPairsForm {
    /// β
    pub(crate) beta: f64,
    /// c: keeps the logarithm away from the floor at 0, where L_DPO would drive ŷ⁻ and its gates.
    pub(crate) offset: f64,
}

/// L_DPO on preference pairs (the paper's form): mean of softplus(−β·m),
/// `m = log((ŷ⁺+c)/(ŷ⁻+c)) − sg log((ŝ⁺+c)/(ŝ⁻+c))`; layout as in [`satisfaction_loss`].
pub(crate) fn dpo_pairs(score: &Tensor, satisfaction: &Tensor, form: DpoPairsForm) -> Tensor {
    let log_ratio = |values: &Tensor| {
        let (chosen, rejected) = halves(values);
        (chosen + form.offset).log() - (rejected + form.offset).log()
    };
    let reference = no_grad(|| log_ratio(&satisfaction.detach()));
    ((log_ratio(score) - reference) * -form.beta).softplus().mean(None::<Kind>)
}

fn halves(values: &Tensor) -> (Tensor, Tensor) {
    let pairs = values.size()[0] / 2;
    (values.narrow(0, 0, pairs), values.narrow(0, pairs, pairs))
}
