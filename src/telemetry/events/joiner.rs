use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tracing::{debug, info, warn};

use crate::telemetry::names;
use crate::telemetry::partitions::{self, PartitionReport};

/// A joiner instance got this set of partition numbers.
pub struct PartitionsAssigned<'a> {
    pub instance: usize,
    pub partitions: &'a [i32],
}

impl PartitionsAssigned<'_> {
    pub fn emit(self) {
        gauge!(names::JOINER_PARTITIONS, "instance" => self.instance.to_string())
            .set(self.partitions.len() as f64);
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
        info!(instance = self.instance, partitions = ?self.partitions, lost = self.lost, "partitions revoked");
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
