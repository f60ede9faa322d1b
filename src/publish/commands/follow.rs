//! `easq follow`: a folder that always holds the version that readers should serve.

use std::path::PathBuf;
use std::time::Duration;

use crate::publish::Follower;
use crate::settings::Settings;
use crate::supervise::StopToken;

use super::CommandError;

/// How often the stop is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Keep a folder with the version of a model that is to be served.
///
/// DIR/current always points to a whole version: model.safetensors, adapter_model.safetensors and
/// adapter_config.json (as PEFT writes them), manifest.json. Resolve DIR/current once, then open the
/// files below what it points to.
#[derive(Debug, Clone, clap::Args)]
pub struct FollowArgs {
    /// Folder to keep; made if it is not there. One follower keeps it.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Versions to keep on disk, the current one included. A reader may hold a version until as many
    /// have come after it.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub keep: u16,
    /// End as soon as DIR/current is the version to follow.
    #[arg(long)]
    pub once: bool,
}

/// Follows the registry until `stop`. Blocks the calling thread.
pub fn follow(settings: &Settings, args: &FollowArgs, stop: &StopToken) -> Result<(), CommandError> {
    let mut follower = Follower::new(settings, &args.dir, args.keep.into(), stop)?;
    while !stop.is_stopped() {
        follower.poll(POLL)?;
        if args.once && follower.is_up_to_date() {
            break;
        }
    }
    Ok(())
}
