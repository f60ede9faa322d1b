//! What makes a view or a pair useless to the model.

use std::fmt;

/// Why a view or a pair is not learned, or a view not scored. [`DropReason::as_str`] is its label
/// in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The view carries no features.
    MissingFeatures,
    /// `features.schema_version` is not the model's.
    SchemaVersion,
    /// The number of dense features is not the model's.
    DenseLength,
    /// A dense feature is NaN or infinite.
    NonFiniteFeature,
    /// The reward is NaN or infinite.
    NonFiniteReward,
    /// The engagement lacks the signal that `reward.signal` names.
    MissingRewardSignal,
    /// Fewer than two views of the group are left, so there is nothing to compare.
    GroupTooSmall,
    /// A pair without one of its two views.
    IncompletePair,
}

impl DropReason {
    /// The value of metrics labels, and the reason of a skipped range in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::MissingFeatures => "missing_features",
            DropReason::SchemaVersion => "schema_version",
            DropReason::DenseLength => "dense_length",
            DropReason::NonFiniteFeature => "non_finite_feature",
            DropReason::NonFiniteReward => "non_finite_reward",
            DropReason::MissingRewardSignal => "missing_reward_signal",
            DropReason::GroupTooSmall => "group_too_small",
            DropReason::IncompletePair => "incomplete_pair",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
