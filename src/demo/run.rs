//! The run from the first view to the report.

use std::fs;
use std::path::Path;
use std::time::Instant;

use comfy_table::{Table, presets};
use jiff::Timestamp;

use super::args::Args;
use super::charts::grouped;
use super::conservation::account;
use super::error::DemoError;
use super::judge::judge;
use super::line::{Drained, Line};
use super::page;
use super::report::{Funnel, HeldOut, JoinDelay, Report};
use super::setup::{Broker, Setup, set_up};
use crate::settings::Settings;
use crate::simulate::World;
use crate::supervise::StopToken;

/// Runs the demo for `args.duration` and what it takes to drain and evaluate, and prints what came
/// of it. Blocks the calling thread.
///
/// # Errors
/// When a stage fails, the counts do not add up, or the report cannot be written.
pub fn run(settings: &Settings, args: &Args, stop: &StopToken) -> Result<(), DemoError> {
    let (began, began_at) = (Instant::now(), Timestamp::now());
    let Setup { broker, settings, world } = set_up(settings, args, began_at, stop)?;
    eprintln!("broker: {}\n{}\n", broker.name(), broker.note());
    let model_dir = args.output.join("model");
    make_dirs(&args.output, &model_dir)?;
    let world = World::new(world)?;
    let line = Line::start(&settings, &model_dir)?;
    let drained = line.run(&world, args.duration, broker.control_records(), stop)?;
    broker.check_nothing_dropped()?;
    let held_out = judge(&settings, &world, &model_dir.join("current"), &drained.checkpoint)?;
    let mut report = report(&broker, &world, drained, held_out);
    report.began_at = began_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    report.total_seconds = began.elapsed().as_secs_f64();
    write(&args.output.join("report.json"), &(to_json(&report) + "\n"))?;
    write(&args.output.join("report.html"), &page::render(&report)?)?;
    print_summary(&report, &args.output);
    if report.conservation.ok {
        Ok(())
    } else {
        Err(DemoError::NotConserved { faults: report.conservation.faults })
    }
}

fn make_dirs(output: &Path, model_dir: &Path) -> Result<(), DemoError> {
    // What an earlier run left there are versions of another model.
    match fs::remove_dir_all(model_dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(DemoError::File { path: model_dir.to_owned(), source });
        }
        _ => {}
    }
    fs::create_dir_all(output).map_err(|source| DemoError::File { path: output.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    fs::write(path, text).map_err(|source| DemoError::File { path: path.to_owned(), source })
}

fn to_json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report has keys that are strings")
}

fn report(broker: &Broker, world: &World, drained: Drained, held_out: HeldOut) -> Report {
    let Drained { produced, reports, counts, delays_ms, history, checkpoint, traffic_seconds } = drained;
    let groups = reports.values().flat_map(|report| &report.groups);
    Report {
        program: concat!("easq ", env!("CARGO_PKG_VERSION")).to_owned(),
        seed: world.config().seed,
        broker: broker.name(),
        broker_note: broker.note(),
        began_at: String::new(),
        traffic_seconds,
        total_seconds: 0.0,
        event_time_hours: world.config().span_ms as f64 / 3_600_000.0,
        views: produced.views,
        answers: produced.responses,
        labelled_views: counts.labelled_views,
        preference_pairs: counts.preference_pairs,
        behavior_groups: groups.filter(|(outcome, _)| *outcome == "emitted").map(|(_, count)| count).sum(),
        versions: checkpoint.version,
        versions_loaded: history.len() as u64,
        funnel: Funnel {
            views: produced.views,
            triggered: produced.triggered,
            exposed: produced.exposed,
            answered: produced.responses,
            joined: counts.labelled_views,
            paired: counts.paired,
        },
        join_delay: JoinDelay::of(delays_ms),
        conservation: account(&produced, &reports, counts),
        version_history: history,
        held_out,
    }
}

fn print_summary(report: &Report, output: &Path) {
    let mut models = Table::new();
    models.load_preset(presets::UTF8_FULL_CONDENSED);
    models.set_header(["held-out lists", "production", "behavior-only", "difference"]);
    for (name, ours, twin) in report.held_out.rows() {
        let cells = [format!("{ours:.3}"), format!("{twin:.3}"), format!("{:+.3}", ours - twin)];
        models.add_row([&[name.to_owned()], &cells[..]].concat());
    }
    let funnel =
        report.funnel.stages().map(|(stage, count)| format!("{} {stage}", grouped(count))).join(", ");
    let conservation = if report.conservation.ok { "every record is accounted for" } else { "BROKEN" };
    println!("{models}");
    println!("{funnel}");
    println!(
        "{} preference pairs, {} versions; joined within {:.0} ms (p50), {:.0} ms (p99); conservation: \
         {conservation}",
        grouped(report.preference_pairs),
        report.versions,
        report.join_delay.p50_ms,
        report.join_delay.p99_ms,
    );
    println!("broker: {}. {}", report.broker, report.broker_note);
    println!("{}", output.join("report.html").display());
}
