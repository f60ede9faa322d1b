//! The learner between channels, without Kafka.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::contract::v1;
use crate::model::HostTensor;
use crate::publish::{Candidate, Published, WayBack};
use crate::settings::{Dpo, Settings};
use crate::supervise::{Beat, StopToken};
use crate::train::Trainer;
use crate::train::tests::{group, pair, settings, with_dead_gates};

use super::TrainerError;
use super::input::{Arrival, What};
use super::learner::{Connections, Learner};
use super::progress::{Partition, Progress};
use super::start::Learned;

const DEADLINE: Duration = Duration::from_secs(60);

/// A learner on its thread. The input channels hold nothing, so that a record which was taken is
/// also learned, waits in the reservoir or in the open batch, or was dropped.
struct Running {
    groups: Sender<Arrival<v1::BehaviorGroup>>,
    pairs: Sender<Arrival<v1::PreferencePair>>,
    candidates: Receiver<Candidate>,
    published: Sender<Published>,
    stop: StopToken,
    learner: JoinHandle<Result<(), TrainerError>>,
}

/// Without any version before the stop.
fn learner_settings(dpo: Dpo) -> Settings {
    let mut settings = settings(dpo);
    settings.publish.interval_ms = 3_600_000;
    settings.publish.checkpoint_interval_ms = 3_600_000;
    settings.train.batch_age_ms = 20;
    settings
}

fn pair_partition(settings: &Settings, number: i32) -> Partition {
    Partition { topic: settings.topics.preference_pairs.as_str().into(), number }
}

fn group_partition(settings: &Settings) -> Partition {
    Partition { topic: settings.topics.behavior_groups.as_str().into(), number: 0 }
}

impl Running {
    fn start(settings: &Settings, trainer: Trainer) -> Self {
        let (groups, groups_out) = bounded(0);
        let (pairs, pairs_out) = bounded(0);
        let (candidates_in, candidates) = bounded(1);
        let (published, published_out) = bounded(1);
        let (stop, halt) = (StopToken::new(), StopToken::new());
        let connections = Connections {
            groups: groups_out,
            pairs: pairs_out,
            candidates: candidates_in,
            published: published_out,
            stop: stop.clone(),
            halt,
            beat: Beat::default(),
        };
        let mut progress = Progress::default();
        for partition in [group_partition(settings), pair_partition(settings, 0), pair_partition(settings, 1)]
        {
            progress.add(partition);
        }
        let learned =
            Learned { trainer, progress, event_time_watermark_ms: 0, is_resumed: false, passed_step: None };
        let settings = settings.clone();
        let learner = thread::spawn(move || Learner::new(&settings, learned, connections).run());
        Self { groups, pairs, candidates, published, stop, learner }
    }

    fn pair(&self, settings: &Settings, number: i32, offset: i64, sample: v1::PreferencePair) {
        let arrival =
            Arrival { partition: pair_partition(settings, number), what: What::Sample { offset, sample } };
        let taken = self.pairs.send_timeout(arrival, DEADLINE);
        assert!(taken.is_ok(), "the pair at offset {offset} of partition {number} was not taken");
    }

    fn group(&self, settings: &Settings, offset: i64, sample: v1::BehaviorGroup) {
        let what = What::Sample { offset, sample };
        let taken =
            self.groups.send_timeout(Arrival { partition: group_partition(settings), what }, DEADLINE);
        assert!(taken.is_ok(), "the group at offset {offset} was not taken");
    }

    /// The candidate that it has cut was published.
    fn publish(&self, way_back: Option<WayBack>) {
        let manifest = Arc::default();
        let published = Published { manifest, pages_written: 0, stream_accepted_at_ms: None, way_back };
        self.published.send(published).expect("the learner waits for it");
    }

    /// Stops it; the checkpoint that it leaves.
    fn stop(self) -> Candidate {
        self.stop.stop();
        let last = self.candidates.recv_timeout(DEADLINE).expect("a checkpoint at a clean stop");
        self.publish(None);
        self.learner.join().expect("no panic").expect("a clean end");
        assert_eq!(last.kind, v1::VersionKind::Checkpoint);
        last
    }
}

fn learned<'a>(candidate: &'a Candidate, partition: &Partition) -> &'a v1::LearnedRange {
    let of =
        |range: &&v1::LearnedRange| range.topic == *partition.topic && range.partition == partition.number;
    candidate.inputs.iter().find(of).expect("a partition that was added")
}

fn skipped(range: &v1::LearnedRange) -> Vec<(i64, i64, &str)> {
    range.skipped.iter().map(|s| (s.from_offset, s.to_offset, s.reason.as_str())).collect()
}

#[test]
fn invariant_7_what_a_bad_batch_takes_with_it_is_skipped_by_name_and_counts_as_learned_nowhere() {
    const BAD: &str = "a loss or gradient was not finite";
    let mut settings = learner_settings(Dpo::Pairs);
    settings.train.batch_age_ms = 3_600_000;
    // The formula as printed: log(ŷ⁺/ŷ⁻) does not exist where both are 0.
    settings.train.dpo_offset = 0.0;
    let running = Running::start(&settings, with_dead_gates(&settings));

    // Between the offsets of a partition lie control records.
    (0..16_u32).for_each(|i| running.pair(&settings, (i % 2) as i32, i64::from(i & !1), pair(i.into())));
    let mut infinite = pair(16);
    let view = infinite.chosen.as_mut().and_then(|labelled| labelled.view.as_mut()).expect("a view");
    view.features.as_mut().expect("features").dense[0] = f32::INFINITY;
    running.pair(&settings, 0, 16, infinite);
    (0..16_u32).for_each(|i| running.group(&settings, i.into(), group(i.into())));

    // The step after it draws no pairs, and succeeds.
    for i in 16..32_u32 {
        let mut group = group(i.into());
        group.views.truncate(if i == 20 { 1 } else { 8 });
        running.group(&settings, i.into(), group);
    }
    (0..5_u32).for_each(|i| running.pair(&settings, 1, i64::from(i) + 100, pair(u64::from(i) + 20)));
    let last = running.stop();

    let groups = learned(&last, &group_partition(&settings));
    assert_eq!(skipped(groups), [(0, 16, BAD), (20, 21, "group_too_small")]);
    assert_eq!((groups.samples, last.behavior_groups_learned, last.step), (15, 15, 1));
    let lost: Vec<_> = (0..8).map(|i| (2 * i, 2 * i + 1, BAD)).collect();
    let even = learned(&last, &pair_partition(&settings, 0));
    assert_eq!(skipped(even), [&lost[..], &[(15, 17, "non_finite_feature")]].concat());
    assert_eq!(even.samples, 0);
    let odd = learned(&last, &pair_partition(&settings, 1));
    assert_eq!((skipped(odd), odd.samples), (lost, 5), "five wait in the reservoir");
    assert_eq!((odd.next_offset, last.preference_pairs_learned), (105, 0));
}

#[test]
fn pairs_are_learned_alone_when_they_fill_the_reservoir_and_no_groups_come() {
    let mut settings = learner_settings(Dpo::Live);
    settings.train.reservoir_pairs = 32;
    let running = Running::start(&settings, Trainer::new(&settings).expect("a CPU"));
    (0..100).for_each(|i| running.pair(&settings, 0, i, pair(i.unsigned_abs())));
    let last = running.stop();
    // 32 of them fit while they wait; each step draws 16.
    assert_eq!((last.preference_pairs_learned, last.step), (80, 5));
    assert_eq!(
        (learned(&last, &pair_partition(&settings, 0)).samples, last.behavior_groups_learned),
        (100, 0)
    );
}

const SUSPECT: &str = "held out: the stream was suspect";

/// A trainer that has found a feature out of its band.
fn suspicious(settings: &Settings) -> Trainer {
    let mut trainer = Trainer::new(settings).expect("a CPU");
    trainer.set_production(1, trainer.serving_tensors()).expect("its own tensors");
    (0..1_000).for_each(|i| assert!(!trainer.examine(&[group(i)])));
    let mut scaled = group(1_000);
    for view in &mut scaled.views {
        view.features.as_mut().expect("features").dense[3] *= 100.0;
    }
    let is_suspect = (0..100).map(|_| trainer.examine(std::slice::from_ref(&scaled))).last();
    assert_eq!(is_suspect, Some(true));
    trainer
}

#[test]
fn invariant_7_samples_of_a_suspect_stream_are_skipped_by_name_until_it_is_trusted() {
    let mut settings = learner_settings(Dpo::Live);
    settings.gate.warmup_steps = 0;
    settings.train.batch_age_ms = 3_600_000;
    let running = Running::start(&settings, suspicious(&settings));
    (0..4).for_each(|i| running.pair(&settings, 0, i, pair(i.unsigned_abs())));
    // What the feature was averaged over is forgotten after some hundred groups.
    (0..480_u32).for_each(|i| running.group(&settings, i.into(), group(i.into())));
    running.pair(&settings, 0, 4, pair(4));
    let last = running.stop();

    let groups = learned(&last, &group_partition(&settings));
    let held_out = skipped(groups);
    assert_eq!(held_out.len(), 1, "{held_out:?}");
    let (from, to, reason) = held_out[0];
    assert_eq!((from, reason), (0, SUSPECT));
    assert!((16..480).contains(&to) && to % 16 == 0, "{to}");
    assert_eq!((groups.samples, groups.next_offset), (480 - to.unsigned_abs(), 480));
    assert_eq!(last.step, groups.samples / 16);
    let pairs = learned(&last, &pair_partition(&settings, 0));
    assert_eq!((skipped(pairs), pairs.samples), (vec![(0, 4, SUSPECT)], 1));
    assert_eq!(last.suspicion, None);
}

/// Versions as often as there is something to say.
fn judged_settings() -> Settings {
    let mut settings = learner_settings(Dpo::Live);
    settings.gate.warmup_steps = 0;
    (settings.publish.interval_ms, settings.train.batch_age_ms) = (1, 3_600_000);
    settings
}

/// A checkpoint without any step, version 9, that had read 5 groups and 2 pairs.
fn way_back(settings: &Settings) -> WayBack {
    let passed = Trainer::new(settings).expect("a CPU");
    let at = |partition: Partition, next_offset: i64, samples| v1::LearnedRange {
        topic: partition.topic.to_string(),
        partition: partition.number,
        next_offset,
        samples,
        ..v1::LearnedRange::default()
    };
    let manifest = v1::Manifest {
        version: 9,
        event_time_watermark_ms: 3,
        inputs: vec![at(group_partition(settings), 5, 4), at(pair_partition(settings, 0), 2, 2)],
        ..v1::Manifest::default()
    };
    let tensors = [passed.serving_tensors(), passed.training_state()].concat();
    WayBack { manifest: Arc::new(manifest), tensors }
}

/// A learner of a suspect stream that has cut a version and has more to say: 16 groups and 4 pairs.
fn refused(settings: &Settings) -> Running {
    let running = Running::start(settings, suspicious(settings));
    (0..16_u32).for_each(|i| running.group(settings, i.into(), group(i.into())));
    (0..3).for_each(|i| running.pair(settings, 0, i, pair(i.unsigned_abs())));
    let refused = running.candidates.recv_timeout(DEADLINE).expect("a version");
    let suspicion = refused.suspicion.expect("what it learned is suspect");
    assert!(suspicion.reasons[0].contains("feature"), "{suspicion:?}");
    running.pair(settings, 0, 3, pair(3));
    running
}

/// It is the checkpoint of [`way_back`], and names what it passes over.
#[track_caller]
fn assert_went_back(back: &Candidate, settings: &Settings) {
    assert_eq!((back.kind, back.step, back.suspicion.as_ref()), (v1::VersionKind::Checkpoint, 0, None));
    let serving = |tensors: &[HostTensor]| -> Vec<HostTensor> {
        tensors.iter().filter(|tensor| !tensor.name.starts_with("training.")).cloned().collect()
    };
    assert_eq!(serving(&back.tensors), serving(&way_back(settings).tensors));
    let gaps = |partition: &Partition| -> Vec<(i64, i64, String)> {
        let gaps = &learned(back, partition).gaps;
        gaps.iter().map(|gap| (gap.from_offset, gap.to_offset, gap.reason.clone())).collect()
    };
    const REASON: &str = "passed over: training went back to version 9";
    assert_eq!(gaps(&group_partition(settings)), [(5, 16, REASON.to_owned())]);
    assert_eq!(gaps(&pair_partition(settings, 0)), [(2, 4, REASON.to_owned())]);
    assert_eq!(learned(back, &group_partition(settings)).samples, 4);
}

#[test]
fn invariant_7_going_back_is_a_gap_and_the_next_version_is_the_checkpoint_that_passed() {
    let settings = judged_settings();
    let running = refused(&settings);
    running.publish(Some(way_back(&settings)));
    let back = running.candidates.recv_timeout(DEADLINE).expect("a version");
    assert_went_back(&back, &settings);
    running.publish(None);
    running.stop.stop();
    running.learner.join().expect("no panic").expect("a clean end: the checkpoint has all there is");
}

#[test]
fn invariant_7_a_clean_stop_goes_back_first_where_the_gate_says_so_of_the_version_before() {
    let settings = judged_settings();
    let running = refused(&settings);
    running.stop.stop();
    running.publish(Some(way_back(&settings)));
    let back = running.candidates.recv_timeout(DEADLINE).expect("the last checkpoint");
    assert_went_back(&back, &settings);
    running.publish(None);
    running.learner.join().expect("no panic").expect("a clean end");
}

#[test]
fn a_clean_stop_whose_checkpoint_is_given_up_leaves_the_one_that_passed() {
    let settings = judged_settings();
    let running = refused(&settings);
    running.stop.stop();
    running.publish(None);
    let last = running.candidates.recv_timeout(DEADLINE).expect("the last checkpoint");
    assert!(last.suspicion.is_some());
    running.publish(Some(way_back(&settings)));
    let back = running.candidates.recv_timeout(DEADLINE).expect("one more");
    assert_went_back(&back, &settings);
    running.publish(None);
    running.learner.join().expect("no panic").expect("a clean end");
}
