use thiserror::Error;

use super::args::Args;
use crate::settings::Settings;
use crate::supervise::StopToken;

#[derive(Debug, Error)]
pub enum DemoError {}

/// Runs the demo for `args.duration` and what it takes to drain and evaluate. Blocks the calling
/// thread.
///
/// # Errors
/// When a stage fails, the counts do not add up, or the report cannot be written.
pub fn run(_settings: &Settings, _args: &Args, _stop: &StopToken) -> Result<(), DemoError> {
    todo!()
}
