//! What a model looks like: the features it reads and the sizes of its layers.

use crate::contract::v1;
use crate::settings::Settings;

/// Everything that fixes names and shapes of the tensors and the meaning of the features.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// What `features.schema_version` of a view must be to be read by it.
    pub schema_version: u32,
    /// Names of the dense features in the order of the log; D is their number.
    pub dense: Vec<String>,
    /// In the order in which their embeddings are joined into the input.
    pub sparse: Vec<SparseTable>,
    /// d
    pub hidden_dim: usize,
    /// e
    pub expert_dim: usize,
    /// K1
    pub main_experts: usize,
    /// K2
    pub satisfaction_experts: usize,
    /// r
    pub lora_rank: usize,
    /// h_lora is scaled by lora_alpha / r.
    pub lora_alpha: f64,
    /// Whether h_lora is added to the main path's hidden layer.
    pub inject_lora: bool,
    /// Adapter mode: embeddings, projection and normalizer come from elsewhere and are never trained.
    pub frozen_backbone: bool,
    /// Whether experts have gates. Always, but for one ablation.
    pub gated: bool,
}

/// One embedded id field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseTable {
    /// Field number in the log.
    pub field: u32,
    /// Part of the tensor's name, `embeddings.<name>.weight`.
    pub name: String,
    /// row = id mod rows
    pub rows: usize,
    /// Width of an embedding.
    pub dim: usize,
}

impl Architecture {
    /// As `[features]` and `[model]` describe it.
    pub fn from_settings(settings: &Settings) -> Architecture {
        let model = &settings.model;
        let table = |field: &crate::settings::SparseField| SparseTable {
            field: field.field,
            name: field.name.clone(),
            rows: field.rows as usize,
            dim: field.dim as usize,
        };
        Architecture {
            schema_version: settings.features.schema_version,
            dense: settings.features.dense.clone(),
            sparse: settings.features.sparse.iter().map(table).collect(),
            hidden_dim: model.hidden_dim as usize,
            expert_dim: model.expert_dim as usize,
            main_experts: model.main_experts as usize,
            satisfaction_experts: model.satisfaction_experts as usize,
            lora_rank: model.lora_rank as usize,
            lora_alpha: model.lora_alpha,
            inject_lora: model.inject_lora,
            frozen_backbone: !model.backbone.is_empty(),
            gated: true,
        }
    }

    /// As a manifest states it.
    pub fn from_manifest(features: &v1::FeatureSchema, shape: &v1::ModelShape) -> Architecture {
        let table = |field: &v1::SparseField| SparseTable {
            field: field.field,
            name: field.name.clone(),
            rows: field.rows as usize,
            dim: field.dim as usize,
        };
        Architecture {
            schema_version: features.version,
            dense: features.dense.clone(),
            sparse: features.sparse.iter().map(table).collect(),
            hidden_dim: shape.hidden_dim as usize,
            expert_dim: shape.expert_dim as usize,
            main_experts: shape.main_experts as usize,
            satisfaction_experts: shape.satisfaction_experts as usize,
            lora_rank: shape.lora_rank as usize,
            lora_alpha: shape.lora_alpha,
            inject_lora: shape.inject_lora,
            frozen_backbone: shape.frozen_backbone,
            gated: true,
        }
    }

    /// As a manifest states what it reads; [`from_manifest`](Self::from_manifest) undoes it.
    pub fn feature_schema(&self) -> v1::FeatureSchema {
        let field = |table: &SparseTable| v1::SparseField {
            field: table.field,
            name: table.name.clone(),
            rows: table.rows as u64,
            dim: table.dim as u32,
        };
        v1::FeatureSchema {
            version: self.schema_version,
            dense: self.dense.clone(),
            sparse: self.sparse.iter().map(field).collect(),
        }
    }

    /// As a manifest states its sizes; [`from_manifest`](Self::from_manifest) undoes it.
    pub fn model_shape(&self) -> v1::ModelShape {
        v1::ModelShape {
            hidden_dim: self.hidden_dim as u32,
            expert_dim: self.expert_dim as u32,
            main_experts: self.main_experts as u32,
            satisfaction_experts: self.satisfaction_experts as u32,
            lora_rank: self.lora_rank as u32,
            lora_alpha: self.lora_alpha,
            inject_lora: self.inject_lora,
            frozen_backbone: self.frozen_backbone,
        }
    }

    /// k: the width of the embeddings and the dense features together.
    pub fn input_dim(&self) -> usize {
        self.dense.len() + self.sparse.iter().map(|table| table.dim).sum::<usize>()
    }
}
