//! What is published is what followers load, whole or not at all (invariant 8), and the page topic
//! stays bounded without losing a page that a kept version needs.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use easq::contract::v1::{self, VersionKind};
use easq::kafka::GroupMetadata;
use easq::kafka::ownership::{Owned, Ownership};
use easq::kafka::reader::LogReader;
use easq::kafka::transaction::TransactionalProducer;
use easq::model::{Dtype, HostTensor};
use easq::publish::registry::{PIN, PRODUCTION, Registry, RegistryReader, version_key};
use easq::publish::{Candidate, FollowEvent, Follower, Published, Publisher, files, manifest};
use easq::settings::Settings;
use easq::supervise::StopToken;
use prost::Message;
use support::{Input, Kafka, Line, eventually, eventually_some};

const DEADLINE: Duration = Duration::from_secs(30);
const PAGE_BYTES: usize = 4096;

/// A model with its two topics and this test as its owner.
struct Model {
    settings: Settings,
    ownership: Ownership,
    publisher: Publisher,
    /// The newest version published.
    newest: u64,
}

impl Model {
    fn new(line: &Line) -> Self {
        let settings = line.settings();
        let name = &settings.model.name;
        Kafka::shared().create_topic(&settings.topics.model(name), 1);
        let compact = [("cleanup.policy", "compact")];
        Kafka::shared().create_topic_with(&settings.topics.registry(name), 1, &compact);
        Self::take_over(settings)
    }

    /// As a trainer does at its start: ownership, transactions, registry.
    fn take_over(settings: Settings) -> Self {
        let ownership = own(&settings);
        let stop = StopToken::new();
        let id = format!("test-{}", settings.model.name);
        let producer =
            TransactionalProducer::new(&settings.kafka, &id, DEADLINE, &stop).expect("a valid configuration");
        producer.init().expect("transactions");
        let registry = RegistryReader::open(&settings, "test registry", &stop).expect("a registry");
        let publisher = Publisher::new(&settings, producer, registry, None, &stop).expect("a publisher");
        Self { settings, ownership, publisher, newest: 0 }
    }

    fn publish(&mut self, candidate: Candidate) -> Published {
        let group = || self.ownership.group_metadata();
        let published = self.publisher.publish(candidate, &group).expect("published");
        self.newest = published.manifest.version;
        published
    }

    /// The registry once it shows all that was published: a commit returns when its outcome is
    /// certain, which is somewhat before the last reader sees it.
    fn registry(&self) -> Registry {
        eventually_some(DEADLINE, "the newest version is visible", || {
            let reader = RegistryReader::open(&self.settings, "test reader", &StopToken::new());
            let registry = reader.expect("a registry").registry;
            (registry.highest_version >= self.newest).then_some(registry)
        })
    }

    fn registry_topic(&self) -> String {
        self.settings.topics.registry(&self.settings.model.name)
    }

    fn page_topic(&self) -> String {
        self.settings.topics.model(&self.settings.model.name)
    }

    fn follow(&self, dir: &Path) -> Follower {
        Follower::new(&self.settings, dir, 2, &StopToken::new()).expect("a follower")
    }

    /// Writes to the registry as a person or a broken writer does.
    fn write(&self, records: &[(String, Vec<u8>)]) {
        let input = |(key, value): &(String, Vec<u8>)| Input {
            key: Some(key.clone().into_bytes()),
            payload: Some(value.clone()),
            ..Input::default()
        };
        Kafka::shared().produce(&self.registry_topic(), &records.iter().map(input).collect::<Vec<_>>());
    }
}

fn own(settings: &Settings) -> Ownership {
    let group = format!("easq-trainer-{}", settings.model.name);
    let topic = settings.topics.registry(&settings.model.name);
    let ownership = Ownership::join(settings, &group, &topic).expect("a valid configuration");
    eventually(DEADLINE, "this test owns the model", || {
        ownership.poll(Duration::from_millis(20)).expect("a membership") == Owned::Yes
    });
    ownership
}

fn line(prefix: &str) -> Line {
    Line::new(prefix)
        .set("publish.page_bytes", PAGE_BYTES)
        .set("publish.keep_versions", 2)
        .set("train.session_timeout_ms", 3_000)
        .set("train.heartbeat_interval_ms", 500)
}

fn tensor(name: &str, bytes: Vec<u8>) -> HostTensor {
    HostTensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![bytes.len()], data: bytes.into() }
}

/// Three pages of a backbone tensor that never change but where `step` says, one that always does,
/// LoRA, and training state.
fn candidate(step: u64) -> Candidate {
    let mut still = vec![0; 3 * PAGE_BYTES];
    still[PAGE_BYTES] = 1;
    still[2 * PAGE_BYTES] = 2;
    Candidate {
        kind: if step.is_multiple_of(10) { VersionKind::Checkpoint } else { VersionKind::Serving },
        tensors: vec![
            tensor("main.gate.weight", still),
            tensor("projection.bias", step.to_le_bytes().to_vec()),
            tensor("projection.lora_A.weight", vec![7; 12]),
            tensor("training.step", vec![step as u8; 3]),
        ],
        inputs: Vec::new(),
        event_time_watermark_ms: 5,
        step,
        behavior_groups_learned: step,
        preference_pairs_learned: 0,
        progressive: v1::ProgressiveMetrics::default(),
    }
}

fn next_event(follower: &mut Follower) -> FollowEvent {
    eventually_some(DEADLINE, "the follower has something to tell", || {
        follower.poll(Duration::from_millis(20)).expect("a registry that can be read")
    })
}

fn loaded(follower: &mut Follower, version: u64) -> usize {
    match next_event(follower) {
        FollowEvent::Loaded { manifest, pages_read } => {
            assert_eq!(manifest.version, version);
            pages_read
        }
        kept @ FollowEvent::Kept { .. } => panic!("version {version} was not loaded: {kept:?}"),
    }
}

fn current_tensors(dir: &Path) -> Vec<HostTensor> {
    let mut tensors =
        files::read_tensors(&dir.join("current").join(files::MODEL)).expect("safetensors files");
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

fn pointer(version: u64) -> Vec<u8> {
    v1::VersionPointer { version, ..v1::VersionPointer::default() }.encode_to_vec()
}

#[test]
fn a_follower_loads_exactly_what_was_published_but_for_the_training_state() {
    let mut model = Model::new(&line("exactly"));
    let published = model.publish(candidate(10));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut follower = model.follow(dir.path());
    loaded(&mut follower, 1);
    assert!(follower.is_up_to_date());

    let mut expected = candidate(10).tensors;
    expected.retain(|tensor| !tensor.name.starts_with("training."));
    assert_eq!(current_tensors(dir.path()), expected);
    let written = files::read_manifest(&dir.path().join("current")).expect("a manifest");
    assert_eq!(written, *published.manifest);
    assert_eq!(written.tensors.len(), 4, "the manifest is that of the checkpoint");
}

#[test]
fn a_follower_reads_only_pages_that_changed_and_so_does_a_publish_write() {
    let mut model = Model::new(&line("changed"));
    assert_eq!(model.publish(candidate(10)).pages_written, 6);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut follower = model.follow(dir.path());
    assert_eq!(loaded(&mut follower, 1), 5);

    let second = model.publish(candidate(11));
    assert_eq!(second.pages_written, 2, "the bias, and training.step");
    assert_eq!(loaded(&mut follower, 2), 1, "the bias");
    let pages = || Kafka::shared().read_to_end(&model.page_topic()).len();
    eventually(DEADLINE, "8 pages are visible", || pages() == 8);
    drop(follower);

    // A follower that starts again has the pages of what lies in its folder.
    let mut again = model.follow(dir.path());
    assert_eq!(again.current(), Some(2));
    model.publish(candidate(12));
    assert_eq!(loaded(&mut again, 3), 1);
    assert_eq!(current_tensors(dir.path())[1].data, Bytes::copy_from_slice(&12_u64.to_le_bytes()));
}

#[test]
fn invariant_8_a_version_with_a_wrong_digest_or_a_missing_page_is_refused_and_the_last_one_stays() {
    let mut model = Model::new(&line("refused"));
    let good = model.publish(candidate(10)).manifest;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut follower = model.follow(dir.path());
    loaded(&mut follower, 1);
    let before = current_tensors(dir.path());

    let (_, end) = Kafka::shared().watermarks(&model.page_topic(), 0);
    type Damage = fn(&mut v1::Tensor, i64);
    let broken: [(&str, Damage); 3] = [
        ("SHA-256 of the page", |tensor, _| tensor.pages[0].sha256 = vec![2; 32].into()),
        ("its SHA-256 is not", |tensor, _| tensor.sha256 = vec![1; 32].into()),
        ("is gone", |tensor, end| {
            tensor.pages[0].sha256 = vec![2; 32].into();
            tensor.pages[0].offset = end + 1000;
        }),
    ];
    for (index, (word, damage)) in broken.into_iter().enumerate() {
        let version = 100 + index as u64;
        let mut manifest = v1::Manifest { version, ..(*good).clone() };
        damage(&mut manifest.tensors[1], end);
        model.write(&[
            (version_key(version), manifest::encode(&manifest)),
            (PRODUCTION.to_owned(), pointer(version)),
        ]);
        match next_event(&mut follower) {
            FollowEvent::Kept { current, wanted, reason } => {
                assert_eq!((current, wanted), (Some(1), version));
                assert!(reason.contains(word), "{reason}");
            }
            FollowEvent::Loaded { manifest, .. } => panic!("version {} was loaded", manifest.version),
        }
        assert_eq!(current_tensors(dir.path()), before);
    }
    // A pointer without a manifest is refused as well, and the next whole version is taken.
    model.write(&[(PRODUCTION.to_owned(), pointer(999))]);
    assert!(matches!(next_event(&mut follower), FollowEvent::Kept { current: Some(1), wanted: 999, .. }));
    model.write(&[(PIN.to_owned(), pointer(1))]);
    eventually(DEADLINE, "the follower sees the pin on the version it has", || {
        follower.poll(Duration::from_millis(20)).expect("a registry that can be read");
        follower.is_up_to_date()
    });
}

#[test]
fn the_pin_is_followed_instead_of_production_and_pinned_versions_are_kept() {
    let mut model = Model::new(&line("pinned"));
    model.publish(candidate(11));
    model.write(&[(PIN.to_owned(), pointer(1))]);
    for step in 12..18 {
        model.publish(candidate(step));
    }
    let kept: BTreeSet<u64> = model.registry().versions.into_keys().collect();
    assert_eq!(kept, BTreeSet::from([1, 6, 7]));
    let dir = tempfile::tempdir().expect("a temporary folder");
    loaded(&mut model.follow(dir.path()), 1);
}

#[test]
fn a_pin_counts_in_the_next_publish_after_it_was_written() {
    let mut model = Model::new(&line("fresh"));
    (11..13).for_each(|step| _ = model.publish(candidate(step)));
    for step in 13..23 {
        // The publish that follows keeps two others: the newest, and its own.
        let versions = &model.publisher.registry().versions;
        let pinned = *versions.keys().rev().nth(1).expect("two versions");
        model.write(&[(PIN.to_owned(), pointer(pinned))]);
        model.publish(candidate(step));
        let kept: Vec<u64> = model.publisher.registry().versions.keys().copied().collect();
        assert_eq!(kept, [pinned, pinned + 1, pinned + 2], "step {step}");
    }
}

#[test]
fn no_reader_sees_a_pointer_before_its_version_is_whole() {
    let mut model = Model::new(&line("atomic"));
    let written: usize = (10..20).map(|step| model.publish(candidate(step)).pages_written).sum();
    model.registry();
    let pages = eventually_some(DEADLINE, "all pages are visible", || {
        let pages = Kafka::shared().read_to_end(&model.page_topic());
        (pages.len() == written).then(|| pages.iter().map(|page| page.offset).collect::<BTreeSet<i64>>())
    });
    let mut registry = Registry::default();
    let mut promoted = 0;
    for record in Kafka::shared().read_to_end(&model.registry_topic()) {
        let key = record.key.expect("a key");
        registry.apply(&model.settings.model.name, &key, record.payload.as_deref());
        if key == PRODUCTION.as_bytes() {
            promoted += 1;
            let manifest = registry.production_manifest().expect("production has its manifest");
            let offsets = manifest.tensors.iter().flat_map(|tensor| &tensor.pages).map(|page| page.offset);
            assert!(offsets.into_iter().all(|offset| pages.contains(&offset)), "all its pages are there");
        }
    }
    assert_eq!(promoted, 10);
}

#[test]
fn an_owner_that_has_lost_the_model_publishes_nothing() {
    let mut model = Model::new(&line("fenced"));
    model.publish(candidate(10));
    let lost: GroupMetadata = model.ownership.group_metadata().expect("owned");
    let before = model.registry();
    // Leaving the group and joining it anew begins another generation.
    let settings = model.settings.clone();
    drop(std::mem::replace(&mut model.ownership, own_elsewhere(&settings)));
    eventually(DEADLINE, "another member owns the model", || {
        model.ownership.poll(Duration::from_millis(20)).expect("a membership") == Owned::Yes
    });
    let refused = model.publisher.publish(candidate(11), &|| Some(lost.clone()));
    let refused = refused.expect_err("published with a membership that is over");
    assert!(refused.is_fenced(), "{refused}");
    assert_eq!(model.registry(), before);
    let none = model.publisher.publish(candidate(12), &|| None).expect_err("not the owner");
    assert!(none.is_fenced());
}

/// A membership that waits for its turn.
fn own_elsewhere(settings: &Settings) -> Ownership {
    let group = format!("easq-trainer-{}", settings.model.name);
    let topic = settings.topics.registry(&settings.model.name);
    Ownership::join(settings, &group, &topic).expect("a valid configuration")
}

#[test]
fn the_page_topic_is_trimmed_never_above_a_page_that_a_kept_version_needs() {
    let mut model = Model::new(&line("trimmed"));
    model.publish(candidate(10));
    // The pinned version holds the log back unless its pages move.
    model.write(&[(PIN.to_owned(), pointer(1))]);
    let reader = LogReader::new(&model.settings.kafka, "test watermarks").expect("a valid configuration");
    let watermarks = |topic: &str| reader.watermarks(topic, 0).expect("an answer");
    let (mut longest, mut trims, mut low) = (0, 0, 0);
    for step in 11..300 {
        model.publish(candidate(step));
        let (before, (now, high)) = (low, watermarks(&model.page_topic()));
        low = now;
        trims += usize::from(low > before);
        longest = longest.max(high - low);
        for manifest in model.publisher.registry().versions.values() {
            let offsets = manifest.tensors.iter().flat_map(|tensor| &tensor.pages).map(|page| page.offset);
            let lowest = offsets.min().expect("a version has pages");
            assert!(
                lowest >= low,
                "step {step}: version {} needs {lowest}, {low} is there",
                manifest.version
            );
        }
    }
    assert!(trims > 1, "trimmed {trims} times");
    let (_, high) = watermarks(&model.page_topic());
    assert!(low > high / 2, "trimmed up to {low} of {high}");
    assert!(longest < 700, "at most {longest} records lay there at a time");
    let kept: Vec<u64> = model.registry().versions.into_keys().collect();
    assert_eq!(kept, [1, 281, 289, 290]);

    let dir = tempfile::tempdir().expect("a temporary folder");
    loaded(&mut model.follow(dir.path()), 1);
    let mut expected = candidate(10).tensors;
    expected.pop();
    assert_eq!(current_tensors(dir.path()), expected, "the pinned version's pages have moved unchanged");
    let first = files::read_manifest(&dir.path().join("current")).expect("a manifest");
    assert!(first.tensors[0].pages[0].offset >= low);
}

#[test]
fn version_numbers_go_on_after_a_restart_and_nothing_behind_production_is_promoted() {
    let learned = |offset| {
        let range =
            v1::LearnedRange { topic: "t".to_owned(), next_offset: offset, ..v1::LearnedRange::default() };
        Candidate { inputs: vec![range], ..candidate(11) }
    };
    let mut model = Model::new(&line("numbers"));
    model.publish(candidate(10));
    assert_eq!(model.publish(learned(50)).manifest.parent, Some(1));
    let settings = model.settings.clone();
    drop(model);

    let mut again = Model::take_over(settings);
    let behind = again.publish(learned(49)).manifest;
    assert_eq!(behind.version, 3);
    assert!(!behind.gate.as_ref().is_some_and(|gate| gate.promoted));
    assert_eq!(again.registry().followed(), Some(2));
    assert_eq!(again.publish(learned(50)).manifest.version, 4);
    assert_eq!(again.registry().followed(), Some(4));
}
