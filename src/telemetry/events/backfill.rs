use std::fmt::Display;

use tracing::{info, warn};

/// The offsets of a range are known and its replay begins.
pub struct BackfillBegins<'a> {
    pub from: &'a dyn Display,
    pub to: &'a dyn Display,
    /// Offsets from the first that is needed to the end of the log.
    pub records: i64,
    pub partitions: i32,
}

impl BackfillBegins<'_> {
    pub fn emit(self) {
        let Self { from, to, records, partitions } = self;
        info!(%from, %to, partitions, records_at_most = records, "replay begins");
    }
}

/// A memory bound pushed records out of the window of a replay.
pub struct BackfillEvicted {
    pub records: u64,
}

impl BackfillEvicted {
    pub fn emit(self) {
        warn!(
            records = self.records,
            "a memory bound pushed records out, so labels may be missing: raise join.max_waiting_records or \
             join.max_waiting_bytes"
        );
    }
}
