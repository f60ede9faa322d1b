//! Impressions of which there is more than one view.

use super::records::{HeldView, ViewBody, ViewState};
use super::{Needs, Window};
use crate::join::held::ImpressionKey;

/// How far apart, in windows, two records of an impression can still explain one another.
const REACH_WINDOWS: i64 = 5;

impl Window {
    /// Holds the views that may explain a record of their impression until `until_ms`.
    pub(super) fn extend(
        &mut self,
        key: &ImpressionKey<'_>,
        event_time_ms: i64,
        until_ms: i64,
        needs: &mut Needs<'_>,
    ) {
        let slots: Vec<u32> = self.views.of(key).collect();
        for slot in slots {
            let Some(view) = self.views.get(slot) else { continue };
            if view.hold_until_ms < until_ms
                && self.are_within(REACH_WINDOWS, view.event_time_ms, event_time_ms)
            {
                needs.views.need_for_window(view.covers_from, until_ms);
                self.views.update(slot, |view| view.hold_until_ms = until_ms);
            }
        }
    }

    /// Holds the ids of a duplicate, unless two held views around it tell the same as it would;
    /// and lets go of duplicates that this one makes needless. So however often an impression is
    /// repeated, few of its views are held.
    pub(super) fn hold_duplicate(
        &mut self,
        offset: i64,
        event_time_ms: i64,
        key: &ImpressionKey<'_>,
        needs: &mut Needs<'_>,
    ) {
        let until_ms = self.expires_at(event_time_ms);
        needs.views.need_for_window(offset, until_ms);
        let slots: Vec<u32> = self.views.of(key).collect();
        let time_of = |slot: &u32| self.views.get(*slot).map(|view| view.event_time_ms);
        let mut times: Vec<i64> = slots.iter().filter_map(time_of).collect();
        times.sort_unstable();
        if self.is_between(&times, event_time_ms) {
            return;
        }
        let body = ViewBody::Ids {
            ids: [key.impression_id, key.user_id].concat().into(),
            user_at: key.impression_id.len(),
        };
        let state = ViewState::Duplicate;
        self.hold_view(
            key,
            HeldView { offset, event_time_ms, covers_from: offset, hold_until_ms: until_ms, state, body },
        );
        times.insert(times.partition_point(|&time_ms| time_ms < event_time_ms), event_time_ms);
        for slot in slots {
            self.drop_if_between(slot, &mut times, key);
        }
    }

    /// Whether one of the sorted `times` at or before and one at or after lie within two windows of
    /// each other: then every view within a window of `time_ms` is within a window of one of them,
    /// or would itself be older than both.
    pub(super) fn is_between(&self, times: &[i64], time_ms: i64) -> bool {
        let at_or_after = times.partition_point(|&other| other < time_ms);
        let before = times.partition_point(|&other| other <= time_ms).checked_sub(1);
        match (before.map(|before| times[before]), times.get(at_or_after)) {
            (Some(before), Some(&after)) => self.are_within(2, before, after),
            _ => false,
        }
    }

    pub(super) fn drop_if_between(&mut self, slot: u32, times: &mut Vec<i64>, key: &ImpressionKey<'_>) {
        let Some(&HeldView { event_time_ms, covers_from, state, .. }) = self.views.get(slot) else {
            return;
        };
        let Ok(place) = times.binary_search(&event_time_ms) else { return };
        let mut others = times.clone();
        others.remove(place);
        if state != ViewState::Duplicate || !self.is_between(&others, event_time_ms) {
            return;
        }
        self.views.remove(slot);
        *times = others;
        // The earlier neighbor stands in for it, also in a replay. Records that come before theirs
        // in time and after them in the log lie within the allowed lateness, so what it stands in
        // for never reaches far back.
        let neighbor = self
            .views
            .of(key)
            .filter_map(|slot| self.views.get(slot).map(|view| (view.event_time_ms, slot)))
            .filter(|(time_ms, _)| *time_ms <= event_time_ms)
            .max();
        if let Some((_, neighbor)) = neighbor {
            self.views.update(neighbor, |view| view.covers_from = view.covers_from.min(covers_from));
        }
    }
}
