//! `easq score`: views in, scores out.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::contract::samples::SampleReader;
use crate::contract::v1;
use crate::model::{Architecture, Scorer};
use crate::publish::error::PublishError;
use crate::publish::folder::Folder;
use crate::publish::{files, read_current};
use crate::settings::Settings;

use super::CommandError;

/// Views scored at a time.
const BATCH_VIEWS: usize = 1024;

/// Score views with a model's files.
///
/// Prints one JSON object per view, in the order of the input: impression_id, video_id, score.
#[derive(Debug, Clone, clap::Args)]
#[command(group(clap::ArgGroup::new("weights").required(true).args(["dir", "model"])))]
#[command(group(clap::ArgGroup::new("input").required(true).args(["views", "samples"])))]
pub struct ScoreArgs {
    /// A folder that `easq follow` keeps, whose current version is used, or that `easq train` wrote.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A model.safetensors, with adapter_model.safetensors beside it unless it holds LoRA itself.
    /// Features and shape are those of manifest.json beside it, or else of the settings.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// BehaviorEvents as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub views: Option<PathBuf>,
    /// Samples (.pb or .jsonl); all their views are scored.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
}

/// Scores and prints to `out`.
pub fn score(settings: &Settings, args: &ScoreArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let scorer = match (&args.dir, &args.model) {
        (Some(dir), _) if Folder::is_followed(dir) => scorer_of_current(dir)?,
        (Some(dir), _) => scorer(settings, &dir.join(files::MODEL))?,
        (None, Some(model)) => scorer(settings, model)?,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let mut batch = Vec::with_capacity(BATCH_VIEWS);
    let mut take = |view: v1::BehaviorEvent| {
        batch.push(view);
        if batch.len() == BATCH_VIEWS { flush(&scorer, &mut batch, out) } else { Ok(()) }
    };
    if let Some(views) = &args.views {
        read_views(views, &mut take)?;
    }
    if let Some(samples) = &args.samples {
        read_samples(samples, &mut take)?;
    }
    flush(&scorer, &mut batch, out)
}

fn scorer_of_current(dir: &Path) -> Result<Scorer, CommandError> {
    let (manifest, tensors) = read_current(dir).map_err(PublishError::file(dir))?;
    let load = Scorer::from_tensors(&architecture(manifest), tensors);
    load.map_err(|source| CommandError::Load { path: dir.to_owned(), source })
}

fn architecture(manifest: v1::Manifest) -> Architecture {
    Architecture::from_manifest(&manifest.features.unwrap_or_default(), &manifest.shape.unwrap_or_default())
}

fn scorer(settings: &Settings, model: &Path) -> Result<Scorer, CommandError> {
    let dir = model.parent().unwrap_or(Path::new("."));
    let architecture = if dir.join(files::MANIFEST).exists() {
        let manifest = files::read_manifest(dir).map_err(PublishError::file(&dir.join(files::MANIFEST)))?;
        architecture(manifest)
    } else {
        Architecture::from_settings(settings)
    };
    let tensors = files::read_tensors(model).map_err(PublishError::file(model))?;
    Scorer::from_tensors(&architecture, tensors)
        .map_err(|source| CommandError::Load { path: model.to_owned(), source })
}

type Take<'a> = dyn FnMut(v1::BehaviorEvent) -> Result<(), CommandError> + 'a;

fn read_views(path: &Path, take: &mut Take<'_>) -> Result<(), CommandError> {
    let input = path.display().to_string();
    let file = File::open(path).map_err(PublishError::file(path))?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(PublishError::file(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let view = serde_json::from_str(&line).map_err(|error| CommandError::Input {
            input: input.clone(),
            line: index + 1,
            reason: error.to_string(),
        })?;
        take(view)?;
    }
    Ok(())
}

fn read_samples(path: &Path, take: &mut Take<'_>) -> Result<(), CommandError> {
    let failed = |reason: String| CommandError::Samples { input: path.display().to_string(), reason };
    let reader = SampleReader::open(path).map_err(|error| failed(error.to_string()))?;
    for sample in reader {
        let sample = sample.map_err(|error| failed(error.to_string()))?;
        for view in views_of(sample) {
            take(view)?;
        }
    }
    Ok(())
}

fn views_of(sample: v1::Sample) -> Vec<v1::BehaviorEvent> {
    match sample.sample {
        Some(v1::sample::Sample::BehaviorGroup(group)) => group.views,
        Some(v1::sample::Sample::PreferencePair(pair)) => {
            [pair.chosen, pair.rejected].into_iter().flatten().filter_map(|labelled| labelled.view).collect()
        }
        Some(v1::sample::Sample::HeldOutList(list)) => list.views,
        None => Vec::new(),
    }
}

fn flush(
    scorer: &Scorer,
    batch: &mut Vec<v1::BehaviorEvent>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let absent = v1::Features::default();
    let features: Vec<&v1::Features> =
        batch.iter().map(|view| view.features.as_ref().unwrap_or(&absent)).collect();
    let scores = scorer.score(&features).map_err(|source| CommandError::Score {
        impression_id: batch[source.index].impression_id.clone(),
        source,
    })?;
    for (view, score) in batch.iter().zip(scores) {
        let line = json!({ "impression_id": view.impression_id, "video_id": view.video_id, "score": score });
        writeln!(out, "{line}")?;
    }
    batch.clear();
    Ok(())
}
