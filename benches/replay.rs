//! How fast `easq backfill` replays a stretch of both topics, beside what bare consumption and decoding of
//! the same records takes in the same run, and how much memory it needs. Fails when joining alone is
//! slower than half as fast as the bare reading.
//!
//! ```text
//! scripts/with-kafka cargo bench --bench replay -- --views 3600000 --hours 1 --rounds 3
//! ```
//!
//! The program is the real binary, the broker a real Apache Kafka, the records those of the synthetic
//! world at the rate that views and hours give.

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

use support::{Easq, Line};

/// Joining alone must reach this share of the rate of bare reading.
const LEAST_SHARE: f64 = 0.5;
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
    /// Replay once with training too.
    #[arg(long)]
    train: bool,
    /// The stream follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cargo hands it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a replay took: time that passed, and what the process, all of its threads, had of the processors in
/// it. The second tells also on a machine that is busy with something else.
struct Replayed {
    clock: Duration,
    cpu: Duration,
    peak_mib: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let line = Line::new("replay").set("train.device", "cpu");
    line.create_topics(arguments.partitions);
    let records = write(&line, &arguments);
    let end_ms = START_MS + span_ms(&arguments) + 3_600_000;
    let (mut bare, mut joined) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let (reading, bare_cpu) = read_barely(&line, arguments.partitions, records);
        let replayed = replay(&line, end_ms, &["--join-only"]);
        let Replayed { clock, cpu, peak_mib } = replayed;
        println!("round {round}: bare {reading:.2?}, join-only {clock:.2?}, {peak_mib} MiB");
        println!("round {round}: processor time of bare reading {bare_cpu:.2?}, of join-only {cpu:.2?}");
        bare.push(reading);
        joined.push(replayed);
    }
    let trained = arguments.train.then(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let model = dir.path().join("model");
        replay(&line, end_ms, &["--output", model.to_str().expect("a path in UTF-8")])
    });
    report(&arguments, records, &mut bare, &joined, trained.as_ref())
}

fn span_ms(arguments: &Arguments) -> i64 {
    (arguments.hours * 3_600_000.0) as i64
}

/// Writes the world's views and answers; how many.
fn write(line: &Line, arguments: &Arguments) -> u64 {
    let settings = line.settings();
    let config = WorldConfig {
        seed: arguments.seed,
        views: arguments.views,
        start_ms: START_MS,
        span_ms: span_ms(arguments),
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
    println!("{records} records of {} bytes, seed {}", bytes / records.max(1), arguments.seed);
    records
}

/// Reads and decodes all records, and nothing else; the time from the assignment to the last one, and the
/// processor time in it.
fn read_barely(line: &Line, partitions: i32, records: u64) -> (Duration, Duration) {
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
    (begun.elapsed(), cpu(std::process::id()).saturating_sub(cpu_before))
}

/// Replays everything; the time from the start of the process to its end.
fn replay(line: &Line, end_ms: i64, more: &[&str]) -> Replayed {
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).expect("a time").to_string();
    let (from, to) = (time(START_MS - 3_600_000), time(end_ms));
    let begun = Instant::now();
    let mut process = line.start(&[&["backfill", "--from", &from, "--to", &to], more].concat());
    let (mut peak_mib, mut used) = (0, Duration::ZERO);
    while process.is_running() {
        used = used.max(cpu(process.id()));
        peak_mib = peak_mib.max(resident_peak_mib(&process));
        std::thread::sleep(Duration::from_millis(20));
    }
    let clock = begun.elapsed();
    let status = process.wait(PATIENCE);
    assert!(status.success(), "{}", process.output());
    Replayed { clock, cpu: used, peak_mib }
}

/// User and system time of a process so far, as `proc_pid_stat(5)` gives it: in hundredths of a second. 0
/// when it has ended.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The most memory that the process has had, as `proc_pid_status(5)` gives it; 0 when it has ended.
fn resident_peak_mib(process: &Easq) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    peak.map_or(0, |kib| kib.trim().parse::<u64>().expect("a number") / 1024)
}

fn report(
    arguments: &Arguments,
    records: u64,
    bare: &mut [Duration],
    joined: &[Replayed],
    trained: Option<&Replayed>,
) -> ExitCode {
    let median = |times: &mut [Duration]| {
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let bare = median(bare);
    let join = median(&mut joined.iter().map(|replayed| replayed.clock).collect::<Vec<_>>());
    let rate = |time: Duration| records as f64 / time.as_secs_f64().max(1e-3);
    let happened = span_ms(arguments) as f64 / 1000.0;
    let mut table = Table::new();
    table.set_header(["", "median", "records/s", "times as fast as it happened", "peak memory"]);
    let mut row = |name: &str, time: Duration, peak_mib: Option<u64>| {
        table.add_row([
            name.to_owned(),
            format!("{:.2} s", time.as_secs_f64()),
            format!("{:.0}", rate(time)),
            format!("{:.0}", happened / time.as_secs_f64()),
            peak_mib.map_or_else(String::new, |mib| format!("{mib} MiB")),
        ]);
    };
    row("bare reading and decoding", bare, None);
    row("backfill --join-only", join, joined.iter().map(|replayed| replayed.peak_mib).max());
    if let Some(trained) = trained {
        row("backfill --output", trained.clock, Some(trained.peak_mib));
    }
    println!("{table}");
    let share = bare.as_secs_f64() / join.as_secs_f64();
    let holds = share >= LEAST_SHARE;
    let verdict = if holds { "holds" } else { "does NOT hold" };
    println!(
        "join-only has {share:.2} of the rate of bare reading, at least {LEAST_SHARE}: the bound {verdict}"
    );
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
