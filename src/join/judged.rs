//! An input record with what validation says of it.

use bytes::Bytes;

use super::groups::RequestKey;
use super::held::ImpressionKey;
use super::{Config, Side};
use crate::contract::validate::{self, Response, View};
use crate::contract::{InputRecord, Rejection};

/// A record that has been validated and not yet been joined: its event time is known, so that whoever
/// reads several partitions can put their records in an order.
#[derive(Debug)]
pub struct Judged {
    pub(super) record: InputRecord,
    pub(super) verdict: Verdict,
}

#[derive(Debug)]
pub(super) enum Verdict {
    View(Result<KeyedView, Rejection>),
    Response(Result<Response, Rejection>),
}

/// A valid view, with the hashes that it is looked up by: made where the bytes of its ids are at hand.
#[derive(Debug)]
pub(super) struct KeyedView {
    pub view: View,
    pub impression: u64,
    pub request: RequestKey,
}

impl KeyedView {
    fn new(view: View) -> KeyedView {
        let impression = ImpressionKey::new(view.impression_id(), view.user_id()).hash();
        KeyedView { impression, request: RequestKey::of(&view), view }
    }
}

impl Judged {
    /// Validates a record of an input, as the join does.
    pub fn new(config: &Config, side: Side, record: InputRecord) -> Judged {
        let verdict = match side {
            Side::Views => Verdict::View(validate::behavior(&record, &config.limits).map(KeyedView::new)),
            Side::Responses => Verdict::Response(validate::response(&record, &config.limits)),
        };
        Judged { record, verdict }
    }

    /// Lets a record that may be held for long have memory of its own: of the others, with which it shares
    /// that of its reader, most are let go soon.
    pub fn detach(&mut self, config: &Config) {
        let payload = match &mut self.verdict {
            Verdict::View(Ok(keyed)) if config.is_kept_of_few(keyed) => &mut keyed.view.payload,
            Verdict::Response(Ok(response)) => &mut response.payload,
            _ => return,
        };
        *payload = Bytes::copy_from_slice(payload);
        self.record.payload = Some(payload.clone());
    }

    /// Of a record that is not rejected: a rejected one moves no stream time.
    pub fn event_time_ms(&self) -> Option<i64> {
        match &self.verdict {
            Verdict::View(view) => view.as_ref().ok().map(|keyed| keyed.view.event_time_ms),
            Verdict::Response(response) => response.as_ref().ok().map(|response| response.event_time_ms),
        }
    }

    /// The input that it is of.
    pub fn side(&self) -> Side {
        match &self.verdict {
            Verdict::View(_) => Side::Views,
            Verdict::Response(_) => Side::Responses,
        }
    }

    /// Of key and payload.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        length(&self.record.key) + length(&self.record.payload)
    }
}
