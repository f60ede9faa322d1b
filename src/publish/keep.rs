//! Which versions stay, and which of their pages have to move. Pure.

use std::collections::{BTreeSet, HashSet};

use crate::contract::v1;

use super::registry::Registry;

/// Pages move when the kept part of the page topic spans this many times the records that kept
/// versions need.
const SPAN_FACTOR: i64 = 4;

/// A page topic this short is left alone: moving pages in it would not free anything worth it.
const MIN_SPAN: i64 = 256;

/// The versions that stay: production, pin, the newest checkpoint that training can go on from, and
/// the last `keep_versions`.
pub fn kept(registry: &Registry, keep_versions: usize) -> BTreeSet<u64> {
    let mut kept: BTreeSet<u64> =
        registry.versions.keys().rev().take(keep_versions.max(1)).copied().collect();
    let pointers = [registry.production.as_ref(), registry.pin.as_ref()];
    kept.extend(pointers.into_iter().flatten().map(|pointer| pointer.version));
    kept.extend(registry.newest_checkpoint().map(|checkpoint| checkpoint.version));
    kept.retain(|version| registry.versions.contains_key(version));
    kept
}

/// The lowest offset of a page that one of `manifests` needs: what lies below can be deleted.
pub fn lowest_needed<'a>(manifests: impl IntoIterator<Item = &'a v1::Manifest>) -> Option<i64> {
    page_offsets(manifests).min()
}

/// Pages below the returned offset have to be written again, so that the bound of what can be
/// deleted moves on. Counted in records, since the sizes of pages nobody needs are not known.
///
/// The horizon leaves twice the needed records above it; at most as many records as are needed move,
/// and not before as many new ones were written: the cost of moving is bounded by that of publishing.
pub fn move_below<'a>(
    manifests: impl IntoIterator<Item = &'a v1::Manifest> + Clone,
    log_end: i64,
) -> Option<i64> {
    let needed: HashSet<i64> = page_offsets(manifests.clone()).collect();
    let needed_records = needed.len() as i64;
    let span = log_end - lowest_needed(manifests)?;
    (span > MIN_SPAN.max(SPAN_FACTOR * needed_records)).then(|| log_end - span / 2)
}

fn page_offsets<'a>(manifests: impl IntoIterator<Item = &'a v1::Manifest>) -> impl Iterator<Item = i64> {
    let tensors = manifests.into_iter().flat_map(|manifest| &manifest.tensors);
    tensors.flat_map(|tensor| &tensor.pages).map(|page| page.offset)
}
