//! What happens at a memory bound (invariant 12).
//!
//! Each input has its own bounds; those of the views count the views in open groups as well. What
//! has the lowest offset goes first: a view of the window to the late topic, unless its outcome is
//! known, and a group, counted, into nothing.
//!
//! A replay lets go of what had been let go before, and of nothing else: the rest fitted then.

use super::PartitionJoin;
use crate::join::window::Evicted;
use crate::join::{Effects, Outcome, Output, Side};

impl PartitionJoin {
    /// Lets go of the views with the lowest offsets while more is held than the settings allow.
    pub(super) fn evict_views(&mut self, effects: &mut Effects) {
        let bounds = (self.config.join.max_waiting_records, self.config.join.max_waiting_bytes);
        while self.window.held_views() + self.groups.views() > bounds.0
            || self.window.view_bytes() + self.groups.bytes() > bounds.1
        {
            let (view, group) = (self.window.oldest_view(), self.groups.oldest());
            let oldest = [view, group].into_iter().flatten().min();
            let Some(oldest) = oldest.filter(|&oldest| self.may_evict(Side::Views, oldest)) else { return };
            self.views.evicted_below = self.views.evicted_below.max(oldest + 1);
            if view == Some(oldest) {
                if let Some(evicted) = self.window.evict_view() {
                    self.evicted(Side::Views, evicted, effects);
                }
            } else if let Some(group) = self.groups.evict() {
                self.products.views_of_evicted_groups += group.len() as u64;
            }
        }
    }

    /// Lets go of the responses with the lowest offsets, likewise.
    pub(super) fn evict_responses(&mut self, effects: &mut Effects) {
        let bounds = (self.config.join.max_waiting_records, self.config.join.max_waiting_bytes);
        while self.window.held_responses() > bounds.0 || self.window.response_bytes() > bounds.1 {
            let oldest = self.window.oldest_response();
            let Some(oldest) = oldest.filter(|&oldest| self.may_evict(Side::Responses, oldest)) else {
                return;
            };
            self.responses.evicted_below = self.responses.evicted_below.max(oldest + 1);
            if let Some(evicted) = self.window.evict_response() {
                self.evicted(Side::Responses, evicted, effects);
            }
        }
    }

    fn may_evict(&self, side: Side, offset: i64) -> bool {
        !self.is_replaying || offset < self.progress(side).evicted_below
    }

    fn evicted(&mut self, side: Side, evicted: Evicted, effects: &mut Effects) {
        let Some((key, payload)) = evicted.waiting else {
            self.products.forgotten_views += 1;
            return;
        };
        let waiting = self.waiting(side);
        self.progress_mut(side).settle(Outcome::Evicted, waiting);
        self.emit(effects, || {
            let origin = self.origin(side, Outcome::Evicted.as_str(), evicted.offset);
            Output::late(&origin, Some(key), Some(payload))
        });
    }
}
