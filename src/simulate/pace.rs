//! Event time against the clock.

use std::time::{Duration, Instant};

use super::config::WorldConfig;
use crate::supervise::StopToken;

/// Writes a stream's event time within a duration of the clock.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    began: Instant,
    start_ms: i64,
    clock_per_event: f64,
}

impl Pace {
    /// Begins now: the span of `world` takes `duration`.
    pub fn begin(world: &WorldConfig, duration: Duration) -> Self {
        let clock_per_event = duration.as_secs_f64() * 1000.0 / world.span_ms as f64;
        Self { began: Instant::now(), start_ms: world.start_ms, clock_per_event }
    }

    /// Waits until an event time has come; true when stopped before.
    pub fn wait(&self, event_time_ms: i64, stop: &StopToken) -> bool {
        let event_ms = (event_time_ms - self.start_ms).max(0) as f64;
        let due = Duration::from_secs_f64(event_ms * self.clock_per_event / 1000.0);
        let ahead = due.saturating_sub(self.began.elapsed());
        // Shorter waits than a scheduler's tick would only spend time.
        if ahead < Duration::from_millis(1) { stop.is_stopped() } else { stop.wait(ahead) }
    }
}
