//! Chaos: the whole line at work on an Apache Kafka of its own, while joiners, trainers and brokers
//! are killed, frozen, cut off and sent away by a schedule that follows from a seed. Afterwards the
//! committed records are compared with the brute-force join, and the registry with what was learned
//! (invariants 2, 3, 4, 5, 7, 8 and 11).
//!
//! ```text
//! make chaos SEED=7 MINUTES=3 BROKERS=1
//! ```
//!
//! The schedule of a seed is always the same, and so is the input. When the machine gives its
//! processes their turns is not.

#[path = "../support/mod.rs"]
mod support;

mod fleet;
mod recovery;
mod report;
mod rolling;
mod schedule;
mod traffic;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use easq::supervise::StopToken;

use fleet::Fleet;
use recovery::Recoveries;
use report::Report;
use rolling::Rolling;
use schedule::{Crew, Event, Fault, Target, schedule};
use support::lineage::{self, History, Logs};
use support::{Cluster, Line, eventually, joiners, verify, world};
use traffic::Written;

const PARTITIONS: i32 = 4;
const JOINERS: usize = 4;
const TRAINERS: usize = 2;
const VIEWS_PER_SECOND: u64 = 600;
/// Event time runs this much faster than the clock, so that windows and groups close on the way.
const SPEED: u64 = 120;
const TICK: Duration = Duration::from_millis(20);
/// Between two questions to the brokers.
const LOOK: Duration = Duration::from_millis(500);
/// For what is left once the last fault is over.
const REST: Duration = Duration::from_secs(180);

/// Hurts the line for a while and verifies what it made of its input.
#[derive(Parser)]
struct Arguments {
    /// Schedule and input follow from it. Drawn, and printed, when it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How long the traffic and the faults last.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// One broker, or three, of which one at a time is hurt: 1 or 3.
    #[arg(long, default_value_t = 1)]
    brokers: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let duration = Duration::from_secs_f64(arguments.minutes * 60.0);
    let brokers = arguments.brokers;
    let again = format!("make chaos SEED={seed} MINUTES={} BROKERS={brokers}", arguments.minutes);
    println!("chaos: {again}");
    // Whatever goes wrong, the seed is the last word.
    let outcome = std::panic::catch_unwind(|| run(seed, duration, brokers));
    match outcome {
        Ok(report) if report.is_good() => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Ok(report) => {
            println!("{report}\nchaos FAILED; again: {again}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("chaos FAILED; again: {again}");
            ExitCode::FAILURE
        }
    }
}

/// Timeouts are short, so that faults outlast them; versions are frequent, so that faults meet them.
fn line(cluster: &Cluster) -> Line {
    let line = Line::on(cluster.kafka(), "chaos")
        .set("joiner.session_timeout_ms", 6_000)
        .set("joiner.heartbeat_interval_ms", 1_000)
        .set("joiner.max_poll_interval_ms", 20_000)
        .set("joiner.transaction_timeout_ms", 10_000)
        .set("publish.transaction_timeout_ms", 10_000)
        .set("publish.interval_ms", 200)
        .set("publish.checkpoint_interval_ms", 1_000)
        .set("train.session_timeout_ms", 6_000)
        .set("train.heartbeat_interval_ms", 1_000)
        .set("train.batch_groups", 8)
        .set("train.batch_age_ms", 50);
    line.create_topics(PARTITIONS);
    line
}

fn run(seed: u64, duration: Duration, brokers: usize) -> Report {
    let crew = Crew { joiners: JOINERS, trainers: TRAINERS, brokers };
    let events = schedule(seed, duration, crew);
    let cluster = Cluster::start(brokers, JOINERS + TRAINERS);
    let line = line(&cluster);
    let views = VIEWS_PER_SECOND * duration.as_secs();
    let span_ms = i64::try_from(duration.as_millis()).expect("minutes").saturating_mul(SPEED as i64);
    let deliveries = world::deliveries(&line.settings(), views, span_ms, seed, PARTITIONS);
    // Callbacks of the client library hold on to it.
    let written: &'static Written = Box::leak(Box::default());
    let (recoveries, rolling, stop) = (Recoveries::default(), Rolling::default(), StopToken::new());
    let mut fleet = Fleet::new(&cluster, &line, JOINERS, TRAINERS);
    thread::scope(|scope| {
        // A failed assertion must not leave the others waiting for ever.
        let guard = StopOnDrop(&stop);
        let writing = scope.spawn(|| traffic::write(&line, &deliveries, duration, written));
        scope.spawn(|| recoveries.watch(&line, PARTITIONS, &stop));
        scope.spawn(|| rolling.follow(&line, &stop));
        play(&events, &cluster, &mut fleet, |event| {
            recoveries.begin(event.target, event.fault, written.ends());
        });
        while !writing.is_finished() {
            fleet.look_after();
            thread::sleep(TICK);
        }
        writing.join().expect("everything is written");
        rest(&line, &mut fleet);
        drop(guard);
    });
    let verdict = verify::joiner(&line, &written.malformed());
    let history = History::read(&line.settings());
    history.assert_lineage();
    let breaks = history.assert_order();
    rolling.verify_kept_versions(&line);
    Report {
        events,
        verdict,
        recoveries: recoveries.done(),
        versions: history.versions.len(),
        breaks,
        rolling,
        fleet: fleet.summary(),
    }
}

struct StopOnDrop<'a>(&'a StopToken);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Hurts and mends by the schedule.
fn play(events: &[Event], cluster: &Cluster, fleet: &mut Fleet<'_>, begins: impl Fn(&Event)) {
    let mut steps: Vec<(Duration, bool, &Event)> = events
        .iter()
        .flat_map(|event| [(event.at, true, event), (event.at + event.lasts, false, event)])
        .collect();
    steps.sort_by_key(|(at, ..)| *at);
    let begun = Instant::now();
    thread::scope(|scope| {
        for (at, is_begin, event) in steps {
            while begun.elapsed() < at {
                fleet.look_after();
                thread::sleep(TICK);
            }
            if is_begin {
                begins(event);
            }
            match (event.target, event.fault, is_begin) {
                // One at a time: a broker that was started again has to catch up first.
                (Target::Broker(broker), Fault::Kill, true) => {
                    cluster.until_in_sync();
                    cluster.kill(broker);
                }
                // A start takes seconds: the rest of the schedule does not wait for it.
                (Target::Broker(broker), Fault::Kill, false) => {
                    scope.spawn(move || cluster.restart(broker));
                }
                (Target::Broker(broker), _, true) => {
                    cluster.until_in_sync();
                    cluster.pause(broker);
                }
                (Target::Broker(broker), _, false) => cluster.resume(broker),
                (target, fault, true) => fleet.hurt(target, fault),
                (target, fault, false) => fleet.mend(target, fault),
            }
        }
    });
}

/// Waits until all that was written is joined and learned, then sends everybody home.
fn rest(line: &Line, fleet: &mut Fleet<'_>) {
    await_all(fleet, "joined", || joiners::is_consumed_to_the_end(line, PARTITIONS));
    let settings = line.settings();
    let logs = Logs::read(&settings);
    await_all(fleet, "learned", || {
        let newest = lineage::registry(&settings).versions.pop_last();
        newest.is_some_and(|(_, manifest)| logs.are_learned(&manifest))
    });
    eventually(REST, "everybody has left", || fleet.dismiss());
}

fn await_all(fleet: &mut Fleet<'_>, what: &str, is_done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_done() {
        fleet.look_after();
        assert!(begun.elapsed() < REST, "not everything was {what} within {REST:?}\n{}", fleet.summary());
        thread::sleep(LOOK);
    }
}
