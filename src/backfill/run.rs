//! From the range to what it gives.

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;

use super::account::{self, Account, Replayed};
use super::args::{Args, Base, PAIR_RUN_IN_MS};
use super::error::BackfillError;
use super::pairs::{self, PairsTopic};
use super::plan::{Origin, Plan, plan};
use super::publication::{self, Publication};
use super::range::Range;
use super::replay::Replay;
use super::resume::{self, Progress};
use super::samples::Stored;
use super::sink::{Outlets, SampleFile, Sink};
use super::time::{Moment, Shown};
use super::watch::Watch;
use crate::contract::v1::LearnedRange;
use crate::model::Dtype;
use crate::offline::{self, Begun, Initial, Learning};
use crate::publish::page_reader::PageReader;
use crate::publish::registry::RegistryReader;
use crate::settings::Settings;
use crate::supervise::{StopToken, failpoint};
use crate::telemetry::events::{BackfillBegins, BackfillEvicted};

/// Stands for the samples in messages: they come from no file.
const SAMPLES: &str = "backfill";

/// What is replayed, and what of it was learned before.
pub struct Task {
    pub range: Range,
    /// Not of samples.
    pub pair_run_in_ms: Option<i64>,
    pub plan: Plan,
    pub learned_before: u64,
    /// What the model that training goes on from had learned.
    pub base_inputs: Vec<LearnedRange>,
}

impl Task {
    fn new(settings: &Settings, args: &Args) -> Result<Self, BackfillError> {
        let now = Timestamp::now();
        let at_ms = |moment: Option<Moment>| moment.map_or(0, |moment| moment.at_ms(now));
        let (from_ms, to_ms) = (at_ms(args.from), at_ms(args.to));
        if from_ms >= to_ms {
            return Err(BackfillError::EmptyRange { from_ms, to_ms });
        }
        let (range, pair_run_in_ms) = match (args.source, args.pair_run_in) {
            (Origin::Samples, Some(_)) => return Err(BackfillError::RunInOfSamples),
            (Origin::Samples, None) => (Range::of_samples(settings, from_ms, to_ms), None),
            (Origin::Inputs, run_in_ms) => {
                let run_in_ms = run_in_ms.unwrap_or(PAIR_RUN_IN_MS);
                (Range::new(settings, from_ms, to_ms, run_in_ms), Some(run_in_ms))
            }
        };
        let plan = plan(settings, args.source, &range, args.accept_gap)?;
        Ok(Self { range, pair_run_in_ms, plan, learned_before: 0, base_inputs: Vec::new() })
    }

    fn again(settings: &Settings, partial: &Path) -> Result<Self, BackfillError> {
        let progress = Progress::read(settings, partial)?;
        Ok(Self {
            range: progress.range(settings),
            pair_run_in_ms: progress.pair_run_in_ms,
            plan: progress.plan(),
            learned_before: progress.samples,
            base_inputs: progress.base_inputs,
        })
    }
}

/// What a replay came to.
struct Done {
    account: Account,
    /// The version of the replay's model.
    version: Option<u64>,
}

/// Replays the range that `args` name and gives what is asked for; when `stop` comes first, only what
/// `--resume` goes on from. Blocks the calling thread, which becomes libtorch's.
///
/// # Errors
/// Whatever keeps the range from being replayed whole: then there is no output, but for pairs that a
/// topic has already.
pub fn run(settings: &Settings, args: &Args, stop: &StopToken) -> Result<(), BackfillError> {
    if let Some(dir) = &args.output {
        offline::check_free(dir)?;
    }
    if let Some(topic) = &args.pairs_topic {
        pairs::check_name(settings, topic)?;
    }
    let publication = args.publish.as_ref();
    let publication =
        publication.map(|run| Publication::new(settings, run.as_deref(), Timestamp::now())).transpose()?;
    let samples = args.samples.as_deref().map(SampleFile::create).transpose()?;
    let partial = args.output.as_deref().map(resume::partial);
    let resumed = partial.as_deref().filter(|_| args.resume);
    let mut task = match resumed {
        Some(partial) => Task::again(settings, partial)?,
        None => Task::new(settings, args)?,
    };
    let begun = (args.output.is_some() || publication.is_some())
        .then(|| begin(settings, args, resumed, stop))
        .transpose()?;
    if let (Some(begun), None) = (&begun, resumed) {
        task.base_inputs.clone_from(&begun.inputs);
    }
    let learning = begun.map(|begun| Learning::new(settings, begun, Path::new(SAMPLES)));
    if let Some(publication) = &publication {
        publication.prepare(stop)?;
    }
    let partitions = task.plan.partitions;
    let open = |topic| PairsTopic::open(settings, topic, partitions, args.resume, stop);
    let pairs = args.pairs_topic.as_deref().map(open).transpose()?;
    let mut sink = Sink::new(task.range, Outlets { samples, learning, pairs }, task.learned_before);
    match replay(settings, &task, &mut sink, publication.as_ref(), stop) {
        Ok(done) => {
            write(settings, args, sink, publication.as_ref(), &done)?;
            resumed.map_or(Ok(()), resume::remove)
        }
        Err(error) => Err(leave(settings, &task, sink, partial.as_deref(), error)),
    }
}

/// From the first record to the last, what is open then, and the version.
fn replay(
    settings: &Settings,
    task: &Task,
    sink: &mut Sink,
    publication: Option<&Publication>,
    stop: &StopToken,
) -> Result<Done, BackfillError> {
    let Task { range, pair_run_in_ms, plan, .. } = task;
    BackfillBegins {
        from: &Shown(range.from_ms),
        to: &Shown(range.to_ms),
        records: plan.stretches.iter().map(|stretch| (stretch.end - stretch.from).max(0)).sum(),
        partitions: plan.partitions,
    }
    .emit();
    failpoint("backfill-planned");
    let replayed = match plan.origin {
        Origin::Inputs => joined(settings, task, sink, stop)?,
        Origin::Samples => stored(settings, task, sink, stop)?,
    };
    sink.finish()?;
    let named = publication.and_then(Publication::named);
    let account = Account::new(range, *pair_run_in_ms, named, plan, &replayed, sink.given());
    if account.evicted() > 0 {
        BackfillEvicted { records: account.evicted() }.emit();
    }
    let version = match (publication, &sink.outlets.learning) {
        (Some(publication), Some(learning)) => {
            let published = publication::inputs(settings, &task.base_inputs, plan, &replayed)
                .and_then(|inputs| publication.publish(learning, &inputs, stop));
            Some(published.map_err(|error| BackfillError::NotPublished(Box::new(error)))?)
        }
        _ => None,
    };
    Ok(Done { account, version })
}

fn joined(
    settings: &Settings,
    task: &Task,
    sink: &mut Sink,
    stop: &StopToken,
) -> Result<Replayed, BackfillError> {
    let mut replay = Replay::begin(settings, &task.plan, &task.range)?;
    let mut watch = Watch::new(sink, task.range);
    let replayed = replay.run(&mut watch, stop);
    watch.finish(replay.reached());
    replayed.map(|()| Replayed::from(&replay))
}

fn stored(
    settings: &Settings,
    task: &Task,
    sink: &mut Sink,
    stop: &StopToken,
) -> Result<Replayed, BackfillError> {
    let mut stored = Stored::begin(settings, &task.plan, &task.range)?;
    let mut watch = Watch::new(sink, task.range);
    let replayed = stored.run(&mut watch, stop);
    watch.finish(stored.reached());
    replayed.map(|()| stored.replayed())
}

/// Keeps what an interrupted replay has learned, if it can go on from there, and also what one has learned
/// that could not be published. The error that says so.
fn leave(
    settings: &Settings,
    task: &Task,
    sink: Sink,
    partial: Option<&Path>,
    error: BackfillError,
) -> BackfillError {
    let is_kept = error.is_interrupted() || matches!(error, BackfillError::NotPublished(_));
    if let (true, Some(partial), Some(learning)) = (is_kept, partial, &sink.outlets.learning)
        && sink.is_at_rest()
        && learning.trainer().steps() > 0
    {
        let progress = Progress::new(settings, task, &task.base_inputs, sink.learned());
        return match (progress.write(settings, learning, partial), error) {
            (Err(error), _) => error,
            (Ok(()), BackfillError::NotPublished(reason)) if !reason.is_interrupted() => {
                BackfillError::Kept { reason, path: partial.to_owned() }
            }
            (Ok(()), _) => BackfillError::Resumable { path: partial.to_owned() },
        };
    }
    match sink.outlets.pairs {
        // What was resumed can be resumed once more.
        Some(pairs) if pairs.there() > 0 && task.learned_before == 0 => BackfillError::PairsLeft {
            reason: Box::new(error),
            topic: pairs.topic().to_owned(),
            pairs: pairs.there(),
        },
        _ => error,
    }
}

/// What training begins with.
fn begin(
    settings: &Settings,
    args: &Args,
    resumed: Option<&Path>,
    stop: &StopToken,
) -> Result<Begun, BackfillError> {
    if let Some(path) = resumed {
        return Ok(offline::begin_from(settings, &Initial { argument: "--resume", path }, None)?);
    }
    let dtype = args.dtype.map(|precision| precision.dtype());
    let argument = "--base";
    match &args.base {
        None => Ok(offline::begin_anew(settings, dtype)?),
        Some(Base::Path(path)) => Ok(offline::begin_from(settings, &Initial { argument, path }, dtype)?),
        Some(Base::Version(version)) => begin_from_version(settings, *version, dtype, stop),
    }
}

fn begin_from_version(
    settings: &Settings,
    version: u64,
    dtype: Option<Dtype>,
    stop: &StopToken,
) -> Result<Begun, BackfillError> {
    let registry = RegistryReader::open(settings, "backfill registry", stop)?.registry;
    let manifest = registry
        .versions
        .get(&version)
        .ok_or_else(|| BackfillError::NoVersion { model: settings.model.name.clone(), version })?;
    let mut pages = PageReader::new(settings, "backfill pages")?;
    let tensors = pages.load(manifest, |_| true)?;
    let name = version.to_string();
    let initial = Initial { argument: "--base", path: Path::new(&name) };
    Ok(offline::take_up(settings, &initial, tensors, Some(&**manifest), dtype)?)
}

fn write(
    settings: &Settings,
    args: &Args,
    sink: Sink,
    publication: Option<&Publication>,
    done: &Done,
) -> Result<(), BackfillError> {
    let json = done.account.to_json();
    let mut lines = done.account.table().to_string();
    let Outlets { samples, learning, pairs } = sink.outlets;
    if let Some(learning) = &learning {
        lines += &format!("\n{}", learning.summary().table(learning.trainer()));
    }
    if let (Some(dir), Some(learning)) = (&args.output, &learning) {
        offline::write(settings, learning, dir, &[(account::FILE, json.as_bytes())])?;
        lines += &format!("\n{}", dir.display());
    }
    if let (Some(path), Some(file)) = (&args.samples, samples) {
        file.finish(&json)?;
        lines += &format!("\n{}", path.display());
    }
    if let Some(pairs) = pairs {
        lines += &format!("\n{} pairs in topic '{}'", pairs.there(), pairs.topic());
    }
    if let (Some(publication), Some(version)) = (publication, done.version) {
        let model = publication.model();
        lines += &format!("\nversion {version} of model '{model}' (--set model.name={model})");
    }
    // All is written: a reader of this that has gone away takes nothing from it.
    let _ = writeln!(io::stdout(), "{lines}");
    Ok(())
}
