//! The trainer dies at every step of a publish, of the first one of a model and of later ones, and
//! goes on from the newest checkpoint on an empty disk: along `parent` of production every sample is
//! learned exactly once, production never falls back, and no reader ever sees a version that is not
//! whole (invariants 1, 7 and 8).

mod support;

use std::process::Command;
use std::thread;

use support::lineage::{History, Reader, registry};
use support::trainers::{PARTITIONS, SOON, Trainer, line, production_learns_all};
use support::{Line, Samples, eventually};

/// Steps of a publish in their order, and whether its version exists when the trainer dies there.
const STEPS: [(&str, bool); 7] = [
    ("publish-before-pages", false),
    ("publish-before-manifest", false),
    ("publish-before-commit", false),
    // The offsets that fence it are in the transaction already.
    ("transaction-before-end", false),
    ("publish-after-commit", true),
    ("publish-before-trim", true),
    ("publish-after-trim", true),
];

/// Restarts take the model over at once; a reader may be slow without pages going away from it.
fn killed_line(prefix: &str) -> Line {
    line(prefix).set("train.instance_id", "the-only-one").set("publish.keep_versions", 500)
}

/// The version that was being published when the trainer died is there as a whole, or not at all.
#[track_caller]
fn assert_highest(line: &Line, highest_version: u64, step: &str) {
    let settings = line.settings();
    let what = format!("version {highest_version} is the last after the death at {step}");
    eventually(SOON, &what, || registry(&settings).highest_version == highest_version);
}

/// The end of a line whose trainers died: another learns what is left, and everything holds.
#[track_caller]
fn assert_learned_exactly_once(line: &Line, reader: Reader) {
    let settings = line.settings();
    let last = Trainer::start(line);
    production_learns_all(line);
    last.stop();
    let history = History::read(&settings);
    history.assert_lineage();
    history.assert_order();
    assert!(reader.finish() > 0, "the reader has loaded no version");
}

#[test]
fn invariants_1_7_and_8_hold_when_the_trainer_dies_at_any_step_of_its_first_publish() {
    let die_at = |step: &str, is_committed: bool| {
        let line = killed_line("killed-first");
        let reader = Reader::start(&line.settings());
        let mut samples = Samples::new(&line.settings(), PARTITIONS);
        samples.write(100);
        let mut trainer = Trainer::start_with(&line, &format!("{step}=return"));
        trainer.wait_for_death();
        assert_highest(&line, is_committed.into(), step);
        samples.write(100);
        assert_learned_exactly_once(&line, reader);
    };
    // Each on a model of its own.
    thread::scope(|scope| {
        for (step, is_committed) in STEPS {
            scope.spawn(move || die_at(step, is_committed));
        }
    });
}

/// Trainers of one model die one after the other, each at another step of its third publish.
#[track_caller]
fn die_at_every_step(line: &Line) {
    let settings = line.settings();
    let reader = Reader::start(&settings);
    let mut samples = Samples::new(&settings, PARTITIONS);
    samples.write(100);
    // The first version of a model is a checkpoint whatever the settings say.
    let first = Trainer::start(line);
    production_learns_all(line);
    first.stop();
    for (step, is_committed) in STEPS {
        let before = registry(&settings).highest_version;
        let mut trainer = Trainer::start_with(line, &format!("{step}=2*off->return"));
        // A trainer that has learned all there is publishes nothing.
        eventually(SOON, &format!("the trainer dies at {step}"), || {
            samples.write(50);
            !trainer.process.is_running()
        });
        trainer.wait_for_death();
        assert_highest(line, before + 2 + u64::from(is_committed), step);
    }
    assert_learned_exactly_once(line, reader);
}

#[test]
fn invariants_1_7_and_8_hold_when_the_trainer_dies_at_any_step_of_a_later_serving_version() {
    die_at_every_step(&killed_line("killed-serving").set("publish.checkpoint_interval_ms", 3_600_000));
}

#[test]
fn invariants_1_7_and_8_hold_when_the_trainer_dies_at_any_step_of_a_later_checkpoint() {
    die_at_every_step(&killed_line("killed-checkpoint").set("publish.checkpoint_interval_ms", 100));
}

/// A trainer restarted under its name does not wait for its own session to be over.
#[test]
fn a_killed_trainer_with_an_instance_id_has_the_model_again_at_once() {
    let ten_minutes = 600_000;
    let line = line("killed-static")
        .set("train.instance_id", "the-only-one")
        .set("train.session_timeout_ms", ten_minutes);
    let mut samples = Samples::new(&line.settings(), PARTITIONS);
    samples.write(100);
    let mut killed = Trainer::start(&line);
    production_learns_all(&line);
    killed.process.kill();
    samples.write(100);
    let restarted = Trainer::start(&line);
    production_learns_all(&line);
    restarted.stop();
}

/// Failpoints are a feature of a development dependency, and no other build has them.
#[test]
fn a_program_built_for_use_has_no_failpoints() {
    let features = |edges: &str| {
        let arguments = ["tree", "--offline", "--invert", "fail", "--edges", edges];
        let listed = Command::new(env!("CARGO")).args(arguments).output().expect("cargo runs");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        String::from_utf8(listed.stdout).expect("cargo prints UTF-8")
    };
    assert!(features("features").contains("failpoints"), "the tests' own binary has them");
    let built_for_use = features("features,no-dev");
    assert!(built_for_use.contains("fail v") && !built_for_use.contains("failpoints"), "{built_for_use}");
}
