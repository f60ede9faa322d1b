//! The join of views and responses: pure, no I/O, no clock.

mod frontier;
mod outcomes;
mod output;
mod partition;

pub use frontier::{Frontier, FrontierError, InputState, MAX_METADATA_BYTES, Position, RecordIdentity};
pub use outcomes::{Outcome, Outcomes, Products};
pub use output::{Effects, Output, OutputKind};
pub use partition::{Config, Gauges, JoinFault, PartitionJoin, RetentionLoss, Start};

pub use crate::contract::Side;
