//! Tensors on their way from pages to files: no byte of them is copied.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::contract::v1;
use crate::model::{Dtype, HostTensor};

use super::pages::{PageError, Sha, verify_length, verify_page};

/// A tensor whose data are its pages, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagedTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub pages: Vec<Bytes>,
}

impl PagedTensor {
    /// The tensor that a manifest describes, of the bytes that `page` finds; their lengths are
    /// checked. It is not that of the manifest before [`Verified::next`] has said so. The manifest has
    /// passed [`super::manifest::validate`].
    pub fn new(described: &v1::Tensor, page: impl Fn(&v1::Page) -> Option<Bytes>) -> Result<Self, PageError> {
        let name = &described.name;
        let find = |wanted: &v1::Page| {
            let missing = || PageError::Missing { tensor: name.clone(), offset: wanted.offset };
            let bytes = page(wanted).ok_or_else(missing)?;
            verify_length(name, wanted, &bytes)?;
            Ok(bytes)
        };
        let pages = described.pages.iter().map(find).collect::<Result<_, _>>()?;
        let dtype = Dtype::parse(&described.dtype)
            .ok_or_else(|| PageError::Dtype { tensor: name.clone(), dtype: described.dtype.clone() })?;
        let shape = described.shape.iter().map(|&size| size as usize).collect();
        Ok(Self { name: name.clone(), dtype, shape, pages })
    }

    /// A tensor in one piece, cut where the manifest's pages end.
    pub fn cut(tensor: &HostTensor, pages: &[v1::Page]) -> Self {
        let mut rest = tensor.data.clone();
        let cut = |page: &v1::Page| rest.split_to(rest.len().min(page.length as usize));
        let pages = pages.iter().map(cut).collect();
        Self { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone(), pages }
    }

    /// Of all its data.
    pub fn bytes(&self) -> usize {
        self.pages.iter().map(Bytes::len).sum()
    }

    /// The same in one piece: the one copy.
    pub fn join(self) -> HostTensor {
        let mut data = BytesMut::with_capacity(self.bytes());
        self.pages.iter().for_each(|page| data.extend_from_slice(page));
        HostTensor { name: self.name, dtype: self.dtype, shape: self.shape, data: data.freeze() }
    }
}

impl From<&HostTensor> for PagedTensor {
    fn from(tensor: &HostTensor) -> Self {
        let HostTensor { name, dtype, shape, data } = tensor.clone();
        Self { name, dtype, shape, pages: vec![data] }
    }
}

/// The tensors of a version that were found to be those of its manifest.
///
/// Of the next version only that is hashed which comes behind the first page that differs: SHA-256
/// goes on from where it stood there.
#[derive(Default)]
pub struct Verified(HashMap<String, Vec<Hashed>>);

/// A page, and the digest of its tensor up to its end.
#[derive(Clone)]
struct Hashed {
    page: Bytes,
    so_far: Sha256,
}

impl Verified {
    /// Whether each tensor is the one of its name in `manifest`: by its digest, which covers all of its
    /// pages (invariant 8). Each page has been found to have its own digest.
    ///
    /// # Errors
    /// The first that is not.
    pub fn next(&self, manifest: &v1::Manifest, tensors: &[PagedTensor]) -> Result<Self, PageError> {
        let described: HashMap<&str, &v1::Tensor> =
            manifest.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut verified = HashMap::with_capacity(tensors.len());
        for tensor in tensors {
            if let Some(described) = described.get(tensor.name.as_str()) {
                verified.insert(tensor.name.clone(), self.verify(described, tensor)?);
            }
        }
        Ok(Self(verified))
    }

    fn verify(&self, described: &v1::Tensor, tensor: &PagedTensor) -> Result<Vec<Hashed>, PageError> {
        let before = self.0.get(&tensor.name).map_or(&[][..], Vec::as_slice);
        let same = before.iter().zip(&tensor.pages).take_while(|(before, page)| is_same(&before.page, page));
        let mut hashed: Vec<Hashed> = same.map(|(before, _)| before.clone()).collect();
        let mut so_far = hashed.last().map_or_else(Sha256::new, |last| last.so_far.clone());
        for page in &tensor.pages[hashed.len()..] {
            so_far.update(page);
            hashed.push(Hashed { page: page.clone(), so_far: so_far.clone() });
        }
        if Sha::from(so_far.finalize())[..] == described.sha256[..] {
            return Ok(hashed);
        }
        // Which page it is, if it is one.
        for (page, bytes) in described.pages.iter().zip(&tensor.pages) {
            verify_page(&tensor.name, page, bytes)?;
        }
        Err(PageError::TensorDigest { tensor: tensor.name.clone() })
    }
}

/// Whether two pages are the same bytes in the same place: no others can have been put there.
fn is_same(one: &Bytes, other: &Bytes) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
}

#[cfg(test)]
mod tests {
    use super::super::pages::{PagePlan, sha256};
    use super::*;
    use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

    const PAGE: usize = 8;
    const PAGES: usize = 6;

    fn whole(data: &[u8]) -> HostTensor {
        HostTensor::from_u8("table", data.to_vec())
    }

    /// The manifest of a tensor.
    fn manifest(tensor: &HostTensor) -> v1::Manifest {
        let plan = PagePlan::new(std::slice::from_ref(tensor), PAGE, &Default::default());
        let offsets: Vec<i64> = (0..).take(plan.writes.len()).collect();
        v1::Manifest { tensors: plan.placed(&offsets), ..v1::Manifest::default() }
    }

    /// The next version of a tensor in pages, that shares those that are the same.
    fn changed(before: &PagedTensor, data: &[u8]) -> PagedTensor {
        let pages = data.chunks(PAGE).enumerate().map(|(place, page)| match before.pages.get(place) {
            Some(before) if before == page => before.clone(),
            _ => Bytes::copy_from_slice(page),
        });
        PagedTensor { pages: pages.collect(), shape: vec![data.len()], ..before.clone() }
    }

    #[test]
    fn a_tensor_is_the_manifests_whatever_changed_since_the_version_before() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut data = vec![0; PAGES * PAGE];
        let mut paged = PagedTensor::from(&whole(&[]));
        let mut verified = Verified::default();
        for round in 0..500 {
            match round % 5 {
                0 => data.truncate(random.random_range(0..=data.len())),
                1 => data.resize(random.random_range(0..PAGES * PAGE), 7),
                _ if data.is_empty() => {}
                _ => {
                    let start = random.random_range(0..data.len());
                    let end = random.random_range(start..=data.len());
                    random.fill_bytes(&mut data[start..end]);
                }
            }
            let described = manifest(&whole(&data));
            paged = changed(&paged, &data);
            // Of another version the digest is never that of this one, whatever the pages say.
            let mut other = described.clone();
            other.tensors[0].sha256 = Bytes::copy_from_slice(&sha256(&[&data[..], &[1]].concat()));
            let refused = verified.next(&other, std::slice::from_ref(&paged)).err();
            assert_eq!(refused, Some(PageError::TensorDigest { tensor: "table".to_owned() }));
            verified = verified.next(&described, std::slice::from_ref(&paged)).expect("the manifest's");
            assert_eq!(paged.clone().join().data, data);
        }
    }

    #[test]
    fn invariant_8_a_page_that_differs_from_its_manifest_is_found_behind_pages_that_were_verified() {
        let data: Vec<u8> = (0..(PAGES * PAGE) as u8).collect();
        let first = whole(&data);
        let described = manifest(&first);
        let before = PagedTensor::cut(&first, &described.tensors[0].pages);
        let verified = Verified::default().next(&described, std::slice::from_ref(&before)).expect("whole");
        for place in 0..PAGES {
            let mut flipped = data.clone();
            flipped[place * PAGE + 3] ^= 4;
            let paged = changed(&before, &flipped);
            let error = verified.next(&described, &[paged]).err().expect("one bit of it differs");
            let offset = place as i64;
            assert_eq!(error, PageError::PageDigest { tensor: "table".to_owned(), offset });
        }
    }

    /// Shown by digests of other pages in the place of theirs: they are taken for what they say.
    #[test]
    fn only_what_comes_behind_the_first_change_is_hashed() {
        let data: Vec<u8> = (0..(PAGES * PAGE) as u8).collect();
        let [mut others, mut later] = [data.clone(), data.clone()];
        others[0] ^= 1;
        later[4 * PAGE] ^= 1;
        let first = whole(&data);
        let before = PagedTensor::cut(&first, &manifest(&first).tensors[0].pages);
        let of_others = [changed(&before, &others)];
        let mut verified = Verified::default().next(&manifest(&whole(&others)), &of_others).expect("whole");
        let hashed = verified.0.get_mut("table").expect("a tensor");
        hashed.iter_mut().zip(&before.pages).for_each(|(hashed, page)| hashed.page = page.clone());

        let [first_only, both] = [later.clone(), [&others[..4 * PAGE], &later[4 * PAGE..]].concat()];
        let later = [changed(&before, &later)];
        assert!(verified.next(&manifest(&whole(&first_only)), &later).is_err());
        assert!(verified.next(&manifest(&whole(&both)), &later).is_ok());
    }
}
