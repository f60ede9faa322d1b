//! What the model is and how it learns.

use super::Findings;
use crate::settings::{Dpo, Settings, SparseField};

const MIN_HANG_TIMEOUT_MS: u64 = 1_000;

pub(super) fn features(settings: &Settings, findings: &mut Findings) {
    let features = &settings.features;
    findings.distinct(&features.dense, "features.dense");
    let has_names = features.dense.iter().all(|name| !name.is_empty());
    findings.require(has_names, "features.dense", "must not have an empty name");
    let problem = "must not be empty while features.sparse is: the model would see nothing";
    findings.require(!features.dense.is_empty() || !features.sparse.is_empty(), "features.dense", problem);

    let sparse = &features.sparse;
    findings.distinct(&sparse.iter().map(|field| field.field).collect::<Vec<_>>(), "features.sparse");
    findings.distinct(&sparse.iter().map(|field| &field.name).collect::<Vec<_>>(), "features.sparse");
    let problem = "must have a name of letters, digits or '_' in each field: it is part of a tensor's name";
    findings.require(sparse.iter().all(has_tensor_name), "features.sparse", problem);
    let has_size = |field: &SparseField| field.rows > 0 && field.dim > 0;
    findings.require(sparse.iter().all(has_size), "features.sparse", "must have rows and dim greater than 0");
}

fn has_tensor_name(field: &SparseField) -> bool {
    !field.name.is_empty() && field.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

pub(super) fn reward(settings: &Settings, findings: &mut Findings) {
    let reward = &settings.reward;
    findings.positive(reward.watch_ratio_cap, "reward.watch_ratio_cap");
    findings.not_negative(reward.margin, "reward.margin");
}

pub(super) fn model(settings: &Settings, findings: &mut Findings) {
    let model = &settings.model;
    findings.positive(model.hidden_dim, "model.hidden_dim");
    findings.positive(model.expert_dim, "model.expert_dim");
    findings.positive(model.main_experts, "model.main_experts");
    let is_smaller = (1..model.main_experts).contains(&model.satisfaction_experts);
    let problem = format!(
        "must be at least 1 and below model.main_experts ({}): answers are few, so their head is the smaller one",
        model.main_experts
    );
    findings.require(is_smaller, "model.satisfaction_experts", problem);
    let problem = format!("must be from 1 to model.hidden_dim ({})", model.hidden_dim);
    findings.require((1..=model.hidden_dim).contains(&model.lora_rank), "model.lora_rank", problem);
    findings.positive(model.lora_alpha, "model.lora_alpha");
}

pub(super) fn train(settings: &Settings, findings: &mut Findings) {
    let train = &settings.train;
    let problem = "must be auto, cpu, cuda or cuda: with a number";
    findings.require(is_device(&train.device), "train.device", problem);
    findings.positive(train.intra_op_threads, "train.intra_op_threads");
    findings.positive(train.batch_groups, "train.batch_groups");
    findings.positive(train.batch_age_ms, "train.batch_age_ms");
    let positive = [
        (train.learning_rate, "train.learning_rate"),
        (train.lora_learning_rate, "train.lora_learning_rate"),
        (train.embedding_learning_rate, "train.embedding_learning_rate"),
        (train.embedding_std, "train.embedding_std"),
        (train.clip_norm, "train.clip_norm"),
        (train.dpo_beta, "train.dpo_beta"),
    ];
    for (value, key) in positive {
        findings.positive(value, key);
    }
    findings.not_negative(train.dpo_offset, "train.dpo_offset");
    findings.not_negative(train.satisfaction_weight, "train.satisfaction_weight");
    findings.not_negative(train.dpo_weight, "train.dpo_weight");
    findings.positive(train.behavior_budget_points, "train.behavior_budget_points");
    reservoir(settings, findings);
    findings.positive(train.normalizer_views, "train.normalizer_views");
    findings.positive(train.progressive_pairs, "train.progressive_pairs");
    findings.positive(train.max_bad_batches, "train.max_bad_batches");
    findings.positive(train.queued_samples, "train.queued_samples");
    findings.session("train", train.session_timeout_ms, train.heartbeat_interval_ms);
    let problem = format!("must be at least {MIN_HANG_TIMEOUT_MS}: a step on a busy machine is no hang");
    findings.require(train.hang_timeout_ms >= MIN_HANG_TIMEOUT_MS, "train.hang_timeout_ms", problem);
}

fn reservoir(settings: &Settings, findings: &mut Findings) {
    let train = &settings.train;
    findings.positive(train.reservoir_batch_pairs, "train.reservoir_batch_pairs");
    let problem = format!("must be at least train.reservoir_batch_pairs ({})", train.reservoir_batch_pairs);
    findings.require(train.reservoir_pairs >= train.reservoir_batch_pairs, "train.reservoir_pairs", problem);
    let reuse = &*train.reservoir_reuse;
    let draws = reuse.parse::<u32>().ok();
    let is_reuse = reuse == "auto" || draws.is_some_and(|draws| draws > 0);
    findings.require(is_reuse, "train.reservoir_reuse", "must be \"auto\" or a number of draws from \"1\"");
    let is_replayed = train.dpo == Dpo::Pairs && draws.is_some_and(|draws| draws > 1);
    let problem = "must be \"auto\" or \"1\" while train.dpo is \"pairs\": pairs drawn again are memorized \
                   through the id embeddings, so the satisfaction head gets worse on pairs it has not seen, \
                   and behavior pays for it";
    findings.require(!is_replayed, "train.reservoir_reuse", problem);
}

fn is_device(device: &str) -> bool {
    let is_index = |index: &str| !index.is_empty() && index.chars().all(|c| c.is_ascii_digit());
    matches!(device, "auto" | "cpu" | "cuda") || device.strip_prefix("cuda:").is_some_and(is_index)
}
