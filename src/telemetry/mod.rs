//! What can be seen from outside: logs, metrics, and the two HTTP endpoints that show them.
//!
//! The stages report facts: one struct of [`events`] per fact, whose `emit` writes the log line
//! and moves the metrics together, so that the two cannot disagree. Raw metric macros are refused
//! elsewhere (`clippy.toml`). Every metric stands in the one table of [`names`].

pub mod events;
mod http;
mod logging;
pub mod names;
pub mod partitions;
mod recorder;

pub use http::{ServeError, serve};
pub use logging::{LoggingError, check_filter, init_logging};
pub use recorder::{Metrics, RecorderError, install_recorder};
