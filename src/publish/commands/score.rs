//! `easq score`: views in, scores out.

use std::io::Write;
use std::path::PathBuf;

use crate::settings::Settings;

use super::CommandError;

/// Score views with a model's files.
///
/// Prints one JSON object per view: impression_id, video_id, score.
#[derive(Debug, Clone, clap::Args)]
#[command(group(clap::ArgGroup::new("weights").required(true).args(["dir", "model"])))]
#[command(group(clap::ArgGroup::new("input").required(true).args(["views", "samples"])))]
pub struct ScoreArgs {
    /// A folder that `easq follow` keeps; its current version is used.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A model.safetensors; features and shape are those of manifest.json beside it, or else of the settings.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// BehaviorEvents as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub views: Option<PathBuf>,
    /// Samples (.pb or .jsonl), all their views.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
}

/// Scores and prints to `out`.
pub fn score(_settings: &Settings, _args: &ScoreArgs, _out: &mut dyn Write) -> Result<(), CommandError> {
    todo!()
}
