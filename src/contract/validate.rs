//! What the join needs of an input record, or why the record is rejected.
//!
//! Nothing is decoded that the join does not look at. Of the features only what rejects a record
//! once and for all is read (schema version, number of dense values), and that the rest is well
//! formed: whoever decodes an output that carries these bytes will succeed. No input panics.
//!
//! The record's bytes are kept as they came and copied into the outputs as they are.

use bytes::Bytes;

use super::partitioner;
use super::v1::Answer;
use super::wire::{Fields, Malformed, Value};
use super::{InputRecord, MAX_ID_BYTES, Rejection};
use crate::settings::{Partitioner, Settings};

/// What a record is measured against.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Partitions of either input topic.
    pub partitions: i32,
    pub partitioner: Partitioner,
    pub max_record_bytes: usize,
    pub max_clock_skew_ms: i64,
    pub schema_version: u32,
    /// Length of `features.dense`.
    pub dense_values: usize,
}

impl Limits {
    pub fn new(settings: &Settings, partitions: i32) -> Limits {
        Limits {
            partitions,
            partitioner: settings.input.partitioner,
            max_record_bytes: settings.input.max_record_bytes,
            max_clock_skew_ms: settings.input.max_clock_skew_ms,
            schema_version: settings.features.schema_version,
            dense_values: settings.features.dense.len(),
        }
    }
}

/// A string of a record, by its place in the record's payload.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Span {
    start: u32,
    length: u32,
}

impl Span {
    pub(crate) fn of(self, payload: &Bytes) -> &[u8] {
        &payload[self.start as usize..][..self.length as usize]
    }

    /// The string as a value of its own that shares the payload's memory.
    pub(crate) fn share(self, payload: &Bytes) -> Bytes {
        payload.slice(self.start as usize..self.start as usize + self.length as usize)
    }
}

/// A valid `BehaviorEvent`.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The encoded event, as it came.
    pub payload: Bytes,
    pub event_time_ms: i64,
    /// Within 1 and the event time.
    pub request_time_ms: i64,
    pub watched_ms: u32,
    pub duration_ms: u32,
    pub questionnaire_exposed: Option<bool>,
    pub(crate) impression_id: Span,
    pub(crate) user_id: Span,
    pub(crate) request_id: Span,
    pub(crate) scenario: Span,
}

impl View {
    pub fn impression_id(&self) -> &[u8] {
        self.impression_id.of(&self.payload)
    }

    pub fn user_id(&self) -> &[u8] {
        self.user_id.of(&self.payload)
    }

    pub fn request_id(&self) -> &[u8] {
        self.request_id.of(&self.payload)
    }
}

/// A valid `QuestionnaireResponse`.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The encoded response, as it came.
    pub payload: Bytes,
    pub event_time_ms: i64,
    /// Never `Unspecified`.
    pub answer: Answer,
    pub(crate) impression_id: Span,
    pub(crate) user_id: Span,
}

impl Response {
    pub fn impression_id(&self) -> &[u8] {
        self.impression_id.of(&self.payload)
    }

    pub fn user_id(&self) -> &[u8] {
        self.user_id.of(&self.payload)
    }
}

/// Checks a record of the behavior topic. Scenario may be empty, every id must be there.
pub fn behavior(record: &InputRecord, limits: &Limits) -> Result<View, Rejection> {
    let payload = payload(record, limits)?;
    let fields = ViewFields::read(&payload)?;
    fields.check_ids(&payload)?;
    check_event_time(fields.view.event_time_ms)?;
    let (request_time_ms, event_time_ms) = (fields.view.request_time_ms, fields.view.event_time_ms);
    if !(1..=event_time_ms).contains(&request_time_ms) {
        return Err(Rejection::RequestTime { request_time_ms, event_time_ms });
    }
    fields.check_features(limits)?;
    let view = View { payload, ..fields.view };
    check_time_ahead(record, event_time_ms, limits)?;
    check_key(record, view.user_id(), limits)?;
    Ok(view)
}

/// Checks a record of the responses topic. Scenario and questionnaire may be empty.
pub fn response(record: &InputRecord, limits: &Limits) -> Result<Response, Rejection> {
    let payload = payload(record, limits)?;
    let fields = ResponseFields::read(&payload)?;
    check_id("impression_id", fields.impression_id.of(&payload))?;
    check_id("user_id", fields.user_id.of(&payload))?;
    check_id("video_id", fields.video_id.of(&payload))?;
    check_label("scenario", fields.scenario.of(&payload))?;
    check_label("questionnaire_id", fields.questionnaire_id.of(&payload))?;
    check_event_time(fields.event_time_ms)?;
    let answer = match Answer::try_from(fields.answer) {
        Ok(Answer::Unspecified) | Err(_) => return Err(Rejection::UnknownAnswer { answer: fields.answer }),
        Ok(answer) => answer,
    };
    check_time_ahead(record, fields.event_time_ms, limits)?;
    check_key(record, fields.user_id.of(&payload), limits)?;
    let ResponseFields { impression_id, user_id, event_time_ms, .. } = fields;
    Ok(Response { payload, event_time_ms, answer, impression_id, user_id })
}

fn payload(record: &InputRecord, limits: &Limits) -> Result<Bytes, Rejection> {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let bytes = length(&record.payload).max(length(&record.key));
    if bytes > limits.max_record_bytes {
        return Err(Rejection::TooLarge { bytes, max_bytes: limits.max_record_bytes });
    }
    record.payload.clone().ok_or(Rejection::Undecodable { detail: "the record has no value" })
}

fn check_id(field: &'static str, id: &[u8]) -> Result<(), Rejection> {
    if id.is_empty() { Err(Rejection::MissingId { field }) } else { check_label(field, id) }
}

fn check_label(field: &'static str, label: &[u8]) -> Result<(), Rejection> {
    if label.len() <= MAX_ID_BYTES {
        Ok(())
    } else {
        Err(Rejection::OversizedId { field, bytes: label.len() })
    }
}

fn check_event_time(event_time_ms: i64) -> Result<(), Rejection> {
    if event_time_ms >= 1 { Ok(()) } else { Err(Rejection::EventTime { event_time_ms }) }
}

fn check_time_ahead(record: &InputRecord, event_time_ms: i64, limits: &Limits) -> Result<(), Rejection> {
    let timestamp_ms = record.timestamp_ms.ok_or(Rejection::NoTimestamp)?;
    if event_time_ms > timestamp_ms.saturating_add(limits.max_clock_skew_ms) {
        return Err(Rejection::TimeAhead { event_time_ms, timestamp_ms });
    }
    Ok(())
}

fn check_key(record: &InputRecord, user_id: &[u8], limits: &Limits) -> Result<(), Rejection> {
    if record.key.as_deref() != Some(user_id) {
        return Err(Rejection::KeyNotUserId);
    }
    let expected = partitioner::partition(limits.partitioner, user_id, limits.partitions);
    if expected != record.partition {
        return Err(Rejection::WrongPartition { expected, found: record.partition });
    }
    Ok(())
}

impl From<Malformed> for Rejection {
    fn from(malformed: Malformed) -> Rejection {
        Rejection::Undecodable { detail: malformed.0 }
    }
}

/// The place of the string that `fields` has just returned.
fn span(fields: &Fields<'_>, value: Value<'_>) -> Result<Span, Malformed> {
    let length = value.utf8()?.len();
    let start = fields.position() - length;
    match (u32::try_from(start), u32::try_from(length)) {
        (Ok(start), Ok(length)) => Ok(Span { start, length }),
        _ => Err(Malformed("the record is longer than 4 GiB")),
    }
}

/// The fields of a view as proto3 reads them: of a scalar that is there twice the last counts.
struct ViewFields {
    /// Without its payload.
    view: View,
    video_id: Span,
    features: Option<Features>,
    features_repeated: bool,
}

impl ViewFields {
    fn read(payload: &[u8]) -> Result<ViewFields, Malformed> {
        let view = View {
            payload: Bytes::new(),
            event_time_ms: 0,
            request_time_ms: 0,
            watched_ms: 0,
            duration_ms: 0,
            questionnaire_exposed: None,
            impression_id: Span::default(),
            user_id: Span::default(),
            request_id: Span::default(),
            scenario: Span::default(),
        };
        let mut read =
            ViewFields { view, video_id: Span::default(), features: None, features_repeated: false };
        let mut fields = Fields::new(payload);
        while let Some((field, value)) = fields.next()? {
            let view = &mut read.view;
            match field {
                1 => view.impression_id = span(&fields, value)?,
                2 => view.user_id = span(&fields, value)?,
                3 => read.video_id = span(&fields, value)?,
                4 => view.request_id = span(&fields, value)?,
                5 => view.scenario = span(&fields, value)?,
                6 => view.event_time_ms = value.varint()?.cast_signed(),
                7 => read_engagement(value.bytes()?, view)?,
                8 => view.questionnaire_exposed = Some(value.varint()? != 0),
                9 => {
                    read.features_repeated |= read.features.is_some();
                    read.features = Some(Features::read(value.bytes()?)?);
                }
                10 => view.request_time_ms = value.varint()?.cast_signed(),
                _ => {}
            }
        }
        Ok(read)
    }

    fn check_ids(&self, payload: &Bytes) -> Result<(), Rejection> {
        check_id("impression_id", self.view.impression_id.of(payload))?;
        check_id("user_id", self.view.user_id.of(payload))?;
        check_id("video_id", self.video_id.of(payload))?;
        check_id("request_id", self.view.request_id.of(payload))?;
        check_label("scenario", self.view.scenario.of(payload))
    }

    fn check_features(&self, limits: &Limits) -> Result<(), Rejection> {
        let features = self.features.ok_or(Rejection::MissingFeatures)?;
        if self.features_repeated {
            return Err(Rejection::RepeatedFeatures);
        }
        let (found, expected) = (features.schema_version, limits.schema_version);
        if found != expected {
            return Err(Rejection::WrongSchemaVersion { found, expected });
        }
        let (found, expected) = (features.dense_values, limits.dense_values);
        if found != expected {
            return Err(Rejection::WrongDenseLength { found, expected });
        }
        Ok(())
    }
}

/// Engagement that is there twice is merged field by field, as proto3 says.
fn read_engagement(message: &[u8], view: &mut View) -> Result<(), Malformed> {
    let mut fields = Fields::new(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            // A uint32 is the low half of its varint.
            1 => view.watched_ms = value.varint()? as u32,
            2 => view.duration_ms = value.varint()? as u32,
            3..=7 => value.varint().map(|_| ())?,
            15 => check_signal(value.bytes()?)?,
            _ => {}
        }
    }
    Ok(())
}

/// An entry of `map<string, float>`.
fn check_signal(entry: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::new(entry);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => value.utf8().map(|_| ())?,
            2 => value.fixed32()?,
            _ => {}
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Features {
    schema_version: u32,
    dense_values: usize,
}

impl Features {
    fn read(message: &[u8]) -> Result<Features, Malformed> {
        let mut features = Features { schema_version: 0, dense_values: 0 };
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => features.dense_values += value.floats()?,
                2 => check_sparse(value.bytes()?)?,
                3 => features.schema_version = value.varint()? as u32,
                _ => {}
            }
        }
        Ok(features)
    }
}

fn check_sparse(message: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::new(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => value.varint().map(|_| ())?,
            2 => value.fixed64s()?,
            _ => {}
        }
    }
    Ok(())
}

#[derive(Default)]
struct ResponseFields {
    impression_id: Span,
    user_id: Span,
    video_id: Span,
    scenario: Span,
    event_time_ms: i64,
    answer: i32,
    questionnaire_id: Span,
}

impl ResponseFields {
    fn read(payload: &[u8]) -> Result<ResponseFields, Malformed> {
        let mut read = ResponseFields::default();
        let mut fields = Fields::new(payload);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => read.impression_id = span(&fields, value)?,
                2 => read.user_id = span(&fields, value)?,
                3 => read.video_id = span(&fields, value)?,
                4 => read.scenario = span(&fields, value)?,
                5 => read.event_time_ms = value.varint()?.cast_signed(),
                // An enum is the low half of its varint.
                6 => read.answer = value.varint()? as i32,
                7 => read.questionnaire_id = span(&fields, value)?,
                _ => {}
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
