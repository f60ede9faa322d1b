//! Dense features on one scale: running statistics that freeze.

use super::host_tensor::{Dtype, HostTensor, TensorMap};

/// Normalized values are clipped to ± this.
const CLIP: f64 = 5.0;
/// A feature that varied less than this has no scale of its own.
const MIN_STD: f64 = 1e-6;
/// Stands for the number of views where statistics were given: above every limit, and a power of two,
/// so that it divides exactly.
const GIVEN: u64 = 1 << 62;
const MEAN: &str = "normalizer.mean";
const STD: &str = "normalizer.std";

/// Mean and variance per dense feature over the first `limit` views, by Welford's method
/// (Technometrics 1962): order of the views decides the last bits, so they come in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Normalizer {
    limit: u64,
    count: u64,
    mean: Vec<f64>,
    /// Sum of squared differences from the mean.
    m2: Vec<f64>,
}

impl Normalizer {
    pub(crate) fn new(dense: usize, limit: u64) -> Normalizer {
        Normalizer { limit, count: 0, mean: vec![0.0; dense], m2: vec![0.0; dense] }
    }

    /// These statistics for ever, whatever limit a later run has. Deviations are above 0.
    pub(crate) fn frozen(scaling: &Scaling) -> Normalizer {
        // The root of a rounded square is the number itself.
        let m2 = scaling.std.iter().map(|std| std * std * GIVEN as f64).collect();
        Normalizer { limit: 0, count: GIVEN, mean: scaling.mean.clone(), m2 }
    }

    /// Takes one view's dense features in, until there have been `limit` of them.
    pub(crate) fn observe(&mut self, dense: &[f32]) {
        if self.count >= self.limit {
            return;
        }
        self.count += 1;
        for ((mean, m2), &value) in self.mean.iter_mut().zip(&mut self.m2).zip(dense) {
            let difference = f64::from(value) - *mean;
            *mean += difference / self.count as f64;
            *m2 += difference * (f64::from(value) - *mean);
        }
    }

    /// The transformation as of now, in the precision in which it is published: training and
    /// serving see the same numbers.
    pub(crate) fn scaling(&self, dtype: Dtype) -> Scaling {
        let round = |value: f64| if dtype == Dtype::F32 { f64::from(value as f32) } else { value };
        let std = |m2: &f64| match (m2 / self.count.max(1) as f64).sqrt() {
            std if std < MIN_STD && self.count < GIVEN => 1.0,
            std => round(std),
        };
        Scaling {
            mean: self.mean.iter().map(|&mean| round(mean)).collect(),
            std: self.m2.iter().map(std).collect(),
        }
    }

    pub(crate) fn save(&self) -> Vec<HostTensor> {
        let shape = vec![self.mean.len()];
        vec![
            HostTensor::from_i64("training.normalizer.count", &[self.count as i64]),
            HostTensor::from_f64("training.normalizer.m2", shape.clone(), &self.m2),
            HostTensor::from_f64("training.normalizer.mean", shape, &self.mean),
        ]
    }

    pub(crate) fn load(dense: usize, limit: u64, tensors: &mut TensorMap) -> Option<Normalizer> {
        let count = tensors.take_i64("training.normalizer.count", Some(1));
        let m2 = tensors.take("training.normalizer.m2", &[Dtype::F64], &[Some(dense)]);
        let mean = tensors.take("training.normalizer.mean", &[Dtype::F64], &[Some(dense)]);
        Some(Normalizer { limit, count: count?[0] as u64, mean: mean?.to_f64()?, m2: m2?.to_f64()? })
    }
}

/// `clip((dense − mean) / std, ±5)`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scaling {
    pub(crate) mean: Vec<f64>,
    pub(crate) std: Vec<f64>,
}

impl Scaling {
    /// The statistics of a model made elsewhere, in either precision. None when they do not fit, which
    /// the tensors remember.
    pub(crate) fn load_any(dense: usize, tensors: &mut TensorMap) -> Option<Scaling> {
        let mut take = |name: &str| tensors.take(name, &[Dtype::F32, Dtype::F64], &[Some(dense)])?.to_f64();
        let (mean, std) = (take(MEAN), take(STD));
        if std.iter().flatten().any(|std| !(MIN_STD..f64::INFINITY).contains(std)) {
            tensors.fault(format!("{STD} has elements that are not between {MIN_STD} and infinity"));
            return None;
        }
        Some(Scaling { mean: mean?, std: std? })
    }

    pub(crate) fn save(&self, dtype: Dtype) -> [HostTensor; 2] {
        let tensor = |name: &str, values: &[f64]| match dtype {
            Dtype::F64 => HostTensor::from_f64(name, vec![values.len()], values),
            _ => {
                let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
                HostTensor::from_f32(name, vec![values.len()], &values)
            }
        };
        [tensor(MEAN, &self.mean), tensor(STD, &self.std)]
    }

    pub(crate) fn load(dense: usize, dtype: Dtype, tensors: &mut TensorMap) -> Option<Scaling> {
        let mean = tensors.take(MEAN, &[dtype], &[Some(dense)]);
        let std = tensors.take(STD, &[dtype], &[Some(dense)]);
        let scaling = Scaling { mean: mean?.to_f64()?, std: std?.to_f64()? };
        if !scaling.std.iter().all(|std| *std > 0.0) {
            tensors.fault(format!("{STD} has values that are not above 0"));
        }
        Some(scaling)
    }

    pub(crate) fn apply<'a>(&'a self, dense: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
        dense
            .iter()
            .zip(self.mean.iter().zip(&self.std))
            .map(|(&value, (mean, std))| ((f64::from(value) - mean) / std).clamp(-CLIP, CLIP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_run_over_the_first_views_then_freeze() {
        let mut normalizer = Normalizer::new(1, 4);
        assert_eq!(normalizer.scaling(Dtype::F64), Scaling { mean: vec![0.0], std: vec![1.0] });
        for value in [1.0, 2.0, 3.0, 6.0, 1e9] {
            normalizer.observe(&[value]);
        }
        let scaling = normalizer.scaling(Dtype::F64);
        assert_eq!(scaling.mean, [3.0]);
        assert!((scaling.std[0] - 3.5_f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn frozen_statistics_stay_as_they_are_to_the_last_bit_also_once_saved() {
        for dtype in [Dtype::F32, Dtype::F64] {
            let round = |value: f64| if dtype == Dtype::F32 { f64::from(value as f32) } else { value };
            let std = [1e-7, 0.1, 1.0 / 3.0, 2.0, 1e30].map(round).to_vec();
            let given = Scaling { mean: vec![round(0.1), -3.0, 0.0, 7.0, 1e9], std };
            let normalizer = Normalizer::frozen(&given);
            let mut tensors = TensorMap::new(normalizer.save());
            let mut restored = Normalizer::load(5, u64::MAX >> 2, &mut tensors).expect("what was saved fits");
            restored.observe(&[5.0; 5]);
            assert_eq!((normalizer.scaling(dtype), restored.scaling(dtype)), (given.clone(), given));
        }
    }

    #[test]
    fn normalized_values_are_clipped_and_a_constant_feature_keeps_its_scale() {
        let mut normalizer = Normalizer::new(2, 10);
        for value in [-1.0, 1.0] {
            normalizer.observe(&[value, 7.0]);
        }
        let scaling = normalizer.scaling(Dtype::F32);
        assert_eq!(scaling.apply(&[0.5, 7.0]).collect::<Vec<_>>(), [0.5, 0.0]);
        assert_eq!(scaling.apply(&[-1e30, 8.0]).collect::<Vec<_>>(), [-5.0, 1.0]);
    }
}
