//! `easq evaluate`: a model's folder and a sample file in, figures out.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use serde_json::json;
use thiserror::Error;

use super::held_out::ListFault;
use super::measure::{Figures, Measure};
use crate::contract::samples::{SampleError, SampleReader};
use crate::contract::v1::{self, BehaviorEvent, Features, sample};
use crate::model::{Architecture, DropReason, LoadError, ScoreError, Scorer, check_features, reward};
use crate::publish::files;
use crate::publish::folder::Folder;
use crate::settings::{Reward, Settings};
use crate::telemetry::Progress;
use crate::train::behavior_only_tensors;

/// Samples between two changes of the progress.
const SHOWN_SAMPLES: u64 = 100;

const OPTIMISTIC: &str = "figures on a stream are optimistic where the model has learned that stream: the views of a \
                          pair, or others of the same person, were learned before; compare on held-out lists";

/// Measure how a model ranks: held-out lists, behavior groups and preference pairs.
///
/// On held-out lists: HR@1/5/10, NDCG@5/10/20, MRR, and behavior accuracy, the share of pairs of views
/// with unlike rewards that the scores order as the rewards do; equal scores count one half. On a
/// stream: behavior accuracy over its groups, preference accuracy over its pairs. Where the folder
/// holds training state, the behavior-only twin is measured beside the model. Rewards are those of the
/// settings; features and shape those of manifest.json.
#[derive(Debug, Clone, clap::Args)]
pub struct EvaluateArgs {
    /// A folder that `easq train` wrote, or that `easq follow` keeps.
    #[arg(long, value_name = "DIR")]
    #[cfg_attr(feature = "research", arg(required = false, required_unless_present = "compare"))]
    pub model: PathBuf,
    /// Held-out lists, groups or pairs (.pb or .jsonl), as `easq simulate` writes them.
    #[arg(long, value_name = "FILE")]
    #[cfg_attr(feature = "research", arg(required = false, required_unless_present = "compare"))]
    pub samples: PathBuf,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Why there are no figures.
#[derive(Debug, Error)]
pub enum EvaluateCommandError {
    #[error("--model {}: {source}", path.display())]
    Model { path: PathBuf, source: io::Error },
    #[error("--model {}: {source}", path.display())]
    Load { path: PathBuf, source: LoadError },
    #[error(transparent)]
    Samples(#[from] SampleError),
    #[error("'{}', sample {number}: {source}", path.display())]
    List { path: PathBuf, number: u64, source: ListFault },
    #[error("'{}', sample {number}: {source}", path.display())]
    Score { path: PathBuf, number: u64, source: ScoreError },
    #[error("'{}', sample {number}: it is no sample that this version knows; a newer easq may have written it", path.display())]
    UnknownSample { path: PathBuf, number: u64 },
    #[error("'{}' holds nothing to evaluate on: none of {lists} lists has a pair of views with unlike rewards, {left_out} views and pairs were left out", path.display())]
    Nothing { path: PathBuf, lists: u64, left_out: u64 },
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Reads, scores and prints to `out`.
pub fn evaluate(
    settings: &Settings,
    args: &EvaluateArgs,
    out: &mut dyn Write,
) -> Result<(), EvaluateCommandError> {
    let (architecture, model, twin) = load(&args.model)?;
    let mut run = Run {
        reward: &settings.reward,
        architecture,
        models: [Some(model), twin].into_iter().flatten().map(Measure::new).collect(),
        left_out: BTreeMap::new(),
    };
    let mut samples = SampleReader::open(&args.samples)?;
    let mut progress = Progress::new(fs::metadata(&args.samples)?.len(), "bytes");
    let (mut number, mut lists) = (0, 0);
    while let Some(sample) = samples.next() {
        number += 1;
        let sample = sample?;
        lists += u64::from(matches!(sample.sample, Some(sample::Sample::HeldOutList(_))));
        run.take(sample).map_err(|fault| fault.at(&args.samples, number))?;
        if number.is_multiple_of(SHOWN_SAMPLES) {
            progress.set(samples.bytes_read(), format!("{number} samples"));
        }
    }
    progress.set(samples.bytes_read(), format!("{number} samples"));
    progress.finish();
    let figures: Vec<Figures> = run.models.iter().map(Measure::figures).collect();
    let has_all = (lists == 0 || figures[0].held_out.is_some()) && !figures[0].rows().is_empty();
    if !has_all {
        let left_out = run.left_out.values().sum();
        return Err(EvaluateCommandError::Nothing { path: args.samples.clone(), lists, left_out });
    }
    if args.json {
        print_json(&figures, &run.left_out, out)
    } else {
        print_table(&figures, &run.left_out, out)
    }
}

/// The model, and its behavior-only twin where the folder has training state.
fn load(path: &Path) -> Result<(Architecture, Scorer, Option<Scorer>), EvaluateCommandError> {
    let unread = |source| EvaluateCommandError::Model { path: path.to_owned(), source };
    let misfit = |source| EvaluateCommandError::Load { path: path.to_owned(), source };
    let folder = Folder::version(path);
    let manifest = files::read_manifest(&folder).map_err(unread)?;
    let architecture = Architecture::from_manifest(
        &manifest.features.unwrap_or_default(),
        &manifest.shape.unwrap_or_default(),
    );
    let tensors = files::read_folder(&folder).map_err(unread)?;
    let twin = match folder.join(files::TRAINING).exists() {
        true => Some(behavior_only_tensors(&tensors).map_err(misfit)?),
        false => None,
    };
    let scorer = |tensors| Scorer::from_tensors(&architecture, tensors).map_err(misfit);
    let (model, twin) = (scorer(tensors)?, twin.map(scorer).transpose()?);
    Ok((architecture, model, twin))
}

/// What is wrong with one sample.
enum Fault {
    List(ListFault),
    Score(ScoreError),
    Unknown,
}

impl Fault {
    fn at(self, path: &Path, number: u64) -> EvaluateCommandError {
        let path = path.to_owned();
        match self {
            Self::List(source) => EvaluateCommandError::List { path, number, source },
            Self::Score(source) => EvaluateCommandError::Score { path, number, source },
            Self::Unknown => EvaluateCommandError::UnknownSample { path, number },
        }
    }
}

struct Run<'a> {
    reward: &'a Reward,
    architecture: Architecture,
    /// The model, then its twin.
    models: Vec<Measure>,
    /// Views of groups, groups and pairs that training would not learn from either.
    left_out: BTreeMap<DropReason, u64>,
}

impl Run<'_> {
    fn take(&mut self, sample: v1::Sample) -> Result<(), Fault> {
        match sample.sample.ok_or(Fault::Unknown)? {
            sample::Sample::HeldOutList(list) => {
                let reward = self.reward;
                self.models
                    .iter_mut()
                    .try_for_each(|model| model.add_list(&list, reward))
                    .map_err(Fault::List)
            }
            sample::Sample::BehaviorGroup(group) => self.take_group(&group).map_err(Fault::Score),
            sample::Sample::PreferencePair(pair) => self.take_pair(&pair).map_err(Fault::Score),
        }
    }

    fn take_group(&mut self, group: &v1::BehaviorGroup) -> Result<(), ScoreError> {
        let mut usable = Vec::with_capacity(group.views.len());
        for view in &group.views {
            match usable_view(&self.architecture, self.reward, view) {
                Ok(view) => usable.push(view),
                Err(reason) => *self.left_out.entry(reason).or_default() += 1,
            }
        }
        if usable.len() < 2 {
            *self.left_out.entry(DropReason::GroupTooSmall).or_default() += 1;
            return Ok(());
        }
        let margin = self.reward.margin;
        self.models.iter_mut().try_for_each(|model| model.add_group(&usable, margin))
    }

    fn take_pair(&mut self, pair: &v1::PreferencePair) -> Result<(), ScoreError> {
        match (self.labelled(&pair.chosen), self.labelled(&pair.rejected)) {
            (Ok(chosen), Ok(rejected)) => {
                self.models.iter_mut().try_for_each(|model| model.add_pair(chosen, rejected))
            }
            (Err(reason), _) | (_, Err(reason)) => {
                *self.left_out.entry(reason).or_default() += 1;
                Ok(())
            }
        }
    }

    fn labelled<'b>(&self, labelled: &'b Option<v1::LabelledView>) -> Result<&'b Features, DropReason> {
        let view = labelled.as_ref().and_then(|labelled| labelled.view.as_ref());
        let view = view.ok_or(DropReason::IncompletePair)?;
        check_features(&self.architecture, view.features.as_ref())
    }
}

fn usable_view<'a>(
    architecture: &Architecture,
    settings: &Reward,
    view: &'a BehaviorEvent,
) -> Result<(&'a Features, f64), DropReason> {
    let features = check_features(architecture, view.features.as_ref())?;
    Ok((features, reward(settings, &view.engagement.clone().unwrap_or_default())?))
}

/// The model's figures by name, with those of its twin.
fn beside(figures: &[Figures]) -> impl Iterator<Item = (&'static str, f64, Option<f64>)> {
    let twin = figures.get(1).map(Figures::rows);
    figures[0].rows().into_iter().enumerate().map(move |(index, (name, ours))| {
        (name, ours, twin.as_ref().and_then(|twin| twin.get(index)).map(|(_, theirs)| *theirs))
    })
}

fn print_json(
    figures: &[Figures],
    left_out: &BTreeMap<DropReason, u64>,
    out: &mut dyn Write,
) -> Result<(), EvaluateCommandError> {
    let difference: BTreeMap<&str, f64> =
        beside(figures).filter_map(|(name, ours, twin)| Some((name, ours - twin?))).collect();
    let left_out: BTreeMap<&str, u64> =
        left_out.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    let notes: Vec<&str> = figures[0].stream.iter().map(|_| OPTIMISTIC).collect();
    let object = json!({
        "model": figures[0],
        "behavior_only": figures.get(1),
        "difference": difference,
        "left_out": left_out,
        "notes": notes,
    });
    Ok(writeln!(out, "{object}")?)
}

fn print_table(
    figures: &[Figures],
    left_out: &BTreeMap<DropReason, u64>,
    out: &mut dyn Write,
) -> Result<(), EvaluateCommandError> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let has_twin = figures.len() > 1;
    let header = ["", "model", "behavior-only twin", "difference"];
    table.set_header(&header[..if has_twin { 4 } else { 2 }]);
    for (name, ours, twin) in beside(figures) {
        let mut row = vec![name.to_owned(), format!("{ours:.4}")];
        row.extend(twin.into_iter().flat_map(|twin| [format!("{twin:.4}"), format!("{:+.4}", ours - twin)]));
        table.add_row(row);
    }
    writeln!(out, "{table}")?;
    if let Some(lists) = &figures[0].held_out {
        writeln!(out, "held out: {} lists, {} behavior pairs", lists.lists, lists.behavior_pairs)?;
    }
    if let Some(stream) = &figures[0].stream {
        let v = stream;
        writeln!(
            out,
            "stream: {} groups with {} behavior pairs, {} preference pairs; {OPTIMISTIC}",
            v.groups, v.behavior_pairs, v.preference_pairs
        )?;
    }
    for (reason, count) in left_out {
        writeln!(out, "left out: {count}, {reason}")?;
    }
    Ok(())
}
