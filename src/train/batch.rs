//! Micro-batches: closed by size or by age, whichever comes first.

use std::time::{Duration, Instant};

/// Collects items, in order, until there are `max_items` of them or the first is `max_age` old.
/// The caller says what time it is. `T` is a group with whatever the caller needs beside it.
#[derive(Debug)]
pub struct MicroBatcher<T> {
    max_items: usize,
    max_age: Duration,
    items: Vec<T>,
    /// When the first of `items` came; None exactly when there are none.
    opened_at: Option<Instant>,
}

impl<T> MicroBatcher<T> {
    /// `max_items` is at least 1.
    pub fn new(max_items: usize, max_age: Duration) -> MicroBatcher<T> {
        MicroBatcher { max_items: max_items.max(1), max_age, items: Vec::new(), opened_at: None }
    }

    /// Adds an item; the whole batch when that fills it.
    pub fn push(&mut self, now: Instant, item: T) -> Option<Vec<T>> {
        self.opened_at.get_or_insert(now);
        self.items.push(item);
        (self.items.len() >= self.max_items).then(|| self.close())
    }

    /// The batch, if it is old enough.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<T>> {
        let due = self.deadline().is_some_and(|deadline| now >= deadline);
        due.then(|| self.close())
    }

    /// When [`poll`](Self::poll) will give the batch; None while it is empty.
    pub fn deadline(&self) -> Option<Instant> {
        self.opened_at.map(|opened_at| opened_at + self.max_age)
    }

    /// Whatever there is, at once: a full reservoir or the end of the input. May be empty.
    pub fn close(&mut self) -> Vec<T> {
        self.opened_at = None;
        std::mem::take(&mut self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_closes_by_size_or_by_age_of_its_first_item_whichever_comes_first() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut batcher = MicroBatcher::new(3, Duration::from_millis(200));
        assert_eq!((batcher.deadline(), batcher.poll(at(999))), (None, None));
        assert_eq!(batcher.push(at(0), 'a'), None);
        assert_eq!(batcher.push(at(150), 'b'), None);
        assert_eq!(batcher.poll(at(199)), None);
        assert_eq!(batcher.poll(at(200)), Some(vec!['a', 'b']));
        assert_eq!(batcher.push(at(210), 'c'), None);
        assert_eq!(batcher.deadline(), Some(at(410)));
        assert_eq!(batcher.push(at(220), 'd'), None);
        assert_eq!(batcher.push(at(230), 'e'), Some(vec!['c', 'd', 'e']));
        assert_eq!((batcher.close(), batcher.deadline()), (vec![], None));
    }
}
