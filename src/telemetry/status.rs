//! `/status`: what a person asks first, in one JSON object.
//!
//! Its figures are those of `/metrics`, its words those of [`state`](super::state), both filled by the
//! same events. `docs/status.md` describes every field; a test compares.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::exposition::Samples;
use super::partitions::{InputReport, PartitionReport};
use super::state::{InstanceState, Known, Role, TrainerState};
use super::{build, names};

/// Counts by a word: an outcome, a scope.
type Counts = BTreeMap<&'static str, u64>;

/// Everything that is served.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    revision: &'static str,
    libtorch: &'static str,
    command: &'static str,
    roles: Vec<&'static str>,
    uptime_seconds: f64,
    ready: bool,
    not_ready: Vec<String>,
    draining: bool,
    kafka_unavailable: BTreeMap<String, String>,
    funnel: Funnel,
    joiner: Option<Joiner>,
    trainer: Option<Trainer>,
    follower: Option<Follower>,
}

/// From records to what was learned of them: of the partitions that this process owns, since the group
/// began.
#[derive(Serialize, Default)]
struct Funnel {
    views: Counts,
    responses: Counts,
    labels: Option<u64>,
    pairs: Counts,
    groups: Counts,
    learned: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Joiner {
    instances: BTreeMap<String, Instance>,
    views: Input,
    responses: Input,
    partitions: BTreeMap<String, Sides>,
}

#[derive(Serialize)]
struct Instance {
    state: &'static str,
    partitions: Vec<i32>,
    recovering_partitions: usize,
}

/// One partition number.
#[derive(Serialize)]
struct Sides {
    views: Input,
    responses: Input,
}

/// An input, of one partition or of all.
#[derive(Serialize, Default)]
struct Input {
    topic: String,
    consumed_records: u64,
    waiting_records: u64,
    /// The sum; the greatest of several.
    lag_records: Option<u64>,
    lag_seconds: Option<f64>,
    /// The least of several.
    stream_time: Option<String>,
    #[serde(skip)]
    stream_time_ms: Option<i64>,
}

#[derive(Serialize)]
struct Trainer {
    model: String,
    state: &'static str,
    waits_for: Option<String>,
    lag_records: BTreeMap<String, BTreeMap<String, u64>>,
    lag_seconds: BTreeMap<String, BTreeMap<String, f64>>,
    losses: BTreeMap<String, f64>,
    win_rates: BTreeMap<String, BTreeMap<String, f64>>,
    production_win_rates: BTreeMap<String, BTreeMap<String, f64>>,
    versions: BTreeMap<String, u64>,
    production: Version,
    last_decision: Option<Decision>,
    stream_suspect: bool,
    suspicion: BTreeMap<String, String>,
}

/// A version and how old it is.
#[derive(Serialize)]
struct Version {
    version: Option<u64>,
    age_seconds: Option<f64>,
    /// Since the last event that it has learned of.
    behind_seconds: Option<f64>,
}

#[derive(Serialize)]
struct Decision {
    version: u64,
    at: String,
    result: &'static str,
    tests: Vec<String>,
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Follower {
    in_place: Version,
}

/// What the endpoints know.
pub(super) struct Sources<'a> {
    pub known: &'a Known,
    /// What `/metrics` answers.
    pub samples: &'a Samples<'a>,
    pub partitions: &'a BTreeMap<i32, PartitionReport>,
    pub draining: bool,
}

impl Status {
    pub fn new(sources: &Sources<'_>) -> Self {
        let Sources { known, samples, partitions, draining } = *sources;
        let now = Instant::now();
        let purpose = &known.purpose;
        let not_ready = known.not_ready(now);
        let has = |role: Role| purpose.roles.contains(&role);
        Self {
            version: build::VERSION,
            revision: build::REVISION,
            libtorch: build::LIBTORCH,
            command: purpose.command,
            roles: purpose.roles.iter().map(|role| role.as_str()).collect(),
            uptime_seconds: now.duration_since(known.started).as_secs_f64(),
            ready: not_ready.is_empty() && !draining,
            not_ready,
            draining,
            kafka_unavailable: known
                .away
                .iter()
                .map(|(client, away)| (client.clone(), away.reason.clone()))
                .collect(),
            funnel: Funnel::new(partitions, samples, has(Role::Joiner)),
            joiner: has(Role::Joiner).then(|| Joiner::new(known, partitions)),
            trainer: has(Role::Trainer).then(|| Trainer::new(known, samples)),
            follower: has(Role::Follower).then(|| Follower {
                in_place: Version::new(
                    samples,
                    names::FOLLOWER_VERSION,
                    names::FOLLOWER_CREATED,
                    names::FOLLOWER_EVENT_TIME,
                ),
            }),
        }
    }

    /// With its keys sorted, so that two answers can be compared line by line.
    pub fn to_json(&self) -> String {
        let value = serde_json::to_value(self).expect("keys are strings");
        format!("{value:#}\n")
    }
}

impl Funnel {
    fn new(partitions: &BTreeMap<i32, PartitionReport>, samples: &Samples<'_>, joins: bool) -> Self {
        let mut funnel =
            Self { learned: whole(samples.by_label(names::TRAIN_LEARNED, "kind")), ..Self::default() };
        for report in partitions.values() {
            add(&mut funnel.views, &report.behavior.outcomes);
            add(&mut funnel.responses, &report.responses.outcomes);
            add(&mut funnel.views, &[("waiting", report.behavior.waiting_records)]);
            add(&mut funnel.responses, &[("waiting", report.responses.waiting_records)]);
            add(&mut funnel.pairs, &report.pairs);
            add(&mut funnel.groups, &report.groups);
        }
        // Each matched response is one label.
        funnel.labels = joins.then(|| funnel.responses.get("matched").copied().unwrap_or(0));
        funnel
    }
}

fn add(sums: &mut Counts, counts: &[(&'static str, u64)]) {
    for (word, count) in counts {
        *sums.entry(word).or_default() += count;
    }
}

impl Joiner {
    fn new(known: &Known, partitions: &BTreeMap<i32, PartitionReport>) -> Self {
        let instance = |(number, instance): (&usize, &super::state::Instance)| {
            let (state, recovering_partitions) = match instance.state {
                InstanceState::Joining => ("joining", 0),
                InstanceState::Waiting => ("waiting", 0),
                InstanceState::Recovering { partitions } => ("recovering", partitions),
                InstanceState::Working => ("working", 0),
            };
            let partitions = instance.partitions.clone();
            (number.to_string(), Instance { state, partitions, recovering_partitions })
        };
        let sides = |(number, report): (&i32, &PartitionReport)| {
            let (views, responses) = (Input::of(&report.behavior), Input::of(&report.responses));
            (number.to_string(), Sides { views, responses })
        };
        Self {
            instances: known.instances.iter().map(instance).collect(),
            views: Input::of_all(partitions.values().map(|report| &report.behavior)),
            responses: Input::of_all(partitions.values().map(|report| &report.responses)),
            partitions: partitions.iter().map(sides).collect(),
        }
    }
}

impl Input {
    fn of(report: &InputReport) -> Self {
        Self {
            topic: report.topic.clone(),
            consumed_records: report.consumed_records,
            waiting_records: report.waiting_records,
            lag_records: report.lag_records,
            lag_seconds: report.lag_seconds,
            stream_time: report.stream_time_ms.map(in_words),
            stream_time_ms: report.stream_time_ms,
        }
    }

    /// Unknown where it is unknown of any.
    fn of_all<'a>(reports: impl Iterator<Item = &'a InputReport>) -> Self {
        reports.map(Self::of).reduce(Self::with).unwrap_or_default()
    }

    fn with(self, other: Self) -> Self {
        let both = self.lag_seconds.zip(other.lag_seconds);
        // A partition that nothing has come to yet has none.
        let stream_time_ms = [self.stream_time_ms, other.stream_time_ms].into_iter().flatten().min();
        Self {
            topic: other.topic,
            consumed_records: self.consumed_records + other.consumed_records,
            waiting_records: self.waiting_records + other.waiting_records,
            lag_records: self.lag_records.zip(other.lag_records).map(|(one, other)| one + other),
            lag_seconds: both.map(|(one, other)| one.max(other)),
            stream_time: stream_time_ms.map(in_words),
            stream_time_ms,
        }
    }
}

impl Trainer {
    fn new(known: &Known, samples: &Samples<'_>) -> Self {
        let (state, waits_for) = match &known.trainer {
            TrainerState::Joining => ("joining", None),
            TrainerState::StandingBy => ("standing_by", None),
            TrainerState::Loading { waits_for } => ("loading", waits_for.clone()),
            TrainerState::Training => ("training", None),
        };
        let lags = samples.by_labels(names::TRAINER_LAG_RECORDS, "topic", "partition");
        Self {
            model: known.purpose.model.clone(),
            state,
            waits_for,
            lag_records: lags.into_iter().map(|(topic, lags)| (topic, whole(lags))).collect(),
            lag_seconds: samples.by_labels(names::TRAINER_LAG_SECONDS, "topic", "partition"),
            losses: samples.by_label(names::TRAIN_LOSS, "term"),
            win_rates: samples.by_labels(names::TRAIN_WIN_RATE, "model", "kind"),
            production_win_rates: samples.by_labels(names::GATE_STREAM_WIN_RATE, "signal", "span"),
            versions: whole(samples.by_label(names::PUBLISH_VERSION, "kind")),
            production: Version::new(
                samples,
                names::PUBLISH_PRODUCTION,
                names::PUBLISH_PRODUCTION_CREATED,
                names::PUBLISH_PRODUCTION_EVENT_TIME,
            ),
            last_decision: known.decision.as_ref().map(|decision| Decision {
                version: decision.version,
                at: in_words(decision.at_ms),
                result: if decision.is_promoted { "passed" } else { "refused" },
                tests: decision.tests.clone(),
                reasons: decision.reasons.clone(),
            }),
            stream_suspect: !known.suspicion.is_empty(),
            suspicion: known.suspicion.clone(),
        }
    }
}

impl Version {
    fn new(samples: &Samples<'_>, version: &str, created: &str, event_time: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let since = |name: &str| samples.value(name).map(|then| (now - then).max(0.0));
        Self {
            version: samples.value(version).map(|version| version as u64),
            age_seconds: since(created),
            behind_seconds: since(event_time),
        }
    }
}

/// Of values that are counts.
fn whole(values: BTreeMap<String, f64>) -> BTreeMap<String, u64> {
    values.into_iter().map(|(word, value)| (word, value as u64)).collect()
}

/// RFC 3339; a time that no calendar has is left in figures.
fn in_words(time_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(time_ms).map_or_else(|_| time_ms.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests;
