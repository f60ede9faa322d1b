//! How well a model ranks: metrics on held-out lists that nothing was trained on.

#[cfg(feature = "research")]
pub(crate) mod compare;
pub(crate) mod held_out;
pub(crate) mod ranking;
