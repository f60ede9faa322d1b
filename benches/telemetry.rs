//! What a joiner pays for being seen: processor time of one partition's join with what each commit
//! tells, beside the join alone, and of one scrape. Fails above [`MOST_PERCENT`].
//!
//! A commit every thousand records is what 20,000 records a second make of the default interval of 50 ms;
//! a joiner at full speed commits more records at once.

mod logs;

use std::fs;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use easq::contract::InputRecord;
use easq::join::{Config, Effects, OutputKind, PartitionJoin, Start};
use easq::joiner::tell_commit;
use easq::settings::Settings;
use easq::telemetry::install_recorder;
use logs::logs;

const ROUNDS: usize = 15;
const RECORDS_PER_COMMIT: usize = 1_000;
const SCRAPES: u32 = 200;
/// As in config/prometheus.yml.
const SCRAPE_INTERVAL_SECONDS: f64 = 5.0;
const MOST_PERCENT: f64 = 2.0;

/// Processor time of this thread, in seconds.
fn processor_seconds() -> f64 {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    let nanoseconds = statistics.split_whitespace().next().and_then(|first| first.parse::<f64>().ok());
    nanoseconds.expect("a number comes first") / 1e9
}

/// Joins both logs; the processor time that it took, and the commits.
fn join(config: &Arc<Config>, settings: &Settings, logs: &Logs, is_seen: bool) -> (f64, usize) {
    let mut join = PartitionJoin::new(Arc::clone(config), 0, Start::At(0), Start::At(0));
    let (mut effects, mut answered_ms, mut commits) = (Effects::default(), Vec::new(), 0);
    let began = processor_seconds();
    for (number, view) in logs.0.iter().enumerate() {
        if number % 100 == 0 {
            join.on_response(logs.1[number / 100].clone(), &mut effects).expect("a valid log");
        }
        join.on_view(view.clone(), &mut effects).expect("a valid log");
        if (number + 1) % RECORDS_PER_COMMIT == 0 {
            let labels = effects.outputs.drain(..).filter(|output| output.kind == OutputKind::LabelledView);
            answered_ms.extend(labels.filter_map(|label| label.event_time_ms));
            black_box(join.frontier());
            if is_seen {
                tell_commit(0, &join, &settings.topics, &answered_ms);
            }
            answered_ms.clear();
            commits += 1;
        }
    }
    (processor_seconds() - began, commits)
}

type Logs = (Vec<InputRecord>, Vec<InputRecord>);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let settings = Settings::default();
    let config = Arc::new(Config::new(&settings, 1));
    let logs = logs(settings.features.dense.len());
    let metrics = install_recorder().expect("the only one in this process");
    let (mut alone, mut seen, mut commits) = (Vec::new(), Vec::new(), 0);
    for round in 0..=ROUNDS {
        let unseen = join(&config, &settings, &logs, false);
        let told = join(&config, &settings, &logs, true);
        commits = told.1;
        // The first round warms up.
        if round > 0 {
            alone.push(unseen.0);
            seen.push(told.0);
        }
        // Takes what the histograms hold, as the service does every five seconds.
        black_box(metrics.render());
    }
    let (alone, seen) = (median(alone), median(seen));
    let began = processor_seconds();
    (0..SCRAPES).for_each(|_| _ = black_box(metrics.render()));
    let scrape = (processor_seconds() - began) / f64::from(SCRAPES);

    let of_events = 100.0 * (seen - alone).max(0.0) / alone;
    let of_scrapes = 100.0 * scrape / SCRAPE_INTERVAL_SECONDS;
    let per_commit = 1e6 * (seen - alone).max(0.0) / commits as f64;
    println!("join of {} views: {alone:.3} s of processor time, with telemetry {seen:.3} s", logs.0.len());
    println!(
        "telemetry: {of_events:.2} % of the join, {per_commit:.1} us a commit of {RECORDS_PER_COMMIT} records"
    );
    println!(
        "a scrape: {:.2} ms, every {SCRAPE_INTERVAL_SECONDS} s {of_scrapes:.3} % of a core",
        1e3 * scrape
    );
    let total = of_events + of_scrapes;
    println!("together {total:.2} %; at most {MOST_PERCENT} % are allowed");
    if total > MOST_PERCENT { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
