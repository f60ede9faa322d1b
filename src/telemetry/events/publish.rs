use std::io;
use std::path::Path;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tracing::{info, warn};

use crate::telemetry::names;

/// A version is visible to followers.
pub struct VersionPublished {
    pub version: u64,
    /// `serving` or `checkpoint`.
    pub kind: &'static str,
    /// Whether `production` points to it now.
    pub is_production: bool,
    pub pages_written: u64,
    pub pages_reused: u64,
    pub bytes_written: u64,
    pub bytes_reused: u64,
    pub elapsed: Duration,
}

impl VersionPublished {
    pub fn emit(self) {
        counter!(names::PUBLISH_VERSIONS, "kind" => self.kind).increment(1);
        gauge!(names::PUBLISH_VERSION, "kind" => self.kind).set(self.version as f64);
        if self.is_production {
            gauge!(names::PUBLISH_PRODUCTION).set(self.version as f64);
        }
        counter!(names::PUBLISH_PAGES, "state" => "written").increment(self.pages_written);
        counter!(names::PUBLISH_PAGES, "state" => "reused").increment(self.pages_reused);
        counter!(names::PUBLISH_BYTES, "state" => "written").increment(self.bytes_written);
        counter!(names::PUBLISH_BYTES, "state" => "reused").increment(self.bytes_reused);
        histogram!(names::PUBLISH_SECONDS).record(self.elapsed);
        info!(
            version = self.version,
            kind = self.kind,
            production = self.is_production,
            pages_written = self.pages_written,
            pages_reused = self.pages_reused,
            bytes_written = self.bytes_written,
            elapsed = ?self.elapsed,
            "version published"
        );
    }
}

/// A version's transaction was taken back, and is tried again.
pub struct PublishAborted<'a> {
    pub version: u64,
    pub reason: &'a str,
}

impl PublishAborted<'_> {
    pub fn emit(self) {
        counter!(names::PUBLISH_ABORTS).increment(1);
        warn!(version = self.version, "the version's transaction was aborted: {}", self.reason);
    }
}

/// Pages that no kept version needs could not be deleted; it is tried again with a later version.
pub struct PagesNotTrimmed<'a> {
    pub topic: &'a str,
    /// What lies below this offset is not needed.
    pub below_offset: i64,
    pub reason: &'a str,
}

impl PagesNotTrimmed<'_> {
    pub fn emit(self) {
        warn!(
            topic = self.topic,
            below_offset = self.below_offset,
            "pages that no kept version needs are still there: {}",
            self.reason
        );
    }
}

/// What lies in a follower's folder is not the whole version that it should be.
pub struct FolderFaulty<'a> {
    pub path: &'a Path,
    pub reason: &'a str,
}

impl FolderFaulty<'_> {
    pub fn emit(self) {
        warn!(path = %self.path.display(), "the version in place is loaded again: {}", self.reason);
    }
}

/// Something in a follower's folder is no longer needed and cannot be removed.
pub struct NotRemoved<'a> {
    pub path: &'a Path,
    pub error: &'a io::Error,
}

impl NotRemoved<'_> {
    pub fn emit(self) {
        warn!(path = %self.path.display(), "cannot be removed, and only takes space: {}", self.error);
    }
}

/// A published version did not become production.
pub struct VersionNotPromoted<'a> {
    pub version: u64,
    pub reason: &'a str,
}

impl VersionNotPromoted<'_> {
    pub fn emit(self) {
        info!(version = self.version, "version not promoted: {}", self.reason);
    }
}

/// A follower has a version whole, and has swapped it in.
pub struct VersionFollowed {
    pub version: u64,
    pub created_ms: i64,
}

impl VersionFollowed {
    pub fn emit(self) {
        gauge!(names::FOLLOWER_VERSION).set(self.version as f64);
        gauge!(names::FOLLOWER_CREATED).set(self.created_ms as f64 / 1_000.0);
        info!(version = self.version, "version in place");
    }
}

/// Something in a version was off; the follower keeps the one it has.
pub struct VersionRefused<'a> {
    pub version: u64,
    pub reason: &'a str,
}

impl VersionRefused<'_> {
    pub fn emit(self) {
        counter!(names::FOLLOWER_REFUSED).increment(1);
        warn!(version = self.version, "version refused, the one in place stays: {}", self.reason);
    }
}
