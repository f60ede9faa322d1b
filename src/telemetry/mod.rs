//! What can be seen from outside: logs, metrics, and the HTTP endpoints that show them.
//!
//! The stages report facts: one struct of [`events`] per fact, whose `emit` writes the log line
//! and moves the metrics together, so that the two cannot disagree. Raw metric macros are refused
//! elsewhere (`clippy.toml`). Every metric stands in the one table of [`names`].

mod build;
pub(crate) mod events;
mod exposition;
mod http;
mod logging;
pub mod names;
pub(crate) mod partitions;
mod progress;
mod recorder;
pub(crate) mod state;
mod status;

pub(crate) use build::REVISION;
pub(crate) use http::serve;
pub(crate) use logging::init_logging;
pub(crate) use progress::Progress;
pub use recorder::{Metrics, RecorderError, install_recorder};
