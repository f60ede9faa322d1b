//! How each topic must be set, and what is wrong with one that exists. Pure.

use std::collections::BTreeMap;

use super::Finding;
use crate::settings::Settings;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Room for keys, headers and the batch around a record.
const HEADROOM_BYTES: usize = 64 * 1024;
/// What a topic takes where nobody has said otherwise (`message.max.bytes` of the broker).
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// What stands in a topic, hence who says how it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The user's own; easq only checks it.
    Input,
    /// Written by the joiner, one partition per input partition.
    Output,
    /// Pages of a model, trimmed by the publisher.
    Pages,
    /// Manifests and pointers of a model, compacted.
    Registry,
}

/// What easq needs of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) partitions: i32,
    /// `retention.ms` of a new topic; `None`: the broker's default; -1: for ever.
    pub(super) retention_ms: Option<i64>,
    /// Less than this loses records that are still needed.
    pub(super) min_retention_ms: i64,
    /// The largest record that is written to it, with headroom.
    pub(super) record_bytes: usize,
}

impl Wanted {
    fn cleanup_policy(&self) -> &'static str {
        match self.role {
            Role::Registry => "compact",
            Role::Input | Role::Output | Role::Pages => "delete",
        }
    }

    /// Settings of the topic when easq creates it.
    pub(super) fn config(&self, replicas: usize) -> BTreeMap<&'static str, String> {
        let mut config = BTreeMap::from([("cleanup.policy", self.cleanup_policy().to_owned())]);
        if let Some(retention_ms) = self.retention_ms {
            config.insert("retention.ms", retention_ms.to_string());
        }
        if self.role == Role::Pages {
            config.insert("retention.bytes", "-1".to_owned());
        }
        if self.record_bytes > DEFAULT_MAX_MESSAGE_BYTES {
            config.insert("max.message.bytes", self.record_bytes.to_string());
        }
        config.insert("min.insync.replicas", if replicas >= 3 { "2" } else { "1" }.to_owned());
        config
    }
}

/// How many replicas a new topic gets: three where there are as many brokers.
pub(super) fn replicas(brokers: usize) -> usize {
    brokers.clamp(1, 3)
}

/// The two inputs.
pub(super) fn inputs(settings: &Settings, partitions: i32) -> Vec<Wanted> {
    let min_retention_ms = settings.join.window_ms + settings.join.allowed_lateness_ms;
    [&settings.topics.behavior, &settings.topics.responses]
        .map(|name| Wanted {
            name: name.clone(),
            role: Role::Input,
            partitions,
            retention_ms: None,
            min_retention_ms,
            record_bytes: settings.input.max_record_bytes + HEADROOM_BYTES,
        })
        .into()
}

/// What the joiner and the trainer write, for inputs of `partitions` partitions.
pub(super) fn outputs(settings: &Settings, partitions: i32) -> Vec<Wanted> {
    let topics = &settings.topics;
    let horizon_ms = settings.join.pair_horizon_ms;
    let output = |name, days, min_retention_ms, record_bytes| {
        output(partitions, name, days, min_retention_ms, record_bytes)
    };
    let mut outputs = vec![
        output(&topics.behavior_groups, 3, 0, settings.join.max_group_bytes + HEADROOM_BYTES),
        output(&topics.labelled_views, 30, horizon_ms, label_bytes(settings)),
        preference_pairs(settings, partitions),
        output(&topics.late, 14, 0, settings.input.max_record_bytes + HEADROOM_BYTES),
        output(&topics.dead_letters, 14, 0, settings.input.max_record_bytes + HEADROOM_BYTES),
    ];
    outputs.extend(of_model(settings));
    outputs
}

/// Where the joiner writes pairs.
pub(super) fn preference_pairs(settings: &Settings, partitions: i32) -> Wanted {
    let horizon_ms = settings.join.pair_horizon_ms;
    output(partitions, &settings.topics.preference_pairs, 30, horizon_ms, 2 * label_bytes(settings))
}

fn label_bytes(settings: &Settings) -> usize {
    2 * settings.input.max_record_bytes + HEADROOM_BYTES
}

fn output(
    partitions: i32,
    name: &str,
    retention_days: i64,
    min_retention_ms: i64,
    record_bytes: usize,
) -> Wanted {
    Wanted {
        name: name.to_owned(),
        role: Role::Output,
        partitions,
        retention_ms: Some((retention_days * DAY_MS).max(min_retention_ms)),
        min_retention_ms,
        record_bytes,
    }
}

/// The two topics of the model that the settings name.
pub(super) fn of_model(settings: &Settings) -> [Wanted; 2] {
    let topics = &settings.topics;
    let model = |name: String, role: Role, retention_ms: Option<i64>, record_bytes: usize| Wanted {
        name,
        role,
        partitions: 1,
        retention_ms,
        min_retention_ms: 0,
        record_bytes,
    };
    let name = &settings.model.name;
    [
        model(topics.model(name), Role::Pages, Some(-1), settings.publish.page_bytes + HEADROOM_BYTES),
        model(topics.registry(name), Role::Registry, None, DEFAULT_MAX_MESSAGE_BYTES),
    ]
}

/// A topic as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Described {
    pub(super) partitions: i32,
    /// The fewest replicas that a partition has.
    pub(super) replicas: usize,
    /// Effective settings of the topic.
    pub(super) config: BTreeMap<String, String>,
}

impl Described {
    fn text(&self, key: &str) -> &str {
        self.config.get(key).map_or("", String::as_str)
    }

    /// A numeric setting; `None` when the cluster does not tell it.
    fn number(&self, key: &str) -> Option<i64> {
        self.text(key).parse().ok()
    }
}

/// Everything that is wrong with one topic, in a cluster of `brokers` brokers.
pub(super) fn judge(wanted: &Wanted, found: Option<&Described>, brokers: usize) -> Vec<Finding> {
    let Some(found) = found else {
        let create = if wanted.role == Role::Input { "topics create --inputs" } else { "topics create" };
        return vec![finding(wanted, "does not exist".to_owned(), format!("run `easq {create}`"))];
    };
    [partitions(wanted, found), cleanup(wanted, found), retention(wanted, found), size(wanted, found)]
        .into_iter()
        .chain([replication(wanted, found, brokers), insync(wanted, found)])
        .flatten()
        .collect()
}

fn finding(wanted: &Wanted, problem: String, remedy: String) -> Finding {
    Finding { topic: wanted.name.clone(), problem, remedy }
}

fn set(wanted: &Wanted, key: &str, value: impl std::fmt::Display) -> String {
    format!(
        "run `kafka-configs.sh --alter --entity-type topics --entity-name {} --add-config {key}={value}`",
        wanted.name
    )
}

fn partitions(wanted: &Wanted, found: &Described) -> Option<Finding> {
    if found.partitions == wanted.partitions {
        return None;
    }
    let why = match wanted.role {
        Role::Input => "views and responses of one user would not meet",
        Role::Output => "records of one input partition share one partition here",
        Role::Pages | Role::Registry => "a model is one ordered log",
    };
    let problem = format!("has {} partitions instead of {}: {why}", found.partitions, wanted.partitions);
    let remedy = if found.partitions < wanted.partitions && wanted.role != Role::Input {
        format!("run `kafka-topics.sh --alter --topic {} --partitions {}`", wanted.name, wanted.partitions)
    } else {
        "create it anew with that many; records keep the partition that they were written to".to_owned()
    };
    Some(finding(wanted, problem, remedy))
}

fn cleanup(wanted: &Wanted, found: &Described) -> Option<Finding> {
    let (is, want) = (found.text("cleanup.policy"), wanted.cleanup_policy());
    (!is.is_empty() && is != want).then(|| {
        let problem = match wanted.role {
            Role::Registry => format!("cleanup.policy is {is}: time would remove manifests that are in use"),
            _ => format!("cleanup.policy is {is}: compaction would keep one record per key"),
        };
        finding(wanted, problem, set(wanted, "cleanup.policy", want))
    })
}

fn retention(wanted: &Wanted, found: &Described) -> Option<Finding> {
    if wanted.role == Role::Pages {
        let limited = ["retention.ms", "retention.bytes"]
            .into_iter()
            .find(|key| found.number(key).is_some_and(|n| n >= 0))?;
        let problem =
            format!("{limited} is {}: pages of versions in use would be deleted", found.text(limited));
        return Some(finding(wanted, problem, set(wanted, limited, -1)));
    }
    let is = found.number("retention.ms")?;
    (is >= 0 && is < wanted.min_retention_ms).then(|| {
        let needed = wanted.min_retention_ms;
        let problem = match wanted.role {
            Role::Input => format!(
                "retention.ms is {is}, less than join.window_ms + join.allowed_lateness_ms = {needed}: after a \
                 restart, waiting records could not be read again"
            ),
            _ => format!("retention.ms is {is}, less than join.pair_horizon_ms = {needed}: partners would be gone"),
        };
        finding(wanted, problem, set(wanted, "retention.ms", needed))
    })
}

fn size(wanted: &Wanted, found: &Described) -> Option<Finding> {
    if wanted.role == Role::Input {
        return None;
    }
    let is = found.number("max.message.bytes")?;
    let needed = i64::try_from(wanted.record_bytes).unwrap_or(i64::MAX);
    (is < needed).then(|| {
        let problem = format!("max.message.bytes is {is}, and records of up to {needed} bytes are written");
        finding(wanted, problem, set(wanted, "max.message.bytes", needed))
    })
}

fn replication(wanted: &Wanted, found: &Described, brokers: usize) -> Option<Finding> {
    let sensible = replicas(brokers);
    (found.replicas < sensible).then(|| {
        let problem = format!(
            "has {} replicas on {brokers} brokers: a lost broker can take records with it",
            found.replicas
        );
        let remedy = format!("give it {sensible} with kafka-reassign-partitions.sh");
        finding(wanted, problem, remedy)
    })
}

fn insync(wanted: &Wanted, found: &Described) -> Option<Finding> {
    let is = usize::try_from(found.number("min.insync.replicas")?).ok()?;
    (is > found.replicas).then(|| {
        let problem =
            format!("min.insync.replicas is {is} with {} replicas: no write succeeds", found.replicas);
        finding(wanted, problem, set(wanted, "min.insync.replicas", found.replicas))
    })
}

#[cfg(test)]
mod tests;
