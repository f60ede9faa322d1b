//! Runs the join as the service around it does: reads, commits, crashes, restarts, idleness.

use std::sync::Arc;

use proptest::prelude::*;

use crate::contract::InputRecord;
use crate::join::{
    Config, Effects, Frontier, InputState, Outcomes, Output, OutputKind, PartitionJoin, Position, Products,
    Side, Start,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Read(Side),
    Commit,
    /// Everything since the last commit is lost; the replay alternates by the bits.
    Crash(u8),
    Idle(Side),
}

pub fn reads() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Read(Side::Views)), Just(Step::Read(Side::Responses))]
}

pub fn reads_and_crashes() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => reads(),
        4 => Just(Step::Commit),
        2 => any::<u8>().prop_map(Step::Crash),
    ]
}

pub fn anything() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => reads_and_crashes(),
        1 => Just(Step::Idle(Side::Views)),
        1 => Just(Step::Idle(Side::Responses)),
    ]
}

pub struct Driver {
    config: Arc<Config>,
    views: Vec<InputRecord>,
    responses: Vec<InputRecord>,
    pub join: PartitionJoin,
    effects: Effects,
    frontier: Option<Frontier>,
    /// Outputs of committed transactions.
    pub committed: Vec<Output>,
    /// The lowest offsets that can be read.
    pub low: (i64, i64),
}

impl Driver {
    pub fn new(config: Arc<Config>, views: Vec<InputRecord>, responses: Vec<InputRecord>) -> Driver {
        let join = PartitionJoin::new(Arc::clone(&config), 0, Start::At(0), Start::At(0));
        let (effects, committed) = (Effects::default(), Vec::new());
        Driver { config, views, responses, join, effects, frontier: None, committed, low: (0, 0) }
    }

    pub fn run(&mut self, steps: &[Step]) {
        for &step in steps {
            match step {
                Step::Read(side) => {
                    self.read(side);
                }
                Step::Commit => self.commit(),
                Step::Crash(bits) => self.crash(bits),
                Step::Idle(side) => drop(self.join.on_idle(side)),
            }
        }
    }

    /// Reads both logs to their ends, and commits.
    pub fn finish(&mut self) {
        while self.read(Side::Responses) | self.read(Side::Views) {}
        self.commit();
    }

    /// Gives the next record of an input, if there is one.
    pub fn read(&mut self, side: Side) -> bool {
        let log = match side {
            Side::Views => &self.views,
            Side::Responses => &self.responses,
        };
        let next = log.partition_point(|record| record.offset < self.join.read_from(side));
        let Some(record) = log.get(next) else { return false };
        let taken = match side {
            Side::Views => self.join.on_view(record.clone(), &mut self.effects),
            Side::Responses => self.join.on_response(record.clone(), &mut self.effects),
        };
        taken.unwrap();
        let consumed = (next + 1) as u64;
        if !self.join.is_replaying() && self.low == (0, 0) {
            assert_eq!(self.join.outcomes(side).consumed(), consumed, "invariant 11, {side:?}");
        }
        true
    }

    pub fn commit(&mut self) {
        self.frontier = Some(self.join.frontier());
        self.committed.append(&mut self.effects.outputs);
    }

    pub fn crash(&mut self, bits: u8) {
        self.effects.outputs.clear();
        let resume = |position: Option<&Position>, low_watermark| match position {
            None => Start::At(0),
            Some(Position { next_offset, metadata }) => {
                let state = InputState::decode(*next_offset, metadata).unwrap();
                Start::Resume { state, low_watermark }
            }
        };
        let views = resume(self.frontier.as_ref().map(|frontier| &frontier.views), self.low.0);
        let responses = resume(self.frontier.as_ref().map(|frontier| &frontier.responses), self.low.1);
        self.join = PartitionJoin::new(Arc::clone(&self.config), 0, views, responses);
        let labelled = self.committed.iter().filter(|output| output.kind == OutputKind::LabelledView);
        for (offset, output) in (0..).zip(labelled) {
            self.join.on_labelled_tail(offset, &output.payload().unwrap()).unwrap();
        }
        for turn in 0.. {
            if !self.join.is_replaying() {
                break;
            }
            let side = if bits >> (turn % 8) & 1 == 0 { Side::Views } else { Side::Responses };
            let side = if self.join.may_read(side, true) { side } else { side.other() };
            assert!(self.read(side), "the replay needs a record that is not there");
        }
        assert_eq!(self.effects.outputs, [], "a replay emits nothing");
    }

    /// Records that the last restart had to read again, of both inputs, were it now.
    pub fn replay_from(&mut self) -> (i64, i64) {
        let Frontier { views, responses } = self.join.frontier();
        let replay_from = |position: Position| {
            InputState::decode(position.next_offset, &position.metadata).unwrap().replay_from
        };
        (replay_from(views), replay_from(responses))
    }

    pub fn counts(&self) -> (Outcomes, Outcomes, Products) {
        (self.join.outcomes(Side::Views), self.join.outcomes(Side::Responses), self.join.products())
    }

    pub fn outputs(&self, kind: OutputKind) -> impl Iterator<Item = &Output> {
        self.committed.iter().filter(move |output| output.kind == kind)
    }
}
