use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tracing::{debug, error, info, warn};

use super::seconds_since;
use crate::telemetry::names;
use crate::telemetry::partitions::{self, PartitionReport};
use crate::telemetry::state::{InstanceState, state};

/// A joiner instance got this set of partition numbers.
pub struct PartitionsAssigned<'a> {
    pub instance: usize,
    pub partitions: &'a [i32],
    /// Of which the inputs are.
    pub topics: [&'a str; 2],
    /// For so long it owned nothing.
    pub after: Duration,
}

impl PartitionsAssigned<'_> {
    pub fn emit(self) {
        gauge!(names::JOINER_PARTITIONS, "instance" => self.instance.to_string())
            .set(self.partitions.len() as f64);
        counter!(names::JOINER_REBALANCES, "kind" => "assigned").increment(1);
        histogram!(names::JOINER_REBALANCE_SECONDS).record(self.after);
        for (partition, topic) in
            self.partitions.iter().flat_map(|number| self.topics.map(|topic| (number, topic)))
        {
            let labels = [("topic", topic.to_owned()), ("partition", partition.to_string())];
            counter!(names::JOINER_LOST_OFFSETS, &labels).increment(0);
        }
        state().instance_owns(self.instance, self.partitions);
        info!(instance = self.instance, partitions = ?self.partitions, "partitions assigned");
    }
}

/// A joiner instance gave its partition numbers up; they are no longer shown.
pub struct PartitionsRevoked<'a> {
    pub instance: usize,
    pub partitions: &'a [i32],
    /// Taken away without a chance to commit.
    pub lost: bool,
}

impl PartitionsRevoked<'_> {
    pub fn emit(self) {
        for partition in self.partitions {
            partitions::remove(*partition);
        }
        gauge!(names::JOINER_PARTITIONS, "instance" => self.instance.to_string()).set(0.0);
        let kind = if self.lost { "lost" } else { "revoked" };
        counter!(names::JOINER_REBALANCES, "kind" => kind).increment(1);
        state().instance_owns(self.instance, &[]);
        info!(instance = self.instance, partitions = ?self.partitions, lost = self.lost, "partitions revoked");
    }
}

/// What a joiner instance is at has changed.
pub struct InstanceChanged {
    pub instance: usize,
    pub now: InstanceState,
}

impl InstanceChanged {
    pub fn emit(self) {
        let recovering = match self.now {
            InstanceState::Recovering { partitions } => partitions,
            _ => 0,
        };
        gauge!(names::JOINER_RECOVERING, "instance" => self.instance.to_string()).set(recovering as f64);
        state().instance_is(self.instance, self.now);
    }
}

/// A joiner's transaction committed; only now do its counts exist.
pub struct JoinerCommitted {
    pub elapsed: Duration,
    /// The partitions that it moved.
    pub reports: Vec<(i32, PartitionReport)>,
}

impl JoinerCommitted {
    pub fn emit(self) {
        counter!(names::JOINER_TRANSACTIONS, "result" => "committed").increment(1);
        histogram!(names::JOINER_TRANSACTION_SECONDS).record(self.elapsed);
        debug!(partitions = self.reports.len(), elapsed = ?self.elapsed, "transaction committed");
        for (partition, report) in self.reports {
            partitions::report(partition, report);
        }
    }
}

/// A joiner's transaction was taken back; its partitions are read again from the last commit.
pub struct JoinerAborted<'a> {
    pub instance: usize,
    pub reason: &'a str,
}

impl JoinerAborted<'_> {
    pub fn emit(self) {
        counter!(names::JOINER_TRANSACTIONS, "result" => "aborted").increment(1);
        warn!(instance = self.instance, "transaction aborted: {}", self.reason);
    }
}

/// A partition's window is rebuilt and gives output again.
pub struct PartitionRecovered {
    pub partition: i32,
    pub replayed_records: u64,
    pub elapsed: Duration,
}

impl PartitionRecovered {
    pub fn emit(self) {
        histogram!(names::JOINER_RECOVERY_SECONDS).record(self.elapsed);
        info!(
            partition = self.partition,
            replayed_records = self.replayed_records,
            elapsed = ?self.elapsed,
            "partition recovered"
        );
    }
}

/// A partition stayed with its instance across a rebalance, and so did its state.
pub struct PartitionKept {
    pub partition: i32,
}

impl PartitionKept {
    pub fn emit(self) {
        info!(partition = self.partition, "partition kept its state");
    }
}

/// Labels became visible.
pub struct LabelsCommitted<'a> {
    /// Kafka timestamps of the records that completed them, Unix milliseconds.
    pub completed_ms: &'a [i64],
    /// Event times of their answers, Unix milliseconds.
    pub answered_ms: &'a [i64],
    pub now_ms: i64,
}

impl LabelsCommitted<'_> {
    pub fn emit(self) {
        let delays = histogram!(names::JOINER_LABEL_SECONDS);
        self.completed_ms.iter().for_each(|then_ms| delays.record(seconds_since(*then_ms, self.now_ms)));
        let delays = histogram!(names::JOINER_ANSWER_LABEL_SECONDS);
        self.answered_ms.iter().for_each(|then_ms| delays.record(seconds_since(*then_ms, self.now_ms)));
    }
}

/// How much the window of each input of a partition may hold.
pub struct WindowBounded {
    pub records: usize,
    pub bytes: usize,
}

impl WindowBounded {
    pub fn emit(self) {
        gauge!(names::JOIN_MAX_WAITING_RECORDS).set(self.records as f64);
        gauge!(names::JOIN_MAX_WAITING_BYTES).set(self.bytes as f64);
    }
}

/// Retention removed records that a partition still needs: consumed ones that its window needs again
/// after a restart, and ones that were never read. Labels of them are lost.
pub struct RecordsLost<'a> {
    pub topic: &'a str,
    pub partition: i32,
    /// From, and up to without.
    pub offsets: (i64, i64),
    /// Stream time before the first of them, and at the committed offset; Unix milliseconds.
    pub times_ms: (Option<i64>, Option<i64>),
}

impl RecordsLost<'_> {
    pub fn emit(self) {
        let Self { topic, partition, offsets: (from, until), times_ms: (from_ms, until_ms) } = self;
        let lost = u64::try_from(until.saturating_sub(from)).unwrap_or(0);
        let labels = [("topic", topic.to_owned()), ("partition", partition.to_string())];
        counter!(names::JOINER_LOST_OFFSETS, &labels).increment(lost);
        let span_seconds = from_ms.zip(until_ms).map(|(from, until)| until.saturating_sub(from) / 1_000);
        error!(
            topic,
            partition,
            from,
            until,
            ?span_seconds,
            "retention removed records that the join still needs, and their labels with them: retention must \
             exceed join.window_ms and the longest pause of the joiner"
        );
    }
}

/// The broker handed out records again, or of partitions that are not owned.
pub struct RecordsDropped {
    pub instance: usize,
    pub records: u64,
}

impl RecordsDropped {
    pub fn emit(self) {
        counter!(names::JOINER_DROPPED_RECORDS, "instance" => self.instance.to_string())
            .increment(self.records);
        error!(
            instance = self.instance,
            records = self.records,
            "records out of place dropped; please report this as a defect"
        );
    }
}

/// The brokers say of an input topic that was read that there is none of this name; emitted once until it is
/// back.
pub struct InputMissing<'a> {
    pub topic: &'a str,
}

impl InputMissing<'_> {
    pub fn emit(self) {
        state().input_is_missing(self.topic);
        warn!(
            topic = self.topic,
            "an input topic is not there any more: nothing is joined until it is back, and a topic that is created \
             again under its name is another one, which ends the joiner"
        );
    }
}

/// The topic that [`InputMissing`] told of is there.
pub struct InputBack<'a> {
    pub topic: &'a str,
}

impl InputBack<'_> {
    pub fn emit(self) {
        state().input_is_there(self.topic);
        info!(topic = self.topic, "the input topic is there again");
    }
}
