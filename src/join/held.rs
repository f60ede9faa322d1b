//! Records that are held, by impression and user, and in offset order.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const NONE: u32 = u32::MAX;
/// What a held record costs besides its bytes: slot, table and deadline.
const OVERHEAD_BYTES: usize = 192;

/// The identity of an impression: its id and its user's. Two users' views never meet, whatever
/// their impression ids, or the join would depend on the number of partitions.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImpressionKey<'a> {
    pub impression_id: &'a [u8],
    pub user_id: &'a [u8],
    hash: u64,
}

impl<'a> ImpressionKey<'a> {
    pub fn new(impression_id: &'a [u8], user_id: &'a [u8]) -> ImpressionKey<'a> {
        let hash = xxh3_64_with_seed(impression_id, xxh3_64(user_id));
        ImpressionKey { impression_id, user_id, hash }
    }

    /// The same of ids whose hash is known.
    pub fn hashed(hash: u64, impression_id: &'a [u8], user_id: &'a [u8]) -> ImpressionKey<'a> {
        ImpressionKey { impression_id, user_id, hash }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}

pub(super) trait Hold {
    fn offset(&self) -> i64;
    /// Impression id and user id.
    fn ids(&self) -> (&[u8], &[u8]);
    /// Bytes that are kept alive.
    fn held_bytes(&self) -> usize;
}

#[derive(Debug)]
struct Slot<T> {
    /// `None` in a free slot.
    record: Option<T>,
    hash: u64,
    older: u32,
    newer: u32,
    /// Neighbors among the records of the same impression, in no order.
    previous: u32,
    next: u32,
}

/// A store whose records are found by impression and let go in any order. Slots are reused.
#[derive(Debug)]
pub(super) struct Held<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// For each impression the slot of one of its records.
    heads: HashTable<u32>,
    oldest: u32,
    newest: u32,
    bytes: usize,
}

impl<T: Hold> Held<T> {
    pub fn new() -> Held<T> {
        Held {
            slots: Vec::new(),
            free: Vec::new(),
            heads: HashTable::new(),
            oldest: NONE,
            newest: NONE,
            bytes: 0,
        }
    }

    /// Makes room for so many more records.
    pub fn reserve(&mut self, records: usize) {
        let Held { slots, heads, .. } = self;
        slots.reserve(records);
        heads.reserve(records, |&head| slots[head as usize].hash);
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record in a slot; `None` when the slot is free.
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.record.as_ref()
    }

    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// The slots of an impression's records.
    pub fn of<'a>(&'a self, key: &ImpressionKey<'_>) -> impl Iterator<Item = u32> + use<'a, T> {
        let head = self.heads.find(key.hash, |&slot| self.is_of(slot, key)).copied();
        std::iter::successors(head, |&slot| {
            let next = self.slots[slot as usize].next;
            (next != NONE).then_some(next)
        })
    }

    /// Holds a record whose offset is greater than every other.
    pub fn insert(&mut self, hash: u64, record: T) -> u32 {
        self.bytes += record.held_bytes() + OVERHEAD_BYTES;
        let slot =
            Slot { record: Some(record), hash, older: self.newest, newer: NONE, previous: NONE, next: NONE };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("join.max_waiting_records is below 2^32")
            }
        };
        match self.newest {
            NONE => self.oldest = place,
            newest => self.slots[newest as usize].newer = place,
        }
        self.newest = place;
        self.link(place);
        place
    }

    /// Lets a record go. The slot holds one.
    pub fn remove(&mut self, place: u32) -> T {
        self.unlink(place);
        let Slot { older, newer, .. } = self.slots[place as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        self.free.push(place);
        let record = self.slots[place as usize].record.take().expect("a slot that is in use holds a record");
        self.bytes -= record.held_bytes() + OVERHEAD_BYTES;
        record
    }

    /// Changes a record, except for its offset and ids.
    pub fn update<R>(&mut self, place: u32, change: impl FnOnce(&mut T) -> R) -> R {
        let record =
            self.slots[place as usize].record.as_mut().expect("a slot that is in use holds a record");
        self.bytes -= record.held_bytes();
        let result = change(record);
        self.bytes += record.held_bytes();
        result
    }

    fn is_of(&self, slot: u32, key: &ImpressionKey<'_>) -> bool {
        self.get(slot).is_some_and(|record| record.ids() == (key.impression_id, key.user_id))
    }

    /// Makes a record the head of its impression.
    fn link(&mut self, place: u32) {
        let Held { slots, heads, .. } = self;
        let ids = |slot: u32| slots[slot as usize].record.as_ref().map(T::ids);
        let hash = slots[place as usize].hash;
        match heads.entry(hash, |&head| ids(head) == ids(place), |&head| slots[head as usize].hash) {
            TableEntry::Occupied(mut entry) => {
                let head = std::mem::replace(entry.get_mut(), place);
                slots[place as usize].next = head;
                slots[head as usize].previous = place;
            }
            TableEntry::Vacant(entry) => {
                entry.insert(place);
            }
        }
    }

    fn unlink(&mut self, place: u32) {
        let Slot { hash, previous, next, .. } = self.slots[place as usize];
        if next != NONE {
            self.slots[next as usize].previous = previous;
        }
        if previous != NONE {
            self.slots[previous as usize].next = next;
        } else if let Ok(mut entry) = self.heads.find_entry(hash, |&head| head == place) {
            if next == NONE {
                entry.remove();
            } else {
                *entry.get_mut() = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Record {
        offset: i64,
        impression: Vec<u8>,
    }

    impl Hold for Record {
        fn offset(&self) -> i64 {
            self.offset
        }

        fn ids(&self) -> (&[u8], &[u8]) {
            (&self.impression, b"user")
        }

        fn held_bytes(&self) -> usize {
            self.impression.len()
        }
    }

    proptest! {
        #[test]
        fn the_store_agrees_with_a_plain_map(
            steps in prop::collection::vec((0u8..6, any::<bool>(), any::<prop::sample::Index>()), 1..200),
        ) {
            let mut held = Held::new();
            let mut plain: BTreeMap<i64, (u32, Record)> = BTreeMap::new();
            for (offset, (id, removes, which)) in (0i64..).zip(steps) {
                if removes && !plain.is_empty() {
                    let at = *plain.keys().nth(which.index(plain.len())).unwrap();
                    let (slot, record) = plain.remove(&at).unwrap();
                    prop_assert_eq!(held.remove(slot), record);
                } else {
                    let record = Record { offset, impression: vec![b'i', id] };
                    let key = ImpressionKey::new(&record.impression, b"user");
                    let slot = held.insert(key.hash(), record.clone());
                    plain.insert(offset, (slot, record));
                }
                prop_assert_eq!(held.len(), plain.len());
                let oldest = held.oldest().and_then(|slot| held.get(slot)).map(Hold::offset);
                prop_assert_eq!(oldest, plain.keys().next().copied());
                for id in 0..6 {
                    let impression = [b'i', id];
                    let mut found: Vec<_> = held.of(&ImpressionKey::new(&impression, b"user")).collect();
                    let mut expected: Vec<_> = plain
                        .values()
                        .filter(|(_, record)| record.impression == impression)
                        .map(|(slot, _)| *slot)
                        .collect();
                    found.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
            while let Some(oldest) = held.oldest() {
                held.remove(oldest);
            }
            prop_assert_eq!(held.bytes(), 0);
        }
    }

    #[test]
    fn two_users_with_one_impression_id_are_two_impressions() {
        let mut held = Held::new();
        let record = Record { offset: 0, impression: b"i".to_vec() };
        held.insert(ImpressionKey::new(b"i", b"user").hash(), record);
        assert_eq!(held.of(&ImpressionKey::new(b"i", b"user")).count(), 1);
        assert_eq!(held.of(&ImpressionKey::new(b"i", b"another")).count(), 0);
    }
}
