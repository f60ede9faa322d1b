//! The whole line in one process: world, joiner, trainer, publisher, follower, evaluation, report.

mod args;
mod run;

pub use args::Args;
pub use run::{DemoError, run};
