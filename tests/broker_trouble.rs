//! What brokers do to a running service: they are restarted, die, stay away, run out of disk, cannot
//! be reached, refuse records, and lose one of theirs. The service goes on by itself, started again
//! where it ends with code 3, and leaves every effect of every input record exactly once (invariants 1,
//! 2, 7 and 11).

mod support;

use std::thread;
use std::time::{Duration, Instant};

use easq::settings::Settings;
use easq::simulate::Delivery;
use rdkafka::consumer::{BaseConsumer, Consumer};
use support::joiners::{self, SOON};
use support::lineage::{self, History, Logs};
use support::trainers::Trainer;
use support::{Cluster, Line, Supervised, eventually, eventually_some, verify, world};

const PARTITIONS: i32 = 2;
const VIEWS: u64 = 24_000;
const PARTS: usize = 16;
/// Parts that are written at most until trouble comes in the middle of a transaction.
const TRIES: usize = 5;
const SPAN_MS: i64 = 3 * 3_600_000;
/// Long, so that trouble comes in the middle of a transaction.
const COMMIT_INTERVAL: Duration = Duration::from_secs(2);
/// What is written lies there for as long before it is committed: a look on a busy machine finds it.
const LONG_TRANSACTIONS: &str = "transaction-before-offsets=sleep(1500)";
/// Short, so that a test can wait for longer.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

fn line(cluster: &Cluster) -> Line {
    let line = Line::on(cluster.kafka(), "trouble")
        .set("joiner.instance_id", "one")
        .set("joiner.transaction_timeout_ms", TRANSACTION_TIMEOUT.as_millis())
        .set("joiner.commit_interval_ms", COMMIT_INTERVAL.as_millis())
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
}

impl<'a> Traffic<'a> {
    fn new(line: &'a Line, service: &'a Supervised, seed: u64) -> Self {
        let deliveries = world::deliveries(&line.settings(), VIEWS, SPAN_MS, seed, PARTITIONS);
        Self { line, service, deliveries, written: 0 }
    }

    /// Writes the next part of [`PARTS`], through whatever troubles the brokers.
    fn write(&mut self) {
        let end = (self.written + self.deliveries.len().div_ceil(PARTS)).min(self.deliveries.len());
        world::write(self.line, &self.deliveries[self.written..end]);
        self.written = end;
    }

    /// Lets something happen in the middle of a transaction of the joiner, while records come.
    #[track_caller]
    fn hurt_during_work(&mut self, trouble: impl FnOnce()) {
        self.work();
        thread::scope(|scope| {
            scope.spawn(|| self.write());
            trouble();
        });
    }

    /// Writes until the joiner is in the middle of a transaction.
    #[track_caller]
    fn work(&mut self) {
        // Readers of what is committed, and of everything. New ones: those that have known brokers which
        // were away ask for long.
        let readers = ["read_committed", "read_uncommitted"].map(|level| {
            let config = self.line.kafka().client().set("isolation.level", level).clone();
            config.create().expect("a valid client configuration")
        });
        let is_hit = (0..TRIES).any(|_| {
            self.write();
            let written = Instant::now();
            eventually_some(SOON, "the joiner works on a part", || {
                self.service.must_run();
                let is_open = self.has_open_outputs(&readers);
                // Once all of this part is committed, only the next one brings another transaction. To ask
                // for that takes long beside a transaction.
                let is_over = || written.elapsed() > COMMIT_INTERVAL && self.is_committed();
                if is_open { Some(true) } else { is_over().then_some(false) }
            })
        });
        assert!(is_hit, "no transaction was open with outputs in it");
    }

    fn has_open_outputs(&self, [committed, all]: &[BaseConsumer; 2]) -> bool {
        let topic = &self.line.settings().topics.behavior_groups;
        // No answer while leaders change: looked at again.
        let end =
            |reader: &BaseConsumer, partition| Some(reader.fetch_watermarks(topic, partition, SOON).ok()?.1);
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
    let cluster = Cluster::start(brokers, 0);
    survives_on(&cluster, &line(&cluster), seed, trouble);
}

#[track_caller]
fn survives_on(cluster: &Cluster, line: &Line, seed: u64, trouble: impl FnOnce(&Cluster, &mut Traffic<'_>)) {
    println!("seed {seed}");
    let service = Supervised::start_with(line, &["run", "--role", "all"], LONG_TRANSACTIONS);
    let mut traffic = Traffic::new(line, &service, seed);
    trouble(cluster, &mut traffic);
    while traffic.written < traffic.deliveries.len() {
        traffic.write();
    }
    traffic.is_consumed();
    learned(line, &service);
    service.stop(SOON);
    exactly_once(line);
    let history = History::read(&line.settings());
    history.assert_lineage();
    history.assert_order();
}

#[track_caller]
fn exactly_once(line: &Line) {
    let verdict = verify::joiner(line);
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

/// No timeout of the service is longer, its own or librdkafka's: those of the transactions, of both
/// sessions, of a poll and of a hang.
#[test]
fn brokers_that_are_away_for_minutes_cost_no_effect_and_double_none() {
    survives(1, 27, |cluster, traffic| {
        let Settings { joiner, train, .. } = traffic.line.settings();
        let longest = joiner.max_poll_interval_ms.max(train.hang_timeout_ms);
        traffic.work();
        cluster.kill(0);
        thread::sleep(Duration::from_millis(longest) + Duration::from_secs(10));
        cluster.restart(0);
    });
}

/// Its connections stay, and carry nothing.
#[test]
fn a_service_that_is_cut_off_from_its_brokers_loses_no_effect_and_doubles_none() {
    let cluster = Cluster::start(1, 1);
    let line = line(&cluster).set("kafka.bootstrap_servers", cluster.door(0));
    survives_on(&cluster, &line, 28, |cluster, traffic| {
        traffic.hurt_during_work(|| {
            cluster.cut(0);
            thread::sleep(TRANSACTION_TIMEOUT + Duration::from_secs(2));
            cluster.mend(0);
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

/// The joiner takes its transaction back and builds its state again, time after time. Records that
/// failed may leave librdkafka's sequence numbers in disorder, so that an abort never ends: then the
/// broker ends the transaction, and a restart goes on.
#[test]
fn outputs_that_are_larger_than_the_brokers_allow_for_a_while_cost_no_effect_and_double_none() {
    let cluster = Cluster::start(1, 0);
    let line = line(&cluster);
    let groups = line.settings().topics.behavior_groups;
    survives_on(&cluster, &line, 29, |cluster, traffic| {
        traffic.write();
        traffic.is_consumed();
        let service = traffic.service;
        cluster.kafka().configure_topic(&groups, &[("retention.ms", "-1"), ("max.message.bytes", "300")]);
        traffic.write();
        let aborts = || service.output().matches("transaction aborted").count();
        eventually(SOON, "transactions are taken back", || aborts() > 2);
        service.wait_for_output("too large", SOON);
        cluster.kafka().configure_topic(&groups, &[("retention.ms", "-1")]);
        traffic.is_consumed();
    });
}

/// Records that the brokers refuse for too long take their transaction with them. The joiner goes back
/// to what is committed, by itself or, where librdkafka cannot abort the transaction, by a restart.
#[test]
fn outputs_with_too_few_replicas_in_sync_cost_no_effect_and_double_none() {
    let cluster = Cluster::start(3, 0);
    let line = line(&cluster)
        // Longer than the registry has no leader after the kill, so that only what goes to the groups
        // times out.
        .set("kafka.properties.message.timeout.ms", 15_000)
        // Nor does a member lose its session before.
        .set("joiner.session_timeout_ms", 60_000)
        .set("train.session_timeout_ms", 60_000)
        .set("joiner.transaction_timeout_ms", 60_000)
        .set("publish.transaction_timeout_ms", 60_000);
    let groups = line.settings().topics.behavior_groups;
    cluster.kafka().configure_topic(&groups, &[("retention.ms", "-1"), ("min.insync.replicas", "3")]);
    survives_on(&cluster, &line, 26, |cluster, traffic| {
        let service = traffic.service;
        traffic.hurt_during_work(|| {
            cluster.kill(2);
            service.wait_for_output("message(s) timed out", SOON);
            cluster.restart(2);
            cluster.until_in_sync();
        });
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
