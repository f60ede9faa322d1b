//! How well a model ranks: metrics on held-out lists that nothing was trained on, and on the samples
//! of a stream.

mod command;
#[cfg(feature = "research")]
pub(crate) mod compare;
pub(crate) mod held_out;
mod measure;
pub(crate) mod ranking;

pub(crate) use command::{EvaluateArgs, evaluate};
