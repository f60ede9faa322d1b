//! What the tests share: a real Apache Kafka, the real binary as a child process, bounded waits,
//! and builders of input records. Every test binary includes it as `mod support;`.
//!
//! Nothing here skips: a test whose broker cannot be had fails and says what is missing.
#![allow(dead_code, unused_imports)] // each binary uses a part of it

mod cluster;
pub mod commits;
pub mod dashboards;
mod events;
pub mod folders;
mod http;
pub mod joiners;
mod kafka;
mod line;
pub mod lineage;
pub mod metrics;
pub mod model;
pub mod oracle;
mod process;
pub mod prometheus;
pub mod promql;
mod python;
pub mod replays;
pub mod rules;
mod samples;
mod secure;
mod served;
mod supervised;
pub mod terminal;
pub mod trainers;
pub mod verify;
mod wait;
pub mod watched;
pub mod world;

pub use cluster::{Cluster, Door, free_ports};
pub use events::{response, view};
pub use http::{answer, get};
pub use kafka::{Input, Kafka, Record};
pub use line::Line;
pub use process::{Easq, signal};
pub use python::{interpreter, python, python_of};
pub use samples::{Samples, group};
pub use secure::{Proof, SecureKafka};
pub use served::Served;
pub use supervised::Supervised;
pub use wait::{eventually, eventually_nothing, eventually_some};
