//! The loop of the one thread that owns libtorch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, never, select};

use crate::contract::v1::{self, VersionKind};
use crate::publish::{Candidate, Published};
use crate::settings::Settings;
use crate::supervise::{Beat, StopToken, failpoint};
use crate::telemetry::events::{SampleDropped, StepTrained};
use crate::train::batch::MicroBatcher;
use crate::train::{BadBatch, BadRun, DropReason, Offered, PairSource, StepReport, Trainer};

use super::answers::Answers;
use super::error::TrainerError;
use super::input::{Arrival, What};
use super::judged::Judged;
use super::progress::{Partition, Progress};
use super::schedule::Schedule;
use super::start::Learned;
use super::told;

/// How often a waiting loop looks at the stop.
const SLICE: Duration = Duration::from_millis(50);

const UNDECODABLE: &str = "undecodable";
const BAD_BATCH: &str = "a loss or gradient was not finite";

/// A group with where it came from.
type Queued = (Partition, i64, v1::BehaviorGroup);

/// Both ends of what the learner is connected to.
pub struct Connections {
    pub groups: Receiver<Arrival<v1::BehaviorGroup>>,
    pub pairs: Receiver<Arrival<v1::PreferencePair>>,
    /// One version at a time is with the publisher.
    pub candidates: Sender<Candidate>,
    pub published: Receiver<Published>,
    /// Moved by each turn, so that a step that never ends is noticed.
    pub beat: Beat,
    /// Ask for a clean end: a checkpoint, then return.
    pub stop: StopToken,
    /// Something failed or the model is lost: return at once.
    pub halt: StopToken,
}

/// Learns, and cuts versions between steps.
pub struct Learner {
    pub(super) connections: Connections,
    pub(super) trainer: Trainer,
    pub(super) progress: Progress,
    /// Where the sources of pairs lie.
    pair_topic: Arc<str>,
    pub(super) schedule: Schedule,
    batcher: MicroBatcher<Queued>,
    batch_age: Duration,
    last_step: Instant,
    pub(super) event_time_watermark_ms: i64,
    bad_batches: BadRun,
    pub(super) is_publishing: bool,
    pub(super) judged: Judged,
    pub(super) answers: Answers,
    pub(super) settings: Settings,
}

impl Learner {
    pub fn new(settings: &Settings, learned: Learned, connections: Connections) -> Self {
        let ms = Duration::from_millis;
        let publish = &settings.publish;
        let answers = Answers::resume(learned.trainer.reservoir().never_used);
        Self {
            connections,
            trainer: learned.trainer,
            progress: learned.progress,
            pair_topic: settings.topics.preference_pairs.as_str().into(),
            schedule: Schedule::new(
                ms(publish.interval_ms),
                ms(publish.checkpoint_interval_ms),
                learned.is_resumed,
                Instant::now(),
            ),
            batcher: MicroBatcher::new(settings.train.batch_groups, ms(settings.train.batch_age_ms)),
            batch_age: ms(settings.train.batch_age_ms),
            last_step: Instant::now(),
            event_time_watermark_ms: learned.event_time_watermark_ms,
            bad_batches: BadRun::new(settings.train.max_bad_batches),
            is_publishing: false,
            judged: Judged::resumed(learned.passed_step),
            answers,
            settings: settings.clone(),
        }
    }

    /// Learns until the stop, then publishes a checkpoint if there is anything to keep; or until the
    /// halt, without one.
    pub fn run(mut self) -> Result<(), TrainerError> {
        while !self.connections.stop.is_stopped() && !self.connections.halt.is_stopped() {
            self.connections.beat.beat();
            if let Some(batch) = self.batcher.poll(Instant::now()) {
                self.learn(batch)?;
            }
            self.learn_pairs_if_stuck()?;
            self.publish_if_due();
            self.receive()?;
        }
        self.publish_last()
    }

    /// Takes in one arrival, or waits until something else may be due.
    fn receive(&mut self) -> Result<(), TrainerError> {
        let timeout = self.timeout();
        // A full reservoir leaves the pairs where they are: the input waits.
        let no_pairs = never();
        let pairs = if self.trainer.is_full() { &no_pairs } else { &self.connections.pairs };
        select! {
            recv(self.connections.groups) -> group => match group {
                Ok(group) => self.take_group(group),
                Err(_) => self.disconnected(),
            },
            recv(pairs) -> pair => match pair {
                Ok(pair) => { self.take_pair(pair); Ok(()) }
                Err(_) => self.disconnected(),
            },
            recv(self.connections.published) -> published => match published {
                Ok(published) => self.published(published),
                Err(_) => self.disconnected(),
            },
            default(timeout) => Ok(()),
        }
    }

    fn timeout(&self) -> Duration {
        let now = Instant::now();
        let batch = self.batcher.deadline().map_or(SLICE, |deadline| deadline.saturating_duration_since(now));
        batch.min(SLICE)
    }

    /// Another thread ended first; it says why.
    fn disconnected(&self) -> Result<(), TrainerError> {
        self.connections.halt.stop();
        Ok(())
    }

    fn take_group(&mut self, arrival: Arrival<v1::BehaviorGroup>) -> Result<(), TrainerError> {
        let Arrival { partition, what } = arrival;
        let batch = match what {
            What::Sample { offset, sample } => self.batcher.push(Instant::now(), (partition, offset, sample)),
            // What was passed over takes its place in the order: all before it is learned first.
            What::Undecodable { offset } => {
                let open = self.batcher.close();
                self.learn(open)?;
                self.drop_sample("group", &partition, offset, UNDECODABLE);
                None
            }
            What::Gap { to_offset } => {
                let open = self.batcher.close();
                self.learn(open)?;
                self.pass_over(&partition, to_offset);
                None
            }
        };
        match batch {
            Some(batch) => self.learn(batch),
            None => Ok(()),
        }
    }

    fn take_pair(&mut self, arrival: Arrival<v1::PreferencePair>) {
        let Arrival { partition, what } = arrival;
        match what {
            What::Sample { offset, sample } => {
                match self.trainer.offer_pair(&sample, PairSource { partition: partition.number, offset }) {
                    Offered::Taken => {
                        self.progress.learned(&partition, offset);
                        self.answers.took(sample.event_time_ms);
                        self.saw(sample.event_time_ms);
                        self.schedule.changed();
                    }
                    Offered::Dropped(reason) => {
                        self.drop_sample("pair", &partition, offset, reason.as_str());
                    }
                    Offered::HeldOut => self.hold_out("pair", &partition, offset),
                    Offered::Full => unreachable!("a pair is received only while the reservoir has room"),
                }
            }
            What::Undecodable { offset } => self.drop_sample("pair", &partition, offset, UNDECODABLE),
            What::Gap { to_offset } => self.pass_over(&partition, to_offset),
        }
    }

    fn drop_sample(&mut self, kind: &'static str, partition: &Partition, offset: i64, reason: &'static str) {
        let (topic, number) = (&*partition.topic, partition.number);
        SampleDropped { kind, reason, topic, partition: number, offset }.emit();
        self.progress.skipped(partition, offset, reason);
        self.schedule.changed();
    }

    fn pass_over(&mut self, partition: &Partition, to_offset: i64) {
        self.progress.gap(partition, to_offset, super::resume::GONE);
        self.schedule.changed();
    }

    fn saw(&mut self, event_time_ms: i64) {
        self.event_time_watermark_ms = self.event_time_watermark_ms.max(event_time_ms);
    }

    /// One step. A batch that cannot be learned is passed over, and named in the next version.
    fn learn(&mut self, batch: Vec<Queued>) -> Result<(), TrainerError> {
        if batch.is_empty() { Ok(()) } else { self.step(batch) }
    }

    /// A full reservoir makes the pairs wait until a step has drawn some of it. Where no groups
    /// come, such a step learns pairs alone.
    fn learn_pairs_if_stuck(&mut self) -> Result<(), TrainerError> {
        let is_stuck = self.trainer.is_full() && self.last_step.elapsed() >= self.batch_age;
        if is_stuck { self.step(Vec::new()) } else { Ok(()) }
    }

    fn step(&mut self, batch: Vec<Queued>) -> Result<(), TrainerError> {
        let started = Instant::now();
        self.last_step = started;
        let mut from = Vec::with_capacity(batch.len());
        let mut groups = Vec::with_capacity(batch.len());
        for (partition, offset, group) in batch {
            from.push((partition, offset));
            groups.push(group);
        }
        self.schedule.changed();
        if self.trainer.examine(&groups) {
            from.iter().for_each(|(partition, offset)| self.hold_out("group", partition, *offset));
            return Ok(());
        }
        failpoint("train-step");
        match self.trainer.step(&groups) {
            Ok(report) => {
                self.bad_batches.end();
                for (position, ((partition, offset), group)) in from.iter().zip(&groups).enumerate() {
                    if report.too_small.contains(&position) {
                        let reason = DropReason::GroupTooSmall.as_str();
                        self.progress.skipped(partition, *offset, reason);
                    } else {
                        self.progress.learned(partition, *offset);
                        self.saw(group.event_time_ms);
                    }
                }
                self.answers.learned(report.drawn_new_pairs);
                self.report(&report, started.elapsed());
                Ok(())
            }
            Err(bad) => {
                self.pass_over_batch(&from, &bad);
                Ok(told::batch_skipped(&mut self.bad_batches, bad)?)
            }
        }
    }

    /// Names everything that a bad batch takes out of training: its groups, and the pairs that it
    /// was the first to draw. Those count as taken in since they arrived.
    fn pass_over_batch(&mut self, groups: &[(Partition, i64)], bad: &BadBatch) {
        for (partition, offset) in groups {
            self.progress.skipped(partition, *offset, BAD_BATCH);
        }
        self.answers.lost(bad.lost_pairs.len() + bad.lost_pairs_without_source);
        for pair in &bad.lost_pairs {
            let partition = Partition { topic: self.pair_topic.clone(), number: pair.partition };
            self.progress.lost(&partition, pair.offset, BAD_BATCH);
        }
    }

    fn publish_if_due(&mut self) {
        if self.is_publishing {
            return;
        }
        let now = Instant::now();
        let crowded = || self.progress.is_crowded().then(|| self.schedule.least_kind());
        if let Some(kind) = self.schedule.due(now).or_else(crowded) {
            self.cut(kind, now);
        }
    }

    /// A version of what has been learned up to here.
    fn cut(&mut self, kind: VersionKind, now: Instant) {
        let mut tensors = self.trainer.serving_tensors();
        self.judged.cut_tensors.clone_from(&tensors);
        if kind == VersionKind::Checkpoint {
            tensors.extend(self.trainer.training_state());
        }
        let candidate = Candidate {
            kind,
            tensors,
            inputs: self.progress.cut(),
            event_time_watermark_ms: self.event_time_watermark_ms,
            step: self.trainer.steps(),
            behavior_groups_learned: self.trainer.behavior_groups_learned(),
            preference_pairs_learned: self.trainer.preference_pairs_learned(),
            progressive: self.trainer.progressive(),
            comparison: self.trainer.beside_anchor().map(told::compared),
            suspicion: told::suspicion(&self.trainer, self.judged.passed_step),
        };
        self.tell_evidence(&candidate);
        self.schedule.cut(kind, now);
        self.answers.cut();
        self.is_publishing = true;
        if self.connections.candidates.send(candidate).is_err() {
            self.connections.halt.stop();
        }
    }

    /// The checkpoint of a clean end; another one where the gate's verdict on it, or on the version
    /// before, changes what there is to keep. The groups of the open micro-batch are not in it: they
    /// lie beyond its offsets and are read again.
    fn publish_last(&mut self) -> Result<(), TrainerError> {
        while !self.connections.halt.is_stopped() && self.schedule.is_checkpoint_stale() {
            if !self.is_publishing {
                self.cut(VersionKind::Checkpoint, Instant::now());
            }
            self.wait_for_publisher()?;
        }
        Ok(())
    }

    fn wait_for_publisher(&mut self) -> Result<(), TrainerError> {
        while self.is_publishing {
            // Waiting for the brokers is no hang.
            self.connections.beat.beat();
            match self.connections.published.recv_timeout(SLICE) {
                Ok(published) => self.published(published)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.is_publishing = false;
                    self.connections.halt.stop();
                }
            }
        }
        Ok(())
    }

    fn report(&self, report: &StepReport, elapsed: Duration) {
        told::parts_dropped(&report.dropped);
        let progressive = self.trainer.progressive();
        let reservoir = self.trainer.reservoir();
        let losses: Vec<(&'static str, f64)> = [
            ("main", report.loss_main),
            ("satisfaction", report.loss_satisfaction),
            ("dpo", report.loss_dpo),
        ]
        .into_iter()
        .filter_map(|(term, loss)| loss.map(|loss| (term, loss)))
        .collect();
        let scores: Vec<(&'static str, &'static str, f64)> = [
            ("main", "mean", Some(report.score_mean)),
            ("main", "min", Some(report.score_min)),
            ("satisfaction", "mean", report.satisfaction_mean),
            ("satisfaction", "min", report.satisfaction_min),
        ]
        .into_iter()
        .filter_map(|(head, statistic, score)| score.map(|score| (head, statistic, score)))
        .collect();
        StepTrained {
            step: report.step,
            groups: report.groups as u64,
            pairs: report.drawn_new_pairs as u64,
            batch: &[
                ("group", report.groups),
                ("view", report.views),
                ("behavior_pair", report.behavior_pairs),
                ("preference_pair", report.drawn_pairs),
            ],
            learned: &[
                ("group", self.trainer.behavior_groups_learned()),
                ("pair", self.trainer.preference_pairs_learned()),
            ],
            elapsed,
            losses: &losses,
            win_rates: &[
                ("model", "behavior", progressive.behavior_win_rate),
                ("twin", "behavior", progressive.behavior_only_win_rate),
                ("model", "preference", progressive.preference_win_rate),
                ("twin", "preference", progressive.behavior_only_preference_win_rate),
            ],
            dpo_weight: report.dpo_weight,
            behavior_cost: report.behavior_cost,
            gradient_norms: &[("backbone", report.gradient_norm)],
            clipped: report.clipped,
            drew_pairs: report.drawn_pairs > 0,
            dead_gates: &report.dead_gates,
            mean_gates: &report.mean_gates,
            all_gates_dead: report.all_gates_dead,
            scores: &scores,
            never_used_pairs: reservoir.never_used,
            used_pairs: reservoir.used,
            mean_draws: reservoir.mean_draws,
            mean_age_steps: reservoir.mean_age_steps,
        }
        .emit();
    }
}
