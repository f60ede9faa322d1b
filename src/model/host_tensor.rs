//! Tensors outside libtorch: what pages, files and checkpoints carry.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Element types, spelled as safetensors spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Two's complement: counters and positions of the training state.
    I64,
    /// Bytes that mean something of their own, as a generator's state does.
    U8,
}

impl Dtype {
    /// The safetensors spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
            Dtype::I64 => "I64",
            Dtype::U8 => "U8",
        }
    }

    /// The inverse of [`Dtype::as_str`].
    pub fn parse(name: &str) -> Option<Dtype> {
        [Dtype::F32, Dtype::F64, Dtype::I64, Dtype::U8].into_iter().find(|dtype| dtype.as_str() == name)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::U8 => 1,
        }
    }
}

/// One named tensor: little-endian, row-major, `shape.product() * dtype.size()` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTensor {
    /// The safetensors name; training state begins with `training.`.
    pub name: String,
    /// Of every element.
    pub dtype: Dtype,
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Cloning shares them.
    pub data: Bytes,
}

impl HostTensor {
    /// An F64 tensor; `values` are as many as `shape` says.
    pub fn from_f64(name: impl Into<String>, shape: Vec<usize>, values: &[f64]) -> HostTensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        HostTensor { name: name.into(), dtype: Dtype::F64, shape, data }
    }

    /// An F32 tensor; `values` are as many as `shape` says.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> HostTensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        HostTensor { name: name.into(), dtype: Dtype::F32, shape, data }
    }

    /// An I64 vector.
    pub fn from_i64(name: impl Into<String>, values: &[i64]) -> HostTensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        HostTensor { name: name.into(), dtype: Dtype::I64, shape: vec![values.len()], data }
    }

    /// A U8 vector.
    pub fn from_u8(name: impl Into<String>, values: Vec<u8>) -> HostTensor {
        HostTensor { name: name.into(), dtype: Dtype::U8, shape: vec![values.len()], data: values.into() }
    }

    /// The elements as 64-bit floats; exact for F32 and F64. None for the integer types.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        match self.dtype {
            Dtype::F32 => Some(self.words::<4>().map(|word| f32::from_le_bytes(word).into()).collect()),
            Dtype::F64 => Some(self.words::<8>().map(f64::from_le_bytes).collect()),
            Dtype::I64 | Dtype::U8 => None,
        }
    }

    /// The elements of an I64 tensor.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        (self.dtype == Dtype::I64).then(|| self.words::<8>().map(i64::from_le_bytes).collect())
    }

    /// Whether every element is a number: always so for the integer types.
    pub fn is_finite(&self) -> bool {
        match self.dtype {
            Dtype::F32 => self.words::<4>().all(|word| f32::from_le_bytes(word).is_finite()),
            Dtype::F64 => self.words::<8>().all(|word| f64::from_le_bytes(word).is_finite()),
            Dtype::I64 | Dtype::U8 => true,
        }
    }

    /// Elements according to the shape; None when that overflows.
    fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
    }

    fn words<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> + '_ {
        self.data.as_chunks::<N>().0.iter().copied()
    }
}

/// Tensors do not fit the model that is to be loaded; lists every fault at once.
#[derive(Debug, Default, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tensors do not fit this model: {}", self.faults())]
pub struct LoadError {
    /// Names that the model has and the tensors have not.
    pub missing: Vec<String>,
    /// Names that the tensors have and the model has not.
    pub extra: Vec<String>,
    /// One sentence per tensor: its name, what it is, what is expected.
    pub misshapen: Vec<String>,
}

impl LoadError {
    fn faults(&self) -> String {
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            parts.push(format!("missing {}", self.missing.join(", ")));
        }
        if !self.extra.is_empty() {
            parts.push(format!("not part of it {}", self.extra.join(", ")));
        }
        parts.extend(self.misshapen.iter().cloned());
        parts.join("; ")
    }
}

/// Tensors by name, taken one by one with the dtype and shape that is expected; [`finish`] refuses
/// what is left over, and reports all faults together.
///
/// [`finish`]: TensorMap::finish
pub(crate) struct TensorMap {
    tensors: BTreeMap<String, HostTensor>,
    faults: LoadError,
}

impl TensorMap {
    pub(crate) fn new(tensors: impl IntoIterator<Item = HostTensor>) -> TensorMap {
        let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        TensorMap { tensors, faults: LoadError::default() }
    }

    /// Takes `name` if its dtype is one of `dtypes` and its shape fits; None in `shape` fits any size.
    pub(crate) fn take(
        &mut self,
        name: &str,
        dtypes: &[Dtype],
        shape: &[Option<usize>],
    ) -> Option<HostTensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            self.faults.missing.push(name.to_owned());
            return None;
        };
        let fits = tensor.shape.len() == shape.len()
            && tensor.shape.iter().zip(shape).all(|(size, want)| want.is_none_or(|want| want == *size));
        let whole = tensor.elements().and_then(|n| n.checked_mul(tensor.dtype.size()));
        if !fits || !dtypes.contains(&tensor.dtype) || whole != Some(tensor.data.len()) {
            let dtypes: Vec<_> = dtypes.iter().map(|dtype| dtype.as_str()).collect();
            let sizes = shape.iter().map(|size| size.map_or("any".into(), |size| size.to_string()));
            self.fault(format!(
                "{name} is {} {:?} of {} bytes, expected {} [{}]",
                tensor.dtype.as_str(),
                tensor.shape,
                tensor.data.len(),
                dtypes.join(" or "),
                sizes.collect::<Vec<_>>().join(", "),
            ));
            return None;
        }
        Some(tensor)
    }

    /// [`take`](Self::take) of an I64 vector.
    pub(crate) fn take_i64(&mut self, name: &str, length: Option<usize>) -> Option<Vec<i64>> {
        self.take(name, &[Dtype::I64], &[length])?.to_i64()
    }

    /// [`take`](Self::take) of bytes.
    pub(crate) fn take_u8(&mut self, name: &str, length: Option<usize>) -> Option<Bytes> {
        Some(self.take(name, &[Dtype::U8], &[length])?.data)
    }

    /// Whether `name` is there and was not taken yet: for what older checkpoints do not have.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The floating-point type of the parameters: that of `projection.weight`.
    pub(crate) fn precision(&self) -> Dtype {
        let dtype = self.tensors.get("projection.weight").map(|tensor| tensor.dtype);
        dtype.filter(|dtype| *dtype == Dtype::F64).unwrap_or(Dtype::F32)
    }

    /// Records a fault in a tensor's contents.
    pub(crate) fn fault(&mut self, fault: String) {
        self.faults.misshapen.push(fault);
    }

    pub(crate) fn finish(mut self) -> Result<(), LoadError> {
        self.faults.extra = self.tensors.into_keys().collect();
        if self.faults == LoadError::default() { Ok(()) } else { Err(self.faults) }
    }
}
