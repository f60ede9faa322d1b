//! The memory that the join says it takes is the memory that it takes.

mod support;

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use easq::contract::InputRecord;
use easq::join::{Config, Effects, PartitionJoin, Start};
use easq::settings::Settings;
use prost::Message;

const VIEWS: i64 = 200_000;
const START_MS: i64 = 1_700_000_000_000;
const PAGE_BYTES: usize = 4096;

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").expect("Linux tells it");
    let pages: usize = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * PAGE_BYTES
}

/// Groups of one view, and the ids of these views, which no answer can match.
#[test]
fn invariant_12_the_bytes_of_a_window_are_what_it_takes_of_memory() {
    let config = Arc::new(Config::new(&Settings::default(), 1));
    let mut join = PartitionJoin::new(config, 0, Start::At(0), Start::At(0));
    let mut effects = Effects::default();
    let mut view = support::view("user", "", START_MS);
    view.questionnaire_exposed = Some(false);
    let before = resident_bytes();
    for offset in 0..VIEWS {
        let event_time_ms = START_MS + offset / 1000;
        view.event_time_ms = event_time_ms;
        (view.impression_id, view.request_id) = (format!("impression-{offset}"), format!("request-{offset}"));
        let record = InputRecord {
            partition: 0,
            offset,
            timestamp_ms: Some(event_time_ms),
            key: Some(Bytes::from_static(b"user")),
            payload: Some(view.encode_to_vec().into()),
        };
        join.on_view(record, &mut effects).expect("a valid log");
    }
    let gauges = join.gauges();
    assert_eq!(gauges.open_groups, VIEWS as usize, "each view has a group of its own");
    let (took, said) = (resident_bytes() - before, gauges.view_bytes);
    println!("{VIEWS} views in groups of their own: {took} bytes, of which {said} are counted");
    assert!((took * 2 / 3..took * 3 / 2).contains(&said), "{said} counted, {took} taken");
}
