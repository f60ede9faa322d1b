//! Views and responses that wait for each other.
//!
//! # The rule
//!
//! An *impression* is an impression id together with a user id. Of the eligible, non-late views of
//! an impression, one is a *duplicate* when another with a lower offset lies within ± window of it;
//! the rest are *kept*. A non-late response belongs to the kept view with the lowest offset within
//! ± window of it, its *home*, or to none. A view's label is the response with the lowest offset
//! whose home it is; other responses at that home are duplicates; a response without a home is
//! unmatched. For an impression that is used once, as ids should be, this reads: the first view and
//! the first response within the window; only for ids that are used again, windows apart, does the
//! rule say more. A response thus labels one view at most, and a view has one label (invariant 4).
//!
//! All of it is a function of the two logs, and each part is final at once: the records of one log
//! come in offset order, so a view that is there when a response comes has the lowest offset of all
//! that will ever come, and likewise for a response that waits when a view comes. Only the *first*
//! kept view can be a home and only the *first* response of a home can be its label, so it does not
//! matter which log was read ahead. That duplicates are told by any view before them, rather than
//! by kept ones, keeps this local: what becomes of a record depends on records a few windows
//! around it and never on a chain of reuse back to the beginning.
//!
//! # Expiry
//!
//! The window clock is the slower of both stream times. A record expires when the clock passes its
//! event time + window + allowed lateness. A record read after that and not late lies more than a
//! window later, in either log; so nothing that could still be read is missed, and reading one log
//! ahead decides nothing. A view that got its label lets its bytes go at once and keeps its ids, to
//! tell duplicates.
//!
//! # What a replay must read again
//!
//! Everything that has not expired, and beyond that what explains it: a response that has not
//! expired is without a partner only if its home, long expired, is read again too. So whenever a
//! record meets records of its impression, they are held, and noted as needed, until the newcomer
//! has expired as well. This reaches five windows back at most, and costs nothing for ids that are
//! used once.

mod records;
mod repeats;

use bytes::Bytes;

use self::records::{HeldResponse, HeldView, ViewBody, ViewState};

use super::deadlines::{Deadlines, Due};
use super::held::{Held, Hold, ImpressionKey};
use super::replay_index::ReplayIndex;
use crate::contract::validate::{Response, View};

/// Deadlines of records that were let go are swept when there are this many more than records.
const SPARE_DEADLINES: usize = 1_024;

/// How a view meets the views of its impression that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meeting {
    /// There is none.
    New,
    /// There are some, none within ± window of it.
    Reused,
    /// It is a duplicate.
    Repeated,
}

/// What became of an eligible view.
#[derive(Debug, PartialEq)]
pub(super) enum ViewVerdict {
    Waiting,
    Duplicate,
    /// `duplicates`: responses that waited for it besides its label.
    Matched {
        response_offset: i64,
        response: Response,
        duplicates: u64,
    },
}

/// What became of a response.
#[derive(Debug, PartialEq)]
pub(super) enum ResponseVerdict {
    Waiting,
    Duplicate,
    /// The payload is the view's whole record.
    Matched {
        view_offset: i64,
        view: Bytes,
    },
}

/// Records that left without a partner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expired {
    pub unanswered: u64,
    pub unmatched: u64,
}

/// A record that was pushed out: key and value, unless its outcome had been decided before.
#[derive(Debug, PartialEq)]
pub(super) struct Evicted {
    pub offset: i64,
    pub waiting: Option<(Bytes, Bytes)>,
}

/// Where the window notes what a replay must read again.
pub(super) struct Needs<'a> {
    pub views: &'a mut ReplayIndex,
    pub responses: &'a mut ReplayIndex,
}

#[derive(Debug)]
pub(super) struct Window {
    window_ms: i64,
    lifetime_ms: i64,
    views: Held<HeldView>,
    responses: Held<HeldResponse>,
    view_deadlines: Deadlines,
    response_deadlines: Deadlines,
    waiting_views: u64,
}

impl Window {
    pub fn new(window_ms: i64, allowed_lateness_ms: i64) -> Window {
        Window {
            window_ms,
            lifetime_ms: window_ms.saturating_add(allowed_lateness_ms),
            views: Held::new(),
            responses: Held::new(),
            view_deadlines: Deadlines::new(),
            response_deadlines: Deadlines::new(),
            waiting_views: 0,
        }
    }

    /// Makes room for so many more records.
    pub fn reserve(&mut self, views: usize, responses: usize) {
        self.views.reserve(views);
        self.responses.reserve(responses);
    }

    pub fn waiting_views(&self) -> u64 {
        self.waiting_views
    }

    pub fn waiting_responses(&self) -> u64 {
        self.responses.len() as u64
    }

    pub fn held_views(&self) -> usize {
        self.views.len()
    }

    pub fn held_responses(&self) -> usize {
        self.responses.len()
    }

    pub fn view_bytes(&self) -> usize {
        self.views.bytes()
    }

    pub fn response_bytes(&self) -> usize {
        self.responses.bytes()
    }

    pub fn oldest_view(&self) -> Option<i64> {
        self.views.oldest().and_then(|slot| self.views.get(slot)).map(|view| view.offset)
    }

    pub fn oldest_response(&self) -> Option<i64> {
        self.responses.oldest().and_then(|slot| self.responses.get(slot)).map(|response| response.offset)
    }

    /// Looks a view up, eligible or not, before it is taken in. If it repeats one that is held,
    /// what told so is needed for as long as the view's group may be open, until `group_until_ms`.
    pub fn meet(
        &self,
        key: &ImpressionKey<'_>,
        event_time_ms: i64,
        group_until_ms: i64,
        needs: &mut Needs<'_>,
    ) -> Meeting {
        let mut meeting = Meeting::New;
        for view in self.views.of(key).filter_map(|slot| self.views.get(slot)) {
            if self.are_within(1, view.event_time_ms, event_time_ms) {
                needs.views.need_for_group(view.covers_from, group_until_ms);
                meeting = Meeting::Repeated;
            } else if meeting == Meeting::New {
                meeting = Meeting::Reused;
            }
        }
        meeting
    }

    /// Takes in an eligible view that is not late. `meeting`: what [`meet`](Window::meet) said.
    pub fn on_view(
        &mut self,
        offset: i64,
        view: View,
        key: &ImpressionKey<'_>,
        meeting: Meeting,
        needs: &mut Needs<'_>,
    ) -> ViewVerdict {
        let event_time_ms = view.event_time_ms;
        if meeting == Meeting::Repeated {
            // A response that waits near a duplicate waits because of what makes it one.
            let waiting = self.waiting_near(key, event_time_ms);
            let times = waiting.iter().filter_map(|&slot| self.responses.get(slot));
            let last_ms = times.map(|held| held.response.event_time_ms).fold(event_time_ms, i64::max);
            self.extend(key, event_time_ms, self.expires_at(last_ms), needs);
            self.hold_duplicate(offset, event_time_ms, key, needs);
            return ViewVerdict::Duplicate;
        }
        let homed = self.take_waiting_responses(key, event_time_ms);
        let last_ms = homed.iter().map(|held| held.response.event_time_ms).fold(event_time_ms, i64::max);
        let until_ms = self.expires_at(last_ms);
        if meeting == Meeting::Reused {
            self.extend(key, event_time_ms, until_ms, needs);
        }
        needs.views.need_for_window(offset, until_ms);
        let View { payload, impression_id, user_id, .. } = view;
        let mut held = HeldView {
            offset,
            event_time_ms,
            covers_from: offset,
            hold_until_ms: until_ms,
            state: ViewState::Waiting,
            body: ViewBody::Whole { payload, impression_id, user_id },
        };
        let duplicates = homed.len().saturating_sub(1) as u64;
        let label = homed.into_iter().next();
        if label.is_some() {
            held.state = ViewState::Labelled;
            held.release();
        } else {
            self.waiting_views += 1;
        }
        self.hold_view(key, held);
        match label {
            None => ViewVerdict::Waiting,
            Some(HeldResponse { offset: response_offset, response }) => {
                needs.responses.need_for_window(response_offset, until_ms);
                ViewVerdict::Matched { response_offset, response, duplicates }
            }
        }
    }

    /// Takes in a response that is not late.
    pub fn on_response(&mut self, offset: i64, response: Response, needs: &mut Needs<'_>) -> ResponseVerdict {
        let payload = response.payload.clone();
        let key = ImpressionKey::new(response.impression_id.of(&payload), response.user_id.of(&payload));
        let event_time_ms = response.event_time_ms;
        let mut until_ms = self.expires_at(event_time_ms);
        let mut home: Option<(i64, u32)> = None;
        for slot in self.views.of(&key) {
            let Some(view) = self.views.get(slot) else { continue };
            if self.are_within(1, view.event_time_ms, event_time_ms) {
                until_ms = until_ms.max(self.expires_at(view.event_time_ms));
                if view.is_kept() {
                    home = Some(home.map_or((view.offset, slot), |best| best.min((view.offset, slot))));
                }
            }
        }
        self.extend(&key, event_time_ms, until_ms, needs);
        let Some((view_offset, slot)) = home else {
            needs.responses.need_for_window(offset, until_ms);
            let slot = self.responses.insert(key.hash(), HeldResponse { offset, response });
            self.response_deadlines.push(Due { at_ms: self.expires_at(event_time_ms), offset, slot });
            return ResponseVerdict::Waiting;
        };
        match self.take_for_label(slot) {
            None => ResponseVerdict::Duplicate,
            Some(view) => {
                needs.responses.need_for_window(offset, until_ms);
                ResponseVerdict::Matched { view_offset, view }
            }
        }
    }

    /// Lets go of everything that the window clock has passed.
    pub fn expire(&mut self, clock_ms: i64) -> Expired {
        let mut expired = Expired::default();
        while let Some(due) = self.view_deadlines.pop_before(clock_ms) {
            expired.unanswered += u64::from(self.expire_view(due, clock_ms));
        }
        while let Some(due) = self.response_deadlines.pop_before(clock_ms) {
            if self.responses.get(due.slot).is_some_and(|held| held.offset == due.offset) {
                self.responses.remove(due.slot);
                expired.unmatched += 1;
            }
        }
        expired
    }

    /// Pushes out the view with the lowest offset.
    pub fn evict_view(&mut self) -> Option<Evicted> {
        let view = self.views.remove(self.views.oldest()?);
        sweep(&mut self.view_deadlines, &self.views);
        let waiting = match view.body {
            ViewBody::Whole { payload, user_id, .. } => {
                self.waiting_views -= 1;
                Some((user_id.share(&payload), payload))
            }
            ViewBody::Ids { .. } => None,
        };
        Some(Evicted { offset: view.offset, waiting })
    }

    /// Pushes out the response with the lowest offset.
    pub fn evict_response(&mut self) -> Option<Evicted> {
        let HeldResponse { offset, response } = self.responses.remove(self.responses.oldest()?);
        sweep(&mut self.response_deadlines, &self.responses);
        let key = response.user_id.share(&response.payload);
        Some(Evicted { offset, waiting: Some((key, response.payload)) })
    }

    fn expires_at(&self, event_time_ms: i64) -> i64 {
        event_time_ms.saturating_add(self.lifetime_ms)
    }

    fn are_within(&self, windows: i64, a_ms: i64, b_ms: i64) -> bool {
        a_ms.abs_diff(b_ms) <= self.window_ms.saturating_mul(windows).cast_unsigned()
    }

    fn hold_view(&mut self, key: &ImpressionKey<'_>, held: HeldView) {
        let (at_ms, offset) = (held.hold_until_ms, held.offset);
        let slot = self.views.insert(key.hash(), held);
        self.view_deadlines.push(Due { at_ms, offset, slot });
        sweep(&mut self.view_deadlines, &self.views);
    }

    /// The responses that wait within a window of a view.
    fn waiting_near(&self, key: &ImpressionKey<'_>, event_time_ms: i64) -> Vec<u32> {
        let is_near = |slot: &u32| {
            let held = self.responses.get(*slot);
            held.is_some_and(|held| self.are_within(1, held.response.event_time_ms, event_time_ms))
        };
        self.responses.of(key).filter(is_near).collect()
    }

    /// The waiting responses whose home a new view is, in offset order.
    fn take_waiting_responses(&mut self, key: &ImpressionKey<'_>, event_time_ms: i64) -> Vec<HeldResponse> {
        let slots = self.waiting_near(key, event_time_ms);
        let mut taken: Vec<_> = slots.into_iter().map(|slot| self.responses.remove(slot)).collect();
        taken.sort_unstable_by_key(Hold::offset);
        sweep(&mut self.response_deadlines, &self.responses);
        taken
    }

    /// The record of a view that waits, which from now on is labelled; `None` if it has its label.
    fn take_for_label(&mut self, slot: u32) -> Option<Bytes> {
        let taken = self.views.update(slot, |view| match (view.state, &view.body) {
            (ViewState::Waiting, ViewBody::Whole { payload, .. }) => {
                let payload = payload.clone();
                view.release();
                view.state = ViewState::Labelled;
                Some(payload)
            }
            _ => None,
        });
        self.waiting_views -= u64::from(taken.is_some());
        taken
    }

    /// Whether a view left without a response.
    fn expire_view(&mut self, due: Due, clock_ms: i64) -> bool {
        let Some(view) = self.views.get(due.slot).filter(|view| view.offset == due.offset) else {
            return false;
        };
        let was_waiting = view.state == ViewState::Waiting;
        let hold_until_ms = view.hold_until_ms;
        if hold_until_ms < clock_ms {
            self.views.remove(due.slot);
        } else {
            if was_waiting {
                self.views.update(due.slot, |view| {
                    view.release();
                    view.state = ViewState::Unanswered;
                });
            }
            self.view_deadlines.push(Due { at_ms: hold_until_ms, ..due });
        }
        self.waiting_views -= u64::from(was_waiting);
        was_waiting
    }
}

/// Bounds the deadlines where records are let go before they expire.
fn sweep<T: Hold>(deadlines: &mut Deadlines, held: &Held<T>) {
    if deadlines.len() > 2 * held.len() + SPARE_DEADLINES {
        deadlines.retain(|due| held.get(due.slot).is_some_and(|record| record.offset() == due.offset));
    }
}
