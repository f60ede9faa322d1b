//! The end of a replay.

use super::PartitionJoin;
use crate::contract::validate::View;
use crate::join::{Effects, JoinFault, Side};

impl PartitionJoin {
    pub(super) fn has_caught_up(&self) -> bool {
        self.views.has_caught_up() && self.responses.has_caught_up()
    }

    /// Makes room for what will wait when the replay is over, so that nothing moves on the way.
    pub(super) fn expect_waiting(&mut self) {
        let waiting = |side| {
            let records = self.progress(side).target().map_or(0, |target| target.outcomes.waiting);
            usize::try_from(records).unwrap_or(usize::MAX).min(self.config.join.max_waiting_records)
        };
        let (views, responses) = (waiting(Side::Views), waiting(Side::Responses));
        self.window.reserve(views, responses);
    }

    /// Whether a view is read again whose group was closed before the commit. Nothing can come of
    /// that group any more, and what it had counted stands in the commit.
    pub(super) fn is_closed_at_target(&self, view: &View) -> bool {
        let time_ms = self.views.target().and_then(|target| target.stream_time_ms);
        self.is_replaying && time_ms > Some(self.groups.ends_at(view))
    }

    pub(super) fn end_replay(&mut self) -> Result<(), JoinFault> {
        if self.is_replaying && self.has_caught_up() {
            self.views.check_identity(&self.config.topics.behavior)?;
            self.responses.check_identity(&self.config.topics.responses)?;
            self.go_live();
        }
        Ok(())
    }

    /// Goes on from the committed state, which has been rebuilt.
    pub(super) fn go_live(&mut self) {
        for side in [Side::Views, Side::Responses] {
            let time_ms = self.progress(side).target().and_then(|target| target.stream_time_ms);
            self.progress_mut(side).clock.reach(time_ms);
        }
        self.close_groups(&mut Effects::default());
        self.expire();
        self.let_go_of_evicted();
        let is_lossy = !self.losses.is_empty();
        let (views, responses) = (self.window.waiting_views(), self.window.waiting_responses());
        let state = self.views.resume(views, is_lossy);
        self.products = state.and_then(|state| state.products).unwrap_or_default();
        self.responses.resume(responses, is_lossy);
        self.is_replaying = false;
    }

    /// What was pushed out before the commit, and has been read again.
    fn let_go_of_evicted(&mut self) {
        let (views_below, responses_below) = (self.views.evicted_below, self.responses.evicted_below);
        while self.window.oldest_view().is_some_and(|offset| offset < views_below) {
            self.window.evict_view();
        }
        while self.groups.oldest().is_some_and(|offset| offset < views_below) {
            self.groups.evict();
        }
        while self.window.oldest_response().is_some_and(|offset| offset < responses_below) {
            self.window.evict_response();
        }
    }
}
