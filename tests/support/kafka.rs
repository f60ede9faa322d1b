//! A real Apache Kafka: the one at `EASQ_TEST_KAFKA`, or one that this process starts.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{eventually, eventually_some};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// That of records, over the restart of a broker.
const DELIVERED_WITHIN: Duration = Duration::from_secs(300);

/// Brokers to test against: those that every test of this process shares, or a
/// [`Cluster`](super::Cluster) of one test's own.
#[derive(Debug, Clone)]
pub struct Kafka {
    bootstrap: String,
    /// Of the topics that are created on it.
    replicas: i32,
    /// Held so that its standard input stays open: when that closes, which the end of this process
    /// by whatever cause does, `scripts/with-kafka` stops the broker and removes its data.
    _broker: Option<Arc<Child>>,
}

/// A record for [`Kafka::produce`].
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// `None`: chosen by the key's murmur2 hash, as Java's producers do.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    /// `None`: the time of production.
    pub timestamp_ms: Option<i64>,
}

impl Input {
    pub fn new(key: impl Into<Vec<u8>>, payload: impl Into<Vec<u8>>, timestamp_ms: i64) -> Self {
        Self {
            key: Some(key.into()),
            payload: Some(payload.into()),
            timestamp_ms: Some(timestamp_ms),
            ..Self::default()
        }
    }
}

/// A record as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The value of a header as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The payload as a message of the contract.
    #[track_caller]
    pub fn decode<M: prost::Message + Default>(&self) -> M {
        let payload = self.payload.as_deref().expect("a record with a payload");
        M::decode(payload).expect("a payload of this message type")
    }
}

impl Kafka {
    /// The broker of this process; the first call starts one unless `EASQ_TEST_KAFKA` names one.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| {
            let kafka = match std::env::var("EASQ_TEST_KAFKA") {
                Ok(bootstrap) if !bootstrap.is_empty() => Self::at(&bootstrap, 1),
                _ => Self::start(),
            };
            let client: BaseConsumer = kafka.client().create().expect("a valid client configuration");
            if let Err(error) = client.fetch_metadata(None, ANSWER_WITHIN) {
                panic!("the Kafka to test against does not answer at {}: {error}", kafka.bootstrap);
            }
            kafka
        })
    }

    /// Brokers at these addresses, as many as topics get replicas.
    pub fn at(bootstrap: &str, brokers: usize) -> Self {
        let replicas = i32::try_from(brokers).expect("a small number");
        Self { bootstrap: bootstrap.to_owned(), replicas, _broker: None }
    }

    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-kafka");
        // The command prints the address and then lasts until its input ends.
        let mut child = Command::new(script)
            .args(["sh", "-c", r#"echo "$EASQ_TEST_KAFKA"; exec cat"#])
            .env_remove("EASQ_TEST_KAFKA")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{script}: {error}"));
        let mut address = String::new();
        let stdout = child.stdout.take().expect("a piped standard output");
        BufReader::new(stdout).read_line(&mut address).expect("standard output in UTF-8");
        let bootstrap = address.trim().to_owned();
        assert!(!bootstrap.is_empty(), "{script} started no Kafka; what it printed says why");
        Self { _broker: Some(Arc::new(child)), ..Self::at(&bootstrap, 1) }
    }

    /// `host:port`, for `kafka.bootstrap_servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A configuration for a client of the test's own.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("broker.address.family", "v4");
        config
    }

    /// A name that no other test, process or earlier run on this broker uses.
    pub fn unique(prefix: &str) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let since_epoch = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{}-{}-{number}", std::process::id(), since_epoch.as_millis())
    }

    /// Creates a topic that keeps records of any age.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[("retention.ms", "-1")]);
    }

    /// Creates a topic with settings of its own, and waits until the broker serves it.
    pub fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.replicas));
        self.create(settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value)));
    }

    /// Creates a topic that keeps records of any age, each partition on one broker alone: on the one with
    /// this number, from 0.
    pub fn create_topic_on(&self, name: &str, brokers: &[i32]) {
        let ids: Vec<[i32; 1]> = brokers.iter().map(|broker| [broker + 1]).collect();
        let ids: Vec<&[i32]> = ids.iter().map(|id| &id[..]).collect();
        let partitions = i32::try_from(ids.len()).expect("a small number");
        let topic = NewTopic::new(name, partitions, TopicReplication::Variable(&ids));
        self.create(topic.set("retention.ms", "-1"));
    }

    fn create(&self, topic: NewTopic<'_>) {
        let (name, partitions) = (topic.name, topic.num_partitions);
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_WITHIN));
        let admin = self.admin();
        let results = block_on(admin.create_topics([&topic], &options));
        for result in results.expect("an answer to the request to create a topic") {
            result.unwrap_or_else(|(name, error)| panic!("topic {name} was not created: {error}"));
        }
        super::eventually(ANSWER_WITHIN, "the new topic has leaders", || self.partitions(name) == partitions);
    }

    /// Replaces all settings of a topic.
    pub fn configure_topic(&self, name: &str, settings: &[(&str, &str)]) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(name));
        let config = settings.iter().fold(config, |config, (key, value)| config.set(key, value));
        let results = block_on(self.admin().alter_configs([&config], &AdminOptions::new()));
        for result in results.expect("an answer to the request to configure a topic") {
            result.unwrap_or_else(|(_, error)| panic!("topic {name} was not configured: {error}"));
        }
    }

    /// Deletes a topic with all its records, and waits until it is gone.
    #[track_caller]
    pub fn delete_topic(&self, name: &str) {
        let results = block_on(self.admin().delete_topics(&[name], &AdminOptions::new()));
        for result in results.expect("an answer to the request to delete a topic") {
            result.unwrap_or_else(|(name, error)| panic!("topic {name} was not deleted: {error}"));
        }
        eventually(ANSWER_WITHIN, &format!("{name} is gone"), || self.partitions(name) == 0);
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("a valid client configuration")
    }

    /// The names of all topics.
    pub fn topics(&self) -> Vec<String> {
        let client = self.read_committed();
        let metadata = client.fetch_metadata(None, ANSWER_WITHIN).expect("metadata from the broker");
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Partitions with a leader; 0 when the topic does not exist.
    pub fn partitions(&self, topic: &str) -> i32 {
        partitions(&self.client().create().expect("a valid client configuration"), topic).1
    }

    /// Writes records in this order and returns the partition and offset of each once all are there.
    pub fn produce(&self, topic: &str, inputs: &[Input]) -> Vec<(i32, i64)> {
        let producer: FutureProducer = self
            .client()
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .create()
            .expect("a valid producer configuration");
        let queued: Vec<_> = inputs.iter().map(|input| enqueue(&producer, topic, input)).collect();
        producer.flush(DELIVERED_WITHIN).expect("all records delivered");
        let delivered = queued.into_iter().map(|future| {
            match block_on(future).expect("a producer that lives until its deliveries") {
                Ok(delivery) => (delivery.partition, delivery.offset),
                Err((error, _)) => panic!("a record was not written to {topic}: {error}"),
            }
        });
        delivered.collect()
    }

    /// Low and high watermark of a partition; the high one is the last stable offset.
    pub fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let client = self.read_committed();
        client.fetch_watermarks(topic, partition, ANSWER_WITHIN).expect("watermarks of an existing partition")
    }

    /// Waits until no transaction is open in a topic. A commit returns when its outcome is certain,
    /// which is somewhat before readers see it.
    #[track_caller]
    pub fn settle(&self, topic: &str) {
        let client = self.read_committed();
        eventually(ANSWER_WITHIN, &format!("{topic} exists, and no transaction is open in it"), || {
            let (all, led) = partitions(&client, topic);
            let is_settled = |number| self.uncommitted_end(topic, number) == self.watermarks(topic, number).1;
            all > 0 && led == all && (0..all).all(is_settled)
        });
    }

    /// The end of a partition, behind records of transactions that are still open.
    pub fn uncommitted_end(&self, topic: &str, partition: i32) -> i64 {
        let client: BaseConsumer = self
            .client()
            .set("isolation.level", "read_uncommitted")
            .create()
            .expect("a valid client configuration");
        let (_, end) = client.fetch_watermarks(topic, partition, ANSWER_WITHIN).expect("watermarks");
        end
    }

    /// All that a `read_committed` reader sees now, in order of partition and offset.
    pub fn read_to_end(&self, topic: &str) -> Vec<Record> {
        let consumer = self.read_committed();
        // Asked of the client that is to read: without metadata its first fetch is a second late.
        let partitions = eventually_some(ANSWER_WITHIN, &format!("{topic} exists and has leaders"), || {
            let (all, led) = partitions(&consumer, topic);
            (led > 0 && led == all).then_some(led)
        });
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment
                .add_partition_offset(topic, partition, Offset::Beginning)
                .expect("a valid starting offset");
        }
        consumer.assign(&assignment).expect("an assignable list");
        let mut records = Vec::new();
        let mut ended = std::collections::BTreeSet::new();
        let mut last_heard = Instant::now();
        while ended.len() < partitions as usize {
            assert!(last_heard.elapsed() < ANSWER_WITHIN, "the end of {topic} was not reached");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(record(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => _ = ended.insert(partition),
                // One of several brokers may be away, and its partitions come from another soon.
                Some(Err(error)) if is_broker_away(&error) => continue,
                Some(Err(error)) => panic!("reading {topic}: {error}"),
                None => continue,
            }
            last_heard = Instant::now();
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// What a group has committed for a partition, with the metadata string beside it.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
        let client: BaseConsumer =
            self.client().set("group.id", group).create().expect("a valid client configuration");
        // A broker that has just started answers that it is not yet the coordinator of the group.
        let found = super::eventually_some(ANSWER_WITHIN, "the group's offsets are known", || {
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition(topic, partition);
            client.committed_offsets(wanted, ANSWER_WITHIN).ok()
        });
        let element = found.find_partition(topic, partition)?;
        match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        }
    }

    fn read_committed(&self) -> BaseConsumer {
        self.client()
            .set("group.id", "easq-test-reader") // assign() wants one; nothing is committed
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .expect("a valid consumer configuration")
    }
}

/// How many partitions a topic has, and how many of them have a leader.
fn partitions(client: &BaseConsumer, topic: &str) -> (i32, i32) {
    let metadata = client.fetch_metadata(Some(topic), ANSWER_WITHIN).expect("metadata from the broker");
    let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
    let led = partitions.iter().filter(|partition| partition.leader() >= 0).count();
    let number = |count: usize| i32::try_from(count).expect("a partition count that fits");
    (number(partitions.len()), number(led))
}

fn enqueue(producer: &FutureProducer, topic: &str, input: &Input) -> rdkafka::producer::DeliveryFuture {
    let mut record = FutureRecord::<[u8], [u8]>::to(topic);
    record.partition = input.partition;
    record.key = input.key.as_deref();
    record.payload = input.payload.as_deref();
    record.timestamp = input.timestamp_ms;
    if !input.headers.is_empty() {
        let add = |headers: OwnedHeaders, (key, value): &(String, Vec<u8>)| {
            headers.insert(Header { key, value: Some(value) })
        };
        record.headers = Some(input.headers.iter().fold(OwnedHeaders::new(), add));
    }
    loop {
        match producer.send_result(record) {
            Ok(future) => return future,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            Err((error, _)) => panic!("a record was refused for {topic}: {error}"),
        }
    }
}

fn is_broker_away(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, NotLeaderForPartition};
    let code = error.rdkafka_error_code();
    matches!(code, Some(AllBrokersDown | BrokerTransportFailure | NotLeaderForPartition))
}

fn record(message: &impl Message) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let owned =
            |header: Header<&[u8]>| (header.key.to_owned(), header.value.unwrap_or_default().to_vec());
        headers.iter().map(owned).collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime for one future").block_on(future)
}
