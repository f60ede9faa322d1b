//! The follower of the demo, and what it saw of each version.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::error::DemoError;
use super::report::VersionPoint;
use crate::contract::v1::{Manifest, VersionKind};
use crate::publish::{FollowEvent, Follower};
use crate::settings::Settings;
use crate::supervise::StopToken;

const POLL: Duration = Duration::from_millis(100);
/// Versions that stay on disk.
const KEPT_VERSIONS: usize = 2;

/// The versions that the follower has loaded, in order; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Followed(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    newest: Option<Arc<Manifest>>,
    history: Vec<VersionPoint>,
}

impl Followed {
    fn state(&self) -> MutexGuard<'_, State> {
        // A version is added in one step, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version in place.
    pub(super) fn newest(&self) -> Option<Arc<Manifest>> {
        self.state().newest.clone()
    }

    pub(super) fn history(&self) -> Vec<VersionPoint> {
        self.state().history.clone()
    }

    fn loaded(&self, manifest: Arc<Manifest>, loaded_at_seconds: f64) {
        let loaded_after_ms = Timestamp::now().as_millisecond() - manifest.created_at_ms;
        let mut state = self.state();
        state.history.push(point(&manifest, loaded_at_seconds, loaded_after_ms));
        state.newest = Some(manifest);
    }
}

fn point(manifest: &Manifest, loaded_at_seconds: f64, loaded_after_ms: i64) -> VersionPoint {
    let progressive = manifest.progressive.unwrap_or_default();
    VersionPoint {
        version: manifest.version,
        checkpoint: manifest.kind() == VersionKind::Checkpoint,
        loaded_at_seconds,
        loaded_after_ms,
        step: manifest.step,
        preference_pairs_learned: manifest.preference_pairs_learned,
        loss_main: progressive.loss_main,
        loss_satisfaction: progressive.loss_satisfaction,
        loss_dpo: progressive.loss_dpo,
        behavior_win_rate: progressive.behavior_win_rate,
        behavior_only_win_rate: progressive.behavior_only_win_rate,
        preference_win_rate: progressive.preference_win_rate,
        behavior_only_preference_win_rate: progressive.behavior_only_preference_win_rate,
    }
}

/// Keeps `dir` with the production version until `stop`; times are seconds since `began`.
///
/// # Errors
/// When the registry cannot be read, or a version that was published cannot be loaded.
pub(super) fn follow(
    settings: &Settings,
    dir: &Path,
    began: Instant,
    followed: &Followed,
    stop: &StopToken,
) -> Result<(), DemoError> {
    let mut follower = Follower::new(settings, dir, KEPT_VERSIONS, stop)?;
    while !stop.is_stopped() {
        match follower.poll(POLL)? {
            Some(FollowEvent::Loaded { manifest, .. }) => {
                followed.loaded(manifest, began.elapsed().as_secs_f64());
            }
            Some(FollowEvent::Kept { wanted, reason, .. }) => {
                return Err(DemoError::NotLoaded { version: wanted, reason });
            }
            None => {}
        }
    }
    Ok(())
}
