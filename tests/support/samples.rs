//! What a joiner writes, without a joiner: groups and pairs in transactions, so that the offsets of
//! records have holes between them.

use std::time::Duration;

use easq::contract::v1::{Answer, BehaviorEvent, BehaviorGroup, LabelledView, PreferencePair};
use easq::kafka::Outgoing;
use easq::kafka::transaction::TransactionalProducer;
use easq::settings::Settings;
use easq::supervise::StopToken;
use prost::Message;

use super::{response, view};

const TIMEOUT: Duration = Duration::from_secs(30);
const GROUPS_PER_TRANSACTION: u32 = 50;

/// Writes samples 0, 1, 2, … to the trainer's input topics.
pub struct Samples {
    settings: Settings,
    producer: TransactionalProducer,
    partitions: u32,
    next: u32,
    /// What the first dense feature is multiplied by.
    scale: f32,
}

impl Samples {
    pub fn new(settings: &Settings, partitions: i32) -> Self {
        let id = format!("samples-of-{}", settings.model.name);
        let producer = TransactionalProducer::new(&settings.kafka, &id, TIMEOUT, &StopToken::new());
        let producer = producer.expect("a valid configuration");
        producer.init().expect("transactions");
        Self {
            settings: settings.clone(),
            producer,
            partitions: partitions.unsigned_abs(),
            next: 0,
            scale: 1.0,
        }
    }

    /// From here on the first dense feature is so many times what it was.
    pub fn scale_feature(&mut self, factor: f32) {
        self.scale = factor;
    }

    /// `count` groups, a multiple of 50; a pair with every tenth of them, and with every hundredth a
    /// record that is no group.
    pub fn write(&mut self, count: u32) {
        for _ in 0..count / GROUPS_PER_TRANSACTION {
            let records: Vec<Outgoing> = (0..GROUPS_PER_TRANSACTION).flat_map(|_| self.records()).collect();
            self.producer.begin().expect("a transaction");
            self.producer.deliver(&records).expect("delivered");
            self.producer.commit_outputs().expect("committed");
        }
    }

    fn records(&mut self) -> Vec<Outgoing> {
        let topics = &self.settings.topics;
        let number = self.next;
        self.next += 1;
        // Every third group goes elsewhere, so that partitions are of unequal length.
        let partition = i32::try_from(number % 3 % self.partitions).expect("a partition number");
        let record =
            |topic: &str, payload: Vec<u8>| Outgoing::to(topic).partition(partition).payload(payload);
        let mut group = group(number);
        for features in group.views.iter_mut().filter_map(|view| view.features.as_mut()) {
            features.dense[0] *= self.scale;
        }
        let mut records = vec![record(&topics.behavior_groups, group.encode_to_vec())];
        if number.is_multiple_of(10) {
            records.push(record(&topics.preference_pairs, pair(number).encode_to_vec()));
        }
        if number.is_multiple_of(100) {
            records.push(record(&topics.behavior_groups, vec![0xff; 3]));
        }
        records
    }
}

/// The views of request `number`, whose rewards differ. Some have several ids in a field, or none.
pub fn group(number: u32) -> BehaviorGroup {
    BehaviorGroup {
        request_id: format!("request-{number}"),
        event_time_ms: i64::from(number) + 1_000_000,
        views: (0..4).map(|index| watched(number, index)).collect(),
        ..BehaviorGroup::default()
    }
}

fn watched(number: u32, index: u32) -> BehaviorEvent {
    let user = format!("user-{}", number % 50);
    let mut view = view(&user, &format!("{number}-{index}"), i64::from(number) + 1_000_000);
    if let (Some(engagement), Some(features)) = (&mut view.engagement, &mut view.features) {
        engagement.watched_ms = 1000 * (1 + (number * 7 + index * 5) % 20);
        for (position, value) in features.dense.iter_mut().enumerate() {
            *value = ((number + 3 * index) as f32 * (position + 1) as f32).sin();
        }
        let ids = (0..index)
            .map(|id| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(id.into()));
        features.sparse[1].ids = ids.collect();
        features.sparse.truncate(4 - (number as usize + index as usize) % 2);
    }
    view
}

fn pair(number: u32) -> PreferencePair {
    let labelled = |index, answer| LabelledView {
        view: Some(watched(number, index)),
        response: Some(response("user", &format!("{number}-{index}"), i64::from(number), answer)),
        ..LabelledView::default()
    };
    PreferencePair {
        chosen: Some(labelled(0, Answer::Satisfied)),
        rejected: Some(labelled(1, Answer::Dissatisfied)),
        ..PreferencePair::default()
    }
}
