//! The reading side: a folder that always holds a whole version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::contract::v1;
use crate::settings::Settings;

use super::error::PublishError;

/// What [`Follower::poll`] has to tell.
#[derive(Debug)]
pub enum FollowEvent {
    /// `current` now points to this version.
    Loaded { manifest: Box<v1::Manifest>, pages_read: usize },
    /// The version to follow could not be loaded; `current` is what it was.
    Kept { current: Option<u64>, wanted: u64, reason: String },
}

/// Follows `pin`, else `production`, of one model into one folder. Blocks; one thread owns it.
pub struct Follower {
    _dir: PathBuf,
}

impl Follower {
    /// Reads the registry of the model that the settings name to its end, and picks up the version
    /// that `dir` holds already if it is whole. `keep` versions stay on disk, at least the current.
    pub fn new(_settings: &Settings, _dir: &Path, _keep: usize) -> Result<Self, PublishError> {
        todo!()
    }

    /// The version that `current` points to.
    pub fn current(&self) -> Option<u64> {
        todo!()
    }

    /// Waits at most `timeout` for news in the registry, and loads the version to follow if it is
    /// not the current one.
    pub fn poll(&mut self, _timeout: Duration) -> Result<Option<FollowEvent>, PublishError> {
        todo!()
    }
}
