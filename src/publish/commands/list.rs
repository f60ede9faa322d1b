//! `easq model`, and what `list` and `show` print.

use std::io::Write;

use comfy_table::{Table, presets};
use serde_json::json;

use crate::contract::v1;
use crate::publish::manifest;
use crate::publish::registry::{Registry, RegistryReader};
use crate::settings::Settings;
use crate::supervise::StopToken;

use super::CommandError;
use super::export::{self, ExportArgs, Named};
use super::pin::{self, AcceptArgs, Direction, PinArgs};
use super::seed::{self, SeedArgs};

/// What to do with a model's versions.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ModelCommand {
    /// List the versions in the registry.
    List(ListArgs),
    /// Print the manifest of a version as JSON.
    Show(ShowArgs),
    /// Write one version as a folder, in the files that a follower keeps of it.
    Export(ExportArgs),
    /// Give a model that has no version yet its first one: a checkpoint and production, from a folder.
    ///
    /// Its trainer goes on from there. So a model begins with what a replay (`easq backfill --output`) or a
    /// file (`easq train`) has taught.
    Seed(SeedArgs),
    /// Make readers follow a version that is newer than the one they follow, or stay with that one.
    ///
    /// It is pinned: the trainer goes on learning and goes on moving production, which readers follow again
    /// after `easq model unpin`.
    Promote(PinArgs),
    /// Make readers follow an older version than they follow now; it is pinned as with `promote`.
    Rollback(PinArgs),
    /// Let readers follow production again.
    Unpin,
    /// Tell the trainer that the stream is right as it is now, where the gate holds it for suspect.
    ///
    /// A lasting true change looks like poison; what the stream is like now becomes its long run.
    AcceptStream(AcceptArgs),
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
    settings: &Settings,
    command: &ModelCommand,
    stop: &StopToken,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let registry = || RegistryReader::open(settings, "model command", stop).map(|reader| reader.registry);
    match command {
        ModelCommand::Promote(args) => pin::pin(settings, args, Direction::Promote, stop, out),
        ModelCommand::Rollback(args) => pin::pin(settings, args, Direction::Rollback, stop, out),
        ModelCommand::Export(args) => export::export(settings, args, stop, out),
        ModelCommand::Seed(args) => seed::seed(settings, args, stop, out),
        ModelCommand::Unpin => pin::unpin(settings, stop, out),
        ModelCommand::AcceptStream(args) => pin::accept_stream(settings, args, stop, out),
        ModelCommand::List(ListArgs { json: true }) => list_json(&registry()?, out),
        ModelCommand::List(ListArgs { json: false }) => list_table(&registry()?, out),
        ModelCommand::Show(ShowArgs { version }) => {
            let found = export::find(settings, &registry()?, Some(Named::Number(*version)))?;
            Ok(out.write_all(manifest::to_json(&found).as_bytes())?)
        }
    }
}

/// `production`, `pin`, both or nothing.
fn pointers(registry: &Registry, version: u64) -> Vec<&'static str> {
    let points =
        |pointer: &Option<v1::VersionPointer>| pointer.as_ref().is_some_and(|p| p.version == version);
    let named = [(points(&registry.production), "production"), (points(&registry.pin), "pin")];
    named.into_iter().filter(|(points, _)| *points).map(|(_, name)| name).collect()
}

pub(super) fn kind(manifest: &v1::Manifest) -> &'static str {
    match manifest.kind() {
        v1::VersionKind::Checkpoint => "checkpoint",
        v1::VersionKind::Serving | v1::VersionKind::Unspecified => "serving",
    }
}

/// Unix milliseconds as RFC 3339; the number itself where that has no such form.
fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

fn reasons(manifest: &v1::Manifest) -> &[String] {
    manifest.gate.as_ref().map_or(&[], |gate| &gate.reasons)
}

fn list_json(registry: &Registry, out: &mut dyn Write) -> Result<(), CommandError> {
    for manifest in registry.versions.values() {
        let line = json!({
            "version": manifest.version,
            "kind": kind(manifest),
            "parent": manifest.parent,
            "created_at_ms": manifest.created_at_ms,
            "step": manifest.step,
            "behavior_groups_learned": manifest.behavior_groups_learned,
            "preference_pairs_learned": manifest.preference_pairs_learned,
            "behavior_win_rate": manifest.progressive.as_ref().map(|progressive| progressive.behavior_win_rate),
            "preference_win_rate": manifest.progressive.as_ref().map(|progressive| progressive.preference_win_rate),
            "pointers": pointers(registry, manifest.version),
            "not_promoted": reasons(manifest),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn list_table(registry: &Registry, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "version",
        "kind",
        "parent",
        "created",
        "step",
        "groups",
        "pairs",
        "behavior",
        "preference",
        "",
    ]);
    for manifest in registry.versions.values() {
        let progressive = manifest.progressive.unwrap_or_default();
        let mut remarks: Vec<String> =
            pointers(registry, manifest.version).into_iter().map(str::to_owned).collect();
        remarks.extend_from_slice(reasons(manifest));
        table.add_row([
            manifest.version.to_string(),
            kind(manifest).to_owned(),
            manifest.parent.map_or_else(String::new, |parent| parent.to_string()),
            time(manifest.created_at_ms),
            manifest.step.to_string(),
            manifest.behavior_groups_learned.to_string(),
            manifest.preference_pairs_learned.to_string(),
            format!("{:.3}", progressive.behavior_win_rate),
            format!("{:.3}", progressive.preference_win_rate),
            remarks.join(", "),
        ]);
    }
    writeln!(out, "{table}")?;
    for (version, error) in &registry.unusable {
        writeln!(out, "versions/{version}: {error}")?;
    }
    Ok(())
}
