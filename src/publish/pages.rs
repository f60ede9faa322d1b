//! Tensors to pages and back. Pure.
//!
//! A page is at most `publish.page_bytes` of one tensor and one record of the page topic. Pages are
//! known by their SHA-256: one that a kept version has written already is referred to, not written
//! again, whatever the tensor or version it came from.

use std::collections::HashMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::contract::v1;
use crate::model::HostTensor;

pub type Sha = [u8; 32];

/// Why the bytes at hand are not the tensor that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PageError {
    #[error("tensor '{tensor}': the page at offset {offset} is missing")]
    Missing { tensor: String, offset: i64 },
    #[error("tensor '{tensor}': the page at offset {offset} has {found} bytes, the manifest says {expected}")]
    Length { tensor: String, offset: i64, found: u64, expected: u64 },
    #[error("tensor '{tensor}': the SHA-256 of the page at offset {offset} is not the manifest's")]
    PageDigest { tensor: String, offset: i64 },
    #[error("tensor '{tensor}': its SHA-256 is not the manifest's")]
    TensorDigest { tensor: String },
    #[error("tensor '{tensor}' has the unknown dtype '{dtype}'")]
    Dtype { tensor: String, dtype: String },
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

/// Where pages with given contents lie in the page topic.
#[derive(Debug, Clone, Default)]
pub struct KnownPages(HashMap<Sha, i64>);

impl KnownPages {
    /// The pages of `manifests` that lie at `horizon` or above; of equal pages the newest.
    pub fn of<'a>(manifests: impl IntoIterator<Item = &'a v1::Manifest>, horizon: i64) -> Self {
        let mut known = HashMap::new();
        for page in
            manifests.into_iter().flat_map(|manifest| &manifest.tensors).flat_map(|tensor| &tensor.pages)
        {
            if let (Ok(sha), true) = (Sha::try_from(page.sha256.as_ref()), page.offset >= horizon) {
                let offset = known.entry(sha).or_insert(page.offset);
                *offset = page.offset.max(*offset);
            }
        }
        Self(known)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Written(i64),
    ToWrite(usize),
}

/// Tensors cut into pages, before the new ones have offsets.
#[derive(Debug, Clone, Default)]
pub struct PagePlan {
    tensors: Vec<(v1::Tensor, Vec<Place>)>,
    /// Contents of the pages to write, in the order in which [`PagePlan::placed`] expects offsets.
    pub writes: Vec<Bytes>,
    /// Pages, and their bytes, that need not be written.
    pub pages_reused: u64,
    pub bytes_reused: u64,
    places: HashMap<Sha, Place>,
}

impl PagePlan {
    /// Cuts `tensors` (ordered by name in the manifest) into pages of at most `page_bytes`.
    pub fn new(tensors: &[HostTensor], page_bytes: usize, known: &KnownPages) -> Self {
        let mut plan = Self::default();
        for (sha, offset) in &known.0 {
            plan.places.insert(*sha, Place::Written(*offset));
        }
        let mut ordered: Vec<&HostTensor> = tensors.iter().collect();
        ordered.sort_by(|a, b| a.name.cmp(&b.name));
        for tensor in ordered {
            plan.add_tensor(tensor, page_bytes);
        }
        plan
    }

    fn add_tensor(&mut self, tensor: &HostTensor, page_bytes: usize) {
        let mut pages = Vec::new();
        let mut places = Vec::new();
        let mut start = 0;
        while start < tensor.data.len() {
            let end = tensor.data.len().min(start.saturating_add(page_bytes.max(1)));
            let bytes = tensor.data.slice(start..end);
            let sha = sha256(&bytes);
            pages.push(v1::Page {
                offset: -1,
                length: bytes.len() as u64,
                sha256: Bytes::copy_from_slice(&sha),
            });
            places.push(self.place(sha, bytes));
            start = end;
        }
        let described = v1::Tensor {
            name: tensor.name.clone(),
            dtype: tensor.dtype.as_str().to_owned(),
            shape: tensor.shape.iter().map(|&size| size as u64).collect(),
            sha256: Bytes::copy_from_slice(&sha256(&tensor.data)),
            pages,
        };
        self.tensors.push((described, places));
    }

    fn place(&mut self, sha: Sha, bytes: Bytes) -> Place {
        if let Some(&place) = self.places.get(&sha) {
            self.pages_reused += 1;
            self.bytes_reused += bytes.len() as u64;
            return place;
        }
        let place = Place::ToWrite(self.writes.len());
        self.writes.push(bytes);
        self.places.insert(sha, place);
        place
    }

    /// Where the page with this content will lie, writing it if no other place is known.
    fn place_or_write(&mut self, sha: Sha, bytes: impl FnOnce() -> Option<Bytes>) -> Option<Place> {
        match self.places.get(&sha) {
            Some(&place) => Some(place),
            None => bytes().map(|bytes| self.place(sha, bytes)),
        }
    }

    /// The pages of `manifest` below `horizon` that this plan does not place yet, with their
    /// tensors' names.
    pub fn unplaced<'a>(&self, manifest: &'a v1::Manifest, horizon: i64) -> Vec<(&'a str, &'a v1::Page)> {
        let pages = manifest
            .tensors
            .iter()
            .flat_map(|tensor| tensor.pages.iter().map(|page| (tensor.name.as_str(), page)));
        pages
            .filter(|(_, page)| page.offset < horizon && !self.places.contains_key(page.sha256.as_ref()))
            .collect()
    }

    /// Plans an older version's pages below `horizon` to lie where this plan puts them; `contents`
    /// gives the bytes of those that it does not place yet ([`PagePlan::unplaced`]).
    pub fn relocate(
        &mut self,
        manifest: &v1::Manifest,
        horizon: i64,
        contents: &HashMap<Sha, Bytes>,
    ) -> Result<Relocation, PageError> {
        let mut tensors = Vec::with_capacity(manifest.tensors.len());
        for tensor in &manifest.tensors {
            let mut places = Vec::with_capacity(tensor.pages.len());
            for page in &tensor.pages {
                let missing = || PageError::Missing { tensor: tensor.name.clone(), offset: page.offset };
                let sha = Sha::try_from(page.sha256.as_ref()).map_err(|_| missing())?;
                let place = if page.offset >= horizon {
                    Place::Written(page.offset)
                } else {
                    self.place_or_write(sha, || contents.get(&sha).cloned()).ok_or_else(missing)?
                };
                places.push(place);
            }
            tensors.push((tensor.clone(), places));
        }
        Ok(Relocation { manifest: manifest.clone(), tensors })
    }

    /// The manifest's tensors, once `offsets[i]` is where `writes[i]` was delivered.
    pub fn placed(&self, offsets: &[i64]) -> Vec<v1::Tensor> {
        placed(&self.tensors, offsets)
    }
}

/// An older version whose pages move: the same digests at new offsets.
#[derive(Debug, Clone)]
pub struct Relocation {
    manifest: v1::Manifest,
    tensors: Vec<(v1::Tensor, Vec<Place>)>,
}

impl Relocation {
    /// The older version's manifest, once `offsets[i]` is where the plan's `writes[i]` was delivered.
    pub fn placed(&self, offsets: &[i64]) -> v1::Manifest {
        v1::Manifest { tensors: placed(&self.tensors, offsets), ..self.manifest.clone() }
    }
}

fn placed(tensors: &[(v1::Tensor, Vec<Place>)], offsets: &[i64]) -> Vec<v1::Tensor> {
    let at = |tensor: &v1::Tensor, places: &[Place]| {
        let mut tensor = tensor.clone();
        for (page, place) in tensor.pages.iter_mut().zip(places) {
            page.offset = match *place {
                Place::Written(offset) => offset,
                Place::ToWrite(index) => offsets[index],
            };
        }
        tensor
    };
    tensors.iter().map(|(tensor, places)| at(tensor, places)).collect()
}

/// The digest of `bytes`, if they are the page that a manifest names.
pub fn verify_page(tensor: &str, page: &v1::Page, bytes: &[u8]) -> Result<Sha, PageError> {
    verify_length(tensor, page, bytes)?;
    let sha = sha256(bytes);
    if sha[..] != page.sha256[..] {
        return Err(PageError::PageDigest { tensor: tensor.to_owned(), offset: page.offset });
    }
    Ok(sha)
}

/// Whether `bytes` are as many as the page that a manifest names has.
pub fn verify_length(tensor: &str, page: &v1::Page, bytes: &[u8]) -> Result<(), PageError> {
    let (found, expected) = (bytes.len() as u64, page.length);
    if found != expected {
        return Err(PageError::Length { tensor: tensor.to_owned(), offset: page.offset, found, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::paged::{PagedTensor, Verified};
    use super::*;
    use crate::model::Dtype;

    fn tensor(name: &str, data: Vec<u8>) -> HostTensor {
        HostTensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![data.len()], data: data.into() }
    }

    /// A version whose pages lie at offsets from `first`, with the records of its page topic.
    fn publish(
        tensors: &[HostTensor],
        known: &KnownPages,
        first: i64,
    ) -> (v1::Manifest, HashMap<i64, Bytes>) {
        let plan = PagePlan::new(tensors, 4, known);
        let offsets: Vec<i64> = (first..).take(plan.writes.len()).collect();
        let manifest = v1::Manifest { tensors: plan.placed(&offsets), ..v1::Manifest::default() };
        (manifest, offsets.into_iter().zip(plan.writes).collect())
    }

    fn load(tensor: &v1::Tensor, log: &HashMap<i64, Bytes>) -> Result<HostTensor, PageError> {
        let paged = PagedTensor::new(tensor, |page| log.get(&page.offset).cloned())?;
        let manifest = v1::Manifest { tensors: vec![tensor.clone()], ..v1::Manifest::default() };
        Verified::default().next(&manifest, std::slice::from_ref(&paged))?;
        Ok(paged.join())
    }

    fn two_tensors() -> Vec<HostTensor> {
        vec![tensor("b", (0..10).collect()), tensor("a", vec![9; 3])]
    }

    #[test]
    fn pages_put_together_are_the_tensors_that_were_cut() {
        let mut tensors = two_tensors();
        tensors.push(tensor("empty", vec![]));
        let (manifest, log) = publish(&tensors, &KnownPages::default(), 100);
        assert!(log.values().all(|page| page.len() <= 4));
        let loaded: Vec<_> =
            manifest.tensors.iter().map(|tensor| load(tensor, &log).expect("whole")).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(loaded, tensors);
    }

    #[test]
    fn only_changed_pages_are_written_and_unchanged_ones_keep_their_offsets() {
        let (before, mut log) = publish(&two_tensors(), &KnownPages::default(), 100);
        let mut changed = two_tensors();
        changed[0] = tensor("b", vec![0, 1, 2, 3, 4, 5, 6, 99, 8, 9]);
        let (after, written) = publish(&changed, &KnownPages::of([&before], 0), 200);
        assert_eq!(written.len(), 1, "one page changed");
        let offsets = |manifest: &v1::Manifest| -> Vec<i64> {
            manifest.tensors.iter().flat_map(|tensor| &tensor.pages).map(|page| page.offset).collect()
        };
        assert_eq!(offsets(&before), [100, 101, 102, 103]);
        assert_eq!(offsets(&after), [100, 101, 200, 103]);
        log.extend(written);
        assert_eq!(load(&after.tensors[1], &log).expect("whole"), changed[0]);
    }

    #[test]
    fn equal_pages_are_written_once() {
        let twins = [tensor("model", vec![1, 2, 3]), tensor("twin", vec![1, 2, 3])];
        let (manifest, log) = publish(&twins, &KnownPages::default(), 0);
        assert_eq!(log.len(), 1);
        assert_eq!(manifest.tensors[0].pages, manifest.tensors[1].pages);
    }

    #[test]
    fn invariant_8_a_page_that_is_missing_flipped_or_short_is_never_loaded() {
        let (manifest, log) = publish(&two_tensors(), &KnownPages::default(), 0);
        let b = &manifest.tensors[1];
        let mut flipped = log.clone();
        flipped.insert(1, Bytes::from_static(&[0, 1, 2, 7]));
        assert_eq!(load(b, &flipped), Err(PageError::PageDigest { tensor: "b".to_owned(), offset: 1 }));
        let mut short = log.clone();
        short.insert(1, Bytes::from_static(&[0, 1, 2]));
        let expected = PageError::Length { tensor: "b".to_owned(), offset: 1, found: 3, expected: 4 };
        assert_eq!(load(b, &short), Err(expected));
        let mut missing = log.clone();
        missing.remove(&2);
        assert_eq!(load(b, &missing), Err(PageError::Missing { tensor: "b".to_owned(), offset: 2 }));
    }

    #[test]
    fn invariant_8_whole_pages_in_the_wrong_order_are_not_the_tensor() {
        let (manifest, log) = publish(&two_tensors(), &KnownPages::default(), 0);
        let mut swapped = manifest.tensors[1].clone();
        swapped.pages.swap(0, 1);
        assert_eq!(load(&swapped, &log), Err(PageError::TensorDigest { tensor: "b".to_owned() }));
    }

    #[test]
    fn pages_below_the_horizon_are_written_again_with_the_same_digests() {
        let old = [tensor("a", vec![1; 4]), tensor("b", vec![2; 4])];
        let (kept, mut log) = publish(&old, &KnownPages::default(), 10);
        let horizon = 11;
        // The new version still has the page of `a`, so that one is at hand; that of `b` is fetched.
        let mut plan = PagePlan::new(&old[..1], 4, &KnownPages::of([&kept], horizon));
        assert_eq!(plan.unplaced(&kept, 12).len(), 0, "b lies at 11, a is written by the plan");
        let moved = plan.relocate(&kept, 12, &HashMap::new()).expect("nothing to fetch");
        let offsets: Vec<i64> = (50..).take(plan.writes.len()).collect();
        log.extend(offsets.iter().copied().zip(plan.writes.iter().cloned()));
        let manifest = moved.placed(&offsets);
        assert_eq!(manifest.tensors[0].pages[0].offset, 50);
        assert_eq!(manifest.tensors[0].sha256, kept.tensors[0].sha256);
        assert_eq!(load(&manifest.tensors[0], &log).expect("whole"), old[0]);
        assert_eq!(load(&manifest.tensors[1], &log).expect("whole"), old[1]);
    }

    #[test]
    fn a_page_that_no_new_version_has_is_moved_with_the_bytes_that_were_fetched() {
        let old = [tensor("a", vec![1; 4])];
        let (kept, log) = publish(&old, &KnownPages::default(), 10);
        let mut plan = PagePlan::new(&[tensor("a", vec![3; 4])], 4, &KnownPages::of([&kept], 20));
        let unplaced = plan.unplaced(&kept, 20);
        assert_eq!(unplaced.len(), 1);
        assert!(plan.clone().relocate(&kept, 20, &HashMap::new()).is_err(), "its bytes were not given");
        let contents = HashMap::from([(sha256(&log[&10]), log[&10].clone())]);
        let moved = plan.relocate(&kept, 20, &contents).expect("its bytes were given");
        assert_eq!(moved.placed(&[30, 31]).tensors[0].pages[0].offset, 31);
    }
}
