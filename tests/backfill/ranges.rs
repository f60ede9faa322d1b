//! What a range needs of the topics, and what is said where that is not there.

use easq::contract::v1::Answer;
use easq::kafka::Outgoing;
use easq::kafka::topics::Admin;
use easq::kafka::transaction::TransactionalProducer;
use easq::supervise::StopToken;
use prost::Message;
use serde_json::Value;

use crate::support::replays::{self, DEADLINE, line, refused, replayed, text, time};
use crate::support::{Easq, Input, Line, response, view};
use crate::{HOUR_MS, MINUTE_MS, RUN};

#[test]
fn a_range_that_is_none_is_wrong_usage() {
    let run = &*RUN;
    let (from_ms, to_ms) = run.range;
    let says = refused(&run.line, (to_ms, from_ms), &["--join-only"], 2);
    assert!(says.contains(&time(to_ms)) && says.contains("does not lie before"), "{says}");
    for (from, hint) in [("2026-01-31T06:00:00", "has no time zone"), ("6h", "-6h"), ("noon", "RFC 3339")] {
        let words = ["backfill", "--from", from, "--to", "now", "--join-only"];
        let (status, output) = Easq::run(run.line.arguments(&words), DEADLINE);
        assert!(status.code() == Some(2) && output.contains(hint), "{output}");
    }
    let says = refused(&run.line, run.range, &[], 2);
    assert!(says.contains("--help"), "{says}");
}

#[test]
fn a_range_with_nothing_in_it_says_what_there_is() {
    let run = &*RUN;
    let newest = run.views.iter().chain(&run.responses).filter_map(|record| record.timestamp_ms).max();
    let newest_ms = newest.expect("records");
    let range = (newest_ms + 4 * HOUR_MS, newest_ms + 5 * HOUR_MS);
    let says = refused(&run.line, range, &["--join-only"], 1);
    assert!(says.contains("hold no record from") && says.contains(&time(newest_ms)), "{says}");
    let empty = line("backfill-empty");
    empty.create_topics(1);
    let says = refused(&empty, range, &["--join-only"], 1);
    assert!(says.ends_with("hold no record"), "{says}");
    let says = refused(&line("backfill-nowhere"), range, &["--join-only"], 1);
    assert!(says.contains("does not exist"), "{says}");
}

/// A view each minute for five hours, in one partition; the first `answered` of them with their answers.
pub fn minutely(prefix: &str, answered: i64) -> (Line, i64) {
    let start_ms = 1_750_000_000_000;
    let line = line(prefix);
    line.create_topics(1);
    let topics = line.settings().topics;
    let at = |minute: i64| start_ms + minute * MINUTE_MS;
    let views = (0..300).map(|minute| {
        let event = view("user", &format!("impression-{minute}"), at(minute));
        Input::new("user", event.encode_to_vec(), at(minute))
    });
    let answers = (0..answered).map(|minute| {
        let event = response("user", &format!("impression-{minute}"), at(minute) + 1, Answer::Satisfied);
        Input::new("user", event.encode_to_vec(), at(minute) + 1)
    });
    line.kafka().produce(&topics.behavior, &views.collect::<Vec<_>>());
    line.kafka().produce(&topics.responses, &answers.collect::<Vec<_>>());
    (line, start_ms)
}

fn account_of(line: &Line, range: (i64, i64), more: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("samples.pb");
    replayed(line, range, &[&["--samples", text(&file)], more].concat());
    replays::account(&dir.path().join("samples.pb.backfill.json"))
}

/// The log then ends with a marker of the transaction, and not with a record.
#[test]
fn inputs_that_are_written_in_transactions_are_read_to_their_ends() {
    let line = line("backfill-transactions");
    line.create_topics(1);
    let settings = line.settings();
    let start_ms = 1_750_000_000_000;
    let (event, answer) =
        (view("user", "one", start_ms), response("user", "one", start_ms, Answer::Satisfied));
    let producer =
        TransactionalProducer::new(&settings.kafka, "backfill-inputs", DEADLINE, &StopToken::new());
    let producer = producer.expect("a valid configuration");
    producer.init().expect("transactions");
    let record = |topic: &str, payload: Vec<u8>| Outgoing {
        timestamp_ms: Some(start_ms),
        ..Outgoing::to(topic).partition(0).key("user").payload(payload)
    };
    let views = record(&settings.topics.behavior, event.encode_to_vec());
    let answers = record(&settings.topics.responses, answer.encode_to_vec());
    producer.begin().expect("a transaction");
    producer.deliver(&[views, answers]).expect("delivered");
    producer.commit_outputs().expect("committed");
    let account = account_of(&line, (start_ms, start_ms + 1), &[]);
    assert_eq!(account["labels"], 1);
    let next: Vec<&Value> =
        account["inputs"].as_array().expect("a list").iter().map(|input| &input["next_offset"]).collect();
    assert_eq!(next, [&Value::from(2), &Value::from(2)]);
}

/// Invariant 12.
#[test]
fn an_input_that_has_ended_does_not_make_the_window_grow() {
    let (line, start_ms) = minutely("backfill-silent", 60);
    let line = line.set("join.max_waiting_records", 100);
    let account = account_of(&line, (start_ms, start_ms + 5 * HOUR_MS), &[]);
    assert_eq!((&account["labels"], &account["views"]["evicted"]), (&60.into(), &0.into()));
}

#[test]
fn a_range_of_which_something_is_gone_says_how_much_and_what_is_left() {
    let (line, start_ms) = minutely("backfill-gone", 300);
    let settings = line.settings();
    let low = 120;
    let admin = Admin::new(&settings.kafka).expect("a valid configuration");
    admin.delete_records_below(&settings.topics.behavior, 0, low).expect("deleted");
    let left_ms = start_ms + low * MINUTE_MS;
    let range = (start_ms + 200 * MINUTE_MS, start_ms + 210 * MINUTE_MS);

    // It begins to be read 30 + 2 + 10 + 60 minutes before.
    let says = refused(&line, range, &["--join-only"], 1);
    let topic = &settings.topics.behavior;
    for part in [topic.as_str(), "offset 120", &time(left_ms), "a hole of up to 22m", "--accept-gap"] {
        assert!(says.contains(part), "{part}: {says}");
    }
    let earliest_ms = left_ms + 102 * MINUTE_MS + 1;
    assert!(says.contains(&format!("misses nothing is {}", time(earliest_ms))), "{says}");
    replayed(&line, (earliest_ms, earliest_ms + 1), &["--join-only"]);
    refused(&line, (earliest_ms - 1, earliest_ms), &["--join-only"], 1);

    let account = account_of(&line, range, &["--accept-gap"]);
    let lacks: Vec<&Value> = account["inputs"].as_array().expect("a list").iter().collect();
    assert_eq!((&lacks[0]["lacks_records"], &lacks[1]["lacks_records"]), (&true.into(), &false.into()));
    assert_eq!(account["labels"], 10);
}
