//! From logged features to the buffers that the forward pass reads.

use tch::{Device, Kind, Tensor};

use crate::contract::v1::Features;

use super::{Architecture, DropReason, Scaling};

/// Whether features can be used by this model.
///
/// # Errors
/// The first fault that applies.
pub(crate) fn check_features<'a>(
    architecture: &Architecture,
    features: Option<&'a Features>,
) -> Result<&'a Features, DropReason> {
    let features = features.ok_or(DropReason::MissingFeatures)?;
    if features.schema_version != architecture.schema_version {
        return Err(DropReason::SchemaVersion);
    }
    if features.dense.len() != architecture.dense.len() {
        return Err(DropReason::DenseLength);
    }
    if !features.dense.iter().all(|value| value.is_finite()) {
        return Err(DropReason::NonFiniteFeature);
    }
    Ok(features)
}

/// n views on the host, each checked with [`check_features`].
pub(crate) struct EncodedViews {
    views: usize,
    /// [n, D] normalized
    dense: Vec<f64>,
    /// Per sparse table.
    tables: Vec<PooledRows>,
}

/// The rows of one table that each of n views averages.
#[derive(Default)]
struct PooledRows {
    /// Row numbers of all views, one view after the other.
    rows: Vec<i64>,
    /// [n] where each view's rows begin.
    offsets: Vec<i64>,
}

impl EncodedViews {
    pub(crate) fn new(architecture: &Architecture, scaling: &Scaling, views: &[&Features]) -> EncodedViews {
        let dense = views.iter().flat_map(|features| scaling.apply(&features.dense)).collect();
        let pool = |table: &super::SparseTable| {
            let mut pooled = PooledRows::default();
            for features in views {
                pooled.offsets.push(pooled.rows.len() as i64);
                let ids = features.sparse.iter().filter(|sparse| sparse.field == table.field);
                pooled
                    .rows
                    .extend(ids.flat_map(|sparse| &sparse.ids).map(|id| (id % table.rows as u64) as i64));
            }
            pooled
        };
        let tables = architecture.sparse.iter().map(pool).collect();
        EncodedViews { views: views.len(), dense, tables }
    }

    /// Tensors that index whole tables.
    pub(crate) fn upload(&self, kind: Kind, device: Device) -> ViewTensors {
        let index = self.tables.iter().map(|pooled| Tensor::from_slice(&pooled.rows)).collect();
        self.tensors(index, kind, device)
    }

    /// Tensors that index the rows gathered by `touched`, which must cover these views.
    pub(crate) fn upload_touched(&self, touched: &TouchedRows, kind: Kind, device: Device) -> ViewTensors {
        let local = |(pooled, touched): (&PooledRows, &Vec<i64>)| {
            let position = |row: &i64| touched.partition_point(|other| other < row) as i64;
            Tensor::from_slice(&pooled.rows.iter().map(position).collect::<Vec<_>>())
        };
        let index = self.tables.iter().zip(&touched.rows).map(local).collect();
        self.tensors(index, kind, device)
    }

    fn tensors(&self, index: Vec<Tensor>, kind: Kind, device: Device) -> ViewTensors {
        let width = self.dense.len().checked_div(self.views).unwrap_or(0);
        let dense = Tensor::from_slice(&self.dense).view([self.views as i64, width as i64]);
        let pooled = |(index, pooled): (Tensor, &PooledRows)| {
            let offsets = Tensor::from_slice(&pooled.offsets);
            (upload(&index, Kind::Int64, device), upload(&offsets, Kind::Int64, device))
        };
        let tables = index.into_iter().zip(&self.tables).map(pooled).collect();
        ViewTensors { dense: upload(&dense, kind, device), tables }
    }
}

/// A tensor of the host on the device. To a GPU it goes through pinned memory, and nobody waits until
/// it is there: what is queued behind it does.
pub(crate) fn upload(tensor: &Tensor, kind: Kind, device: Device) -> Tensor {
    let tensor = tensor.to_kind(kind);
    match device {
        Device::Cpu => tensor,
        // Not `pin_memory`: of the device, which tch names, it complains in a line on stderr each time.
        gpu => tensor.internal_pin_memory(gpu).to_device_(gpu, kind, true, false),
    }
}

/// n views on the device.
pub(crate) struct ViewTensors {
    /// [n, D]
    dense: Tensor,
    /// Per sparse table: row numbers of all views; [n] where each view's begin.
    tables: Vec<(Tensor, Tensor)>,
}

impl ViewTensors {
    /// x [n, k]: the mean of each view's rows per table (zeros where it has none), then dense.
    pub(crate) fn input(&self, tables: &[Tensor]) -> Tensor {
        const MEAN: i64 = 1;
        let pool = |(table, (rows, offsets)): (&Tensor, &(Tensor, Tensor))| {
            Tensor::embedding_bag(table, rows, offsets, false, MEAN, false, None::<Tensor>, false).0
        };
        let mut parts: Vec<Tensor> = tables.iter().zip(&self.tables).map(pool).collect();
        parts.push(self.dense.shallow_clone());
        Tensor::cat(&parts, 1)
    }
}

/// The embedding rows that some views read: the only ones that learning from them changes.
pub(crate) struct TouchedRows {
    /// Per table, ascending, without repetition, never empty.
    rows: Vec<Vec<i64>>,
}

impl TouchedRows {
    pub(crate) fn of(views: &[&EncodedViews], tables: usize) -> TouchedRows {
        let touched = |table: usize| {
            let mut rows: Vec<i64> =
                views.iter().flat_map(|views| &views.tables[table].rows).copied().collect();
            rows.sort_unstable();
            rows.dedup();
            if rows.is_empty() {
                // An empty gather has no gradient; row 0 receives an exact zero instead.
                rows.push(0);
            }
            rows
        };
        TouchedRows { rows: (0..tables).map(touched).collect() }
    }

    /// Row numbers per table, on the device.
    pub(crate) fn index(&self, device: Device) -> Vec<Tensor> {
        self.rows.iter().map(|rows| upload(&Tensor::from_slice(rows), Kind::Int64, device)).collect()
    }
}
