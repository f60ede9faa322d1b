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

use std::panic::{AssertUnwindSafe, catch_unwind};
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
    let outcome = catch_unwind(|| run(seed, duration, brokers));
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
        .set("train.batch_age_ms", 50)
        // Whoever goes on goes on from the newest checkpoint, which is looked at: not from one that passed.
        .set("gate.warmup_steps", 1_000_000);
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
    let mut happened = Vec::new();
    thread::scope(|scope| {
        // A failed assertion must not leave the others waiting for ever.
        let guard = StopOnDrop(&stop);
        let writing = scope.spawn(|| traffic::write(&line, PARTITIONS, &deliveries, duration, written));
        scope.spawn(|| recoveries.watch(&line, PARTITIONS, &stop));
        scope.spawn(|| rolling.follow(&line, &recoveries, &stop));
        let begins = |event: &Event| match event.target {
            Target::Trainer(_) => recoveries.begin_until_version(event.kind(), rolling.newest()),
            Target::Joiner(_) | Target::Broker(_) => recoveries.begin(event.kind(), written.ends()),
        };
        happened = play(&events, &cluster, &mut fleet, &begins);
        while !writing.is_finished() {
            fleet.look_after();
            thread::sleep(TICK);
        }
        writing.join().expect("everything is written");
        rest(&line, &mut fleet);
        drop(guard);
    });
    let verdict = verify::joiner(&line);
    let lineage = catch_unwind(AssertUnwindSafe(|| lineage_of(&line)));
    rolling.verify_kept_versions(&line);
    Report {
        events: happened,
        verdict,
        recoveries: recoveries.done(),
        lineage: lineage.ok(),
        rolling,
        fleet: fleet.summary(),
    }
}

/// Invariant 7 over all that was ever published: how many versions there were, and how often training
/// went on from a checkpoint that was not the newest of them.
fn lineage_of(line: &Line) -> (usize, usize) {
    let history = History::read(&line.settings());
    history.assert_lineage();
    (history.versions.len(), history.assert_order())
}

struct StopOnDrop<'a>(&'a StopToken);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Hurts and mends by the schedule; what came to pass of it, since nobody is killed twice.
fn play(
    events: &[Event],
    cluster: &Cluster,
    fleet: &mut Fleet<'_>,
    begins: &(dyn Fn(&Event) + Sync),
) -> Vec<Event> {
    let (brokers, processes): (Vec<Event>, Vec<Event>) =
        events.iter().partition(|event| matches!(event.target, Target::Broker(_)));
    let mut steps: Vec<(Duration, bool, Event)> = processes
        .into_iter()
        .flat_map(|event| [(event.at, true, event), (event.at + event.lasts, false, event)])
        .collect();
    steps.sort_by_key(|(at, ..)| *at);
    let begun = Instant::now();
    thread::scope(|scope| {
        // A broker's start takes seconds: the rest of the schedule does not wait for it.
        let hurting = scope.spawn(|| hurt_brokers(brokers, cluster, begun, begins));
        let mut happened = Vec::new();
        for (at, is_begin, event) in steps {
            while begun.elapsed() < at {
                fleet.look_after();
                thread::sleep(TICK);
            }
            if !is_begin {
                fleet.mend(event.target, event.fault);
            } else if fleet.hurt(event.target, event.fault) {
                begins(&event);
                happened.push(event);
            }
        }
        while !hurting.is_finished() {
            fleet.look_after();
            thread::sleep(TICK);
        }
        happened.extend(hurting.join().expect("every broker is back"));
        happened
    })
}

/// One at a time: a broker that was started again has to catch up first.
fn hurt_brokers(
    events: Vec<Event>,
    cluster: &Cluster,
    begun: Instant,
    begins: &(dyn Fn(&Event) + Sync),
) -> Vec<Event> {
    for event in &events {
        let Target::Broker(broker) = event.target else { continue };
        cluster.until_in_sync();
        thread::sleep(event.at.saturating_sub(begun.elapsed())); // the schedule is the point
        match event.fault {
            Fault::Kill => cluster.kill(broker),
            _ => cluster.pause(broker),
        }
        begins(event);
        thread::sleep(event.lasts);
        match event.fault {
            Fault::Kill => cluster.restart(broker),
            _ => cluster.resume(broker),
        }
    }
    events
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
