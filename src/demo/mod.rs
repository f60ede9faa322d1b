//! The whole line in one process: world, joiner, trainer, publisher, follower, evaluation, report.

mod args;
pub mod charts;
pub mod page;
pub mod report;
mod run;

pub use args::Args;
pub use run::{DemoError, run};
