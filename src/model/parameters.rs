//! Parameters by their public names.

use tch::{Device, Kind, Tensor, no_grad};

use super::Architecture;
use super::host_tensor::{Dtype, HostTensor, TensorMap};
use super::initialize::{Initial, draw};

/// A parameter before it has values.
pub(crate) struct ParameterSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) initial: Initial,
}

impl ParameterSpec {
    fn new(name: impl Into<String>, shape: &[usize], initial: Initial) -> ParameterSpec {
        ParameterSpec { name: name.into(), shape: shape.to_vec(), initial }
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn sizes(&self) -> Vec<Option<usize>> {
        self.shape.iter().copied().map(Some).collect()
    }

    /// An embedding or a part of the projection, LoRA apart.
    fn is_backbone(&self) -> bool {
        self.name.starts_with("embeddings.")
            || ["projection.weight", "projection.bias"].contains(&self.name.as_str())
    }
}

/// `projection.weight` and `projection.bias`.
pub(crate) fn projection_specs(architecture: &Architecture) -> [ParameterSpec; 2] {
    let (d, k) = (architecture.hidden_dim, architecture.input_dim());
    [
        ParameterSpec::new("projection.weight", &[d, k], Initial::Normal { std: (k as f64).sqrt().recip() }),
        ParameterSpec::new("projection.bias", &[d], Initial::Constant(0.0)),
    ]
}

pub(crate) fn main_head_specs(architecture: &Architecture) -> Vec<ParameterSpec> {
    head_specs("main", architecture.main_experts, architecture)
}

/// LoRA and the satisfaction head.
pub(crate) fn satisfaction_specs(architecture: &Architecture) -> Vec<ParameterSpec> {
    let (d, k, r) = (architecture.hidden_dim, architecture.input_dim(), architecture.lora_rank);
    let mut specs = vec![
        ParameterSpec::new(
            "projection.lora_A.weight",
            &[r, k],
            Initial::Normal { std: (k as f64).sqrt().recip() },
        ),
        ParameterSpec::new("projection.lora_B.weight", &[d, r], Initial::Constant(0.0)),
    ];
    specs.extend(satisfaction_head_specs(architecture));
    specs
}

pub(crate) fn satisfaction_head_specs(architecture: &Architecture) -> Vec<ParameterSpec> {
    head_specs("satisfaction", architecture.satisfaction_experts, architecture)
}

/// A projection of its own for a tower beside the main path.
#[cfg(feature = "research")]
pub(crate) fn tower_specs(architecture: &Architecture) -> Vec<ParameterSpec> {
    let mut specs: Vec<_> = projection_specs(architecture).into();
    specs.iter_mut().for_each(|spec| spec.name.insert_str(0, "imputation."));
    specs.extend(satisfaction_head_specs(architecture));
    specs
}

fn head_specs(head: &str, experts: usize, architecture: &Architecture) -> Vec<ParameterSpec> {
    let (d, e) = (architecture.hidden_dim, architecture.expert_dim);
    let (by_d, by_e) = ((d as f64).sqrt().recip(), (e as f64).sqrt().recip());
    let spec =
        |name: &str, shape: &[usize], initial| ParameterSpec::new(format!("{head}.{name}"), shape, initial);
    let gate = [
        spec("gate.weight", &[experts, d], Initial::Normal { std: 0.3 * by_d }),
        // Open at first: a gate that starts closed gets no gradient.
        spec("gate.bias", &[experts], Initial::Constant(1.0)),
    ];
    let experts = [
        spec("experts.hidden.weight", &[experts, e, d], Initial::Normal { std: by_d }),
        spec("experts.hidden.bias", &[experts, e], Initial::Constant(0.0)),
        spec("experts.output.weight", &[experts, e], Initial::Normal { std: by_e }),
        spec("experts.output.bias", &[experts], Initial::Constant(0.0)),
    ];
    gate.into_iter().filter(|_| architecture.gated).chain(experts).collect()
}

/// One per sparse table.
pub(crate) fn embedding_specs(architecture: &Architecture, std: f64) -> Vec<ParameterSpec> {
    let spec = |table: &super::SparseTable| {
        let name = format!("embeddings.{}.weight", table.name);
        ParameterSpec::new(name, &[table.rows, table.dim], Initial::Normal { std })
    };
    architecture.sparse.iter().map(spec).collect()
}

/// Where values come from.
pub(crate) enum Source<'a> {
    Seed(u64),
    /// Embeddings and projection of these tensors, all else drawn.
    Backbone {
        tensors: &'a mut TensorMap,
        seed: u64,
    },
    /// Named `prefix` + the parameter's name.
    Tensors {
        tensors: &'a mut TensorMap,
        prefix: &'a str,
    },
}

impl Source<'_> {
    /// None when the tensors do not fit, which they remember.
    pub(crate) fn values(&mut self, spec: &ParameterSpec, dtype: Dtype) -> Option<Vec<f64>> {
        match self {
            Source::Backbone { tensors, .. } if spec.is_backbone() => {
                tensors.take(&spec.name, &[Dtype::F32, Dtype::F64], &spec.sizes())?.to_f64()
            }
            Source::Seed(seed) | Source::Backbone { seed, .. } => {
                Some(draw(*seed, &spec.name, spec.elements(), spec.initial))
            }
            Source::Tensors { tensors, prefix } => {
                tensors.take(&format!("{prefix}{}", spec.name), &[dtype], &spec.sizes())?.to_f64()
            }
        }
    }
}

/// Parameters that one optimizer steps together: views of one flat buffer, so that a step is a
/// handful of operations however many parameters there are.
pub(crate) struct ParameterGroup {
    specs: Vec<ParameterSpec>,
    /// All values, in the order of `specs`.
    flat: Tensor,
    /// Leaves of the graph, sharing the memory of `flat`; three-dimensional ones have their first
    /// two dimensions joined.
    leaves: Vec<Tensor>,
}

impl ParameterGroup {
    pub(crate) fn load(
        specs: Vec<ParameterSpec>,
        source: &mut Source,
        dtype: Dtype,
        device: Device,
    ) -> Option<ParameterGroup> {
        // All of them are looked at before giving up, so that every fault is named.
        let values: Vec<_> = specs.iter().map(|spec| source.values(spec, dtype)).collect();
        let values: Vec<f64> = values.into_iter().collect::<Option<Vec<_>>>()?.concat();
        let flat = Tensor::from_slice(&values).to_kind(kind_of(dtype)).to_device(device);
        let mut offset = 0;
        let leaf = |spec: &ParameterSpec| {
            let part = flat.narrow(0, offset, spec.elements() as i64);
            offset += spec.elements() as i64;
            part.view(joined_shape(&spec.shape).as_slice()).detach().set_requires_grad(true)
        };
        let leaves = specs.iter().map(leaf).collect();
        Some(ParameterGroup { specs, flat, leaves })
    }

    pub(crate) fn leaves(&self) -> &[Tensor] {
        &self.leaves
    }

    pub(crate) fn zeros(&self) -> Tensor {
        self.flat.zeros_like()
    }

    /// Adds `change` [elements] to all parameters at once.
    pub(crate) fn add(&mut self, change: &Tensor) {
        no_grad(|| {
            let _ = self.flat.g_add_(change);
        });
    }

    /// Parts of `flat` [elements], under the names of the parameters that they belong to.
    pub(crate) fn split(&self, flat: &Tensor) -> Vec<HostTensor> {
        let mut offset = 0;
        let part = |spec: &ParameterSpec| {
            let part = flat.narrow(0, offset, spec.elements() as i64);
            offset += spec.elements() as i64;
            host_tensor(spec.name.clone(), spec.shape.clone(), &part)
        };
        self.specs.iter().map(part).collect()
    }

    pub(crate) fn save(&self, prefix: &str) -> Vec<HostTensor> {
        let mut tensors = self.split(&self.flat);
        tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, prefix));
        tensors
    }
}

fn joined_shape(shape: &[usize]) -> Vec<i64> {
    match shape {
        [experts, rows, columns] => vec![(experts * rows) as i64, *columns as i64],
        shape => shape.iter().map(|&size| size as i64).collect(),
    }
}

pub(crate) fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::U8 => Kind::Uint8,
    }
}

/// A copy of a floating-point tensor on the host.
pub(crate) fn host_tensor(name: impl Into<String>, shape: Vec<usize>, tensor: &Tensor) -> HostTensor {
    let dtype = if tensor.kind() == Kind::Double { Dtype::F64 } else { Dtype::F32 };
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut data = vec![0_u8; tensor.numel() * dtype.size()];
    tensor.copy_data_u8(&mut data, tensor.numel());
    HostTensor { name: name.into(), dtype, shape, data: data.into() }
}
