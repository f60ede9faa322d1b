//! Learning from samples in the order in which they come: batches, optimizers, the label
//! reservoir, progressive validation.
//!
//! [`Trainer`] is a state machine without I/O and without a clock. It belongs to one thread.

pub mod batch;
mod report;
mod trainer;

pub use report::{BadBatch, DropReason, Offered, StepReport};
pub use trainer::{TrainError, Trainer, behavior_only_tensors};
