//! easq joins what people watched with what they answered when asked "Are you satisfied with this
//! video?", and learns from both, online, a ranking model that is aligned with satisfaction
//! (EASQ, arXiv 2601.20215).
//!
//! ```text
//!  behavior-log ──────────┐                               ┌── easq.behavior-groups ──┐
//!    (dense, keyed user)  ├─▶ JOINER ──(one transaction)──┼── easq.labelled-views    ├─▶ TRAINER ──(one transaction)──┬── easq.model.<model>           pages
//!  questionnaire-responses┘   n instances                 ├── easq.preference-pairs ─┘   1 per model                  └── easq.model-registry.<model>  manifests
//!    (sparse, keyed user)                                 ├── easq.late                                                        │
//!                                                         └── easq.dead-letters                                                └─▶ FOLLOWER: rankers, `easq follow`
//! ```
//!
//! Between the roles there is only Kafka, also when they share a process: each scales, restarts
//! and is replayed alone.
//!
//! # Invariants
//!
//! A test that holds one of them names its number.
//!
//! 1. **The log is the interface and the only durable state.** A stage may be killed at any
//!    instruction and started on an empty disk elsewhere.
//! 2. **Exactly once.** Outputs, the next input offsets of both topics, and the recovery metadata
//!    commit in one Kafka transaction.
//! 3. **Join truth.** The matched set is a property of the two logs: eligible view, equal
//!    `impression_id` and `user_id`, event times at most `join.window_ms` apart, neither late. A
//!    record is late when its event time is below the greatest event time before it in its own
//!    topic-partition minus `join.allowed_lateness_ms`. Exceptions, each counted:
//!    `late_after_idle`, `evicted`, `lost_to_retention`.
//! 4. **One view and one label per impression.** The non-late view with the lowest offset, and the
//!    matching response with the lowest offset; others are duplicates, counted.
//! 5. **The labelled topic is the changelog of pairing.** Pairs are a pure function of the last
//!    `join.pair_lookback` records of one partition of it.
//! 6. **Gradient isolation.** No gradient of the questionnaire loss reaches the backbone, none of
//!    the behavior loss reaches LoRA, none of the DPO loss reaches LoRA or the satisfaction head.
//!    Exactly zero, not small.
//! 7. **A version knows what it learned.** It names the next offset of each input partition. Along
//!    `parent` every record below that was learned once, waits in the label reservoir, or is named
//!    as skipped, with the reason, or as in a gap. A version of a replay, which goes by event time,
//!    names what was read and the range of event time instead.
//! 8. **Visible only when whole.** Pages and manifest commit together; a follower checks length
//!    and SHA-256 of all it loads, and keeps what it has when anything is off.
//! 9. **One writer per key.** One trainer per model; the trainer alone writes manifests and
//!    `production` (the first version may come from a replay or a person, who own the model for as long),
//!    people alone write `pin` and `accept`.
//! 10. **Replay is isolated and deterministic.** The same samples in the same order give byte-identical
//!     models, whatever restarts lie between, with the same binary on the same CPU with one thread
//!     (`train.intra_op_threads`). A backfill touches no live group, offset, topic or pointer, and two
//!     of one range give byte-identical models and sample files.
//! 11. **Conservation.** Every record consumed ends in exactly one counted outcome; the counts are
//!     kept per partition and committed with the offsets.
//! 12. **Everything is bounded.** Each queue has a setting, a metric and a policy at the bound.
//!
//! # Modules, in the order data flows
//!
//! A stage uses the ones above it and the shared roots ([`settings`], [`contract`], [`kafka`],
//! [`supervise`], [`telemetry`]), never one below. Decisions are apart from I/O: [`join`] is pure.

#![warn(missing_docs)]
#![allow(rustdoc::private_intra_doc_links, reason = "the map leads into private modules too")]

pub mod settings;
pub mod contract;
pub mod supervise;
pub mod telemetry;
pub mod kafka;

pub mod join;
pub mod joiner;
pub mod model;
pub mod train;
pub mod publish;
mod trainer;
mod offline;
mod backfill;
pub mod simulate;
mod evaluate;
mod demo;
pub mod cli;
