//! `easq train`: learning from a sample file, without Kafka.
//!
//! The samples are learned strictly in order by a [`Driver`](crate::train::Driver); nothing depends on
//! the clock, so the same file gives the same bytes (invariant 10). What it writes are the files of
//! one version, as a follower does, and the training state beside them, from which a later run goes
//! on.

mod args;
mod begin;
mod error;
mod learning;
mod output;
mod run;
mod summary;

pub(crate) use args::{Args, Precision};
pub(crate) use begin::{Begun, Initial, begin_anew, begin_from, take_up};
pub(crate) use error::TrainFileError;
pub(crate) use learning::Learning;
pub(crate) use output::{check_free, tensors, write};
pub(crate) use run::run;
