//! What a model's registry says of its versions, and whether their lineage holds.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use easq::contract::v1::{self, VersionKind};
use easq::kafka::reader::ReadError;
use easq::publish::registry::{PRODUCTION, Registry, RegistryReader};
use easq::publish::{FollowEvent, Follower, PublishError, manifest};
use easq::settings::Settings;
use easq::supervise::StopToken;

use super::{Kafka, Record, eventually_some};

/// The brokers that the settings name.
fn brokers(settings: &Settings) -> Kafka {
    Kafka::at(&settings.kafka.bootstrap_servers, 1)
}

/// Brokers of a machine that stands still for a while answer afterwards.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// What a reader of the registry sees now.
#[track_caller]
pub fn registry(settings: &Settings) -> Registry {
    let read = || match RegistryReader::open(settings, "test reader", &StopToken::new()) {
        Ok(reader) => Some(reader.registry),
        Err(PublishError::Read(ReadError::Unavailable { .. })) => None,
        Err(error) => panic!("{error}"),
    };
    eventually_some(ANSWER_WITHIN, "the registry can be read", read)
}

/// Everything that was ever committed to the registry of a model, read at once.
pub struct History {
    settings: Settings,
    /// Every version, in the order of the log, also those that have gone since.
    pub versions: Vec<v1::Manifest>,
    /// What production pointed to, one after the other.
    production: Vec<u64>,
}

impl History {
    pub fn read(settings: &Settings) -> Self {
        let topic = settings.topics.registry(&settings.model.name);
        let (mut versions, mut production) = (Vec::new(), Vec::new());
        for record in brokers(settings).read_to_end(&topic) {
            let (Some(key), Some(value)) = (&record.key, &record.payload) else { continue };
            let key = std::str::from_utf8(key).expect("a key in UTF-8");
            if key == PRODUCTION {
                production.push(record.decode::<v1::VersionPointer>().version);
            }
            let Some(version) = key.strip_prefix("versions/") else { continue };
            let version = version.parse().expect("a number");
            let decoded = manifest::decode(value, version, &settings.model.name).expect("a valid manifest");
            match versions.iter_mut().find(|known: &&mut v1::Manifest| known.version == version) {
                Some(known) => assert_eq!(known.inputs, decoded.inputs, "moved pages change nothing else"),
                None => versions.push(decoded),
            }
        }
        Self { settings: settings.clone(), versions, production }
    }

    /// Along `parent`, each version has taken every record between its parent's offsets and its own
    /// exactly once, or names it as skipped; what it skips further back are pairs that had waited.
    #[track_caller]
    pub fn assert_lineage(&self) {
        let gaps = self.versions.iter().flat_map(|version| &version.inputs).flat_map(|range| &range.gaps);
        assert_eq!(gaps.count(), 0);
        self.assert_lineage_but_for_gaps();
    }

    /// The same where training went back: what it passed over then is named as a gap.
    #[track_caller]
    pub fn assert_lineage_but_for_gaps(&self) {
        let Self { settings, versions, .. } = self;
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
                assert!(from <= range.next_offset, "version {}", manifest.version);
                let gaps = range.gaps.iter().map(|gap| {
                    assert!(from <= gap.from_offset && gap.to_offset <= range.next_offset);
                    logs.count(&range.topic, range.partition, gap.from_offset, gap.to_offset)
                });
                let passed_over: u64 = gaps.sum();
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
                assert_eq!(
                    range.samples + skipped + passed_over,
                    samples + there,
                    "version {}: {range:?}",
                    manifest.version
                );
                assert_named_once(range, manifest, &by_number);
                groups += if range.topic == settings.topics.behavior_groups { range.samples } else { 0 };
            }
            // Counted by the training state, which comes back from the checkpoint with the parameters.
            assert_eq!(manifest.behavior_groups_learned, groups, "version {}", manifest.version);
        }
    }

    /// Numbers only rise; who goes on after a break goes on from the newest checkpoint; production never
    /// falls back. How many breaks there were.
    #[track_caller]
    pub fn assert_order(&self) -> usize {
        let Self { versions, .. } = self;
        let mut breaks = 0;
        for pair in versions.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            assert!(before.version < after.version);
            if after.parent != Some(before.version) {
                breaks += 1;
                let checkpoints = versions.iter().filter(|m| m.version < after.version);
                let newest =
                    checkpoints.filter(|m| m.kind() == VersionKind::Checkpoint).map(|m| m.version).max();
                assert_eq!(after.parent, newest, "version {}", after.version);
            }
        }
        let mut production: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for version in &self.production {
            let manifest = versions.iter().find(|m| m.version == *version).expect("production exists");
            for range in &manifest.inputs {
                let last = production.entry((range.topic.clone(), range.partition)).or_insert(0);
                assert!(*last <= range.next_offset, "version {version} took production back");
                *last = range.next_offset;
            }
        }
        breaks
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

/// How many records lie in each partition in a range of offsets.
pub struct Logs(BTreeMap<(String, i32), Vec<i64>>);

impl Logs {
    pub fn read(settings: &Settings) -> Self {
        let mut logs: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for topic in [&settings.topics.behavior_groups, &settings.topics.preference_pairs] {
            for Record { partition, offset, .. } in brokers(settings).read_to_end(topic) {
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
    pub fn are_learned(&self, manifest: &v1::Manifest) -> bool {
        self.0.iter().all(|((topic, partition), offsets)| {
            manifest.inputs.iter().any(|range| {
                let last = offsets.last().copied().unwrap_or(-1);
                range.topic == *topic && range.partition == *partition && range.next_offset > last
            })
        })
    }
}

/// A reader of the model, as rankers are, while trainers come and go.
pub struct Reader {
    stop: StopToken,
    seen: mpsc::Receiver<v1::Manifest>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reader {
    pub fn start(settings: &Settings) -> Self {
        let (stop, settings) = (StopToken::new(), settings.clone());
        let (sender, seen) = mpsc::channel();
        let stopped = stop.clone();
        let follow = move || {
            let dir = tempfile::tempdir().expect("an empty disk");
            let mut follower = Follower::new(&settings, dir.path(), 2, &stopped).expect("a follower");
            while !stopped.is_stopped() {
                match follower.poll(Duration::from_millis(20)).expect("a registry that can be read") {
                    None => {}
                    Some(FollowEvent::Loaded { manifest, .. }) => {
                        sender.send((*manifest).clone()).expect("the test still listens");
                    }
                    Some(kept) => panic!("a reader met a version that is not whole: {kept:?}"),
                }
            }
        };
        Self { stop, seen, thread: Some(thread::spawn(follow)) }
    }

    /// Ends it. No version that it met was torn, none took it back; how many it loaded.
    #[track_caller]
    pub fn finish(mut self) -> usize {
        self.stop.stop();
        let thread = self.thread.take().expect("it is finished once");
        thread.join().expect("every version that it met was whole");
        let loaded: Vec<v1::Manifest> = self.seen.try_iter().collect();
        for pair in loaded.windows(2) {
            for (before, after) in pair[0].inputs.iter().zip(&pair[1].inputs) {
                assert_eq!((&before.topic, before.partition), (&after.topic, after.partition));
                assert!(before.next_offset <= after.next_offset, "version {} fell back", pair[1].version);
            }
        }
        loaded.len()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.stop();
    }
}
