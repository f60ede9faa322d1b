//! `easq model promote|rollback|unpin|accept-stream`: what a person says about which version readers
//! follow, and about the stream.

use std::io::Write;
use std::time::Duration;

use prost::Message;

use super::CommandError;
use crate::contract::v1;
use crate::kafka::Outgoing;
use crate::kafka::producer::Producer;
use crate::publish::error::PublishError;
use crate::publish::publisher::now_ms;
use crate::publish::registry::{ACCEPT, PIN, Registry, RegistryReader};
use crate::settings::Settings;
use crate::supervise::StopToken;

/// How long the brokers may take to acknowledge it.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// Which version readers are to follow, and why.
#[derive(Debug, Clone, clap::Args)]
pub struct PinArgs {
    /// The version's number.
    pub version: u64,
    /// Why, for those who look at the registry later.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
}

/// Lets readers follow production again.
pub fn unpin(settings: &Settings, stop: &StopToken, out: &mut dyn Write) -> Result<(), CommandError> {
    let registry = read(settings, stop)?;
    let Some(pin) = &registry.pin else {
        return Ok(writeln!(out, "nothing is pinned: {}", followed(&registry))?);
    };
    write(settings, PIN, None)?;
    writeln!(out, "version {} is pinned no more: {}", pin.version, followed(&read(settings, stop)?))?;
    Ok(())
}

/// Why a stream that the gate holds for suspect is right as it is.
#[derive(Debug, Clone, clap::Args)]
pub struct AcceptArgs {
    /// Why, for those who look at the registry later.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
}

/// Tells the trainer that what the stream is like now is how it is from now on.
pub fn accept_stream(
    settings: &Settings,
    args: &AcceptArgs,
    stop: &StopToken,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let registry = read(settings, stop)?;
    if registry.versions.is_empty() {
        return Err(CommandError::NoStream { model: settings.model.name.clone() });
    }
    let accept = v1::StreamAcceptance { reason: args.reason.clone(), written_at_ms: now_ms() };
    write(settings, ACCEPT, Some(accept.encode_to_vec()))?;
    let newest = registry.versions.values().next_back().and_then(|newest| newest.gate.as_ref());
    match newest.map(|gate| gate.reasons.as_slice()).unwrap_or_default() {
        [] => writeln!(out, "accepted: the trainer hears of it with its next version, which was not refused"),
        reasons => {
            writeln!(
                out,
                "accepted: the trainer hears of it with its next version. The newest one was refused:"
            )?;
            reasons.iter().try_for_each(|reason| writeln!(out, "  {reason}"))
        }
    }?;
    Ok(())
}

/// Which way readers are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To a version that is not older than the one they follow now.
    Promote,
    /// To an older one.
    Rollback,
}

impl Direction {
    /// The command for a version, when readers follow `followed`.
    fn to(version: u64, followed: u64) -> Self {
        if version < followed { Self::Rollback } else { Self::Promote }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Promote => "easq model promote",
            Self::Rollback => "easq model rollback",
        }
    }
}

/// Makes readers follow a version, in the direction that was meant.
pub fn pin(
    settings: &Settings,
    args: &PinArgs,
    meant: Direction,
    stop: &StopToken,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let version = args.version;
    let refused =
        |reason: String| CommandError::NotPinned { model: settings.model.name.clone(), version, reason };
    let before = read(settings, stop)?;
    if !before.versions.contains_key(&version) {
        let unusable = before.unusable.get(&version).map(ToString::to_string);
        return Err(refused(
            unusable
                .unwrap_or_else(|| "it is not in the registry: `easq model list` shows what is".to_owned()),
        ));
    }
    if let Some(followed) = before.followed() {
        let direction = Direction::to(version, followed);
        if direction != meant {
            let command = direction.command();
            return Err(refused(format!("readers follow version {followed} now: use `{command}`")));
        }
    }
    let pointer = v1::VersionPointer { version, reason: args.reason.clone(), written_at_ms: now_ms() };
    write(settings, PIN, Some(pointer.encode_to_vec()))?;
    // A version that is pinned is kept, and until the trainer has heard of it, perhaps not.
    let after = read(settings, stop)?;
    if !after.versions.contains_key(&version) {
        write(settings, PIN, before.pin.map(|pin| pin.encode_to_vec()))?;
        return Err(refused("it left the registry at this very moment; nothing is changed".to_owned()));
    }
    writeln!(out, "{}", followed(&after))?;
    Ok(())
}

/// Which version readers follow, in words.
fn followed(registry: &Registry) -> String {
    let production = registry.production.as_ref().map(|production| production.version);
    match (&registry.pin, production) {
        (Some(pin), Some(production)) => {
            format!("readers follow version {} (pinned; production is {production})", pin.version)
        }
        (Some(pin), None) => {
            format!("readers follow version {} (pinned; there is no production)", pin.version)
        }
        (None, Some(production)) => format!("readers follow version {production} (production)"),
        (None, None) => "there is no version to follow".to_owned(),
    }
}

fn read(settings: &Settings, stop: &StopToken) -> Result<Registry, PublishError> {
    Ok(RegistryReader::open(settings, "model command", stop)?.registry)
}

/// Writes the value of a key that people alone write, or removes it: no transaction is needed.
fn write(settings: &Settings, key: &'static str, value: Option<Vec<u8>>) -> Result<(), CommandError> {
    let producer = Producer::new(&settings.kafka, settings.input.partitioner)?;
    let topic = settings.topics.registry(&settings.model.name);
    let record = Outgoing::to(topic).partition(0).key(key);
    let record = match value {
        Some(value) => record.payload(value),
        None => record,
    };
    producer.send(&record)?;
    Ok(producer.flush(DELIVERED_WITHIN)?)
}
