//! What a joiner pays for being seen: the time in which it tells of a commit, beside the time in which
//! the join takes in what is committed; and the time of one scrape. Fails above [`MOST_PERCENT`].
//!
//! A commit every thousand records is what 20,000 records a second make of the default interval of 50 ms;
//! a joiner at full speed commits more records at once. Medians over thousands of commits: other programs
//! on the machine delay few of them.

mod logs;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use easq::contract::InputRecord;
use easq::join::{Config, Effects, OutputKind, PartitionJoin, Start};
use easq::joiner::tell_commit;
use easq::settings::Settings;
use easq::telemetry::install_recorder;
use logs::logs;

const ROUNDS: usize = 20;
const RECORDS_PER_COMMIT: usize = 1_000;
const SCRAPES: usize = 500;
/// As in config/prometheus.yml.
const SCRAPE_INTERVAL_SECONDS: f64 = 5.0;
const MOST_PERCENT: f64 = 2.0;

/// Seconds, of every commit.
#[derive(Default)]
struct Times {
    joining: Vec<f64>,
    telling: Vec<f64>,
}

/// Joins both logs once.
fn join(config: &Arc<Config>, settings: &Settings, logs: &Logs, times: &mut Times) {
    let mut join = PartitionJoin::new(Arc::clone(config), 0, Start::At(0), Start::At(0));
    let (mut effects, mut answered_ms) = (Effects::default(), Vec::new());
    let mut began = Instant::now();
    for (number, view) in logs.0.iter().enumerate() {
        if number % 100 == 0 {
            join.on_response(logs.1[number / 100].clone(), &mut effects).expect("a valid log");
        }
        join.on_view(view.clone(), &mut effects).expect("a valid log");
        if (number + 1) % RECORDS_PER_COMMIT == 0 {
            let labels = effects.outputs.drain(..).filter(|output| output.kind == OutputKind::LabelledView);
            answered_ms.extend(labels.filter_map(|label| label.event_time_ms));
            black_box(join.frontier());
            times.joining.push(began.elapsed().as_secs_f64());
            began = Instant::now();
            tell_commit(0, &join, &settings.topics, &answered_ms);
            times.telling.push(began.elapsed().as_secs_f64());
            answered_ms.clear();
            began = Instant::now();
        }
    }
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
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        join(&config, &settings, &logs, &mut times);
        // Takes what the histograms hold, as the service does every five seconds.
        black_box(metrics.render());
    }
    let (joining, telling) = (median(times.joining), median(times.telling));
    let scrapes = (0..SCRAPES).map(|_| {
        let began = Instant::now();
        black_box(metrics.render());
        began.elapsed().as_secs_f64()
    });
    let scrape = median(scrapes.collect());

    let of_commits = 100.0 * telling / joining;
    let of_scrapes = 100.0 * scrape / SCRAPE_INTERVAL_SECONDS;
    println!("joining {RECORDS_PER_COMMIT} records: {:.0} us", 1e6 * joining);
    println!("telling of their commit: {:.1} us, {of_commits:.2} % of it", 1e6 * telling);
    println!(
        "a scrape: {:.2} ms, every {SCRAPE_INTERVAL_SECONDS} s {of_scrapes:.3} % of a core",
        1e3 * scrape
    );
    let total = of_commits + of_scrapes;
    println!("together {total:.2} %; at most {MOST_PERCENT} % are allowed");
    if total > MOST_PERCENT { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
