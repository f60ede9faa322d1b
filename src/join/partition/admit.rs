//! Where valid records go: late, into a group, into the window.

use super::PartitionJoin;
use crate::contract::InputRecord;
use crate::contract::validate::Response;
use crate::join::groups::Admission;
use crate::join::held::ImpressionKey;
use crate::join::judged::KeyedView;
use crate::join::window::{Meeting, Needs, ResponseVerdict, ViewVerdict};
use crate::join::{Effects, Outcome, Side};

impl PartitionJoin {
    pub(super) fn admit_view(&mut self, record: &InputRecord, keyed: KeyedView, effects: &mut Effects) {
        let view = &keyed.view;
        let lateness_ms = self.config.join.allowed_lateness_ms;
        let arrival = self.views.clock.arrive(record.offset, view.event_time_ms, lateness_ms);
        self.close_groups(effects);
        if !self.is_in_time(Side::Views, arrival, record, effects) {
            return;
        }
        let key = ImpressionKey::hashed(keyed.impression, view.impression_id(), view.user_id());
        let mut needs = Needs { views: &mut self.views.index, responses: &mut self.responses.index };
        let group_until_ms = self.groups.ends_at(view);
        let meeting = self.window.meet(&key, view.event_time_ms, group_until_ms, &mut needs);
        let is_grouped_before = meeting != Meeting::Repeated && !self.group_view(record.offset, &keyed);
        if !self.config.is_eligible(view) {
            let is_duplicate = meeting == Meeting::Repeated || is_grouped_before;
            let outcome = if is_duplicate { Outcome::Duplicate } else { Outcome::Ineligible };
            return self.views.count(outcome, 1);
        }
        self.products.views_again_in_group += u64::from(is_grouped_before);
        let KeyedView { view, impression, .. } = keyed;
        let payload = view.payload.clone();
        let ids = (view.impression_id.of(&payload), view.user_id.of(&payload));
        let key = ImpressionKey::hashed(impression, ids.0, ids.1);
        let mut needs = Needs { views: &mut self.views.index, responses: &mut self.responses.index };
        match self.window.on_view(record.offset, view, &key, meeting, &mut needs) {
            ViewVerdict::Waiting => {}
            ViewVerdict::Duplicate => self.views.count(Outcome::Duplicate, 1),
            ViewVerdict::Matched { response_offset, response, duplicates } => {
                self.views.count(Outcome::Matched, 1);
                let waiting = self.window.waiting_responses();
                self.responses.settle(Outcome::Matched, waiting);
                (0..duplicates).for_each(|_| self.responses.settle(Outcome::Duplicate, waiting));
                self.label(payload, record.offset, &response, response_offset, effects);
            }
        }
    }

    pub(super) fn admit_response(&mut self, record: &InputRecord, response: Response, effects: &mut Effects) {
        let lateness_ms = self.config.join.allowed_lateness_ms;
        let arrival = self.responses.clock.arrive(record.offset, response.event_time_ms, lateness_ms);
        if !self.is_in_time(Side::Responses, arrival, record, effects) {
            return;
        }
        let mut needs = Needs { views: &mut self.views.index, responses: &mut self.responses.index };
        match self.window.on_response(record.offset, response.clone(), &mut needs) {
            ResponseVerdict::Waiting => {}
            ResponseVerdict::Duplicate => self.responses.count(Outcome::Duplicate, 1),
            ResponseVerdict::Matched { view_offset, view } => {
                self.responses.count(Outcome::Matched, 1);
                self.views.settle(Outcome::Matched, self.window.waiting_views());
                self.label(view, view_offset, &response, record.offset, effects);
            }
        }
    }

    /// Offers a view to its group; `false` when its impression is there already.
    fn group_view(&mut self, offset: i64, keyed: &KeyedView) -> bool {
        let view = &keyed.view;
        if self.is_closed_at_target(view) {
            return true;
        }
        let stream_time_ms = self.views.clock.time_ms().unwrap_or(view.event_time_ms);
        let admission = self.groups.admit(offset, keyed, stream_time_ms);
        match admission {
            Admission::Admitted | Admission::Again => {}
            Admission::Unsampled => self.products.unsampled_views += 1,
            Admission::AfterClose => self.products.views_after_group += 1,
            Admission::Full => self.products.views_over_group += 1,
        }
        if matches!(admission, Admission::Admitted | Admission::Again | Admission::Full) {
            self.views.index.need_for_group(offset, self.groups.ends_at(view));
        }
        admission != Admission::Again
    }

    pub(super) fn close_groups(&mut self, effects: &mut Effects) {
        let Some(stream_time_ms) = self.views.clock.time_ms() else { return };
        while let Some(group) = self.groups.pop_ended(stream_time_ms) {
            self.emit_group(group, effects);
        }
    }
}
