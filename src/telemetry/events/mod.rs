//! One struct per observable fact; `emit` logs it and counts it.

#![allow(clippy::disallowed_macros, reason = "the one place where metrics are moved")]

mod backfill;
mod begin;
mod gate;
mod joiner;
mod process;
mod publish;
mod trainer;

pub use backfill::*;
pub use begin::*;
pub use gate::*;
pub use joiner::*;
pub use process::*;
pub use publish::*;
pub use trainer::*;
