//! The join of views and responses: pure, no I/O, no clock.
//!
//! A [`PartitionJoin`] owns one partition number of both inputs. It is given their records, each
//! input in offset order and the two in any interleaving, and says what to emit ([`Effects`]) and
//! what to commit with it ([`Frontier`]). What it emits is a function of the two logs; the order
//! in which it emits follows the order of reading.
//!
//! ```text
//!  view ──▶ valid? ──▶ in time? ──▶ group ──▶ repeated? ──▶ eligible? ──▶ window ──▶ labelled view ──▶ pairs
//!             │           │           │           │             │            ▲
//!        dead letter     late   behavior group duplicate    ineligible       │
//!             │           │                                                  │
//!  response ─▶ valid? ──▶ in time? ──────────────────────────────────────────┘
//! ```
//!
//! - `lateness`: stream time of an input, lateness, advances while idle.
//! - `window`: the rule of matching, expiry, and what a replay must read again; `held` and
//!   `deadlines` are its store and its queue.
//! - `groups`: the views of one request.
//! - `pairing`: preference pairs out of the sequence of labelled views.
//! - `replay_index`, `frontier`, `progress`: from where a restart reads again, what is committed,
//!   and how the counts go on.
//! - `partition`: all of it together.
//!
//! # Restart
//!
//! Nothing that is held is stored anywhere but in the logs. A new owner makes a join from the
//! committed states, gives it the tail of the labelled topic for the pairs, and then reads both
//! inputs again from [`PartitionJoin::read_from`] up to the committed offsets, emitting nothing:
//! what two records below the committed offsets gave was emitted, in whatever order they had been
//! read. What one record below and one above give was not, and is emitted when the second comes.
//! Stream time just before the first record, and the advances while idle, are part of the
//! committed state, so each record is judged as it was the first time; the counts are taken from
//! the commit and not counted again.
//!
//! Memory bounds are the exception: what was pushed out at a bound is let go again at the end of
//! the replay, but what it had met before cannot all be known. The counts stay complete
//! (invariant 11), labels that depend on it can be missing or come twice.

mod config;
mod deadlines;
mod fault;
mod frontier;
mod groups;
mod held;
mod judged;
mod keying;
mod lateness;
mod outcomes;
mod output;
mod pairing;
mod partition;
mod progress;
mod replay_index;
mod window;

pub use config::Config;
pub use fault::{JoinFault, RetentionLoss};
pub use frontier::{Frontier, FrontierError, InputState, MAX_METADATA_BYTES, Position, RecordIdentity};
pub use judged::Judged;
pub use outcomes::{Outcome, Outcomes, Products};
pub use output::{Effects, Output, OutputKind};
pub use partition::{Gauges, PartitionJoin};
pub use progress::Start;

pub use crate::contract::Side;

#[cfg(test)]
mod tests;
