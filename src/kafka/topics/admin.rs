//! Requests to the cluster about topics. Each blocks until it is answered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::TopicsError;
use super::plan::{Described, Wanted};
use crate::kafka::client::{Context, client_config};
use crate::kafka::identity::are_brokers_a_mock;
use crate::kafka::partition_list;
use crate::settings;

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A connection to the cluster for administration. Not for use inside an asynchronous task.
pub struct Admin {
    client: AdminClient<Context>,
    runtime: tokio::runtime::Runtime,
}

/// Partitions and replicas of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) partitions: i32,
    pub(super) replicas: usize,
}

/// The brokers and topics of the cluster.
pub(super) struct Cluster {
    pub(super) brokers: usize,
    pub(super) topics: BTreeMap<String, Layout>,
}

impl Admin {
    /// For how long a question or a request waits for its answer.
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

    /// # Errors
    /// [`TopicsError::Client`] when librdkafka refuses the properties.
    pub fn new(kafka: &settings::Kafka) -> Result<Self, TopicsError> {
        let client = client_config(kafka, &[], &[])
            .create_with_context(Context::new("administration", ()))
            .map_err(|error| TopicsError::Client { reason: error.to_string() })?;
        // librdkafka answers from a thread of its own; the runtime only waits for it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| TopicsError::Client { reason: error.to_string() })?;
        Ok(Self { client, runtime })
    }

    /// Deletes the records of a partition below `offset`; the low watermark after it, which a
    /// broker may have moved further already.
    ///
    /// # Errors
    /// [`TopicsError::Refused`], for example for a topic that is only compacted.
    pub fn delete_records_below(&self, topic: &str, partition: i32, offset: i64) -> Result<i64, TopicsError> {
        let what = format!("deleting records below {offset} of '{topic}' partition {partition}");
        let list = partition_list([(topic, partition, Offset::Offset(offset))])
            .map_err(|error| refused(&what, &error))?;
        let results = self
            .runtime
            .block_on(self.client.delete_records(&list, &options()))
            .map_err(|error| refused(&what, &error))?;
        let element = results.find_partition(topic, partition);
        let element = element.ok_or_else(|| refused(&what, &KafkaError::NoMessageReceived))?;
        element.error().map_err(|error| refused(&what, &error))?;
        match element.offset() {
            Offset::Offset(low) => Ok(low),
            _ => Ok(offset),
        }
    }

    /// The largest record batch that a topic takes, in bytes. Blocks for up to half a minute.
    ///
    /// # Errors
    /// [`TopicsError::Refused`], for example where the right to ask is not granted.
    pub fn max_message_bytes(&self, topic: &str) -> Result<u64, TopicsError> {
        if are_brokers_a_mock() {
            return Ok(u64::MAX);
        }
        let what = format!("reading the settings of '{topic}'");
        let wanted = [ResourceSpecifier::Topic(topic)];
        let results = self.runtime.block_on(self.client.describe_configs(&wanted, &options()));
        let result = results.map_err(|error| refused(&what, &error))?.pop();
        let resource = result
            .ok_or_else(|| refused(&what, &KafkaError::NoMessageReceived))?
            .map_err(|code| refused(&what, &KafkaError::AdminOp(code)))?;
        let value = settings_of(&resource).remove("max.message.bytes").and_then(|value| value.parse().ok());
        value.ok_or_else(|| refused(&what, &KafkaError::NoMessageReceived))
    }

    /// All topics at once: asking for one by name could create it, where brokers do so.
    pub(super) fn cluster(&self) -> Result<Cluster, TopicsError> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(None, Admin::ANSWER_WITHIN)
            .map_err(|error| refused("listing topics", &error))?;
        let layout = |topic: &rdkafka::metadata::MetadataTopic| Layout {
            partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
            replicas: topic
                .partitions()
                .iter()
                .map(|partition| partition.replicas().len())
                .min()
                .unwrap_or(0),
        };
        Ok(Cluster {
            brokers: metadata.brokers().len(),
            topics: metadata.topics().iter().map(|topic| (topic.name().to_owned(), layout(topic))).collect(),
        })
    }

    /// The effective settings of topics that exist.
    pub(super) fn describe(
        &self,
        topics: &BTreeMap<String, Layout>,
    ) -> Result<BTreeMap<String, Described>, TopicsError> {
        let wanted: Vec<_> = topics.keys().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let results = self
            .runtime
            .block_on(self.client.describe_configs(&wanted, &options()))
            .map_err(|error| refused("reading the settings of topics", &error))?;
        let mut described = BTreeMap::new();
        for result in results {
            let resource = result
                .map_err(|code| refused("reading the settings of a topic", &KafkaError::AdminOp(code)))?;
            let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
            if let Some(layout) = topics.get(name) {
                let config = settings_of(&resource);
                let (partitions, replicas) = (layout.partitions, layout.replicas);
                described.insert(name.clone(), Described { partitions, replicas, config });
            }
        }
        Ok(described)
    }

    /// Creates topics and waits until each partition has a leader. One that exists by now is fine.
    pub(super) fn create(&self, wanted: &[&Wanted], replicas: usize) -> Result<(), TopicsError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let configs: Vec<_> = wanted.iter().map(|wanted| wanted.config(replicas)).collect();
        let replication = i32::try_from(replicas).unwrap_or(i32::MAX);
        let new: Vec<_> = wanted
            .iter()
            .zip(&configs)
            .map(|(wanted, config)| {
                let replication = TopicReplication::Fixed(replication);
                let topic = NewTopic::new(&wanted.name, wanted.partitions, replication);
                config.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let results = self
            .runtime
            .block_on(
                self.client.create_topics(&new, &options().operation_timeout(Some(Admin::ANSWER_WITHIN))),
            )
            .map_err(|error| refused("creating topics", &error))?;
        for (name, code) in results.into_iter().filter_map(Result::err) {
            if code != RDKafkaErrorCode::TopicAlreadyExists {
                return Err(refused(&format!("creating '{name}'"), &KafkaError::AdminOp(code)));
            }
        }
        self.await_leaders(wanted)
    }

    fn await_leaders(&self, wanted: &[&Wanted]) -> Result<(), TopicsError> {
        let since = Instant::now();
        loop {
            let cluster = self.cluster()?;
            match wanted.iter().find(|wanted| !cluster.topics.contains_key(&wanted.name)) {
                None => return Ok(()),
                Some(missing) if since.elapsed() >= Admin::ANSWER_WITHIN => {
                    return Err(TopicsError::Refused {
                        what: format!("creating '{}'", missing.name),
                        reason: format!("no broker serves it after {} s", Admin::ANSWER_WITHIN.as_secs()),
                    });
                }
                Some(_) => std::thread::sleep(LOOK_AGAIN_AFTER),
            }
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(Admin::ANSWER_WITHIN))
}

fn settings_of(resource: &ConfigResource) -> BTreeMap<String, String> {
    let entries = resource.entries.iter();
    entries.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))).collect()
}

fn refused(what: &str, error: &KafkaError) -> TopicsError {
    let reason = match error {
        KafkaError::AdminOp(code) => code.to_string(),
        other => other.to_string(),
    };
    TopicsError::Refused { what: what.to_owned(), reason }
}
