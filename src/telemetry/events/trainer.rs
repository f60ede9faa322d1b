use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tracing::{debug, error, info, warn};

use super::seconds_since;
use crate::telemetry::names;
use crate::telemetry::state::{TrainerState, state};

/// Another process may own the model; this one waits.
pub struct StandingBy<'a> {
    pub model: &'a str,
}

impl StandingBy<'_> {
    pub fn emit(self) {
        gauge!(names::TRAINER_OWNER).set(0.0);
        state().trainer_is(TrainerState::StandingBy);
        info!(model = self.model, "standing by until this process owns the model");
    }
}

/// This process holds the model's registry partition, and trains.
pub struct OwnershipGained<'a> {
    pub model: &'a str,
}

impl OwnershipGained<'_> {
    pub fn emit(self) {
        gauge!(names::TRAINER_OWNER).set(1.0);
        state().trainer_is(TrainerState::Loading { waits_for: None });
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
        state().trainer_is(TrainerState::Joining);
        info!(model = self.model, "this process no longer trains the model");
    }
}

/// Brokers gave no answer while training was about to begin; it is tried again until they do.
pub struct TrainingDelayed<'a> {
    pub model: &'a str,
    pub reason: &'a str,
}

impl TrainingDelayed<'_> {
    pub fn emit(self) {
        state().trainer_is(TrainerState::Loading { waits_for: Some(self.reason.to_owned()) });
        warn!(model = self.model, "training waits for the brokers: {}", self.reason);
    }
}

/// Everything is loaded; samples are learned from here on.
pub struct TrainingBegins<'a> {
    pub model: &'a str,
    /// The version that it goes on from.
    pub checkpoint: Option<u64>,
    pub step: u64,
}

impl TrainingBegins<'_> {
    pub fn emit(self) {
        state().trainer_is(TrainerState::Training);
        match self.checkpoint {
            Some(version) => {
                info!(model = self.model, version, step = self.step, "training goes on from a checkpoint");
            }
            None => info!(model = self.model, "training begins: the registry holds no checkpoint"),
        }
    }
}

/// The samples of a file are learned from here on.
pub struct FileTrainingBegins<'a> {
    pub path: &'a std::path::Path,
    /// Of the model that it goes on with; 0 of a new one.
    pub step: u64,
}

impl FileTrainingBegins<'_> {
    pub fn emit(self) {
        info!(samples = %self.path.display(), step = self.step, "training from a sample file begins");
    }
}

/// Records were gone before they were learned; training goes on behind them.
pub struct GapAccepted<'a> {
    pub topic: &'a str,
    pub partition: i32,
    /// From, and up to without.
    pub offsets: (i64, i64),
}

impl GapAccepted<'_> {
    pub fn emit(self) {
        let Self { topic, partition, offsets: (from, until) } = self;
        let labels = [("topic", topic.to_owned()), ("partition", partition.to_string())];
        let lost = u64::try_from(until.saturating_sub(from)).unwrap_or(0);
        counter!(names::TRAINER_LOST_OFFSETS, &labels).increment(lost);
        warn!(
            topic,
            partition, from, until, "records were gone before they were learned; going on behind them"
        );
    }
}

/// The broker handed out a record again.
pub struct RecordRepeated<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
}

impl RecordRepeated<'_> {
    pub fn emit(self) {
        let Self { topic, partition, offset } = self;
        counter!(names::TRAINER_REPEATED_RECORDS, "topic" => topic.to_owned()).increment(1);
        error!(
            topic,
            partition, offset, "a record came twice and was dropped; please report this as a defect"
        );
    }
}

/// How far the trainer is behind in one input partition.
pub struct TrainerLag<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub records: u64,
    /// Unknown before the first record.
    pub seconds: Option<f64>,
}

impl TrainerLag<'_> {
    pub fn emit(self) {
        let labels = [("topic", self.topic.to_owned()), ("partition", self.partition.to_string())];
        gauge!(names::TRAINER_LAG_RECORDS, &labels).set(self.records as f64);
        counter!(names::TRAINER_LOST_OFFSETS, &labels).increment(0);
        if let Some(seconds) = self.seconds {
            gauge!(names::TRAINER_LAG_SECONDS, &labels).set(seconds);
        }
    }
}

/// How much was read of an input and not yet taken by training.
pub struct SamplesQueued<'a> {
    pub topic: &'a str,
    pub samples: usize,
}

impl SamplesQueued<'_> {
    pub fn emit(self) {
        gauge!(names::TRAINER_QUEUED, "topic" => self.topic.to_owned()).set(self.samples as f64);
        counter!(names::TRAINER_REPEATED_RECORDS, "topic" => self.topic.to_owned()).increment(0);
    }
}

/// Pairs whose answers readers are ranked with from now on.
pub struct AnswersInProduction<'a> {
    /// Event times of the pairs, Unix milliseconds.
    pub answered_ms: &'a [i64],
    pub now_ms: i64,
}

impl AnswersInProduction<'_> {
    pub fn emit(self) {
        let delays = histogram!(names::TRAINER_ANSWER_PRODUCTION_SECONDS);
        self.answered_ms.iter().for_each(|then_ms| delays.record(seconds_since(*then_ms, self.now_ms)));
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

/// Parts of a batch that only the trainer could find wrong.
pub struct BatchPartsDropped {
    /// `group` or `view`.
    pub kind: &'static str,
    pub reason: &'static str,
    pub count: u64,
}

impl BatchPartsDropped {
    pub fn emit(self) {
        counter!(names::TRAINER_DROPPED, "kind" => self.kind, "reason" => self.reason).increment(self.count);
        warn!(count = self.count, "{} dropped: {}", self.kind, self.reason);
    }
}

/// One training step.
pub struct StepTrained<'a> {
    pub step: u64,
    pub groups: u64,
    pub pairs: u64,
    /// Size of the batch by kind of sample.
    pub batch: &'a [(&'static str, usize)],
    /// Samples learned since the model began, by kind.
    pub learned: &'a [(&'static str, u64)],
    pub elapsed: Duration,
    /// Losses by term.
    pub losses: &'a [(&'static str, f64)],
    /// Progressive win rates by model (`model`, `twin`) and kind (`behavior`, `preference`).
    pub win_rates: &'a [(&'static str, &'static str, f64)],
    /// λ2
    pub dpo_weight: f64,
    /// Share of the behavior pairs that alignment costs.
    pub behavior_cost: f64,
    /// Gradient norms by group of parameters, before clipping.
    pub gradient_norms: &'a [(&'static str, f64)],
    pub clipped: bool,
    pub drew_pairs: bool,
    /// Share of views per main expert whose gate was 0.
    pub dead_gates: &'a [f64],
    /// Mean gate per main expert.
    pub mean_gates: &'a [f64],
    /// Share of views with every gate at 0.
    pub all_gates_dead: f64,
    /// Scores by head (`main`, `satisfaction`) and statistic (`mean`, `min`).
    pub scores: &'a [(&'static str, &'static str, f64)],
    pub never_used_pairs: usize,
    pub used_pairs: usize,
    /// Per pair in the reservoir.
    pub mean_draws: f64,
    pub mean_age_steps: f64,
}

impl StepTrained<'_> {
    pub fn emit(self) {
        counter!(names::TRAIN_STEPS).increment(1);
        counter!(names::TRAINER_SAMPLES, "kind" => "group").increment(self.groups);
        counter!(names::TRAINER_SAMPLES, "kind" => "pair").increment(self.pairs);
        histogram!(names::TRAIN_STEP_SECONDS).record(self.elapsed);
        for (kind, samples) in self.batch {
            gauge!(names::TRAIN_BATCH, "kind" => *kind).set(*samples as f64);
        }
        for (kind, samples) in self.learned {
            gauge!(names::TRAIN_LEARNED, "kind" => *kind).set(*samples as f64);
        }
        for (term, loss) in self.losses {
            gauge!(names::TRAIN_LOSS, "term" => *term).set(*loss);
        }
        for (model, kind, rate) in self.win_rates {
            gauge!(names::TRAIN_WIN_RATE, "model" => *model, "kind" => *kind).set(*rate);
        }
        gauge!(names::TRAIN_DPO_WEIGHT).set(self.dpo_weight);
        gauge!(names::TRAIN_BEHAVIOR_COST).set(100.0 * self.behavior_cost);
        for (group, norm) in self.gradient_norms {
            gauge!(names::TRAIN_GRADIENT_NORM, "group" => *group).set(*norm);
        }
        self.emit_health();
        gauge!(names::TRAIN_RESERVOIR_PAIRS, "state" => "never_used").set(self.never_used_pairs as f64);
        gauge!(names::TRAIN_RESERVOIR_PAIRS, "state" => "used").set(self.used_pairs as f64);
        gauge!(names::TRAIN_RESERVOIR_DRAWS).set(self.mean_draws);
        gauge!(names::TRAIN_RESERVOIR_AGE).set(self.mean_age_steps);
        debug!(step = self.step, groups = self.groups, pairs = self.pairs, losses = ?self.losses, "step");
    }

    fn emit_health(&self) {
        counter!(names::TRAIN_CLIPPED_STEPS).increment(self.clipped.into());
        counter!(names::TRAIN_PREFERENCE_STEPS).increment(self.drew_pairs.into());
        for (expert, share) in self.dead_gates.iter().enumerate() {
            gauge!(names::TRAIN_DEAD_GATES, "expert" => expert.to_string()).set(*share);
        }
        for (expert, gate) in self.mean_gates.iter().enumerate() {
            gauge!(names::TRAIN_GATE, "expert" => expert.to_string()).set(*gate);
        }
        gauge!(names::TRAIN_DEAD_GATES, "expert" => "all").set(self.all_gates_dead);
        for (head, statistic, score) in self.scores {
            gauge!(names::TRAIN_SCORE, "head" => *head, "statistic" => *statistic).set(*score);
        }
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
