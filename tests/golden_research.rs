//! Baselines and ablations against `golden/generate.py`, an independent program: all parameters and the
//! state of the optimizers after some steps, in both precisions.

#[path = "support/golden.rs"]
mod golden;
mod learning;

use easq::contract::v1::{BehaviorGroup, PreferencePair};
use easq::model::{Dtype, HostTensor};
use easq::train::research::{Baseline, Method, MethodLosses};
use easq::train::{Offered, Trainer};
use golden::{Case, MAIN_GROUP, RESEARCH, SATISFACTION_GROUP, State, Tensors, tensor};
use learning::source;

impl Case {
    fn learner(&self, dtype: Dtype) -> Learner {
        let weight = self.settings.method_weight;
        let method = match self.settings.method.as_str() {
            "no-moe" => return Learner::WithoutMixture(Box::new(self.without_mixture(dtype))),
            "behavior-only" => Method::BehaviorOnly,
            "same-path-pairs" => Method::SamePathPairs { weight },
            "same-path-reward" => Method::SamePathReward { weight },
            "imputation" => Method::Imputation { weight },
            "no-lora" => Method::NoLora { dpo_weight: self.settings.dpo_weight },
            other => panic!("{other}"),
        };
        let has_tower = matches!(method, Method::Imputation { .. } | Method::NoLora { .. });
        // Parts that a method does not have stay as they are in the other program.
        let is_own = |name: &str| {
            !name.starts_with("normalizer.")
                && !name.contains(".lora_")
                && (has_tower || !name.starts_with("satisfaction."))
        };
        let own = self.parameters.iter().filter(|(name, _)| is_own(name));
        let tensors = own.map(|(name, golden)| tensor(name, golden.shape.clone(), &golden.values, dtype));
        let mut baseline = Baseline::from_tensors(&self.settings(), method, tensors).expect("all parameters");
        let statistics = |name| &self.parameters[name].values;
        baseline.freeze_normalizer(statistics("normalizer.mean"), statistics("normalizer.std"));
        Learner::Baseline(Box::new(baseline))
    }

    fn without_mixture(&self, dtype: Dtype) -> Trainer {
        let settings = self.settings();
        let mut tensors = learning::checkpoint(&Trainer::without_mixture(&settings, dtype).expect("a CPU"));
        let std = &self.parameters["normalizer.std"].values;
        let m2: Vec<f64> = std.iter().map(|std| std * std).collect();
        for own in &mut tensors {
            let name = own.name.clone();
            let golden = self.parameters.get(name.trim_start_matches("training.twin."));
            if let Some(golden) = golden {
                *own = tensor(&name, golden.shape.clone(), &golden.values, dtype);
            }
            // Sums over one view that give the statistics.
            match name.as_str() {
                "training.normalizer.count" => *own = HostTensor::from_i64(name, &[1]),
                "training.normalizer.mean" => {
                    let mean = &self.parameters["normalizer.mean"].values;
                    *own = HostTensor::from_f64(name, own.shape.clone(), mean);
                }
                "training.normalizer.m2" => *own = HostTensor::from_f64(name, own.shape.clone(), &m2),
                _ => {}
            }
        }
        Trainer::restore_without_mixture(&settings, tensors).expect("all parameters")
    }
}

enum Learner {
    Baseline(Box<Baseline>),
    WithoutMixture(Box<Trainer>),
}

impl Learner {
    fn step(&mut self, groups: &[BehaviorGroup], pairs: &[(usize, PreferencePair)]) -> MethodLosses {
        for (index, pair) in pairs {
            let offered = match self {
                Self::Baseline(baseline) => baseline.offer_pair(pair, source(*index)),
                Self::WithoutMixture(trainer) => trainer.offer_pair(pair, source(*index)),
            };
            assert_eq!(offered, Offered::Taken);
        }
        match self {
            Self::Baseline(baseline) => baseline.step(groups).expect("a good step"),
            Self::WithoutMixture(trainer) => {
                let report = trainer.step(groups).expect("a good step");
                let (main, satisfaction) = (report.loss_main, report.loss_satisfaction);
                MethodLosses { main, satisfaction, dpo: report.loss_dpo, same_path: None }
            }
        }
    }

    fn state(&self) -> Vec<HostTensor> {
        match self {
            Self::Baseline(baseline) => [baseline.tensors(), baseline.optimizer_state()].concat(),
            Self::WithoutMixture(trainer) => learning::checkpoint(trainer),
        }
    }
}

fn assert_close(actual: &[f64], expected: &[f64], bound: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    for (actual, expected) in actual.iter().zip(expected) {
        // Rounding of the larger elements reaches the smaller ones through sums.
        let scale = expected.abs().max(1e-2 * largest);
        let deviation = (actual - expected).abs();
        assert!(deviation <= bound * scale, "{what}: {actual}, expected {expected}");
    }
}

/// Values of those of `names` that there are, one behind the other.
fn joined(tensors: &Tensors, names: &[&str]) -> Vec<f64> {
    names.iter().filter_map(|name| tensors.get(*name)).flatten().copied().collect()
}

fn compare(state: &[HostTensor], expected: &State, bound: f64, what: &str) {
    let values = |name: &str| learning::tensor(state, name).to_f64().expect("numbers");
    let mut compared = 0;
    for own in state.iter().filter(|tensor| !tensor.name.starts_with("training.")) {
        let what = format!("{what} {}", own.name);
        assert_close(&own.to_f64().expect("numbers"), &expected.parameters[&own.name], bound, &what);
        compared += 1;
    }
    assert!(compared >= 2 + 2 + 4 + 2, "{what}: embeddings, projection, a head, statistics");
    for own in state.iter().filter(|tensor| !tensor.name.contains(".ad")) {
        // Only an ablation of the method itself has a twin.
        if let Some(name) = own.name.strip_prefix("training.twin.") {
            let golden = &expected.twin.parameters[name];
            assert_close(&own.to_f64().expect("numbers"), golden, bound, &format!("{what} twin's {name}"));
        }
    }
    let adams = [
        ("training.main", &expected.main_adam, &MAIN_GROUP[..]),
        ("training.satisfaction", &expected.satisfaction_adam, &SATISFACTION_GROUP[..]),
    ];
    for (prefix, adam, names) in adams {
        let steps = state.iter().find(|tensor| tensor.name == format!("{prefix}.adam.steps"));
        let Some(steps) = steps else {
            assert_eq!(adam.steps, 0, "{what}: nothing but {prefix} could have learned");
            continue;
        };
        assert_eq!(steps.to_i64(), Some(vec![adam.steps]), "{what} {prefix}");
        for (moment, golden) in [("m", &adam.m), ("v", &adam.v)] {
            let name = format!("{prefix}.adam.{moment}");
            assert_close(&values(&name), &joined(golden, names), bound, &format!("{what} {name}"));
        }
    }
    for (table, golden) in &expected.adagrad {
        let name = format!("training.main.adagrad.{table}");
        assert_close(&values(&name), golden, bound, &format!("{what} {name}"));
    }
}

#[test]
fn baselines_and_ablations_step_as_an_independent_program_does() {
    for name in RESEARCH {
        let case = Case::load(name);
        assert_eq!(case.settings.method, name);
        for (dtype, bound) in [(Dtype::F64, 1e-9), (Dtype::F32, 1e-4)] {
            let mut learner = case.learner(dtype);
            let mut offered = 0;
            let last = *case.after.keys().next_back().expect("a state");
            assert!(case.after.len() >= 3 && last >= 30, "{name}");
            for step in 0..last {
                let batch = &case.batches[step % case.batches.len()];
                let offers = step < case.batches.len() || case.repeat_pairs;
                let pairs = if offers { batch.pairs() } else { Vec::new() };
                let pairs: Vec<_> = (offered..).zip(pairs).collect();
                offered += pairs.len();
                let losses = learner.step(&batch.groups(), &pairs);
                if let Some(expected) = case.after.get(&(step + 1)) {
                    let what = format!("{name} {dtype:?} after {} steps:", step + 1);
                    for (actual, expected) in [
                        (losses.main, expected.losses.main),
                        (losses.satisfaction, expected.losses.satisfaction),
                        (losses.dpo, expected.losses.dpo),
                        (losses.same_path, expected.losses.same_path),
                    ] {
                        assert_close(
                            actual.as_slice(),
                            expected.as_slice(),
                            bound,
                            &format!("{what} losses"),
                        );
                    }
                    compare(&learner.state(), expected, bound, &what);
                }
            }
        }
    }
}
