//! Which held record expires next.

use std::collections::BTreeMap;

/// Deadlines are sorted only within the stretch of time that is expiring.
const STRETCH_MS: i64 = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub at_ms: i64,
    pub offset: i64,
    pub slot: u32,
}

/// A queue by time, made for deadlines that come almost in order.
///
/// A deadline is not withdrawn when its record is let go: the reader compares the offset.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// The stretch that is expiring, latest first.
    current: Vec<Due>,
    current_stretch: i64,
    later: BTreeMap<i64, Vec<Due>>,
    len: usize,
}

impl Deadlines {
    pub fn new() -> Deadlines {
        Deadlines { current: Vec::new(), current_stretch: i64::MIN, later: BTreeMap::new(), len: 0 }
    }

    /// Deadlines queued, those of records that were let go included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn push(&mut self, due: Due) {
        let stretch = due.at_ms.div_euclid(STRETCH_MS);
        if stretch <= self.current_stretch {
            let place = self.current.partition_point(|other| *other > due);
            self.current.insert(place, due);
        } else {
            self.later.entry(stretch).or_default().push(due);
        }
        self.len += 1;
    }

    /// Takes the earliest deadline that lies before `now_ms`.
    pub fn pop_before(&mut self, now_ms: i64) -> Option<Due> {
        if self.current.is_empty() {
            let first = self.later.first_entry()?;
            if *first.key() > now_ms.div_euclid(STRETCH_MS) {
                return None;
            }
            self.current_stretch = *first.key();
            self.current = first.remove();
            self.current.sort_unstable_by(|a, b| b.cmp(a));
        }
        let due = self.current.pop_if(|due| due.at_ms < now_ms)?;
        self.len -= 1;
        Some(due)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Due) -> bool) {
        self.current.retain(&mut keep);
        self.later.retain(|_, stretch| {
            stretch.retain(&mut keep);
            !stretch.is_empty()
        });
        self.len = self.current.len() + self.later.values().map(Vec::len).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn deadlines_come_in_order_and_never_early(
            steps in prop::collection::vec((0i64..20_000, 0i64..20_000), 1..300),
        ) {
            let mut deadlines = Deadlines::new();
            let mut expected = Vec::new();
            for (offset, (at_ms, now_ms)) in (0..).zip(steps) {
                let due = Due { at_ms, offset, slot: 0 };
                deadlines.push(due);
                expected.push(due);
                expected.sort_unstable();
                while let Some(due) = deadlines.pop_before(now_ms) {
                    prop_assert_eq!(due, expected.remove(0));
                    prop_assert!(due.at_ms < now_ms);
                }
                prop_assert!(expected.first().is_none_or(|due| due.at_ms >= now_ms));
                prop_assert_eq!(deadlines.len(), expected.len());
            }
        }
    }

    #[test]
    fn what_is_not_retained_never_comes() {
        let mut deadlines = Deadlines::new();
        for offset in 0..10 {
            deadlines.push(Due { at_ms: offset * 500, offset, slot: 0 });
        }
        deadlines.pop_before(1);
        deadlines.retain(|due| due.offset % 2 == 0);
        let rest: Vec<_> =
            std::iter::from_fn(|| deadlines.pop_before(i64::MAX)).map(|due| due.offset).collect();
        assert_eq!(rest, [2, 4, 6, 8]);
        assert_eq!(deadlines.len(), 0);
    }
}
