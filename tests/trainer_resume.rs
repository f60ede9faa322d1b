//! The trainer is killed, replaced and stopped at any moment, on empty disks, and along `parent`
//! every version has learned every sample exactly once, up to its offsets (invariants 1 and 7).

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use easq::contract::v1::{self, VersionKind};
use easq::kafka::topics::Admin;
use easq::publish::manifest;
use easq::publish::registry::{PRODUCTION, Registry, RegistryReader};
use easq::settings::Settings;
use easq::supervise::StopToken;
use support::{Easq, Kafka, Line, Record, Samples, eventually, eventually_some};

const DEADLINE: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 2;

fn line(prefix: &str) -> Line {
    let line = Line::new(prefix)
        .set("publish.interval_ms", 100)
        .set("publish.checkpoint_interval_ms", 700)
        .set("train.batch_groups", 8)
        .set("train.batch_age_ms", 20);
    line.create_topics(PARTITIONS);
    line
}

/// A trainer with a home of its own that nobody has used before.
fn start(line: &Line, extra: &[&str]) -> Easq {
    let home = tempfile::tempdir().expect("an empty disk").keep();
    let home = home.to_str().expect("a path in UTF-8").to_owned();
    let mut arguments = line.arguments(&["run", "--role", "trainer"]);
    arguments.extend(extra.iter().map(|&word| word.to_owned()));
    Easq::start_with(arguments, [("HOME", home.as_str()), ("TMPDIR", home.as_str())])
}

fn registry(settings: &Settings) -> Registry {
    RegistryReader::open(settings, "test reader", &StopToken::new()).expect("a registry").registry
}

/// Every version ever published, in the order of the log, also those that have gone since.
fn versions(settings: &Settings) -> Vec<v1::Manifest> {
    let topic = settings.topics.registry(&settings.model.name);
    let mut versions: Vec<v1::Manifest> = Vec::new();
    for record in Kafka::shared().read_to_end(&topic) {
        let (Some(key), Some(value)) = (record.key, record.payload) else { continue };
        let key = String::from_utf8(key).expect("a key in UTF-8");
        let Some(version) = key.strip_prefix("versions/") else { continue };
        let version = version.parse().expect("a number");
        let decoded = manifest::decode(&value, version, &settings.model.name).expect("a valid manifest");
        match versions.iter_mut().find(|known| known.version == version) {
            Some(known) => assert_eq!(known.inputs, decoded.inputs, "moved pages change nothing else"),
            None => versions.push(decoded),
        }
    }
    versions
}

/// How many records lie in each partition in a range of offsets.
struct Logs(BTreeMap<(String, i32), Vec<i64>>);

impl Logs {
    fn read(settings: &Settings) -> Self {
        let mut logs: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for topic in [&settings.topics.behavior_groups, &settings.topics.preference_pairs] {
            for Record { partition, offset, .. } in Kafka::shared().read_to_end(topic) {
                logs.entry((topic.clone(), partition)).or_default().push(offset);
            }
        }
        Self(logs)
    }

    fn count(&self, topic: &str, partition: i32, from: i64, to: i64) -> u64 {
        let offsets = &self.0[&(topic.to_owned(), partition)];
        offsets.iter().filter(|offset| (from..to).contains(*offset)).count() as u64
    }

    /// Whether `manifest` has learned all there is.
    fn are_learned(&self, manifest: &v1::Manifest) -> bool {
        self.0.iter().all(|((topic, partition), offsets)| {
            manifest.inputs.iter().any(|range| {
                let last = offsets.last().copied().unwrap_or(-1);
                range.topic == *topic && range.partition == *partition && range.next_offset > last
            })
        })
    }
}

/// Along `parent`, each version has taken every record between its parent's offsets and its own
/// exactly once, or names it as skipped; what it skips further back are pairs that had waited.
fn assert_lineage(settings: &Settings, versions: &[v1::Manifest]) {
    let logs = Logs::read(settings);
    let by_number: BTreeMap<u64, &v1::Manifest> =
        versions.iter().map(|manifest| (manifest.version, manifest)).collect();
    for manifest in versions {
        let parent = manifest.parent.map(|parent| by_number[&parent]);
        let mut groups = 0;
        for range in &manifest.inputs {
            let of_parent = parent.and_then(|parent| {
                parent.inputs.iter().find(|r| r.topic == range.topic && r.partition == range.partition)
            });
            let (from, samples) = of_parent.map_or((0, 0), |range| (range.next_offset, range.samples));
            assert!(from <= range.next_offset && range.gaps.is_empty(), "version {}", manifest.version);
            let first = if range.topic == settings.topics.preference_pairs { 0 } else { from };
            let skipped: u64 = range
                .skipped
                .iter()
                .map(|skipped| {
                    assert!(first <= skipped.from_offset && skipped.to_offset <= range.next_offset);
                    logs.count(&range.topic, range.partition, skipped.from_offset, skipped.to_offset)
                })
                .sum();
            let there = logs.count(&range.topic, range.partition, from, range.next_offset);
            assert_eq!(range.samples + skipped, samples + there, "version {}: {range:?}", manifest.version);
            assert_named_once(range, manifest, &by_number);
            groups += if range.topic == settings.topics.behavior_groups { range.samples } else { 0 };
        }
        // Counted by the training state, which comes back from the checkpoint with the parameters.
        assert_eq!(manifest.behavior_groups_learned, groups, "version {}", manifest.version);
    }
}

/// No ancestor of `manifest` has skipped what it skips itself in `range`.
fn assert_named_once(
    range: &v1::LearnedRange,
    manifest: &v1::Manifest,
    versions: &BTreeMap<u64, &v1::Manifest>,
) {
    let mut parent = manifest.parent;
    while let Some(ancestor) = parent.map(|parent| versions[&parent]) {
        let same = |r: &&v1::LearnedRange| r.topic == range.topic && r.partition == range.partition;
        for earlier in ancestor.inputs.iter().filter(same).flat_map(|r| &r.skipped) {
            let apart = |s: &v1::SkippedRange| {
                s.to_offset <= earlier.from_offset || earlier.to_offset <= s.from_offset
            };
            assert!(range.skipped.iter().all(apart), "version {}: {range:?}", manifest.version);
        }
        parent = ancestor.parent;
    }
}

/// Numbers only rise; who goes on after a break goes on from the newest checkpoint; production never
/// falls back. How many breaks there were.
fn assert_order(settings: &Settings, versions: &[v1::Manifest]) -> usize {
    let mut breaks = 0;
    for pair in versions.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert!(before.version < after.version);
        if after.parent != Some(before.version) {
            breaks += 1;
            let checkpoints = versions.iter().filter(|m| m.version < after.version);
            let newest = checkpoints.filter(|m| m.kind() == VersionKind::Checkpoint).map(|m| m.version).max();
            assert_eq!(after.parent, newest, "version {}", after.version);
        }
    }
    let topic = settings.topics.registry(&settings.model.name);
    let mut production: BTreeMap<(String, i32), i64> = BTreeMap::new();
    for record in Kafka::shared().read_to_end(&topic) {
        if record.key.as_deref() == Some(PRODUCTION.as_bytes()) {
            let version = record.decode::<v1::VersionPointer>().version;
            let manifest = versions.iter().find(|m| m.version == version).expect("production exists");
            for range in &manifest.inputs {
                let last = production.entry((range.topic.clone(), range.partition)).or_insert(0);
                assert!(*last <= range.next_offset, "version {version} took production back");
                *last = range.next_offset;
            }
        }
    }
    breaks
}

#[test]
fn invariants_1_and_7_a_trainer_killed_on_the_way_goes_on_from_the_newest_checkpoint_on_an_empty_disk() {
    let line = line("resume");
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    for round in 0..2 {
        samples.write(600);
        let before = registry(&settings).highest_version;
        let mut trainer = start(&line, &[]);
        // Killed in the middle: behind a checkpoint, so that a branch of serving versions is lost.
        eventually(DEADLINE, "a serving version stands behind a new checkpoint", || {
            let registry = registry(&settings);
            let checkpoint = registry.newest_checkpoint().map_or(0, |checkpoint| checkpoint.version);
            if registry.highest_version > before + 1 && checkpoint < registry.highest_version {
                return checkpoint > before;
            }
            // A trainer that has learned all there is waits for more.
            samples.write(50);
            false
        });
        trainer.kill();
        let goes_on = trainer.output().contains("goes on from a checkpoint");
        assert_eq!(goes_on, round > 0, "round {round}: {}", trainer.output());
    }
    samples.write(200);
    let logs = Logs::read(&settings);
    let mut trainer = start(&line, &[]);
    eventually(DEADLINE, "everything is learned", || {
        registry(&settings).versions.values().next_back().is_some_and(|newest| logs.are_learned(newest))
    });
    trainer.terminate();
    assert!(trainer.wait(DEADLINE).success(), "SIGTERM drains");

    let versions = eventually_some(DEADLINE, "the checkpoint of a clean stop is visible", || {
        let versions = versions(&settings);
        let last = versions.last()?;
        (last.kind() == VersionKind::Checkpoint && logs.are_learned(last)).then_some(versions)
    });
    assert_lineage(&settings, &versions);
    assert!(assert_order(&settings, &versions) > 0, "no kill cut a branch off");
    let skipped = versions.iter().flat_map(|m| &m.inputs).flat_map(|range| &range.skipped);
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
        let mut trainer = start(&line, &[]);
        eventually(DEADLINE, "everything is learned or skipped", || {
            registry(&settings).versions.values().next_back().is_some_and(|newest| logs.are_learned(newest))
        });
        trainer.terminate();
        assert!(trainer.wait(DEADLINE).success());
    }
    let logs = Logs::read(&settings);
    let versions = eventually_some(DEADLINE, "the checkpoint of a clean stop is visible", || {
        let versions = versions(&settings);
        let last = versions.last()?;
        (last.kind() == VersionKind::Checkpoint && logs.are_learned(last)).then_some(versions)
    });
    assert_lineage(&settings, &versions);
    let last = versions.last().expect("a version");
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
    let mut owner = start(&line, &[]);
    eventually(DEADLINE, "the owner publishes", || registry(&settings).highest_version > 0);
    let mut other = start(&line, &[]);
    other.wait_for_output("standing by", DEADLINE);
    samples.write(200);
    let logs = Logs::read(&settings);
    eventually(DEADLINE, "the owner goes on learning beside it", || {
        registry(&settings).versions.values().next_back().is_some_and(|newest| logs.are_learned(newest))
    });
    owner.terminate();
    assert!(owner.wait(DEADLINE).success());
    samples.write(200);
    let logs = Logs::read(&settings);
    eventually(DEADLINE, "the other learns what came since", || {
        registry(&settings).versions.values().next_back().is_some_and(|newest| logs.are_learned(newest))
    });
    other.terminate();
    assert!(other.wait(DEADLINE).success());
    let versions = versions(&settings);
    assert_lineage(&settings, &versions);
    assert_eq!(assert_order(&settings, &versions), 0, "the owner left a checkpoint: nothing was lost");
}

#[test]
fn offsets_that_are_gone_stop_the_trainer_until_a_person_accepts_the_gap_which_is_recorded() {
    let line = line("gap");
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    samples.write(100);
    let mut trainer = start(&line, &[]);
    let logs = Logs::read(&settings);
    eventually(DEADLINE, "everything is learned", || {
        registry(&settings).versions.values().next_back().is_some_and(|newest| logs.are_learned(newest))
    });
    trainer.terminate();
    assert!(trainer.wait(DEADLINE).success());
    let stood_at = registry(&settings).newest_checkpoint().expect("a checkpoint").inputs.clone();

    samples.write(100);
    let groups = &settings.topics.behavior_groups;
    let (_, end) = Kafka::shared().watermarks(groups, 0);
    let admin = Admin::new(&settings.kafka).expect("a valid configuration");
    admin.delete_records_below(groups, 0, end - 10).expect("deleted");

    let mut refused = start(&line, &[]);
    let status = refused.wait(DEADLINE);
    assert_eq!(status.code(), Some(1), "{}", refused.output());
    for word in [groups.as_str(), "partition 0", "train.gap"] {
        assert!(refused.output().contains(word), "{}", refused.output());
    }

    let mut trainer = start(&line, &["--set", "train.gap=accept"]);
    let gap = eventually_some(DEADLINE, "a version records the gap", || {
        let registry = registry(&settings);
        let ranges = registry.versions.values().flat_map(|m| &m.inputs).flat_map(|range| &range.gaps);
        ranges.into_iter().next().cloned()
    });
    let from = stood_at.iter().find(|range| range.topic == *groups && range.partition == 0);
    assert_eq!(Some(gap.from_offset), from.map(|range| range.next_offset));
    assert_eq!(gap.to_offset, end - 10);
    trainer.terminate();
    assert!(trainer.wait(DEADLINE).success());
}
