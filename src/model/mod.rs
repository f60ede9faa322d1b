//! The ranking model: parameters, forward pass, losses, initialization.
//!
//! Two paths share the input `x` (pooled embeddings, then normalized dense features). The *main*
//! path is what is served; the *satisfaction* path learns from questionnaires alone and reaches
//! the main path only through L_DPO. Stop-gradients keep them apart (invariant 6):
//!
//! ```text
//! h      = x W0ᵀ + b0
//! h_lora = (lora_alpha / r) · sg(x) Aᵀ Bᵀ
//! ŷ = head_main(h + sg(h_lora))          ŝ = head_satisfaction(sg(h) + h_lora)
//! ```
//!
//! Tensor names are those of the safetensors files that rankers load: a public contract.
//! libtorch is used here and in [`crate::train`] alone.

mod architecture;
mod drop_reason;
mod encode;
mod forward;
mod host_tensor;
mod initialize;
mod losses;
mod normalizer;
mod parameters;
mod reward;
mod scorer;

pub use architecture::{Architecture, SparseTable};
pub use drop_reason::DropReason;
pub use host_tensor::{Dtype, HostTensor, LoadError};
pub use reward::reward;
pub use scorer::{ScoreError, Scorer};

pub(crate) use encode::{EncodedViews, TouchedRows, ViewTensors, check_features, upload};
pub(crate) use forward::{HeadOutput, MainPath, Model, Placement};
pub(crate) use host_tensor::TensorMap;
pub(crate) use losses::{DpoPairsForm, ScoreDifferences, dpo_pairs, live_labels, satisfaction_loss};
pub(crate) use normalizer::{Normalizer, Scaling};
pub(crate) use parameters::{ParameterGroup, Source, host_tensor};
#[cfg(feature = "research")]
pub(crate) use {
    forward::Head,
    parameters::{satisfaction_head_specs, tower_specs},
};
