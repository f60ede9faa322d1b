//! How far a replay has come.

use std::time::{Duration, Instant};

use super::error::BackfillError;
use super::range::Range;
use super::replay::{Reached, Receiver};
use super::sink::Sink;
use super::time::{Length, Shown};
use crate::join::Output;
use crate::telemetry::Progress;

/// Hands outputs on to the sink and shows the progress, in seconds of event time.
pub struct Watch<'a> {
    sink: &'a mut Sink,
    range: Range,
    progress: Progress,
    began: Instant,
}

impl<'a> Watch<'a> {
    pub fn new(sink: &'a mut Sink, range: Range) -> Self {
        let progress = Progress::new(seconds(range.read_from_ms, range.read_until_ms), "s of event time");
        Self { sink, range, progress, began: Instant::now() }
    }

    /// Who takes what is given.
    pub fn sink(&mut self) -> &mut Sink {
        self.sink
    }

    /// Leaves the last state behind.
    pub fn finish(mut self, reached: Reached) {
        self.look(reached);
        self.progress.finish();
    }
}

impl Receiver for Watch<'_> {
    fn take(&mut self, partition: i32, output: &Output) -> Result<(), BackfillError> {
        self.sink.take(partition, output)
    }

    fn look(&mut self, reached: Reached) {
        let Range { read_from_ms, read_until_ms, .. } = self.range;
        let given = self.sink.given();
        let time_ms = reached.time_ms.unwrap_or(read_from_ms).clamp(read_from_ms, read_until_ms);
        let (done, total) = (seconds(read_from_ms, time_ms), seconds(read_from_ms, read_until_ms));
        let elapsed = self.began.elapsed().as_secs_f64();
        let rate = reached.records as f64 / elapsed.max(1e-3);
        let left = elapsed * (total - done) as f64 / done.max(1) as f64;
        let left = Duration::try_from_secs_f64(left).map_or(i64::MAX, |left| left.as_secs() as i64);
        let message = format!(
            "at {}, {rate:.0} events/s, {} labels, {} pairs, {} left",
            // Whole seconds: on 80 columns each counts.
            Shown(time_ms / 1000 * 1000),
            given.labels,
            given.pairs,
            Length(left.saturating_mul(1000)),
        );
        self.progress.set(done, message);
    }
}

fn seconds(from_ms: i64, to_ms: i64) -> u64 {
    to_ms.saturating_sub(from_ms).max(0).unsigned_abs() / 1000
}
