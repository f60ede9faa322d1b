//! The registry topic: `versions/<n>`, `production`, `pin`, `accept`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use crate::contract::v1;
use crate::kafka::Record;
use crate::kafka::reader::{From, LogReader, ReadError, read_to_end};
use crate::settings::Settings;
use crate::supervise::StopToken;

use super::error::PublishError;
use super::manifest::{self, ManifestError};

/// Key of the pointer that the gate moves.
pub const PRODUCTION: &str = "production";
/// Key of the pointer that a person sets.
pub const PIN: &str = "pin";
/// Key of a person's word that the stream is right as it is.
pub const ACCEPT: &str = "accept";
const VERSION_PREFIX: &str = "versions/";

/// The key of a version's manifest.
pub fn version_key(version: u64) -> String {
    format!("{VERSION_PREFIX}{version}")
}

/// What a registry topic says, after the records applied so far. A clone shares the manifests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registry {
    /// By number; each can be used.
    pub versions: BTreeMap<u64, Arc<v1::Manifest>>,
    /// Versions whose manifest cannot be used, and why.
    pub unusable: BTreeMap<u64, ManifestError>,
    /// Written by the trainer alone (invariant 9).
    pub production: Option<v1::VersionPointer>,
    /// Written by people alone (invariant 9).
    pub pin: Option<v1::VersionPointer>,
    /// Written by people alone (invariant 9).
    pub accept: Option<v1::StreamAcceptance>,
    /// The highest version number ever seen, of versions that are gone too; 0 before the first.
    pub highest_version: u64,
}

impl Registry {
    /// Applies one record of the registry of `model`; without a value it is a tombstone. Keys that
    /// are not known are left to the programs that know them.
    pub fn apply(&mut self, model: &str, key: &[u8], value: Option<&[u8]>) {
        match std::str::from_utf8(key) {
            Ok(PRODUCTION) => self.production = pointer(value),
            Ok(PIN) => self.pin = pointer(value),
            Ok(ACCEPT) => {
                self.accept = value.and_then(|value| v1::StreamAcceptance::decode(value).ok());
            }
            Ok(key) => {
                if let Some(version) =
                    key.strip_prefix(VERSION_PREFIX).and_then(|version| version.parse().ok())
                {
                    self.apply_version(model, version, value);
                }
            }
            Err(_) => {}
        }
    }

    /// Adds a version's manifest, in place of one that it had.
    pub fn add(&mut self, manifest: v1::Manifest) {
        self.highest_version = self.highest_version.max(manifest.version);
        self.unusable.remove(&manifest.version);
        self.versions.insert(manifest.version, Arc::new(manifest));
    }

    fn apply_version(&mut self, model: &str, version: u64, value: Option<&[u8]>) {
        self.highest_version = self.highest_version.max(version);
        self.versions.remove(&version);
        self.unusable.remove(&version);
        match value.map(|value| manifest::decode(value, version, model)) {
            Some(Ok(manifest)) => self.add(manifest),
            Some(Err(error)) => {
                self.unusable.insert(version, error);
            }
            None => {}
        }
    }

    /// Which version readers follow: `pin` when it is there, else `production`.
    pub fn followed(&self) -> Option<u64> {
        self.pin.as_ref().or(self.production.as_ref()).map(|pointer| pointer.version)
    }

    /// The manifest of production, when there is one.
    pub fn production_manifest(&self) -> Option<&Arc<v1::Manifest>> {
        self.versions.get(&self.production.as_ref()?.version)
    }

    /// Checkpoints that the gate let pass, the newest first.
    pub fn passed_checkpoints(&self) -> impl Iterator<Item = &Arc<v1::Manifest>> {
        self.versions.values().rev().filter(|manifest| {
            let has_passed = manifest.gate.as_ref().is_some_and(|gate| gate.promoted);
            manifest.kind() == v1::VersionKind::Checkpoint && has_passed
        })
    }

    /// The newest checkpoint whose values are all finite: training goes on from it.
    pub fn newest_checkpoint(&self) -> Option<&Arc<v1::Manifest>> {
        let finite = |manifest: &&Arc<v1::Manifest>| manifest.gate.as_ref().is_some_and(|gate| gate.finite);
        self.versions
            .values()
            .rev()
            .filter(|manifest| manifest.kind() == v1::VersionKind::Checkpoint)
            .find(finite)
    }
}

/// Without a record for this long the registry counts as read: no broker can be reached, and what
/// comes after says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// A registry topic that is read on and on. Blocks; used by one thread.
pub struct RegistryReader {
    /// After the records read so far.
    pub registry: Registry,
    model: String,
    topic: String,
    reader: LogReader,
    /// The offset behind the last record that this process wrote itself.
    written_below: i64,
    /// When the last pointer was written that came after [`RegistryReader::open`].
    pointed_at_ms: Option<i64>,
}

impl RegistryReader {
    /// Reads the registry of the model that the settings name to its last stable offset. `client`
    /// names the reader in logs.
    pub fn open(settings: &Settings, client: &str, stop: &StopToken) -> Result<Self, PublishError> {
        let model = settings.model.name.clone();
        let topic = settings.topics.registry(&model);
        let mut registry = Registry::default();
        let next = read_to_end(&settings.kafka, &topic, 0, From::Beginning, stop, |record| {
            apply(&mut registry, &model, &record);
        })?;
        let mut reader = LogReader::new(&settings.kafka, client)?;
        reader.assign(&[(&topic, 0, next)])?;
        Ok(Self { registry, model, topic, reader, written_below: next, pointed_at_ms: None })
    }

    /// Applies the next record, waiting for one at most `timeout`. False when there is none.
    pub fn poll(&mut self, timeout: Duration) -> Result<bool, PublishError> {
        let record = self.reader.poll(timeout)?;
        if let Some(record) = &record {
            apply(&mut self.registry, &self.model, record);
            if matches!(record.key.as_deref().map(str::from_utf8), Some(Ok(PRODUCTION | PIN))) {
                self.pointed_at_ms = record.timestamp_ms;
            }
        }
        Ok(record.is_some())
    }

    /// When the last pointer was written that [`RegistryReader::poll`] has given: by the clock of its
    /// writer, in Unix milliseconds.
    pub fn pointed_at_ms(&self) -> Option<i64> {
        self.pointed_at_ms
    }

    /// This process has committed records of its own, the last of them before `offset`.
    pub fn wrote_below(&mut self, offset: i64) {
        self.written_below = offset;
    }

    /// Applies what people have written up to now: `pin` and `accept`. The rest is the trainer's own writing,
    /// which it knows already and in a newer state than the log shows it. `stable_end` asks for the
    /// last stable offset of the registry; where no broker answers, what is there is applied.
    ///
    /// # Errors
    /// The registry cannot be read any more.
    pub fn poll_people(
        &mut self,
        stable_end: impl FnOnce() -> Result<i64, ReadError>,
    ) -> Result<(), PublishError> {
        // A commit returns before its records are stable, and until then what others wrote behind
        // them is not either.
        if self.read_people_up_to(self.written_below)? {
            match stable_end() {
                Ok(end) => _ = self.read_people_up_to(end)?,
                Err(ReadError::Unavailable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_people_up_to(&mut self, end: i64) -> Result<bool, PublishError> {
        let Self { registry, model, topic, reader, .. } = self;
        let each = |record: Record| {
            if [PIN, ACCEPT].iter().any(|key| record.key.as_deref() == Some(key.as_bytes())) {
                apply(registry, model, &record);
            }
        };
        Ok(reader.read_up_to(topic, 0, end, PATIENCE, each)?)
    }
}

fn apply(registry: &mut Registry, model: &str, record: &Record) {
    registry.apply(model, record.key.as_deref().unwrap_or_default(), record.payload.as_deref());
}

/// A pointer that does not decode points to version 0, which never is: readers keep what they have.
fn pointer(value: Option<&[u8]>) -> Option<v1::VersionPointer> {
    value.map(|value| v1::VersionPointer::decode(value).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn manifest(version: u64, kind: v1::VersionKind) -> v1::Manifest {
        v1::Manifest {
            format: manifest::FORMAT,
            model: "m".to_owned(),
            version,
            kind: kind.into(),
            features: Some(v1::FeatureSchema::default()),
            shape: Some(v1::ModelShape::default()),
            gate: Some(v1::GateDecision { promoted: true, finite: true, ..v1::GateDecision::default() }),
            ..v1::Manifest::default()
        }
    }

    pub fn with_versions(manifests: &[v1::Manifest]) -> Registry {
        let mut registry = Registry::default();
        for manifest in manifests {
            let key = version_key(manifest.version);
            registry.apply("m", key.as_bytes(), Some(&manifest::encode(manifest)));
        }
        registry
    }

    fn pointer_to(version: u64) -> Vec<u8> {
        v1::VersionPointer { version, ..v1::VersionPointer::default() }.encode_to_vec()
    }

    #[test]
    fn readers_follow_the_pin_when_there_is_one_else_production() {
        let mut registry = Registry::default();
        assert_eq!(registry.followed(), None);
        registry.apply("m", b"production", Some(&pointer_to(4)));
        assert_eq!(registry.followed(), Some(4));
        registry.apply("m", b"pin", Some(&pointer_to(2)));
        assert_eq!(registry.followed(), Some(2));
        registry.apply("m", b"pin", None);
        assert_eq!(registry.followed(), Some(4));
    }

    #[test]
    fn numbers_of_versions_that_are_gone_are_not_given_again() {
        let mut registry = with_versions(&[manifest(3, v1::VersionKind::Serving)]);
        registry.apply("m", b"versions/9", None);
        assert_eq!(registry.highest_version, 9);
        assert!(registry.versions.contains_key(&3));
        registry.apply("m", b"versions/3", None);
        assert!(registry.versions.is_empty());
    }

    #[test]
    fn training_goes_on_from_the_newest_checkpoint_that_is_finite() {
        let mut broken = manifest(4, v1::VersionKind::Checkpoint);
        broken.gate = Some(v1::GateDecision::default());
        let registry = with_versions(&[
            manifest(1, v1::VersionKind::Checkpoint),
            manifest(2, v1::VersionKind::Checkpoint),
            manifest(3, v1::VersionKind::Serving),
            broken,
        ]);
        assert_eq!(registry.newest_checkpoint().map(|manifest| manifest.version), Some(2));
    }

    #[test]
    fn what_cannot_be_used_says_why_and_is_no_version() {
        let mut newer = manifest(5, v1::VersionKind::Serving);
        newer.format = manifest::FORMAT + 1;
        let mut registry = with_versions(&[newer]);
        registry.apply("m", b"versions/6", Some(b"\xff\xff"));
        registry.apply("m", b"versions/7", Some(&manifest::encode(&manifest(8, v1::VersionKind::Serving))));
        registry.apply("m", b"versions/none", Some(b"x"));
        registry.apply("m", b"\xff", Some(b"x"));
        assert!(registry.versions.is_empty());
        let reasons: Vec<String> = registry.unusable.values().map(ToString::to_string).collect();
        assert!(reasons[0].contains("upgrade easq"), "{reasons:?}");
        assert_eq!(registry.unusable.len(), 3);
    }
}
