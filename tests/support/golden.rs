//! What `golden/generate.py`, an independent program, calculated: the cases of `golden/cases` as they
//! are read. The program itself says what is in a file. Needs the module `learning` beside it.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use easq::contract::v1::{
    BehaviorEvent, BehaviorGroup, Engagement, Features, LabelledView, PreferencePair, SparseFeature,
};
use easq::model::{Dtype, HostTensor};
use easq::settings::{Dpo, Settings, SparseField, Switch};
use serde::Deserialize;

use crate::learning;

/// Cases of baselines and ablations: `golden_research.rs` compares them, each named as its method.
pub const RESEARCH: [&str; 6] =
    ["behavior-only", "imputation", "no-lora", "no-moe", "same-path-pairs", "same-path-reward"];

/// Parameters of the groups, as far as a case has them, in the order in which Adam's moments lie in
/// a checkpoint.
pub const MAIN_GROUP: [&str; 8] = [
    "projection.weight",
    "projection.bias",
    "main.gate.weight",
    "main.gate.bias",
    "main.experts.hidden.weight",
    "main.experts.hidden.bias",
    "main.experts.output.weight",
    "main.experts.output.bias",
];
pub const SATISFACTION_GROUP: [&str; 10] = [
    "imputation.projection.weight",
    "imputation.projection.bias",
    "projection.lora_A.weight",
    "projection.lora_B.weight",
    "satisfaction.gate.weight",
    "satisfaction.gate.bias",
    "satisfaction.experts.hidden.weight",
    "satisfaction.experts.hidden.bias",
    "satisfaction.experts.output.weight",
    "satisfaction.experts.output.bias",
];

/// Values by parameter name, row by row.
pub type Tensors = BTreeMap<String, Vec<f64>>;

#[derive(Deserialize)]
pub struct Case {
    #[serde(skip)]
    pub name: &'static str,
    pub settings: CaseSettings,
    pub parameters: BTreeMap<String, Shaped>,
    pub batches: Vec<Batch>,
    #[serde(default)]
    pub repeat_pairs: bool,
    pub first: First,
    pub after: BTreeMap<usize, State>,
}

#[derive(Deserialize)]
pub struct CaseSettings {
    pub dense: usize,
    pub fields: Vec<SparseField>,
    pub hidden_dim: u32,
    pub expert_dim: u32,
    pub lora_rank: u32,
    pub lora_alpha: f64,
    pub main_experts: u32,
    pub satisfaction_experts: u32,
    pub inject_lora: bool,
    pub dpo: Dpo,
    pub dpo_beta: f64,
    pub dpo_offset: f64,
    pub satisfaction_weight: f64,
    pub dpo_weight: f64,
    pub price_control: bool,
    pub behavior_budget_points: f64,
    pub learning_rate: f64,
    pub lora_learning_rate: f64,
    pub embedding_learning_rate: f64,
    pub clip_norm: f64,
    pub reward_margin: f64,
    pub normalizer_views: u64,
    pub reservoir_batch_pairs: usize,
    pub reservoir_reuse: u32,
    pub adapter: bool,
    pub method: String,
    pub method_weight: f64,
}

#[derive(Deserialize)]
pub struct Shaped {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

#[derive(Deserialize)]
pub struct Batch {
    pub groups: Vec<Vec<View>>,
    pub pairs: Vec<[View; 2]>,
}

#[derive(Deserialize)]
pub struct View {
    pub dense: Vec<f32>,
    pub sparse: Vec<(u32, Vec<u64>)>,
    pub reward: f32,
}

/// What the initial parameters give for batch 0, its pairs being the drawn ones.
#[derive(Deserialize)]
pub struct First {
    pub scores: Vec<f64>,
    pub satisfaction_scores: Vec<f64>,
    pub losses: Losses,
    pub gradients: BTreeMap<String, Tensors>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Losses {
    pub main: Option<f64>,
    pub satisfaction: Option<f64>,
    pub dpo: Option<f64>,
    /// Of one method only.
    #[serde(default)]
    pub same_path: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub parameters: Tensors,
    pub main_adam: AdamState,
    pub satisfaction_adam: AdamState,
    /// Of no table in adapter mode.
    #[serde(default)]
    pub adagrad: Tensors,
    pub twin: TwinState,
    /// With price control.
    pub lambda2: Option<f64>,
    pub ew: Option<f64>,
    pub losses: Losses,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwinState {
    pub parameters: Tensors,
    pub main_adam: AdamState,
    #[serde(default)]
    pub adagrad: Tensors,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamState {
    pub steps: i64,
    pub m: Tensors,
    pub v: Tensors,
}

impl View {
    pub fn features(&self) -> Features {
        let sparse = |(field, ids): &(u32, Vec<u64>)| SparseFeature { field: *field, ids: ids.clone() };
        Features {
            dense: self.dense.clone(),
            sparse: self.sparse.iter().map(sparse).collect(),
            schema_version: 1,
        }
    }

    pub fn event(&self) -> BehaviorEvent {
        let other = BTreeMap::from([("value".to_owned(), self.reward)]);
        let engagement = Some(Engagement { other, ..Default::default() });
        BehaviorEvent { features: Some(self.features()), engagement, ..Default::default() }
    }
}

impl Batch {
    pub fn groups(&self) -> Vec<BehaviorGroup> {
        let group = |views: &Vec<View>| BehaviorGroup {
            views: views.iter().map(View::event).collect(),
            ..Default::default()
        };
        self.groups.iter().map(group).collect()
    }

    /// With what the views were worth: one method reads it.
    pub fn pairs(&self) -> Vec<PreferencePair> {
        let labelled = |view: &View| Some(LabelledView { view: Some(view.event()), ..Default::default() });
        let pair = |[chosen, rejected]: &[View; 2]| PreferencePair {
            chosen: labelled(chosen),
            rejected: labelled(rejected),
            ..Default::default()
        };
        self.pairs.iter().map(pair).collect()
    }
}

impl Case {
    pub fn load(name: &'static str) -> Case {
        let file = cases().join(format!("{name}.json"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let case: Case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        Case { name, ..case }
    }

    pub fn settings(&self) -> Settings {
        let case = &self.settings;
        let mut settings = learning::settings(case.dpo);
        settings.features.dense = (0..case.dense).map(|index| format!("dense_{index}")).collect();
        settings.features.sparse = case.fields.clone();
        settings.reward.margin = case.reward_margin;
        let model = &mut settings.model;
        (model.hidden_dim, model.expert_dim) = (case.hidden_dim, case.expert_dim);
        (model.lora_rank, model.lora_alpha) = (case.lora_rank, case.lora_alpha);
        (model.main_experts, model.satisfaction_experts) = (case.main_experts, case.satisfaction_experts);
        model.inject_lora = case.inject_lora;
        model.backbone = if case.adapter { "made elsewhere".into() } else { String::new() };
        let train = &mut settings.train;
        (train.dpo_beta, train.dpo_offset) = (case.dpo_beta, case.dpo_offset);
        (train.satisfaction_weight, train.dpo_weight) = (case.satisfaction_weight, case.dpo_weight);
        train.price_control = if case.price_control { Switch::On } else { Switch::Off };
        train.behavior_budget_points = case.behavior_budget_points;
        (train.learning_rate, train.lora_learning_rate) = (case.learning_rate, case.lora_learning_rate);
        train.embedding_learning_rate = case.embedding_learning_rate;
        train.clip_norm = case.clip_norm;
        train.normalizer_views = case.normalizer_views;
        train.reservoir_batch_pairs = case.reservoir_batch_pairs;
        train.reservoir_reuse = case.reservoir_reuse.to_string();
        settings
    }
}

pub fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cases")
}

/// `values` in the precision `dtype`.
pub fn tensor(name: &str, shape: Vec<usize>, values: &[f64], dtype: Dtype) -> HostTensor {
    match dtype {
        Dtype::F64 => HostTensor::from_f64(name, shape, values),
        _ => {
            let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            HostTensor::from_f32(name, shape, &values)
        }
    }
}
