//! The registry topic: `versions/<n>`, `production`, `pin`.

use std::collections::BTreeMap;

use prost::Message;

use crate::contract::v1;

use super::manifest::{self, ManifestError};

pub const PRODUCTION: &str = "production";
pub const PIN: &str = "pin";
const VERSION_PREFIX: &str = "versions/";

/// The key of a version's manifest.
pub fn version_key(version: u64) -> String {
    format!("{VERSION_PREFIX}{version}")
}

/// What a registry topic says, after the records applied so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registry {
    pub versions: BTreeMap<u64, v1::Manifest>,
    /// Versions whose manifest cannot be used, and why.
    pub unusable: BTreeMap<u64, ManifestError>,
    /// Written by the trainer alone (invariant 9).
    pub production: Option<v1::VersionPointer>,
    /// Written by people alone (invariant 9).
    pub pin: Option<v1::VersionPointer>,
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

    fn apply_version(&mut self, model: &str, version: u64, value: Option<&[u8]>) {
        self.highest_version = self.highest_version.max(version);
        self.versions.remove(&version);
        self.unusable.remove(&version);
        match value.map(|value| manifest::decode(value, version, model)) {
            Some(Ok(manifest)) => {
                self.versions.insert(version, manifest);
            }
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
    pub fn production_manifest(&self) -> Option<&v1::Manifest> {
        self.versions.get(&self.production.as_ref()?.version)
    }

    /// The newest checkpoint whose values are all finite: training goes on from it.
    pub fn newest_checkpoint(&self) -> Option<&v1::Manifest> {
        let finite = |manifest: &&v1::Manifest| manifest.gate.as_ref().is_some_and(|gate| gate.finite);
        self.versions
            .values()
            .rev()
            .filter(|manifest| manifest.kind() == v1::VersionKind::Checkpoint)
            .find(finite)
    }
}

/// A pointer that does not decode points to version 0, which never is: readers keep what they have.
fn pointer(value: Option<&[u8]>) -> Option<v1::VersionPointer> {
    value.map(|value| v1::VersionPointer::decode(value).unwrap_or_default())
}
