//! What every partition's join is told.

use std::sync::Arc;

use super::judged::KeyedView;
use crate::contract::validate::{Limits, View};
use crate::settings::{Join, Settings, Topics};

/// Shared by all partitions of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub(super) join: Join,
    pub(super) topics: Topics,
    /// [`Topics::behavior`], shared by the groups that name it.
    pub(super) behavior_topic: Arc<str>,
    pub(super) limits: Limits,
    /// Requests whose hash lies below it are sampled; none: all.
    pub(super) sampled_below: Option<u64>,
    /// Size of the sample of first records in which wrong keys stop the join, and the share of
    /// them that does.
    pub(super) mis_keyed_sample_records: u64,
    pub(super) mis_keyed_max_ratio: f64,
    /// A replay begins at a multiple of this many records.
    pub(super) replay_stretch_records: u32,
}

impl Config {
    /// `partitions`: of either input topic.
    pub fn new(settings: &Settings, partitions: i32) -> Config {
        let rate = settings.join.behavior_sample_rate;
        Config {
            // 2^64 is exact as a float, and the conversion saturates.
            sampled_below: (rate < 1.0).then_some((rate * 2f64.powi(64)) as u64),
            join: settings.join.clone(),
            topics: settings.topics.clone(),
            behavior_topic: settings.topics.behavior.as_str().into(),
            limits: Limits::new(settings, partitions),
            mis_keyed_sample_records: settings.input.mis_keyed_sample_records,
            mis_keyed_max_ratio: settings.input.mis_keyed_max_ratio,
            replay_stretch_records: 1_000,
        }
    }

    /// Whether the window may hold it, or its group when not all are sampled.
    pub(super) fn is_kept_of_few(&self, keyed: &KeyedView) -> bool {
        let is_grouped = self.sampled_below.is_some_and(|bound| keyed.request.sample < bound);
        is_grouped || self.is_eligible(&keyed.view)
    }

    /// Whether a view can have been asked about (invariant 3): its questionnaire was shown, or
    /// nothing is known and the trigger is met.
    pub(super) fn is_eligible(&self, view: &View) -> bool {
        view.questionnaire_exposed.unwrap_or_else(|| {
            let share =
                f64::from(view.watched_ms) >= self.join.trigger_watched_ratio * f64::from(view.duration_ms);
            view.watched_ms >= self.join.trigger_watched_ms || (view.duration_ms > 0 && share)
        })
    }
}
