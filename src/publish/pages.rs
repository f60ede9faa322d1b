//! Tensors to pages and back. Pure.
//!
//! A page is at most `publish.page_bytes` of one tensor and one record of the page topic. Pages are
//! known by their SHA-256: one that a kept version has written already is referred to, not written
//! again, whatever the tensor or version it came from.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::contract::v1;
use crate::model::{Dtype, HostTensor};

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
    /// Pages that need not be written.
    pub unchanged: usize,
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
            self.unchanged += 1;
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

    /// The pages of `manifest` below `horizon` that this plan does not place yet.
    pub fn unplaced<'a>(&self, manifest: &'a v1::Manifest, horizon: i64) -> Vec<&'a v1::Page> {
        let pages = manifest.tensors.iter().flat_map(|tensor| &tensor.pages);
        pages
            .filter(|page| page.offset < horizon)
            .filter(|page| {
                Sha::try_from(page.sha256.as_ref()).is_ok_and(|sha| !self.places.contains_key(&sha))
            })
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

/// Whether `bytes` are the page that a manifest names.
pub fn verify_page(tensor: &str, page: &v1::Page, bytes: &[u8]) -> Result<(), PageError> {
    if bytes.len() as u64 != page.length {
        return Err(PageError::Length {
            tensor: tensor.to_owned(),
            offset: page.offset,
            found: bytes.len() as u64,
            expected: page.length,
        });
    }
    if sha256(bytes)[..] != page.sha256[..] {
        return Err(PageError::PageDigest { tensor: tensor.to_owned(), offset: page.offset });
    }
    Ok(())
}

/// Puts a tensor together from the bytes that `page` finds, checking every length and digest
/// (invariant 8). The manifest has passed [`super::manifest::validate`].
pub fn reassemble(
    tensor: &v1::Tensor,
    mut page: impl FnMut(&v1::Page) -> Option<Bytes>,
) -> Result<HostTensor, PageError> {
    let mut data = BytesMut::new();
    for described in &tensor.pages {
        let bytes = page(described)
            .ok_or_else(|| PageError::Missing { tensor: tensor.name.clone(), offset: described.offset })?;
        verify_page(&tensor.name, described, &bytes)?;
        data.extend_from_slice(&bytes);
    }
    if sha256(&data)[..] != tensor.sha256[..] {
        return Err(PageError::TensorDigest { tensor: tensor.name.clone() });
    }
    let dtype = Dtype::parse(&tensor.dtype)
        .ok_or_else(|| PageError::Dtype { tensor: tensor.name.clone(), dtype: tensor.dtype.clone() })?;
    let shape = tensor.shape.iter().map(|&size| size as usize).collect();
    Ok(HostTensor { name: tensor.name.clone(), dtype, shape, data: data.freeze() })
}
