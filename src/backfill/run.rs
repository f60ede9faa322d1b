//! From the range to what it gives.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
use super::sink::{Learned, Outlets, SampleFile, Sink};
use super::time::{Moment, Shown};
use super::watch::Watch;
use crate::contract::v1::LearnedRange;
use crate::kafka::reader::LogReader;
use crate::model::Dtype;
use crate::offline::{self, Begun, Initial, Learning};
use crate::publish::page_reader::PageReader;
use crate::publish::registry::RegistryReader;
use crate::settings::Settings;
use crate::supervise::{StopToken, failpoint};
use crate::telemetry::events::{BackfillBegins, BackfillEvicted};

/// Stands for the samples in messages: they come from no file.
const SAMPLES: &str = "backfill";
/// How long one question to the brokers may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The cluster's ids of topics; empty where the brokers give none.
pub type TopicIds = BTreeMap<Arc<str>, String>;

/// What is replayed, and what of it was learned before.
pub struct Task {
    pub range: Range,
    /// Not of samples.
    pub pair_run_in_ms: Option<i64>,
    pub plan: Plan,
    pub topic_ids: TopicIds,
    pub learned_before: Learned,
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
        let topic_ids = topic_ids(settings, &plan)?;
        let learned_before = Learned::default();
        Ok(Self { range, pair_run_in_ms, plan, topic_ids, learned_before, base_inputs: Vec::new() })
    }

    fn again(settings: &Settings, partial: &Path) -> Result<Self, BackfillError> {
        let progress = Progress::read(settings, partial)?;
        let plan = progress.plan();
        let topic_ids = topic_ids(settings, &plan)?;
        progress.check_topics(&topic_ids, partial)?;
        Ok(Self {
            range: progress.range(settings),
            pair_run_in_ms: progress.pair_run_in_ms,
            plan,
            topic_ids,
            learned_before: progress.learned(),
            base_inputs: progress.base_inputs,
        })
    }
}

fn topic_ids(settings: &Settings, plan: &Plan) -> Result<TopicIds, BackfillError> {
    let reader = LogReader::new(&settings.kafka, "backfill inputs")?;
    let mut ids = TopicIds::new();
    for stretch in &plan.stretches {
        if !ids.contains_key(&stretch.topic) {
            let id = reader.topic_id(&stretch.topic, ANSWER_WITHIN)?;
            ids.insert(Arc::clone(&stretch.topic), id.unwrap_or_default());
        }
    }
    Ok(ids)
}

/// Replays the range that `args` name and gives what is asked for; when `stop` comes first, only what
/// `--resume` goes on from. Blocks the calling thread, which becomes libtorch's.
///
/// # Errors
/// Whatever keeps the range from being replayed whole: then there is no output, but for pairs that a
/// topic has already, what `--resume` goes on from, and what was whole before.
pub fn run(settings: &Settings, args: &Args, stop: &StopToken) -> Result<(), BackfillError> {
    let partial = args.output.as_deref().map(resume::partial);
    let resumed = partial.as_deref().filter(|_| args.resume);
    let replayed = replay(settings, args, partial.as_deref(), stop);
    match (replayed, resumed) {
        (Ok(said), resumed) => {
            resumed.map_or(Ok(()), resume::remove)?;
            // All is written: a reader of this that has gone away takes nothing from it.
            let _ = writeln!(io::stdout(), "{said}");
            Ok(())
        }
        (Err(error @ BackfillError::NotKept { .. }), _) => Err(error),
        // What was there before is there still, where nothing new has come.
        (Err(error), Some(path)) if error.is_interrupted() && path.exists() => {
            Err(BackfillError::Resumable { path: path.to_owned() })
        }
        (Err(error), _) => Err(error),
    }
}

/// What is to be said at the end.
fn replay(
    settings: &Settings,
    args: &Args,
    partial: Option<&Path>,
    stop: &StopToken,
) -> Result<String, BackfillError> {
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
    let resumed = partial.filter(|_| args.resume);
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
        publication.check(stop)?;
    }
    let partitions = task.plan.partitions;
    let open = |topic| PairsTopic::open(settings, topic, partitions, args.resume, stop);
    let pairs = args.pairs_topic.as_deref().map(open).transpose()?;
    if let Some(publication) = &publication {
        publication.prepare(stop)?;
    }
    let outlets = Outlets { samples, learning, pairs };
    let mut sink = Sink::new(task.range, outlets, task.learned_before.clone());
    let publication = publication.as_ref();
    let replayed = read(settings, &task, &mut sink, stop)
        .and_then(|replayed| write(settings, args, &task, &replayed, &mut sink, publication, stop));
    replayed.map_err(|error| leave(settings, &task, sink, args.output.as_deref(), error))
}

/// From the first record to the last, and what is open then.
fn read(
    settings: &Settings,
    task: &Task,
    sink: &mut Sink,
    stop: &StopToken,
) -> Result<Replayed, BackfillError> {
    let Task { range, plan, .. } = task;
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
    Ok(replayed)
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

/// Keeps what was learned, if a replay could go on from there. The error that says so.
fn leave(
    settings: &Settings,
    task: &Task,
    mut sink: Sink,
    output: Option<&Path>,
    error: BackfillError,
) -> BackfillError {
    // A disk that is full may have room without them.
    drop(sink.outlets.samples.take());
    if let (true, Some(output), Some(learning)) =
        (error.leaves_what_was_learned(), output, &sink.outlets.learning)
        && learning.trainer().steps() > 0
    {
        let (path, reason) = (resume::partial(output), Box::new(error));
        let kept = Progress::new(settings, task, sink.learned()).write(settings, learning, &path);
        // The folder was there before its version was to be.
        let is_written = matches!(*reason, BackfillError::NotPublished(_));
        return match kept.and_then(|()| if is_written { resume::remove(output) } else { Ok(()) }) {
            Err(why) => BackfillError::NotKept { reason, why: Box::new(why) },
            Ok(()) if reason.is_interrupted() => BackfillError::Resumable { path },
            Ok(()) => BackfillError::Kept { reason, path },
        };
    }
    match sink.outlets.pairs {
        // What was resumed can be resumed once more.
        Some(pairs) if pairs.there() > 0 && task.learned_before == Learned::default() => {
            BackfillError::PairsLeft {
                reason: Box::new(error),
                topic: pairs.topic().to_owned(),
                pairs: pairs.there(),
            }
        }
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

/// The files, and at last the version: what lies in Kafka cannot be taken back.
fn write(
    settings: &Settings,
    args: &Args,
    task: &Task,
    replayed: &Replayed,
    sink: &mut Sink,
    publication: Option<&Publication>,
    stop: &StopToken,
) -> Result<String, BackfillError> {
    let Task { range, pair_run_in_ms, plan, .. } = task;
    let named = publication.and_then(Publication::named);
    let account = Account::new(range, *pair_run_in_ms, named, plan, replayed, sink.given());
    if account.evicted() > 0 {
        BackfillEvicted { records: account.evicted() }.emit();
    }
    let json = account.to_json();
    let mut lines = account.table().to_string();
    let Outlets { samples, learning, pairs } = &mut sink.outlets;
    if let Some(learning) = learning {
        lines += &format!("\n{}", learning.summary().table(learning.trainer()));
    }
    if let (Some(path), Some(file)) = (&args.samples, samples.take()) {
        file.finish(&json)?;
        lines += &format!("\n{}", path.display());
    }
    if let (Some(dir), Some(learning)) = (&args.output, &learning) {
        offline::write(settings, learning, dir, &[(account::FILE, json.as_bytes())])?;
        lines += &format!("\n{}", dir.display());
    }
    if let Some(pairs) = pairs {
        lines += &format!("\n{} pairs in topic '{}'", pairs.there(), pairs.topic());
    }
    if let (Some(publication), Some(learning)) = (publication, learning) {
        let inputs = publication::inputs(task, replayed);
        let published = publication.publish(learning, &inputs, stop);
        let version = published.map_err(|error| BackfillError::NotPublished(Box::new(error)))?;
        let model = publication.model();
        lines += &format!("\nversion {version} of model '{model}' (--set model.name={model})");
    }
    Ok(lines)
}
