//! How fast `easq backfill` replays a stretch of both topics, beside what bare consumption and decoding of
//! the same records takes in the same run, and how much memory it needs. Fails when joining alone is
//! slower than half as fast as the bare reading, or a day or more of it is not replayed 20 times as fast as it
//! happened.
//!
//! ```text
//! scripts/with-kafka cargo bench --bench replay -- --views 3600000 --hours 1 --rounds 3
//! ```
//!
//! A day of a thousand views a second, of which two hours are also learned:
//!
//! ```text
//! scripts/with-kafka cargo bench --bench replay -- \
//!     --views 86400000 --hours 24 --users 100000 --rounds 1 --train-hours 2
//! ```
//!
//! The program is the real binary, the broker a real Apache Kafka, the records those of the synthetic
//! world at the rate that views and hours give, compressed as `easq simulate` does. The bare reading is one
//! consumer of all partitions on one thread, with the tuning that easq itself uses, and decodes every
//! record into the contract's message; its time begins when the partitions are assigned. That of a replay
//! begins with its process.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::Table;
use easq::contract::v1::{BehaviorEvent, QuestionnaireResponse};
use easq::kafka::Outgoing;
use easq::kafka::producer::Producer;
use easq::kafka::reader::FETCH_TUNING;
use easq::simulate::{FaultRates, Input as Topic, Partitioning, World, WorldConfig};
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use support::{Line, replays};

/// Joining alone must reach this share of the rate of bare reading.
const LEAST_SHARE: f64 = 0.5;
/// A stretch of at least so many hours must be replayed so many times as fast as it happened, learned or not.
const LONG_HOURS: f64 = 24.0;
const LEAST_SPEED: f64 = 20.0;
const PATIENCE: Duration = Duration::from_secs(3600);
const START_MS: i64 = 1_750_000_000_000;

/// Replays a synthetic stretch, and compares with bare reading.
#[derive(Parser)]
struct Arguments {
    /// Views of the stretch, all partitions together.
    #[arg(long, default_value_t = 3_600_000)]
    views: u64,
    /// Event time that they take.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// How often everything is read and replayed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Users of the world [default: simulate.users].
    #[arg(long)]
    users: Option<usize>,
    /// Replay so much of the beginning once more, with training.
    #[arg(long)]
    train_hours: Option<f64>,
    /// The stream follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cargo hands it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What reading or a replay took: time that passed, and what the process, all of its threads, had of the processors in
/// it. The second tells also on a machine that is busy with something else.
#[derive(Clone, Copy)]
struct Took {
    clock: Duration,
    cpu: Duration,
}

struct Replayed {
    took: Took,
    peak_mib: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let line = Line::new("replay").set("train.device", "cpu");
    line.create_topics(arguments.partitions);
    let records = write(&line, &arguments);
    let (mut bare, mut joined) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let reading = read_barely(&line, arguments.partitions, records);
        let replayed = replay(&line, span_ms(arguments.hours), &["--join-only"]);
        println!("round {round}: bare {reading}, join-only {}, {} MiB", replayed.took, replayed.peak_mib);
        bare.push(reading);
        joined.push(replayed);
    }
    let trained = arguments.train_hours.map(|hours| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let model = dir.path().join("model");
        replay(&line, span_ms(hours), &["--output", model.to_str().expect("a path in UTF-8")])
    });
    report(&arguments, records, &bare, &joined, trained.as_ref())
}

fn span_ms(hours: f64) -> i64 {
    (hours * 3_600_000.0) as i64
}

/// Writes the world's views and answers; how many.
fn write(line: &Line, arguments: &Arguments) -> u64 {
    let mut settings = line.settings();
    settings.simulate.users = arguments.users.unwrap_or(settings.simulate.users);
    let begun = Instant::now();
    let config = WorldConfig {
        seed: arguments.seed,
        views: arguments.views,
        start_ms: START_MS,
        span_ms: span_ms(arguments.hours),
        ..WorldConfig::new(&settings.simulate, settings.features.schema_version)
    };
    let world = World::new(config).expect("a world that can be");
    let partitioning =
        Partitioning { partitions: arguments.partitions, partitioner: settings.input.partitioner };
    let producer = Producer::new(&settings.kafka, settings.input.partitioner).expect("a producer");
    let topics = [&settings.topics.behavior, &settings.topics.responses].map(|topic| Arc::from(&**topic));
    let [behavior, responses]: [Arc<str>; 2] = topics;
    let (mut records, mut bytes) = (0, 0);
    for delivery in world.deliveries(FaultRates::default(), partitioning) {
        let payload = delivery.payload.expect("a record without a fault");
        records += 1;
        bytes += payload.len() as u64;
        let topic = if delivery.input == Topic::Behavior { &behavior } else { &responses };
        let record = Outgoing::to(Arc::clone(topic)).key(delivery.key).payload(payload);
        producer.send(&record.timestamp_ms(delivery.arrived_ms)).expect("a record that is taken");
    }
    producer.flush(PATIENCE).expect("all records delivered");
    println!(
        "{records} records of {} bytes written in {:.0?}, seed {}",
        bytes / records.max(1),
        begun.elapsed(),
        arguments.seed
    );
    records
}

/// Reads and decodes all records, and nothing else, from the assignment to the last one.
fn read_barely(line: &Line, partitions: i32, records: u64) -> Took {
    let mut config = line.kafka().client();
    config.set("group.id", "bare").set("isolation.level", "read_committed");
    config.set("enable.auto.commit", "false");
    FETCH_TUNING.iter().for_each(|(key, value)| _ = config.set(*key, *value));
    let consumer: BaseConsumer = config.create().expect("a valid client configuration");
    let topics = line.settings().topics;
    let mut assignment = TopicPartitionList::new();
    for topic in [&topics.behavior, &topics.responses] {
        // Without metadata the first fetch is a second late.
        consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        for partition in 0..partitions {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
    }
    let (begun, cpu_before) = (Instant::now(), cpu(std::process::id()));
    consumer.assign(&assignment).expect("an assignable list");
    let mut missing = records;
    while missing > 0 {
        assert!(begun.elapsed() < PATIENCE, "{missing} of {records} records are not read");
        let message = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => panic!("bare reading: {error}"),
            None => continue,
        };
        let payload = message.payload().expect("a record with a value");
        if message.topic() == topics.behavior {
            black_box(BehaviorEvent::decode(payload).expect("a view"));
        } else {
            black_box(QuestionnaireResponse::decode(payload).expect("an answer"));
        }
        missing -= 1;
    }
    Took { clock: begun.elapsed(), cpu: cpu(std::process::id()).saturating_sub(cpu_before) }
}

/// Replays so much of the beginning, from the start of the process to its end.
fn replay(line: &Line, span_ms: i64, more: &[&str]) -> Replayed {
    let (from, to) = (replays::time(START_MS), replays::time(START_MS + span_ms));
    let begun = Instant::now();
    let mut process = line.start(&[&["backfill", "--from", &from, "--to", &to], more].concat());
    let (mut peak_bytes, mut used) = (0, Duration::ZERO);
    while process.is_running() {
        used = used.max(cpu(process.id()));
        peak_bytes = peak_bytes.max(process.peak_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = Took { clock: begun.elapsed(), cpu: used };
    let status = process.wait(PATIENCE);
    assert!(status.success(), "{}", process.output());
    Replayed { took, peak_mib: peak_bytes >> 20 }
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2?} ({:.2?} of processors)", self.clock, self.cpu)
    }
}

/// User and system time of a process so far, as `proc_pid_stat(5)` gives it: in hundredths of a second. 0
/// when it has ended.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn report(
    arguments: &Arguments,
    records: u64,
    bare: &[Took],
    joined: &[Replayed],
    trained: Option<&Replayed>,
) -> ExitCode {
    let bare = median(bare.iter().copied());
    let join = median(joined.iter().map(|replayed| replayed.took));
    let mut table = Table::new();
    table.set_header([
        "",
        "median",
        "processors",
        "records/s",
        "times as fast as it happened",
        "peak memory",
    ]);
    let mut row = |name: &str, took: Took, hours: f64, peak_mib: Option<u64>| {
        let seconds = took.clock.as_secs_f64();
        // A part of the beginning has that part of the records, as good as exactly.
        let records = records as f64 * hours / arguments.hours;
        table.add_row([
            name.to_owned(),
            format!("{seconds:.2} s"),
            format!("{:.2} s", took.cpu.as_secs_f64()),
            format!("{:.0}", records / seconds),
            format!("{:.0}", hours * 3600.0 / seconds),
            peak_mib.map_or_else(String::new, |mib| format!("{mib} MiB")),
        ]);
    };
    row("bare reading and decoding", bare, arguments.hours, None);
    let peak_mib = joined.iter().map(|replayed| replayed.peak_mib).max();
    row("backfill --join-only", join, arguments.hours, peak_mib);
    if let (Some(trained), Some(hours)) = (trained, arguments.train_hours) {
        row(&format!("backfill --output, {hours} h"), trained.took, hours, Some(trained.peak_mib));
    }
    println!("{table}");
    let share = bare.clock.as_secs_f64() / join.clock.as_secs_f64();
    let of_processors = bare.cpu.as_secs_f64() / join.cpu.as_secs_f64();
    println!(
        "join-only has {share:.2} of the rate of bare reading (by processor time {of_processors:.2}), at least \
         {LEAST_SHARE}: the bound {}",
        verdict(share >= LEAST_SHARE)
    );
    let mut holds = share >= LEAST_SHARE;
    if arguments.hours >= LONG_HOURS {
        let speed = |took: Took, hours: f64| hours * 3600.0 / took.clock.as_secs_f64();
        let trained = trained.zip(arguments.train_hours).map(|(trained, hours)| speed(trained.took, hours));
        let least = speed(join, arguments.hours).min(trained.unwrap_or(f64::INFINITY));
        println!(
            "at least {least:.0} times as fast as it happened, at least {LEAST_SPEED}: the bound {}",
            verdict(least >= LEAST_SPEED)
        );
        holds &= least >= LEAST_SPEED;
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "does NOT hold" }
}

/// Of each figure by itself.
fn median(all: impl Iterator<Item = Took>) -> Took {
    let (mut clocks, mut cpus): (Vec<_>, Vec<_>) = all.map(|took| (took.clock, took.cpu)).unzip();
    let middle = |times: &mut [Duration]| {
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    Took { clock: middle(&mut clocks), cpu: middle(&mut cpus) }
}
