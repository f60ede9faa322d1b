//! How large a record the brokers take: a version that would not fit is refused before anything of
//! it is written.

use prost::Message;

use crate::contract::v1;
use crate::kafka::topics::{Admin, TopicsError};
use crate::settings::Settings;
use crate::supervise::Beat;

use super::error::PublishError;
use super::manifest;
use super::pages::{PagePlan, Relocation};

/// What a record batch adds to the only value in it, its key included, with room to spare.
const OVERHEAD: u64 = 256;

/// The `max.message.bytes` of a model's two topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    pages: u64,
    manifests: u64,
}

impl RecordLimits {
    /// Asks the brokers twice; blocks for up to half a minute each time, moving `beat` in between.
    pub fn ask(admin: &Admin, settings: &Settings, beat: &Beat) -> Result<Self, TopicsError> {
        let (topics, name) = (&settings.topics, &settings.model.name);
        let pages = admin.max_message_bytes(&topics.model(name))?;
        beat.beat();
        let manifests = admin.max_message_bytes(&topics.registry(name))?;
        Ok(Self { pages, manifests })
    }

    /// Whether every page of `plan`, the manifest of it and those of `relocations` fit, wherever
    /// their pages will lie.
    ///
    /// # Errors
    /// [`PublishError::PageTooLarge`], [`PublishError::ManifestTooLarge`].
    pub fn check(
        self,
        settings: &Settings,
        manifest: &v1::Manifest,
        plan: &PagePlan,
        relocations: &[Relocation],
    ) -> Result<(), PublishError> {
        let page_bytes = settings.publish.page_bytes;
        let longest = plan.writes.iter().map(|page| page.len() as u64).max().unwrap_or(0);
        if longest + OVERHEAD > self.pages {
            let topic = settings.topics.model(&settings.model.name);
            return Err(PublishError::PageTooLarge { page_bytes, topic, limit: self.pages });
        }
        // The longest offset there is.
        let offsets = vec![i64::MAX; plan.writes.len()];
        let own = v1::Manifest { tensors: plan.placed(&offsets), ..manifest.clone() };
        for manifest in relocations.iter().map(|moved| moved.placed(&offsets)).chain([own]) {
            let bytes = (manifest.encoded_len() + manifest::DIGEST_BYTES) as u64 + OVERHEAD;
            if bytes > self.manifests {
                let pages = manifest.tensors.iter().map(|tensor| tensor.pages.len()).sum();
                let topic = settings.topics.registry(&settings.model.name);
                let (version, limit) = (manifest.version, self.manifests);
                return Err(PublishError::ManifestTooLarge {
                    version,
                    bytes,
                    pages,
                    page_bytes,
                    topic,
                    limit,
                });
            }
        }
        Ok(())
    }
}
