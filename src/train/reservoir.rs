//! The label reservoir: the last preference pairs, each learned a bounded number of times, so that
//! the density of answers alone does not decide how strongly they align the model.

use std::collections::VecDeque;

use prost::Message;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use crate::contract::v1::Features;
use crate::model::{HostTensor, TensorMap};

use super::report::{PairSource, ReservoirFigures};

/// How often a pair may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// 16 until 100 pairs have arrived, 8 until 200, then 4.
    Auto,
    Fixed(u32),
}

impl Reuse {
    fn limit(self, arrived: u64) -> u32 {
        match self {
            Reuse::Fixed(limit) => limit,
            Reuse::Auto if arrived < 100 => 16,
            Reuse::Auto if arrived < 200 => 8,
            Reuse::Auto => 4,
        }
    }
}

/// The two views of a pair as they were logged: how they are normalized may still change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredPair {
    pub(super) chosen: Features,
    pub(super) rejected: Features,
    /// None only for a pair from a checkpoint that did not keep it.
    source: Option<PairSource>,
    uses: u32,
    /// Steps taken when it came.
    arrived_at: u64,
}

impl StoredPair {
    pub(super) fn new(
        chosen: Features,
        rejected: Features,
        source: PairSource,
        arrived_at: u64,
    ) -> StoredPair {
        StoredPair { chosen, rejected, source: Some(source), uses: 0, arrived_at }
    }
}

/// A ring of pairs in the order of arrival. Pairs never used are drawn first in, first out, so the
/// used ones always lie before them.
pub(super) struct Reservoir {
    capacity: usize,
    /// Bq
    batch_pairs: usize,
    reuse: Reuse,
    pairs: VecDeque<StoredPair>,
    /// So many pairs at the front have been drawn.
    used: usize,
    arrived: u64,
    /// Pairs drawn at least once, but for those [lost](Reservoir::lose).
    learned: u64,
    rng: ChaCha8Rng,
}

/// Pairs drawn for one step: positions in the ring.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Draw {
    pub(super) positions: Vec<usize>,
    /// So many of them, the first, had never been drawn before.
    pub(super) new: usize,
}

impl Reservoir {
    /// `capacity` is at least `batch_pairs`.
    pub(super) fn new(capacity: usize, batch_pairs: usize, reuse: Reuse, seed: u64) -> Reservoir {
        /// Apart from the streams of the initialization, which are hashes of names.
        const STREAM: u64 = 1;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        Reservoir {
            capacity,
            batch_pairs,
            reuse,
            pairs: VecDeque::new(),
            used: 0,
            arrived: 0,
            learned: 0,
            rng,
        }
    }

    /// Whether every place holds a pair that was never used.
    pub(super) fn is_full(&self) -> bool {
        self.pairs.len() >= self.capacity && self.used == 0
    }

    /// Takes a pair in, in the place of the oldest used one where needed. The caller has seen that
    /// it [is not full](Self::is_full).
    pub(super) fn push(&mut self, pair: StoredPair) {
        while self.pairs.len() >= self.capacity && self.used > 0 {
            self.pairs.pop_front();
            self.used -= 1;
        }
        self.pairs.push_back(pair);
        self.arrived += 1;
    }

    /// Draws max(Bq, never used / 8) pairs: never-used ones first, the rest uniformly without
    /// replacement among those used fewer times than allowed. Fewer than Bq eligible pairs: none.
    pub(super) fn draw(&mut self) -> Draw {
        let never_used = self.pairs.len() - self.used;
        let limit = self.reuse.limit(self.arrived);
        let reusable: Vec<usize> = (0..self.used).filter(|&i| self.pairs[i].uses < limit).collect();
        if never_used + reusable.len() < self.batch_pairs {
            return Draw::default();
        }
        let wanted = self.batch_pairs.max(never_used / 8);
        let new = wanted.min(never_used);
        let rest = (wanted - new).min(reusable.len());
        let mut positions: Vec<usize> = (self.used..self.used + new).collect();
        if rest > 0 {
            positions.extend(index::sample(&mut self.rng, reusable.len(), rest).iter().map(|i| reusable[i]));
        }
        for &position in &positions {
            self.pairs[position].uses += 1;
        }
        self.used += new;
        self.learned += new as u64;
        Draw { positions, new }
    }

    /// Takes out the pairs that the last [`draw`](Self::draw), which is `draw`, drew for the first
    /// time: nothing was learned from them, and what named them as passed over must stay true. Their
    /// sources, None where it is not known.
    pub(super) fn lose(&mut self, draw: &Draw) -> Vec<Option<PairSource>> {
        let new = self.used - draw.new..self.used;
        self.used = new.start;
        self.learned -= draw.new as u64;
        self.pairs.drain(new).map(|pair| pair.source).collect()
    }

    /// Features of drawn pairs: the chosen views, then the rejected ones in the same order.
    pub(super) fn views(&self, draw: &Draw) -> Vec<&Features> {
        let chosen = draw.positions.iter().map(|&position| &self.pairs[position].chosen);
        chosen.chain(draw.positions.iter().map(|&position| &self.pairs[position].rejected)).collect()
    }

    /// Where drawn pairs lie, in the order of the draw; None where it is not known.
    #[cfg(feature = "research")]
    pub(super) fn sources(&self, draw: &Draw) -> Vec<Option<PairSource>> {
        draw.positions.iter().map(|&position| self.pairs[position].source).collect()
    }

    /// What it holds when so many steps were taken.
    pub(super) fn figures(&self, steps: u64) -> ReservoirFigures {
        let mean = |sum: f64| sum / self.pairs.len().max(1) as f64;
        let draws = self.pairs.iter().map(|pair| f64::from(pair.uses)).sum();
        let age = self.pairs.iter().map(|pair| steps.saturating_sub(pair.arrived_at) as f64).sum();
        ReservoirFigures {
            never_used: self.pairs.len() - self.used,
            used: self.used,
            mean_draws: mean(draws),
            mean_age_steps: mean(age),
        }
    }

    /// Pairs that have ever come.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Bq
    pub(super) fn batch_pairs(&self) -> usize {
        self.batch_pairs
    }

    pub(super) fn learned(&self) -> u64 {
        self.learned
    }

    pub(super) fn save(&self) -> Vec<HostTensor> {
        let mut records = Vec::new();
        for pair in &self.pairs {
            // A vector grows as needed, so encoding cannot fail.
            for features in [&pair.chosen, &pair.rejected] {
                features.encode_length_delimited(&mut records).expect("a vector has room");
            }
        }
        let uses: Vec<i64> = self.pairs.iter().map(|pair| pair.uses.into()).collect();
        let sources: Vec<i64> = self.pairs.iter().flat_map(|pair| saved_source(pair.source)).collect();
        let arrivals: Vec<i64> = self.pairs.iter().map(|pair| pair.arrived_at as i64).collect();
        let mut rng = self.rng.get_seed().to_vec();
        rng.extend(self.rng.get_stream().to_le_bytes());
        rng.extend(self.rng.get_word_pos().to_le_bytes());
        vec![
            HostTensor::from_i64(ARRIVALS, &arrivals),
            HostTensor::from_i64(COUNTS, &[self.arrived as i64, self.learned as i64]),
            HostTensor::from_u8(RECORDS, records),
            HostTensor::from_u8(RNG, rng),
            HostTensor::from_i64(SOURCES, &sources),
            HostTensor::from_i64(USES, &uses),
        ]
    }

    /// Puts the saved state, of after `steps` steps, in place of this one's; `usable` looks at each
    /// view. None when the tensors do not fit, which they remember.
    pub(super) fn load(
        mut self,
        tensors: &mut TensorMap,
        steps: u64,
        usable: impl Fn(&Features) -> bool,
    ) -> Option<Reservoir> {
        let counts = tensors.take_i64(COUNTS, Some(2));
        let records = tensors.take_u8(RECORDS, None);
        let rng = tensors.take_u8(RNG, Some(56));
        let uses = tensors.take_i64(USES, None);
        let (counts, mut records, rng, uses) = (counts?, records?, rng?, uses?);
        // Older checkpoints lack it; all else goes on from them as it did.
        let sources = match tensors.has(SOURCES) {
            true => tensors.take_i64(SOURCES, Some(2 * uses.len()))?,
            false => vec![NO_SOURCE; 2 * uses.len()],
        };
        let arrivals = match tensors.has(ARRIVALS) {
            true => tensors.take_i64(ARRIVALS, Some(uses.len()))?,
            false => vec![steps.cast_signed(); uses.len()],
        };
        for ((&uses, &source), arrived_at) in uses.iter().zip(sources.as_chunks().0).zip(arrivals) {
            let mut next = || Features::decode_length_delimited(&mut records).ok().filter(&usable);
            let Some((chosen, rejected)) = next().and_then(|chosen| Some((chosen, next()?))) else {
                tensors.fault(format!("{RECORDS} does not hold the views of {USES} for this model"));
                return None;
            };
            let source = loaded_source(source);
            self.pairs.push_back(StoredPair {
                chosen,
                rejected,
                source,
                uses: uses as u32,
                arrived_at: arrived_at as u64,
            });
        }
        self.used = uses.iter().take_while(|uses| **uses > 0).count();
        [self.arrived, self.learned] = [counts[0] as u64, counts[1] as u64];
        self.rng = ChaCha8Rng::from_seed(rng[..32].try_into().ok()?);
        self.rng.set_stream(u64::from_le_bytes(rng[32..40].try_into().ok()?));
        self.rng.set_word_pos(u128::from_le_bytes(rng[40..].try_into().ok()?));
        Some(self)
    }
}

const ARRIVALS: &str = "training.reservoir.arrivals";
const COUNTS: &str = "training.reservoir.counts";
const RECORDS: &str = "training.reservoir.records";
const RNG: &str = "training.reservoir.rng";
/// Partition and offset of each pair in turn. Of pairs that come from elsewhere than the logs that are read
/// now it is left out of the state.
pub(crate) const SOURCES: &str = "training.reservoir.sources";
const USES: &str = "training.reservoir.uses";

/// Stands for both where the source is not known; neither is ever negative.
const NO_SOURCE: i64 = -1;

fn saved_source(source: Option<PairSource>) -> [i64; 2] {
    source.map_or([NO_SOURCE; 2], |source| [source.partition.into(), source.offset])
}

fn loaded_source([partition, offset]: [i64; 2]) -> Option<PairSource> {
    let partition = i32::try_from(partition).ok().filter(|partition| *partition >= 0)?;
    Some(PairSource { partition, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(id: u64) -> StoredPair {
        let view = |value| Features { dense: vec![value], ..Default::default() };
        StoredPair::new(view(id as f32), view(-(id as f32)), source(id), id / 8)
    }

    fn source(id: u64) -> PairSource {
        PairSource { partition: (id % 2) as i32, offset: 10 * id as i64 }
    }

    fn filled(pairs: u64, capacity: usize, reuse: Reuse) -> Reservoir {
        let mut reservoir = Reservoir::new(capacity, 4, reuse, 1);
        (0..pairs).for_each(|id| reservoir.push(pair(id)));
        reservoir
    }

    #[test]
    fn fewer_eligible_pairs_than_a_batch_give_none() {
        assert_eq!(filled(3, 64, Reuse::Fixed(1)).draw(), Draw::default());
        let mut reservoir = filled(6, 64, Reuse::Fixed(1));
        assert_eq!(reservoir.draw().positions, [0, 1, 2, 3]);
        assert_eq!(reservoir.draw(), Draw::default(), "two are left, and none may be used again");
    }

    #[test]
    fn pairs_never_used_come_first_in_order_and_a_backlog_is_drawn_faster() {
        let mut reservoir = filled(64, 64, Reuse::Fixed(2));
        assert_eq!(reservoir.draw(), Draw { positions: (0..8).collect(), new: 8 });
        assert_eq!(reservoir.draw(), Draw { positions: (8..15).collect(), new: 7 });
        assert_eq!(reservoir.learned(), 15);
    }

    #[test]
    fn a_pair_is_drawn_at_most_as_often_as_allowed_and_never_twice_at_once() {
        let mut reservoir = filled(10, 64, Reuse::Fixed(3));
        let mut uses = vec![0; 10];
        loop {
            let draw = reservoir.draw();
            if draw.positions.is_empty() {
                break;
            }
            let mut distinct = draw.positions.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), draw.positions.len());
            draw.positions.iter().for_each(|&position| uses[position] += 1);
        }
        assert!(uses.iter().all(|&uses| (1..=3).contains(&uses)), "{uses:?}");
        assert!(uses.iter().sum::<u32>() > 26, "{uses:?}");
    }

    #[test]
    fn the_allowed_reuse_falls_as_pairs_arrive() {
        let limits = [0, 99, 100, 199, 200].map(|arrived| Reuse::Auto.limit(arrived));
        assert_eq!(limits, [16, 16, 8, 8, 4]);
    }

    #[test]
    fn a_full_reservoir_holds_only_unused_pairs_and_the_oldest_used_pair_makes_room() {
        let mut reservoir = filled(8, 8, Reuse::Fixed(4));
        assert!(reservoir.is_full());
        reservoir.draw();
        assert!(!reservoir.is_full());
        (8..12).for_each(|id| reservoir.push(pair(id)));
        assert!(reservoir.is_full());
        assert_eq!(reservoir.pairs[0], pair(4), "0 to 3 had been used");
    }

    #[test]
    fn what_a_lost_draw_drew_for_the_first_time_is_never_drawn_again() {
        let mut reservoir = filled(6, 64, Reuse::Fixed(3));
        assert_eq!(reservoir.draw().new, 4);
        let draw = reservoir.draw();
        assert_eq!((draw.new, draw.positions.len()), (2, 4), "two of them were learned before");
        assert_eq!(reservoir.lose(&draw), [4, 5].map(|id| Some(source(id))));
        let figures = reservoir.figures(0);
        assert_eq!((reservoir.learned(), figures.never_used, figures.used), (4, 0, 4));
        (6..10).for_each(|id| reservoir.push(pair(id)));
        assert_eq!(reservoir.draw(), Draw { positions: vec![4, 5, 6, 7], new: 4 });
        assert_eq!(reservoir.pairs[4].source, Some(source(6)));
    }

    #[test]
    fn a_checkpoint_from_before_sources_were_kept_is_gone_on_with() {
        let mut reservoir = filled(6, 64, Reuse::Fixed(3));
        let mut tensors = reservoir.save();
        tensors.retain(|tensor| tensor.name != SOURCES);
        let empty = Reservoir::new(64, 4, Reuse::Fixed(3), 7);
        let mut restored = empty.load(&mut TensorMap::new(tensors), 0, |_| true).expect("it fits");
        restored.push(pair(6));
        let draws = [restored.draw(), restored.draw()];
        assert_eq!(
            draws,
            [reservoir.draw(), {
                reservoir.push(pair(6));
                reservoir.draw()
            }]
        );
        assert_eq!(restored.lose(&draws[1]), [None, None, Some(source(6))]);
    }

    #[test]
    fn a_saved_reservoir_draws_on_as_if_never_saved() {
        let mut reservoir = filled(40, 64, Reuse::Auto);
        (0..9).for_each(|_| drop(reservoir.draw()));
        let mut tensors = TensorMap::new(reservoir.save());
        let empty = Reservoir::new(64, 4, Reuse::Auto, 7);
        let mut restored = empty.load(&mut tensors, 0, |_| true).expect("what was saved fits");
        tensors.finish().expect("nothing is left over");
        assert_eq!(restored.pairs, reservoir.pairs);
        for _ in 0..30 {
            assert_eq!(restored.draw(), reservoir.draw());
        }
        assert_eq!(restored.save(), reservoir.save());
    }

    #[test]
    fn figures_are_means_over_all_pairs_and_are_kept_in_a_checkpoint() {
        // Pairs 0 to 7 come at step 0, 8 and 9 at step 1.
        let mut reservoir = filled(10, 16, Reuse::Fixed(4));
        reservoir.draw();
        let figures = reservoir.figures(5);
        assert_eq!((figures.never_used, figures.used), (6, 4));
        assert_eq!((figures.mean_draws, figures.mean_age_steps), (0.4, (8.0 * 5.0 + 2.0 * 4.0) / 10.0));
        let mut tensors = TensorMap::new(reservoir.save());
        let loaded =
            Reservoir::new(16, 4, Reuse::Fixed(4), 9).load(&mut tensors, 0, |_| true).expect("it fits");
        assert_eq!(loaded.figures(5), figures);
        assert_eq!(Reservoir::new(16, 4, Reuse::Fixed(4), 9).figures(5), ReservoirFigures::default());
    }
}
