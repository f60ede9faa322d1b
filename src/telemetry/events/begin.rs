//! What begins, and which counters exist from then on.
//!
//! Prometheus sees a counter rise only from a value that it has scraped. One that appears with its
//! first event hides just that one from `increase`, and so from every alert.

use metrics::{counter, gauge};
use tracing::debug;

use crate::telemetry::names;

/// A joiner's instances start.
pub struct JoinerBegins {
    pub instances: usize,
    /// Of each input of a partition (`join.max_waiting_bytes`).
    pub max_waiting_bytes: usize,
}

impl JoinerBegins {
    pub fn emit(self) {
        gauge!(names::JOIN_MAX_WAITING_BYTES).set(self.max_waiting_bytes as f64);
        for result in ["committed", "aborted"] {
            counter!(names::JOINER_TRANSACTIONS, "result" => result).increment(0);
        }
        for kind in ["assigned", "revoked", "lost"] {
            counter!(names::JOINER_REBALANCES, "kind" => kind).increment(0);
        }
        for instance in 0..self.instances {
            counter!(names::JOINER_DROPPED_RECORDS, "instance" => instance.to_string()).increment(0);
        }
        debug!(instances = self.instances, "joiner begins");
    }
}

/// A process is there to train, at once or later.
pub struct TrainerBegins<'a> {
    /// Tests of the gate.
    pub tests: &'a [&'static str],
    /// Why samples are dropped.
    pub reasons: &'a [&'static str],
}

impl TrainerBegins<'_> {
    pub fn emit(self) {
        gauge!(names::TRAINER_OWNER).set(0.0);
        for name in [
            names::TRAIN_STEPS,
            names::TRAIN_SKIPPED_BATCHES,
            names::TRAIN_CLIPPED_STEPS,
            names::TRAIN_PREFERENCE_STEPS,
            names::PUBLISH_ABORTS,
            names::GATE_ROLLBACKS,
        ] {
            counter!(name).increment(0);
        }
        for kind in ["serving", "checkpoint"] {
            counter!(names::PUBLISH_VERSIONS, "kind" => kind).increment(0);
        }
        for result in ["passed", "refused"] {
            counter!(names::GATE_DECISIONS, "result" => result).increment(0);
        }
        for test in self.tests {
            counter!(names::GATE_REFUSALS, "test" => *test).increment(0);
        }
        for kind in ["group", "pair"] {
            counter!(names::GATE_HELD_OUT, "kind" => kind).increment(0);
            counter!(names::TRAINER_SAMPLES, "kind" => kind).increment(0);
        }
        for kind in ["group", "view", "pair"] {
            for reason in self.reasons {
                counter!(names::TRAINER_DROPPED, "kind" => kind, "reason" => *reason).increment(0);
            }
        }
        debug!("trainer begins");
    }
}

/// The trainer begins to read an input.
pub struct TrainerReads<'a> {
    pub topic: &'a str,
    pub partitions: &'a [i32],
}

impl TrainerReads<'_> {
    pub fn emit(self) {
        let Self { topic, partitions } = self;
        counter!(names::TRAINER_REPEATED_RECORDS, "topic" => topic.to_owned()).increment(0);
        for partition in partitions {
            let labels = [("topic", topic.to_owned()), ("partition", partition.to_string())];
            counter!(names::TRAINER_LOST_OFFSETS, &labels).increment(0);
        }
        debug!(topic, ?partitions, "trainer reads");
    }
}

/// A follower starts.
pub struct FollowerBegins<'a> {
    /// Kinds of faults for which a version is refused.
    pub refusals: &'a [&'static str],
}

impl FollowerBegins<'_> {
    pub fn emit(self) {
        for reason in self.refusals {
            counter!(names::FOLLOWER_REFUSED, "reason" => *reason).increment(0);
        }
        debug!("follower begins");
    }
}
