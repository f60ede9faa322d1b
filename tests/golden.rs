//! Forward pass, losses, gradients and one optimizer step against `golden/forward.py`, an
//! independent program.

mod learning;

use std::collections::BTreeMap;

use easq::contract::v1::{BehaviorEvent, BehaviorGroup, Engagement, Features, PreferencePair, SparseFeature};
use easq::model::{Architecture, Dtype, HostTensor, Scorer};
use easq::settings::{Dpo, Settings, SparseField};
use easq::train::{Loss, Offered, Trainer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    parameters: BTreeMap<String, Values>,
    groups: Vec<Vec<View>>,
    pairs: Vec<[View; 2]>,
    score: Vec<f64>,
    losses: BTreeMap<String, f64>,
    gradients: BTreeMap<String, BTreeMap<String, Values>>,
    after_three_steps: BTreeMap<String, BTreeMap<String, Values>>,
}

#[derive(Deserialize)]
struct Values {
    shape: Vec<usize>,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct View {
    dense: Vec<f32>,
    sparse: Vec<(u32, Vec<u64>)>,
    reward: f32,
}

impl View {
    fn features(&self) -> Features {
        let sparse = |(field, ids): &(u32, Vec<u64>)| SparseFeature { field: *field, ids: ids.clone() };
        Features {
            dense: self.dense.clone(),
            sparse: self.sparse.iter().map(sparse).collect(),
            schema_version: 1,
        }
    }

    fn event(&self) -> BehaviorEvent {
        let other = BTreeMap::from([("value".to_owned(), self.reward)]);
        let engagement = Some(Engagement { other, ..Default::default() });
        BehaviorEvent { features: Some(self.features()), engagement, ..Default::default() }
    }
}

impl Golden {
    fn load() -> Golden {
        serde_json::from_str(include_str!("golden/forward.json")).unwrap()
    }

    fn groups(&self) -> Vec<BehaviorGroup> {
        let group = |views: &Vec<View>| BehaviorGroup {
            views: views.iter().map(View::event).collect(),
            ..Default::default()
        };
        self.groups.iter().map(group).collect()
    }

    fn pairs(&self) -> Vec<PreferencePair> {
        self.pairs.iter().map(|[a, b]| learning::pair(a.features(), b.features())).collect()
    }

    /// The sizes of `forward.py`.
    fn settings(dpo: Dpo) -> Settings {
        let mut settings = learning::settings(dpo);
        settings.features.dense = ["a", "b", "c"].map(String::from).to_vec();
        settings.features.sparse = vec![
            SparseField { field: 1, name: "user".into(), rows: 5, dim: 2 },
            SparseField { field: 7, name: "topic".into(), rows: 4, dim: 3 },
        ];
        let model = &mut settings.model;
        (model.hidden_dim, model.expert_dim, model.lora_rank, model.lora_alpha) = (4, 3, 2, 2.0);
        (model.main_experts, model.satisfaction_experts) = (3, 2);
        settings.train.reservoir_batch_pairs = 3;
        settings.train.normalizer_views = 0;
        settings.train.clip_norm = 2.3;
        settings
    }

    /// A trainer in 64 bits whose model and twin have the golden parameters.
    fn trainer(&self, dpo: Dpo) -> Trainer {
        let settings = Golden::settings(dpo);
        let mut tensors = learning::checkpoint(&Trainer::with_dtype(&settings, Dtype::F64).unwrap());
        for tensor in &mut tensors {
            let name = tensor.name.trim_start_matches("training.twin.").to_owned();
            if let Some(golden) = self.parameters.get(&name) {
                assert_eq!(tensor.shape, golden.shape, "{name}");
                *tensor = HostTensor::from_f64(tensor.name.clone(), golden.shape.clone(), &golden.values);
            }
        }
        self.set_statistics(&mut tensors);
        Trainer::restore(&settings, tensors).unwrap()
    }

    /// Sums over one view that give the golden mean and standard deviation.
    fn set_statistics(&self, tensors: &mut [HostTensor]) {
        let mean = &self.parameters["normalizer.mean"].values;
        let m2 = self.parameters["normalizer.std"].values.iter().map(|std| std * std).collect::<Vec<_>>();
        for tensor in tensors {
            let name = tensor.name.clone();
            match name.as_str() {
                "training.normalizer.count" => *tensor = HostTensor::from_i64(name, &[1]),
                "training.normalizer.mean" => *tensor = HostTensor::from_f64(name, vec![3], mean),
                "training.normalizer.m2" => *tensor = HostTensor::from_f64(name, vec![3], &m2),
                _ => {}
            }
        }
    }

    /// Rows of a table that any of the views reads, ascending: those whose gradient is reported.
    fn touched<'a>(views: impl Iterator<Item = &'a View>, field: u32, rows: u64) -> Vec<usize> {
        let of_field = views.flat_map(|view| &view.sparse).filter(|(other, _)| *other == field);
        let mut touched: Vec<_> = of_field.flat_map(|(_, ids)| ids).map(|id| (id % rows) as usize).collect();
        touched.sort_unstable();
        touched.dedup();
        touched
    }
}

fn assert_close(actual: &[f64], expected: &[f64], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (actual, expected) in actual.iter().zip(expected) {
        assert!(
            (actual - expected).abs() <= 1e-9 * expected.abs().max(1.0),
            "{what}: {actual}, expected {expected}"
        );
    }
}

#[test]
fn scores_are_those_of_an_independent_program() {
    let golden = Golden::load();
    let tensors = golden.trainer(Dpo::Live).serving_tensors();
    let architecture = Architecture::from_settings(&Golden::settings(Dpo::Live));
    let scorer = Scorer::from_tensors(&architecture, tensors).unwrap();
    let views = golden.groups.iter().flatten().chain(golden.pairs.iter().flatten());
    let features: Vec<_> = views.map(View::features).collect();
    let score = scorer.score(&features.iter().collect::<Vec<_>>()).unwrap();
    assert_close(&score, &golden.score, "score");
}

#[test]
fn losses_and_gradients_are_those_of_an_independent_program() {
    let golden = Golden::load();
    let cases = [
        (Dpo::Live, Loss::Main, "main"),
        (Dpo::Live, Loss::Satisfaction, "satisfaction"),
        (Dpo::Live, Loss::Dpo, "dpo_live"),
        (Dpo::Pairs, Loss::Main, "main"),
        (Dpo::Pairs, Loss::Dpo, "dpo_pairs"),
    ];
    for (dpo, loss, name) in cases {
        let (value, gradients) =
            golden.trainer(dpo).gradients_of(loss, &golden.groups(), &golden.pairs()).unwrap();
        assert_close(&[value], &[golden.losses[name]], name);
        let expected = &golden.gradients[name];
        assert_eq!(gradients.len(), expected.len());
        for gradient in gradients {
            let expected = &expected[&gradient.name];
            let what = format!("gradient of {name} by {}", gradient.name);
            let views = golden.groups.iter().flatten();
            let drawn = golden.pairs.iter().flatten().filter(|_| dpo == Dpo::Pairs);
            let views = views.chain(drawn);
            let rows = match gradient.name.as_str() {
                "embeddings.user.weight" => Golden::touched(views, 1, 5),
                "embeddings.topic.weight" => Golden::touched(views, 7, 4),
                _ => (0..expected.shape[0]).collect(),
            };
            let width: usize = expected.shape[1..].iter().product();
            let row = |row: usize| expected.values[row * width..(row + 1) * width].to_vec();
            let expected: Vec<f64> = rows.into_iter().flat_map(row).collect();
            assert_close(&gradient.to_f64().unwrap(), &expected, &what);
        }
    }
}

#[test]
fn steps_move_every_parameter_as_the_optimizers_formulas_say() {
    let golden = Golden::load();
    // In the live form a pair is drawn on every step, in the printed form once.
    for (dpo, name, drawn) in [(Dpo::Live, "live", [3, 3, 3]), (Dpo::Pairs, "pairs", [3, 0, 0])] {
        let mut trainer = golden.trainer(dpo);
        for (index, pair) in golden.pairs().iter().enumerate() {
            assert_eq!(trainer.offer_pair(pair, learning::source(index)), Offered::Taken);
        }
        for drawn_pairs in drawn {
            let report = trainer.step(&golden.groups()).unwrap();
            assert_eq!((report.groups, report.views, report.drawn_pairs), (3, 11, drawn_pairs));
        }
        let tensors = trainer.serving_tensors();
        for (parameter, expected) in &golden.after_three_steps[name] {
            let actual = learning::tensor(&tensors, parameter).to_f64().unwrap();
            assert_close(&actual, &expected.values, &format!("{parameter} ({name})"));
        }
    }
}
