//! `easq follow`: a folder that always holds the version that readers should serve.

use std::path::PathBuf;

use crate::settings::Settings;
use crate::supervise::StopToken;

use super::CommandError;

/// Keep a folder with the version of a model that is to be served.
///
/// DIR/current always points to a whole version: model.safetensors, adapter_model.safetensors and
/// adapter_config.json (as PEFT writes them), manifest.json.
#[derive(Debug, Clone, clap::Args)]
pub struct FollowArgs {
    /// Folder to keep; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Versions to keep on disk, the current one included.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub keep: usize,
    /// End after the first version was loaded.
    #[arg(long)]
    pub once: bool,
}

/// Follows the registry until `stop`. Blocks the calling thread.
pub fn follow(_settings: &Settings, _args: &FollowArgs, _stop: &StopToken) -> Result<(), CommandError> {
    todo!()
}
