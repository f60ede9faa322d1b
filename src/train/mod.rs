//! Learning from samples in the order in which they come: batches, optimizers, the label
//! reservoir, progressive validation.
//!
//! [`Trainer`] is a state machine without I/O and without a clock. It belongs to one thread.
//! [`Driver`] feeds it from samples in order, where no clock closes batches.

mod arrivals;
pub(crate) mod batch;
mod device;
mod driver;
mod exit;
mod groups;
mod judge;
mod learn;
mod optimizer;
mod price;
mod progressive;
mod readback;
mod report;
#[cfg(feature = "research")]
pub mod research;
mod references;
mod reservoir;
mod results;
mod state;
mod stream;
mod trainer;

pub use crate::model::DropReason;
pub use driver::{Driver, Learner, Stepped};
pub use exit::end_process;
pub use learn::Loss;
pub use report::{
    BadBatch, BadBatches, BadRun, Difference, Offered, PairSource, ReferenceEvidence, ReservoirFigures,
    StepReport,
};
pub(crate) use reservoir::SOURCES as RESERVOIR_SOURCES;
pub use state::behavior_only_tensors;
pub use stream::{Signal, StreamWatch, Suspicion};
pub use trainer::{TrainError, Trainer};

#[cfg(test)]
pub(crate) mod tests;
