//! The publish protocol: how a version of a model becomes visible, whole or not at all.
//!
//! A version is a set of tensors. [`pages`] cuts them into pages that are addressed by SHA-256, so
//! that a publish writes only what no kept version has written already; [`manifest`] lists them
//! with what the version has learned; [`gate`] decides whether it becomes `production`; [`keep`]
//! decides what older versions stay and which pages move; [`publisher`] commits pages, manifest and
//! pointers in one transaction that the trainer's group membership fences. [`follower`] is the
//! reading side, for rankers: it keeps the version it has whenever anything is off.

pub(crate) mod candidate;
pub(crate) mod commands;
mod disk;
pub(crate) mod error;
pub mod files;
pub(crate) mod folder;
pub(crate) mod follower;
pub(crate) mod gate;
pub(crate) mod keep;
mod limit;
pub mod manifest;
pub mod page_reader;
mod paged;
pub(crate) mod pages;
pub(crate) mod publisher;
pub mod registry;
pub(crate) mod told;

pub use candidate::{Candidate, Published, StreamSuspect, WayBack};
pub use error::{PublishError, Refusal};
pub use folder::{current, read_current};
pub use follower::{FollowEvent, Follower};
pub use publisher::Publisher;

/// Names of tensors below it are training state: in checkpoints only, never loaded by a follower.
pub const TRAINING_PREFIX: &str = "training.";
