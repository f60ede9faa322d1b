//! From the device to the host.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

/// Brings many small results to the host in one transfer. On a GPU that waits for all that was
/// enqueued before it.
#[derive(Default)]
pub(super) struct Readback {
    parts: Vec<Tensor>,
    elements: usize,
}

impl Readback {
    /// The elements of one tensor.
    pub(super) fn of(tensor: &Tensor) -> Vec<f64> {
        let mut readback = Readback::default();
        readback.add(tensor);
        readback.fetch()
    }

    /// Adds a tensor of any shape; where its elements will be among those fetched.
    pub(super) fn add(&mut self, tensor: &Tensor) -> Range<usize> {
        let start = self.elements;
        self.elements += tensor.numel();
        self.parts.push(tensor.detach().reshape(-1));
        start..self.elements
    }

    /// The elements of all, in the order in which they were added.
    pub(super) fn fetch(self) -> Vec<f64> {
        #[cfg(test)]
        READS.set(READS.get() + 1);
        let mut values = vec![0.0; self.elements];
        // Tensors of one kind are joined by one kernel, those of several by one each.
        let runs = self.parts.chunk_by(|left, right| left.kind() == right.kind());
        let runs: Vec<Tensor> = runs.map(|run| Tensor::cat(run, 0).to_kind(Kind::Double)).collect();
        if !runs.is_empty() {
            let joined = Tensor::cat(&runs, 0).to_device(Device::Cpu);
            joined.copy_data(&mut values, self.elements);
        }
        values
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread has fetched.
    pub(super) static READS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_any_kind_and_shape_come_back_where_they_were_said_to_lie() {
        let mut readback = Readback::default();
        let of_f32 = readback.add(&Tensor::from_slice(&[1.5_f32, 2.5, 3.5, 4.5]).view([2, 2]));
        let nothing = readback.add(&Tensor::from_slice::<f32>(&[]));
        let exact = readback.add(&Tensor::from(0.1_f64));
        let whole = readback.add(&Tensor::from_slice(&[7_i64]));
        let values = readback.fetch();
        assert_eq!(values[of_f32], [1.5, 2.5, 3.5, 4.5]);
        assert!(values[nothing].is_empty());
        assert_eq!((&values[exact], &values[whole]), (&[0.1][..], &[7.0][..]));
        assert!(Readback::default().fetch().is_empty());
    }
}
