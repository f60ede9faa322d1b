//! What defines a world and its stream.

use serde::Serialize;
use thiserror::Error;

use super::coefficients::questionnaire_rates;
use crate::settings::{self, Preset};

/// Everything that decides what the world does: two equal configurations give equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorldConfig {
    /// Everything random follows from it.
    pub seed: u64,
    /// People who watch, each with a taste, an activity and a susceptibility to clickbait.
    pub users: usize,
    /// Half of them are there from the beginning.
    pub videos: usize,
    /// Each video has one, who decides how good and how sensational it tends to be.
    pub authors: usize,
    /// Each video lies near one in the space of tastes.
    pub topics: usize,
    /// Places where videos are shown.
    pub scenarios: usize,
    /// What behavior and satisfaction disagree on, and whether tastes change half-way.
    pub preset: Preset,
    /// Share of triggered views that are shown the questionnaire.
    pub exposure: f64,
    /// Share of shown questionnaires that the average user answers.
    pub answer_rate: f64,
    /// Whether views say if the questionnaire was shown; without it the trigger decides.
    pub log_exposure: bool,
    /// Views that the stream has in all.
    pub views: u64,
    /// When the first views end, Unix milliseconds of event time.
    pub start_ms: i64,
    /// Event time that the stream takes: half of the videos are born in it, and the drift is in
    /// its middle.
    pub span_ms: i64,
    /// `features.schema_version` of the views.
    pub schema_version: u32,
}

/// A configuration that no world can have.
#[derive(Debug, Error, PartialEq)]
#[error("{key} = {value}: must be {allowed}")]
pub struct WorldError {
    /// The field of [`WorldConfig`].
    pub key: &'static str,
    /// What it was.
    pub value: String,
    /// In words.
    pub allowed: &'static str,
}

impl WorldConfig {
    /// The world of the settings, with the rates of its preset; 192,000 views in 12 hours.
    pub fn new(simulate: &settings::Simulate, schema_version: u32) -> Self {
        let (exposure, answer_rate) = questionnaire_rates(simulate.preset);
        Self {
            seed: simulate.seed,
            users: simulate.users,
            videos: simulate.videos,
            authors: simulate.authors,
            topics: simulate.topics,
            scenarios: simulate.scenarios,
            preset: simulate.preset,
            exposure,
            answer_rate,
            log_exposure: true,
            views: 192_000,
            start_ms: 1_700_000_000_000,
            span_ms: 12 * 3_600_000,
            schema_version,
        }
    }

    pub(super) fn check(&self) -> Result<(), WorldError> {
        let counts = [
            ("users", self.users),
            ("videos", self.videos),
            ("authors", self.authors),
            ("topics", self.topics),
            ("scenarios", self.scenarios),
        ];
        for (key, value) in counts {
            // Latents are held in memory and ids are at most seven digits.
            if !(1..=10_000_000).contains(&value) {
                return Err(WorldError { key, value: value.to_string(), allowed: "1 to 10000000" });
            }
        }
        for (key, value) in [("exposure", self.exposure), ("answer_rate", self.answer_rate)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(WorldError { key, value: value.to_string(), allowed: "0 to 1" });
            }
        }
        if self.span_ms < 1000 {
            return Err(WorldError {
                key: "span_ms",
                value: self.span_ms.to_string(),
                allowed: "1000 or more",
            });
        }
        // A request may have been served before the first view ends.
        if self.start_ms < 86_400_000 {
            return Err(WorldError {
                key: "start_ms",
                value: self.start_ms.to_string(),
                allowed: "86400000 or more: one day after the epoch",
            });
        }
        Ok(())
    }
}
