//! A range of what the joiner has written, where its inputs are gone.
//!
//! The order is that of `merge`: of each record the greatest event time of its partition up to it, then
//! labels before pairs before groups, partition, offset. A label has the time of its answer, a pair that
//! of the later of its two answers, a group that of its last view.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use super::account::{Outcomes, Reached, Replayed};
use super::error::BackfillError;
use super::merge::{Merge, Step};
use super::plan::Plan;
use super::range::Range;
use super::reader::POLL;
use super::replay;
use super::sink::Sink;
use super::watch::Watch;
use crate::contract::InputRecord;
use crate::contract::v1::{BehaviorGroup, PreferencePair, QuestionnaireResponse, envelope};
use crate::join::{Output, OutputKind};
use crate::kafka::reader::{Fed, Feeds};
use crate::settings::{Settings, Topics};
use crate::supervise::StopToken;
use crate::telemetry::events::SampleDropped;

const GIVEN: &str = "given";
const OUTSIDE: &str = "outside";
const UNDECODABLE: &str = "undecodable";
const TIME_AHEAD: &str = "time_ahead";

/// Reads what a plan of samples names, and gives what lies in the range.
pub struct Stored {
    feeds: Feeds,
    merge: Merge<Sample>,
    /// Of each stretch.
    topics: Vec<Arc<str>>,
    kinds: Vec<Kind>,
    records: Vec<u64>,
    range: Range,
    /// How far an event time may lie after the record's timestamp.
    max_ahead_ms: i64,
    outcomes: BTreeMap<&'static str, Outcomes>,
    reached: replay::Reached,
}

/// What a topic of the joiner holds, of those that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Label,
    Pair,
    Group,
}

/// A record, with its event time or the reason why it is passed over.
struct Sample {
    record: InputRecord,
    time_ms: Result<i64, &'static str>,
}

impl Stored {
    /// Begins to fetch.
    ///
    /// # Errors
    /// The Kafka client refuses.
    pub fn begin(settings: &Settings, plan: &Plan, range: &Range) -> Result<Self, BackfillError> {
        let kinds: Vec<Kind> =
            plan.stretches.iter().map(|stretch| Kind::of(&settings.topics, &stretch.topic)).collect();
        let none = [GIVEN, OUTSIDE, UNDECODABLE, TIME_AHEAD].map(|outcome| (outcome, 0));
        Ok(Self {
            feeds: Feeds::begin(&settings.kafka, "backfill reader", plan.stretches.clone())?,
            merge: Merge::new(plan.stretches.len(), range.read_until_ms),
            outcomes: kinds.iter().map(|&kind| (kind.plural(), none.into())).collect(),
            topics: plan.stretches.iter().map(|stretch| Arc::clone(&stretch.topic)).collect(),
            records: vec![0; kinds.len()],
            kinds,
            range: *range,
            // The clock of who set the event time, and that of the joiner.
            max_ahead_ms: settings.input.max_clock_skew_ms.saturating_mul(2),
            reached: replay::Reached::default(),
        })
    }

    /// Gives all of it to the sink, in order, to the end of the range.
    ///
    /// # Errors
    /// Of the sink and of reading; [`BackfillError::Interrupted`] after `stop`.
    pub fn run(&mut self, watch: &mut Watch<'_>, stop: &StopToken) -> Result<(), BackfillError> {
        loop {
            match self.merge.step() {
                Step::Over => return Ok(()),
                _ if stop.is_stopped() => return Err(BackfillError::Interrupted),
                Step::Read(number) => self.read(number)?,
                Step::Take(number, sample) => {
                    self.take(number, sample, watch.sink())?;
                    self.reached.show(watch);
                }
            }
        }
    }

    /// Reads the next record of a stretch, or its end, if there is either already.
    fn read(&mut self, number: usize) -> Result<(), BackfillError> {
        match self.feeds.next(number, POLL)? {
            Fed::Record(record) => {
                let time_ms = self.kinds[number].event_time_ms(&record, self.max_ahead_ms);
                self.merge.give(number, time_ms.ok(), Sample { record, time_ms });
            }
            Fed::End => self.merge.end(number),
            Fed::Nothing => {}
        }
        Ok(())
    }

    fn take(&mut self, number: usize, sample: Sample, sink: &mut Sink) -> Result<(), BackfillError> {
        let kind = self.kinds[number];
        self.records[number] += 1;
        self.reached.add(self.merge.stream_time_ms(number));
        let Sample { record, time_ms } = sample;
        let outcome = match time_ms {
            Err(reason) => {
                let (topic, partition, offset) = (&*self.topics[number], record.partition, record.offset);
                SampleDropped { kind: kind.singular(), reason, topic, partition, offset }.emit();
                reason
            }
            Ok(time_ms) if self.range.holds(time_ms) => {
                let partition = record.partition;
                match kind {
                    Kind::Label => sink.label(time_ms),
                    Kind::Pair => sink.pair(partition, &kind.output(record))?,
                    Kind::Group => sink.group(&kind.output(record))?,
                }
                GIVEN
            }
            Ok(_) => OUTSIDE,
        };
        *self.outcomes.entry(kind.plural()).or_default().entry(outcome).or_default() += 1;
        Ok(())
    }

    /// How far it has come.
    pub fn reached(&self) -> replay::Reached {
        self.reached
    }

    pub fn replayed(&self) -> Replayed {
        let reached = self.records.iter().enumerate().map(|(number, &records)| Reached {
            next_offset: self.feeds.next_offset(number),
            stream_time_ms: self.merge.stream_time_ms(number),
            records,
        });
        Replayed { reached: reached.collect(), outcomes: self.outcomes.clone() }
    }
}

impl Kind {
    fn of(topics: &Topics, topic: &str) -> Kind {
        let is_in = |kind: &Kind| kind.output_kind().topic(topics) == topic;
        [Kind::Label, Kind::Pair].into_iter().find(is_in).unwrap_or(Kind::Group)
    }

    fn output_kind(self) -> OutputKind {
        match self {
            Kind::Label => OutputKind::LabelledView,
            Kind::Pair => OutputKind::PreferencePair,
            Kind::Group => OutputKind::BehaviorGroup,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Kind::Label => "stored_labels",
            Kind::Pair => "stored_pairs",
            Kind::Group => "stored_groups",
        }
    }

    fn singular(self) -> &'static str {
        match self {
            Kind::Label => "label",
            Kind::Pair => "pair",
            Kind::Group => "group",
        }
    }

    /// Or why the record is passed over: it is not what its topic holds, or it was written long before it
    /// happened, and its partition would seem to be past every range.
    fn event_time_ms(self, record: &InputRecord, max_ahead_ms: i64) -> Result<i64, &'static str> {
        let time_ms = self.decoded_time_ms(record).ok_or(UNDECODABLE)?;
        let is_ahead = |written_ms: i64| time_ms > written_ms.saturating_add(max_ahead_ms);
        if record.timestamp_ms.is_some_and(is_ahead) { Err(TIME_AHEAD) } else { Ok(time_ms) }
    }

    fn decoded_time_ms(self, record: &InputRecord) -> Option<i64> {
        let payload = record.payload.clone()?;
        match self {
            Kind::Label => {
                let label = envelope::LabelledView::decode(payload).ok()?;
                Some(QuestionnaireResponse::decode(label.response).ok()?.event_time_ms)
            }
            Kind::Pair => Some(PreferencePair::decode(payload).ok()?.event_time_ms),
            Kind::Group => Some(BehaviorGroup::decode(payload).ok()?.event_time_ms),
        }
    }

    /// A record as the join emitted it.
    fn output(self, record: InputRecord) -> Output {
        Output::stored(self.output_kind(), record.key, record.payload)
    }
}
