//! A reader of the joiner's outputs: what was joined, how soon, and what was paired.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;

use super::error::DemoError;
use crate::contract::v1::{LabelledView, PreferencePair};
use crate::kafka::Record;
use crate::kafka::reader::LogReader;
use crate::settings::Settings;
use crate::simulate::{Delivery, Input};
use crate::supervise::StopToken;

const POLL: Duration = Duration::from_millis(50);

/// What the world has sent and what came out of the joiner; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// When the later of a view's record and its answer was sent, by impression.
    sent: HashMap<String, Instant>,
    counts: Counts,
    delays_ms: Vec<f64>,
    paired: HashSet<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub labelled_views: u64,
    pub preference_pairs: u64,
    /// Labelled views that are in a pair.
    pub paired: u64,
}

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        // Counts are changed in one step each, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a record that may be joined.
    pub(super) fn sent(&self, delivery: &Delivery) {
        let exposed = delivery.truth.is_some_and(|truth| truth.exposed);
        if exposed || delivery.input == Input::Responses {
            self.state().sent.insert(delivery.impression_id.clone(), Instant::now());
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.state();
        Counts { paired: state.paired.len() as u64, ..state.counts }
    }

    pub(super) fn delays_ms(&self) -> Vec<f64> {
        self.state().delays_ms.clone()
    }

    fn labelled(&self, labelled: LabelledView) {
        let mut state = self.state();
        state.counts.labelled_views += 1;
        let impression_id = labelled.view.unwrap_or_default().impression_id;
        if let Some(sent) = state.sent.remove(&impression_id) {
            state.delays_ms.push(sent.elapsed().as_secs_f64() * 1000.0);
        }
    }

    fn paired(&self, pair: PreferencePair) {
        let mut state = self.state();
        state.counts.preference_pairs += 1;
        let labelled = [pair.chosen, pair.rejected].into_iter().flatten();
        state.paired.extend(labelled.filter_map(|labelled| labelled.view).map(|view| view.impression_id));
    }
}

/// Reads both topics until `stop`.
///
/// # Errors
/// When they cannot be read, or a record is not what the contract says.
pub(super) fn watch(settings: &Settings, watched: &Watched, stop: &StopToken) -> Result<(), DemoError> {
    let topics = &settings.topics;
    let mut reader = LogReader::new(&settings.kafka, "demo watch")?;
    let partitions = reader.partitions(&topics.labelled_views)?;
    let both = [&topics.labelled_views, &topics.preference_pairs];
    let assigned: Vec<(&str, i32, i64)> = both
        .iter()
        .flat_map(|topic| (0..partitions).map(|partition| (topic.as_str(), partition, 0)))
        .collect();
    reader.assign(&assigned)?;
    while !stop.is_stopped() {
        if let Some(record) = reader.poll(POLL)? {
            take(&record, &topics.labelled_views, watched)?;
        }
    }
    Ok(())
}

fn take(record: &Record, labelled_views: &str, watched: &Watched) -> Result<(), DemoError> {
    let payload = record.payload.clone().unwrap_or_default();
    let bad = |error: prost::DecodeError| DemoError::Output {
        topic: record.topic.to_string(),
        partition: record.partition,
        offset: record.offset,
        reason: error.to_string(),
    };
    if *record.topic == *labelled_views {
        watched.labelled(LabelledView::decode(payload).map_err(bad)?);
    } else {
        watched.paired(PreferencePair::decode(payload).map_err(bad)?);
    }
    Ok(())
}
