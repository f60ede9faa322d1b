//! The method against its baselines and without its parts: all learn the same streams of the synthetic
//! world online, in one pass, and are judged on held-out lists.

mod chart;
mod contenders;
mod learn;
mod poison;
mod report;
mod statistics;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::Serialize;

use crate::contract::v1::{HeldOutList, sample};
use crate::settings::{Preset, Settings};
use crate::simulate::{SimulateError, World, WorldConfig, WorldError, samples};
use crate::supervise::StopToken;
use crate::telemetry::Progress;
use crate::train::TrainError;

pub use poison::{PoisonArgs, poison};

use contenders::{Contender, contenders};
use learn::{Run, learn};
use report::{Report, StreamOf};

/// Lists that each contender ranks, per stream.
const LISTS: usize = 1500;

/// Compare the method with its baselines and ablations on the synthetic world.
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// Two minutes: fewer views, two seeds, two worlds.
    #[arg(long, requires = "compare")]
    quick: bool,
    /// Streams per world, of seeds 1, 2, ... [default: 5].
    #[arg(long, value_name = "N", requires = "compare")]
    seeds: Option<u64>,
    /// Views of a stream [default: 192000].
    #[arg(long, value_name = "N", requires = "compare")]
    views: Option<u64>,
    /// Worlds [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", requires = "compare")]
    worlds: Vec<String>,
    /// Only contenders whose name contains one of these.
    #[arg(long, value_delimiter = ',', value_name = "TEXT,...", requires = "compare")]
    contenders: Vec<String>,
    /// Contenders that learn at a time [default: one per core].
    #[arg(long, value_name = "N", requires = "compare")]
    jobs: Option<usize>,
    /// Folder of comparison.html and comparison.json.
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    output: PathBuf,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("no world is called '{name}': there are {known}")]
    UnknownWorld { name: String, known: String },
    #[error("no poison is called '{name}': there are {known}")]
    UnknownPoison { name: String, known: String },
    #[error("no contender's name contains '{0}'")]
    UnknownContender(String),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("{contender} in the world '{world}', seed {seed}: {problem}")]
    Contender { contender: String, world: &'static str, seed: u64, problem: String },
    #[error(transparent)]
    Chart(#[from] chart::ChartError),
    #[error("'{path}': {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the world gives only {lists} of {LISTS} held-out lists")]
    TooFewLists { lists: usize },
    #[error("interrupted")]
    Interrupted,
}

impl CompareError {
    /// Whether other arguments or settings are the remedy.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::UnknownWorld { .. }
                | Self::UnknownPoison { .. }
                | Self::UnknownContender(_)
                | Self::World(_)
        )
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted)
    }
}

/// A world to compare in.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ComparedWorld {
    pub name: &'static str,
    #[serde(skip)]
    preset: Preset,
    /// Share of the triggered views that are asked about, and of those that answer.
    pub exposure: f64,
    pub answer_rate: f64,
}

/// The presets with as many answers as something can be learned from: about 1 % of the views, and in
/// the sparse one about 0.12 %. `rich` has about 3.4 %.
const WORLDS: [ComparedWorld; 5] = [
    ComparedWorld { name: "dense", preset: Preset::Dense, exposure: 0.05, answer_rate: 0.2 },
    ComparedWorld { name: "sparse", preset: Preset::Dense, exposure: 0.05, answer_rate: 0.0246 },
    ComparedWorld { name: "mild", preset: Preset::Mild, exposure: 0.05, answer_rate: 0.2 },
    ComparedWorld { name: "drift", preset: Preset::Drift, exposure: 0.05, answer_rate: 0.2 },
    ComparedWorld { name: "rich", preset: Preset::Dense, exposure: 0.18, answer_rate: 0.2 },
];

/// One stream of a world.
struct Stream {
    samples: Vec<sample::Sample>,
    lists: Vec<HeldOutList>,
    answers: u64,
    pairs: u64,
}

/// Lets all contenders learn, and writes what came of it.
///
/// # Errors
/// A world or contender is unknown or fails, or a file cannot be written.
pub fn compare(
    settings: &Settings,
    args: &CompareArgs,
    stop: &StopToken,
    out: &mut dyn io::Write,
) -> Result<(), CompareError> {
    let worlds = worlds(args)?;
    let contenders = chosen(args)?;
    let seeds = args.seeds.unwrap_or(if args.quick { 2 } else { 5 });
    let views = args.views.unwrap_or(if args.quick { 24_000 } else { 192_000 });
    let mut progress = Progress::new(worlds.len() as u64 * seeds * contenders.len() as u64, "contenders");
    let mut report = Report::new(views, seeds);
    for world in worlds {
        for seed in 1..=seeds {
            let settings = of_seed(settings, seed);
            let stream = stream(&settings, world, seed, views)?;
            let done = report.runs.len() as u64;
            let runs = learn_all(&settings, world, seed, &stream, &contenders, args, stop, &mut |runs| {
                progress.set(done + runs, format!("world {}, seed {seed}", world.name));
            })?;
            report.streams.push(StreamOf {
                world: world.name,
                seed,
                answers: stream.answers,
                pairs: stream.pairs,
            });
            report.runs.extend(runs);
            // A later failure takes nothing away.
            report.summarize();
            write(args, &report)?;
        }
    }
    progress.finish();
    writeln!(out, "{}", report.table())
        .map_err(|source| CompareError::Io { path: PathBuf::from("standard output"), source })
}

fn worlds(args: &CompareArgs) -> Result<Vec<ComparedWorld>, CompareError> {
    match args.worlds.is_empty() {
        true if args.quick => Ok(WORLDS[..2].to_vec()),
        true => Ok(WORLDS[..4].to_vec()),
        false => args.worlds.iter().map(|name| find_world(name)).collect(),
    }
}

fn find_world(name: &str) -> Result<ComparedWorld, CompareError> {
    let known = || WORLDS.map(|world| world.name).join(", ");
    let found = WORLDS.into_iter().find(|world| world.name == name);
    found.ok_or_else(|| CompareError::UnknownWorld { name: name.to_owned(), known: known() })
}

/// The behavior-only one is always among them: prices are against it.
fn chosen(args: &CompareArgs) -> Result<Vec<Contender>, CompareError> {
    let all = contenders(args.quick);
    if let Some(unknown) =
        args.contenders.iter().find(|text| !all.iter().any(|contender| contender.name.contains(*text)))
    {
        return Err(CompareError::UnknownContender(unknown.clone()));
    }
    let is_chosen = |contender: &Contender| {
        args.contenders.is_empty()
            || contender.is_behavior_only()
            || args.contenders.iter().any(|text| contender.name.contains(text))
    };
    Ok(all.into_iter().filter(is_chosen).collect())
}

/// The seed decides the world and the initial values.
fn of_seed(settings: &Settings, seed: u64) -> Settings {
    let mut settings = settings.clone();
    settings.simulate.seed = seed;
    settings.model.seed = seed;
    // They learn everything of their own.
    settings.model.backbone.clear();
    // Tables as large as the world, as its ids are dense.
    let simulate = &settings.simulate;
    let rows = [simulate.users, simulate.videos, simulate.authors, simulate.topics];
    for field in &mut settings.features.sparse {
        // The world's fields are 1 to 4 in this order.
        if let Some(rows) = field.field.checked_sub(1).and_then(|index| rows.get(index as usize)) {
            field.rows = *rows as u64;
        }
    }
    settings
}

fn stream(settings: &Settings, world: ComparedWorld, seed: u64, views: u64) -> Result<Stream, CompareError> {
    let mut simulate = settings.simulate.clone();
    (simulate.preset, simulate.seed) = (world.preset, seed);
    let config = WorldConfig {
        exposure: world.exposure,
        answer_rate: world.answer_rate,
        views,
        ..WorldConfig::new(&simulate, settings.features.schema_version)
    };
    let world = World::new(config)?;
    let (samples, answers) = samples(settings, &world)?;
    let pairs = samples.iter().filter(|sample| matches!(sample, sample::Sample::PreferencePair(_))).count();
    let lists = world.held_out_lists(LISTS);
    if lists.len() < LISTS {
        return Err(CompareError::TooFewLists { lists: lists.len() });
    }
    Ok(Stream { lists, samples, answers, pairs: pairs as u64 })
}

/// Runs `run` on each of `items`, `jobs` at a time or one per core; the results in their order. `done`
/// hears how many are.
fn on_threads<T: Sync, R: Send>(
    items: &[T],
    jobs: Option<usize>,
    stop: &StopToken,
    run: impl Fn(&T) -> Result<R, CompareError> + Sync,
    done: &mut dyn FnMut(u64),
) -> Result<Vec<R>, CompareError> {
    let jobs = jobs.or_else(|| thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let (sender, finished) = crossbeam_channel::unbounded();
    let mut results: Vec<(usize, Result<R, CompareError>)> = thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (sender, next, run) = (sender.clone(), &next, &run);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index).filter(|_| !stop.is_stopped()) else { break };
                    // It listens until all threads have ended.
                    let _ = sender.send((index, run(item)));
                }
            });
        }
        drop(sender);
        (1..)
            .zip(finished)
            .map(|(runs, result)| {
                done(runs);
                result
            })
            .collect()
    });
    if stop.is_stopped() {
        return Err(CompareError::Interrupted);
    }
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// All contenders on one stream.
#[allow(clippy::too_many_arguments, reason = "one call, and no two of them belong together")]
fn learn_all(
    settings: &Settings,
    world: ComparedWorld,
    seed: u64,
    stream: &Stream,
    contenders: &[Contender],
    args: &CompareArgs,
    stop: &StopToken,
    done: &mut dyn FnMut(u64),
) -> Result<Vec<Run>, CompareError> {
    let run = |contender: &Contender| learn(settings, contender, stream, world.name, seed, stop);
    let runs = on_threads(contenders, args.jobs, stop, run, done)?;
    // The same main batches for all, or they are not compared.
    if let Some(other) = runs.iter().find(|run| run.steps != runs[0].steps) {
        let problem = format!("{} steps, where {} took {}", other.steps, runs[0].contender, runs[0].steps);
        let contender = other.contender.clone();
        return Err(CompareError::Contender { contender, world: world.name, seed, problem });
    }
    Ok(runs)
}

fn write(args: &CompareArgs, report: &Report) -> Result<(), CompareError> {
    let write = |name: &str, contents: String| {
        let path = args.output.join(name);
        fs::write(&path, contents).map_err(|source| CompareError::Io { path, source })
    };
    fs::create_dir_all(&args.output)
        .map_err(|source| CompareError::Io { path: args.output.clone(), source })?;
    write("comparison.json", report.to_json())?;
    write("comparison.html", report.to_html()?)
}
