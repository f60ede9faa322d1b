use std::io;
use std::path::Path;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tracing::{info, warn};

use crate::telemetry::names;
use crate::telemetry::state::state;

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

/// Nobody knows whether a version that is in place would outlive a power failure.
pub struct NotOnDisk<'a> {
    pub path: &'a Path,
    pub error: &'a io::Error,
}

impl NotOnDisk<'_> {
    pub fn emit(self) {
        warn!(path = %self.path.display(), "in place, and perhaps not on disk: {}", self.error);
    }
}

/// The newest version of a kind, when it is found.
pub struct VersionStands {
    pub version: u64,
    /// `serving` or `checkpoint`.
    pub kind: &'static str,
}

impl VersionStands {
    pub fn emit(self) {
        gauge!(names::PUBLISH_VERSION, "kind" => self.kind).set(self.version as f64);
    }
}

/// What `production` points to, when it is found or written.
pub struct ProductionStands {
    pub version: u64,
    pub created_ms: i64,
    /// Greatest event time among its samples; 0 of none.
    pub event_time_ms: i64,
}

impl ProductionStands {
    pub fn emit(self) {
        gauge!(names::PUBLISH_PRODUCTION).set(self.version as f64);
        gauge!(names::PUBLISH_PRODUCTION_CREATED).set(self.created_ms as f64 / 1_000.0);
        if self.event_time_ms > 0 {
            gauge!(names::PUBLISH_PRODUCTION_EVENT_TIME).set(self.event_time_ms as f64 / 1_000.0);
        }
    }
}

/// What readers should follow, as a follower has just read it.
pub struct VersionWanted {
    pub version: u64,
}

impl VersionWanted {
    pub fn emit(self) {
        gauge!(names::FOLLOWER_WANTED).set(self.version as f64);
    }
}

/// A follower has a version whole, and has swapped it in.
pub struct VersionFollowed {
    pub version: u64,
    pub created_ms: i64,
    /// Greatest event time among its samples; 0 of none.
    pub event_time_ms: i64,
    pub pages_read: usize,
    pub pages_reused: usize,
    pub bytes_read: u64,
    pub bytes_reused: u64,
    /// From the writing of the pointer until now; `None` of one that was there before the follower.
    pub delay: Option<Duration>,
}

impl VersionFollowed {
    pub fn emit(self) {
        in_place(self.version, self.created_ms, self.event_time_ms);
        counter!(names::FOLLOWER_PAGES, "state" => "read").increment(self.pages_read as u64);
        counter!(names::FOLLOWER_PAGES, "state" => "reused").increment(self.pages_reused as u64);
        counter!(names::FOLLOWER_BYTES, "state" => "read").increment(self.bytes_read);
        counter!(names::FOLLOWER_BYTES, "state" => "reused").increment(self.bytes_reused);
        if let Some(delay) = self.delay {
            histogram!(names::FOLLOWER_DELAY).record(delay);
        }
        info!(
            version = self.version,
            pages_read = self.pages_read,
            bytes_read = self.bytes_read,
            delay = ?self.delay,
            "version in place"
        );
    }
}

/// A follower that starts has found a whole version in its folder.
pub struct VersionFound {
    pub version: u64,
    pub created_ms: i64,
    pub event_time_ms: i64,
}

impl VersionFound {
    pub fn emit(self) {
        in_place(self.version, self.created_ms, self.event_time_ms);
        info!(version = self.version, "version in place since an earlier run");
    }
}

fn in_place(version: u64, created_ms: i64, event_time_ms: i64) {
    state().version_is_in_place();
    gauge!(names::FOLLOWER_VERSION).set(version as f64);
    gauge!(names::FOLLOWER_CREATED).set(created_ms as f64 / 1_000.0);
    if event_time_ms > 0 {
        gauge!(names::FOLLOWER_EVENT_TIME).set(event_time_ms as f64 / 1_000.0);
    }
}

/// Something in a version was off; the follower keeps the one it has.
pub struct VersionRefused<'a> {
    pub version: u64,
    /// The kind of fault, as a label.
    pub kind: &'static str,
    pub reason: &'a str,
}

impl VersionRefused<'_> {
    pub fn emit(self) {
        counter!(names::FOLLOWER_REFUSED, "reason" => self.kind).increment(1);
        warn!(
            version = self.version,
            kind = self.kind,
            "version refused, the one in place stays: {}",
            self.reason
        );
    }
}

/// No broker gives what a follower asks for; it keeps the version it has and goes on asking.
pub struct FollowerWaits<'a> {
    pub reason: &'a str,
}

impl FollowerWaits<'_> {
    pub fn emit(self) {
        warn!("the version in place stays while the brokers are away: {}", self.reason);
    }
}
