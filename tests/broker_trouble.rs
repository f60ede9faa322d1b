//! What brokers do to a running service: they are restarted, die, stay away, run out of disk, and
//! lose one of theirs. The service goes on by itself, started again where it ends with code 3, and
//! leaves every effect of every input record exactly once (invariants 1, 2, 7 and 11).

mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use easq::simulate::Delivery;
use support::joiners::{self, SOON};
use support::lineage::{self, History, Logs};
use support::oracle::Address;
use support::{Cluster, Line, Supervised, eventually, verify, world};

const PARTITIONS: i32 = 2;
const VIEWS: u64 = 16_000;
const PARTS: usize = 5;
const SPAN_MS: i64 = 3 * 3_600_000;
/// Short, so that a test can wait for longer.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

fn line(cluster: &Cluster) -> Line {
    let line = Line::on(cluster.kafka(), "trouble")
        .set("joiner.instance_id", "one")
        .set("joiner.transaction_timeout_ms", TRANSACTION_TIMEOUT.as_millis())
        .set("publish.transaction_timeout_ms", TRANSACTION_TIMEOUT.as_millis())
        .set("publish.interval_ms", 200)
        .set("publish.checkpoint_interval_ms", 1_000);
    line.create_topics(PARTITIONS);
    line
}

/// A stream of input records that is written part by part.
struct Traffic<'a> {
    line: &'a Line,
    service: &'a Supervised,
    deliveries: Vec<Delivery>,
    written: usize,
    malformed: BTreeSet<Address>,
}

impl Traffic<'_> {
    /// Writes the next part of [`PARTS`], through whatever troubles the brokers.
    fn write(&mut self) {
        let end = (self.written + self.deliveries.len().div_ceil(PARTS)).min(self.deliveries.len());
        self.malformed.append(&mut world::write(self.line, &self.deliveries[self.written..end]));
        self.written = end;
    }

    /// Lets something happen while the next part is being written.
    fn write_during(&mut self, trouble: impl FnOnce()) {
        thread::scope(|scope| {
            scope.spawn(|| self.write());
            trouble();
        });
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

/// Runs the service on `brokers` nodes, lets `trouble` happen in the middle of its work, and checks
/// what it has made of the whole stream.
#[track_caller]
fn survives(brokers: usize, seed: u64, trouble: impl FnOnce(&Cluster, &mut Traffic<'_>)) {
    println!("seed {seed}");
    let cluster = Cluster::start(brokers, 0);
    let line = line(&cluster);
    let service = Supervised::start(&line, &["run", "--role", "all"]);
    let deliveries = world::deliveries(&line.settings(), VIEWS, SPAN_MS, seed, PARTITIONS);
    let mut traffic =
        Traffic { line: &line, service: &service, deliveries, written: 0, malformed: BTreeSet::new() };
    traffic.write();
    eventually(SOON, "the service is in the middle of its work", || {
        service.must_run();
        joiners::consumed_records(&line, PARTITIONS) > traffic.written as u64 / 4
    });
    trouble(&cluster, &mut traffic);
    while traffic.written < traffic.deliveries.len() {
        traffic.write();
    }
    traffic.is_consumed();
    learned(&line, &service);
    let Traffic { malformed, .. } = traffic;
    println!("{} restarts", service.restarts());
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
        traffic.write_during(|| {
            cluster.stop(0);
            cluster.restart(0);
        });
    });
}

#[test]
fn a_broker_that_is_killed_costs_no_effect_and_doubles_none() {
    survives(1, 22, |cluster, traffic| {
        traffic.write_during(|| {
            cluster.kill(0);
            cluster.restart(0);
        });
    });
}

/// The broker gives up the open transactions of joiner and trainer, and with them their sessions.
#[test]
fn a_broker_that_is_away_for_longer_than_a_transaction_may_last_costs_no_effect_and_doubles_none() {
    survives(1, 23, |cluster, traffic| {
        traffic.write_during(|| {
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
        traffic.write_during(|| {
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
            traffic.write_during(|| cluster.kill(broker));
            traffic.is_consumed();
            cluster.restart(broker);
            cluster.until_in_sync();
        }
    });
}
