//! From ownership to the first step.

use std::time::Duration;

use crate::contract::v1;
use crate::kafka::reader::{LogReader, ReadError};
use crate::kafka::transaction::TransactionalProducer;
use crate::model::{Dtype, HostTensor};
use crate::publish::error::PublishError;
use crate::publish::files;
use crate::publish::page_reader::PageReader;
use crate::publish::registry::{Registry, RegistryReader};
use crate::publish::{Publisher, TRAINING_PREFIX, gate, told, writer_name};
use crate::settings::Settings;
use crate::supervise::{StopToken, failpoint};
use crate::telemetry::events::{GapAccepted, TrainingBegins, TrainingDelayed};
use crate::train::Trainer;

use super::error::TrainerError;
use super::progress::{Partition, Progress};
use super::resume::{self, Accepted, Held};

/// Everything that training needs, before any of it runs.
pub struct Started {
    pub learned: Learned,
    pub publisher: Publisher,
    pub groups: LogReader,
    pub pairs: LogReader,
}

/// What training goes on with.
pub struct Learned {
    pub trainer: Trainer,
    pub progress: Progress,
    /// Greatest event time among the samples learned.
    pub event_time_watermark_ms: i64,
    /// Whether it comes from a checkpoint.
    pub is_resumed: bool,
    /// Steps of the checkpoint where it passed the gate though the stream was suspect.
    pub passed_step: Option<u64>,
}

/// How long one question to the brokers may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between attempts while brokers are away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Takes over the model that this process owns already. While brokers that it asks are away it begins
/// again, until the halt: nothing has been trained or written yet.
pub fn start(settings: &Settings, halt: &StopToken) -> Result<Started, TrainerError> {
    let model = &settings.model.name;
    let mut is_said = false;
    loop {
        let error = match try_start(settings, halt) {
            Err(error) if error.is_outage() => error,
            result => return result,
        };
        if !std::mem::replace(&mut is_said, true) {
            TrainingDelayed { model, reason: &error.to_string() }.emit();
        }
        if halt.wait(RETRY_PAUSE) {
            return Err(ReadError::Stopped { topic: settings.topics.registry(model), partition: 0 }.into());
        }
    }
}

/// The order matters: `init_transactions` ends what a previous owner left open, so that the registry's
/// last stable offset is the whole truth; only then it is read, and only then what it says is loaded.
fn try_start(settings: &Settings, halt: &StopToken) -> Result<Started, TrainerError> {
    let model = &settings.model.name;
    let timeout = Duration::from_millis(settings.publish.transaction_timeout_ms);
    let id = writer_name(model);
    let producer = TransactionalProducer::new(&settings.kafka, &id, timeout, halt)?;
    producer.init()?;
    let registry = RegistryReader::open(settings, "publisher registry", halt)?;
    if let Some((&version, reason)) = registry.registry.unusable.first_key_value() {
        let topic = settings.topics.registry(model);
        return Err(PublishError::UnusableVersion { version, topic, reason: reason.clone() }.into());
    }

    failpoint("train-load");
    let checkpoint = registry.registry.newest_checkpoint().cloned();
    let backbone = backbone(settings)?;
    let (mut trainer, mut progress) = match &checkpoint {
        Some(manifest) => {
            resume::check_inputs(manifest, &settings.topics)?;
            resume::check_model(manifest, settings)?;
            let mut pages = PageReader::new(settings, "checkpoint pages")?;
            let tensors = pages.load(manifest, |_| true)?;
            let restored = Trainer::restore(settings, tensors).and_then(|trainer| match backbone {
                Some(backbone) => trainer.check_backbone(backbone).map(|()| trainer),
                None => Ok(trainer),
            });
            let failed = |source| TrainerError::Resume { version: manifest.version, source };
            (restored.map_err(failed)?, Progress::resume(&manifest.inputs))
        }
        None => {
            let trainer = match backbone {
                Some(backbone) => Trainer::adapting(settings, Dtype::F32, backbone),
                None => Trainer::new(settings),
            };
            (trainer?, Progress::default())
        }
    };
    let groups = LogReader::new(&settings.kafka, "trainer groups")?;
    let pairs = LogReader::new(&settings.kafka, "trainer pairs")?;
    let mut held = held(&groups, &settings.topics.behavior_groups)?;
    held.extend(self::held(&pairs, &settings.topics.preference_pairs)?);
    let accepted = resume::fit(&mut progress, &held, settings.train.gap)?;

    let parent = checkpoint.as_ref().map(|manifest| manifest.version);
    set_references(&mut trainer, settings, &registry.registry, parent)?;
    told::found(&registry.registry);
    TrainingBegins { model, checkpoint: parent, step: trainer.steps() }.emit();
    let publisher = Publisher::new(settings, producer, registry, parent, halt)?;
    // Nothing above is begun again from here on: each gap is counted once.
    for Accepted { partition, offsets } in accepted {
        GapAccepted { topic: &partition.topic, partition: partition.number, offsets }.emit();
    }
    let passed_step = passed_step(checkpoint.as_deref(), &trainer);
    let event_time_watermark_ms = checkpoint.map_or(0, |manifest| manifest.event_time_watermark_ms);
    let is_resumed = parent.is_some();
    let learned = Learned { trainer, progress, event_time_watermark_ms, is_resumed, passed_step };
    Ok(Started { learned, publisher, groups, pairs })
}

/// A checkpoint of a suspect stream has passed only where training had gone back: then it has learned
/// nothing of that, and the next version has not either.
fn passed_step(checkpoint: Option<&v1::Manifest>, trainer: &Trainer) -> Option<u64> {
    let has_passed = |manifest: &&v1::Manifest| manifest.gate.as_ref().is_some_and(|gate| gate.promoted);
    checkpoint.filter(has_passed).filter(|_| trainer.suspicion().is_some()).map(|manifest| manifest.step)
}

/// Loads production and the anchors, beside which the model is measured.
fn set_references(
    trainer: &mut Trainer,
    settings: &Settings,
    registry: &Registry,
    parent: Option<u64>,
) -> Result<(), TrainerError> {
    let mut pages = PageReader::new(settings, "reference pages")?;
    let mut load = |manifest: &v1::Manifest| pages.load(manifest, |name| !name.starts_with(TRAINING_PREFIX));
    let failed = |version: u64| move |source| TrainerError::Reference { version, source };
    if let Some(production) = registry.production_manifest() {
        let version = production.version;
        trainer.set_production(version, load(production)?).map_err(failed(version))?;
    }
    for anchor in gate::anchors_before(registry, parent) {
        let tensors = load(&registry.versions[&anchor.version])?;
        trainer.add_anchor(anchor.version, tensors).map_err(failed(anchor.version))?;
    }
    Ok(())
}

/// The tensors of the frozen backbone, if there is to be one.
fn backbone(settings: &Settings) -> Result<Option<Vec<HostTensor>>, TrainerError> {
    let unread = |source| TrainerError::Backbone { path: settings.model.backbone.clone(), source };
    files::read_backbone(settings).map_err(unread)
}

/// What the log holds of every partition of a topic.
fn held(reader: &LogReader, topic: &str) -> Result<Vec<Held>, TrainerError> {
    let mut held = Vec::new();
    let topic_id = reader.topic_id(topic, ANSWER_WITHIN)?;
    for number in 0..reader.partitions(topic)? {
        let (low, high) = reader.watermarks(topic, number)?;
        let partition = Partition { topic: topic.into(), number };
        held.push(Held { partition, topic_id: topic_id.clone(), low, high });
    }
    Ok(held)
}
