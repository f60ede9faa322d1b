//! The join of views and responses: pure, no I/O, no clock.

mod config;
mod deadlines;
mod fault;
mod frontier;
mod groups;
mod held;
mod keying;
mod lateness;
mod outcomes;
mod output;
mod pairing;
mod partition;
mod progress;
mod replay_index;
mod window;

pub use config::Config;
pub use fault::{JoinFault, RetentionLoss};
pub use frontier::{Frontier, FrontierError, InputState, MAX_METADATA_BYTES, Position, RecordIdentity};
pub use outcomes::{Outcome, Outcomes, Products};
pub use output::{Effects, Output, OutputKind};
pub use partition::{Gauges, PartitionJoin};
pub use progress::Start;

pub use crate::contract::Side;

#[cfg(test)]
mod tests;
