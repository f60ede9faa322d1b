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
mod progress;
mod questionnaire;
mod run;
mod samples;
mod stream;
mod truth;
mod views;
mod world;

pub use args::{Args, Plan, RecordTime, parse_duration};
pub use config::{WorldConfig, WorldError};
pub use faults::{Deliveries, Delivery, Fault, FaultRates, Input, Partitioning};
pub use malformed::Defect;
pub use pace::Pace;
pub use produce::{ProduceOptions, Produced, produce};
pub use progress::Progress;
pub use run::{SimulateError, run};
pub use stream::{Arrival, Event, SimulatedView, Stream, ViewTruth};
pub use truth::TruthFile;
pub use world::{HELD_OUT_NEGATIVES, HeldOutList, World};

#[cfg(test)]
mod tests;
