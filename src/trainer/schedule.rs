//! When a version is due, and of which kind. Pure.

use std::time::{Duration, Instant};

use crate::contract::v1::VersionKind;

/// Remembers what has changed since the last version of either kind.
#[derive(Debug, Clone)]
pub struct Schedule {
    interval: Duration,
    checkpoint_interval: Duration,
    version_at: Instant,
    checkpoint_at: Instant,
    /// Whether the line that is being trained has a checkpoint at all.
    has_checkpoint: bool,
    changed_since_version: bool,
    changed_since_checkpoint: bool,
}

impl Schedule {
    /// `resumed`: training goes on from a checkpoint.
    pub fn new(interval: Duration, checkpoint_interval: Duration, resumed: bool, now: Instant) -> Self {
        Self {
            interval,
            checkpoint_interval,
            version_at: now,
            checkpoint_at: now,
            has_checkpoint: resumed,
            changed_since_version: false,
            changed_since_checkpoint: false,
        }
    }

    /// Something was learned, taken in or skipped.
    pub fn changed(&mut self) {
        self.changed_since_version = true;
        self.changed_since_checkpoint = true;
    }

    /// The version that is due, if one is. The first of a line is a checkpoint, so that there is
    /// always one to go on from.
    pub fn due(&self, now: Instant) -> Option<VersionKind> {
        let checkpoint_age = now.saturating_duration_since(self.checkpoint_at);
        let version_age = now.saturating_duration_since(self.version_at);
        if self.changed_since_checkpoint && self.has_checkpoint && checkpoint_age >= self.checkpoint_interval
        {
            return Some(VersionKind::Checkpoint);
        }
        (self.changed_since_version && version_age >= self.interval).then_some(self.least_kind())
    }

    /// What a version that comes out of turn has to be.
    pub fn least_kind(&self) -> VersionKind {
        if self.has_checkpoint { VersionKind::Serving } else { VersionKind::Checkpoint }
    }

    /// Training has gone back to an earlier checkpoint: what comes next is a checkpoint again, so that a
    /// restart does not go on from what was given up.
    pub fn went_back(&mut self) {
        self.has_checkpoint = false;
        self.changed();
    }

    /// Whether a clean stop has something to keep.
    pub fn is_checkpoint_stale(&self) -> bool {
        self.changed_since_checkpoint
    }

    /// A version of this kind was cut.
    pub fn cut(&mut self, kind: VersionKind, now: Instant) {
        self.version_at = now;
        self.changed_since_version = false;
        if kind == VersionKind::Checkpoint {
            self.checkpoint_at = now;
            self.has_checkpoint = true;
            self.changed_since_checkpoint = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(resumed: bool) -> (Schedule, Instant) {
        let start = Instant::now();
        (Schedule::new(SECOND, 60 * SECOND, resumed, start), start)
    }

    #[test]
    fn nothing_is_due_when_nothing_changed() {
        let (schedule, start) = schedule(true);
        assert_eq!(schedule.due(start + 1000 * SECOND), None);
        assert!(!schedule.is_checkpoint_stale());
    }

    #[test]
    fn the_first_version_of_a_new_line_is_a_checkpoint() {
        let (mut schedule, start) = schedule(false);
        schedule.changed();
        assert_eq!(schedule.due(start), None);
        assert_eq!(schedule.due(start + SECOND), Some(VersionKind::Checkpoint));
        schedule.cut(VersionKind::Checkpoint, start + SECOND);
        schedule.changed();
        assert_eq!(schedule.due(start + 2 * SECOND), Some(VersionKind::Serving));
    }

    #[test]
    fn serving_versions_come_between_checkpoints() {
        let (mut schedule, start) = schedule(true);
        schedule.changed();
        assert_eq!(schedule.due(start + SECOND), Some(VersionKind::Serving));
        schedule.cut(VersionKind::Serving, start + SECOND);
        assert_eq!(schedule.due(start + 59 * SECOND), None, "nothing changed since");
        assert_eq!(schedule.due(start + 60 * SECOND), Some(VersionKind::Checkpoint), "no checkpoint has it");
        schedule.cut(VersionKind::Checkpoint, start + 60 * SECOND);
        assert!(!schedule.is_checkpoint_stale());
        schedule.changed();
        assert_eq!(schedule.due(start + 61 * SECOND), Some(VersionKind::Serving));
    }

    #[test]
    fn a_clean_stop_keeps_what_only_a_serving_version_has() {
        let (mut schedule, start) = schedule(true);
        schedule.changed();
        schedule.cut(VersionKind::Serving, start + SECOND);
        assert!(schedule.is_checkpoint_stale());
    }
}
