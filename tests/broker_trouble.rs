//! What brokers do to a running service: they are restarted, die, stay away, run out of disk, and
//! lose one of theirs. The service goes on by itself, started again where it ends with code 3, and
//! leaves every effect of every input record exactly once (invariants 1, 2, 7 and 11).

mod support;

use std::collections::BTreeSet;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use easq::contract::Side;
use easq::contract::v1::{Answer, LabelledView};
use easq::join::Outcome;
use easq::kafka::topics::Admin;
use easq::simulate::Delivery;
use prost::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use support::joiners::{self, Joiner, SOON};
use support::lineage::{self, History, Logs};
use support::oracle::Address;
use support::trainers::Trainer;
use support::{Cluster, Input, Line, Supervised, eventually, eventually_some, response, verify, view, world};

const PARTITIONS: i32 = 2;
const VIEWS: u64 = 24_000;
const PARTS: usize = 16;
/// Parts that are written at most until trouble comes in the middle of a transaction.
const TRIES: usize = 5;
const SPAN_MS: i64 = 3 * 3_600_000;
/// Short, so that a test can wait for longer.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

fn line(cluster: &Cluster) -> Line {
    let line = Line::on(cluster.kafka(), "trouble")
        .set("joiner.instance_id", "one")
        .set("joiner.transaction_timeout_ms", TRANSACTION_TIMEOUT.as_millis())
        // Long transactions, so that trouble comes in the middle of one.
        .set("joiner.commit_interval_ms", 2_000)
        .set("publish.transaction_timeout_ms", TRANSACTION_TIMEOUT.as_millis())
        .set("publish.interval_ms", 200)
        .set("publish.checkpoint_interval_ms", 1_000);
    line.create_topics(PARTITIONS);
    line
}

/// A stream of input records that is written part by part, and the service that reads it.
struct Traffic<'a> {
    line: &'a Line,
    service: &'a Supervised,
    deliveries: Vec<Delivery>,
    written: usize,
    malformed: BTreeSet<Address>,
    /// Readers of what is committed, and of everything.
    readers: [BaseConsumer; 2],
}

impl<'a> Traffic<'a> {
    fn new(line: &'a Line, service: &'a Supervised, seed: u64) -> Self {
        let deliveries = world::deliveries(&line.settings(), VIEWS, SPAN_MS, seed, PARTITIONS);
        let readers = ["read_committed", "read_uncommitted"].map(|level| {
            let config = line.kafka().client().set("isolation.level", level).clone();
            config.create().expect("a valid client configuration")
        });
        Self { line, service, deliveries, written: 0, malformed: BTreeSet::new(), readers }
    }

    /// Writes the next part of [`PARTS`], through whatever troubles the brokers.
    fn write(&mut self) {
        let end = (self.written + self.deliveries.len().div_ceil(PARTS)).min(self.deliveries.len());
        self.malformed.append(&mut world::write(self.line, &self.deliveries[self.written..end]));
        self.written = end;
    }

    /// Lets something happen in the middle of a transaction of the joiner, while records come.
    #[track_caller]
    fn hurt_during_work(&mut self, trouble: impl FnOnce()) {
        let is_hit = (0..TRIES).any(|_| {
            self.write();
            // Once all of this part is committed, only the next one brings another transaction.
            eventually_some(SOON, "the joiner works on a part", || {
                self.service.must_run();
                if self.has_open_outputs() { Some(true) } else { self.is_committed().then_some(false) }
            })
        });
        assert!(is_hit, "no transaction was open with outputs in it");
        thread::scope(|scope| {
            scope.spawn(|| self.write());
            trouble();
        });
    }

    fn has_open_outputs(&self) -> bool {
        let topic = &self.line.settings().topics.behavior_groups;
        // No answer while leaders change: looked at again.
        let end =
            |reader: &BaseConsumer, partition| Some(reader.fetch_watermarks(topic, partition, SOON).ok()?.1);
        let [committed, all] = &self.readers;
        let is_open = |partition| end(all, partition) > end(committed, partition).or(Some(i64::MAX));
        (0..PARTITIONS).any(is_open)
    }

    fn is_committed(&self) -> bool {
        joiners::consumed_records(self.line, PARTITIONS) == self.written as u64
    }

    /// Waits until all that was written is consumed.
    #[track_caller]
    fn is_consumed(&self) {
        for (_, topic) in joiners::inputs(self.line) {
            for partition in 0..PARTITIONS {
                let (_, end) = self.line.kafka().watermarks(&topic, partition);
                eventually(SOON, &format!("'{topic}' partition {partition} is consumed up to {end}"), || {
                    self.service.must_run();
                    joiners::committed(self.line, &topic, partition).is_some_and(|s| s.next_offset >= end)
                });
            }
        }
    }
}

/// Runs the service on `brokers` nodes, lets `trouble` happen, and checks what the service has made of
/// the whole stream.
#[track_caller]
fn survives(brokers: usize, seed: u64, trouble: impl FnOnce(&Cluster, &mut Traffic<'_>)) {
    println!("seed {seed}");
    let cluster = Cluster::start(brokers, 0);
    let line = line(&cluster);
    let service = Supervised::start(&line, &["run", "--role", "all"]);
    let mut traffic = Traffic::new(&line, &service, seed);
    trouble(&cluster, &mut traffic);
    while traffic.written < traffic.deliveries.len() {
        traffic.write();
    }
    traffic.is_consumed();
    learned(&line, &service);
    let Traffic { malformed, .. } = traffic;
    service.stop(SOON);
    exactly_once(&line, &malformed);
    let history = History::read(&line.settings());
    history.assert_lineage();
    history.assert_order();
}

#[track_caller]
fn exactly_once(line: &Line, malformed: &BTreeSet<Address>) {
    let verdict = verify::joiner(line, malformed);
    assert!(verdict.effects > 100, "the stream proves nothing: {verdict:?}");
    assert!(verdict.is_exactly_once(), "{verdict:#?}");
}

/// Waits until a version has learned all that the joiner has written.
#[track_caller]
fn learned(line: &Line, service: &Supervised) {
    let settings = line.settings();
    let logs = Logs::read(&settings);
    eventually(SOON, "the trainer has learned everything", || {
        service.must_run();
        lineage::registry(&settings)
            .versions
            .values()
            .next_back()
            .is_some_and(|newest| logs.are_learned(newest))
    });
}

#[test]
fn a_broker_that_is_restarted_costs_no_effect_and_doubles_none() {
    survives(1, 21, |cluster, traffic| {
        traffic.hurt_during_work(|| {
            cluster.stop(0);
            cluster.restart(0);
        });
    });
}

#[test]
fn a_broker_that_is_killed_costs_no_effect_and_doubles_none() {
    survives(1, 22, |cluster, traffic| {
        traffic.hurt_during_work(|| {
            cluster.kill(0);
            cluster.restart(0);
        });
    });
}

/// The broker gives up the open transactions of joiner and trainer, and with them their sessions.
#[test]
fn a_broker_that_is_away_for_longer_than_a_transaction_may_last_costs_no_effect_and_doubles_none() {
    survives(1, 23, |cluster, traffic| {
        traffic.hurt_during_work(|| {
            cluster.kill(0);
            // The outage is the time that it lasts; nothing can be waited for instead.
            thread::sleep(TRANSACTION_TIMEOUT + Duration::from_secs(2));
            cluster.restart(0);
        });
    });
}

#[test]
fn a_broker_whose_disk_is_full_costs_no_effect_and_doubles_none() {
    survives(1, 24, |cluster, traffic| {
        traffic.hurt_during_work(|| {
            cluster.fill_disk(0);
            cluster.reap(0);
            cluster.restart(0);
        });
    });
}

#[test]
fn the_work_goes_on_without_one_of_three_brokers_and_when_it_is_back() {
    survives(3, 25, |cluster, traffic| {
        for broker in [0, 1] {
            traffic.hurt_during_work(|| cluster.kill(broker));
            traffic.is_consumed();
            cluster.restart(broker);
            cluster.until_in_sync();
        }
    });
}

#[test]
fn a_trainer_that_is_about_to_begin_when_the_brokers_go_away_waits_for_them() {
    let cluster = Cluster::start(1, 0);
    let line = line(&cluster).set("train.session_timeout_ms", 60_000);
    let mut trainer = Trainer::start_with(&line, "train-load=1*return(STOP)->off");
    eventually(SOON, "the trainer stands still before it asks for its inputs", || {
        trainer.process.is_frozen()
    });
    cluster.kill(0);
    trainer.process.signal("CONT");
    trainer.process.wait_for_output("training waits for the brokers", SOON);
    cluster.restart(0);
    trainer.process.wait_for_output("training begins", SOON);
    trainer.stop();
}

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
        eventually(SOON, "the topic is gone", || line.kafka().partitions(&topic) == 0);
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
