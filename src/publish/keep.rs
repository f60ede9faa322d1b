//! Which versions stay, and which of their pages have to move. Pure.

use std::collections::{BTreeSet, HashSet};

use crate::contract::v1;

use super::registry::Registry;

/// Pages move when the kept part of the page topic spans this many times the records that kept
/// versions need.
const SPAN_FACTOR: i64 = 4;

/// A page topic this short is left alone: moving pages in it would not free anything worth it.
const MIN_SPAN: i64 = 256;

/// The versions that stay: production, pin, the anchors of the newest version, the newest checkpoint
/// that training can go on from, the newest whose gate passed, and the last `keep_versions`.
pub fn kept(registry: &Registry, keep_versions: usize) -> BTreeSet<u64> {
    let mut kept: BTreeSet<u64> =
        registry.versions.keys().rev().take(keep_versions.max(1)).copied().collect();
    let pointers = [registry.production.as_ref(), registry.pin.as_ref()];
    kept.extend(pointers.into_iter().flatten().map(|pointer| pointer.version));
    let newest = registry.versions.values().next_back();
    kept.extend(newest.into_iter().flat_map(|newest| &newest.anchors).map(|anchor| anchor.version));
    let checkpoints = [registry.newest_checkpoint(), registry.passed_checkpoints().next()];
    kept.extend(checkpoints.into_iter().flatten().map(|checkpoint| checkpoint.version));
    kept.retain(|version| registry.versions.contains_key(version));
    kept
}

/// The lowest offset of a page that one of `manifests` needs: what lies below can be deleted.
pub fn lowest_needed<'a>(manifests: impl IntoIterator<Item = &'a v1::Manifest>) -> Option<i64> {
    page_offsets(manifests).min()
}

/// The offset behind the highest page of `manifest`; 0 when it has none.
pub fn end(manifest: &v1::Manifest) -> i64 {
    page_offsets([manifest]).max().map_or(0, |offset| offset + 1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::registry::tests::{manifest, with_versions};
    use v1::VersionKind::{Checkpoint, Serving};

    fn with_pages(version: u64, offsets: impl IntoIterator<Item = i64>) -> v1::Manifest {
        let page = |offset| v1::Page { offset, ..v1::Page::default() };
        let tensor = v1::Tensor { pages: offsets.into_iter().map(page).collect(), ..v1::Tensor::default() };
        v1::Manifest { tensors: vec![tensor], ..manifest(version, Serving) }
    }

    #[test]
    fn production_pin_the_newest_checkpoint_and_the_last_versions_are_kept() {
        let versions: Vec<_> =
            (1..=20).map(|n| manifest(n, if n % 6 == 0 { Checkpoint } else { Serving })).collect();
        let mut registry = with_versions(&versions);
        let pointer = |version| Some(v1::VersionPointer { version, ..v1::VersionPointer::default() });
        registry.production = pointer(5);
        registry.pin = pointer(3);
        assert_eq!(kept(&registry, 1), BTreeSet::from([3, 5, 18, 20]));
        assert_eq!(kept(&registry, 3), BTreeSet::from([3, 5, 18, 19, 20]));
    }

    #[test]
    fn what_training_can_go_back_to_is_kept_and_what_versions_are_compared_with() {
        let refused = |version| v1::Manifest {
            gate: Some(v1::GateDecision { finite: true, ..v1::GateDecision::default() }),
            ..manifest(version, Checkpoint)
        };
        let mut newest = manifest(20, Serving);
        let anchor = |version| v1::GateAnchor { version, chosen_at_ms: 0 };
        newest.anchors = vec![anchor(2), anchor(4), anchor(99)];
        let checkpoints = [1, 2, 4, 6, 7].map(|version| manifest(version, Checkpoint));
        let versions = [&checkpoints[..], &[refused(8), refused(9), newest]].concat();
        assert_eq!(kept(&with_versions(&versions), 1), BTreeSet::from([2, 4, 7, 9, 20]));
    }

    #[test]
    fn a_pointer_to_a_version_that_is_gone_keeps_nothing() {
        let mut registry = with_versions(&[manifest(2, Serving)]);
        registry.pin = Some(v1::VersionPointer { version: 1, ..v1::VersionPointer::default() });
        assert_eq!(kept(&registry, 5), BTreeSet::from([2]));
    }

    #[test]
    fn what_lies_below_the_lowest_page_needed_can_go() {
        assert_eq!(lowest_needed([&with_pages(1, [9, 4]), &with_pages(2, [7, 30])]), Some(4));
        assert_eq!(lowest_needed([&with_pages(1, [])]), None);
    }

    #[test]
    fn pages_move_only_when_the_log_holds_several_times_what_is_needed() {
        let kept = [with_pages(1, 0..100), with_pages(2, 50..150)];
        assert_eq!(move_below(&kept, 600), None, "150 records are needed, 600 lie there");
        assert_eq!(move_below(&kept, 602), Some(301));
        assert_eq!(move_below(&[with_pages(1, [0])], 200), None, "not worth it");
        assert_eq!(move_below(&[with_pages(1, [])], 1000), None);
    }
}
