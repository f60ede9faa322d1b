//! One trainer per model (invariant 9): one that stands by takes over when the owner dies, freezes or
//! hangs, at whatever step of a publish; a frozen one that wakes up commits nothing, and ends with
//! exit code 3.

mod support;

use easq::contract::v1::VersionKind;
use support::lineage::{History, Reader, registry};
use support::trainers::{PARTITIONS, SOON, Trainer, line, production_learns_all};
use support::{Kafka, Line, Record, Samples, eventually};

const OWNS: &str = "this process trains the model";
const STANDS_BY: &str = "standing by";

/// A line whose trainers lose the model after ten seconds of silence: less, and a busy machine takes
/// it from one that is not meant to lose it.
fn short_session(prefix: &str) -> Line {
    line(prefix).set("train.session_timeout_ms", 10_000).set("train.heartbeat_interval_ms", 500)
}

/// A line whose trainers lose the model only when they let go of it.
fn endless_session(prefix: &str) -> Line {
    line(prefix).set("train.session_timeout_ms", 600_000)
}

fn standing_by(line: &Line, failpoints: &str) -> Trainer {
    let mut trainer = Trainer::start_with(line, failpoints);
    trainer.process.wait_for_output(STANDS_BY, SOON);
    trainer
}

fn registry_records(line: &Line) -> Vec<Record> {
    let settings = line.settings();
    Kafka::shared().read_to_end(&settings.topics.registry(&settings.model.name))
}

/// Everything holds of what the trainers of this line have published.
#[track_caller]
fn assert_holds(line: &Line) {
    let history = History::read(&line.settings());
    history.assert_lineage();
    history.assert_order();
}

#[test]
fn a_trainer_that_stands_by_takes_over_from_one_that_was_killed() {
    let line = short_session("fenced-killed");
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    samples.write(200);
    let mut owner = Trainer::start(&line);
    production_learns_all(&line);
    let other = standing_by(&line, "");
    owner.process.kill();
    samples.write(200);
    production_learns_all(&line);
    other.stop();
    assert_holds(&line);
}

/// Waits until the owner has nothing left to publish: a checkpoint follows the last change.
fn has_published_all(line: &Line) {
    eventually(SOON, "the last version is a checkpoint", || {
        let newest = registry(&line.settings()).versions.pop_last();
        newest.is_some_and(|(_, manifest)| manifest.kind() == VersionKind::Checkpoint)
    });
}

#[test]
fn invariant_9_a_trainer_that_freezes_in_a_publish_loses_the_model_and_commits_nothing_when_it_wakes_up() {
    let steps = [
        "publish-before-pages",
        "publish-before-commit",
        "transaction-before-end",
        "publish-after-commit",
        "publish-before-trim",
    ];
    // Late enough that what it takes over is learned before it freezes itself.
    let freezes_at = |step: &&str| format!("{step}=10*off->1*return(STOP)");
    let line = short_session("fenced-frozen").set("publish.keep_versions", 500);
    let reader = Reader::start(&line.settings());
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    let mut owner = Trainer::start_with(&line, &freezes_at(&steps[0]));
    owner.process.wait_for_output(OWNS, SOON);
    for (index, step) in steps.iter().enumerate() {
        let other = steps.get(index + 1).map_or(String::new(), freezes_at);
        let mut other = standing_by(&line, &other);
        eventually(SOON, &format!("the owner freezes at {step}"), || {
            samples.write(50);
            owner.process.is_frozen()
        });
        other.process.wait_for_output(OWNS, SOON);
        production_learns_all(&line);
        has_published_all(&line);
        let before = registry_records(&line);
        owner.process.signal("CONT");
        owner.wait_for_fence();
        assert_eq!(registry_records(&line), before, "woken up at {step}");
        owner = other;
    }
    owner.stop();
    assert_holds(&line);
    assert!(reader.finish() > steps.len());
}

#[test]
fn a_trainer_that_has_lost_the_model_ends_also_when_its_publish_never_does() {
    let line = short_session("fenced-stuck");
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    samples.write(200);
    let impatient = line.clone().set("joiner.drain_deadline_ms", 1_000);
    let mut owner = Trainer::start_with(&impatient, "publish-before-commit=1*off->pause");
    eventually(SOON, "the owner publishes", || registry(&settings).highest_version == 1);
    samples.write(200);
    let mut other = standing_by(&line, "");
    let topic = settings.topics.registry(&settings.model.name);
    eventually(SOON, "the second publish has begun", || {
        Kafka::shared().uncommitted_end(&topic, 0) > Kafka::shared().watermarks(&topic, 0).1
    });
    owner.process.signal("STOP");
    other.process.wait_for_output(OWNS, SOON);
    owner.process.signal("CONT");
    owner.wait_for_fence();
    assert!(owner.process.output().contains("did not end within 1 s"), "{}", owner.process.output());
    production_learns_all(&line);
    other.stop();
    assert_holds(&line);
}

#[test]
fn a_trainer_whose_training_hangs_lets_go_of_the_model_and_fails() {
    let line = endless_session("fenced-hung");
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    let watched = line.clone().set("train.hang_timeout_ms", 2_000);
    let mut owner = Trainer::start_with(&watched, "train-step=10*off->pause");
    owner.process.wait_for_output(OWNS, SOON);
    let other = standing_by(&line, "");
    samples.write(400);
    let status = owner.process.wait(SOON);
    let output = owner.process.output();
    assert_eq!(status.code(), Some(1), "{status}: {output}");
    let last = output.lines().last().expect("a process that fails says why");
    for part in [&*line.settings().model.name, "train.hang_timeout_ms", "2000 ms", "restart"] {
        assert!(last.contains(part), "{last}");
    }
    production_learns_all(&line);
    other.stop();
    assert_holds(&line);
}

/// As a call into the Kafka client does that never comes back.
#[test]
fn a_trainer_whose_publish_hangs_lets_go_of_the_model_and_fails() {
    let line = endless_session("fenced-publish").set("publish.transaction_timeout_ms", 10_000);
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    let watched = line.clone().set("train.hang_timeout_ms", 2_000);
    let mut owner = Trainer::start_with(&watched, "transaction-before-end=2*off->pause");
    owner.process.wait_for_output(OWNS, SOON);
    let other = standing_by(&line, "");
    eventually(SOON, "two publishes came to their ends", || {
        samples.write(50);
        owner.published() >= 2
    });
    samples.write(200);
    let status = owner.process.wait(SOON);
    let output = owner.process.output();
    assert_eq!(status.code(), Some(1), "{status}: {output}");
    let last = output.lines().last().expect("a process that fails says why");
    for part in [&*line.settings().model.name, "publishing", "train.hang_timeout_ms", "32000 ms", "restart"] {
        assert!(last.contains(part), "{last}");
    }
    production_learns_all(&line);
    other.stop();
    assert_holds(&line);
}

#[test]
fn a_panic_of_the_thread_that_trains_ends_the_process() {
    let line = endless_session("fenced-panic");
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    samples.write(200);
    let mut owner = Trainer::start_with(&line, "train-step=3*off->panic(out of order)");
    let status = owner.process.wait(SOON);
    let output = owner.process.output();
    assert_eq!(status.code(), Some(1), "{status}: {output}");
    assert!(output.contains("trainer panicked: out of order"), "{output}");
}

#[test]
fn what_takes_long_without_hanging_keeps_the_model() {
    let line = line("fenced-slow").set("train.hang_timeout_ms", 2_500);
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    samples.write(200);
    let slow = "train-load=sleep(5000);publish-before-commit=2*off->sleep(5000)";
    let trainer = Trainer::start_with(&line, slow);
    eventually(SOON, "two publishes were fast", || {
        samples.write(50);
        trainer.published() >= 2
    });
    samples.write(200);
    // The last checkpoint of a stop waits for the publish before it.
    trainer.stop();
    assert_holds(&line);
}

#[test]
fn a_trainer_with_the_instance_id_of_another_takes_its_model_and_the_other_says_why() {
    // With nothing left to publish, the first hears of it as a member and not as a producer.
    let line =
        line("fenced-twin").set("train.instance_id", "twin").set("publish.checkpoint_interval_ms", 3_600_000);
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    samples.write(100);
    let mut first = Trainer::start(&line);
    production_learns_all(&line);
    let second = Trainer::start(&line);
    first.wait_for_fence();
    assert!(first.process.output().contains("train.instance_id"), "{}", first.process.output());
    samples.write(100);
    production_learns_all(&line);
    second.stop();
}
