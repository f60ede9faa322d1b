//! Metrics of the partitions that this process owns, as of their last commit.
//!
//! They are kept apart from the recorder for two reasons. They change together and only when a
//! transaction has committed, so that a scrape never sees half of one or what an abort took back.
//! And they leave with the partition: the new owner goes on with the same cumulative counts (they
//! are committed with the offsets, invariant 11), so a sum over all instances stays exact, which a
//! series that lingers at the old owner would spoil. The `metrics` facade cannot remove a series.
//!
//! For Prometheus the counts are counters. A new owner's series begins at the cumulative value;
//! `rate` and `increase` take the first sample of a series as their base, so a move is not seen as
//! traffic.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::{Key, Label};
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{write_help_line, write_metric_line, write_type_line};

use super::names;

/// One partition number of the joiner up to its last commit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PartitionReport {
    pub behavior: InputReport,
    pub responses: InputReport,
    /// Preference pairs since the group began, by scope.
    pub pairs: Vec<(&'static str, u64)>,
    /// Behavior groups since the group began, by outcome.
    pub groups: Vec<(&'static str, u64)>,
    /// Views in time and in no group since the group began, by reason.
    pub ungrouped_views: Vec<(&'static str, u64)>,
    /// Views since the group began whose repeats can no longer be told.
    pub forgotten_views: u64,
}

/// One input partition up to its last commit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InputReport {
    pub topic: String,
    /// Records since the group began, by outcome; `waiting` is not among them.
    pub outcomes: Vec<(&'static str, u64)>,
    /// All records since the group began: the sum of `outcomes`, and what is waiting.
    pub consumed_records: u64,
    pub waiting_records: u64,
    pub buffered_bytes: u64,
    /// Records that take this memory; views in open groups once more.
    pub held_records: u64,
    /// The greatest event time so far; none before the first record.
    pub stream_time_ms: Option<i64>,
    /// Records between the position and the end of the partition; none until the end is known.
    pub lag_records: Option<u64>,
    /// Time since the last record read was written, 0 at the end of the partition.
    pub lag_seconds: Option<f64>,
}

/// Reports by partition number.
#[derive(Debug, Default)]
struct Owned(BTreeMap<i32, PartitionReport>);

static OWNED: Mutex<Owned> = Mutex::new(Owned(BTreeMap::new()));

fn owned() -> MutexGuard<'static, Owned> {
    // A report is inserted or removed whole, so a panic elsewhere leaves nothing half done.
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces what is shown of `partition`. Called after a commit, never before.
pub fn report(partition: i32, report: PartitionReport) {
    owned().0.insert(partition, report);
}

/// Stops showing `partition`: it is no longer owned.
pub fn remove(partition: i32) {
    owned().0.remove(&partition);
}

/// The reports of the partitions that this process owns, by partition number.
pub fn reports() -> BTreeMap<i32, PartitionReport> {
    owned().0.clone()
}

/// The reports in the Prometheus text format.
pub(super) fn render() -> String {
    owned().render()
}

impl Owned {
    fn render(&self) -> String {
        let mut text = String::new();
        self.inputs(&mut text, names::JOIN_CONSUMED_RECORDS, |input| Some(input.consumed_records as f64));
        self.inputs(&mut text, names::JOIN_WAITING_RECORDS, |input| Some(input.waiting_records as f64));
        self.inputs(&mut text, names::JOIN_BUFFERED_BYTES, |input| Some(input.buffered_bytes as f64));
        self.inputs(&mut text, names::JOIN_HELD_RECORDS, |input| Some(input.held_records as f64));
        self.inputs(&mut text, names::JOIN_STREAM_TIME, |input| {
            input.stream_time_ms.map(|time_ms| time_ms as f64 / 1_000.0)
        });
        self.inputs(&mut text, names::JOIN_LAG_RECORDS, |input| input.lag_records.map(|lag| lag as f64));
        self.inputs(&mut text, names::JOIN_LAG_SECONDS, |input| input.lag_seconds);

        let mut records = Family::new(&mut text, names::JOIN_RECORDS);
        for (partition, input) in self.all_inputs() {
            for (outcome, count) in &input.outcomes {
                let labels =
                    [("topic", input.topic.as_str()), ("partition", &partition), ("outcome", outcome)];
                records.sample(&labels, *count as f64);
            }
        }
        self.counts(&mut text, names::JOIN_PAIRS, "scope", |report| &report.pairs);
        self.counts(&mut text, names::JOIN_GROUPS, "outcome", |report| &report.groups);
        self.counts(&mut text, names::JOIN_UNGROUPED_VIEWS, "reason", |report| &report.ungrouped_views);
        let mut forgotten = Family::new(&mut text, names::JOIN_FORGOTTEN_VIEWS);
        for (partition, report) in &self.0 {
            let partition = partition.to_string();
            forgotten.sample(&[("partition", &partition)], report.forgotten_views as f64);
        }
        text
    }

    fn all_inputs(&self) -> impl Iterator<Item = (String, &InputReport)> {
        self.0.iter().flat_map(|(partition, report)| {
            [&report.behavior, &report.responses].map(|input| (partition.to_string(), input))
        })
    }

    fn inputs(&self, text: &mut String, name: &'static str, value: impl Fn(&InputReport) -> Option<f64>) {
        let mut family = Family::new(text, name);
        for (partition, input) in self.all_inputs() {
            if let Some(value) = value(input) {
                family.sample(&[("topic", input.topic.as_str()), ("partition", &partition)], value);
            }
        }
    }

    fn counts(
        &self,
        text: &mut String,
        name: &'static str,
        label: &'static str,
        counts: impl Fn(&PartitionReport) -> &Vec<(&'static str, u64)>,
    ) {
        let mut family = Family::new(text, name);
        for (partition, report) in &self.0 {
            let partition = partition.to_string();
            for (value, count) in counts(report) {
                family.sample(&[("partition", partition.as_str()), (label, value)], *count as f64);
            }
        }
    }
}

/// The samples of one metric; its head is written with the first of them.
struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    has_head: bool,
}

impl<'a> Family<'a> {
    fn new(text: &'a mut String, name: &'static str) -> Self {
        Self { text, name, has_head: false }
    }

    fn sample(&mut self, labels: &[(&'static str, &str)], value: f64) {
        if !self.has_head {
            let metric = names::metric(self.name);
            write_help_line(self.text, self.name, None, None, metric.help);
            write_type_line(self.text, self.name, None, None, metric.kind.as_str());
            self.has_head = true;
        }
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        let labels = LabelSet::from_key_and_global(&Key::from_parts(self.name, labels), &Default::default());
        write_metric_line::<&str, _>(self.text, self.name, None, &labels, None, value, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report_of(matched: u64, waiting: u64) -> PartitionReport {
        PartitionReport {
            behavior: InputReport {
                topic: "behavior-log".to_owned(),
                outcomes: vec![("matched", matched), ("late", 0)],
                consumed_records: matched + waiting,
                waiting_records: waiting,
                stream_time_ms: Some(1_500),
                ..InputReport::default()
            },
            responses: InputReport { topic: "responses".to_owned(), ..InputReport::default() },
            pairs: vec![("same_user", 3)],
            ..PartitionReport::default()
        }
    }

    #[test]
    fn counts_are_absolute_counters_of_each_topic_partition_and_outcome() {
        let mut owned = Owned::default();
        owned.0.insert(3, report_of(7, 2));
        owned.0.insert(3, report_of(9, 1));
        let text = owned.render();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.contains(&"# TYPE easq_join_records_total counter"), "{text}");
        let consumed = r#"easq_join_consumed_records_total{topic="behavior-log",partition="3"} 10"#;
        assert!(lines.contains(&consumed), "{text}");
        assert!(
            lines.contains(
                &r#"easq_join_records_total{topic="behavior-log",partition="3",outcome="matched"} 9"#
            ),
            "{text}"
        );
        assert!(
            lines.contains(&r#"easq_join_waiting_records{topic="behavior-log",partition="3"} 1"#),
            "{text}"
        );
        assert!(lines.contains(&r#"easq_join_pairs_total{partition="3",scope="same_user"} 3"#), "{text}");
        assert!(
            lines.contains(&r#"easq_join_stream_time_seconds{topic="behavior-log",partition="3"} 1.5"#),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_known_yet_is_not_shown_as_zero() {
        let mut owned = Owned::default();
        owned.0.insert(0, report_of(1, 0));
        let text = owned.render();
        assert!(!text.contains(names::JOIN_LAG_RECORDS), "{text}");
        assert!(!text.contains(r#"easq_join_stream_time_seconds{topic="responses""#), "{text}");
    }

    #[test]
    fn a_partition_that_is_no_longer_owned_is_no_longer_shown() {
        report(40_000, report_of(1, 0));
        assert!(render().contains(r#"partition="40000""#));
        remove(40_000);
        assert!(!render().contains(r#"partition="40000""#));
    }

    #[test]
    fn hostile_topic_names_cannot_break_out_of_a_label() {
        let mut owned = Owned::default();
        let mut hostile = report_of(1, 0);
        hostile.behavior.topic = "a\"} 1\nfake 2".to_owned();
        owned.0.insert(0, hostile);
        assert!(owned.render().lines().all(|line| !line.starts_with("fake")));
    }
}
