//! What becomes of input topics while a joiner reads them, or is down: retention removes what it still
//! needs, which is counted and told (invariants 3 and 11), and a topic that is deleted and created
//! again is never taken for the one before.

mod support;

use std::collections::BTreeSet;
use std::ops::Range;

use easq::contract::Side;
use easq::contract::v1::{Answer, LabelledView};
use easq::join::Outcome;
use easq::kafka::topics::Admin;
use prost::Message;
use support::joiners::{self, Joiner, SOON};
use support::{Input, Line, Served, Supervised, eventually, response, view};

const BEGUN_MS: i64 = 1_700_000_000_000;

/// Views of one partition, numbered: one a second, each a request of its own.
fn views(numbers: Range<i64>) -> Vec<Input> {
    let record = |number| {
        let (user, event_time_ms) = (format!("user-{number}"), BEGUN_MS + 1_000 * number);
        let view = view(&user, &format!("impression-{number}"), event_time_ms);
        Input::new(user, view.encode_to_vec(), event_time_ms)
    };
    numbers.map(record).collect()
}

/// Answers about the views of these numbers, all of them given at the time of view `at`.
fn answers(numbers: impl IntoIterator<Item = i64>, at: i64) -> Vec<Input> {
    let record = |number| {
        let (user, event_time_ms) = (format!("user-{number}"), BEGUN_MS + 1_000 * at);
        let answer = response(&user, &format!("impression-{number}"), event_time_ms, Answer::Satisfied);
        Input::new(user, answer.encode_to_vec(), event_time_ms)
    };
    numbers.into_iter().map(record).collect()
}

/// A joiner that has consumed views 0 to [`CONSUMED`], of which every tenth is answered.
fn begun(prefix: &str) -> (Line, Joiner) {
    let line = Line::new(prefix);
    line.create_topics(1);
    let topics = line.settings().topics;
    let joiner = Joiner::start(&line, "one");
    line.kafka().produce(&topics.behavior, &views(0..CONSUMED));
    let answered: Vec<Input> =
        (0..CONSUMED).step_by(10).flat_map(|number| answers([number], number + 5)).collect();
    line.kafka().produce(&topics.responses, &answered);
    joiners::consumed_to_the_end(&line, 1);
    (line, joiner)
}

/// Enough that the first of them have expired and need not be read again.
const CONSUMED: i64 = 3_000;
const ALL: i64 = 4_000;
/// Every tenth of these views is answered after retention has removed some of them.
const ANSWERED_LATER: Range<i64> = 1_505..3_990;

/// What must be there after retention has removed the views below `low`, of which those up to
/// [`CONSUMED`] had been consumed.
fn lost_to_retention_is_what_was_removed(line: &Line, low: i64) {
    let settings = line.settings();
    // The slower input has come to the answer about the last view that has one.
    let clock = CONSUMED - 10 + 5;
    let until = (settings.join.window_ms + settings.join.allowed_lateness_ms) / 1_000;
    let is_answered = |number: &i64| number % 10 == 0;
    let waiting = (0..CONSUMED).filter(|number| number + until >= clock && !is_answered(number));
    let lost = waiting.filter(|number| *number < low).count() as u64;
    let labels: BTreeSet<String> = joiners::messages::<LabelledView>(&settings.topics.labelled_views)
        .into_iter()
        .map(|label| label.view.expect("a view").impression_id)
        .collect();
    let later = ANSWERED_LATER.step_by(10).filter(|number| *number >= low);
    let expected: BTreeSet<String> =
        (0..CONSUMED).step_by(10).chain(later).map(|number| format!("impression-{number}")).collect();
    assert_eq!(labels, expected);

    let views = joiners::committed(line, &settings.topics.behavior, 0).expect("committed views");
    let gone_unread = (low - CONSUMED).max(0) as u64;
    assert_eq!(views.outcomes.get(Outcome::LostToRetention), lost);
    assert_eq!(views.outcomes.get(Outcome::Matched), expected.len() as u64);
    assert_eq!(
        views.outcomes.consumed(),
        ALL as u64 - gone_unread,
        "what was never read is not counted as read"
    );
    let responses = joiners::committed(line, &settings.topics.responses, 0).expect("committed responses");
    assert_eq!(responses.outcomes.get(Outcome::LostToRetention), 0);
    assert_eq!(responses.outcomes.consumed(), 300 + 249);
}

/// The warning about views below `low`, with the span of event time that they cover, and the metric.
fn warns_of_what_was_removed(line: &Line, joiner: &Joiner, low: i64) {
    let behavior = line.settings().topics.behavior;
    let output = joiner.process.output();
    let warning = output.lines().find(|line| line.contains("retention removed records")).expect("a warning");
    for part in [&format!("topic=\"{behavior}\" partition=0"), &format!("until={low}"), "span_seconds=Some("]
    {
        assert!(warning.contains(part), "{warning}");
    }
    let lost = joiner.metric("easq_joiner_lost_offsets_total");
    let replay_from: i64 = 1_000;
    assert_eq!(lost.values().sum::<f64>(), (low - replay_from) as f64, "{lost:?}");
}

/// Lets records come and views below `low` go.
fn removed_below(line: &Line, low: i64) {
    let settings = line.settings();
    line.kafka().produce(&settings.topics.behavior, &views(CONSUMED..ALL));
    let admin = Admin::new(&settings.kafka).expect("a valid configuration");
    admin.delete_records_below(&settings.topics.behavior, 0, low).expect("deleted");
    line.kafka().produce(&settings.topics.responses, &answers(ANSWERED_LATER.step_by(10), CONSUMED));
}

#[test]
fn what_retention_removes_while_the_joiner_is_down_is_counted_and_told_and_nothing_else_is_lost() {
    for low in [2_000, 3_500] {
        let (line, mut joiner) = begun("retention-down");
        joiner.process.kill();
        removed_below(&line, low);
        let joiner = Joiner::start(&line, "one");
        joiners::consumed_to_the_end(&line, 1);
        warns_of_what_was_removed(&line, &joiner, low);
        joiner.stop();
        lost_to_retention_is_what_was_removed(&line, low);
    }
}

/// It goes on by itself. Its window is built again from the log, as after a restart.
#[test]
fn retention_that_overtakes_a_running_joiner_is_counted_and_told_and_nothing_else_is_lost() {
    const LOW: i64 = 3_500;
    let (line, joiner) = begun("retention-running");
    joiner.process.signal("STOP");
    removed_below(&line, LOW);
    joiner.process.signal("CONT");
    joiners::consumed_to_the_end(&line, 1);
    warns_of_what_was_removed(&line, &joiner, LOW);
    joiner.stop();
    lost_to_retention_is_what_was_removed(&line, LOW);
}

/// librdkafka would go on at the old offset in the new topic. Frozen, the joiner cannot notice anything
/// before that topic is longer than the old one was.
#[test]
fn an_input_topic_that_is_created_again_under_the_running_service_ends_it_with_what_to_do() {
    for (side, refill) in [(Side::Views, views(0..200)), (Side::Responses, answers(0..200, 200))] {
        let line = Line::new("created-again").set("joiner.instance_id", "one");
        line.create_topics(1);
        let topics = line.settings().topics;
        line.kafka().produce(&topics.behavior, &views(0..100));
        line.kafka().produce(&topics.responses, &answers(0..100, 100));
        let service = Supervised::start(&line, &["run", "--role", "joiner"]);
        joiners::consumed_to_the_end(&line, 1);
        let topic = if side == Side::Views { topics.behavior } else { topics.responses };
        service.signal("STOP");
        line.kafka().delete_topic(&topic);
        line.kafka().create_topic(&topic, 1);
        line.kafka().produce(&topic, &refill);
        service.signal("CONT");
        assert_eq!(service.wait_for_end(SOON), Some(1), "a restart does not help");
        let output = service.output();
        let error = output.lines().last().expect("an error");
        for part in [topic.as_str(), "deleted and created again", "joiner.group", "output topics"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

/// Nobody else says so: the consumers ask again and again.
#[test]
fn an_input_topic_that_is_deleted_for_good_is_told_once_and_leaves_the_joiner_unready() {
    for side in [Side::Views, Side::Responses] {
        let line =
            Line::new("deleted").set("joiner.instance_id", "one").set("telemetry.unready_after_ms", 1_500);
        line.create_topics(1);
        let topics = line.settings().topics;
        line.kafka().produce(&topics.behavior, &views(0..100));
        line.kafka().produce(&topics.responses, &answers(0..100, 100));
        let mut service = Served::start(&line, &["run", "--role", "joiner"]);
        joiners::consumed_to_the_end(&line, 1);
        eventually(SOON, "it is ready", || service.ready().0 == 200);
        let topic = if side == Side::Views { topics.behavior } else { topics.responses };
        line.kafka().delete_topic(&topic);
        let is_told = || {
            let (status, body) = service.ready();
            status == 503 && body.contains(&format!("input topic '{topic}' is not there any more"))
        };
        eventually(SOON, "readiness says what is missing", is_told);
        let age = || service.status()["uptime_seconds"].as_f64().expect("a number");
        let then = age();
        eventually(SOON, "it is looked for several times more", || age() > then + 25.0);
        assert!(is_told(), "{:?}", service.ready());
        let warned = service.output().matches("an input topic is not there any more").count();
        assert_eq!(warned, 1, "{}", service.output());
        line.kafka().create_topic(&topic, 1);
        assert_eq!(service.wait(), Some(1), "{}", service.output());
        let output = service.output();
        assert!(output.lines().last().is_some_and(|last| last.contains("created again")), "{output}");
    }
}
