//! An input partition that is read to its end and silent no longer holds the other one's windows
//! open, and what comes to it late because of that is told apart from what is late by its log.

mod support;

use std::time::Duration;

use easq::contract::Side;
use easq::contract::v1::Answer;
use easq::join::{InputState, Outcome};
use easq::kafka::Outgoing;
use easq::kafka::transaction::TransactionalProducer;
use easq::supervise::StopToken;
use prost::Message;
use support::joiners::{self, Joiner, SOON};
use support::{Input, Kafka, Line, eventually, response, view};

const NOW_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn state(line: &Line, side: Side) -> Option<InputState> {
    let topics = joiners::inputs(line);
    let (_, topic) = topics.iter().find(|(of, _)| *of == side).expect("both sides are there");
    joiners::committed(line, topic, 0)
}

fn count(line: &Line, side: Side, outcome: Outcome) -> u64 {
    state(line, side).map_or(0, |state| state.outcomes.get(outcome))
}

/// Writes an answer in a transaction, so that the partition ends with a control record.
fn answer(line: &Line, impression: &str, event_time_ms: i64) {
    let settings = line.settings();
    let timeout = Duration::from_secs(30);
    let id = Kafka::unique("answers");
    let producer = TransactionalProducer::new(&settings.kafka, &id, timeout, &StopToken::new());
    let producer = producer.expect("a valid configuration");
    producer.init().expect("transactions");
    producer.begin().expect("a transaction");
    let message = response("user", impression, event_time_ms, Answer::Satisfied);
    let record = Outgoing::to(settings.topics.responses.as_str()).partition(0).key("user");
    producer.send(&record.payload(message.encode_to_vec()).timestamp_ms(event_time_ms)).expect("room");
    producer.commit_outputs().expect("a commit");
}

fn watch(line: &Line, impression: &str, event_time_ms: i64) {
    let message = view("user", impression, event_time_ms).encode_to_vec();
    let topics = line.settings().topics;
    Kafka::shared().produce(&topics.behavior, &[Input::new("user", message, event_time_ms)]);
}

#[test]
fn a_silent_input_lets_the_windows_of_the_other_expire_and_its_own_old_records_are_late_after_idle() {
    let line = Line::new("idle").set("join.idle_after_ms", 1_000);
    line.create_topics(1);
    answer(&line, "of-nobody", NOW_MS);
    watch(&line, "early", NOW_MS);
    watch(&line, "much-later", NOW_MS + HOUR_MS);
    let joiner = Joiner::start(&line, "one");
    eventually(SOON, "the early view has expired without an answer", || {
        count(&line, Side::Views, Outcome::Unanswered) == 1
    });
    answer(&line, "early", NOW_MS + 1_000);
    eventually(SOON, "its answer comes too late", || {
        count(&line, Side::Responses, Outcome::LateAfterIdle) == 1
    });
    assert_eq!(count(&line, Side::Responses, Outcome::Late), 0);
    joiner.stop();
    let late = Kafka::shared().read_to_end(&line.settings().topics.late);
    let reasons: Vec<_> = late.iter().map(|record| record.header("reason")).collect();
    assert_eq!(reasons, [Some("late_after_idle".to_owned())]);
}

#[test]
fn an_input_is_not_idle_before_it_has_been_silent_for_as_long_as_the_settings_say() {
    let line = Line::new("not-idle");
    line.create_topics(1);
    answer(&line, "of-nobody", NOW_MS);
    watch(&line, "early", NOW_MS);
    watch(&line, "much-later", NOW_MS + HOUR_MS);
    let joiner = Joiner::start(&line, "one");
    eventually(SOON, "both views are consumed", || {
        state(&line, Side::Views).is_some_and(|state| state.outcomes.consumed() == 2)
    });
    answer(&line, "early", NOW_MS + 1_000);
    eventually(SOON, "the answer is joined", || count(&line, Side::Responses, Outcome::Matched) == 1);
    joiner.stop();
}
