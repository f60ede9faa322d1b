//! What was read and what came of it: beside every output, and for a person at the end.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::plan::Plan;
use super::range::Range;
use super::replay::Replay;
use super::sink::Given;
use super::time::Shown;
use crate::contract::Side;
use crate::join::Outcome;

/// Name of the account in the folder of a model.
pub const FILE: &str = "backfill.json";

/// Tells nothing of when or how fast it was: two replays of one range have the same.
#[derive(Debug, Serialize)]
pub struct Account {
    program: &'static str,
    from: String,
    to: String,
    pair_run_in_ms: i64,
    labels: u64,
    preference_pairs: u64,
    behavior_groups: u64,
    run_in_labels: u64,
    /// What became of the records of each input; those that still waited at the end are among them.
    views: BTreeMap<&'static str, u64>,
    responses: BTreeMap<&'static str, u64>,
    inputs: Vec<Read>,
}

/// The offsets that were read of a partition.
#[derive(Debug, Serialize)]
struct Read {
    topic: String,
    partition: i32,
    from_offset: i64,
    next_offset: i64,
    /// The greatest event time among them.
    stream_time: Option<String>,
    /// Records that the range may need were gone before.
    lacks_records: bool,
}

impl Account {
    pub fn new(range: &Range, pair_run_in_ms: i64, plan: &Plan, replay: &Replay, given: Given) -> Self {
        let inputs = plan.stretches.iter().enumerate().map(|(number, stretch)| Read {
            topic: stretch.topic.to_string(),
            partition: stretch.partition,
            from_offset: stretch.from,
            next_offset: replay.reader.next_offset(number),
            stream_time: replay.reader.stream_time_ms(number).map(|time_ms| Shown(time_ms).to_string()),
            lacks_records: plan.lacking.contains(&number),
        });
        Self {
            program: env!("CARGO_PKG_VERSION"),
            from: Shown(range.from_ms).to_string(),
            to: Shown(range.to_ms).to_string(),
            pair_run_in_ms,
            labels: given.labels,
            preference_pairs: given.pairs,
            behavior_groups: given.groups,
            run_in_labels: given.run_in_labels,
            views: outcomes(replay, Side::Views),
            responses: outcomes(replay, Side::Responses),
            inputs: inputs.collect(),
        }
    }

    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("an account has a JSON form");
        json.push('\n');
        json
    }

    /// Records that a memory bound pushed out: without them more might have matched.
    pub fn evicted(&self) -> u64 {
        let evicted = |counts: &BTreeMap<&str, u64>| counts.get(Outcome::Evicted.as_str()).copied();
        evicted(&self.views).unwrap_or(0) + evicted(&self.responses).unwrap_or(0)
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(["range", &format!("{} up to {}", self.from, self.to)]);
        let mut row = |name: &str, value: String| _ = table.add_row([name, &value]);
        row("labels", format!("{} ({} before the range)", self.labels, self.run_in_labels));
        row("preference pairs", self.preference_pairs.to_string());
        row("behavior groups", self.behavior_groups.to_string());
        row("views read", in_words(&self.views));
        row("responses read", in_words(&self.responses));
        let reached = self.inputs.iter().filter_map(|read| read.stream_time.as_deref()).max();
        row("event time reached", reached.unwrap_or("-").to_owned());
        table
    }
}

fn outcomes(replay: &Replay, side: Side) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for join in replay.joins() {
        let outcomes = join.outcomes(side);
        *counts.entry("waiting").or_default() += outcomes.waiting;
        for &outcome in Outcome::of(side) {
            *counts.entry(outcome.as_str()).or_default() += outcomes.get(outcome);
        }
    }
    counts
}

fn in_words(counts: &BTreeMap<&str, u64>) -> String {
    let total: u64 = counts.values().sum();
    let parts = counts.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<String> = parts.map(|(outcome, count)| format!("{count} {outcome}")).collect();
    format!("{total}: {}", parts.join(", "))
}
