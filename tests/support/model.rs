//! A model that a test publishes, without a trainer.

use std::path::Path;
use std::time::Duration;

use easq::contract::v1::{self, VersionKind};
use easq::kafka::ownership::{Owned, Ownership};
use easq::kafka::transaction::TransactionalProducer;
use easq::model::{Dtype, HostTensor};
use easq::publish::registry::{Registry, RegistryReader};
use easq::publish::{Candidate, FollowEvent, Follower, PublishError, Published, Publisher, files};
use easq::settings::Settings;
use easq::supervise::StopToken;
use prost::Message;

use super::{Input, Kafka, Line, eventually, eventually_some, lineage};

pub const DEADLINE: Duration = Duration::from_secs(90);
pub const PAGE_BYTES: usize = 4096;

/// A model with its two topics and this test as its owner.
pub struct Model {
    kafka: Kafka,
    pub settings: Settings,
    pub ownership: Ownership,
    pub publisher: Publisher,
    /// The newest version published.
    pub newest: u64,
}

impl Model {
    pub fn new(line: &Line) -> Self {
        let settings = line.settings();
        let name = &settings.model.name;
        line.kafka().create_topic(&settings.topics.model(name), 1);
        let compact = [("cleanup.policy", "compact")];
        line.kafka().create_topic_with(&settings.topics.registry(name), 1, &compact);
        Self::take_over(line)
    }

    /// As a trainer does at its start: ownership, transactions, registry.
    pub fn take_over(line: &Line) -> Self {
        let settings = line.settings();
        let ownership = own(&settings);
        let stop = StopToken::new();
        let id = format!("test-{}", settings.model.name);
        let producer =
            TransactionalProducer::new(&settings.kafka, &id, DEADLINE, &stop).expect("a valid configuration");
        producer.init().expect("transactions");
        let registry = RegistryReader::open(&settings, "test registry", &stop).expect("a registry");
        let publisher = Publisher::new(&settings, producer, registry, None, &stop).expect("a publisher");
        Self { kafka: line.kafka().clone(), settings, ownership, publisher, newest: 0 }
    }

    #[track_caller]
    pub fn publish(&mut self, candidate: Candidate) -> Published {
        self.try_publish(candidate).expect("published")
    }

    pub fn try_publish(&mut self, candidate: Candidate) -> Result<Published, PublishError> {
        // A member that does not ask for long has left.
        self.ownership.poll(Duration::ZERO).expect("a membership");
        let group = || self.ownership.group_metadata();
        let published = self.publisher.publish(candidate, &group)?;
        self.newest = published.manifest.version;
        Ok(published)
    }

    /// The registry once it shows all that was published: a commit returns when its outcome is
    /// certain, which is somewhat before the last reader sees it.
    pub fn registry(&self) -> Registry {
        eventually_some(DEADLINE, "the newest version is visible", || {
            let registry = lineage::registry(&self.settings);
            (registry.highest_version >= self.newest).then_some(registry)
        })
    }

    /// Waits until readers see all that was published.
    #[track_caller]
    pub fn settle(&self) {
        for topic in [self.registry_topic(), self.page_topic()] {
            self.kafka.settle(&topic);
        }
    }

    pub fn registry_topic(&self) -> String {
        self.settings.topics.registry(&self.settings.model.name)
    }

    pub fn page_topic(&self) -> String {
        self.settings.topics.model(&self.settings.model.name)
    }

    pub fn follow(&self, dir: &Path) -> Follower {
        Follower::new(&self.settings, dir, 2, &StopToken::new()).expect("a follower")
    }

    /// Writes to the registry as a person or a broken writer does.
    pub fn write(&self, records: &[(String, Vec<u8>)]) {
        let input = |(key, value): &(String, Vec<u8>)| Input {
            key: Some(key.clone().into_bytes()),
            payload: Some(value.clone()),
            ..Input::default()
        };
        self.kafka.produce(&self.registry_topic(), &records.iter().map(input).collect::<Vec<_>>());
    }
}

pub fn own(settings: &Settings) -> Ownership {
    let group = format!("easq-trainer-{}", settings.model.name);
    let topic = settings.topics.registry(&settings.model.name);
    let ownership = Ownership::join(settings, &group, &topic).expect("a valid configuration");
    eventually(DEADLINE, "this test owns the model", || {
        ownership.poll(Duration::from_millis(20)).expect("a membership") == Owned::Yes
    });
    ownership
}

pub fn small_pages(prefix: &str) -> Line {
    Line::new(prefix)
        .set("publish.page_bytes", PAGE_BYTES)
        .set("publish.keep_versions", 2)
        // No stall of the machine costs a test its model.
        .set("train.session_timeout_ms", 60_000)
}

pub fn tensor(name: &str, bytes: Vec<u8>) -> HostTensor {
    HostTensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![bytes.len()], data: bytes.into() }
}

/// Three pages of a backbone tensor that never change but where `step` says, one that always does,
/// LoRA, and training state.
pub fn candidate(step: u64) -> Candidate {
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
        ..Candidate::default()
    }
}

pub fn next_event(follower: &mut Follower) -> FollowEvent {
    eventually_some(DEADLINE, "the follower has something to tell", || {
        follower.poll(Duration::from_millis(20)).expect("a registry that can be read")
    })
}

pub fn loaded(follower: &mut Follower, version: u64) -> usize {
    eventually_some(DEADLINE, &format!("version {version} is loaded"), || {
        match follower.poll(Duration::from_millis(20)).expect("a registry that can be read")? {
            FollowEvent::Loaded { manifest, pages_read } => {
                assert_eq!(manifest.version, version);
                Some(pages_read)
            }
            // What was refused before is tried again until the follower hears of this one.
            FollowEvent::Kept { wanted, .. } if wanted != version => None,
            kept @ FollowEvent::Kept { .. } => panic!("version {version} was not loaded: {kept:?}"),
        }
    })
}

pub fn current_tensors(dir: &Path) -> Vec<HostTensor> {
    let mut tensors =
        files::read_tensors(&dir.join("current").join(files::MODEL)).expect("safetensors files");
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

pub fn pointer(version: u64) -> Vec<u8> {
    v1::VersionPointer { version, ..v1::VersionPointer::default() }.encode_to_vec()
}
