//! What a person can set: embedded defaults, then a file, then the environment, then flags.
//!
//! [`Settings`] from [`load`] have passed every check, so the stages take them at their word. The
//! meaning of each key stands beside its default in `default.toml`.

#![allow(missing_docs, reason = "default.toml says what each setting means")]

mod check;
mod fault;
mod load;
mod properties;
mod show;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use fault::{Fault, Faults};
pub use load::{PropertyFault, Sources, load};
pub use properties::controlled_property;
pub use show::show;

/// The defaults, which are also the list of the keys that exist.
pub const DEFAULTS: &str = include_str!("default.toml");

/// What is wrong with the model's name and the names of the topics, where a program has put one of them
/// together; in words.
pub(crate) fn names_problem(settings: &Settings) -> Option<String> {
    check::names(settings)
}

/// Why this cannot be the name of a topic; in words.
pub(crate) fn topic_problem(name: &str) -> Option<&'static str> {
    (!check::is_topic(name)).then_some(check::TOPIC_RULE)
}

/// One field per section, one field of that per key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub kafka: Kafka,
    pub topics: Topics,
    pub input: Input,
    pub features: Features,
    pub reward: Reward,
    pub join: Join,
    pub joiner: Joiner,
    pub model: Model,
    pub train: Train,
    pub publish: Publish,
    pub gate: Gate,
    pub telemetry: Telemetry,
    pub simulate: Simulate,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    pub bootstrap_servers: String,
    pub client_id: String,
    /// librdkafka properties for every client.
    #[serde(deserialize_with = "properties::deserialize")]
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for Kafka {
    /// Without the values of properties that may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client_id", &self.client_id)
            .field("properties", &properties::redacted(&self.properties))
            .finish()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    pub behavior: String,
    pub responses: String,
    pub labelled_views: String,
    pub preference_pairs: String,
    pub behavior_groups: String,
    pub late: String,
    pub dead_letters: String,
    pub model_prefix: String,
    pub registry_prefix: String,
}

impl Topics {
    /// The topics with the partitions of the inputs, both of them first, each with its key in the settings.
    pub fn partitioned(&self) -> [(&'static str, &str); 7] {
        [
            ("topics.behavior", &self.behavior),
            ("topics.responses", &self.responses),
            ("topics.labelled_views", &self.labelled_views),
            ("topics.preference_pairs", &self.preference_pairs),
            ("topics.behavior_groups", &self.behavior_groups),
            ("topics.late", &self.late),
            ("topics.dead_letters", &self.dead_letters),
        ]
    }

    /// The topic of a model's pages.
    pub fn model(&self, model: &str) -> String {
        format!("{}.{model}", self.model_prefix)
    }

    /// The compacted topic of a model's manifests and pointers.
    pub fn registry(&self, model: &str) -> String {
        format!("{}.{model}", self.registry_prefix)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub start: String,
    pub partitioner: Partitioner,
    pub max_record_bytes: usize,
    pub max_clock_skew_ms: i64,
    pub mis_keyed_sample_records: u64,
    pub mis_keyed_max_ratio: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    Murmur2Random,
    ConsistentRandom,
}

impl std::fmt::Display for Partitioner {
    /// As a person writes it in the settings.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Murmur2Random => "murmur2_random",
            Self::ConsistentRandom => "consistent_random",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    pub schema_version: u32,
    pub dense: Vec<String>,
    pub sparse: Vec<SparseField>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseField {
    pub field: u32,
    pub name: String,
    pub rows: u64,
    pub dim: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    pub signal: String,
    pub watch_ratio: f64,
    pub watch_ratio_cap: f64,
    pub long_view: f64,
    pub long_view_ms: u32,
    pub liked: f64,
    pub followed: f64,
    pub commented: f64,
    pub forwarded: f64,
    pub disliked: f64,
    pub margin: f64,
    pub other: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub window_ms: i64,
    pub allowed_lateness_ms: i64,
    pub idle_after_ms: u64,
    pub max_lead_ms: i64,
    pub trigger_watched_ms: u32,
    pub trigger_watched_ratio: f64,
    pub group_span_ms: i64,
    pub max_group_views: usize,
    pub max_group_bytes: usize,
    pub behavior_sample_rate: f64,
    pub pair_lookback: usize,
    pub ring_size: usize,
    pub pair_horizon_ms: i64,
    pub max_pairs_per_label: usize,
    pub max_scenario_pairs: usize,
    pub pair_scopes: Vec<Scope>,
    pub uncertain: Uncertain,
    pub max_waiting_records: usize,
    pub max_waiting_bytes: usize,
}

/// Which two labelled views may be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    SameUser,
    SameScenario,
}

/// What becomes of uncertain answers in pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uncertain {
    /// No pairs.
    Ignore,
    /// Satisfied > uncertain > dissatisfied.
    Middle,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joiner {
    pub instances: usize,
    pub group: String,
    pub instance_id: String,
    pub commit_interval_ms: u64,
    pub poll_records: usize,
    pub session_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
    pub max_poll_interval_ms: u64,
    pub transaction_timeout_ms: u64,
    pub drain_deadline_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    pub hidden_dim: u32,
    pub expert_dim: u32,
    pub main_experts: u32,
    pub satisfaction_experts: u32,
    pub lora_rank: u32,
    pub lora_alpha: f64,
    pub inject_lora: bool,
    pub backbone: String,
    pub seed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    pub device: String,
    pub intra_op_threads: usize,
    pub batch_groups: usize,
    pub batch_age_ms: u64,
    pub learning_rate: f64,
    pub lora_learning_rate: f64,
    pub embedding_learning_rate: f64,
    pub embedding_std: f64,
    pub clip_norm: f64,
    pub dpo: Dpo,
    pub dpo_beta: f64,
    pub dpo_offset: f64,
    pub satisfaction_weight: f64,
    pub dpo_weight: f64,
    pub price_control: Switch,
    pub behavior_budget_points: f64,
    pub reservoir_pairs: usize,
    pub reservoir_batch_pairs: usize,
    /// `auto` or a number of draws.
    pub reservoir_reuse: String,
    pub normalizer_views: u64,
    pub progressive_pairs: usize,
    pub max_bad_batches: u32,
    pub queued_samples: usize,
    pub gap: Gap,
    pub instance_id: String,
    pub session_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
    pub hang_timeout_ms: u64,
}

/// The form of L_DPO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dpo {
    /// On all pairs of the live main batch, labelled by the satisfaction head.
    Live,
    /// On the drawn preference pairs, as printed in the paper.
    Pairs,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    On,
    Off,
}

/// What the trainer does about input offsets that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    Error,
    Accept,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    pub interval_ms: u64,
    pub checkpoint_interval_ms: u64,
    pub page_bytes: usize,
    pub keep_versions: usize,
    pub trim: bool,
    pub transaction_timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub warmup_steps: u64,
    pub window: usize,
    pub min_answers: u64,
    pub tolerance_points: f64,
    pub min_rank_correlation: f64,
    pub anchor_age_ms: u64,
    pub stream_window: usize,
    pub stream_drop_points: f64,
    pub feature_band: f64,
    pub rollback_after: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub listen: String,
    pub unready_after_ms: u64,
    pub log_format: LogFormat,
    pub log_filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulate {
    pub seed: u64,
    pub users: usize,
    pub videos: usize,
    pub authors: usize,
    pub topics: usize,
    pub scenarios: usize,
    pub preset: Preset,
}

/// The synthetic world's variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    Dense,
    Sparse,
    Mild,
    Drift,
}

impl Default for Settings {
    /// The embedded defaults.
    fn default() -> Self {
        load(&Sources::default(), |_, _| None).expect("the embedded defaults are valid")
    }
}

#[cfg(test)]
mod tests;
