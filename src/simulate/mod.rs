//! The synthetic world: users who watch, are attracted by clickbait, and are satisfied by
//! something else.
//!
//! Attractiveness drives what people do; satisfaction, which drives what they answer, agrees with
//! it on taste and disagrees on clickbait. Latents are never logged. Every random draw comes from
//! one seed, in a stream of its own per purpose: adding a fault or an answer changes nothing else.

mod args;
mod coefficients;
mod config;
mod faults;
mod latents;
mod malformed;
mod pace;
mod produce;
mod questionnaire;
mod run;
mod samples;
mod stream;
mod truth;
mod views;
mod world;

pub use config::{WorldConfig, WorldError};
pub use faults::{Deliveries, Delivery, Fault, FaultRates, Input, Partitioning};
pub use malformed::Defect;
pub use stream::ViewTruth;
pub use world::World;

pub(crate) use args::{Args, RecordTime, parse_duration};
pub(crate) use produce::{ProduceOptions, Produced, produce};
pub(crate) use run::{SimulateError, run};
#[cfg(feature = "research")]
pub(crate) use samples::samples;

#[cfg(test)]
mod tests;
