//! The synthetic world's records, written at an even pace whatever happens to the brokers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use easq::contract::partitioner;
use easq::settings::Partitioner;
use easq::simulate::{Delivery, Input};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::support::Line;
use crate::support::world::{SPOILED, is_spoiled};

/// Between two portions.
const TICK: Duration = Duration::from_millis(50);
const FLUSH: Duration = Duration::from_secs(120);

/// Where each input partition ends, as far as it was acknowledged.
pub type Ends = BTreeMap<(String, i32), i64>;

/// What the brokers have acknowledged.
#[derive(Debug, Default)]
pub struct Written {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ends: Ends,
    failed: Option<String>,
}

impl Written {
    pub fn ends(&self) -> Ends {
        self.state.lock().expect("no writer panicked").ends.clone()
    }
}

struct Acknowledgements<'a>(&'a Written);

impl ClientContext for Acknowledgements<'_> {}

impl ProducerContext for Acknowledgements<'static> {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut state = self.0.state.lock().expect("no writer panicked");
        match result {
            Ok(message) => {
                let end = state.ends.entry((message.topic().to_owned(), message.partition())).or_default();
                *end = (*end).max(message.offset() + 1);
            }
            Err((error, message)) => state.failed = Some(format!("{}: {error}", message.topic())),
        }
    }
}

/// Writes `deliveries` evenly over `duration`, then waits until all of them are acknowledged.
///
/// # Panics
/// A record could not be written: the run proves nothing.
pub fn write(
    line: &Line,
    partitions: i32,
    deliveries: &[Delivery],
    duration: Duration,
    written: &'static Written,
) {
    let mut config = line.kafka().client();
    config
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("retry.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500");
    let producer: ThreadedProducer<_> =
        config.create_with_context(Acknowledgements(written)).expect("a valid producer configuration");
    let topics = line.settings().topics;
    let begun = Instant::now();
    let mut next = 0;
    while next < deliveries.len() {
        let share = begun.elapsed().as_secs_f64() / duration.as_secs_f64();
        let until = ((share * deliveries.len() as f64) as usize).min(deliveries.len());
        for delivery in &deliveries[next..until.max(next)] {
            let topic = if delivery.input == Input::Behavior { &topics.behavior } else { &topics.responses };
            send(&producer, topic, partitions, delivery);
        }
        next = until.max(next);
        thread::sleep(TICK); // the pace is the point
    }
    producer.flush(FLUSH).expect("all records are acknowledged");
    let failed = written.state.lock().expect("no delivery panicked").failed.clone();
    assert_eq!(failed, None, "a record was not written");
}

/// The partition is not left to librdkafka: it counts those that a broker tells, and one that has just
/// started does not tell all of them.
fn send(
    producer: &ThreadedProducer<Acknowledgements<'static>>,
    topic: &str,
    partitions: i32,
    delivery: &Delivery,
) {
    let of_key = || partitioner::partition(Partitioner::Murmur2Random, &delivery.key, partitions);
    let spoiled = || OwnedHeaders::new().insert(Header { key: SPOILED, value: Some("") });
    let mut record = BaseRecord {
        topic,
        partition: Some(delivery.partition.unwrap_or_else(of_key)),
        payload: delivery.payload.as_deref(),
        key: Some(&delivery.key[..]),
        timestamp: Some(delivery.arrived_ms),
        headers: is_spoiled(delivery).then(spoiled),
        delivery_opaque: (),
    };
    while let Err((error, back)) = producer.send(record) {
        let passes = [RDKafkaErrorCode::QueueFull, RDKafkaErrorCode::UnknownPartition];
        let passes = passes.map(KafkaError::MessageProduction).contains(&error);
        assert!(passes, "a record was refused for {topic}: {error}");
        record = back;
        producer.poll(TICK);
    }
}
