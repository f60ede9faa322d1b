//! The first version of a model, published by one that does not train it on.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{TryRecvError, bounded};

use super::candidate::Candidate;
use super::error::PublishError;
use super::publisher::Publisher;
use super::registry::RegistryReader;
use crate::contract::v1;
use crate::kafka::ownership::{Owned, Ownership};
use crate::kafka::reader::ReadError;
use crate::kafka::transaction::TransactionalProducer;
use crate::settings::Settings;
use crate::supervise::StopToken;

/// How often waiting threads look at what they wait for.
const SLICE: Duration = Duration::from_millis(100);
/// Between attempts while brokers are away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// For how long another owner may have the model, at least.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the group of a model is called, and the transactional id of whoever publishes its versions.
pub(crate) fn writer_name(model: &str) -> String {
    format!("easq-trainer-{model}")
}

/// Reads the registry of the model that the settings name, which must never have held a version.
///
/// # Errors
/// [`PublishError::NotFirst`]; it cannot be read.
pub(crate) fn empty_registry(settings: &Settings, stop: &StopToken) -> Result<RegistryReader, PublishError> {
    let reader = RegistryReader::open(settings, "first version registry", stop)?;
    match reader.registry.highest_version {
        0 => Ok(reader),
        version => {
            let model = settings.model.name.clone();
            let topic = settings.topics.registry(&model);
            Err(PublishError::NotFirst { model, topic, version })
        }
    }
}

/// Publishes a candidate as the first version of the model that the settings name, as its trainer would:
/// owning it, in one transaction. Waits for brokers that are away, until `stop`.
///
/// # Errors
/// There is a version, another process owns the model, or the brokers refuse: then nothing is published.
pub(crate) fn publish_first(
    settings: &Settings,
    candidate: Candidate,
    stop: &StopToken,
) -> Result<Arc<v1::Manifest>, PublishError> {
    let model = &settings.model.name;
    let ownership = Ownership::join(settings, &writer_name(model), &settings.topics.registry(model))?;
    own(settings, &ownership, stop)?;
    let (publishing, is_over) = bounded::<()>(0);
    thread::scope(|scope| {
        // The membership has to be served; without it the brokers refuse the version.
        let serve = || {
            while is_over.try_recv() == Err(TryRecvError::Empty) {
                let Ok(Owned::Yes) = ownership.poll(SLICE) else { break };
            }
        };
        let thread = thread::Builder::new().name("model owner".to_owned());
        thread.spawn_scoped(scope, serve).map_err(PublishError::Thread)?;
        let published = publish_owned(settings, candidate, &ownership, stop);
        drop(publishing);
        published
    })
}

fn own(settings: &Settings, ownership: &Ownership, stop: &StopToken) -> Result<(), PublishError> {
    let model = &settings.model.name;
    // A member that was killed is forgotten after its session.
    let patience = PATIENCE.max(2 * Duration::from_millis(settings.train.session_timeout_ms));
    let began = Instant::now();
    while ownership.poll(SLICE)? != Owned::Yes {
        if stop.is_stopped() {
            return Err(ReadError::Stopped { topic: settings.topics.registry(model), partition: 0 }.into());
        }
        if began.elapsed() > patience {
            return Err(PublishError::Owned { model: model.clone() });
        }
    }
    Ok(())
}

/// The order is that of a trainer: what a previous owner left open is ended first, so that the registry's
/// last stable offset is the whole truth.
fn publish_owned(
    settings: &Settings,
    candidate: Candidate,
    ownership: &Ownership,
    stop: &StopToken,
) -> Result<Arc<v1::Manifest>, PublishError> {
    let timeout = Duration::from_millis(settings.publish.transaction_timeout_ms);
    let id = writer_name(&settings.model.name);
    let producer = TransactionalProducer::new(&settings.kafka, &id, timeout, stop)?;
    producer.init()?;
    let registry = loop {
        match empty_registry(settings, stop) {
            Err(error) if error.is_outage() && !stop.wait(RETRY_PAUSE) => {}
            opened => break opened?,
        }
    };
    let mut publisher = Publisher::new(settings, producer, registry, None, stop)?;
    let claim = ownership.claim();
    Ok(publisher.publish(candidate, &|| claim.group_metadata())?.manifest)
}
