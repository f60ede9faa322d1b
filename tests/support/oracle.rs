//! The join, the grouping and the pairing once more, written from the contract alone: whole topics
//! in memory, nothing that expires. What the joiner writes is compared with this.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use easq::contract::Side;
use easq::contract::v1::{
    Answer, BehaviorEvent, BehaviorGroup, LabelledView, PairScope, PreferencePair, QuestionnaireResponse,
    Source,
};
use easq::join::Outcome;
use easq::settings::{Join, Topics};
use prost::Message;

use super::Record;
use super::world::SPOILED;

/// A record by topic, partition and offset.
pub type Address = (String, i32, i64);

/// What the joiner must make of two topics.
#[derive(Default)]
pub struct JoinTruth {
    pub labelled: Vec<LabelledView>,
    pub groups: Vec<BehaviorGroup>,
    pub late: BTreeSet<Address>,
    /// The records that were made to be rejected.
    pub malformed: BTreeSet<Address>,
    /// How many records of each partition came to each outcome (invariant 11), when all there is has
    /// been read.
    pub counts: BTreeMap<(i32, Side), Counts>,
}

/// Outcomes of the records of one input partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub outcomes: BTreeMap<&'static str, u64>,
    pub waiting: u64,
}

impl Counts {
    fn add(&mut self, outcome: Outcome, records: u64) {
        if records > 0 {
            *self.outcomes.entry(outcome.as_str()).or_default() += records;
        }
    }
}

/// A valid record in time, decoded.
struct InTime<T> {
    offset: i64,
    event: T,
    /// Greatest event time of the partition up to and including this record.
    stream_time_ms: i64,
}

/// Joins all of `views` and `responses`.
pub fn join(topics: &Topics, settings: &Join, views: &[Record], responses: &[Record]) -> JoinTruth {
    let mut truth = JoinTruth { malformed: malformed(topics, views, responses), ..JoinTruth::default() };
    let malformed = truth.malformed.clone();
    let partitions: BTreeSet<i32> = views.iter().chain(responses).map(|record| record.partition).collect();
    for partition in partitions {
        let valid = |topic: &str, records: &[Record]| -> Vec<Record> {
            let of_partition = records.iter().filter(|record| record.partition == partition);
            of_partition
                .filter(|r| !malformed.contains(&(topic.to_owned(), partition, r.offset)))
                .cloned()
                .collect()
        };
        let lateness_ms = settings.allowed_lateness_ms;
        let mut late = BTreeSet::new();
        let views = in_time::<BehaviorEvent>(
            &topics.behavior,
            lateness_ms,
            &valid(&topics.behavior, views),
            |view| view.event_time_ms,
            &mut late,
        );
        let responses = in_time::<QuestionnaireResponse>(
            &topics.responses,
            lateness_ms,
            &valid(&topics.responses, responses),
            |response| response.event_time_ms,
            &mut late,
        );
        for (side, topic) in [(Side::Views, &topics.behavior), (Side::Responses, &topics.responses)] {
            let of_partition = |(of, number, _): &&Address| of == topic && *number == partition;
            let counts = truth.counts.entry((partition, side)).or_default();
            counts.add(Outcome::Rejected, malformed.iter().filter(of_partition).count() as u64);
            counts.add(Outcome::Late, late.iter().filter(of_partition).count() as u64);
        }
        truth.late.append(&mut late);
        let clocks = [last_stream_time_ms(&views), last_stream_time_ms(&responses)];
        let of_views = truth.counts.entry((partition, Side::Views)).or_default();
        let views = first_of_each_impression(settings, views, of_views);
        truth.groups.extend(groups(topics, settings, partition, &views, clocks[0]));
        label(topics, settings, partition, &views, &responses, clocks[0].min(clocks[1]), &mut truth);
    }
    truth
}

fn malformed(topics: &Topics, views: &[Record], responses: &[Record]) -> BTreeSet<Address> {
    let spoiled = |topic: &str, records: &[Record]| -> Vec<Address> {
        let records = records.iter().filter(|record| record.header(SPOILED).is_some());
        records.map(|record| (topic.to_owned(), record.partition, record.offset)).collect()
    };
    [spoiled(&topics.behavior, views), spoiled(&topics.responses, responses)].concat().into_iter().collect()
}

/// The greatest event time of all; the minimum where there is none.
fn last_stream_time_ms<T>(records: &[InTime<T>]) -> i64 {
    records.last().map_or(i64::MIN, |record| record.stream_time_ms)
}

/// Splits off what lies below the greatest event time before it minus the allowed lateness.
fn in_time<T: Message + Default>(
    topic: &str,
    lateness_ms: i64,
    records: &[Record],
    event_time_ms: impl Fn(&T) -> i64,
    late: &mut BTreeSet<Address>,
) -> Vec<InTime<T>> {
    let mut stream_time_ms = i64::MIN;
    let mut in_time = Vec::new();
    for record in records {
        let event: T = record.decode();
        let time_ms = event_time_ms(&event);
        let is_late = time_ms < stream_time_ms.saturating_sub(lateness_ms);
        stream_time_ms = stream_time_ms.max(time_ms);
        if is_late {
            late.insert((topic.to_owned(), record.partition, record.offset));
        } else {
            in_time.push(InTime { offset: record.offset, event, stream_time_ms });
        }
    }
    in_time
}

/// The views without the copies of any. A copy is recognised when it is eligible, or comes while the
/// group of its request is open; any other one is as ineligible as its original.
fn first_of_each_impression(
    settings: &Join,
    views: Vec<InTime<BehaviorEvent>>,
    counts: &mut Counts,
) -> Vec<InTime<BehaviorEvent>> {
    let mut seen = HashSet::new();
    let (firsts, copies): (Vec<_>, Vec<_>) =
        views.into_iter().partition(|view| seen.insert(view.event.impression_id.clone()));
    for copy in copies {
        let group_is_open = copy.stream_time_ms <= copy.event.request_time_ms + settings.group_span_ms;
        let is_recognised = is_eligible(settings, &copy.event) || group_is_open;
        counts.add(if is_recognised { Outcome::Duplicate } else { Outcome::Ineligible }, 1);
    }
    firsts
}

fn is_eligible(settings: &Join, view: &BehaviorEvent) -> bool {
    let triggered = || {
        let engagement = view.engagement.clone().unwrap_or_default();
        let (watched, duration) = (f64::from(engagement.watched_ms), f64::from(engagement.duration_ms));
        engagement.watched_ms >= settings.trigger_watched_ms
            || (duration > 0.0 && watched >= settings.trigger_watched_ratio * duration)
    };
    view.questionnaire_exposed.unwrap_or_else(triggered)
}

fn source(topic: &str, partition: i32, offset: i64) -> Option<Source> {
    Some(Source { topic: topic.to_owned(), partition, offset })
}

/// Labels views, and counts what became of all. `clock_ms`: the slower of both stream times, at which
/// records expire.
fn label(
    topics: &Topics,
    settings: &Join,
    partition: i32,
    views: &[InTime<BehaviorEvent>],
    responses: &[InTime<QuestionnaireResponse>],
    clock_ms: i64,
    truth: &mut JoinTruth,
) {
    let waits = |time_ms: i64| clock_ms <= time_ms + settings.window_ms + settings.allowed_lateness_ms;
    let by_impression: HashMap<&str, &InTime<BehaviorEvent>> =
        views.iter().map(|view| (view.event.impression_id.as_str(), view)).collect();
    let mut answered = HashSet::new();
    let mut of_responses = truth.counts.remove(&(partition, Side::Responses)).unwrap_or_default();
    for response in responses {
        let view = by_impression.get(response.event.impression_id.as_str()).filter(|view| {
            let apart_ms = (response.event.event_time_ms - view.event.event_time_ms).abs();
            is_eligible(settings, &view.event)
                && view.event.user_id == response.event.user_id
                && apart_ms <= settings.window_ms
        });
        let Some(view) = view else {
            match waits(response.event.event_time_ms) {
                true => of_responses.waiting += 1,
                false => of_responses.add(Outcome::Unmatched, 1),
            }
            continue;
        };
        if !answered.insert(view.offset) {
            of_responses.add(Outcome::Duplicate, 1); // the answer with the lowest offset is the label
            continue;
        }
        of_responses.add(Outcome::Matched, 1);
        truth.labelled.push(LabelledView {
            view: Some(view.event.clone()),
            response: Some(response.event.clone()),
            view_source: source(&topics.behavior, partition, view.offset),
            response_source: source(&topics.responses, partition, response.offset),
        });
    }
    truth.counts.insert((partition, Side::Responses), of_responses);
    let of_views = truth.counts.entry((partition, Side::Views)).or_default();
    for view in views {
        match () {
            () if !is_eligible(settings, &view.event) => of_views.add(Outcome::Ineligible, 1),
            () if answered.contains(&view.offset) => of_views.add(Outcome::Matched, 1),
            () if waits(view.event.event_time_ms) => of_views.waiting += 1,
            () => of_views.add(Outcome::Unanswered, 1),
        }
    }
}

/// The groups that were closed by the end of the partition, of two views at least.
fn groups(
    topics: &Topics,
    settings: &Join,
    partition: i32,
    views: &[InTime<BehaviorEvent>],
    last_stream_time_ms: i64,
) -> Vec<BehaviorGroup> {
    let mut by_request: BTreeMap<(i64, &str), Vec<&InTime<BehaviorEvent>>> = BTreeMap::new();
    for view in views {
        let closes_after_ms = view.event.request_time_ms + settings.group_span_ms;
        if view.stream_time_ms <= closes_after_ms {
            let request = (view.event.request_time_ms, view.event.request_id.as_str());
            by_request.entry(request).or_default().push(view);
        }
    }
    let closed = by_request.into_iter().filter(|((request_time_ms, _), views)| {
        views.len() > 1 && last_stream_time_ms > request_time_ms + settings.group_span_ms
    });
    closed
        .map(|((_, request_id), views)| BehaviorGroup {
            request_id: request_id.to_owned(),
            user_id: views[0].event.user_id.clone(),
            scenario: views[0].event.scenario.clone(),
            event_time_ms: views.iter().map(|view| view.event.event_time_ms).max().unwrap_or_default(),
            views: views.iter().map(|view| view.event.clone()).collect(),
            first_source: source(&topics.behavior, partition, views[0].offset),
        })
        .collect()
}

/// The pairs that follow from one partition of labelled views, in the order of the log.
pub fn pairs(settings: &Join, labelled: &[LabelledView]) -> Vec<PreferencePair> {
    let answer = |label: &LabelledView| label.response.as_ref().map_or(Answer::Unspecified, |r| r.answer());
    let time_ms = |label: &LabelledView| label.response.as_ref().map_or(0, |r| r.event_time_ms);
    let user = |label: &LabelledView| label.view.as_ref().map(|view| view.user_id.clone());
    let scenario = |label: &LabelledView| label.view.as_ref().map(|view| view.scenario.clone());
    let mut pairs = Vec::new();
    for (index, new) in labelled.iter().enumerate() {
        let opposite = match answer(new) {
            Answer::Satisfied => Answer::Dissatisfied,
            Answer::Dissatisfied => Answer::Satisfied,
            _ => continue,
        };
        let span = &labelled[index.saturating_sub(settings.pair_lookback)..index];
        let newest = |of_key: &dyn Fn(&LabelledView) -> bool, max: usize| -> Vec<&LabelledView> {
            let ring = span.iter().rev().filter(|old| answer(old) == opposite && of_key(old));
            let ring = ring.take(settings.ring_size);
            ring.filter(|old| time_ms(old) >= time_ms(new) - settings.pair_horizon_ms).take(max).collect()
        };
        let of_user = newest(&|old| user(old) == user(new), settings.max_pairs_per_label);
        let (partners, scope) = if of_user.is_empty() {
            (
                newest(&|old| scenario(old) == scenario(new), settings.max_scenario_pairs),
                PairScope::SameScenario,
            )
        } else {
            (of_user, PairScope::SameUser)
        };
        pairs.extend(partners.into_iter().map(|old| {
            let (chosen, rejected) = if answer(new) == Answer::Satisfied { (new, old) } else { (old, new) };
            PreferencePair {
                chosen: Some(chosen.clone()),
                rejected: Some(rejected.clone()),
                scope: scope.into(),
                event_time_ms: time_ms(new).max(time_ms(old)),
            }
        }));
    }
    pairs
}
