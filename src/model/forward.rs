//! The two paths from input to score, and what stops between them.

use tch::{Device, Kind, Tensor, no_grad};

use super::Architecture;
use super::host_tensor::{Dtype, HostTensor};
use super::parameters::{
    ParameterGroup, ParameterSpec, Source, embedding_specs, host_tensor, kind_of, main_head_specs,
    projection_specs, satisfaction_specs,
};

/// Precision and device of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Placement {
    pub(crate) dtype: Dtype,
    pub(crate) device: Device,
}

impl Placement {
    pub(crate) fn kind(self) -> Kind {
        kind_of(self.dtype)
    }
}

/// A mixture of experts with its own gate (the two heads have the same form).
pub(crate) struct Head {
    /// Weight and bias; the one expert of the ablation without a mixture has none.
    gate: Option<[Tensor; 2]>,
    /// [K·e, d]
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
}

/// A head's results for n views.
pub(crate) struct HeadOutput {
    /// [n], at least 0
    pub(crate) score: Tensor,
    /// [n, K] gate values; 0 where a gate is closed
    pub(crate) gates: Tensor,
}

impl Head {
    /// `leaves` end with those of the head: gate, hidden, output, each weight then bias.
    pub(crate) fn new(leaves: &[Tensor], gated: bool) -> Head {
        let leaf = |from_end: usize| leaves[leaves.len() - from_end].shallow_clone();
        Head {
            gate: gated.then(|| [leaf(6), leaf(5)]),
            hidden_weight: leaf(4),
            hidden_bias: leaf(3),
            output_weight: leaf(2),
            output_bias: leaf(1),
        }
    }

    /// `a = softplus(u); g = relu(a W_gateᵀ + b_gate); E_k = softplus(v_k · softplus(W_k a + b_k) + c_k);
    /// out = Σ_k g_k E_k`, u [n, d].
    ///
    /// libtorch's softplus is the identity above 20: off by at most 2e-9, which single precision
    /// cannot represent there.
    pub(crate) fn forward(&self, u: &Tensor) -> HeadOutput {
        let (experts, e) = self.output_weight.size2().expect("output weights are [K, e]");
        let a = u.softplus();
        let hidden = a.linear(&self.hidden_weight, Some(&self.hidden_bias.view(-1))).softplus();
        let output = (hidden.view([-1, experts, e]) * &self.output_weight).sum_dim_intlist(
            [2_i64].as_slice(),
            false,
            None::<Kind>,
        ) + &self.output_bias;
        let gates = match &self.gate {
            Some([weight, bias]) => a.linear(weight, Some(bias)).relu(),
            None => output.ones_like(),
        };
        let score = (&gates * output.softplus()).sum_dim_intlist([1_i64].as_slice(), false, None::<Kind>);
        HeadOutput { score, gates }
    }
}

/// Embeddings, projection and main head: what behavior and L_DPO teach, the head alone where the
/// backbone is frozen.
pub(crate) struct MainPath {
    names: Vec<String>,
    /// [rows, dim] per sparse table
    pub(crate) tables: Vec<Tensor>,
    /// W0, b0: leaves of `group`, or constants with these names.
    projection: [Tensor; 2],
    frozen: Option<[String; 2]>,
    pub(crate) group: ParameterGroup,
    head: Head,
}

impl MainPath {
    pub(crate) fn load(
        architecture: &Architecture,
        embedding_std: f64,
        source: &mut Source,
        placement: Placement,
    ) -> Option<MainPath> {
        let Placement { dtype, device } = placement;
        let mut constant = |spec: &ParameterSpec| {
            let values = source.values(spec, dtype)?;
            let tensor = Tensor::from_slice(&values).to_kind(kind_of(dtype)).to_device(device);
            Some(tensor.view(spec.shape.iter().map(|&size| size as i64).collect::<Vec<_>>().as_slice()))
        };
        let specs = embedding_specs(architecture, embedding_std);
        // All of them are looked at before giving up, so that every fault is named.
        let tables: Vec<_> = specs.iter().map(&mut constant).collect();
        let [weight, bias] = projection_specs(architecture);
        let head = main_head_specs(architecture);
        let (frozen, group) = if architecture.frozen_backbone {
            let names = [weight.name.clone(), bias.name.clone()];
            let constants = [constant(&weight), constant(&bias)];
            (Some((names, constants)), ParameterGroup::load(head, source, dtype, device)?)
        } else {
            let specs = [weight, bias].into_iter().chain(head).collect();
            (None, ParameterGroup::load(specs, source, dtype, device)?)
        };
        let head = Head::new(group.leaves(), architecture.gated);
        let (frozen, projection) = match frozen {
            Some((names, [weight, bias])) => (Some(names), [weight?, bias?]),
            None => (None, [0, 1].map(|index| group.leaves()[index].shallow_clone())),
        };
        let names = specs.into_iter().map(|spec| spec.name).collect();
        let tables = tables.into_iter().collect::<Option<_>>()?;
        Some(MainPath { names, tables, projection, frozen, group, head })
    }

    /// A head of its own on the frozen backbone of `other`.
    pub(crate) fn beside(
        other: &MainPath,
        architecture: &Architecture,
        source: &mut Source,
        placement: Placement,
    ) -> Option<MainPath> {
        let specs = main_head_specs(architecture);
        let group = ParameterGroup::load(specs, source, placement.dtype, placement.device)?;
        let head = Head::new(group.leaves(), architecture.gated);
        Some(MainPath {
            names: other.names.clone(),
            tables: other.tables.iter().map(Tensor::shallow_clone).collect(),
            projection: [0, 1].map(|index| other.projection[index].shallow_clone()),
            frozen: other.frozen.clone(),
            group,
            head,
        })
    }

    /// Whether embeddings and projection are constants.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// h [n, d] of x [n, k]
    pub(crate) fn project(&self, x: &Tensor) -> Tensor {
        x.linear(&self.projection[0], Some(&self.projection[1]))
    }

    /// ŷ of a hidden layer [n, d]
    pub(crate) fn head(&self, hidden: &Tensor) -> HeadOutput {
        self.head.forward(hidden)
    }

    /// Names of the embedding tables.
    pub(crate) fn table_names(&self) -> &[String] {
        &self.names
    }

    /// All tensors.
    pub(crate) fn save(&self, prefix: &str) -> Vec<HostTensor> {
        let save = |(name, table): (&String, &Tensor)| {
            let shape = table.size().iter().map(|&size| size as usize).collect();
            host_tensor(format!("{prefix}{name}"), shape, table)
        };
        let mut tensors: Vec<_> = self.names.iter().zip(&self.tables).map(save).collect();
        tensors.extend(self.frozen.iter().flatten().zip(&self.projection).map(save));
        tensors.extend(self.group.save(prefix));
        tensors
    }

    /// Those that learning changes.
    pub(crate) fn save_learned(&self, prefix: &str) -> Vec<HostTensor> {
        if self.is_frozen() { self.group.save(prefix) } else { self.save(prefix) }
    }
}

/// LoRA and satisfaction head: what questionnaires teach.
pub(crate) struct SatisfactionPath {
    pub(crate) group: ParameterGroup,
    /// lora_alpha / r
    lora_scale: f64,
    head: Head,
}

impl SatisfactionPath {
    fn lora(&self, x: &Tensor) -> Tensor {
        let [a, b] = [0, 1].map(|index| &self.group.leaves()[index]);
        x.detach().linear(a, None::<&Tensor>).linear(b, None::<&Tensor>) * self.lora_scale
    }
}

/// Both paths.
pub(crate) struct Model {
    pub(crate) main: MainPath,
    pub(crate) satisfaction: SatisfactionPath,
    inject_lora: bool,
}

impl Model {
    /// None when the source's tensors do not fit, which they remember.
    pub(crate) fn load(
        architecture: &Architecture,
        embedding_std: f64,
        source: &mut Source,
        placement: Placement,
    ) -> Option<Model> {
        let main = MainPath::load(architecture, embedding_std, source, placement);
        let specs = satisfaction_specs(architecture);
        let group = ParameterGroup::load(specs, source, placement.dtype, placement.device)?;
        let head = Head::new(group.leaves(), architecture.gated);
        let lora_scale = architecture.lora_alpha / architecture.lora_rank as f64;
        let satisfaction = SatisfactionPath { group, lora_scale, head };
        Some(Model { main: main?, satisfaction, inject_lora: architecture.inject_lora })
    }

    /// ŷ of x [n, k]; no gradient reaches LoRA.
    pub(crate) fn score(&self, x: &Tensor) -> HeadOutput {
        let mut hidden = self.main.project(x);
        if self.inject_lora {
            hidden += no_grad(|| self.satisfaction.lora(x));
        }
        self.main.head(&hidden)
    }

    /// ŝ of x [n, k]; no gradient reaches embeddings and projection.
    pub(crate) fn satisfaction(&self, x: &Tensor) -> HeadOutput {
        let hidden = no_grad(|| self.main.project(x)) + self.satisfaction.lora(x);
        self.satisfaction.head.forward(&hidden)
    }

    pub(crate) fn save(&self) -> Vec<HostTensor> {
        let mut tensors = self.main.save("");
        tensors.extend(self.satisfaction.group.save(""));
        tensors
    }
}
