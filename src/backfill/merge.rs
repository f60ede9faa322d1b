//! The order of a replay: all partitions that are read, merged by event time. Pure.
//!
//! Within a partition the order is that of the log, since what is late depends on it. Across
//! partitions a record stands where the stream time of its partition stands with it: the greatest event
//! time so far, which only grows. So all records have one order, (stream time, number of the source,
//! offset), which depends neither on the sizes of fetches nor on which partition is read first, and no
//! partition runs ahead of another one. A plan numbers views before responses, and partition by partition.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What the caller must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Read the next record of the source with this number, then [`Merge::give`] it; or, if there is none
    /// any more, [`Merge::end`] it.
    Read(usize),
    /// Take this record of the source with this number: it is the next of all.
    Take(usize, T),
    /// There is no record any more.
    Over,
}

/// A merge of sources, one record of each at a time.
#[derive(Debug)]
pub struct Merge<T> {
    inputs: Vec<Input<T>>,
    /// Where the records that are held stand: the stream time of the source, the record included, and its
    /// number.
    held: BinaryHeap<Reverse<(i64, usize)>>,
    /// Inputs of which the next record is not known.
    unknown: Vec<usize>,
    until_ms: i64,
}

#[derive(Debug)]
struct Input<T> {
    /// The least of all before any record had a time.
    stream_time_ms: i64,
    record: Option<T>,
    is_over: bool,
}

impl<T> Merge<T> {
    /// Of each source up to the first record, with it, at which its stream time is above `until_ms`.
    pub fn new(sources: usize, until_ms: i64) -> Merge<T> {
        let input = |_| Input { stream_time_ms: i64::MIN, record: None, is_over: false };
        Merge {
            inputs: (0..sources).map(input).collect(),
            held: BinaryHeap::new(),
            unknown: (0..sources).collect(),
            until_ms,
        }
    }

    /// What to do next. The same until it is done.
    pub fn step(&mut self) -> Step<T> {
        if let Some(&number) = self.unknown.last() {
            return Step::Read(number);
        }
        let Some(Reverse((_, number))) = self.held.pop() else { return Step::Over };
        let input = &mut self.inputs[number];
        if !input.is_over {
            self.unknown.push(number);
        }
        match input.record.take() {
            Some(record) => Step::Take(number, record),
            None => Step::Over,
        }
    }

    /// The record that [`Step::Read`] asked for. `event_time_ms`: none of a record that does not move
    /// stream time.
    pub fn give(&mut self, number: usize, event_time_ms: Option<i64>, record: T) {
        self.unknown.retain(|&unknown| unknown != number);
        let input = &mut self.inputs[number];
        input.stream_time_ms = input.stream_time_ms.max(event_time_ms.unwrap_or(i64::MIN));
        input.is_over = input.stream_time_ms > self.until_ms;
        input.record = Some(record);
        self.held.push(Reverse((input.stream_time_ms, number)));
    }

    /// The source has no record any more.
    pub fn end(&mut self, number: usize) {
        self.unknown.retain(|&unknown| unknown != number);
        self.inputs[number].is_over = true;
    }

    /// Whether all records of the source have been taken.
    pub fn is_over(&self, number: usize) -> bool {
        let input = &self.inputs[number];
        input.is_over && input.record.is_none()
    }

    /// The greatest event time given of a source; none before the first.
    pub fn stream_time_ms(&self, number: usize) -> Option<i64> {
        Some(self.inputs[number].stream_time_ms).filter(|&time_ms| time_ms > i64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    /// Offset and event time of each record of a partition.
    type Log = Vec<(i64, Option<i64>)>;

    /// Source and offset of all records in the order in which they are taken; the sources are read from
    /// the last one of `first` on.
    fn merged(first: &[usize], logs: &[Log], until_ms: i64) -> Vec<(usize, i64)> {
        let mut merge = Merge::new(logs.len(), until_ms);
        merge.unknown = first.to_vec();
        let mut next = vec![0; logs.len()];
        let mut order = Vec::new();
        loop {
            match merge.step() {
                Step::Read(number) => match logs[number].get(next[number]) {
                    Some(&(offset, time_ms)) => {
                        next[number] += 1;
                        merge.give(number, time_ms, offset);
                    }
                    None => merge.end(number),
                },
                Step::Take(number, offset) => order.push((number, offset)),
                Step::Over => return order,
            }
        }
    }

    fn log(random: &mut StdRng) -> Log {
        let mut offset = random.random_range(0..1_000);
        let records = random.random_range(0..60);
        let record = |_| {
            offset += random.random_range(1..4);
            let time_ms = random.random_range(0..40) + offset / 2;
            (offset, random.random_bool(0.9).then_some(time_ms))
        };
        (0..records).map(record).collect()
    }

    /// Every record with the greatest event time of its log up to it, sorted.
    fn sorted(logs: &[Log]) -> Vec<(usize, i64)> {
        let mut all = Vec::new();
        for (number, log) in logs.iter().enumerate() {
            let mut greatest_ms = i64::MIN;
            for &(offset, time_ms) in log {
                greatest_ms = greatest_ms.max(time_ms.unwrap_or(i64::MIN));
                all.push((greatest_ms, number, offset));
            }
        }
        all.sort();
        all.into_iter().map(|(_, number, offset)| (number, offset)).collect()
    }

    #[test]
    fn invariant_10_the_order_is_one_whatever_is_read_first() {
        let seed = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..100 {
            let logs: Vec<Log> = (0..6).map(|_| log(&mut random)).collect();
            let mut first: Vec<usize> = (0..6).collect();
            first.shuffle(&mut random);
            assert_eq!(merged(&first, &logs, i64::MAX), sorted(&logs));
        }
    }

    #[test]
    fn records_of_one_time_come_by_source_and_offset() {
        let logs = [vec![(7, Some(5))], vec![(3, Some(5)), (4, Some(5))], vec![(1, Some(5))], vec![]];
        assert_eq!(merged(&[0, 1, 2, 3], &logs, i64::MAX), [(0, 7), (1, 3), (1, 4), (2, 1)]);
    }

    #[test]
    fn an_old_record_stands_where_its_partition_stands() {
        let logs = [vec![(0, Some(100)), (1, Some(2)), (2, None)], vec![(0, Some(50)), (1, Some(101))]];
        assert_eq!(merged(&[0, 1], &logs, i64::MAX), [(1, 0), (0, 0), (0, 1), (0, 2), (1, 1)]);
    }

    #[test]
    fn a_source_ends_with_the_record_that_passes_the_end() {
        let logs = [vec![(0, Some(10)), (1, Some(11)), (2, Some(9)), (3, Some(12))], vec![(0, Some(10))]];
        assert_eq!(merged(&[0, 1], &logs, 10), [(0, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn a_source_that_is_not_known_holds_all_others_back() {
        let mut merge = Merge::new(2, i64::MAX);
        merge.give(1, Some(5), "response");
        assert_eq!(merge.step(), Step::Read(0));
        assert_eq!(merge.step(), Step::Read(0));
        merge.end(0);
        assert_eq!(merge.step(), Step::Take(1, "response"));
        assert!(!merge.is_over(1) && merge.is_over(0));
    }
}
