//! The reading side: a folder that always holds a whole version.
//!
//! ```text
//! DIR/current -> versions/12
//! DIR/versions/11/…
//! DIR/versions/12/{model.safetensors, adapter_model.safetensors, adapter_config.json, manifest.json}
//! ```
//!
//! A version is written into a folder of another name, which takes its own once everything in it is
//! on disk; then `current` is replaced in one step. So whoever opens `current` finds a whole
//! version, whenever the follower is killed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::contract::v1;
use crate::model::HostTensor;
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::events::{VersionFollowed, VersionRefused};

use super::TRAINING_PREFIX;
use super::error::PublishError;
use super::folder::Folder;
use super::page_reader::PageReader;
use super::pages::{Sha, sha256};
use super::registry::RegistryReader;

/// After trouble that may pass, the same version is tried again this much later.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What [`Follower::poll`] has to tell.
#[derive(Debug, Clone)]
pub enum FollowEvent {
    /// `current` now points to this version.
    Loaded {
        /// Of that version.
        manifest: Arc<v1::Manifest>,
        /// Pages that the version before did not have.
        pages_read: usize,
    },
    /// The version to follow could not be loaded; `current` is what it was.
    Kept {
        /// None before the first.
        current: Option<u64>,
        /// What `pin`, else `production`, points to.
        wanted: u64,
        /// What was off.
        reason: String,
    },
}

/// Follows `pin`, else `production`, of one model into one folder. Blocks; one thread owns it.
///
/// It keeps the pages of the current version in memory, as much as the model weighs, so that of the
/// next one only the pages that changed are read.
pub struct Follower {
    registry: RegistryReader,
    pages: PageReader,
    folder: Folder,
    keep: usize,
    current: Option<u64>,
    at_hand: HashMap<Sha, Bytes>,
    refused: Option<Refused>,
}

/// A version that could not be loaded as this manifest describes it.
struct Refused {
    wanted: u64,
    manifest: Option<Arc<v1::Manifest>>,
    at: Instant,
    reason: String,
}

impl Follower {
    /// Reads the registry of the model that the settings name to its end, and picks up the version
    /// that `dir` holds already if it is whole. `keep` versions stay on disk, at least the current.
    ///
    /// # Errors
    /// The registry cannot be read, or `dir` cannot be made.
    pub fn new(settings: &Settings, dir: &Path, keep: usize, stop: &StopToken) -> Result<Self, PublishError> {
        let folder = Folder::open(dir)?;
        let registry = RegistryReader::open(settings, "follower registry", stop)?;
        let pages = PageReader::new(settings, "follower pages")?;
        let mut follower = Self {
            registry,
            pages,
            folder,
            keep: keep.max(1),
            current: None,
            at_hand: HashMap::new(),
            refused: None,
        };
        if let Some((manifest, tensors)) = follower.folder.whole_current(&settings.model.name) {
            follower.hold(&manifest, &tensors);
        }
        Ok(follower)
    }

    /// The version that `current` points to.
    pub fn current(&self) -> Option<u64> {
        self.current
    }

    /// Whether the version to follow, if there is one, is the current one.
    pub fn is_up_to_date(&self) -> bool {
        let followed = self.registry.registry.followed();
        followed.is_some() && followed == self.current
    }

    /// Loads the version to follow if it is not the current one, waiting for news in the registry
    /// at most `timeout`.
    ///
    /// # Errors
    /// The registry cannot be read any more. What is wrong with a version is an event instead.
    pub fn poll(&mut self, timeout: Duration) -> Result<Option<FollowEvent>, PublishError> {
        let wait = if self.wanted().is_some() { Duration::ZERO } else { timeout };
        if self.registry.poll(wait)? {
            // Of all that is there already only the last word counts.
            while self.registry.poll(Duration::ZERO)? {}
        }
        let Some(wanted) = self.wanted() else { return Ok(None) };
        let manifest = self.registry.registry.versions.get(&wanted).cloned();
        let event = match self.load(wanted, manifest.as_ref()) {
            Ok(event) => event,
            Err(reason) => self.refuse(wanted, manifest, reason),
        };
        Ok(Some(event))
    }

    /// The version that ought to be current and is not, if it is worth a try.
    fn wanted(&self) -> Option<u64> {
        let wanted = self.registry.registry.followed()?;
        if self.current == Some(wanted) {
            return None;
        }
        let hopeless = self.refused.as_ref().is_some_and(|refused| {
            let manifest = self.registry.registry.versions.get(&wanted);
            refused.wanted == wanted
                && refused.manifest.as_ref() == manifest
                && refused.at.elapsed() < RETRY_AFTER
        });
        (!hopeless).then_some(wanted)
    }

    fn load(&mut self, wanted: u64, manifest: Option<&Arc<v1::Manifest>>) -> Result<FollowEvent, String> {
        let Some(manifest) = manifest else {
            let unusable = self.registry.registry.unusable.get(&wanted);
            return Err(unusable.map_or_else(
                || "the registry holds no manifest of it".to_owned(),
                |error| error.to_string(),
            ));
        };
        let served = |name: &str| !name.starts_with(TRAINING_PREFIX);
        let loaded = self.pages.load(manifest, &self.at_hand, served);
        let (tensors, pages_read) = loaded.map_err(|error| error.to_string())?;
        self.folder.put(manifest, &tensors).map_err(|error| error.to_string())?;
        self.hold(manifest, &tensors);
        self.folder.prune(wanted, self.keep);
        VersionFollowed { version: wanted, created_ms: manifest.created_at_ms }.emit();
        Ok(FollowEvent::Loaded { manifest: manifest.clone(), pages_read })
    }

    fn refuse(&mut self, wanted: u64, manifest: Option<Arc<v1::Manifest>>, reason: String) -> FollowEvent {
        // Said once, not on every try.
        let said = self.refused.as_ref().is_some_and(|last| last.wanted == wanted && last.reason == reason);
        if !said {
            VersionRefused { version: wanted, reason: &reason }.emit();
        }
        self.refused = Some(Refused { wanted, manifest, at: Instant::now(), reason: reason.clone() });
        FollowEvent::Kept { current: self.current, wanted, reason }
    }

    fn hold(&mut self, manifest: &v1::Manifest, tensors: &[HostTensor]) {
        self.current = Some(manifest.version);
        self.refused = None;
        self.at_hand.clear();
        for tensor in tensors {
            let described = manifest.tensors.iter().find(|described| described.name == tensor.name);
            let mut start = 0;
            for page in described.into_iter().flat_map(|described| &described.pages) {
                let end = tensor.data.len().min(start + page.length as usize);
                let bytes = tensor.data.slice(start..end);
                self.at_hand.insert(sha256(&bytes), bytes);
                start = end;
            }
        }
    }
}
