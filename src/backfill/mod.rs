//! `easq backfill`: a range of both input topics once more, exactly.
//!
//! ```text
//!                                                      ┌▶ one join per partition number ─┐         ┌▶ samples, model
//!  range ─▶ plan ─▶ one feed per partition ─▶ merge ───┤                                ├─▶ sink ─┼▶ a model's version
//!                                                      └▶ what the joiner has written ──┘         └▶ a topic of pairs
//! ```
//!
//! The join, the pairing and the training are those of the service; between them there is no Kafka.
//! Answers match the views that they match live (invariant 3): that depends on the two logs alone. Which
//! labels become a pair depends on their order, and that is the order of the merge: the same for every
//! replay of a range (invariant 10), and not quite that of the service, where it is the order of arrival.
//!
//! - `range`: which part of the logs a range needs; `plan` asks Kafka for its offsets.
//! - `merge`: the one order of all records.
//! - `reader`: feeds and merge, on a thread of their own; `replay` joins what they give. `samples` instead
//!   gives what the joiner has written, where the inputs are gone.
//! - `resume`: what an interrupted replay leaves behind.
//! - `sink`: what becomes of the join's outputs; `publication` makes a version of what was learned, of a
//!   model of its own, `pairs` a topic of the pairs: nothing else is written to Kafka. `account` says what
//!   was read and what came of it, `watch` how far it has come.

mod account;
mod args;
mod error;
mod merge;
mod pairs;
mod plan;
mod publication;
mod range;
mod reader;
mod replay;
mod resume;
mod run;
mod samples;
mod sink;
mod time;
mod watch;

pub(crate) use args::Args;
pub(crate) use error::BackfillError;
pub(crate) use run::run;
