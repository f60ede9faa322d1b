//! Versions that are damaged, and what two followers make of them.

use std::collections::BTreeMap;

use easq::contract::v1;
use easq::kafka::topics::Admin;
use easq::publish::registry::{PRODUCTION, version_key};
use easq::publish::{FollowEvent, Follower, Refusal, manifest, read_current};
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::Daemon;
use crate::support::model::{DEADLINE, Model, candidate, loaded, next_event, pointer, small_pages};
use crate::support::{Input, Kafka, eventually, eventually_some};

fn sha(bytes: &[u8]) -> bytes::Bytes {
    Sha256::digest(bytes).to_vec().into()
}

/// Damages versions of one model, and looks at what two followers make of them: one in this process,
/// and a daemon with metrics and log.
struct Trial {
    model: Model,
    in_process: tempfile::TempDir,
    follower: Follower,
    _home: tempfile::TempDir,
    daemon: Daemon,
    /// Of the next damaged version.
    number: u64,
    /// Of the next good one.
    step: u64,
    refused: BTreeMap<&'static str, f64>,
}

impl Trial {
    fn new(prefix: &str) -> Self {
        let line = small_pages(prefix);
        let mut model = Model::new(&line);
        let (in_process, home) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let daemon = Daemon::start(&line, home.path());
        model.publish(candidate(10));
        let mut follower = model.follow(in_process.path());
        loaded(&mut follower, 1);
        daemon.until_in_place(1);
        let refused = BTreeMap::new();
        Self { model, in_process, follower, _home: home, daemon, number: 1_000, step: 11, refused }
    }

    /// The newest good version.
    fn good(&self) -> v1::Manifest {
        let registry = self.model.registry();
        registry.versions.get(&self.model.newest).map(|manifest| (**manifest).clone()).expect("it is there")
    }

    /// Writes a record of the page topic with an ordinary producer, and returns where it lies.
    fn write_page(&self, payload: Option<Vec<u8>>) -> i64 {
        let record = Input { partition: Some(0), payload, ..Input::default() };
        Kafka::shared().produce(&self.model.page_topic(), &[record])[0].1
    }

    fn page(&self, page: &v1::Page) -> Vec<u8> {
        let pages = Kafka::shared().read_to_end(&self.model.page_topic());
        let page = pages.into_iter().find(|record| record.offset == page.offset).expect("a page");
        page.payload.expect("its content")
    }

    /// Points production to a version whose record has this value, which both followers refuse; then
    /// publishes a good one, which both take.
    #[track_caller]
    fn refuses(&mut self, value: Option<Vec<u8>>, kind: Refusal, word: &str) {
        let version = self.number;
        self.number += 1;
        let before = read_current(self.in_process.path()).expect("whole");
        let mut records = vec![(PRODUCTION.to_owned(), pointer(version))];
        records.extend(value.map(|value| (version_key(version), value)));
        records.reverse();
        self.model.write(&records);
        match next_event(&mut self.follower) {
            FollowEvent::Kept { current, wanted, kind: found, reason } => {
                assert_eq!((current, wanted), (Some(self.model.newest), version), "{reason}");
                assert_eq!(found, kind, "{reason}");
                assert!(reason.contains(word), "{reason}");
            }
            FollowEvent::Loaded { manifest, .. } => panic!("version {} was loaded", manifest.version),
        }
        assert_eq!(read_current(self.in_process.path()).expect("whole"), before);
        let count = self.refused.entry(kind.as_str()).or_default();
        *count += 1.0;
        let count = *count;
        eventually(DEADLINE, "the daemon counts it", || self.daemon.refused(kind) == count);
        let of_version = format!("version={version}");
        let said = eventually_some(DEADLINE, "the daemon says it", || {
            let output = self.daemon.process.output();
            let is_of_version = |line: &&str| line.contains("version refused") && line.contains(&of_version);
            output.lines().rev().find(is_of_version).map(str::to_owned)
        });
        assert!(said.contains(word), "{said}");
        assert_eq!(self.daemon.metric("easq_follower_version"), self.model.newest as f64);
        assert_eq!(self.daemon.metric("easq_follower_wanted_version"), version as f64);

        self.model.publish(candidate(self.step));
        self.step += 1;
        loaded(&mut self.follower, self.model.newest);
        self.daemon.until_in_place(self.model.newest);
    }

    /// As [`Trial::refuses`] of the newest good version, changed.
    #[track_caller]
    fn refuses_changed(&mut self, kind: Refusal, word: &str, change: impl FnOnce(&mut v1::Manifest)) {
        let mut changed = v1::Manifest { version: self.number, ..self.good() };
        change(&mut changed);
        self.refuses(Some(manifest::encode(&changed)), kind, word);
    }
}

#[test]
fn invariant_8_a_flipped_bit_in_any_page_is_refused_and_the_next_good_version_taken() {
    let mut trial = Trial::new("flipped-page");
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let served = |good: &v1::Manifest| -> Vec<(usize, usize)> {
        let served =
            good.tensors.iter().enumerate().filter(|(_, tensor)| !tensor.name.starts_with("training."));
        served
            .flat_map(|(tensor, described)| (0..described.pages.len()).map(move |page| (tensor, page)))
            .collect()
    };
    let pages = served(&trial.good());
    assert_eq!(pages.len(), 5);
    for (tensor, page) in pages {
        let good = trial.good();
        let described = &good.tensors[tensor].pages[page];
        // A page that nobody has yet: else the follower would not read it.
        let mut wanted = trial.page(described);
        *wanted.last_mut().expect("a byte") ^= 0xaa;
        let mut flipped = wanted.clone();
        let bit = random.random_range(0..flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        let offset = trial.write_page(Some(flipped));
        let name = good.tensors[tensor].name.clone();
        println!("page {page} of {name}, bit {bit}");
        trial.refuses_changed(Refusal::WrongPage, "the SHA-256 of the page", |changed| {
            let page = &mut changed.tensors[tensor].pages[page];
            (page.offset, page.sha256) = (offset, sha(&wanted));
        });
    }
    let tensor_digest = |changed: &mut v1::Manifest| changed.tensors[1].sha256 = vec![1; 32].into();
    trial.refuses_changed(Refusal::WrongPage, "its SHA-256 is not", tensor_digest);
    let cut = trial.write_page(Some(vec![3; 5]));
    trial.refuses_changed(Refusal::WrongPage, "has 5 bytes, the manifest says 8", |changed| {
        let page = &mut changed.tensors[1].pages[0];
        (page.offset, page.sha256) = (cut, sha(&[9; 8]));
    });
}

#[test]
fn invariant_8_a_page_that_is_missing_or_of_another_model_is_refused_and_the_next_good_version_taken() {
    let mut trial = Trial::new("missing-page");
    let content = vec![5; 8];
    let tombstone = trial.write_page(None);
    let pointed = |offset: i64| {
        let page = sha(&content);
        move |changed: &mut v1::Manifest| {
            changed.tensors[1].sha256 = page.clone();
            (changed.tensors[1].pages[0].offset, changed.tensors[1].pages[0].sha256) = (offset, page);
        }
    };
    trial.refuses_changed(Refusal::MissingPage, "is missing", pointed(tombstone));
    let (_, end) = Kafka::shared().watermarks(&trial.model.page_topic(), 0);
    trial.refuses_changed(Refusal::MissingPage, "is gone", pointed(end + 100));
    let (_, end) = Kafka::shared().watermarks(&trial.model.page_topic(), 0);
    trial.refuses_changed(Refusal::MissingPage, "is missing", pointed(end));
    // The page was there, and was deleted.
    let deleted = trial.write_page(Some(content.clone()));
    let last = trial.write_page(Some(vec![0]));
    let admin = Admin::new(&trial.model.settings.kafka).expect("a client");
    admin.delete_records_below(&trial.model.page_topic(), 0, last).expect("deleted");
    trial.refuses_changed(Refusal::MissingPage, "is gone", pointed(deleted));

    // Another model's pages, at the offsets that this one's manifest names.
    let mut other = Model::new(&small_pages("other-model"));
    let theirs = other.publish(candidate(20)).manifest;
    other.settle();
    let page = &theirs.tensors[1].pages[0];
    let records = Kafka::shared().read_to_end(&other.page_topic());
    let record = records.into_iter().find(|record| record.offset == page.offset).expect("a page");
    let offset = trial.write_page(record.payload);
    trial.refuses_changed(Refusal::WrongPage, "the SHA-256 of the page", pointed(offset));
    // And another model's manifest, whole as it is.
    trial.refuses(
        Some(manifest::encode(&v1::Manifest { version: trial.number, ..(*theirs).clone() })),
        Refusal::OtherModel,
        "is of model",
    );
}

#[test]
fn invariant_8_a_damaged_newer_or_absent_manifest_is_refused_and_the_next_good_version_taken() {
    let mut trial = Trial::new("bad-manifest");
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    for _ in 0..5 {
        let whole = manifest::encode(&v1::Manifest { version: trial.number, ..trial.good() });
        let mut flipped = whole.clone();
        // The last 35 bytes are the digest with its tag.
        let bit = random.random_range(0..(whole.len() - 35) * 8);
        println!("bit {bit} of {} bytes", whole.len());
        flipped[bit / 8] ^= 1 << (bit % 8);
        trial.refuses(Some(flipped), Refusal::WrongManifest, "the manifest");
    }
    trial.refuses(Some(b"\xff\xff".to_vec()), Refusal::WrongManifest, "does not decode");
    trial.refuses_changed(Refusal::WrongManifest, "says that it is version", |changed| changed.version = 1);
    trial.refuses_changed(Refusal::WrongManifest, "do not add up", |changed| {
        changed.tensors[0].shape = vec![1]
    });
    trial.refuses_changed(Refusal::NewerFormat, "upgrade easq", |changed| changed.format += 1);
    trial.refuses_changed(Refusal::OtherModel, "is of model 'another'", |changed| {
        changed.model = "another".to_owned();
    });
    trial.refuses(None, Refusal::NoManifest, "holds no manifest");
}
