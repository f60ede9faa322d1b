//! How well a model ranks: metrics on held-out lists that nothing was trained on.

pub mod held_out;
pub mod ranking;
