use std::time::Duration;

use super::*;
use crate::telemetry::state::{self, Purpose, State};

const METRICS: &str = "easq_trainer_lag_records{topic=\"groups\",partition=\"1\"} 7\n\
                       easq_train_loss{term=\"main\"} 0.5\n\
                       easq_train_learned_samples{kind=\"pair\"} 40\n\
                       easq_publish_version{kind=\"serving\"} 12\n\
                       easq_publish_production_version 11\n";

fn input(matched: u64, lag_seconds: Option<f64>, stream_time_ms: Option<i64>) -> InputReport {
    InputReport {
        topic: "t".to_owned(),
        outcomes: vec![("matched", matched), ("late", 1)],
        consumed_records: matched + 3,
        waiting_records: 2,
        lag_records: Some(5),
        lag_seconds,
        stream_time_ms,
        ..InputReport::default()
    }
}

fn report(matched: u64, lag_seconds: Option<f64>, stream_time_ms: Option<i64>) -> PartitionReport {
    PartitionReport {
        behavior: input(matched, lag_seconds, stream_time_ms),
        responses: input(matched, Some(0.0), None),
        pairs: vec![("same_user", 4)],
        ..PartitionReport::default()
    }
}

fn status(roles: &[Role], partitions: &BTreeMap<i32, PartitionReport>) -> serde_json::Value {
    let state = State::default();
    state.begin(Purpose {
        command: "run",
        roles: roles.to_vec(),
        joiner_instances: 1,
        model: "main".to_owned(),
        unready_after: Duration::ZERO,
    });
    state.instance_is(0, InstanceState::Recovering { partitions: 2 });
    state.client_is_away("trainer groups", "refused");
    state.gate_decided(state::Decision {
        version: 12,
        at_ms: 1_700_000_000_000,
        is_promoted: false,
        tests: vec!["behavior".to_owned()],
        reasons: vec!["worse".to_owned()],
    });
    let samples = Samples::parse(METRICS);
    let sources = Sources { known: &state.known(), samples: &samples, partitions, draining: false };
    let json = Status::new(&sources).to_json();
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(format!("{value:#}\n"), json, "sorted, and the same each time");
    value
}

#[test]
fn inputs_are_summed_and_the_slowest_partition_decides() {
    let partitions =
        BTreeMap::from([(0, report(3, Some(1.5), Some(9_000))), (1, report(4, Some(0.5), Some(8_000)))]);
    let status = status(&[Role::Joiner], &partitions);
    let views = &status["joiner"]["views"];
    assert_eq!((&views["lag_records"], &views["lag_seconds"]), (&10.into(), &1.5.into()));
    assert_eq!(views["stream_time"], "1970-01-01T00:00:08Z");
    assert_eq!(status["joiner"]["partitions"]["1"]["views"]["stream_time"], "1970-01-01T00:00:08Z");
    let funnel = &status["funnel"];
    assert_eq!((&funnel["labels"], &funnel["views"]["waiting"]), (&7.into(), &4.into()));
    assert_eq!(funnel["pairs"]["same_user"], 8);
    assert_eq!(status["joiner"]["instances"]["0"]["recovering_partitions"], 2);
    assert_eq!(status["ready"], false);
    assert!(status["trainer"].is_null() && status["follower"].is_null(), "roles that it does not have");
}

#[test]
fn a_lag_that_is_unknown_of_one_partition_is_unknown_of_the_input() {
    let partitions = BTreeMap::from([(0, report(3, None, None)), (1, report(4, Some(0.5), Some(8_000)))]);
    let status = status(&[Role::Joiner], &partitions);
    let views = &status["joiner"]["views"];
    assert!(views["lag_seconds"].is_null());
    assert_eq!(views["stream_time"], "1970-01-01T00:00:08Z");
}

#[test]
fn the_trainers_figures_are_those_of_the_metrics() {
    let status = status(&[Role::Trainer], &BTreeMap::new());
    let trainer = &status["trainer"];
    assert_eq!(
        (&trainer["lag_records"]["groups"]["1"], &trainer["losses"]["main"]),
        (&7.into(), &0.5.into())
    );
    assert_eq!(
        (&trainer["versions"]["serving"], &trainer["production"]["version"]),
        (&12.into(), &11.into())
    );
    assert!(trainer["production"]["age_seconds"].is_null());
    assert_eq!(trainer["last_decision"]["result"], "refused");
    assert_eq!(trainer["last_decision"]["at"], "2023-11-14T22:13:20Z");
    assert_eq!(status["funnel"]["learned"]["pair"], 40);
    assert!(status["funnel"]["labels"].is_null(), "that is another process's to say");
    assert_eq!(status["kafka_unavailable"]["trainer groups"], "refused");
}
