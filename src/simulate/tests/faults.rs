//! Faults are what the truth says, and nothing else of the world changes.

use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::contract::InputRecord;
use crate::contract::validate::{self, Limits};
use crate::settings::Partitioner;

const PARTITIONING: Partitioning = Partitioning { partitions: 4, partitioner: Partitioner::Murmur2Random };
const RATES: FaultRates = FaultRates { duplicates: 0.02, late: 0.01, orphans: 0.3, malformed: 0.05 };

fn asked() -> WorldConfig {
    WorldConfig { exposure: 0.5, ..config(11, 8000) }
}

fn deliveries(config: WorldConfig, rates: FaultRates) -> Vec<Delivery> {
    world(config).deliveries(rates, PARTITIONING).collect()
}

fn rejection(delivery: &Delivery, offset: i64) -> Option<&'static str> {
    let record = InputRecord {
        partition: delivery.partition.unwrap_or_else(|| PARTITIONING.of(&delivery.key)),
        offset,
        timestamp_ms: Some(delivery.event_time_ms),
        key: Some(delivery.key.clone()),
        payload: delivery.payload.clone(),
    };
    let limits = Limits::new(&Settings::default(), PARTITIONING.partitions);
    match delivery.input {
        Input::Behavior => validate::behavior(&record, &limits).err(),
        Input::Responses => validate::response(&record, &limits).err(),
    }
    .map(|rejection| rejection.as_str())
}

#[test]
fn exactly_the_malformed_records_are_rejected_each_for_its_reason() {
    let mut reasons = BTreeMap::<Defect, HashSet<&str>>::new();
    for (offset, delivery) in deliveries(asked(), RATES).iter().enumerate() {
        let rejection = rejection(delivery, offset as i64);
        match delivery.fault {
            Some(Fault::Malformed(defect)) => {
                let reason = rejection.unwrap_or_else(|| panic!("{defect:?} is accepted"));
                reasons.entry(defect).or_default().insert(reason);
            }
            _ => assert_eq!(rejection, None, "{:?} is rejected", delivery.fault),
        }
    }
    assert_eq!(reasons.len(), 15, "every defect is made");
    assert!(reasons.values().all(|reasons| reasons.len() == 1), "{reasons:?}");
}

#[test]
fn faults_change_nothing_of_the_world() {
    let plain = deliveries(asked(), FaultRates::default());
    let own = |delivery: &Delivery| matches!(delivery.fault, None | Some(Fault::Late));
    let key =
        |delivery: &Delivery| (delivery.input, delivery.impression_id.clone(), delivery.payload.clone());
    let faulty: HashSet<_> = deliveries(asked(), RATES).iter().filter(|d| own(d)).map(key).collect();
    assert_eq!(faulty.len(), plain.len());
    assert!(plain.iter().all(|delivery| faulty.contains(&key(delivery))));
}

#[test]
fn faults_come_at_their_rates_and_are_counted_exactly() {
    let deliveries = deliveries(asked(), RATES);
    let mut produced = Produced::default();
    deliveries.iter().for_each(|delivery| produced.count(delivery));
    assert_eq!(produced.views, 8000);
    let records = (produced.views + produced.responses) as f64;
    let per_record = |fault: &str| produced.faults[fault] as f64 / records;
    assert!((0.015..0.025).contains(&per_record("duplicate")), "{}", per_record("duplicate"));
    assert!((0.006..0.014).contains(&per_record("late")), "{}", per_record("late"));
    assert!((0.04..0.06).contains(&per_record("malformed")), "{}", per_record("malformed"));
    let per_answer = produced.faults["orphan"] as f64 / produced.responses as f64;
    assert!((0.25..0.35).contains(&per_answer), "{per_answer}");
    let made = produced.faults.values().sum::<u64>() - produced.faults["late"];
    assert_eq!(deliveries.len() as u64, produced.views + produced.responses + made);
    assert_eq!(produced.behavior_records + produced.response_records, deliveries.len() as u64);
}

#[test]
fn a_duplicate_comes_soon_and_a_late_record_long_after() {
    let mut first = std::collections::HashMap::new();
    for delivery in deliveries(asked(), RATES) {
        let key = (delivery.input, delivery.impression_id.clone());
        match delivery.fault {
            None => {
                first.insert(key, delivery);
            }
            Some(Fault::Duplicate) => {
                let original = first.get(&key).expect("a duplicate comes after its original");
                assert_eq!(original.payload, delivery.payload);
                assert!(delivery.arrived_ms - delivery.event_time_ms < 60_000, "it would be late");
            }
            Some(Fault::Late) => {
                assert!(delivery.arrived_ms - delivery.event_time_ms >= 300_000);
            }
            Some(Fault::Orphan | Fault::Malformed(_)) => {}
        }
    }
}

#[test]
fn an_orphan_answers_no_view() {
    let deliveries = deliveries(asked(), RATES);
    let viewed: HashSet<_> =
        deliveries.iter().filter(|d| d.truth.is_some()).map(|d| &d.impression_id).collect();
    let orphans: Vec<_> = deliveries.iter().filter(|d| d.fault == Some(Fault::Orphan)).collect();
    assert!(orphans.len() > 60 && orphans.iter().all(|orphan| !viewed.contains(&orphan.impression_id)));
    let unlike: HashSet<_> = orphans.iter().map(|orphan| &orphan.impression_id).collect();
    assert_eq!(unlike.len(), orphans.len(), "orphans do not repeat each other");
}
