//! The join of views and responses: pure, no I/O, no clock.

mod frontier;
mod outcomes;
mod output;
mod partition;

pub use frontier::{Frontier, FrontierError, InputState, MAX_METADATA_BYTES, Position, RecordIdentity};
pub use outcomes::{Outcome, Outcomes, Products};
pub use output::{Effects, Output, OutputKind};
pub use partition::{Config, Gauges, JoinFault, PartitionJoin, RetentionLoss, Start};

/// One of the two inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Views,
    Responses,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Views => Side::Responses,
            Side::Responses => Side::Views,
        }
    }

    /// The value of metrics labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Views => "views",
            Side::Responses => "responses",
        }
    }
}
