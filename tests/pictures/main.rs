//! `make pictures`: panels of both dashboards, drawn from what a real Prometheus has of a running line,
//! for README.

#[path = "../support/mod.rs"]
mod support;

mod draw;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use draw::Chart;
use support::dashboards::{Panel, dashboards};
use support::eventually;
use support::watched::{self, Watched};

/// Panels of the picture, and the dashboard that they are on.
const PICTURES: [(&str, [&str; 9]); 2] = [
    (
        "easq-service",
        [
            "Records consumed",
            "Answers by outcome",
            "Records waiting",
            "Partitions owned",
            "Transactions",
            "Time of a transaction",
            "Answer to label",
            "Answer to production",
            "Age of the version in place",
        ],
    ),
    (
        "easq-model",
        [
            "Win rate on preference",
            "Win rate on behavior",
            "Losses",
            "Weight of L_DPO",
            "What alignment costs",
            "Label reservoir",
            "Beside the anchor",
            "Decisions",
            "Freshness",
        ],
    ),
];
/// At the clock's pace.
const TRAFFIC: [&str; 8] = ["--rate", "600", "--duration", "1h", "--exposure", "0.3", "--answer-rate", "0.4"];
const RATE_INTERVAL: &str = "15s";
/// Points of a line.
const POINTS: f64 = 90.0;

/// Draws what the dashboards show of a running line.
#[derive(Parser)]
struct Arguments {
    /// Folder for the pictures.
    #[arg(long, default_value = "docs/images")]
    output: PathBuf,
    /// How long the line runs.
    #[arg(long, default_value_t = 6.0)]
    minutes: f64,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}

/// The panel with what it shows between two times.
fn chart(watched: &Watched, panel: &Panel, (from, to): (f64, f64)) -> Chart {
    let mut lines = Vec::new();
    for query in panel.queries() {
        let step = ((to - from) / POINTS).max(1.0);
        let found = watched.prometheus.query_range(&query.filled(RATE_INTERVAL), (from, to), step);
        for series in found.expect("a query of a dashboard") {
            let points = series.points.iter().map(|(time, value)| (time - from, *value));
            let name = series.labels.iter().fold(query.legend.clone(), |name, (label, value)| {
                name.replace(&format!("{{{{{label}}}}}"), value)
            });
            // Topics of a line of its own: behind the dot stands what they are called elsewhere.
            let name = name.rsplit_once("-0.").map_or(name.as_str(), |(_, topic)| topic).to_owned();
            lines.push((name, points.filter(|(_, value)| value.is_finite()).collect()));
        }
    }
    // What never happened would only cover the rest.
    let happened = |(_, points): &(String, Vec<(f64, f64)>)| points.iter().any(|(_, value)| *value != 0.0);
    if lines.iter().any(happened) {
        lines.retain(happened);
    }
    Chart { title: panel.title().to_owned(), unit: panel.unit().to_owned(), lines }
}

fn main() {
    let arguments = Arguments::parse();
    let line = watched::line("pictures").set("join.window_ms", 120_000).set("gate.anchor_age_ms", 60_000);
    let mut watched = Watched::start(&line, &TRAFFIC);
    let from = now();
    let seconds = 60.0 * arguments.minutes;
    let long = Duration::from_secs_f64(2.0 * seconds + 60.0);
    eventually(long, "half of the time is over", || now() > from + seconds / 2.0);
    watched.move_partitions();
    eventually(long, "the time is over", || now() > from + seconds);
    fs::create_dir_all(&arguments.output).expect("a folder for the pictures");
    for (uid, titles) in PICTURES {
        let dashboard = dashboards().into_iter().find(|dashboard| dashboard.uid() == uid);
        let panels = dashboard.expect("a dashboard of this name").panels();
        let charts = titles.map(|title| {
            let panel = panels.iter().find(|panel| panel.title() == title);
            chart(
                &watched,
                panel.unwrap_or_else(|| panic!("{uid} has no panel '{title}'")),
                (from, from + seconds),
            )
        });
        let path = arguments.output.join(format!("{uid}.svg"));
        fs::write(&path, draw::grid(&charts)).expect("a writable folder");
        println!("{}", path.display());
    }
}
