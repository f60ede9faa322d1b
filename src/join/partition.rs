//! One partition number of both inputs.

mod admit;
mod bounds;
mod emit;
mod replay;

use std::sync::Arc;

use bytes::Bytes;

use super::groups::Groups;
use super::judged::{Judged, KeyedView, Verdict};
use super::lateness::Arrival;
use super::pairing::{Labelled, Pairing};
use super::progress::Progress;
use super::window::Window;
use super::{
    Config, Effects, Frontier, JoinFault, Outcome, Outcomes, Output, Position, Products, RetentionLoss, Side,
    Start,
};
use crate::contract::validate::Response;
use crate::contract::{InputRecord, Rejection};

/// Sizes of what is held now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Views in the window: waiting, or kept to tell duplicates.
    pub held_views: usize,
    /// Views in open groups.
    pub grouped_views: usize,
    /// Responses that wait.
    pub held_responses: usize,
    /// Bytes of the views, and of those in open groups, bookkeeping included.
    pub view_bytes: usize,
    /// Bytes of the responses, likewise.
    pub response_bytes: usize,
    /// Groups that still take views.
    pub open_groups: usize,
    /// Labelled views that pairing looks back on.
    pub pair_candidates: usize,
}

/// The join of one partition number of both inputs.
///
/// Order of use: [`new`](PartitionJoin::new); the tail of the labelled topic through
/// [`on_labelled_tail`](PartitionJoin::on_labelled_tail); then the records of each input in offset
/// order, from [`read_from`](PartitionJoin::read_from) on, of the side that
/// [`may_read`](PartitionJoin::may_read) allows. While
/// [`is_replaying`](PartitionJoin::is_replaying) nothing is emitted and nothing may be committed.
///
/// After a [`JoinFault`] the value is not used any more.
#[derive(Debug)]
pub struct PartitionJoin {
    config: Arc<Config>,
    partition: i32,
    views: Progress,
    responses: Progress,
    window: Window,
    groups: Groups,
    pairing: Pairing,
    products: Products,
    /// The window clock up to which everything has expired.
    expired_ms: Option<i64>,
    is_replaying: bool,
    losses: Vec<RetentionLoss>,
}

impl PartitionJoin {
    /// Begins at the given offsets, or with a replay towards the committed ones.
    pub fn new(config: Arc<Config>, partition: i32, views: Start, responses: Start) -> PartitionJoin {
        let views = Progress::new(Side::Views, partition, views, &config);
        let responses = Progress::new(Side::Responses, partition, responses, &config);
        let losses = [views.loss(), responses.loss()].into_iter().flatten().cloned().collect();
        let mut join = PartitionJoin {
            window: Window::new(config.join.window_ms, config.join.allowed_lateness_ms),
            groups: Groups::new(&config),
            pairing: Pairing::new(&config.join),
            products: Products::default(),
            expired_ms: None,
            is_replaying: true,
            partition,
            views,
            responses,
            losses,
            config,
        };
        if join.has_caught_up() {
            join.go_live();
        } else {
            join.expect_waiting();
        }
        join
    }

    /// Which topics the inputs are, in the cluster's words, where it says so: committed with the
    /// offsets.
    pub fn with_topic_ids(mut self, views: Option<String>, responses: Option<String>) -> PartitionJoin {
        self.views.topic_id = views.or(self.views.topic_id);
        self.responses.topic_id = responses.or(self.responses.topic_id);
        self
    }

    /// What is known of it, views first.
    pub fn topic_ids(&self) -> [Option<&str>; 2] {
        [self.views.topic_id.as_deref(), self.responses.topic_id.as_deref()]
    }

    /// Where to assign an input: its first offset to read.
    pub fn read_from(&self, side: Side) -> i64 {
        self.progress(side).next_offset()
    }

    /// What retention had removed when this join was made.
    pub fn retention_losses(&self) -> &[RetentionLoss] {
        &self.losses
    }

    /// Whether records below the committed offsets are still being read again.
    pub fn is_replaying(&self) -> bool {
        self.is_replaying
    }

    /// Whether the next record of this input may be given now; if not, let it wait in the
    /// application.
    ///
    /// A side waits while it is more than `join.max_lead_ms` ahead of one that has unread records,
    /// so that a backlog does not fill the window; and in a replay, once it has reached its
    /// committed offset, for the other.
    pub fn may_read(&self, side: Side, other_has_unread: bool) -> bool {
        let (progress, other) = (self.progress(side), self.progress(side.other()));
        if self.is_replaying && progress.has_caught_up() {
            return false;
        }
        let other_has_unread = if self.is_replaying { !other.has_caught_up() } else { other_has_unread };
        match (progress.clock.time_ms(), other.expiry_time_ms()) {
            _ if !other_has_unread => true,
            (Some(own), Some(other)) => own.saturating_sub(other) <= self.config.join.max_lead_ms,
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// Takes a record of `topics.labelled_views`, in offset order, before any input record: the
    /// last `join.pair_lookback` records of the partition, or more, or all there are. Offsets that
    /// hold no record (markers of transactions) do not count.
    pub fn on_labelled_tail(&mut self, offset: i64, payload: &[u8]) -> Result<(), JoinFault> {
        match Labelled::decode(Bytes::copy_from_slice(payload)) {
            Ok(labelled) => {
                self.pairing.add(&labelled);
                Ok(())
            }
            Err(detail) => {
                let topic = self.config.topics.labelled_views.clone();
                Err(JoinFault::BadTail { topic, partition: self.partition, offset, detail })
            }
        }
    }

    /// Takes the next record of `topics.behavior`.
    pub fn on_view(&mut self, record: InputRecord, effects: &mut Effects) -> Result<(), JoinFault> {
        self.on_judged(Judged::new(&self.config, Side::Views, record), effects)
    }

    /// Takes the next record of `topics.responses`.
    pub fn on_response(&mut self, record: InputRecord, effects: &mut Effects) -> Result<(), JoinFault> {
        self.on_judged(Judged::new(&self.config, Side::Responses, record), effects)
    }

    /// Takes the next record of either input, which was validated with this join's configuration.
    pub fn on_judged(&mut self, judged: Judged, effects: &mut Effects) -> Result<(), JoinFault> {
        match judged.verdict {
            Verdict::View(view) => self.take_view(judged.record, view, effects),
            Verdict::Response(response) => self.take_response(judged.record, response, effects),
        }
    }

    fn take_view(
        &mut self,
        record: InputRecord,
        view: Result<KeyedView, Rejection>,
        effects: &mut Effects,
    ) -> Result<(), JoinFault> {
        self.views.begin(record.offset, &self.config.topics.behavior)?;
        match view {
            Ok(view) => {
                self.admit_view(&record, view, effects);
                self.check_keying(Side::Views, &record, None)?;
            }
            Err(rejection) => self.reject(Side::Views, &record, &rejection, effects)?,
        }
        self.views.remember(record);
        self.expire();
        self.evict_views(effects);
        self.end_replay()
    }

    fn take_response(
        &mut self,
        record: InputRecord,
        response: Result<Response, Rejection>,
        effects: &mut Effects,
    ) -> Result<(), JoinFault> {
        self.responses.begin(record.offset, &self.config.topics.responses)?;
        match response {
            Ok(response) => {
                self.admit_response(&record, response, effects);
                self.check_keying(Side::Responses, &record, None)?;
            }
            Err(rejection) => self.reject(Side::Responses, &record, &rejection, effects)?,
        }
        self.responses.remember(record);
        self.expire();
        self.evict_responses(effects);
        self.end_replay()
    }

    /// Whether an input holds the other one's windows open, so that [`on_idle`](Self::on_idle) would
    /// change something.
    pub fn holds_back(&self, side: Side) -> bool {
        let other_ms = self.progress(side.other()).clock.time_ms();
        !self.is_replaying && other_ms > self.progress(side).expiry_time_ms()
    }

    /// Says that an input is read to its end and has been silent for `join.idle_after_ms`: it no
    /// longer holds the other back. Call it as long as that lasts. True when there is something new
    /// to commit.
    pub fn on_idle(&mut self, side: Side) -> bool {
        let other_ms = self.progress(side.other()).clock.time_ms();
        let (Some(time_ms), false) = (other_ms, self.is_replaying) else { return false };
        let progress = self.progress_mut(side);
        let next_offset = progress.next_offset();
        let advanced = progress.clock.advance(next_offset, time_ms);
        self.expire();
        advanced
    }

    /// What to commit with everything emitted so far. Not while replaying.
    pub fn frontier(&mut self) -> Frontier {
        debug_assert!(!self.is_replaying, "a replay has nothing to commit");
        let (window_ms, view_ms) = (self.window_clock_ms(), self.views.clock.time_ms());
        let mut views = self.views.state(self.window.waiting_views(), window_ms, view_ms);
        views.products = Some(self.products);
        let responses = self.responses.state(self.window.waiting_responses(), window_ms, view_ms);
        let position =
            |state: super::InputState| Position { next_offset: state.next_offset, metadata: state.encode() };
        Frontier { views: position(views), responses: position(responses) }
    }

    /// Cumulative counts of an input. Export them only after the commit.
    pub fn outcomes(&self, side: Side) -> Outcomes {
        self.progress(side).outcomes(self.waiting(side))
    }

    /// Cumulative counts of what was made. Export them only after the commit.
    pub fn products(&self) -> Products {
        self.products
    }

    /// Greatest event time read of an input.
    pub fn stream_time_ms(&self, side: Side) -> Option<i64> {
        self.progress(side).clock.time_ms()
    }

    /// What is held now, a replay included.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            held_views: self.window.held_views(),
            grouped_views: self.groups.views(),
            held_responses: self.window.held_responses(),
            view_bytes: self.window.view_bytes() + self.groups.bytes(),
            response_bytes: self.window.response_bytes(),
            open_groups: self.groups.open(),
            pair_candidates: self.pairing.len(),
        }
    }

    fn progress(&self, side: Side) -> &Progress {
        match side {
            Side::Views => &self.views,
            Side::Responses => &self.responses,
        }
    }

    fn progress_mut(&mut self, side: Side) -> &mut Progress {
        match side {
            Side::Views => &mut self.views,
            Side::Responses => &mut self.responses,
        }
    }

    fn waiting(&self, side: Side) -> u64 {
        match side {
            Side::Views => self.window.waiting_views(),
            Side::Responses => self.window.waiting_responses(),
        }
    }

    fn check_keying(
        &mut self,
        side: Side,
        record: &InputRecord,
        rejection: Option<&Rejection>,
    ) -> Result<(), JoinFault> {
        if self.is_replaying || (rejection.is_none() && self.progress(side).keying.is_over()) {
            return Ok(());
        }
        let (waiting, config) = (self.waiting(side), Arc::clone(&self.config));
        let topic = self.origin(side, "", 0).topic.to_owned();
        self.progress_mut(side).check_keying(waiting, record, rejection, &topic, &config)
    }

    fn reject(
        &mut self,
        side: Side,
        record: &InputRecord,
        rejection: &Rejection,
        effects: &mut Effects,
    ) -> Result<(), JoinFault> {
        self.progress_mut(side).count(Outcome::Rejected, 1);
        self.emit(effects, || {
            let origin = self.origin(side, rejection.as_str(), record.offset);
            Output::dead_letter(&origin, rejection.to_string(), record)
        });
        self.check_keying(side, record, Some(rejection))
    }

    /// Whether the record was in time; if not, it is counted and emitted as late.
    fn is_in_time(
        &mut self,
        side: Side,
        arrival: Arrival,
        record: &InputRecord,
        effects: &mut Effects,
    ) -> bool {
        let outcome = match arrival {
            Arrival::InTime => return true,
            Arrival::Late => Outcome::Late,
            Arrival::LateAfterIdle => Outcome::LateAfterIdle,
        };
        self.progress_mut(side).count(outcome, 1);
        self.emit(effects, || {
            let origin = self.origin(side, outcome.as_str(), record.offset);
            Output::late(&origin, record.key.clone(), record.payload.clone())
        });
        false
    }

    /// The slower of both inputs.
    fn window_clock_ms(&self) -> Option<i64> {
        self.views.expiry_time_ms().min(self.responses.expiry_time_ms())
    }

    /// Comes after a record has been taken in, not before: an advance while idle that applies from
    /// the next offset on has not touched this record, and a replay must see the same.
    fn expire(&mut self) {
        let clock_ms = self.window_clock_ms();
        if clock_ms <= self.expired_ms {
            return;
        }
        self.expired_ms = clock_ms;
        let Some(clock_ms) = clock_ms else { return };
        let expired = self.window.expire(clock_ms);
        for _ in 0..expired.unanswered {
            self.views.settle(Outcome::Unanswered, self.window.waiting_views());
        }
        for _ in 0..expired.unmatched {
            self.responses.settle(Outcome::Unmatched, self.window.waiting_responses());
        }
    }
}
