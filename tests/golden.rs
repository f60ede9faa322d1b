//! The model's mathematics against `golden/generate.py`, an independent program: scores, losses,
//! gradients, and the whole state after some steps, in both precisions.
//!
//! `golden/cases` holds what it calculated; the program itself says what is in a file.

#[path = "support/golden.rs"]
mod golden;
mod learning;
#[path = "support/python.rs"]
mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use easq::model::{Architecture, Dtype, HostTensor, Scorer};
use easq::settings::{Dpo, SparseField};
use easq::train::{Loss, Offered, StepReport, Trainer};
use golden::{
    AdamState, Batch, Case, Losses, MAIN_GROUP, RESEARCH, SATISFACTION_GROUP, Shaped, State, Tensors, View,
    cases,
};
use serde_json::Value;

/// Cases that every test here compares.
const COMPARED: [&str; 20] = [
    "adapter",
    "dead-gates",
    "default",
    "dpo-off",
    "dpo-pairs",
    "dpo-pairs-as-printed",
    "extreme-values",
    "no-behavior-pairs",
    "no-groups",
    "no-injection",
    "no-pairs",
    "one-pair",
    "price-control",
    "price-waits-for-pairs",
    "reservoir-fills",
    "reuse-exhausted",
    "running-normalizer",
    "several-ids",
    "weight-zero",
    "weights",
];

/// Rounding of the larger elements of a tensor reaches the smaller ones through sums.
const FLOOR: f64 = 1e-2;

impl Batch {
    /// Positions of the views whose group has another view; easq passes over groups of one.
    fn compared_views(&self) -> Vec<usize> {
        let sizes = self.groups.iter().flat_map(|group| vec![group.len(); group.len()]);
        sizes.enumerate().filter(|(_, size)| *size > 1).map(|(position, _)| position).collect()
    }
}

impl Case {
    /// A trainer whose model and twin have the initial parameters.
    fn trainer(&self, dtype: Dtype) -> Trainer {
        let statistics = |name| self.parameters.get(name).map(|golden| golden.values.as_slice());
        self.trainer_with(dtype, statistics("normalizer.mean").zip(statistics("normalizer.std")))
    }

    /// The same with the statistics of dense features as a first step finds them: those after its
    /// batch was observed.
    fn trainer_at_first_step(&self, dtype: Dtype) -> Trainer {
        let statistics = |name| self.after[&1].parameters[name].as_slice();
        self.trainer_with(dtype, Some((statistics("normalizer.mean"), statistics("normalizer.std"))))
    }

    fn trainer_with(&self, dtype: Dtype, statistics: Option<(&[f64], &[f64])>) -> Trainer {
        let settings = self.settings();
        let drawn = match self.settings.adapter {
            true => Trainer::adapting(&settings, dtype, self.backbone()),
            false => Trainer::with_dtype(&settings, dtype),
        };
        let mut tensors = learning::checkpoint(&drawn.unwrap());
        let mut set = BTreeSet::new();
        for tensor in &mut tensors {
            let name = tensor.name.trim_start_matches("training.twin.").to_owned();
            if let Some(golden) = self.parameters.get(&name) {
                assert_eq!(tensor.shape, golden.shape, "{name}");
                set_values(tensor, &golden.values);
                set.insert(name);
            }
        }
        assert_eq!(set, self.parameters.keys().cloned().collect(), "{}: parameters of the model", self.name);
        if let Some((mean, std)) = statistics {
            // Sums over one view that give them.
            let m2: Vec<f64> = std.iter().map(|std| std * std).collect();
            for tensor in &mut tensors {
                match tensor.name.as_str() {
                    "training.normalizer.count" => *tensor = HostTensor::from_i64(&tensor.name, &[1]),
                    "training.normalizer.mean" | "normalizer.mean" => set_values(tensor, mean),
                    "training.normalizer.m2" => set_values(tensor, &m2),
                    "normalizer.std" => set_values(tensor, std),
                    _ => {}
                }
            }
        }
        Trainer::restore(&settings, tensors).unwrap()
    }

    /// What adapter mode has from elsewhere.
    fn backbone(&self) -> Vec<HostTensor> {
        let backbone = self.parameters.iter().filter(|(name, _)| is_backbone(name));
        let tensor = |(name, golden): (&String, &Shaped)| {
            HostTensor::from_f64(name, golden.shape.clone(), &golden.values)
        };
        backbone.map(tensor).collect()
    }

    /// Row numbers of the table that a gradient of batch 0 reports, ascending.
    fn touched(&self, table: &SparseField) -> Vec<usize> {
        let batch = &self.batches[0];
        let drawn = batch.pairs.iter().flatten().filter(|_| self.settings.dpo == Dpo::Pairs);
        let compared = batch.compared_views().into_iter();
        let views: Vec<_> = batch.groups.iter().flatten().collect();
        let views = compared.map(|position| views[position]).chain(drawn);
        let of_field = views.flat_map(|view| &view.sparse).filter(|(field, _)| *field == table.field);
        let rows: BTreeSet<_> =
            of_field.flat_map(|(_, ids)| ids).map(|id| (id % table.rows) as usize).collect();
        rows.into_iter().collect()
    }

    /// A reported gradient over the whole table: rows that are not reported have none.
    fn whole_gradient(&self, gradient: &HostTensor) -> Vec<f64> {
        let values = gradient.to_f64().unwrap();
        let of_table = |table: &&SparseField| gradient.name == format!("embeddings.{}.weight", table.name);
        let Some(table) = self.settings.fields.iter().find(of_table) else { return values };
        let width = table.dim as usize;
        let mut whole = vec![0.0; table.rows as usize * width];
        let touched = self.touched(table);
        assert_eq!(values.len(), touched.len() * width, "{}: {}", self.name, gradient.name);
        for (row, values) in touched.into_iter().zip(values.chunks(width)) {
            whole[row * width..(row + 1) * width].copy_from_slice(values);
        }
        whole
    }
}

fn is_backbone(name: &str) -> bool {
    name.starts_with("embeddings.")
        || name.starts_with("normalizer.")
        || ["projection.weight", "projection.bias"].contains(&name)
}

/// `values` in the precision that the tensor has.
fn set_values(tensor: &mut HostTensor, values: &[f64]) {
    *tensor = golden::tensor(&tensor.name, tensor.shape.clone(), values, tensor.dtype);
}

/// The largest deviation seen so far: relative, and below [`FLOOR`] of the largest element of its
/// tensor relative to that.
struct Comparison {
    case: &'static str,
    adapter: bool,
    bound: f64,
    worst: f64,
    worst_in: String,
}

impl Comparison {
    fn new(case: &Case, dtype: Dtype) -> Comparison {
        let bound = match (dtype, case.name) {
            // Its scores lie far above 20, where libtorch's softplus is the identity: its slope is
            // off by up to e⁻²⁰ = 2e-9.
            (Dtype::F64, "extreme-values") => 5e-9,
            (Dtype::F64, _) => 1e-9,
            // There differences of scores in the hundreds are rounded to 3e-5, and Adam's steps by small
            // gradients follow the rounding.
            (_, "extreme-values") => 5e-3,
            // A GPU sums in another order than the CPU.
            _ if case.settings().train.device != "cpu" => 2e-4,
            _ => 1e-4,
        };
        Comparison {
            case: case.name,
            adapter: case.settings.adapter,
            bound,
            worst: 0.0,
            worst_in: String::new(),
        }
    }

    fn values(&mut self, actual: &[f64], expected: &[f64], what: impl Into<String>) {
        let what = what.into();
        assert_eq!(actual.len(), expected.len(), "{}: {what}", self.case);
        let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
            let scale = expected.abs().max(FLOOR * largest).max(f64::from(f32::MIN_POSITIVE));
            let deviation = (actual - expected).abs() / scale;
            // Not a number is not within any bound.
            if deviation > self.worst || deviation.is_nan() {
                self.worst = if deviation.is_nan() { f64::INFINITY } else { deviation };
                self.worst_in = format!("{what}[{index}]: {actual}, expected {expected}");
            }
        }
    }

    fn optional(&mut self, actual: Option<f64>, expected: Option<f64>, what: &str) {
        let (actual, expected) = (actual.as_slice(), expected.as_slice());
        self.values(actual, expected, what);
    }

    fn losses(&mut self, report: &StepReport, expected: &Losses, step: usize) {
        assert_eq!(expected.same_path, None, "{}", self.case);
        self.optional(report.loss_main, expected.main, &format!("L_main of step {step}"));
        self.optional(report.loss_satisfaction, expected.satisfaction, &format!("L_satis of step {step}"));
        self.optional(report.loss_dpo, expected.dpo, &format!("L_DPO of step {step}"));
    }

    fn tensors(&mut self, actual: &[HostTensor], prefix: &str, expected: &Tensors) {
        for (name, expected) in expected {
            let name = format!("{prefix}{name}");
            let actual = learning::tensor(actual, &name).to_f64().unwrap();
            self.values(&actual, expected, name);
        }
    }

    fn adam(&mut self, actual: &[HostTensor], prefix: &str, order: &[&str], expected: &AdamState) {
        let steps = learning::tensor(actual, &format!("{prefix}.adam.steps")).to_i64().unwrap();
        assert_eq!(steps, [expected.steps], "{}: {prefix}.adam.steps", self.case);
        for (name, moments) in [("m", &expected.m), ("v", &expected.v)] {
            let order: Vec<_> = order.iter().filter(|parameter| moments.contains_key(**parameter)).collect();
            assert_eq!(moments.len(), order.len(), "{}: parameters of {prefix}", self.case);
            let name = format!("{prefix}.adam.{name}");
            let actual = learning::tensor(actual, &name).to_f64().unwrap();
            let expected: Vec<f64> =
                order.iter().flat_map(|parameter| moments[**parameter].clone()).collect();
            self.values(&actual, &expected, name);
        }
    }

    fn state(&mut self, actual: &[HostTensor], expected: &State) {
        self.tensors(actual, "", &expected.parameters);
        self.adam(actual, "training.main", &MAIN_GROUP, &expected.main_adam);
        self.adam(actual, "training.satisfaction", &SATISFACTION_GROUP, &expected.satisfaction_adam);
        self.tensors(actual, "training.main.adagrad.", &expected.adagrad);
        let twin = &expected.twin;
        let mut parameters = twin.parameters.clone();
        // A frozen backbone is that of the model.
        parameters.retain(|name, _| !self.adapter || !is_backbone(name));
        self.tensors(actual, "training.twin.", &parameters);
        self.adam(actual, "training.twin.main", &MAIN_GROUP, &twin.main_adam);
        self.tensors(actual, "training.twin.main.adagrad.", &twin.adagrad);
        if let Some(price) = expected.lambda2.zip(expected.ew) {
            let actual = learning::tensor(actual, "training.price").to_f64().unwrap();
            self.values(&actual, &[price.0, price.1], "λ2 and ew");
        }
    }

    fn finish(self) {
        let Comparison { case, bound, worst, worst_in, .. } = self;
        println!("{case}: {worst:.1e} (bound {bound:.0e}) in {worst_in}");
        assert!(worst <= bound, "{case}: deviation {worst:.1e}, bound {bound:.0e}, in {worst_in}");
    }
}

fn each_case_in_both_precisions(compare: impl Fn(&Case, Dtype, &mut Comparison)) {
    for case in COMPARED.map(Case::load) {
        assert_eq!(case.settings.method, "easq", "{}", case.name);
        for dtype in [Dtype::F64, Dtype::F32] {
            let mut comparison = Comparison::new(&case, dtype);
            compare(&case, dtype, &mut comparison);
            comparison.finish();
        }
    }
}

#[test]
fn every_golden_case_is_compared_here_or_as_one_of_research() {
    let file_name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let files: BTreeSet<_> = fs::read_dir(cases()).unwrap().map(file_name).collect();
    let named: BTreeSet<_> =
        COMPARED.iter().chain(&RESEARCH).map(|name| format!("{name}.json").into()).collect();
    assert_eq!(files, named);
}

#[test]
fn scores_are_those_of_an_independent_program() {
    each_case_in_both_precisions(|case, dtype, comparison| {
        let architecture = Architecture::from_settings(&case.settings());
        let tensors = case.trainer_at_first_step(dtype).serving_tensors();
        let scorer = Scorer::from_tensors(&architecture, tensors).unwrap();
        let batch = &case.batches[0];
        let views = batch.groups.iter().flatten().chain(batch.pairs.iter().flatten());
        let features: Vec<_> = views.map(View::features).collect();
        let scores = scorer.score(&features.iter().collect::<Vec<_>>()).unwrap();
        comparison.values(&scores, &case.first.scores, "ŷ");
    });
}

/// ŝ itself is not public: the loss of one pair tells its difference.
#[test]
fn satisfaction_scores_of_pairs_differ_as_in_an_independent_program() {
    each_case_in_both_precisions(|case, dtype, comparison| {
        let trainer = case.trainer_at_first_step(dtype);
        let batch = &case.batches[0];
        let scores = &case.first.satisfaction_scores[batch.groups.iter().map(Vec::len).sum()..];
        for (pair, scores) in batch.pairs().into_iter().zip(scores.chunks(2)) {
            let (actual, _) = trainer.gradients_of(Loss::Satisfaction, &[], &[pair]).unwrap();
            let z = scores[1] - scores[0];
            comparison.values(&[actual], &[z.max(0.0) + (-z.abs()).exp().ln_1p()], "softplus(ŝ⁻ − ŝ⁺)");
        }
    });
}

#[test]
fn losses_and_gradients_are_those_of_an_independent_program() {
    each_case_in_both_precisions(|case, dtype, comparison| {
        let trainer = case.trainer_at_first_step(dtype);
        let batch = &case.batches[0];
        let first = &case.first;
        let losses = [
            (Loss::Main, "main", first.losses.main),
            (Loss::Satisfaction, "satisfaction", first.losses.satisfaction),
            (Loss::Dpo, "dpo", first.losses.dpo),
        ];
        for (loss, name, expected) in losses {
            let actual = trainer.gradients_of(loss, &batch.groups(), &batch.pairs());
            comparison.optional(actual.as_ref().map(|(value, _)| *value), expected, name);
            let Some((_, gradients)) = actual else { continue };
            let expected = &first.gradients[name];
            let reported: BTreeSet<_> = gradients.iter().map(|gradient| gradient.name.as_str()).collect();
            for name in expected.keys().filter(|name| !reported.contains(name.as_str())) {
                assert!(case.settings.adapter && is_backbone(name), "{}: no gradient by {name}", case.name);
            }
            for gradient in gradients {
                let what = format!("gradient of {name} by {}", gradient.name);
                let (actual, expected) = (case.whole_gradient(&gradient), &expected[&gradient.name]);
                let zeros = |values: &[f64]| values.iter().all(|value| *value == 0.0);
                assert!(!zeros(expected) || zeros(&actual), "{}: {what} is not exactly 0", case.name);
                comparison.values(&actual, expected, what);
            }
        }
    });
}

#[test]
fn steps_change_the_whole_state_as_in_an_independent_program() {
    each_case_in_both_precisions(|case, dtype, comparison| {
        let mut trainer = case.trainer(dtype);
        let mut offered = 0;
        for step in 1..=*case.after.keys().max().unwrap() {
            let batch = &case.batches[(step - 1) % case.batches.len()];
            if case.repeat_pairs || step <= case.batches.len() {
                for pair in batch.pairs() {
                    assert_eq!(trainer.offer_pair(&pair, learning::source(offered)), Offered::Taken);
                    offered += 1;
                }
            }
            let report = trainer.step(&batch.groups()).unwrap();
            if let Some(expected) = case.after.get(&step) {
                comparison.losses(&report, &expected.losses, step);
                comparison.state(&learning::checkpoint(&trainer), expected);
            }
        }
    });
}

#[test]
fn the_committed_numbers_are_what_their_generator_gives() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_str().expect("a path in UTF-8");
    python::python(include_str!("golden/generate.py"), &[path]);
    let read = |folder: &Path| -> BTreeMap<String, Value> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files
            .map(|file| {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let value = serde_json::from_str(&fs::read_to_string(&file).unwrap());
                (name, value.expect("JSON"))
            })
            .collect()
    };
    let (mut fresh, committed) = (read(folder.path()), read(&cases()));
    assert_eq!(fresh.keys().collect::<Vec<_>>(), committed.keys().collect::<Vec<_>>());
    let mut worst = 0.0;
    for (name, committed) in &committed {
        let fresh = fresh.remove(name).unwrap();
        for inputs in ["settings", "parameters", "batches", "repeat_pairs"] {
            assert_eq!(fresh.get(inputs), committed.get(inputs), "{name}: {inputs}");
        }
        same_numbers(&fresh, committed, name, &mut worst);
    }
    println!("largest deviation: {worst:.1e}");
}

/// The last bits differ from processor to processor.
fn same_numbers(fresh: &Value, committed: &Value, path: &str, worst: &mut f64) {
    match (fresh, committed) {
        (Value::Object(fresh), Value::Object(committed)) => {
            assert_eq!(
                fresh.keys().collect::<BTreeSet<_>>(),
                committed.keys().collect::<BTreeSet<_>>(),
                "{path}"
            );
            for (key, committed) in committed {
                same_numbers(&fresh[key], committed, &format!("{path}/{key}"), worst);
            }
        }
        (Value::Array(fresh), Value::Array(committed)) => {
            assert_eq!(fresh.len(), committed.len(), "{path}");
            for (index, (fresh, committed)) in fresh.iter().zip(committed).enumerate() {
                same_numbers(fresh, committed, &format!("{path}/{index}"), worst);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            let deviation = (a - b).abs() / b.abs().max(1.0);
            assert!(deviation <= 1e-12, "{path}: {a}, committed {b}");
            *worst = worst.max(deviation);
        }
        (fresh, committed) => assert_eq!(fresh, committed, "{path}"),
    }
}
