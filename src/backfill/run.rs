//! From the range to what it gives.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::account::{self, Account};
use super::args::{Args, Base};
use super::error::BackfillError;
use super::plan::plan;
use super::range::Range;
use super::replay::Replay;
use super::sink::{SampleFile, Sink};
use super::time::Shown;
use super::watch::Watch;
use crate::model::Dtype;
use crate::offline::{self, Begun, Initial, Learning};
use crate::publish::page_reader::PageReader;
use crate::publish::registry::RegistryReader;
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::events::{BackfillBegins, BackfillEvicted};

/// Stands for the samples in messages: they come from no file.
const SAMPLES: &str = "backfill";

/// Replays the range that `args` name and writes what is asked for, or nothing when `stop` comes first.
/// Blocks the calling thread, which becomes libtorch's.
///
/// # Errors
/// Whatever keeps the range from being replayed whole: then there is no output.
pub fn run(settings: &Settings, args: &Args, stop: &StopToken) -> Result<(), BackfillError> {
    let now = Timestamp::now();
    let (from_ms, to_ms) = (args.from.at_ms(now), args.to.at_ms(now));
    if from_ms >= to_ms {
        return Err(BackfillError::EmptyRange { from_ms, to_ms });
    }
    if let Some(dir) = &args.output {
        offline::check_free(dir)?;
    }
    let range = Range::new(settings, from_ms, to_ms, args.pair_run_in);
    let samples = args.samples.as_deref().map(SampleFile::create).transpose()?;
    let plan = plan(settings, &range, args.accept_gap)?;
    let begin = |_: &PathBuf| begin(settings, args, stop);
    let begun = args.output.as_ref().map(begin).transpose()?;
    let learning = begun.map(|begun| Learning::new(settings, begun, Path::new(SAMPLES)));
    BackfillBegins {
        from: &Shown(from_ms),
        to: &Shown(to_ms),
        records: plan.stretches.iter().map(|stretch| (stretch.end - stretch.from).max(0)).sum(),
        partitions: plan.partitions,
    }
    .emit();
    let mut sink = Sink::new(range, samples, learning);
    let mut replay = Replay::begin(settings, &plan, &range)?;
    let mut watch = Watch::new(&mut sink, range);
    let replayed = replay.run(&mut watch, stop);
    watch.finish(&replay);
    replayed?;
    if let Some(learning) = &mut sink.learning {
        learning.finish()?;
        if learning.summary().is_empty() {
            return Err(BackfillError::NothingLearned);
        }
    }
    if stop.is_stopped() {
        return Err(BackfillError::Interrupted);
    }
    let account = Account::new(&range, args.pair_run_in, &plan, &replay, sink.given());
    if account.evicted() > 0 {
        BackfillEvicted { records: account.evicted() }.emit();
    }
    write(settings, args, sink, &account)
}

/// What training begins with.
fn begin(settings: &Settings, args: &Args, stop: &StopToken) -> Result<Begun, BackfillError> {
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
    let tensors = pages.load(manifest, &HashMap::new(), |_| true)?.tensors;
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
