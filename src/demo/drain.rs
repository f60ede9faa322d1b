//! The end of the run: waiting, in the order of the flow, until everything has been read, joined,
//! learned, published and loaded.

use std::time::{Duration, Instant};

use super::error::DemoError;
use super::follow::Followed;
use super::watch::Watched;
use crate::kafka::reader::LogReader;
use crate::publish::manifest::next_offset;
use crate::settings::Settings;
use crate::simulate::Produced;
use crate::telemetry::partitions;

/// Nothing changing for this long is a stage that hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// Tells slow from stuck.
pub(super) struct Stall {
    what: &'static str,
    missing: u64,
    since: Instant,
}

impl Stall {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, missing: u64::MAX, since: Instant::now() }
    }

    /// Whether anything is missing.
    ///
    /// # Errors
    /// When as much has been missing for a minute.
    pub(super) fn is_missing(&mut self, missing: u64) -> Result<bool, DemoError> {
        if missing != self.missing {
            (self.missing, self.since) = (missing, Instant::now());
        } else if missing > 0 && self.since.elapsed() > LONGEST {
            return Err(DemoError::Stalled { what: self.what, missing, seconds: LONGEST.as_secs() });
        }
        Ok(missing > 0)
    }
}

/// Input records that the joiner has not committed.
pub(super) fn unread_records(produced: &Produced) -> u64 {
    let reports = partitions::reports();
    let consumed: u64 = reports
        .values()
        .map(|report| report.behavior.consumed_records + report.responses.consumed_records)
        .sum();
    (produced.behavior_records + produced.response_records).saturating_sub(consumed)
}

/// Outputs that the joiner has committed and the watching reader has not seen.
pub(super) fn unseen_outputs(watched: &Watched) -> u64 {
    let reports = partitions::reports();
    let labelled: u64 = reports
        .values()
        .flat_map(|report| &report.responses.outcomes)
        .filter(|(outcome, _)| *outcome == "matched")
        .map(|(_, count)| count)
        .sum();
    let pairs: u64 = reports.values().flat_map(|report| &report.pairs).map(|(_, count)| count).sum();
    let counts = watched.counts();
    labelled.saturating_sub(counts.labelled_views) + pairs.saturating_sub(counts.preference_pairs)
}

/// How far the samples reach: what a version must have learned.
pub(super) struct SampleEnds(Vec<(String, i32, i64)>);

impl SampleEnds {
    /// `control_records`: how many a commit leaves behind the last record of a partition.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(super) fn read(settings: &Settings, control_records: i64) -> Result<Self, DemoError> {
        let topics = &settings.topics;
        let reader = LogReader::new(&settings.kafka, "demo drain")?;
        let mut ends = Vec::new();
        for topic in [&topics.behavior_groups, &topics.preference_pairs] {
            for partition in 0..reader.partitions(topic)? {
                let (_, high) = reader.watermarks(topic, partition)?;
                ends.push((topic.clone(), partition, high - control_records));
            }
        }
        Ok(Self(ends))
    }

    /// Samples that the newest version that was followed has not learned.
    pub(super) fn unlearned(&self, followed: &Followed) -> u64 {
        let newest = followed.newest();
        let learned = |topic: &str, partition| {
            newest.as_ref().and_then(|manifest| next_offset(manifest, topic, partition)).unwrap_or_default()
        };
        let missing = self.0.iter().map(|(topic, partition, end)| end - learned(topic, *partition));
        missing.map(|missing| u64::try_from(missing).unwrap_or_default()).sum()
    }
}
