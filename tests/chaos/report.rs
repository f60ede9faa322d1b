//! What a run came to, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::fleet::Summary;
use crate::rolling::Rolling;
use crate::schedule::Event;
use crate::support::verify::Verdict;

pub struct Report {
    pub events: Vec<Event>,
    pub verdict: Verdict,
    /// By kind of fault, each sorted.
    pub recoveries: BTreeMap<String, Vec<Duration>>,
    /// Versions published, and times that training went on from a checkpoint that was not the newest
    /// of them; `None` when the lineage does not hold, which stands above.
    pub lineage: Option<(usize, usize)>,
    pub rolling: Rolling,
    pub fleet: Summary,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.verdict.is_exactly_once()
            && self.lineage.is_some()
            && self.rolling.faults().is_empty()
            && self.fleet.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { inputs, effects, lost, duplicated, wrong, faults } = &self.verdict;
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for event in &self.events {
            *kinds.entry(event.kind()).or_default() += 1;
        }
        writeln!(f, "{:<20} {:>6}   recovered: {:>6} {:>8} {:>8}", "fault", "times", "p50", "p99", "max")?;
        for (kind, times) in &kinds {
            write!(f, "{kind:<20} {times:>6}              ")?;
            row(f, self.recoveries.get(kind).map_or(&[], Vec::as_slice))?;
        }
        let mut all: Vec<Duration> = self.recoveries.values().flatten().copied().collect();
        all.sort();
        write!(f, "{:<20} {:>6}              ", "all", self.events.len())?;
        row(f, &all)?;
        writeln!(f, "processes started again after exit code 3: {}", self.fleet.fenced)?;
        writeln!(f, "drains that met their deadline while brokers were away: {}", self.fleet.cut_short)?;
        writeln!(
            f,
            "inputs {inputs}, effects {effects}, lost {lost}, duplicated {duplicated}, wrong {wrong}"
        )?;
        let loaded = self.rolling.versions_loaded();
        match self.lineage {
            Some((versions, breaks)) => writeln!(
                f,
                "versions {versions}, of which {loaded} loaded by a follower; training resumed from an older \
                 checkpoint {breaks} times"
            )?,
            None => writeln!(f, "FAULT: the lineage of the versions does not hold (see above)")?,
        }
        for fault in faults.iter().chain(&self.rolling.faults()).chain(&self.fleet.failures) {
            writeln!(f, "FAULT: {fault}")?;
        }
        write!(f, "chaos: {}", if self.is_good() { "every effect exactly once" } else { "NOT exactly once" })
    }
}

fn row(f: &mut fmt::Formatter<'_>, sorted: &[Duration]) -> fmt::Result {
    let Some(last) = sorted.len().checked_sub(1) else { return writeln!(f, "{:>6}", "-") };
    let at = |share: f64| sorted[(last as f64 * share).round() as usize].as_secs_f64();
    writeln!(f, "{:>5.1}s {:>7.1}s {:>7.1}s", at(0.5), at(0.99), at(1.0))
}
