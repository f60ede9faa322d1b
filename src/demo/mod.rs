//! The whole line in one process: world, joiner, trainer, publisher, follower, evaluation, report.

mod args;
mod charts;
mod conservation;
mod drain;
mod error;
mod follow;
mod judge;
mod line;
mod page;
mod report;
mod run;
mod setup;
mod stages;
mod watch;

pub use args::Args;
pub use error::DemoError;
pub use run::run;
