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

use super::identity;
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
        identity::brokers_are_a_mock();
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

    /// Creates a topic; the broker has no other settings of a topic.
    pub fn create_topic(&mut self, topic: &str, partitions: i32) -> Result<(), EmbeddedError> {
        let failed = |reason: String| EmbeddedError::Create { topic: topic.to_owned(), reason };
        let cluster = self.host.client().mock_cluster().ok_or_else(|| failed("it has stopped".to_owned()))?;
        cluster.create_topic(topic, partitions, 1).map_err(|error| failed(error.to_string()))?;
        drop(cluster);
        self.topics.insert(topic.to_owned(), partitions);
        Ok(())
    }

    /// Points `kafka` at this broker. Its properties become the ones that the broker's limits ask
    /// for: credentials and the like are meant for another broker.
    pub fn connect(&self, kafka: &mut settings::Kafka) {
        kafka.bootstrap_servers.clone_from(&self.bootstrap_servers);
        kafka.properties = BTreeMap::from([("fetch.wait.max.ms".to_owned(), "10".to_owned())]);
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::producer::Producer as _;

    use super::*;
    use crate::kafka::membership::{Membership, Rebalance, Start};
    use crate::kafka::ownership::{Owned, Ownership};
    use crate::kafka::producer::Producer;
    use crate::kafka::reader::{From, LogReader, read_to_end};
    use crate::kafka::topics::Admin;
    use crate::kafka::transaction::TransactionalProducer;
    use crate::kafka::{NextOffset, Outgoing};
    use crate::settings::{Partitioner, Settings};
    use crate::supervise::StopToken;

    const WITHIN: Duration = Duration::from_secs(30);

    fn broker(topics: &[(&str, i32)]) -> (EmbeddedBroker, Settings) {
        let mut broker = EmbeddedBroker::start().expect("a broker");
        for (topic, partitions) in topics {
            broker.create_topic(topic, *partitions).expect("a new topic");
        }
        let mut settings = Settings::default();
        broker.connect(&mut settings.kafka);
        (broker, settings)
    }

    fn transactional(settings: &Settings) -> TransactionalProducer {
        let stop = StopToken::new();
        let producer = TransactionalProducer::new(&settings.kafka, "id", Duration::from_secs(30), &stop);
        let producer = producer.expect("a producer");
        producer.init().expect("a transactional session");
        producer
    }

    #[track_caller]
    fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            match look() {
                Some(found) => return found,
                None => assert!(since.elapsed() < WITHIN, "not within {WITHIN:?}: {what}"),
            }
        }
    }

    #[test]
    fn the_records_of_a_transaction_are_read_back_at_their_offsets() {
        let (_broker, settings) = broker(&[("out", 2)]);
        let producer = transactional(&settings);
        producer.begin().expect("a transaction");
        let record = |partition, payload: &'static str| {
            Outgoing::to("out")
                .partition(partition)
                .key("k")
                .payload(payload)
                .header("h", "v")
                .timestamp_ms(7)
        };
        let offsets = producer.deliver(&[record(0, "a"), record(1, "b"), record(0, "c")]).expect("offsets");
        assert_eq!(offsets, [0, 0, 1]);
        producer.commit_outputs().expect("a commit");
        let mut read = Vec::new();
        let next = read_to_end(&settings.kafka, "out", 0, From::Beginning, &StopToken::new(), |record| {
            read.push(record);
        });
        assert_eq!(next.expect("the end"), 2);
        let payloads: Vec<_> = read.iter().map(|record| record.payload.as_deref()).collect();
        assert_eq!(payloads, [Some(&b"a"[..]), Some(&b"c"[..])]);
        assert_eq!((read[0].header("h").map(|h| &h[..]), read[0].timestamp_ms), (Some(&b"v"[..]), Some(7)));
    }

    /// It would let the question wait for half a minute, and a publisher with it.
    #[test]
    fn how_large_a_record_may_be_is_answered_at_once() {
        let (_broker, settings) = broker(&[("pages", 1)]);
        let admin = Admin::new(&settings.kafka).unwrap();
        let asked = Instant::now();
        assert_eq!(admin.max_message_bytes("pages").unwrap(), u64::MAX);
        assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    }

    #[test]
    fn a_model_has_an_owner_and_its_transactions_commit() {
        let (_broker, settings) = broker(&[("registry", 1)]);
        let ownership = Ownership::join(&settings, "trainer", "registry").expect("a member");
        until("the model is owned", || {
            let owned = ownership.poll(Duration::from_millis(50)).expect("a membership");
            (owned == Owned::Yes).then_some(())
        });
        let producer = transactional(&settings);
        producer.begin().expect("a transaction");
        producer.send(&Outgoing::to("registry").partition(0).payload("manifest")).expect("room");
        let next = NextOffset { topic: "registry".into(), partition: 0, offset: 1, metadata: "m".to_owned() };
        let group = ownership.group_metadata().expect("an owner has group metadata");
        producer.commit(&[next], &group).expect("a commit");
    }

    #[test]
    fn a_joiner_reads_both_inputs_with_one_membership() {
        let defaults = Settings::default();
        let (views, responses) = (defaults.topics.behavior.clone(), defaults.topics.responses.clone());
        let (_broker, settings) = broker(&[(&views, 2), (&responses, 2)]);
        let producer = Producer::new(&settings.kafka, Partitioner::Murmur2Random).expect("a producer");
        for number in 0..100 {
            for topic in [&views, &responses] {
                let record = Outgoing::to(&**topic).key(number.to_string()).payload("p").timestamp_ms(1);
                producer.send(&record).expect("room");
            }
        }
        producer.flush(WITHIN).expect("deliveries");
        assert_eq!(producer.delivered().acknowledged, 200);

        let stop = StopToken::new();
        let mut membership = Membership::join(&settings, "", &stop).expect("a member").expect("not stopped");
        let mut read = [0, 0];
        until("both inputs are read", || {
            let mut records = Vec::new();
            let rebalance =
                membership.poll_responses(500, Duration::from_millis(10), &mut records).expect("responses");
            if let Some(Rebalance::Assigned { partitions }) = rebalance {
                assert_eq!(partitions, [0, 1]);
                let starts = partitions.iter().map(|&partition| Start { partition, views: 0, responses: 0 });
                membership.start(&starts.collect::<Vec<_>>()).expect("a start");
            }
            read[0] += records.len();
            records.clear();
            membership.poll_views(500, Duration::from_millis(10), &mut records).expect("views");
            read[1] += records.len();
            (read == [100, 100]).then_some(())
        });
    }

    #[test]
    fn a_reader_goes_on_after_an_outage() {
        let (broker, settings) = broker(&[("log", 1)]);
        let set_reachable = |reachable: bool| {
            let cluster = broker.host.client().mock_cluster().expect("a cluster");
            if reachable { cluster.broker_up(-1) } else { cluster.broker_down(-1) }.expect("a broker");
        };
        let mut reader = LogReader::new(&settings.kafka, "reader").expect("a reader");
        reader.assign(&[("log", 0, 0)]).expect("an assignment");
        let producer = Producer::new(&settings.kafka, Partitioner::Murmur2Random).expect("a producer");
        let next = || {
            until("a record", || reader.poll(Duration::from_millis(50)).expect("an outage is no error"))
                .offset
        };
        let send = || producer.send(&Outgoing::to("log").payload("p")).expect("room");
        send();
        assert_eq!(next(), 0);
        for round in 1..3_i64 {
            set_reachable(false);
            send();
            for _ in 0..20 {
                assert_eq!(reader.poll(Duration::from_millis(10)).expect("an outage is no error"), None);
            }
            set_reachable(true);
            assert_eq!(next(), round);
        }
        assert_eq!(reader.position("log", 0), Some(3));
    }

    #[test]
    fn records_that_a_partition_dropped_are_noticed() {
        let (broker, settings) = broker(&[("log", 2)]);
        let producer = Producer::new(&settings.kafka, Partitioner::Murmur2Random).expect("a producer");
        broker.check_nothing_dropped().expect("an empty broker has dropped nothing");
        // Bytes that do not compress: the limit counts batches as they were sent.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        for _ in 0..60 {
            let payload: Vec<u8> = (0..100_000).map(|_| noise()).collect();
            producer.send(&Outgoing::to("log").partition(1).payload(payload)).expect("room");
        }
        producer.flush(WITHIN).expect("deliveries");
        let dropped = broker.check_nothing_dropped().expect_err("6 MB do not fit");
        assert!(matches!(&dropped, EmbeddedError::Dropped { partition: 1, .. }), "{dropped}");
    }
}
