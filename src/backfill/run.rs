//! From the range to what it gives.

use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;

use super::account::{self, Account};
use super::args::{Args, Base};
use super::error::BackfillError;
use super::plan::{Plan, plan};
use super::range::Range;
use super::replay::Replay;
use super::resume::{self, Progress};
use super::sink::{SampleFile, Sink};
use super::time::{Moment, Shown};
use super::watch::Watch;
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
struct Task {
    range: Range,
    pair_run_in_ms: i64,
    plan: Plan,
    learned_before: u64,
}

impl Task {
    fn new(settings: &Settings, args: &Args) -> Result<Self, BackfillError> {
        let now = Timestamp::now();
        let at_ms = |moment: Option<Moment>| moment.map_or(0, |moment| moment.at_ms(now));
        let (from_ms, to_ms) = (at_ms(args.from), at_ms(args.to));
        if from_ms >= to_ms {
            return Err(BackfillError::EmptyRange { from_ms, to_ms });
        }
        let range = Range::new(settings, from_ms, to_ms, args.pair_run_in);
        let plan = plan(settings, &range, args.accept_gap)?;
        Ok(Self { range, pair_run_in_ms: args.pair_run_in, plan, learned_before: 0 })
    }

    fn again(settings: &Settings, partial: &Path) -> Result<Self, BackfillError> {
        let progress = Progress::read(settings, partial)?;
        let pair_run_in_ms = progress.pair_run_in_ms;
        let range = Range::new(settings, progress.from_ms, progress.to_ms, pair_run_in_ms);
        Ok(Self { range, pair_run_in_ms, plan: progress.plan(), learned_before: progress.samples })
    }
}

/// Replays the range that `args` name and writes what is asked for; when `stop` comes first, only what
/// `--resume` goes on from. Blocks the calling thread, which becomes libtorch's.
///
/// # Errors
/// Whatever keeps the range from being replayed whole: then there is no output.
pub fn run(settings: &Settings, args: &Args, stop: &StopToken) -> Result<(), BackfillError> {
    if let Some(dir) = &args.output {
        offline::check_free(dir)?;
    }
    let samples = args.samples.as_deref().map(SampleFile::create).transpose()?;
    let partial = args.output.as_deref().map(resume::partial);
    let resumed = partial.as_deref().filter(|_| args.resume);
    let task = match resumed {
        Some(partial) => Task::again(settings, partial)?,
        None => Task::new(settings, args)?,
    };
    let begun = args.output.as_ref().map(|_| begin(settings, args, resumed, stop)).transpose()?;
    let learning = begun.map(|begun| Learning::new(settings, begun, Path::new(SAMPLES)));
    let mut sink = Sink::new(task.range, samples, learning, task.learned_before);
    match replay(settings, &task, &mut sink, stop) {
        Ok(account) => {
            write(settings, args, sink, &account)?;
            resumed.map_or(Ok(()), resume::remove)
        }
        Err(error) if error.is_interrupted() => {
            let (Some(partial), Some(learning)) = (partial, &sink.learning) else { return Err(error) };
            if !sink.is_at_rest() || learning.trainer().steps() == 0 {
                return Err(error);
            }
            let (range, plan) = (&task.range, &task.plan);
            let progress = Progress::new(settings, range, task.pair_run_in_ms, plan, sink.learned());
            progress.write(settings, learning, &partial)?;
            Err(BackfillError::Resumable { path: partial })
        }
        Err(error) => Err(error),
    }
}

/// From the first record to the last, and what is open then.
fn replay(
    settings: &Settings,
    task: &Task,
    sink: &mut Sink,
    stop: &StopToken,
) -> Result<Account, BackfillError> {
    let Task { range, pair_run_in_ms, plan, .. } = task;
    BackfillBegins {
        from: &Shown(range.from_ms),
        to: &Shown(range.to_ms),
        records: plan.stretches.iter().map(|stretch| (stretch.end - stretch.from).max(0)).sum(),
        partitions: plan.partitions,
    }
    .emit();
    failpoint("backfill-planned");
    let mut replay = Replay::begin(settings, plan, range)?;
    let mut watch = Watch::new(sink, *range);
    let replayed = replay.run(&mut watch, stop);
    watch.finish(replay.reached());
    replayed?;
    if let Some(learning) = &mut sink.learning {
        learning.finish()?;
        if learning.summary().is_empty() && task.learned_before == 0 {
            return Err(BackfillError::NothingLearned);
        }
    }
    let account = Account::new(range, *pair_run_in_ms, plan, &replay, sink.given());
    if account.evicted() > 0 {
        BackfillEvicted { records: account.evicted() }.emit();
    }
    Ok(account)
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

fn write(settings: &Settings, args: &Args, sink: Sink, account: &Account) -> Result<(), BackfillError> {
    let json = account.to_json();
    let mut lines = account.table().to_string();
    if let (Some(dir), Some(learning)) = (&args.output, &sink.learning) {
        offline::write(settings, learning, dir, &[(account::FILE, json.as_bytes())])?;
        lines += &format!("\n{}\n{}", learning.summary().table(learning.trainer()), dir.display());
    }
    if let (Some(path), Some(file)) = (&args.samples, sink.samples) {
        file.finish(&json)?;
        lines += &format!("\n{}", path.display());
    }
    // All is written: a reader of this that has gone away takes nothing from it.
    let _ = writeln!(io::stdout(), "{lines}");
    Ok(())
}
