//! A range of what the joiner has written, where its inputs are gone.
//!
//! The order is that of `merge`: of each record the greatest event time of its partition up to it, then
//! labels before pairs before groups, partition, offset. A label has the time of its answer, a pair that
//! of the later of its two answers, a group that of its last view.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::account::{Outcomes, Reached, Replayed};
use super::error::BackfillError;
use super::merge::{Merge, Step};
use super::plan::Plan;
use super::range::Range;
use super::replay;
use super::sink::Sink;
use super::watch::Watch;
use crate::contract::InputRecord;
use crate::contract::v1::{BehaviorGroup, PreferencePair, QuestionnaireResponse, envelope};
use crate::join::{Output, OutputKind};
use crate::kafka::reader::{Fed, Feeds};
use crate::settings::{Settings, Topics};
use crate::supervise::{StopToken, failpoint};
use crate::telemetry::events::SampleDropped;

/// How long to wait for a partition before the stop is looked at.
const POLL: Duration = Duration::from_millis(100);

const GIVEN: &str = "given";
const OUTSIDE: &str = "outside";
const UNDECODABLE: &str = "undecodable";

/// Reads what a plan of samples names, and gives what lies in the range.
pub struct Stored {
    feeds: Feeds,
    merge: Merge<Sample>,
    /// Of each stretch.
    topics: Vec<Arc<str>>,
    kinds: Vec<OutputKind>,
    records: Vec<u64>,
    range: Range,
    outcomes: BTreeMap<&'static str, Outcomes>,
    reached: replay::Reached,
}

/// A record, with its event time where it has one.
struct Sample {
    record: InputRecord,
    time_ms: Option<i64>,
}

impl Stored {
    /// Begins to fetch.
    ///
    /// # Errors
    /// The Kafka client refuses.
    pub fn begin(settings: &Settings, plan: &Plan, range: &Range) -> Result<Self, BackfillError> {
        let kinds: Vec<OutputKind> =
            plan.stretches.iter().map(|stretch| kind_of(&settings.topics, &stretch.topic)).collect();
        let none = [GIVEN, OUTSIDE, UNDECODABLE].map(|outcome| (outcome, 0));
        Ok(Self {
            feeds: Feeds::begin(&settings.kafka, "backfill reader", plan.stretches.clone())?,
            merge: Merge::new(&plan.sources, range.read_until_ms),
            outcomes: kinds.iter().map(|&kind| (plural(kind), none.into())).collect(),
            topics: plan.stretches.iter().map(|stretch| Arc::clone(&stretch.topic)).collect(),
            records: vec![0; kinds.len()],
            kinds,
            range: *range,
            reached: replay::Reached::default(),
        })
    }

    /// Gives all of it to the sink, in order, to the end of the range.
    ///
    /// # Errors
    /// Of the sink and of reading; [`BackfillError::Interrupted`] after `stop`, as soon as the sink is at
    /// rest or no record comes.
    pub fn run(&mut self, watch: &mut Watch<'_>, stop: &StopToken) -> Result<(), BackfillError> {
        loop {
            match self.merge.step() {
                Step::Read(number) if self.read(number)? => {}
                Step::Read(_) if stop.is_stopped() => return Err(BackfillError::Interrupted),
                Step::Read(_) => {}
                Step::Take(..) if stop.is_stopped() && watch.sink().is_at_rest() => {
                    return Err(BackfillError::Interrupted);
                }
                Step::Take(number, sample) => {
                    self.take(number, sample, watch.sink())?;
                    if self.reached.records.is_multiple_of(replay::LOOK_RECORDS) {
                        failpoint("backfill-look");
                        replay::Receiver::look(watch, self.reached);
                    }
                }
                Step::Over => return Ok(()),
            }
        }
    }

    /// Reads the next record of a stretch, or its end; false when there is neither yet.
    fn read(&mut self, number: usize) -> Result<bool, BackfillError> {
        match self.feeds.next(number, POLL)? {
            Fed::Record(record) => {
                let time_ms = event_time_ms(self.kinds[number], &record);
                self.merge.give(number, record.offset, time_ms, Sample { record, time_ms });
            }
            Fed::End => self.merge.end(number),
            Fed::Nothing => return Ok(false),
        }
        Ok(true)
    }

    fn take(&mut self, number: usize, sample: Sample, sink: &mut Sink) -> Result<(), BackfillError> {
        let kind = self.kinds[number];
        self.records[number] += 1;
        self.reached.records += 1;
        self.reached.time_ms = self.merge.stream_time_ms(number).or(self.reached.time_ms);
        let Sample { record, time_ms } = sample;
        let outcome = match time_ms {
            None => {
                let (topic, partition, offset) = (&*self.topics[number], record.partition, record.offset);
                let kind = singular(kind);
                SampleDropped { kind, reason: UNDECODABLE, topic, partition, offset }.emit();
                UNDECODABLE
            }
            Some(time_ms) if self.range.holds(time_ms) => {
                let partition = record.partition;
                match kind {
                    OutputKind::LabelledView => sink.label(time_ms),
                    OutputKind::PreferencePair => sink.pair(partition, &output(kind, record))?,
                    _ => sink.group(&output(kind, record))?,
                }
                GIVEN
            }
            Some(_) => OUTSIDE,
        };
        *self.outcomes.entry(plural(kind)).or_default().entry(outcome).or_default() += 1;
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

fn kind_of(topics: &Topics, topic: &str) -> OutputKind {
    let kinds = [OutputKind::LabelledView, OutputKind::PreferencePair];
    kinds.into_iter().find(|kind| kind.topic(topics) == topic).unwrap_or(OutputKind::BehaviorGroup)
}

fn plural(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::LabelledView => "stored_labels",
        OutputKind::PreferencePair => "stored_pairs",
        _ => "stored_groups",
    }
}

fn singular(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::LabelledView => "label",
        OutputKind::PreferencePair => "pair",
        _ => "group",
    }
}

/// None of a record that is not what its topic holds.
fn event_time_ms(kind: OutputKind, record: &InputRecord) -> Option<i64> {
    let payload = record.payload.clone()?;
    match kind {
        OutputKind::LabelledView => {
            let label = envelope::LabelledView::decode(payload).ok()?;
            Some(QuestionnaireResponse::decode(label.response).ok()?.event_time_ms)
        }
        OutputKind::PreferencePair => Some(PreferencePair::decode(payload).ok()?.event_time_ms),
        _ => Some(BehaviorGroup::decode(payload).ok()?.event_time_ms),
    }
}

/// A record as the join emitted it.
fn output(kind: OutputKind, record: InputRecord) -> Output {
    Output::stored(kind, record.key, record.payload)
}
