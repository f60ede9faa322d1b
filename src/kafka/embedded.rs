//! A broker inside this process, for the demo: librdkafka's mock cluster. A happy path on one
//! joiner instance for about a minute; never a proof of anything about failure.
//!
//! What it does not do, measured and read in librdkafka 2.12.1 (`rdkafka_mock*.c`):
//! - **A partition keeps its newest 5 MiB** (and 100,000 batches) and drops the oldest batches
//!   without a word; nothing can raise it. Batches count as they were sent, so compressed ones
//!   count compressed. Choose the number of partitions so that the whole run fits, and ask
//!   [`EmbeddedBroker::check_nothing_dropped`] at the end.
//! - **Transactions are accepted and not kept apart**: records are visible as soon as they are
//!   delivered, those of an aborted transaction stay visible, there are no control records, and the
//!   last stable offset is the end of the log. So offsets are dense, and nothing may abort.
//! - **Offsets committed in a transaction are not stored.** An assignment finds none committed,
//!   as in a group's first start; a second assignment would start over. One joiner instance that
//!   keeps its membership needs none.
//! - **An empty fetch waits for its whole `fetch.wait.max.ms`**, also when records arrive
//!   meanwhile, and holds up every other request on its connection; [`EmbeddedBroker::connect`]
//!   lowers it.
//! - A fetch returns one batch per partition, however small. Larger batches read faster.
//! - No offsets by time, no administration (topics are created by [`EmbeddedBroker::create_topic`],
//!   nothing deletes records), no compaction, no retention by time, and timestamps are not checked.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};

use crate::settings;

/// Why the embedded broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("the embedded broker does not start: {reason}")]
    Start { reason: String },
    #[error("the embedded broker cannot create '{topic}': {reason}")]
    Create { topic: String, reason: String },
    #[error("the embedded broker does not answer about '{topic}' partition {partition}: {reason}")]
    Unavailable { topic: String, partition: i32, reason: String },
    #[error(
        "the embedded broker dropped records below offset {low} of '{topic}' partition {partition}: it keeps \
         5 MiB per partition; use more partitions, fewer records, or a real broker"
    )]
    Dropped { topic: String, partition: i32, low: i64 },
}

/// Runs until it is dropped. Drop it after every client.
pub struct EmbeddedBroker {
    /// Owns the mock cluster.
    host: BaseProducer,
    bootstrap_servers: String,
    topics: BTreeMap<String, i32>,
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

impl EmbeddedBroker {
    /// Starts one broker on a free port of the loopback interface.
    pub fn start() -> Result<Self, EmbeddedError> {
        let failed = |error: KafkaError| EmbeddedError::Start { reason: error.to_string() };
        let host: BaseProducer =
            ClientConfig::new().set("test.mock.num.brokers", "1").create().map_err(failed)?;
        let cluster = host.client().mock_cluster().ok_or_else(|| EmbeddedError::Start {
            reason: "librdkafka was built without its mock cluster".to_owned(),
        })?;
        let bootstrap_servers = cluster.bootstrap_servers();
        drop(cluster);
        join_groups_at_once(&host);
        Ok(Self { host, bootstrap_servers, topics: BTreeMap::new() })
    }

    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Creates a topic; the broker has no other settings of a topic.
    pub fn create_topic(&mut self, topic: &str, partitions: i32) -> Result<(), EmbeddedError> {
        let failed = |reason: String| EmbeddedError::Create { topic: topic.to_owned(), reason };
        let cluster = self.host.client().mock_cluster().ok_or_else(|| failed("it has stopped".to_owned()))?;
        cluster.create_topic(topic, partitions, 1).map_err(|error| failed(error.to_string()))?;
        drop(cluster);
        self.topics.insert(topic.to_owned(), partitions);
        Ok(())
    }

    /// Points `kafka` at this broker, with the properties that its limits ask for.
    pub fn connect(&self, kafka: &mut settings::Kafka) {
        kafka.bootstrap_servers.clone_from(&self.bootstrap_servers);
        kafka.properties.insert("fetch.wait.max.ms".to_owned(), "10".to_owned());
    }

    /// Fails when a partition has dropped records, so that what was read since is not everything.
    pub fn check_nothing_dropped(&self) -> Result<(), EmbeddedError> {
        for (topic, &partitions) in &self.topics {
            for partition in 0..partitions {
                let low = self.low_watermark(topic, partition)?;
                if low > 0 {
                    return Err(EmbeddedError::Dropped { topic: topic.clone(), partition, low });
                }
            }
        }
        Ok(())
    }

    fn low_watermark(&self, topic: &str, partition: i32) -> Result<i64, EmbeddedError> {
        let (low, _) =
            self.host.client().fetch_watermarks(topic, partition, REQUEST_TIMEOUT).map_err(|error| {
                EmbeddedError::Unavailable { topic: topic.to_owned(), partition, reason: error.to_string() }
            })?;
        Ok(low)
    }
}

/// Lets a group form with its first member instead of waiting three seconds for others.
#[allow(unsafe_code)]
fn join_groups_at_once(host: &BaseProducer) {
    // SAFETY: the client outlives the call and owns the cluster that belongs to it; the call takes
    // the cluster's own lock and keeps nothing. A null cluster is excluded by the caller.
    unsafe {
        let cluster = rdkafka::bindings::rd_kafka_handle_mock_cluster(host.client().native_ptr());
        rdkafka::bindings::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
    }
}
