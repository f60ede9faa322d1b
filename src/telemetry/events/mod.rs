//! One struct per observable fact; `emit` logs it and counts it.

#![allow(clippy::disallowed_macros, reason = "the one place where metrics are moved")]

mod backfill;
mod gate;
mod joiner;
mod process;
mod publish;
mod trainer;
mod zeros;

pub use backfill::*;
pub use gate::*;
pub use joiner::*;
pub use process::*;
pub use publish::*;
pub use trainer::*;

/// 0 of a time that lies ahead.
fn seconds_since(then_ms: i64, now_ms: i64) -> f64 {
    now_ms.saturating_sub(then_ms).max(0) as f64 / 1_000.0
}
