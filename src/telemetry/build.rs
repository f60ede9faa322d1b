//! What this program was built from.

/// Of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, where the build was told (`EASQ_REVISION`).
pub const REVISION: &str = match option_env!("EASQ_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};

/// The libtorch that the build linked.
pub const LIBTORCH: &str = env!("EASQ_LIBTORCH");
