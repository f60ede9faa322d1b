//! From a sequence of samples to steps, by the order of the samples alone.

use crate::contract::v1;

use super::report::{BadBatch, Offered, PairSource, StepReport};
use super::trainer::Trainer;

/// What a [`Driver`] drives.
pub trait Learner {
    /// What a step tells.
    type Report;

    /// Takes a preference pair in, when it comes.
    fn offer_pair(&mut self, pair: &v1::PreferencePair, source: PairSource) -> Offered;

    /// Learns a main batch, and what is drawn from the pairs.
    ///
    /// # Errors
    /// It is passed over whole.
    fn step(&mut self, groups: &[v1::BehaviorGroup]) -> Result<Self::Report, BadBatch>;
}

impl Learner for Trainer {
    type Report = StepReport;

    fn offer_pair(&mut self, pair: &v1::PreferencePair, source: PairSource) -> Offered {
        Trainer::offer_pair(self, pair, source)
    }

    fn step(&mut self, groups: &[v1::BehaviorGroup]) -> Result<StepReport, BadBatch> {
        Trainer::step(self, groups)
    }
}

/// Learns samples strictly in the order in which they are given: a main batch closes when it has
/// `train.batch_groups` groups, or when the label reservoir is full of pairs that were never drawn.
/// Time plays no role, so equal sequences give equal models (invariant 10).
///
/// `T` says where a group came from, and comes back with the step that took it.
pub struct Driver<L, T> {
    learner: L,
    batch_groups: usize,
    sources: Vec<T>,
    /// The open main batch.
    groups: Vec<v1::BehaviorGroup>,
}

/// A main batch with what became of it.
#[derive(Debug)]
pub struct Stepped<T, R = StepReport> {
    /// As they were given, one for each of `groups`.
    pub sources: Vec<T>,
    /// Empty where pairs were learned alone.
    pub groups: Vec<v1::BehaviorGroup>,
    /// A bad batch is passed over whole.
    pub result: Result<R, BadBatch>,
}

impl<L: Learner, T> Driver<L, T> {
    /// Goes on with `learner`; `batch_groups` is at least 1.
    pub fn new(learner: L, batch_groups: usize) -> Driver<L, T> {
        Driver { learner, batch_groups: batch_groups.max(1), sources: Vec::new(), groups: Vec::new() }
    }

    /// Takes a group into the open batch; the step, if that fills it.
    pub fn take_group(&mut self, source: T, group: v1::BehaviorGroup) -> Option<Stepped<T, L::Report>> {
        self.sources.push(source);
        self.groups.push(group);
        (self.groups.len() >= self.batch_groups).then(|| self.step())
    }

    /// Offers a pair to the reservoir, when it comes. Where that is full, the open batch is learned
    /// first, also without groups, and the pair is offered again. [`Offered::Full`] even then: a
    /// checkpoint brought more pairs than the reservoir may hold now; offer it once more.
    pub fn take_pair(
        &mut self,
        pair: &v1::PreferencePair,
        source: PairSource,
    ) -> (Offered, Option<Stepped<T, L::Report>>) {
        match self.learner.offer_pair(pair, source) {
            Offered::Full => {
                let stepped = self.step();
                (self.learner.offer_pair(pair, source), Some(stepped))
            }
            offered => (offered, None),
        }
    }

    /// Learns what is open: at the end of the samples, or before something that has to come after
    /// it. None when nothing is.
    pub fn close(&mut self) -> Option<Stepped<T, L::Report>> {
        (!self.groups.is_empty()).then(|| self.step())
    }

    fn step(&mut self) -> Stepped<T, L::Report> {
        let (sources, groups) = (std::mem::take(&mut self.sources), std::mem::take(&mut self.groups));
        let result = self.learner.step(&groups);
        Stepped { sources, groups, result }
    }

    /// What has been learned so far.
    pub fn learner(&self) -> &L {
        &self.learner
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Dpo, Settings};
    use crate::train::tests::{checkpoint, group, pair, settings, with_dead_gates};

    fn small(dpo: Dpo) -> Settings {
        let mut settings = settings(dpo);
        settings.train.batch_groups = 4;
        settings.train.reservoir_pairs = 32;
        settings
    }

    fn driver(settings: &Settings) -> Driver<Trainer, u64> {
        Driver::new(Trainer::new(settings).expect("a CPU"), settings.train.batch_groups)
    }

    fn source(index: u64) -> PairSource {
        PairSource { partition: 0, offset: index as i64 }
    }

    #[test]
    fn a_batch_closes_by_size_and_what_is_open_at_the_end_is_learned() {
        let settings = small(Dpo::Live);
        let mut driver = driver(&settings);
        let stepped: Vec<_> = (0..10).filter_map(|i| driver.take_group(i, group(i))).collect();
        let sources: Vec<_> = stepped.iter().map(|stepped| &*stepped.sources).collect();
        assert_eq!(sources, [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(stepped[1].groups, (4..8).map(group).collect::<Vec<_>>());
        assert_eq!(driver.learner().behavior_groups_learned(), 8);
        let last = driver.close().expect("two groups are open");
        assert_eq!((last.sources, last.result.expect("a good step").step), (vec![8, 9], 3));
        assert!(driver.close().is_none());
        assert_eq!(driver.learner().steps(), 3);
    }

    #[test]
    fn a_full_reservoir_closes_the_batch_at_once_also_without_groups() {
        let settings = small(Dpo::Live);
        let mut driver = driver(&settings);
        assert!(driver.take_group(0, group(0)).is_none());
        for index in 0..32 {
            let (offered, stepped) = driver.take_pair(&pair(index), source(index));
            assert!(offered == Offered::Taken && stepped.is_none(), "pair {index}");
        }
        let (offered, stepped) = driver.take_pair(&pair(32), source(32));
        let stepped = stepped.expect("the reservoir was full");
        let report = stepped.result.expect("a good step");
        assert_eq!((offered, stepped.sources, report.drawn_new_pairs), (Offered::Taken, vec![0], 16));
        let alone: Vec<_> =
            (33..49).filter_map(|index| driver.take_pair(&pair(index), source(index)).1).collect();
        let report = alone[0].result.as_ref().expect("a good step");
        assert_eq!((alone.len(), alone[0].groups.len(), report.loss_main), (1, 0, None));
        assert_eq!(driver.learner().preference_pairs_learned(), 32);
    }

    #[test]
    fn a_bad_batch_is_passed_over_and_makes_room_for_the_pair_that_waits() {
        let mut settings = small(Dpo::Pairs);
        // The formula as printed: log(ŷ⁺/ŷ⁻) does not exist where both are 0.
        settings.train.dpo_offset = 0.0;
        let mut driver = Driver::new(with_dead_gates(&settings), 4);
        driver.take_group(0, group(0));
        (0..32).for_each(|index| _ = driver.take_pair(&pair(index), source(index)));
        let (offered, stepped) = driver.take_pair(&pair(32), source(32));
        let bad = stepped.expect("the reservoir was full").result.expect_err("L_DPO is not finite");
        assert_eq!((offered, bad.lost_pairs.len(), driver.learner().steps()), (Offered::Taken, 16, 0));
    }

    #[test]
    fn invariant_10_an_interruption_between_two_batches_changes_nothing() {
        let settings = small(Dpo::Live);
        let learn = |driver: &mut Driver<Trainer, u64>, from: u64, to: u64| {
            for index in from..to {
                (3 * index..3 * index + 3).for_each(|i| _ = driver.take_pair(&pair(i), source(i)));
                driver.take_group(index, group(index));
            }
        };
        let mut whole = driver(&settings);
        learn(&mut whole, 0, 40);
        let mut first = driver(&settings);
        learn(&mut first, 0, 20);
        let restored = Trainer::restore(&settings, checkpoint(first.learner())).expect("it fits");
        let mut second = Driver::new(restored, settings.train.batch_groups);
        learn(&mut second, 20, 40);
        assert_eq!(checkpoint(second.learner()), checkpoint(whole.learner()));
    }
}
