//! `easq follow`: a folder that always holds the version that readers should serve.

use std::path::PathBuf;
use std::time::Duration;

use crate::publish::{FollowEvent, Follower};
use crate::settings::Settings;
use crate::supervise::StopToken;

use super::CommandError;

/// How often the stop is looked at.
const POLL: Duration = Duration::from_millis(200);

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
    /// End as soon as DIR/current is the version to follow.
    #[arg(long)]
    pub once: bool,
}

/// Follows the registry until `stop`. Blocks the calling thread.
pub fn follow(settings: &Settings, args: &FollowArgs, stop: &StopToken) -> Result<(), CommandError> {
    let mut follower = Follower::new(settings, &args.dir, args.keep, stop)?;
    while !stop.is_stopped() {
        let event = follower.poll(POLL)?;
        let in_place = matches!(event, Some(FollowEvent::Loaded { .. })) || follower.is_up_to_date();
        if args.once && in_place {
            break;
        }
    }
    Ok(())
}
