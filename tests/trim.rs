//! The page topic stays bounded without losing a page that a kept version needs, whatever holds old
//! versions back, and for however long.

mod support;

use easq::kafka::reader::LogReader;
use easq::publish::registry::PIN;
use easq::publish::{Candidate, StreamSuspect, files};
use support::lineage::History;
use support::model::{Model, candidate, current_tensors, loaded, pointer, small_pages};
use support::trainers::{PARTITIONS, SOON, Trainer, production_learns_all};
use support::{Cluster, Easq, Input, Kafka, Line, Record, Samples, eventually};

/// Looks at the page topic after each publish.
struct Trims {
    reader: LogReader,
    low: i64,
    high: i64,
    trims: usize,
    longest: i64,
}

impl Trims {
    fn new(model: &Model) -> Self {
        let reader = LogReader::new(&model.settings.kafka, "test watermarks").expect("a valid configuration");
        Self { reader, low: 0, high: 0, trims: 0, longest: 0 }
    }

    /// Nothing is gone that a kept version needs.
    #[track_caller]
    fn look(&mut self, model: &Model) {
        let before = self.low;
        (self.low, self.high) = self.reader.watermarks(&model.page_topic(), 0).expect("an answer");
        self.trims += usize::from(self.low > before);
        self.longest = self.longest.max(self.high - self.low);
        for manifest in model.publisher.registry().versions.values() {
            let offsets = manifest.tensors.iter().flat_map(|tensor| &tensor.pages).map(|page| page.offset);
            let lowest = offsets.min().expect("a version has pages");
            let (version, low) = (manifest.version, self.low);
            assert!(lowest >= low, "version {version} needs {lowest}, {low} is there");
        }
    }

    /// The log was trimmed again and again, and never long.
    #[track_caller]
    fn assert_bounded(&self) {
        let Self { low, high, trims, longest, .. } = *self;
        assert!(trims > 1, "trimmed {trims} times");
        assert!(low > high / 2, "trimmed up to {low} of {high}");
        assert!(longest < 700, "at most {longest} records lay there at a time");
    }
}

/// A follower that begins now gets version 1 as it was published, from pages that have moved.
#[track_caller]
fn version_1_is_whole(model: &Model, trims: &Trims) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    loaded(&mut model.follow(dir.path()), 1);
    let mut expected = candidate(10).tensors;
    expected.pop();
    assert_eq!(current_tensors(dir.path()), expected, "its pages have moved unchanged");
    let first = files::read_manifest(&dir.path().join("current")).expect("a manifest");
    assert!(first.tensors[0].pages[0].offset >= trims.low);
}

#[test]
fn a_version_that_was_pinned_long_ago_stays_whole_and_does_not_hold_the_log() {
    let mut model = Model::new(&small_pages("trimmed"));
    model.publish(candidate(10));
    model.write(&[(PIN.to_owned(), pointer(1))]);
    let mut trims = Trims::new(&model);
    for step in 11..300 {
        model.publish(candidate(step));
        trims.look(&model);
    }
    trims.assert_bounded();
    let kept: Vec<u64> = model.registry().versions.into_keys().collect();
    assert_eq!(kept, [1, 281, 289, 290]);
    version_1_is_whole(&model, &trims);
}

#[test]
fn production_that_is_held_back_for_long_stays_whole_and_does_not_hold_the_log() {
    let line = small_pages("held-back").set("gate.rollback_after", 1_000_000);
    let mut model = Model::new(&line);
    model.publish(candidate(10));
    let suspicion = StreamSuspect { reasons: vec!["for a very long time".to_owned()], since_ms: 0 };
    let mut trims = Trims::new(&model);
    for step in 11..300 {
        let refused = Candidate { suspicion: Some(suspicion.clone()), ..candidate(step) };
        model.publish(refused);
        trims.look(&model);
    }
    trims.assert_bounded();
    let registry = model.registry();
    assert_eq!(registry.followed(), Some(1));
    // It is production and the newest checkpoint that passed; 281 is the newest of all.
    assert_eq!(registry.versions.into_keys().collect::<Vec<_>>(), [1, 281, 289, 290]);
    version_1_is_whole(&model, &trims);

    model.publish(candidate(300));
    assert_eq!(model.registry().followed(), Some(291));
}

/// What brokers keep for a week or a day if nobody says otherwise, they keep here for seconds.
const FORGETFUL: &str = "log.retention.ms=1000\n\
    log.retention.check.interval.ms=500\n\
    log.initial.task.delay.ms=500\n\
    log.segment.delete.delay.ms=100\n\
    log.cleaner.backoff.ms=500\n\
    log.cleaner.delete.retention.ms=1000\n\
    transactional.id.expiration.ms=15000\n\
    transaction.remove.expired.transaction.cleanup.interval.ms=500\n\
    producer.id.expiration.ms=15000\n\
    producer.id.expiration.check.interval.ms=500\n\
    offsets.retention.minutes=1\n\
    offsets.retention.check.interval.ms=500\n";

#[test]
fn a_trainer_that_was_stopped_for_longer_than_brokers_remember_goes_on() {
    let cluster = Cluster::start_with(1, 0, FORGETFUL);
    let kafka = cluster.kafka();
    let line = Line::on(kafka, "stopped").set("publish.interval_ms", 100).set("train.batch_age_ms", 20);
    // As a person creates them: what they keep must not depend on the brokers' defaults.
    let create = ["topics", "create", "--inputs", "--partitions", &PARTITIONS.to_string()];
    let (status, output) = Easq::run(line.arguments(&create), SOON);
    assert!(status.success(), "{output}");
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    let trainer = Trainer::start(&line);
    samples.write(200);
    production_learns_all(&line);
    trainer.stop();
    let before = History::read(&settings);

    // A topic with the brokers' defaults loses what it holds, and the transactional id is forgotten.
    let canary = Kafka::unique("canary");
    kafka.create_topic_with(&canary, 1, &[]);
    kafka.produce(&canary, &[Input::default()]);
    eventually(SOON, "retention has emptied a topic with the defaults", || {
        kafka.watermarks(&canary, 0) == (1, 1)
    });
    let id = format!("easq-trainer-{}", settings.model.name);
    eventually(SOON, "the transactional id has expired", || {
        let states = kafka.read_to_end("__transaction_state");
        let is_of_trainer = |record: &&Record| {
            record.key.as_ref().is_some_and(|key| key.windows(id.len()).any(|part| part == id.as_bytes()))
        };
        states.iter().rfind(is_of_trainer).is_some_and(|last| last.payload.is_none())
    });

    let dir = tempfile::tempdir().expect("a folder");
    let stop = easq::supervise::StopToken::new();
    let mut follower = easq::publish::Follower::new(&settings, dir.path(), 2, &stop).expect("a follower");
    eventually(SOON, "a new follower takes production", || {
        follower.poll(std::time::Duration::from_millis(20)).expect("a registry that can be read");
        follower.is_up_to_date()
    });
    let trainer = Trainer::start(&line);
    // What wrote the samples is forgotten as well.
    Samples::new(&settings, PARTITIONS).write(200);
    production_learns_all(&line);
    trainer.stop();
    let after = History::read(&settings);
    after.assert_lineage();
    let last = before.versions.last().expect("versions").version;
    let next = after.versions.iter().find(|version| version.version > last).expect("new versions");
    assert_eq!(next.parent, Some(last), "it went on from the checkpoint of its clean stop");
}
