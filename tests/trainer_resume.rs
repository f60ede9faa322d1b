//! The trainer is killed, replaced and stopped at any moment, on empty disks, and along `parent`
//! every version has learned every sample exactly once, up to its offsets (invariants 1 and 7).

mod support;

use easq::contract::v1::{self, VersionKind};
use easq::kafka::topics::Admin;
use support::lineage::{History, Logs, registry};
use support::trainers::{PARTITIONS, SOON, Trainer, line, production_learns_all};
use support::{Kafka, Samples, eventually, eventually_some, get, metrics};

#[test]
fn invariants_1_and_7_a_trainer_killed_on_the_way_goes_on_from_the_newest_checkpoint_on_an_empty_disk() {
    // The next one need not wait for the session of the one before.
    let line = line("resume").set("train.instance_id", "the-only-one");
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    for round in 0..2 {
        samples.write(600);
        let before = registry(&settings).highest_version;
        let mut trainer = Trainer::start(&line);
        // Killed in the middle: behind a checkpoint, so that a branch of serving versions is lost.
        eventually(SOON, "a serving version stands behind a new checkpoint", || {
            let registry = registry(&settings);
            let checkpoint = registry.newest_checkpoint().map_or(0, |checkpoint| checkpoint.version);
            if registry.highest_version > before + 1 && checkpoint < registry.highest_version {
                return checkpoint > before;
            }
            // A trainer that has learned all there is waits for more.
            samples.write(50);
            false
        });
        trainer.process.kill();
        let goes_on = trainer.process.output().contains("goes on from a checkpoint");
        assert_eq!(goes_on, round > 0, "round {round}: {}", trainer.process.output());
    }
    samples.write(200);
    let trainer = Trainer::start(&line);
    production_learns_all(&line);
    let logs = Logs::read(&settings);
    trainer.stop();

    let history = eventually_some(SOON, "the checkpoint of a clean stop is visible", || {
        let history = History::read(&settings);
        let last = history.versions.last()?;
        (last.kind() == VersionKind::Checkpoint && logs.are_learned(last)).then_some(history)
    });
    history.assert_lineage();
    assert!(history.assert_order() > 0, "no kill cut a branch off");
    let skipped = history.versions.iter().flat_map(|m| &m.inputs).flat_map(|range| &range.skipped);
    assert!(skipped.into_iter().all(|range| range.reason == "undecodable"));
}

#[test]
fn invariant_7_bad_batches_and_the_pairs_that_they_lose_are_named_by_the_versions_that_follow() {
    // The first step makes a model of parameters so large that no later loss is finite.
    let line = line("bad").set("train.learning_rate", 1e30).set("train.max_bad_batches", 1_000_000);
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    for _ in 0..2 {
        samples.write(400);
        let logs = Logs::read(&settings);
        let trainer = Trainer::start(&line);
        eventually(SOON, "everything is learned or skipped", || {
            registry(&settings).versions.values().next_back().is_some_and(|newest| logs.are_learned(newest))
        });
        trainer.stop();
    }
    let logs = Logs::read(&settings);
    let history = eventually_some(SOON, "the checkpoint of a clean stop is visible", || {
        let history = History::read(&settings);
        let last = history.versions.last()?;
        (last.kind() == VersionKind::Checkpoint && logs.are_learned(last)).then_some(history)
    });
    history.assert_lineage();
    let last = history.versions.last().expect("a version");
    let of_pairs = |range: &&v1::LearnedRange| range.topic == settings.topics.preference_pairs;
    let waiting: u64 = last.inputs.iter().filter(of_pairs).map(|range| range.samples).sum();
    assert!(waiting < settings.train.reservoir_batch_pairs as u64, "{waiting} pairs of 80 were not drawn");
    assert_eq!((last.step, last.preference_pairs_learned), (1, 0));
    assert!(last.behavior_groups_learned > 0);
}

#[test]
fn a_trainer_that_stands_by_takes_over_when_the_owner_leaves() {
    let line = line("standby");
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    samples.write(200);
    let owner = Trainer::start(&line);
    eventually(SOON, "the owner publishes", || registry(&settings).highest_version > 0);
    let mut other = Trainer::start(&line);
    other.process.wait_for_output("standing by", SOON);
    samples.write(200);
    // The owner goes on learning beside it.
    production_learns_all(&line);
    owner.stop();
    samples.write(200);
    production_learns_all(&line);
    other.stop();
    let history = History::read(&settings);
    history.assert_lineage();
    assert_eq!(history.assert_order(), 0, "the owner left a checkpoint: nothing was lost");
}

#[test]
fn offsets_that_are_gone_stop_the_trainer_until_a_person_accepts_the_gap_which_is_recorded() {
    let line = line("gap");
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    samples.write(100);
    let trainer = Trainer::start(&line);
    production_learns_all(&line);
    trainer.stop();
    let stood_at = registry(&settings).newest_checkpoint().expect("a checkpoint").inputs.clone();

    samples.write(100);
    let groups = &settings.topics.behavior_groups;
    let (_, end) = Kafka::shared().watermarks(groups, 0);
    let admin = Admin::new(&settings.kafka).expect("a valid configuration");
    admin.delete_records_below(groups, 0, end - 10).expect("deleted");

    let mut refused = Trainer::start(&line);
    let status = refused.process.wait(SOON);
    assert_eq!(status.code(), Some(1), "{}", refused.process.output());
    for word in [groups.as_str(), "partition 0", "train.gap"] {
        assert!(refused.process.output().contains(word), "{}", refused.process.output());
    }

    let accepting = line.clone().set("train.gap", "accept").set("telemetry.listen", "127.0.0.1:0");
    let trainer = Trainer::start(&accepting);
    let gap = eventually_some(SOON, "a version records the gap", || {
        let registry = registry(&settings);
        let ranges = registry.versions.values().flat_map(|m| &m.inputs).flat_map(|range| &range.gaps);
        ranges.into_iter().next().cloned()
    });
    let from = stood_at.iter().find(|range| range.topic == *groups && range.partition == 0);
    assert_eq!(Some(gap.from_offset), from.map(|range| range.next_offset));
    assert_eq!(gap.to_offset, end - 10);
    let shown = metrics::samples(&get(&trainer.process.address(), "/metrics").expect("an answer"));
    let of_gap = shown.iter().filter(|sample| sample.name == "easq_trainer_lost_offsets_total");
    let lost: f64 = of_gap.map(|sample| sample.value).sum();
    assert_eq!(lost, (gap.to_offset - gap.from_offset) as f64, "the gap is counted, once");
    trainer.stop();
}

/// Frozen, the trainer cannot read what goes, but for what is on its way to it already.
#[test]
fn retention_that_overtakes_a_running_trainer_stops_it_or_leaves_a_gap_on_record_where_it_may() {
    for policy in ["error", "accept"] {
        let line = line("overtaken").set("train.gap", policy);
        let settings = line.settings();
        let groups = &settings.topics.behavior_groups;
        let mut samples = Samples::new(&settings, PARTITIONS);
        samples.write(100);
        let mut trainer = Trainer::start(&line);
        production_learns_all(&line);
        trainer.process.signal("STOP");
        let (_, stood_at) = Kafka::shared().watermarks(groups, 0);
        samples.write(200);
        let low = Kafka::shared().watermarks(groups, 0).1 - 10;
        let admin = Admin::new(&settings.kafka).expect("a valid configuration");
        admin.delete_records_below(groups, 0, low).expect("deleted");
        trainer.process.signal("CONT");
        if policy == "error" {
            let status = trainer.process.wait(SOON);
            let output = trainer.process.output();
            assert_eq!(status.code(), Some(1), "{output}");
            let last = output.lines().last().expect("a process that fails says why");
            let holds = format!("the log holds {low} up to");
            for part in [groups.as_str(), "partition 0: training stands at offset", &holds, "train.gap"] {
                assert!(last.contains(part), "{part}: {last}");
            }
        } else {
            production_learns_all(&line);
            trainer.stop();
            let registry = registry(&settings);
            let ranges = registry.versions.values().flat_map(|manifest| &manifest.inputs);
            let gaps: Vec<_> = ranges.flat_map(|range| &range.gaps).collect();
            let [gap] = gaps[..] else { panic!("one gap: {gaps:?}") };
            // The last record of what had been learned is the end of a transaction.
            assert!((stood_at - 1..low).contains(&gap.from_offset), "{gap:?} from {stood_at}");
            assert_eq!(gap.to_offset, low);
        }
    }
}

/// librdkafka goes on at its old offsets in the new topic, and says nothing where these are there.
#[test]
fn a_topic_of_samples_that_is_created_again_stops_the_trainer_also_when_it_is_longer_than_before() {
    for is_groups in [true, false] {
        let line = line("replaced");
        let settings = line.settings();
        let topics = &settings.topics;
        let topic = if is_groups { &topics.behavior_groups } else { &topics.preference_pairs };
        Samples::new(&settings, PARTITIONS).write(100);
        let mut running = Trainer::start(&line);
        production_learns_all(&line);
        // Frozen, it does not find the topic missing in between.
        running.process.signal("STOP");
        Kafka::shared().delete_topic(topic);
        Kafka::shared().create_topic(topic, PARTITIONS);
        Samples::new(&settings, PARTITIONS).write(400);
        running.process.signal("CONT");
        let mut restarted = None;
        for _ in 0..2 {
            let trainer = restarted.as_mut().unwrap_or(&mut running);
            let status = trainer.process.wait(SOON);
            let output = trainer.process.output();
            assert_eq!(status.code(), Some(1), "{output}");
            assert!(output.contains(&format!("'{topic}' partition")), "{output}");
            assert!(output.contains("created again") && output.contains("model.name"), "{output}");
            restarted = Some(Trainer::start(&line));
        }
    }
}
