//! What was read and what came of it: beside every output, and for a person at the end.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::plan::{Origin, Plan};
use super::range::Range;
use super::replay::Replay;
use super::sink::Given;
use super::time::Shown;
use crate::contract::Side;
use crate::join::Outcome;

/// Name of the account in the folder of a model.
pub const FILE: &str = "backfill.json";

/// What became of the records of one topic.
pub type Outcomes = BTreeMap<&'static str, u64>;

/// Tells nothing of when or how fast it was: two replays of one range have the same.
#[derive(Debug, Serialize)]
pub struct Account {
    program: &'static str,
    source: Origin,
    from: String,
    to: String,
    /// Not of samples: their pairs are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pair_run_in_ms: Option<i64>,
    /// The model that it is published as, where a person has named that.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    labels: u64,
    preference_pairs: u64,
    behavior_groups: u64,
    run_in_labels: u64,
    /// What became of the records of each input, or of each kind of sample; those that still waited at
    /// the end are among them.
    #[serde(flatten)]
    outcomes: BTreeMap<&'static str, Outcomes>,
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

/// How far a partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub next_offset: i64,
    pub stream_time_ms: Option<i64>,
    pub records: u64,
}

/// What was replayed, in whichever way.
pub struct Replayed {
    /// One for each stretch of the plan.
    pub reached: Vec<Reached>,
    /// By input, or by kind of sample.
    pub outcomes: BTreeMap<&'static str, Outcomes>,
}

impl From<&Replay> for Replayed {
    fn from(replay: &Replay) -> Self {
        let joins = replay.joins();
        let sides = [Side::Views, Side::Responses];
        let sources = sides.into_iter().flat_map(|side| joins.iter().map(move |join| (side, join)));
        let reached = sources.enumerate().map(|(number, (side, join))| Reached {
            next_offset: replay.reader.next_offset(number),
            stream_time_ms: replay.reader.stream_time_ms(number),
            records: join.outcomes(side).consumed(),
        });
        let outcomes = sides.map(|side| (side.as_str(), outcomes(replay, side)));
        Self { reached: reached.collect(), outcomes: outcomes.into() }
    }
}

impl Account {
    pub fn new(
        range: &Range,
        pair_run_in_ms: Option<i64>,
        model: Option<String>,
        plan: &Plan,
        replayed: &Replayed,
        given: Given,
    ) -> Self {
        let reached = plan.stretches.iter().zip(&replayed.reached);
        let inputs = reached.enumerate().map(|(number, (stretch, reached))| Read {
            topic: stretch.topic.to_string(),
            partition: stretch.partition,
            from_offset: stretch.from,
            next_offset: reached.next_offset,
            stream_time: reached.stream_time_ms.map(|time_ms| Shown(time_ms).to_string()),
            lacks_records: plan.lacking.contains(&number),
        });
        Self {
            program: env!("CARGO_PKG_VERSION"),
            source: plan.origin,
            from: Shown(range.from_ms).to_string(),
            to: Shown(range.to_ms).to_string(),
            pair_run_in_ms,
            model,
            labels: given.labels,
            preference_pairs: given.pairs,
            behavior_groups: given.groups,
            run_in_labels: given.run_in_labels,
            outcomes: replayed.outcomes.clone(),
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
        self.outcomes.values().filter_map(|outcomes| outcomes.get(Outcome::Evicted.as_str())).sum()
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(["range", &format!("{} up to {}", self.from, self.to)]);
        let mut row = |name: &str, value: String| _ = table.add_row([name, &value]);
        row("labels", format!("{} ({} before the range)", self.labels, self.run_in_labels));
        row("preference pairs", self.preference_pairs.to_string());
        row("behavior groups", self.behavior_groups.to_string());
        for (what, outcomes) in self.outcomes.iter().rev() {
            row(&format!("{} read", what.replace('_', " ")), in_words(outcomes));
        }
        let reached = self.inputs.iter().filter_map(|read| read.stream_time.as_deref()).max();
        row("event time reached", reached.unwrap_or("-").to_owned());
        table
    }
}

fn outcomes(replay: &Replay, side: Side) -> Outcomes {
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

fn in_words(counts: &Outcomes) -> String {
    let total: u64 = counts.values().sum();
    let parts = counts.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<String> = parts.map(|(outcome, count)| format!("{count} {outcome}")).collect();
    format!("{total}: {}", parts.join(", "))
}
