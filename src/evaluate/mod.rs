//! How well a model ranks: metrics on held-out lists that nothing was trained on.

pub(crate) mod held_out;
pub(crate) mod ranking;
