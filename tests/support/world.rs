//! The synthetic world's records, with faults, in the two input topics of a line.

use easq::kafka::Outgoing;
use easq::settings::{Partitioner, Settings, Topics};
use easq::simulate::{Delivery, Fault, FaultRates, Partitioning, World, WorldConfig};

use super::{Input, Line};

/// Every fault that a log has, often enough to matter in a few ten thousand records.
pub const FAULTS: FaultRates = FaultRates { duplicates: 0.02, late: 0.01, orphans: 0.2, malformed: 0.005 };

/// Questionnaires are far more frequent than in life, so that a short stream has many labels.
pub fn deliveries(
    settings: &Settings,
    views: u64,
    span_ms: i64,
    seed: u64,
    partitions: i32,
) -> Vec<Delivery> {
    let config = WorldConfig {
        seed,
        views,
        span_ms,
        exposure: 0.3,
        answer_rate: 0.3,
        ..WorldConfig::new(&settings.simulate, settings.features.schema_version)
    };
    let world = World::new(config).expect("a world that can be");
    let partitioning = Partitioning { partitions, partitioner: Partitioner::Murmur2Random };
    world.deliveries(FAULTS, partitioning).collect()
}

/// A header that no joiner looks at, of the records that were made to be rejected. Where these lie in
/// the log only the log can tell: a producer that loses its broker may write a record twice.
pub const SPOILED: &str = "spoiled";

pub fn is_spoiled(delivery: &Delivery) -> bool {
    matches!(delivery.fault, Some(Fault::Malformed(_)))
}

/// A record for a producer that writes many.
pub fn outgoing(topics: &Topics, delivery: &Delivery) -> Outgoing {
    let topic = match delivery.input {
        easq::simulate::Input::Behavior => topics.behavior.as_str(),
        easq::simulate::Input::Responses => topics.responses.as_str(),
    };
    Outgoing {
        partition: delivery.partition,
        key: Some(delivery.key.clone()),
        payload: delivery.payload.clone(),
        headers: is_spoiled(delivery).then(|| (SPOILED, Vec::new().into())).into_iter().collect(),
        timestamp_ms: Some(delivery.arrived_ms),
        ..Outgoing::to(topic)
    }
}

/// Writes `deliveries` in their order.
pub fn write(line: &Line, deliveries: &[Delivery]) {
    let topics = line.settings().topics;
    for (topic, input) in [
        (&topics.behavior, easq::simulate::Input::Behavior),
        (&topics.responses, easq::simulate::Input::Responses),
    ] {
        let of_input: Vec<&Delivery> = deliveries.iter().filter(|delivery| delivery.input == input).collect();
        let records: Vec<Input> = of_input.iter().map(|delivery| record(delivery)).collect();
        line.kafka().produce(topic, &records);
    }
}

fn record(delivery: &Delivery) -> Input {
    Input {
        partition: delivery.partition,
        key: Some(delivery.key.to_vec()),
        payload: delivery.payload.as_ref().map(|payload| payload.to_vec()),
        headers: is_spoiled(delivery).then(|| (SPOILED.to_owned(), Vec::new())).into_iter().collect(),
        timestamp_ms: Some(delivery.arrived_ms),
    }
}
