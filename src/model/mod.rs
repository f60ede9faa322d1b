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
mod host_tensor;
mod scorer;

pub use architecture::{Architecture, SparseTable};
pub use host_tensor::{Dtype, HostTensor, LoadError};
pub use scorer::{ScoreError, Scorer};
