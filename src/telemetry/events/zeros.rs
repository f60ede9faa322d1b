//! Counters from their first moment on: what has never happened is shown as 0, so that the first time
//! is seen as an increase. Partitions come to them as they are assigned.

use metrics::{counter, gauge, histogram};

use crate::telemetry::names;
use crate::telemetry::state::Role;

/// A counter with one label, and the label's values.
type Counter = (&'static str, &'static str, &'static [&'static str]);

const OF_JOINER: &[Counter] = &[
    (names::JOINER_TRANSACTIONS, "result", &["committed", "aborted"]),
    (names::JOINER_REBALANCES, "kind", &["assigned", "revoked", "lost"]),
];

const OF_TRAINER: &[Counter] = &[
    (names::TRAINER_SAMPLES, "kind", &["group", "pair"]),
    (names::PUBLISH_VERSIONS, "kind", &["serving", "checkpoint"]),
    (names::PUBLISH_PAGES, "state", &["written", "reused"]),
    (names::PUBLISH_BYTES, "state", &["written", "reused"]),
    (names::GATE_DECISIONS, "result", &["passed", "refused"]),
    (
        names::GATE_REFUSALS,
        "test",
        &["finite", "offsets", "stream", "preference", "behavior", "rank_correlation"],
    ),
    (names::GATE_HELD_OUT, "kind", &["group", "pair"]),
];

const OF_FOLLOWER: &[Counter] = &[
    (names::FOLLOWER_PAGES, "state", &["read", "reused"]),
    (names::FOLLOWER_BYTES, "state", &["read", "reused"]),
    (
        names::FOLLOWER_REFUSED,
        "reason",
        &[
            "no_manifest",
            "wrong_manifest",
            "newer_format",
            "other_model",
            "missing_page",
            "wrong_page",
            "disk",
            "other",
        ],
    ),
];

/// Counters of the trainer without labels.
const OF_TRAINING: [&str; 6] = [
    names::TRAIN_STEPS,
    names::TRAIN_SKIPPED_BATCHES,
    names::TRAIN_CLIPPED_STEPS,
    names::TRAIN_PREFERENCE_STEPS,
    names::PUBLISH_ABORTS,
    names::GATE_ROLLBACKS,
];

/// What training can refuse, and why.
const DROPPED: [(&str, &[&str]); 3] = [
    ("group", &["undecodable", "group_too_small"]),
    (
        "view",
        &[
            "missing_features",
            "schema_version",
            "dense_length",
            "non_finite_feature",
            "non_finite_reward",
            "missing_reward_signal",
        ],
    ),
    (
        "pair",
        &[
            "undecodable",
            "incomplete_pair",
            "missing_features",
            "schema_version",
            "dense_length",
            "non_finite_feature",
        ],
    ),
];

/// Shows what a role counts, before it counts anything.
pub(super) fn show(role: Role, joiner_instances: usize) {
    let (counters, histograms): (&[Counter], &[&'static str]) = match role {
        Role::Joiner => (
            OF_JOINER,
            &[
                names::JOINER_TRANSACTION_SECONDS,
                names::JOINER_RECOVERY_SECONDS,
                names::JOINER_REBALANCE_SECONDS,
                names::JOINER_LABEL_SECONDS,
                names::JOINER_ANSWER_LABEL_SECONDS,
            ],
        ),
        Role::Trainer => (
            OF_TRAINER,
            &[names::TRAIN_STEP_SECONDS, names::TRAINER_ANSWER_PRODUCTION_SECONDS, names::PUBLISH_SECONDS],
        ),
        Role::Follower => (OF_FOLLOWER, &[names::FOLLOWER_DELAY]),
    };
    for (name, label, values) in counters {
        values.iter().for_each(|value| counter!(*name, *label => *value).increment(0));
    }
    for name in histograms {
        let _ = histogram!(*name);
    }
    match role {
        Role::Joiner => (0..joiner_instances).for_each(show_instance),
        Role::Trainer => show_training(),
        Role::Follower => {}
    }
}

fn show_instance(instance: usize) {
    let instance = instance.to_string();
    counter!(names::JOINER_DROPPED_RECORDS, "instance" => instance.clone()).increment(0);
    gauge!(names::JOINER_PARTITIONS, "instance" => instance.clone()).set(0.0);
    gauge!(names::JOINER_RECOVERING, "instance" => instance).set(0.0);
}

fn show_training() {
    gauge!(names::TRAINER_OWNER).set(0.0);
    for name in OF_TRAINING {
        counter!(name).increment(0);
    }
    for (kind, reasons) in DROPPED {
        for reason in reasons {
            counter!(names::TRAINER_DROPPED, "kind" => kind, "reason" => *reason).increment(0);
        }
    }
}
