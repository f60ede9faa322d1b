//! What the window holds of a view and of a response.

use bytes::Bytes;

use crate::contract::validate::{Response, Span};
use crate::join::held::Hold;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ViewState {
    Waiting,
    Labelled,
    Duplicate,
    /// Expired without a response, and held on for what it explains.
    Unanswered,
}

#[derive(Debug)]
pub(super) enum ViewBody {
    Whole {
        payload: Bytes,
        impression_id: Span,
        user_id: Span,
    },
    /// The ids alone: impression, then user from `user_at` on.
    Ids {
        ids: Box<[u8]>,
        user_at: usize,
    },
}

#[derive(Debug)]
pub(super) struct HeldView {
    pub offset: i64,
    pub event_time_ms: i64,
    /// At most its own offset: of duplicates that were dropped because this one tells the same.
    pub covers_from: i64,
    pub hold_until_ms: i64,
    pub state: ViewState,
    pub body: ViewBody,
}

impl Hold for HeldView {
    fn offset(&self) -> i64 {
        self.offset
    }

    fn ids(&self) -> (&[u8], &[u8]) {
        match &self.body {
            ViewBody::Whole { payload, impression_id, user_id } => {
                (impression_id.of(payload), user_id.of(payload))
            }
            ViewBody::Ids { ids, user_at } => ids.split_at(*user_at),
        }
    }

    fn held_bytes(&self) -> usize {
        match &self.body {
            ViewBody::Whole { payload, .. } => payload.len(),
            ViewBody::Ids { ids, .. } => ids.len(),
        }
    }
}

impl HeldView {
    /// Keeps the ids and lets the rest go.
    pub fn release(&mut self) {
        let (impression_id, user_id) = self.ids();
        let (ids, user_at) = ([impression_id, user_id].concat().into(), impression_id.len());
        self.body = ViewBody::Ids { ids, user_at };
    }

    pub fn is_kept(&self) -> bool {
        self.state != ViewState::Duplicate
    }
}

#[derive(Debug)]
pub(super) struct HeldResponse {
    pub offset: i64,
    pub response: Response,
}

impl Hold for HeldResponse {
    fn offset(&self) -> i64 {
        self.offset
    }

    fn ids(&self) -> (&[u8], &[u8]) {
        (self.response.impression_id(), self.response.user_id())
    }

    fn held_bytes(&self) -> usize {
        self.response.payload.len()
    }
}
