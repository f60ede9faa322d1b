//! Whether what a joiner left in Kafka is what the two input topics say: read back by a reader of
//! committed records, and compared with the brute-force join ([`oracle`]) record by record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use easq::contract::Side;
use easq::contract::v1::{BehaviorGroup, LabelledView, PreferencePair, Source};
use easq::join::Outcome;
use prost::Message;

use super::oracle::{self, Counts, JoinTruth};
use super::{Line, Record, joiners};

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Input records of both topics.
    pub inputs: u64,
    /// Effects that must be there: labels, groups, late records, dead letters, and pairs.
    pub effects: u64,
    pub lost: u64,
    pub duplicated: u64,
    /// Effects that no input asks for, and counts that are not the oracle's.
    pub wrong: u64,
    /// The first of each kind of fault, in words.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Every effect of every input record is there exactly once, and counted as what it is.
    pub fn is_exactly_once(&self) -> bool {
        self.lost + self.duplicated + self.wrong == 0
    }

    /// Compares effects by what they are of, in any order.
    fn compare<K: Ord + Clone + Debug>(
        &mut self,
        what: &str,
        expected: impl IntoIterator<Item = K>,
        found: impl IntoIterator<Item = K>,
    ) {
        let mut difference: BTreeMap<K, i64> = BTreeMap::new();
        let mut is_known = BTreeSet::new();
        for effect in expected {
            self.effects += 1;
            is_known.insert(effect.clone());
            *difference.entry(effect).or_default() -= 1;
        }
        found.into_iter().for_each(|effect| *difference.entry(effect).or_default() += 1);
        let mut first = BTreeMap::new();
        for (effect, count) in difference.into_iter().filter(|(_, count)| *count != 0) {
            let kind = match count {
                ..0 => ("lost", &mut self.lost),
                _ if is_known.contains(&effect) => ("there more than once", &mut self.duplicated),
                _ => ("there without a reason", &mut self.wrong),
            };
            *kind.1 += count.unsigned_abs();
            first.entry(kind.0).or_insert_with(|| format!("{what} {effect:?} is {}", kind.0));
        }
        self.faults.extend(first.into_values());
    }

    fn wrong(&mut self, fault: String) {
        self.wrong += 1;
        self.faults.push(fault);
    }
}

/// Verifies invariants 2, 3, 4, 5 and 11 of a joiner that has consumed both inputs of `line` to
/// their ends and is at rest.
pub fn joiner(line: &Line) -> Verdict {
    let settings = line.settings();
    let topics = &settings.topics;
    let views = line.kafka().read_to_end(&topics.behavior);
    let responses = line.kafka().read_to_end(&topics.responses);
    let truth = oracle::join(topics, &settings.join, &views, &responses);
    let mut verdict = Verdict { inputs: (views.len() + responses.len()) as u64, ..Verdict::default() };

    let labels = line.kafka().read_to_end(&topics.labelled_views);
    let pairs = line.kafka().read_to_end(&topics.preference_pairs);
    let groups = line.kafka().read_to_end(&topics.behavior_groups);
    let bytes = |record: &Record| record.payload.clone().unwrap_or_default();
    verdict.compare(
        "the label of view, response",
        truth.labelled.iter().map(label_key),
        labels.iter().map(|record| label_key(&record.decode())),
    );
    verdict.compare(
        "the behavior group of",
        truth.groups.iter().map(group_key),
        groups.iter().map(|record| group_key(&record.decode())),
    );
    let late = |topic: &str| line.kafka().read_to_end(topic).iter().map(joiners::origin).collect::<Vec<_>>();
    verdict.compare("the late record", truth.late.iter().cloned(), late(&topics.late));
    verdict.compare("the dead letter", truth.malformed.iter().cloned(), late(&topics.dead_letters));
    let dead = line.kafka().read_to_end(&topics.dead_letters);
    if let Some(letter) = dead.iter().find(|letter| !truth.malformed.contains(&joiners::origin(letter))) {
        let (reason, detail) = (letter.header("reason"), letter.header("detail"));
        verdict.faults.push(format!("{:?} was rejected: {reason:?}, {detail:?}", joiners::origin(letter)));
    }
    for partition in partitions(&views, &responses) {
        let of_partition = |record: &&Record| record.partition == partition;
        let labels: Vec<LabelledView> = labels.iter().filter(of_partition).map(Record::decode).collect();
        let expected = oracle::pairs(&settings.join, &labels);
        verdict.compare(
            "the preference pair",
            expected.iter().map(PreferencePair::encode_to_vec),
            pairs.iter().filter(of_partition).map(bytes),
        );
        counts(line, partition, &truth, &mut verdict);
    }
    verdict
}

fn partitions(views: &[Record], responses: &[Record]) -> BTreeSet<i32> {
    views.iter().chain(responses).map(|record| record.partition).collect()
}

/// Invariant 11, outcome by outcome.
fn counts(line: &Line, partition: i32, truth: &JoinTruth, verdict: &mut Verdict) {
    for (side, topic) in joiners::inputs(line) {
        let Some(state) = joiners::committed(line, &topic, partition) else {
            verdict.wrong(format!("nothing is committed of '{topic}' partition {partition}"));
            continue;
        };
        let found = counted(side, &state);
        let expected = &truth.counts[&(partition, side)];
        if found != *expected {
            verdict.wrong(format!("counts of '{topic}' partition {partition}: {found:?}, not {expected:?}"));
        }
    }
}

/// The committed counts in the oracle's form.
pub fn counted(side: Side, state: &easq::join::InputState) -> Counts {
    let counted = |&outcome: &Outcome| (outcome.as_str(), state.outcomes.get(outcome));
    Counts {
        outcomes: Outcome::of(side).iter().map(counted).filter(|(_, count)| *count > 0).collect(),
        waiting: state.outcomes.waiting,
    }
}

fn address(source: &Option<Source>) -> (i32, i64) {
    source.as_ref().map_or((-1, -1), |source| (source.partition, source.offset))
}

/// What a label is of, and all that it says.
fn label_key(label: &LabelledView) -> ((i32, i64), (i32, i64), Vec<u8>) {
    (address(&label.view_source), address(&label.response_source), label.encode_to_vec())
}

fn group_key(group: &BehaviorGroup) -> ((i32, i64), Vec<u8>) {
    (address(&group.first_source), group.encode_to_vec())
}
