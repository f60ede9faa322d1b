//! `easq model list` and `easq model show`.

use std::io::Write;

use crate::settings::Settings;

use super::CommandError;

/// What to do with a model's versions.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ModelCommand {
    /// List the versions in the registry.
    List(ListArgs),
    /// Print the manifest of a version.
    Show(ShowArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// One JSON object per line instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct ShowArgs {
    /// The version's number.
    pub version: u64,
}

/// Reads the registry of the model that the settings name, and prints to `out`. Blocks.
pub fn model(
    _settings: &Settings,
    _command: &ModelCommand,
    _out: &mut dyn Write,
) -> Result<(), CommandError> {
    todo!()
}
