//! How long a joiner that is killed and started again takes to its first new output, beside what bare
//! consumption and decoding of the records that it reads again takes in the same run. Fails when the
//! restarts are slower than the bound below.
//!
//! ```text
//! scripts/with-kafka cargo bench --bench recovery -- --partitions 4 --restarts 20
//! ```
//!
//! The joiner is the real binary with a static name, the broker a real Apache Kafka, the views those of
//! the synthetic world; all of them wait in the window, so that each restart reads all of them again.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::Table;
use easq::contract::Side;
use easq::contract::v1::{Answer, BehaviorEvent, LabelledView, QuestionnaireResponse};
use easq::kafka::Outgoing;
use easq::kafka::producer::Producer;
use easq::kafka::reader::{FETCH_TUNING, LogReader};
use easq::simulate::{FaultRates, Input as Topic, Partitioning, World, WorldConfig};
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use support::{Easq, Input, Line, joiners};

/// The bound, at the 99th percentile: this, and so many times the median of bare reading.
const ALLOWANCE: Duration = Duration::from_secs(2);
const FACTOR: f64 = 1.3;
/// So many views have to wait in the window, or the figures say nothing about the bound.
const WAITING_VIEWS: u64 = 1_000_000;
/// Event time of the views. Answers come up to 20 minutes later; nothing expires in half an hour.
const SPAN_MS: i64 = 15 * 60_000;
const ANSWER_RATE: f64 = 0.01;
const PATIENCE: Duration = Duration::from_secs(120);

/// Restarts a joiner again and again, and measures until its first new output.
#[derive(Parser)]
struct Arguments {
    /// Views in the window, all partitions together.
    #[arg(long, default_value_t = 1_050_000)]
    views: u64,
    /// Partitions that hold them.
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    /// How often the joiner is killed.
    #[arg(long, default_value_t = 10)]
    restarts: usize,
    /// The views follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cargo hands it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A view that nobody has answered yet.
struct Unanswered {
    user: String,
    impression: String,
}

/// What a restart reads again of one input partition.
struct Replay {
    side: Side,
    topic: String,
    partition: i32,
    from: i64,
    to: i64,
}

/// One round: the same records read barely, then by a joiner that starts.
struct Round {
    records: u64,
    bare: Taken,
    restart: Taken,
}

/// Time that passed, and what a process, all of its threads, had of the processors in it. The second
/// tells also on a machine that is busy with something else.
#[derive(Clone, Copy)]
struct Taken {
    clock: Duration,
    cpu: Duration,
}

/// A moment in the life of a process.
struct Begun {
    process: u32,
    at: Instant,
    cpu: Duration,
}

impl Begun {
    fn now(process: u32) -> Self {
        Self { process, at: Instant::now(), cpu: cpu(process) }
    }

    fn taken(&self) -> Taken {
        Taken { clock: self.at.elapsed(), cpu: cpu(self.process).saturating_sub(self.cpu) }
    }
}

/// User and system time of a process so far, as `proc_pid_stat(5)` gives it: in hundredths of a second.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("a process that lives");
    let (_, fields) = stat.rsplit_once(')').expect("the name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let line = Line::new("recovery").set("joiner.instance_id", "east");
    line.create_topics(arguments.partitions);
    let unanswered = write_window(&line, &arguments);
    let mut joiner = start(&line);
    joiners::consumed_to_the_end(&line, arguments.partitions);
    let mut rounds = Vec::new();
    for number in 0..arguments.restarts {
        let (replays, time_ms) = committed(&line, arguments.partitions);
        let (records, bare) = read_barely(&line, &replays);
        let view = &unanswered[number * unanswered.len() / arguments.restarts];
        let restart = restart(&line, &mut joiner, view, time_ms);
        let (b, r) = (bare.clock, restart.clock);
        println!("restart {}: bare {b:.2?}, to the first new output {r:.2?}", number + 1);
        rounds.push(Round { records, bare, restart });
    }
    report(&rounds, arguments.partitions)
}

fn start(line: &Line) -> Easq {
    line.start(&["run", "--role", "joiner"])
}

/// Writes the world's views, each of them eligible, and its answers; returns the last third of the
/// views that stay without one.
fn write_window(line: &Line, arguments: &Arguments) -> Vec<Unanswered> {
    let settings = line.settings();
    let config = WorldConfig {
        seed: arguments.seed,
        views: arguments.views,
        span_ms: SPAN_MS,
        exposure: 1.0,
        answer_rate: ANSWER_RATE,
        ..WorldConfig::new(&settings.simulate, settings.features.schema_version)
    };
    let world = World::new(config).expect("a world that can be");
    let partitioning =
        Partitioning { partitions: arguments.partitions, partitioner: settings.input.partitioner };
    let producer = Producer::new(&settings.kafka, settings.input.partitioner).expect("a producer");
    let topics = [&settings.topics.behavior, &settings.topics.responses].map(|topic| Arc::from(&**topic));
    let [behavior, responses]: [Arc<str>; 2] = topics;
    let (mut views, mut bytes, mut unanswered) = (0, 0, Vec::new());
    for delivery in world.deliveries(FaultRates::default(), partitioning) {
        let payload = delivery.payload.expect("a record without a fault");
        let (topic, payload) = match delivery.input {
            Topic::Responses => (&responses, payload.to_vec()),
            Topic::Behavior => {
                let view = BehaviorEvent::decode(payload).expect("a view of the world");
                let view = BehaviorEvent { questionnaire_exposed: Some(true), ..view };
                let payload = view.encode_to_vec();
                views += 1;
                bytes += payload.len();
                if delivery.truth.is_some_and(|truth| !truth.answered) && 3 * views > 2 * arguments.views {
                    unanswered.push(Unanswered { user: view.user_id, impression: view.impression_id });
                }
                (&behavior, payload)
            }
        };
        let record = Outgoing::to(Arc::clone(topic)).key(delivery.key).payload(payload);
        producer.send(&record.timestamp_ms(delivery.arrived_ms)).expect("a record that is taken");
    }
    producer.flush(PATIENCE).expect("all records delivered");
    println!("{views} views of {} bytes, seed {}", bytes as u64 / views.max(1), arguments.seed);
    unanswered
}

/// What a restart now would read again, and the greatest event time of the answers.
fn committed(line: &Line, partitions: i32) -> (Vec<Replay>, i64) {
    let (mut replays, mut waiting, mut time_ms) = (Vec::new(), 0, 0);
    for (side, topic) in joiners::inputs(line) {
        for partition in 0..partitions {
            let state = joiners::committed(line, &topic, partition).expect("a committed offset");
            match side {
                Side::Views => waiting += state.outcomes.waiting,
                Side::Responses => time_ms = time_ms.max(state.stream_time_ms.expect("an answer")),
            }
            let (from, to) = (state.replay_from, state.next_offset);
            replays.push(Replay { side, topic: topic.clone(), partition, from, to });
        }
    }
    assert!(waiting >= WAITING_VIEWS, "{waiting} views wait, {WAITING_VIEWS} are wanted: raise --views");
    (replays, time_ms)
}

/// Reads and decodes what a restart reads again, and nothing else; the time from the assignment of the
/// partitions to the last record.
fn read_barely(line: &Line, replays: &[Replay]) -> (u64, Taken) {
    let mut config = line.kafka().client();
    config.set("group.id", "bare").set("isolation.level", "read_committed");
    config.set("enable.auto.commit", "false");
    FETCH_TUNING.iter().for_each(|(key, value)| _ = config.set(*key, *value));
    let consumer: BaseConsumer = config.create().expect("a valid client configuration");
    let mut assignment = TopicPartitionList::new();
    for replay in replays {
        // Without metadata the first fetch is a second late.
        consumer.fetch_metadata(Some(&replay.topic), PATIENCE).expect("metadata");
        let from = Offset::Offset(replay.from);
        assignment.add_partition_offset(&replay.topic, replay.partition, from).expect("an offset");
    }
    let mut missing: u64 = replays.iter().map(|replay| (replay.to - replay.from).cast_unsigned()).sum();
    let records = missing;
    let begun = Begun::now(std::process::id());
    consumer.assign(&assignment).expect("an assignable list");
    while missing > 0 {
        assert!(
            begun.at.elapsed() < PATIENCE,
            "{missing} of {records} records are not read within {PATIENCE:?}"
        );
        let message = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => panic!("bare reading: {error}"),
            None => continue,
        };
        let payload = message.payload().expect("a record with a value");
        let side = replays.iter().find(|replay| replay.topic == message.topic()).map(|replay| replay.side);
        match side.expect("an assigned topic") {
            Side::Views => _ = black_box(BehaviorEvent::decode(payload).expect("a view")),
            Side::Responses => _ = black_box(QuestionnaireResponse::decode(payload).expect("an answer")),
        }
        missing -= 1;
    }
    (records, begun.taken())
}

/// Kills the joiner, lets an answer to a view that waits lie in the topic, and starts it again; the time
/// from there until a `read_committed` reader has the label.
fn restart(line: &Line, joiner: &mut Easq, view: &Unanswered, time_ms: i64) -> Taken {
    let settings = line.settings();
    let reader = end_of_labels(line);
    joiner.kill();
    let answer = support::response(&view.user, &view.impression, time_ms, Answer::Satisfied);
    let record = Input::new(view.user.clone(), answer.encode_to_vec(), time_ms);
    line.kafka().produce(&settings.topics.responses, &[record]);
    let at = Instant::now();
    *joiner = start(line);
    let begun = Begun { process: joiner.id(), at, cpu: Duration::ZERO };
    loop {
        assert!(at.elapsed() < PATIENCE, "no label within {PATIENCE:?}\n{}", joiner.output());
        let Some(record) = reader.poll(Duration::from_millis(100)).expect("a readable log") else { continue };
        let label = LabelledView::decode(record.payload.expect("a record with a value")).expect("a label");
        if label.view.expect("a label with its view").impression_id == view.impression {
            return begun.taken();
        }
    }
}

/// A `read_committed` reader of the labels that will come.
fn end_of_labels(line: &Line) -> LogReader {
    let settings = line.settings();
    let topic = &settings.topics.labelled_views;
    let mut reader = LogReader::new(&settings.kafka, "bench").expect("a reader");
    let partitions = reader.partitions(topic).expect("a topic");
    let ends: Vec<_> = (0..partitions)
        .map(|partition| (&**topic, partition, reader.watermarks(topic, partition).expect("an end").1))
        .collect();
    reader.assign(&ends).expect("an assignable list");
    reader
}

fn report(rounds: &[Round], partitions: i32) -> ExitCode {
    let sorted = |of: fn(&Round) -> Duration| {
        let mut times: Vec<Duration> = rounds.iter().map(of).collect();
        times.sort();
        times
    };
    let (bare, restart) = (sorted(|round| round.bare.clock), sorted(|round| round.restart.clock));
    let (bare_cpu, restart_cpu) = (sorted(|round| round.bare.cpu), sorted(|round| round.restart.cpu));
    let mut table = Table::new();
    table.set_header(["", "p50", "p99", "max"]);
    for (name, times) in [
        ("bare reading and decoding", &bare),
        ("restart to first new output", &restart),
        ("processor time of bare reading", &bare_cpu),
        ("processor time of the joiner", &restart_cpu),
    ] {
        let cells = [0.5, 0.99, 1.0].map(|share| format!("{:.2} s", quantile(times, share).as_secs_f64()));
        table.add_row([&[name.to_owned()][..], &cells].concat());
    }
    let ratio = |share| quantile(&restart, share).as_secs_f64() / quantile(&bare, share).as_secs_f64();
    table.add_row(
        [&["restart / bare".to_owned()][..], &[0.5, 0.99, 1.0].map(|s| format!("{:.2}", ratio(s)))].concat(),
    );
    let records = rounds.iter().map(|round| round.records).min().unwrap_or_default();
    println!("{records} records read again in {partitions} partitions, {} restarts\n{table}", rounds.len());
    let bound = ALLOWANCE + quantile(&bare, 0.5).mul_f64(FACTOR);
    let reached = quantile(&restart, 0.99);
    let holds = reached <= bound;
    let verdict = if holds { "holds" } else { "does NOT hold" };
    println!(
        "p99 {reached:.2?}, at most {ALLOWANCE:?} + {FACTOR} x bare p50 = {bound:.2?}: the bound {verdict}"
    );
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The least value that at least this share of the sorted values does not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
