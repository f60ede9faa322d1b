//! How long it takes from a fault until its effect is over: of joiners and brokers, until all that
//! lay in the inputs then is joined and committed; of trainers, until a follower has a newer version.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use easq::supervise::StopToken;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::Offset;

use crate::support::Line;
use crate::traffic::Ends;

const TICK: Duration = Duration::from_millis(50);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Faults that are recovered from, and those that are not yet.
#[derive(Debug, Default)]
pub struct Recoveries {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Vec<(String, Instant, Until)>,
    done: BTreeMap<String, Vec<Duration>>,
}

/// What ends a recovery.
#[derive(Debug)]
enum Until {
    Committed(Ends),
    NewerThan(u64),
}

impl Recoveries {
    /// A fault begins now; `ends` is how far the inputs are written.
    pub fn begin(&self, kind: String, ends: Ends) {
        self.open(kind, Until::Committed(ends));
    }

    /// A fault begins now; `version` is the newest that a follower has.
    pub fn begin_until_version(&self, kind: String, version: u64) {
        self.open(kind, Until::NewerThan(version));
    }

    fn open(&self, kind: String, until: Until) {
        self.state.lock().expect("nobody panicked").open.push((kind, Instant::now(), until));
    }

    /// A follower has this version.
    pub fn has_version(&self, version: u64) {
        self.settle(|until| matches!(until, Until::NewerThan(before) if *before < version));
    }

    /// Times by kind of fault, each sorted.
    pub fn done(&self) -> BTreeMap<String, Vec<Duration>> {
        let mut done = self.state.lock().expect("nobody panicked").done.clone();
        done.values_mut().for_each(|times| times.sort());
        done
    }

    /// Compares what the group has committed with what is waited for, until the stop.
    pub fn watch(&self, line: &Line, partitions: i32, stop: &StopToken) {
        let settings = line.settings();
        let mut config = line.kafka().client();
        config.set("group.id", &settings.joiner.group).set("reconnect.backoff.max.ms", "200");
        let client: BaseConsumer = config.create().expect("a valid client configuration");
        while !stop.is_stopped() {
            if let Some(committed) = committed(&client, &settings.topics, partitions) {
                self.settle(|until| matches!(until, Until::Committed(ends) if are_reached(ends, &committed)));
            }
            thread::sleep(TICK);
        }
    }

    fn settle(&self, is_over: impl Fn(&Until) -> bool) {
        let mut state = self.state.lock().expect("nobody panicked");
        let open = std::mem::take(&mut state.open);
        let (done, open): (Vec<_>, Vec<_>) = open.into_iter().partition(|(.., until)| is_over(until));
        state.open = open;
        for (kind, begun, _) in done {
            state.done.entry(kind).or_default().push(begun.elapsed());
        }
    }
}

fn are_reached(ends: &Ends, committed: &Ends) -> bool {
    ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|next| next >= end))
}

/// What the group has committed; `None` while no broker says.
fn committed(client: &BaseConsumer, topics: &easq::settings::Topics, partitions: i32) -> Option<Ends> {
    let mut wanted = TopicPartitionList::new();
    for topic in [&topics.behavior, &topics.responses] {
        for partition in 0..partitions {
            wanted.add_partition(topic, partition);
        }
    }
    let found = client.committed_offsets(wanted, ANSWER_WITHIN).ok()?;
    let next = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
        Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
        _ => None,
    };
    Some(found.elements().iter().filter_map(next).collect())
}
