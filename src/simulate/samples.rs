//! The world's joined samples in a file, through the same join as in production; and its held-out
//! lists.

use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::args::RecordTime;
use super::faults::{Delivery, FaultRates, Input, Partitioning};
use super::produce::Produced;
use super::run::SimulateError;
use super::truth::TruthFile;
use super::world::World;
use crate::contract::InputRecord;
use crate::contract::samples::SampleWriter;
use crate::contract::v1::{BehaviorGroup, PreferencePair, Sample, sample};
use crate::join::{Config, Effects, Output, OutputKind, PartitionJoin, Start};
use crate::settings::Settings;
use crate::supervise::StopToken;

/// Joins a world's records as if both topics had one partition, each record read as it arrives,
/// and writes the preference pairs and behavior groups to `path` in the order in which the join
/// emits them. What is still open at the end of the stream is not written.
///
/// # Errors
/// When the file cannot be written, or the join refuses the stream.
pub(super) fn write_samples(
    settings: &Settings,
    world: &World,
    faults: FaultRates,
    path: &Path,
    mut truth: Option<&mut TruthFile>,
    sent: &mut dyn FnMut(&Delivery, &Produced),
    stop: &StopToken,
) -> Result<Produced, SimulateError> {
    let partitioning = Partitioning { partitions: 1, partitioner: settings.input.partitioner };
    let config = Arc::new(Config::new(settings, partitioning.partitions));
    let mut join = PartitionJoin::new(config, 0, Start::At(0), Start::At(0));
    let mut effects = Effects::default();
    let mut writer = SampleWriter::create(path)?;
    let mut produced = Produced::default();
    for delivery in world.deliveries(faults, partitioning) {
        if stop.is_stopped() {
            break;
        }
        if let Some(truth) = truth.as_deref_mut() {
            truth.write(&delivery)?;
        }
        give(&delivery, &produced, &mut join, &mut effects)?;
        for output in effects.outputs.drain(..) {
            if let Some(sample) = sample(&output)? {
                writer.write(&Sample { sample: Some(sample) })?;
            }
        }
        produced.count(&delivery);
        sent(&delivery, &produced);
    }
    writer.finish()?;
    Ok(produced)
}

/// The samples of a world without faults, in the order in which the join emits them, and the number of
/// answers behind them.
///
/// # Errors
/// When the join refuses the stream.
#[cfg(feature = "research")]
pub(crate) fn samples(
    settings: &Settings,
    world: &World,
) -> Result<(Vec<sample::Sample>, u64), SimulateError> {
    let partitioning = Partitioning { partitions: 1, partitioner: settings.input.partitioner };
    let config = Arc::new(Config::new(settings, partitioning.partitions));
    let mut join = PartitionJoin::new(config, 0, Start::At(0), Start::At(0));
    let (mut effects, mut produced, mut samples) = (Effects::default(), Produced::default(), Vec::new());
    for delivery in world.deliveries(FaultRates::default(), partitioning) {
        give(&delivery, &produced, &mut join, &mut effects)?;
        for output in effects.outputs.drain(..) {
            samples.extend(sample(&output)?);
        }
        produced.count(&delivery);
    }
    Ok((samples, produced.response_records))
}

/// Writes `count` of the world's held-out lists to `path`.
///
/// # Errors
/// When the file cannot be written, or the world does not have so many.
pub(super) fn write_held_out(world: &World, count: usize, path: &Path) -> Result<(), SimulateError> {
    let lists = world.held_out_lists(count);
    if lists.len() < count {
        return Err(SimulateError::Lists { found: lists.len(), wanted: count });
    }
    let mut writer = SampleWriter::create(path)?;
    for list in lists {
        writer.write(&Sample { sample: Some(sample::Sample::HeldOutList(list)) })?;
    }
    Ok(writer.finish()?)
}

/// Gives a record to the join; its offset is the number of records of its topic before it.
fn give(
    delivery: &Delivery,
    before: &Produced,
    join: &mut PartitionJoin,
    effects: &mut Effects,
) -> Result<(), SimulateError> {
    let offset = match delivery.input {
        Input::Behavior => before.behavior_records,
        Input::Responses => before.response_records,
    };
    let record = InputRecord {
        partition: 0,
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        timestamp_ms: delivery.timestamp_ms(RecordTime::Event),
        key: Some(delivery.key.clone()),
        payload: delivery.payload.clone(),
    };
    match delivery.input {
        Input::Behavior => join.on_view(record, effects)?,
        Input::Responses => join.on_response(record, effects)?,
    }
    Ok(())
}

fn sample(output: &Output) -> Result<Option<sample::Sample>, SimulateError> {
    let payload = || output.payload().unwrap_or_default();
    Ok(match output.kind {
        OutputKind::PreferencePair => {
            Some(sample::Sample::PreferencePair(PreferencePair::decode(payload())?))
        }
        OutputKind::BehaviorGroup => Some(sample::Sample::BehaviorGroup(BehaviorGroup::decode(payload())?)),
        OutputKind::LabelledView | OutputKind::Late | OutputKind::DeadLetter => None,
    })
}
