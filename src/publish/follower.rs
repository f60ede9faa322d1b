//! The reading side: a folder that always holds a whole version.
//!
//! ```text
//! DIR/current -> versions/12
//! DIR/versions/11/…
//! DIR/versions/12/{model.safetensors, adapter_model.safetensors, adapter_config.json, manifest.json}
//! ```
//!
//! A version is written into a folder of another name, which takes its own once everything in it is
//! there and checked; then `current` is replaced in one step. So whoever opens `current` finds a whole
//! version, whenever the follower is killed. Only then is it written to the disk: all of it is in
//! Kafka, and a follower that starts after a power failure makes the newest version current that it
//! finds whole.
//!
//! A reader resolves `current` once ([`current()`](super::current)) and opens everything below the
//! path it got, or takes all of it with [`read_current`](super::read_current). A version that is no
//! longer current stays until `keep - 1` others have come after it: a reader that is slower than
//! that finds no file, and begins anew.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::contract::v1;
use crate::model::HostTensor;
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::events::{FollowerWaits, VersionFollowed, VersionFound, VersionRefused, VersionWanted};

use super::TRAINING_PREFIX;
use super::error::{PublishError, Refusal};
use super::folder::Folder;
use super::page_reader::PageReader;
use super::paged::{PagedTensor, Verified};
use super::pages::{Sha, sha256};
use super::registry::RegistryReader;

/// After trouble that may pass, the same version is tried again this much later.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Brokers that gave no answer are asked again this much later.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

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
        /// Of what kind the fault is.
        kind: Refusal,
        /// What was off.
        reason: String,
    },
}

/// Follows `pin`, else `production`, of one model into one folder. Blocks; one thread owns it.
///
/// It keeps the pages of the current version in memory, as much as the model weighs, so that of the
/// next one only the pages that changed are read. Brokers may be away for any time, also when it
/// starts: it keeps what it has and goes on once they answer.
///
/// ```no_run
/// use std::path::Path;
/// use std::time::Duration;
///
/// use easq::publish::{FollowEvent, Follower, read_current};
/// use easq::settings::Settings;
/// use easq::supervise::StopToken;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut settings = Settings::default();
/// settings.kafka.bootstrap_servers = "kafka:9092".to_owned();
/// settings.model.name = "main".to_owned();
/// let dir = Path::new("model");
/// let mut follower = Follower::new(&settings, dir, 3, &StopToken::new())?;
/// loop {
///     match follower.poll(Duration::from_millis(200))? {
///         Some(FollowEvent::Loaded { .. }) => {
///             let (manifest, tensors) = read_current(dir)?;
///             println!("version {} has {} tensors", manifest.version, tensors.len());
///         }
///         Some(FollowEvent::Kept { wanted, reason, .. }) => eprintln!("not version {wanted}: {reason}"),
///         None => {}
///     }
/// }
/// # }
/// ```
pub struct Follower {
    settings: Settings,
    stop: StopToken,
    /// None until the brokers have answered for the first time.
    log: Option<Log>,
    folder: Folder,
    keep: usize,
    current: Option<u64>,
    at_hand: HashMap<Sha, Bytes>,
    verified: Verified,
    refused: Option<Refused>,
    /// When brokers that gave no answer are asked again.
    outage: Option<Instant>,
}

/// The model's two topics.
struct Log {
    registry: RegistryReader,
    pages: PageReader,
}

/// A version that could not be loaded as this manifest describes it.
struct Refused {
    wanted: u64,
    manifest: Option<Arc<v1::Manifest>>,
    at: Instant,
    reason: String,
}

/// Why a version is not in place.
enum NotLoaded {
    Refused(Refusal, String),
    Outage(PublishError),
}

impl From<PublishError> for NotLoaded {
    fn from(error: PublishError) -> Self {
        match error.refusal() {
            Some(kind) => Self::Refused(kind, error.to_string()),
            None => Self::Outage(error),
        }
    }
}

impl Follower {
    /// Picks up the version that `dir` holds already if it is whole; asks no broker yet. `keep`
    /// versions stay on disk, at least the current.
    ///
    /// # Errors
    /// `dir` cannot be made, or another follower keeps it.
    pub fn new(settings: &Settings, dir: &Path, keep: usize, stop: &StopToken) -> Result<Self, PublishError> {
        let mut follower = Self {
            settings: settings.clone(),
            stop: stop.clone(),
            log: None,
            folder: Folder::open(dir)?,
            keep: keep.max(1),
            current: None,
            at_hand: HashMap::new(),
            verified: Verified::default(),
            refused: None,
            outage: None,
        };
        if let Some((manifest, tensors)) = follower.folder.take_up(&settings.model.name) {
            follower.hold(&manifest, &cut(&manifest, &tensors));
            // Of these the tensors were checked, not the pages one by one.
            follower.at_hand.retain(|sha, bytes| sha256(bytes) == *sha);
            let (version, created_ms) = (manifest.version, manifest.created_at_ms);
            VersionFound { version, created_ms, event_time_ms: manifest.event_time_watermark_ms }.emit();
        }
        Ok(follower)
    }

    /// The version that `current` points to.
    pub fn current(&self) -> Option<u64> {
        self.current
    }

    /// Whether the version to follow, if there is one, is the current one.
    pub fn is_up_to_date(&self) -> bool {
        let followed = self.log.as_ref().and_then(|log| log.registry.registry.followed());
        followed.is_some() && followed == self.current
    }

    /// Loads the version to follow if it is not the current one, waiting for news in the registry
    /// at most `timeout`, and for brokers that do not answer some seconds more. The first call reads
    /// the registry to its end.
    ///
    /// # Errors
    /// The registry cannot be read for a reason that does not pass by itself. What is wrong with a
    /// version is an event instead.
    pub fn poll(&mut self, timeout: Duration) -> Result<Option<FollowEvent>, PublishError> {
        if let Some(again) = self.outage {
            let left = again.saturating_duration_since(Instant::now());
            self.stop.wait(left.min(timeout));
            if left > timeout {
                return Ok(None);
            }
        }
        match self.follow(timeout) {
            // What a stop has cut short looks like brokers that do not answer.
            Err(error) if error.is_outage() && self.stop.is_stopped() => Ok(None),
            Err(error) if error.is_outage() => {
                if self.outage.is_none() {
                    FollowerWaits { reason: &error.to_string() }.emit();
                }
                self.outage = Some(Instant::now() + ASK_AGAIN_AFTER);
                Ok(None)
            }
            followed => {
                self.outage = None;
                followed
            }
        }
    }

    fn follow(&mut self, timeout: Duration) -> Result<Option<FollowEvent>, PublishError> {
        if self.log.is_none() {
            let registry = RegistryReader::open(&self.settings, "follower registry", &self.stop)?;
            let pages = PageReader::new(&self.settings, "follower pages")?;
            self.log = Some(Log { registry, pages });
        }
        let wait = if self.wanted().is_some() { Duration::ZERO } else { timeout };
        let Some(Log { registry, .. }) = &mut self.log else { return Ok(None) };
        if registry.poll(wait)? {
            // Of all that is there already only the last word counts.
            while registry.poll(Duration::ZERO)? {}
        }
        if let Some(version) = registry.registry.followed() {
            VersionWanted { version }.emit();
        }
        let Some(wanted) = self.wanted() else { return Ok(None) };
        let manifest = self.manifest(wanted);
        match self.load(wanted, manifest.as_ref()) {
            Ok(event) => Ok(Some(event)),
            Err(NotLoaded::Refused(kind, reason)) => Ok(Some(self.refuse(wanted, manifest, kind, reason))),
            Err(NotLoaded::Outage(error)) => Err(error),
        }
    }

    fn manifest(&self, version: u64) -> Option<Arc<v1::Manifest>> {
        self.log.as_ref()?.registry.registry.versions.get(&version).cloned()
    }

    /// The version that ought to be current and is not, if it is worth a try.
    fn wanted(&self) -> Option<u64> {
        let wanted = self.log.as_ref()?.registry.registry.followed()?;
        if self.current == Some(wanted) {
            return None;
        }
        let hopeless = self.refused.as_ref().is_some_and(|refused| {
            refused.wanted == wanted
                && refused.manifest == self.manifest(wanted)
                && refused.at.elapsed() < RETRY_AFTER
        });
        (!hopeless).then_some(wanted)
    }

    fn load(&mut self, wanted: u64, manifest: Option<&Arc<v1::Manifest>>) -> Result<FollowEvent, NotLoaded> {
        let Some(Log { registry, pages }) = &mut self.log else { unreachable!("the registry was read") };
        let Some(manifest) = manifest else {
            return Err(match registry.registry.unusable.get(&wanted) {
                Some(error) => NotLoaded::Refused(error.into(), error.to_string()),
                None => {
                    NotLoaded::Refused(Refusal::NoManifest, "the registry holds no manifest of it".to_owned())
                }
            });
        };
        let served = |name: &str| !name.starts_with(TRAINING_PREFIX);
        let loaded = pages.fetch(manifest, &self.at_hand, served)?;
        let verified = &self.verified;
        let verified =
            self.folder.put(manifest, &loaded.tensors, || Ok(verified.next(manifest, &loaded.tensors)?))?;
        let delay = registry.pointed_at_ms().map(since);
        VersionFollowed {
            version: wanted,
            created_ms: manifest.created_at_ms,
            event_time_ms: manifest.event_time_watermark_ms,
            pages_read: loaded.pages_read,
            pages_reused: loaded.pages_reused,
            bytes_read: loaded.bytes_read,
            bytes_reused: loaded.bytes_reused,
            delay,
        }
        .emit();
        self.hold(manifest, &loaded.tensors);
        self.verified = verified;
        self.folder.prune(self.keep);
        Ok(FollowEvent::Loaded { manifest: manifest.clone(), pages_read: loaded.pages_read })
    }

    fn refuse(
        &mut self,
        wanted: u64,
        manifest: Option<Arc<v1::Manifest>>,
        kind: Refusal,
        reason: String,
    ) -> FollowEvent {
        // Said once, not on every try.
        let said = self.refused.as_ref().is_some_and(|last| last.wanted == wanted && last.reason == reason);
        if !said {
            VersionRefused { version: wanted, kind: kind.as_str(), reason: &reason }.emit();
        }
        self.refused = Some(Refused { wanted, manifest, at: Instant::now(), reason: reason.clone() });
        FollowEvent::Kept { current: self.current, wanted, kind, reason }
    }

    /// Keeps the pages of the version that is in place now. Each of them has been checked.
    fn hold(&mut self, manifest: &v1::Manifest, tensors: &[PagedTensor]) {
        self.current = Some(manifest.version);
        self.refused = None;
        self.at_hand.clear();
        for tensor in tensors {
            let described = manifest.tensors.iter().find(|described| described.name == tensor.name);
            let pages = described.into_iter().flat_map(|described| &described.pages);
            for (page, bytes) in pages.zip(&tensor.pages) {
                if let Ok(sha) = Sha::try_from(page.sha256.as_ref()) {
                    self.at_hand.insert(sha, bytes.clone());
                }
            }
        }
    }
}

/// Tensors from the disk, in the pages of their manifest.
fn cut(manifest: &v1::Manifest, tensors: &[HostTensor]) -> Vec<PagedTensor> {
    let cut = |tensor: &HostTensor| {
        let described = manifest.tensors.iter().find(|described| described.name == tensor.name);
        PagedTensor::cut(tensor, described.map_or(&[], |described| &described.pages))
    };
    tensors.iter().map(cut).collect()
}

/// The time that has passed since `at_ms` by the clock of this machine.
fn since(at_ms: i64) -> Duration {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms.max(0).cast_unsigned());
    at.elapsed().unwrap_or_default()
}
