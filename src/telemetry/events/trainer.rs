use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tracing::{debug, info, warn};

use crate::telemetry::names;

/// This process holds the model's registry partition, and trains.
pub struct OwnershipGained<'a> {
    pub model: &'a str,
}

impl OwnershipGained<'_> {
    pub fn emit(self) {
        gauge!(names::TRAINER_OWNER).set(1.0);
        info!(model = self.model, "this process trains the model");
    }
}

/// Another process trains the model, or will.
pub struct OwnershipLost<'a> {
    pub model: &'a str,
}

impl OwnershipLost<'_> {
    pub fn emit(self) {
        gauge!(names::TRAINER_OWNER).set(0.0);
        info!(model = self.model, "this process no longer trains the model");
    }
}

/// How far the trainer is behind in one input partition.
pub struct TrainerLag<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub records: u64,
}

impl TrainerLag<'_> {
    pub fn emit(self) {
        let labels = [("topic", self.topic.to_owned()), ("partition", self.partition.to_string())];
        gauge!(names::TRAINER_LAG_RECORDS, &labels).set(self.records as f64);
    }
}

/// A sample that only the trainer could find wrong.
pub struct SampleDropped<'a> {
    /// `group`, `view` or `pair`.
    pub kind: &'static str,
    pub reason: &'static str,
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
}

impl SampleDropped<'_> {
    pub fn emit(self) {
        counter!(names::TRAINER_DROPPED, "kind" => self.kind, "reason" => self.reason).increment(1);
        warn!(
            topic = self.topic,
            partition = self.partition,
            offset = self.offset,
            "{} dropped: {}",
            self.kind,
            self.reason
        );
    }
}

/// One training step.
pub struct StepTrained<'a> {
    pub step: u64,
    pub groups: u64,
    pub pairs: u64,
    pub elapsed: Duration,
    /// Losses by term.
    pub losses: &'a [(&'static str, f64)],
    /// Progressive win rates by model (`model`, `twin`) and kind (`behavior`, `preference`).
    pub win_rates: &'a [(&'static str, &'static str, f64)],
    /// Gradient norms by group of parameters, before clipping.
    pub gradient_norms: &'a [(&'static str, f64)],
    pub never_used_pairs: usize,
    pub used_pairs: usize,
}

impl StepTrained<'_> {
    pub fn emit(self) {
        counter!(names::TRAIN_STEPS).increment(1);
        counter!(names::TRAINER_SAMPLES, "kind" => "group").increment(self.groups);
        counter!(names::TRAINER_SAMPLES, "kind" => "pair").increment(self.pairs);
        histogram!(names::TRAIN_STEP_SECONDS).record(self.elapsed);
        for (term, loss) in self.losses {
            gauge!(names::TRAIN_LOSS, "term" => *term).set(*loss);
        }
        for (model, kind, rate) in self.win_rates {
            gauge!(names::TRAIN_WIN_RATE, "model" => *model, "kind" => *kind).set(*rate);
        }
        for (group, norm) in self.gradient_norms {
            gauge!(names::TRAIN_GRADIENT_NORM, "group" => *group).set(*norm);
        }
        gauge!(names::TRAIN_RESERVOIR_PAIRS, "state" => "never_used").set(self.never_used_pairs as f64);
        gauge!(names::TRAIN_RESERVOIR_PAIRS, "state" => "used").set(self.used_pairs as f64);
        debug!(step = self.step, groups = self.groups, pairs = self.pairs, losses = ?self.losses, "step");
    }
}

/// A batch whose loss or gradient was not finite; its offsets are recorded as skipped.
pub struct BatchSkipped<'a> {
    pub reason: &'a str,
    /// Skipped without a good one in between.
    pub in_a_row: u32,
}

impl BatchSkipped<'_> {
    pub fn emit(self) {
        counter!(names::TRAIN_SKIPPED_BATCHES).increment(1);
        warn!(in_a_row = self.in_a_row, "batch skipped: {}", self.reason);
    }
}
