//! The gate under poison, and without any: what reaches readers, and what is refused without cause.

mod live;
mod poisons;

use std::fs;
use std::io;
use std::path::PathBuf;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::statistics::Spread;
use super::{CompareError, ComparedWorld, Stream, of_seed, on_threads, stream};
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::Progress;

use live::{Live, Second};
use poisons::Poison;

/// Poison the synthetic world's streams, and see what the gate lets through.
#[derive(Debug, Clone, clap::Args)]
pub struct PoisonArgs {
    /// Streams per world, of seeds 1, 2, ...
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
    /// Views of a stream.
    #[arg(long, value_name = "N", default_value_t = 384_000)]
    views: u64,
    /// Worlds.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", default_value = "dense")]
    worlds: Vec<String>,
    /// Poisons [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    poisons: Vec<String>,
    /// The same without a gate besides.
    #[arg(long)]
    ungated: bool,
    /// Runs at a time [default: one per core].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// All runs, second by second, as JSON.
    #[arg(long, value_name = "FILE", default_value = "poison.json")]
    output: PathBuf,
}

/// The end of a stream.
const LAST_SECONDS: usize = 60;

/// One stream, as it went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PoisonRun {
    pub world: &'static str,
    pub poison: &'static str,
    pub seed: u64,
    pub is_gated: bool,
    /// Positions in the stream, from 0 to 1.
    pub starts_at: f64,
    pub detected_at: Option<f64>,
    pub accepted_at: Option<f64>,
    /// Suspicions while nothing was wrong.
    pub false_alarms: u64,
    pub poisoned_pairs: u64,
    /// Those among them that the reservoir took.
    pub poisoned_pairs_taken: u64,
    pub held_out_pairs: u64,
    pub held_out_groups: u64,
    pub rollbacks: u64,
    pub steps_taken_back: u64,
    pub seconds: Vec<Second>,
}

impl PoisonRun {
    /// Share of versions refused, and the longest run of them, in seconds.
    fn refused(&self) -> (f64, usize) {
        let refused = self.seconds.iter().filter(|second| second.is_refused).count();
        let runs = self.seconds.split(|second| !second.is_refused).map(<[_]>::len);
        (refused as f64 / self.seconds.len().max(1) as f64, runs.max().unwrap_or_default())
    }

    /// Production's figure just before the poison, its worst since then, and its last.
    fn production(&self, figure: fn(&Second) -> f64) -> [f64; 3] {
        let begin = self.seconds.iter().position(|second| second.is_poisoned).unwrap_or_default();
        let before = self.seconds[..begin].last().map_or(f64::NAN, figure);
        let worst = self.seconds[begin..].iter().map(figure).fold(f64::INFINITY, f64::min);
        [before, worst, self.seconds.last().map_or(f64::NAN, figure)]
    }

    /// Production's win rate on answers: before, at its lowest since the poison began, and at the end.
    fn answers(&self) -> Option<[f64; 3]> {
        let begin = self.seconds.iter().position(|second| second.is_poisoned)?;
        let (_, before) = self.seconds[..begin].last()?.answers?;
        let recent: Vec<f64> =
            self.seconds[begin..].iter().filter_map(|second| Some(second.answers?.0)).collect();
        let last = &recent[recent.len().saturating_sub(LAST_SECONDS)..];
        Some([before, recent.iter().copied().fold(f64::INFINITY, f64::min), Spread::of(last).mean])
    }
}

/// One run to make.
#[derive(Debug, Clone, Copy)]
struct Task {
    poison: Poison,
    is_gated: bool,
}

/// Runs them all, and prints a table.
///
/// # Errors
/// A world or poison is unknown, a run fails, or the file cannot be written.
pub fn poison(
    settings: &Settings,
    args: &PoisonArgs,
    stop: &StopToken,
    out: &mut dyn io::Write,
) -> Result<(), CompareError> {
    let worlds = args.worlds.iter().map(|name| super::find_world(name)).collect::<Result<Vec<_>, _>>()?;
    let tasks = tasks(args)?;
    let mut progress = Progress::new(worlds.len() as u64 * args.seeds * tasks.len() as u64, "runs");
    let mut runs = Vec::new();
    for world in worlds {
        for seed in 1..=args.seeds {
            let settings = of_seed(settings, seed);
            let stream = stream(&settings, world, seed, args.views)?;
            let run = |task: &Task| run(&settings, world, seed, &stream, *task, stop);
            runs.extend(on_threads(&tasks, args.jobs, stop, run, &mut |_| ())?);
            progress.set(runs.len() as u64, format!("world {}, seed {seed}", world.name));
            write(args, &runs)?;
        }
    }
    progress.finish();
    writeln!(out, "{}", table(&runs))
        .map_err(|source| CompareError::Io { path: PathBuf::from("standard output"), source })
}

fn tasks(args: &PoisonArgs) -> Result<Vec<Task>, CompareError> {
    let find = |name: &String| {
        let found = Poison::ALL.into_iter().find(|poison| poison.name() == name);
        let known = || Poison::ALL.map(Poison::name).join(", ");
        found.ok_or_else(|| CompareError::UnknownPoison { name: name.clone(), known: known() })
    };
    let poisons = match args.poisons.is_empty() {
        true => Poison::ALL.to_vec(),
        false => args.poisons.iter().map(find).collect::<Result<_, _>>()?,
    };
    let gates: &[bool] = if args.ungated { &[true, false] } else { &[true] };
    let of_poison = |&poison: &Poison| gates.iter().map(move |&is_gated| Task { poison, is_gated });
    Ok(poisons.iter().flat_map(of_poison).collect())
}

fn run(
    settings: &Settings,
    world: ComparedWorld,
    seed: u64,
    stream: &Stream,
    task: Task,
    stop: &StopToken,
) -> Result<PoisonRun, CompareError> {
    let mut settings = settings.clone();
    if !task.is_gated {
        // Nothing is ever judged.
        settings.gate.warmup_steps = u64::MAX;
    }
    let accepts = world.name == "drift" || task.poison == Poison::LastingChange;
    let done = Live::new(&settings, stream, task.poison, accepts).and_then(|live| live.run(stop));
    let failed = |problem| CompareError::Contender {
        contender: task.poison.name().to_owned(),
        world: world.name,
        seed,
        problem,
    };
    let run = done.map_err(failed)?;
    Ok(PoisonRun {
        world: world.name,
        poison: task.poison.name(),
        seed,
        is_gated: task.is_gated,
        starts_at: task.poison.span().start,
        ..run
    })
}

fn write(args: &PoisonArgs, runs: &[PoisonRun]) -> Result<(), CompareError> {
    let json = serde_json::to_string(runs).expect("runs have a JSON form");
    fs::write(&args.output, json).map_err(|source| CompareError::Io { path: args.output.clone(), source })
}

fn table(runs: &[PoisonRun]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "world",
        "poison",
        "gate",
        "seeds",
        "refused %",
        "longest s",
        "false alarms",
        "noticed after s",
        "answers right before, worst, last",
        "poisoned pairs",
        "taken in",
        "rollbacks",
        "NDCG@10 before",
        "worst",
        "last",
        "behavior before",
        "worst",
        "last",
    ]);
    let key = |run: &PoisonRun| (run.world, run.poison, run.is_gated);
    let mut keys = Vec::new();
    for run in runs {
        if !keys.contains(&key(run)) {
            keys.push(key(run));
        }
    }
    for wanted in keys {
        table.add_row(row(&runs.iter().filter(|run| key(run) == wanted).collect::<Vec<_>>()));
    }
    table
}

/// The same world, poison and gate, over seeds: means, but for the longest and for counts.
fn row(group: &[&PoisonRun]) -> Vec<String> {
    let first = group[0];
    let mean = |values: Vec<f64>| Spread::of(&values).mean;
    let each = |value: &dyn Fn(&PoisonRun) -> f64| mean(group.iter().map(|run| value(run)).collect());
    let seconds = |run: &PoisonRun, from: f64, to: f64| (to - from) * run.seconds.len() as f64;
    // That world changes half-way by itself.
    let begin = if first.world == "drift" { 0.5 } else { first.starts_at };
    let noticed: Vec<f64> =
        group.iter().filter_map(|run| run.detected_at.map(|at| seconds(run, begin, at))).collect();
    let production = |figure: fn(&Second) -> f64| [0, 1, 2].map(|i| each(&|run| run.production(figure)[i]));
    let mut row = vec![
        first.world.to_owned(),
        first.poison.to_owned(),
        if first.is_gated { "on" } else { "off" }.to_owned(),
        group.len().to_string(),
        format!("{:.2}", 100.0 * each(&|run| run.refused().0)),
        group.iter().map(|run| run.refused().1).max().unwrap_or_default().to_string(),
        group.iter().map(|run| run.false_alarms).sum::<u64>().to_string(),
        match noticed.len() {
            0 => "never".to_owned(),
            n => format!("{:.1} ({n} of {})", mean(noticed), group.len()),
        },
        match group.iter().filter_map(|run| run.answers()).collect::<Vec<_>>() {
            rates if rates.is_empty() => String::new(),
            rates => [0, 1, 2]
                .map(|i| format!("{:.2}", mean(rates.iter().map(|rate| rate[i]).collect())))
                .join(" "),
        },
        format!("{:.0}", each(&|run| run.poisoned_pairs as f64)),
        format!("{:.0}", each(&|run| run.poisoned_pairs_taken as f64)),
        format!("{:.1}", each(&|run| run.rollbacks as f64)),
    ];
    for figure in [|second: &Second| second.ndcg_at_10, |second: &Second| second.behavior_accuracy] {
        row.extend(production(figure).map(|value| format!("{value:.3}")));
    }
    row
}
