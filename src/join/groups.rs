//! Behavior groups: the views of one request.
//!
//! A group is open from its first view until stream time of the views passes its request time +
//! `group_span_ms`. So whether it is open at an offset depends on the stream time there alone: a
//! view that itself moves stream time past the end of its own group comes too late for it, and a
//! replay opens and closes the same groups. Idle advances do not count here.
//!
//! Views of one request share request id, request time and user; the user is part of the key so
//! that two users' views are never ranked against each other.
//!
//! A group that a view does not fit into takes no more, not even a smaller one. Which requests are
//! sampled is a function of the request id alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashTable;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Config;
use super::judged::KeyedView;
use crate::contract::validate::{Span, View};

/// What a view in a group costs besides its bytes, ...
const OVERHEAD_BYTES: usize = 96;
/// ... and a group besides its views: itself, its first list of members, and its places in three indexes.
const GROUP_OVERHEAD_BYTES: usize = size_of::<Option<Group>>() + FIRST_MEMBERS * size_of::<Member>() + 128;
/// Room for as many is made with a group.
const FIRST_MEMBERS: usize = 8;
/// Members of a group that have a mark; few groups have more.
const MARKS: usize = 16;
/// Room for two UUIDs in text.
const MAX_SHORT_IDS_BYTES: usize = 72;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// The request is not sampled.
    Unsampled,
    /// Stream time has passed the end of the group.
    AfterClose,
    /// The group took no more.
    Full,
    /// The impression is in the group already.
    Again,
}

/// What a request is found by.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestKey {
    /// Of the request id alone: decides whether it is sampled.
    pub sample: u64,
    /// Of request, request time and user.
    hash: u64,
}

impl RequestKey {
    pub fn of(view: &View) -> RequestKey {
        let sample = xxh3_64(view.request_id());
        let hash = xxh3_64_with_seed(view.user_id(), sample ^ view.request_time_ms.cast_unsigned());
        RequestKey { sample, hash }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Member {
    payload: Bytes,
    impression_id: Span,
}

/// Request id and user id, where they are short: a view's own bytes, which hold both, are in no cache any
/// more when the next view of the request comes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ShortIds {
    bytes: [u8; MAX_SHORT_IDS_BYTES],
    /// An id is never empty: 0 says that they are longer.
    request_length: u8,
    user_length: u8,
}

impl ShortIds {
    fn of(view: &View) -> ShortIds {
        let (request_id, user_id) = (view.request_id(), view.user_id());
        let (request, both) = (request_id.len(), request_id.len() + user_id.len());
        let mut ids = ShortIds { bytes: [0; MAX_SHORT_IDS_BYTES], request_length: 0, user_length: 0 };
        if both <= MAX_SHORT_IDS_BYTES {
            ids.bytes[..request].copy_from_slice(request_id);
            ids.bytes[request..both].copy_from_slice(user_id);
            (ids.request_length, ids.user_length) = (request as u8, user_id.len() as u8);
        }
        ids
    }

    fn get(&self) -> Option<(&[u8], &[u8])> {
        let (request_id, rest) = self.bytes.split_at(usize::from(self.request_length));
        (self.request_length > 0).then(|| (request_id, &rest[..usize::from(self.user_length)]))
    }
}

/// The views of one request, in offset order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub first_offset: i64,
    pub request_time_ms: i64,
    /// The greatest of its views.
    pub event_time_ms: i64,
    request_id: Span,
    user_id: Span,
    scenario: Span,
    ids: ShortIds,
    hash: u64,
    /// Parts of the hashes of the first members' impressions, at hand like the ids.
    marks: [u32; MARKS],
    members: Vec<Member>,
    bytes: usize,
    is_full: bool,
}

impl Group {
    pub fn request_id(&self) -> &[u8] {
        self.request_id.of(&self.members[0].payload)
    }

    pub fn user_id(&self) -> Bytes {
        self.user_id.share(&self.members[0].payload)
    }

    /// Of the first view.
    pub fn scenario(&self) -> &[u8] {
        self.scenario.of(&self.members[0].payload)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn views(&self) -> Vec<Bytes> {
        self.members.iter().map(|member| member.payload.clone()).collect()
    }

    fn new(offset: i64, view: &View, hash: u64) -> Group {
        Group {
            first_offset: offset,
            request_time_ms: view.request_time_ms,
            event_time_ms: view.event_time_ms,
            request_id: view.request_id,
            user_id: view.user_id,
            scenario: view.scenario,
            ids: ShortIds::of(view),
            hash,
            marks: [0; MARKS],
            members: Vec::with_capacity(FIRST_MEMBERS),
            bytes: 0,
            is_full: false,
        }
    }

    fn is_of(&self, view: &View) -> bool {
        let is_same_request = || match self.ids.get() {
            Some(ids) => ids == (view.request_id(), view.user_id()),
            None => {
                let user_id = self.user_id.of(&self.members[0].payload);
                (self.request_id(), user_id) == (view.request_id(), view.user_id())
            }
        };
        self.request_time_ms == view.request_time_ms && is_same_request()
    }

    fn holds(&self, KeyedView { view, impression, .. }: &KeyedView) -> bool {
        let is_same = |member: &Member| member.impression_id.of(&member.payload) == view.impression_id();
        let marked = self.marks.iter().zip(0..self.members.len());
        // Of views with other marks nothing is looked at.
        let mut alike = marked.filter(|(mark, _)| **mark == mark_of(*impression));
        alike.any(|(_, number)| is_same(&self.members[number]))
            || self.members.iter().skip(MARKS).any(is_same)
    }

    fn push(&mut self, KeyedView { view, impression, .. }: &KeyedView) {
        self.event_time_ms = self.event_time_ms.max(view.event_time_ms);
        self.bytes += view.payload.len();
        if let Some(mark) = self.marks.get_mut(self.members.len()) {
            *mark = mark_of(*impression);
        }
        self.members.push(Member { payload: view.payload.clone(), impression_id: view.impression_id });
    }
}

fn mark_of(impression: u64) -> u32 {
    impression as u32
}

#[derive(Debug)]
pub(super) struct Groups {
    span_ms: i64,
    max_views: usize,
    max_bytes: usize,
    /// Of the [`Config`].
    sampled_below: Option<u64>,
    slots: Vec<Option<Group>>,
    free: Vec<u32>,
    by_request: HashTable<u32>,
    /// By request time, then first offset.
    by_end: BTreeMap<(i64, i64), u32>,
    by_offset: BTreeMap<i64, u32>,
    views: usize,
    bytes: usize,
}

impl Groups {
    pub fn new(config: &Config) -> Groups {
        Groups {
            span_ms: config.join.group_span_ms,
            max_views: config.join.max_group_views,
            max_bytes: config.join.max_group_bytes,
            sampled_below: config.sampled_below,
            slots: Vec::new(),
            free: Vec::new(),
            by_request: HashTable::new(),
            by_end: BTreeMap::new(),
            by_offset: BTreeMap::new(),
            views: 0,
            bytes: 0,
        }
    }

    pub fn open(&self) -> usize {
        self.by_offset.len()
    }

    /// Views in open groups.
    pub fn views(&self) -> usize {
        self.views
    }

    pub fn bytes(&self) -> usize {
        self.bytes + self.views * OVERHEAD_BYTES + self.open() * GROUP_OVERHEAD_BYTES
    }

    /// The first offset of the oldest open group.
    pub fn oldest(&self) -> Option<i64> {
        self.by_offset.first_key_value().map(|(offset, _)| *offset)
    }

    /// The stream time that the view's group is open up to.
    pub fn ends_at(&self, view: &View) -> i64 {
        view.request_time_ms.saturating_add(self.span_ms)
    }

    /// Offers a view, after stream time was moved to `stream_time_ms` by it and the groups that
    /// ended were closed.
    pub fn admit(&mut self, offset: i64, keyed: &KeyedView, stream_time_ms: i64) -> Admission {
        let KeyedView { view, request: RequestKey { sample, hash }, .. } = keyed;
        if self.sampled_below.is_some_and(|bound| *sample >= bound) {
            return Admission::Unsampled;
        }
        if stream_time_ms > self.ends_at(view) {
            return Admission::AfterClose;
        }
        let slot = self.find(view, *hash);
        if let Some(group) = slot.and_then(|slot| self.slots[slot as usize].as_mut()) {
            if group.holds(keyed) {
                return Admission::Again;
            }
            let fits = group.len() < self.max_views && group.bytes + view.payload.len() <= self.max_bytes;
            if group.is_full || !fits {
                group.is_full = true;
                return Admission::Full;
            }
            group.push(keyed);
        } else if view.payload.len() > self.max_bytes || self.max_views == 0 {
            return Admission::Full;
        } else {
            let mut group = Group::new(offset, view, *hash);
            group.push(keyed);
            self.insert(group);
        }
        self.views += 1;
        self.bytes += view.payload.len();
        Admission::Admitted
    }

    /// Takes the next group, by request time, that stream time has passed.
    pub fn pop_ended(&mut self, stream_time_ms: i64) -> Option<Group> {
        let (&(request_time_ms, _), &slot) = self.by_end.first_key_value()?;
        (stream_time_ms > request_time_ms.saturating_add(self.span_ms)).then(|| self.remove(slot))
    }

    /// Pushes out the group with the lowest first offset.
    pub fn evict(&mut self) -> Option<Group> {
        let (_, &slot) = self.by_offset.first_key_value()?;
        Some(self.remove(slot))
    }

    fn find(&self, view: &View, hash: u64) -> Option<u32> {
        let is_of = |&slot: &u32| self.slots[slot as usize].as_ref().is_some_and(|group| group.is_of(view));
        self.by_request.find(hash, is_of).copied()
    }

    fn insert(&mut self, group: Group) {
        let (hash, first_offset, request_time_ms) = (group.hash, group.first_offset, group.request_time_ms);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(group);
                slot
            }
            None => {
                self.slots.push(Some(group));
                u32::try_from(self.slots.len() - 1).expect("join.max_waiting_records is below 2^32")
            }
        };
        let slots = &self.slots;
        let hash_of = |&slot: &u32| slots[slot as usize].as_ref().map_or(0, |group| group.hash);
        self.by_request.insert_unique(hash, slot, hash_of);
        self.by_end.insert((request_time_ms, first_offset), slot);
        self.by_offset.insert(first_offset, slot);
    }

    fn remove(&mut self, slot: u32) -> Group {
        let group = self.slots[slot as usize].take().expect("an indexed slot holds a group");
        if let Ok(entry) = self.by_request.find_entry(group.hash, |&other| other == slot) {
            entry.remove();
        }
        self.by_end.remove(&(group.request_time_ms, group.first_offset));
        self.by_offset.remove(&group.first_offset);
        self.free.push(slot);
        self.views -= group.len();
        self.bytes -= group.bytes;
        group
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::contract::v1::{BehaviorEvent, Features};
    use crate::contract::{InputRecord, Side};
    use crate::join::Judged;
    use crate::join::judged::Verdict;
    use crate::settings::Settings;

    fn config() -> Config {
        let mut settings = Settings::default();
        settings.features.dense = Vec::new();
        Config::new(&settings, 1)
    }

    fn keyed(config: &Config, user_id: &str, request_id: &str, impression: u32) -> KeyedView {
        let event = BehaviorEvent {
            impression_id: format!("impression-{impression}"),
            user_id: user_id.to_owned(),
            video_id: "video".to_owned(),
            request_id: request_id.to_owned(),
            event_time_ms: 7,
            request_time_ms: 7,
            features: Some(Features { schema_version: 1, ..Features::default() }),
            ..BehaviorEvent::default()
        };
        let record = InputRecord {
            partition: 0,
            offset: 0,
            timestamp_ms: Some(7),
            key: Some(Bytes::copy_from_slice(user_id.as_bytes())),
            payload: Some(event.encode_to_vec().into()),
        };
        match Judged::new(config, Side::Views, record).verdict {
            Verdict::View(view) => view.expect("a valid view"),
            Verdict::Response(_) => unreachable!("it is a view"),
        }
    }

    /// Ids of up to 128 bytes, and more members than have marks.
    #[test]
    fn a_group_knows_its_views_again_whatever_their_number_and_the_length_of_their_ids() {
        let config = config();
        let mut groups = Groups::new(&config);
        let ids = [1, 36, 37, 128].map(|length| "a".repeat(length));
        let requests: Vec<(&str, &str)> =
            ids.iter().flat_map(|user| ids.iter().map(move |request| (&**user, &**request))).collect();
        for expected in [Admission::Admitted, Admission::Again] {
            for impression in 0..2 * MARKS as u32 {
                for (offset, &(user_id, request_id)) in (0..).zip(&requests) {
                    let view = keyed(&config, user_id, request_id, impression);
                    assert_eq!(groups.admit(offset, &view, 7), expected, "{user_id} {request_id}");
                }
            }
        }
        assert_eq!((groups.open(), groups.views()), (requests.len(), requests.len() * 2 * MARKS));
    }
}
