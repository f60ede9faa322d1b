//! A world's records on their way to Kafka.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::args::RecordTime;
use super::faults::{Delivery, FaultRates, Input, Partitioning};
use super::pace::Pace;
use super::run::SimulateError;
use super::truth::TruthFile;
use super::world::World;
use crate::kafka::Outgoing;
use crate::kafka::producer::Producer;
use crate::kafka::reader::LogReader;
use crate::settings::Settings;
use crate::supervise::StopToken;

const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// How the records are written.
#[derive(Debug, Clone, Copy)]
pub struct ProduceOptions {
    pub faults: FaultRates,
    /// How long the stream's span takes; `None`: as fast as the brokers take it.
    pub duration: Option<Duration>,
    pub record_time: RecordTime,
}

/// What has been written so far; faults are counted besides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Produced {
    /// Views and answers of the world.
    pub views: u64,
    pub responses: u64,
    pub triggered: u64,
    pub exposed: u64,
    pub satisfied: u64,
    /// All records by topic, faults included.
    pub behavior_records: u64,
    pub response_records: u64,
    /// By name of the fault.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Produced {
    /// Counts one record.
    pub fn count(&mut self, delivery: &Delivery) {
        if let Some(fault) = delivery.fault {
            *self.faults.entry(fault.as_str()).or_default() += 1;
        }
        match delivery.input {
            Input::Behavior => self.behavior_records += 1,
            Input::Responses => self.response_records += 1,
        }
        if let Some(truth) = delivery.truth {
            self.views += 1;
            self.triggered += u64::from(truth.triggered);
            self.exposed += u64::from(truth.exposed);
            self.satisfied += u64::from(truth.satisfied);
        } else if delivery.is_own_response() {
            self.responses += 1;
        }
    }
}

/// Writes all of a world's records, each when its time has come, to the two input topics, and
/// waits until they are delivered; `sent` is told of each. After `stop` only what was written so
/// far.
///
/// # Errors
/// When the topics are not there or unlike, or a record cannot be delivered.
pub fn produce(
    settings: &Settings,
    world: &World,
    options: ProduceOptions,
    mut truth: Option<&mut TruthFile>,
    sent: &mut dyn FnMut(&Delivery, &Produced),
    stop: &StopToken,
) -> Result<Produced, SimulateError> {
    let partitioning = partitioning(settings)?;
    let producer = Producer::new(&settings.kafka, settings.input.partitioner)?;
    let behavior: Arc<str> = settings.topics.behavior.as_str().into();
    let responses: Arc<str> = settings.topics.responses.as_str().into();
    let pace = options.duration.map(|duration| Pace::begin(world.config(), duration));
    let mut produced = Produced::default();
    for delivery in world.deliveries(options.faults, partitioning) {
        if pace.is_some_and(|pace| pace.wait(delivery.arrived_ms, stop)) || stop.is_stopped() {
            break;
        }
        if let Some(truth) = truth.as_deref_mut() {
            truth.write(&delivery)?;
        }
        produced.count(&delivery);
        let topic = match delivery.input {
            Input::Behavior => Arc::clone(&behavior),
            Input::Responses => Arc::clone(&responses),
        };
        producer.send(&outgoing(topic, &delivery, options.record_time))?;
        sent(&delivery, &produced);
    }
    producer.flush(FLUSH_TIMEOUT)?;
    Ok(produced)
}

fn outgoing(topic: Arc<str>, delivery: &Delivery, record_time: RecordTime) -> Outgoing {
    Outgoing {
        topic,
        partition: delivery.partition,
        key: Some(delivery.key.clone()),
        payload: delivery.payload.clone(),
        headers: Vec::new(),
        timestamp_ms: delivery.timestamp_ms(record_time),
    }
}

fn partitioning(settings: &Settings) -> Result<Partitioning, SimulateError> {
    let topics = &settings.topics;
    let reader = LogReader::new(&settings.kafka, "simulate")?;
    let partitions = reader.partitions(&topics.behavior)?;
    let responses_partitions = reader.partitions(&topics.responses)?;
    if partitions != responses_partitions {
        return Err(SimulateError::UnlikePartitions {
            behavior: topics.behavior.clone(),
            behavior_partitions: partitions,
            responses: topics.responses.clone(),
            responses_partitions,
        });
    }
    Ok(Partitioning { partitions, partitioner: settings.input.partitioner })
}
