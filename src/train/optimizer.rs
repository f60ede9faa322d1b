//! Adam for the dense parameters, row-wise Adagrad for the embeddings. Both take gradients as
//! values and keep all their state in the open, so that a checkpoint can hold it.

use tch::{Tensor, no_grad};

use crate::model::{MainPath, ParameterGroup};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Adam (Kingma & Ba, 2015) on one flat group of parameters.
pub(super) struct Adam {
    pub(super) learning_rate: f64,
    /// [elements] first and second moment
    pub(super) m: Tensor,
    pub(super) v: Tensor,
    pub(super) steps: i64,
}

impl Adam {
    pub(super) fn new(group: &ParameterGroup, learning_rate: f64) -> Adam {
        Adam { learning_rate, m: group.zeros(), v: group.zeros(), steps: 0 }
    }

    /// `gradient` [elements], finite.
    pub(super) fn step(&mut self, group: &mut ParameterGroup, gradient: &Tensor) {
        self.steps += 1;
        let correction1 = 1.0 - BETA1.powf(self.steps as f64);
        let correction2 = 1.0 - BETA2.powf(self.steps as f64);
        let change = no_grad(|| {
            let _ = self.m.lerp_(gradient, 1.0 - BETA1);
            let _ = self.v.lerp_(&gradient.square(), 1.0 - BETA2);
            let deviation = (&self.v / correction2).sqrt() + EPSILON;
            &self.m / deviation * (-self.learning_rate / correction1)
        });
        group.add(&change);
    }
}

/// Adagrad with one accumulator per row (the mean of the squared gradients of its elements), for
/// tables of which a step touches few rows.
pub(super) struct RowAdagrad {
    pub(super) learning_rate: f64,
    /// [rows] per table
    pub(super) accumulators: Vec<Tensor>,
}

impl RowAdagrad {
    const INITIAL: f64 = 0.1;

    pub(super) fn new(tables: &[Tensor], learning_rate: f64) -> RowAdagrad {
        let accumulator = |table: &Tensor| {
            Tensor::full([table.size()[0]].as_slice(), Self::INITIAL, (table.kind(), table.device()))
        };
        RowAdagrad { learning_rate, accumulators: tables.iter().map(accumulator).collect() }
    }

    /// `index` [u] rows without repetition and their `gradients` [u, dim], per table.
    pub(super) fn step(&mut self, tables: &mut [Tensor], index: &[Tensor], gradients: &[Tensor]) {
        no_grad(|| {
            let touched = index.iter().zip(gradients);
            for ((table, accumulator), (index, gradient)) in
                tables.iter_mut().zip(&mut self.accumulators).zip(touched)
            {
                let square = gradient.square().mean_dim([1_i64].as_slice(), false, None::<tch::Kind>);
                let sum = accumulator.index_select(0, index) + square;
                let rate = (sum.rsqrt() * -self.learning_rate).unsqueeze(1);
                let _ = table.index_add_(0, index, &(gradient * rate));
                let _ = accumulator.index_copy_(0, index, &sum);
            }
        });
    }
}

/// The gradients of one main path, rows in the order of their index.
pub(super) struct MainGradients {
    /// [elements] of the dense parameters
    pub(super) flat: Tensor,
    /// Per table: [u] rows, [u, dim] gradients.
    pub(super) index: Vec<Tensor>,
    pub(super) rows: Vec<Tensor>,
}

/// The optimizers of one main path (the model's or its twin's).
pub(super) struct MainOptimizer {
    pub(super) adam: Adam,
    pub(super) adagrad: RowAdagrad,
    clip_norm: f64,
}

impl MainOptimizer {
    pub(super) fn new(path: &MainPath, settings: &crate::settings::Train) -> MainOptimizer {
        MainOptimizer {
            adam: Adam::new(&path.group, settings.learning_rate),
            adagrad: RowAdagrad::new(
                if path.is_frozen() { &[] } else { &path.tables },
                settings.embedding_learning_rate,
            ),
            clip_norm: settings.clip_norm,
        }
    }

    pub(super) fn clips(&self, norm: f64) -> bool {
        norm > self.clip_norm
    }

    /// `norm` is that of `gradients.flat`: above the bound they are scaled down to it.
    pub(super) fn step(&mut self, path: &mut MainPath, gradients: &MainGradients, norm: f64) {
        if self.clips(norm) {
            self.adam.step(&mut path.group, &(&gradients.flat * (self.clip_norm / norm)));
        } else {
            self.adam.step(&mut path.group, &gradients.flat);
        }
        self.adagrad.step(&mut path.tables, &gradients.index, &gradients.rows);
    }
}
