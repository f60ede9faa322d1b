//! What the joiner refuses to run on, with errors that say what to do.

mod support;

use std::sync::mpsc;
use std::thread;

use easq::contract::v1::Answer;
use easq::joiner::{self, JoinerError};
use easq::supervise::StopToken;
use prost::Message;
use support::joiners::{self, SOON};
use support::{Input, Kafka, Line, response, view};

const NOW_MS: i64 = 1_700_000_000_000;

/// The error that ends a joiner on this line.
#[track_caller]
fn refusal(line: &Line) -> JoinerError {
    let (sender, receiver) = mpsc::channel();
    let settings = line.settings();
    let stop = StopToken::new();
    let of_joiner = stop.clone();
    thread::spawn(move || sender.send(joiner::run(&settings, &of_joiner)));
    let ended = receiver.recv_timeout(SOON);
    stop.stop();
    ended.expect("the joiner ends by itself").expect_err("the joiner refuses")
}

/// Runs a joiner until everything is consumed.
#[track_caller]
fn consume_all(line: &Line, partitions: i32) {
    let settings = line.settings();
    let stop = StopToken::new();
    let of_joiner = stop.clone();
    let running = thread::spawn(move || joiner::run(&settings, &of_joiner));
    joiners::consumed_to_the_end(line, partitions);
    stop.stop();
    running.join().expect("no panic").expect("a joiner that was stopped ends well");
}

fn views(users: std::ops::Range<i64>) -> Vec<Input> {
    users
        .map(|user| {
            let user_id = format!("user-{user}");
            let event_time_ms = NOW_MS + user;
            let event = view(&user_id, &format!("impression-{user}"), event_time_ms);
            Input::new(user_id, event.encode_to_vec(), event_time_ms)
        })
        .collect()
}

#[test]
fn unequal_partition_counts_are_refused_with_both_counts() {
    let line = Line::new("unequal");
    let topics = line.settings().topics;
    Kafka::shared().create_topic(&topics.behavior, 3);
    Kafka::shared().create_topic(&topics.responses, 2);
    let message = refusal(&line).to_string();
    assert!(message.contains("has 3 partitions") && message.contains("has 2 partitions"), "{message}");
}

#[test]
fn a_missing_input_topic_is_named() {
    let line = Line::new("missing");
    let topics = line.settings().topics;
    Kafka::shared().create_topic(&topics.behavior, 1);
    let message = refusal(&line).to_string();
    assert!(message.contains(&topics.responses) && message.contains("easq topics create"), "{message}");
}

#[test]
fn a_log_written_with_another_partitioner_is_refused_with_the_one_that_fits() {
    let line = Line::new("partitioner").set("input.partitioner", "consistent_random");
    line.create_topics(4);
    Kafka::shared().produce(&line.settings().topics.behavior, &views(0..4_000));
    let message = refusal(&line).to_string();
    assert!(message.contains("murmur2_random"), "{message}");
}

#[test]
fn a_topic_that_was_created_again_is_refused() {
    let line = Line::new("recreated");
    line.create_topics(1);
    let topics = line.settings().topics;
    let answer = response("user-1", "impression-1", NOW_MS + 5_000, Answer::Satisfied);
    let answer = Input::new("user-1", answer.encode_to_vec(), NOW_MS + 5_000);
    Kafka::shared().produce(&topics.behavior, &views(0..100));
    Kafka::shared().produce(&topics.responses, std::slice::from_ref(&answer));
    consume_all(&line, 1);
    Kafka::shared().delete_topic(&topics.behavior);
    Kafka::shared().create_topic(&topics.behavior, 1);
    // As long as before, and with other records: only their identity tells.
    Kafka::shared().produce(&topics.behavior, &views(1_000..1_100));
    let message = refusal(&line).to_string();
    assert!(message.contains(&topics.behavior) && message.contains("created again"), "{message}");
}

/// librdkafka goes on at its old offset in the new topic, and says nothing where that is not beyond
/// the end.
#[test]
fn a_topic_that_is_created_again_while_it_is_read_ends_the_joiner_also_when_it_is_longer_than_before() {
    let line = Line::new("replaced");
    line.create_topics(1);
    let topics = line.settings().topics;
    Kafka::shared().produce(&topics.behavior, &views(0..10));
    let (sender, receiver) = mpsc::channel();
    let (settings, stop) = (line.settings(), StopToken::new());
    let of_joiner = stop.clone();
    thread::spawn(move || sender.send(joiner::run(&settings, &of_joiner)));
    joiners::consumed_to_the_end(&line, 1);
    Kafka::shared().delete_topic(&topics.behavior);
    Kafka::shared().create_topic(&topics.behavior, 1);
    Kafka::shared().produce(&topics.behavior, &views(100..400));
    let ended = receiver.recv_timeout(SOON);
    stop.stop();
    let error = ended.expect("the joiner ends by itself").expect_err("the joiner refuses");
    let message = error.to_string();
    assert!(message.contains(&topics.behavior) && message.contains("joiner.group"), "{message}");
    assert!(!error.is_fenced(), "a restart does not help: {message}");
    // What the joiner commits of another topic, if anything, a restart recognises by its id.
    let message = refusal(&line).to_string();
    assert!(message.contains(&topics.behavior) && message.contains("joiner.group"), "{message}");
}

/// What one user's view and answer make, and a record that is none: outputs to three topics at least.
fn write_some_of_each(line: &Line, user: &str, time_ms: i64) {
    let topics = line.settings().topics;
    let seen = view(user, "impression", time_ms).encode_to_vec();
    let answer = response(user, "impression", time_ms + 1_000, Answer::Satisfied).encode_to_vec();
    let views = [Input::new(user, seen, time_ms), Input::new(user, "not a view", time_ms)];
    Kafka::shared().produce(&topics.behavior, &views);
    Kafka::shared().produce(&topics.responses, &[Input::new(user, answer, time_ms + 1_000)]);
}

/// librdkafka keeps what is sent to it until the transaction timeout, also what goes to the topics that
/// are there, and the abort behind that fails as if another process had the transactional id.
#[test]
fn an_output_topic_that_is_deleted_while_it_is_written_ends_the_joiner_with_its_name() {
    for which in ["labelled views", "dead letters"] {
        let line = Line::new("output-deleted").set("joiner.transaction_timeout_ms", 3_000);
        line.create_topics(1);
        let topics = line.settings().topics;
        let topic = if which == "dead letters" { &topics.dead_letters } else { &topics.labelled_views };
        write_some_of_each(&line, "user-1", NOW_MS);
        let (sender, receiver) = mpsc::channel();
        let (settings, stop) = (line.settings(), StopToken::new());
        let of_joiner = stop.clone();
        thread::spawn(move || sender.send(joiner::run(&settings, &of_joiner)));
        joiners::consumed_to_the_end(&line, 1);
        Kafka::shared().delete_topic(topic);
        write_some_of_each(&line, "user-2", NOW_MS + 10_000);
        let ended = receiver.recv_timeout(SOON);
        stop.stop();
        let error = ended.expect("the joiner ends by itself").expect_err("the joiner refuses");
        let message = error.to_string();
        for part in [&*format!("topic '{topic}' does not exist"), "docs/operations.md"] {
            assert!(message.contains(part), "{which}: {message}");
        }
        assert!(!error.is_fenced(), "nobody has taken its id: {message}");
    }
}

#[test]
fn outputs_without_committed_offsets_are_not_written_a_second_time() {
    let line = Line::new("outputs");
    line.create_topics(1);
    let topics = line.settings().topics;
    let malformed = Input::new("user-1", "not a view", NOW_MS);
    Kafka::shared().produce(&topics.behavior, &[malformed]);
    consume_all(&line, 1);
    let renamed = line.clone().set("joiner.group", Kafka::unique("another-group"));
    let message = refusal(&renamed).to_string();
    assert!(message.contains(&topics.dead_letters) && message.contains("joiner.group"), "{message}");
    assert_eq!(Kafka::shared().read_to_end(&topics.dead_letters).len(), 1);
}

#[test]
fn a_group_that_starts_at_latest_does_not_read_what_was_there() {
    let line = Line::new("latest").set("input.start", "latest");
    line.create_topics(1);
    let topics = line.settings().topics;
    Kafka::shared().produce(&topics.behavior, &views(0..10));
    consume_all(&line, 1);
    Kafka::shared().produce(&topics.behavior, &views(10..13));
    consume_all(&line, 1);
    let state = joiners::committed(&line, &topics.behavior, 0).expect("committed state");
    assert_eq!(state.outcomes.consumed(), 3);
}
