//! How long it takes from a fault until all that lay in the inputs then is joined and committed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use easq::supervise::StopToken;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::Offset;

use crate::schedule::{Fault, Target};
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
    open: Vec<(String, Instant, Ends)>,
    done: BTreeMap<String, Vec<Duration>>,
}

impl Recoveries {
    /// A fault begins now; `ends` is how far the inputs are written.
    pub fn begin(&self, target: Target, fault: Fault, ends: Ends) {
        let who = match target {
            Target::Joiner(_) => "joiner",
            Target::Trainer(_) => "trainer",
            Target::Broker(_) => "broker",
        };
        let mut state = self.state.lock().expect("no watcher panicked");
        state.open.push((format!("{who} {fault}"), Instant::now(), ends));
    }

    /// Times by kind of fault, each sorted.
    pub fn done(&self) -> BTreeMap<String, Vec<Duration>> {
        let mut done = self.state.lock().expect("no watcher panicked").done.clone();
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
                self.settle(&committed);
            }
            thread::sleep(TICK);
        }
    }

    fn settle(&self, committed: &Ends) {
        let mut state = self.state.lock().expect("nobody panicked");
        let is_reached = |ends: &Ends| {
            ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|next| next >= end))
        };
        let open = std::mem::take(&mut state.open);
        let (done, open): (Vec<_>, Vec<_>) = open.into_iter().partition(|(.., ends)| is_reached(ends));
        state.open = open;
        for (kind, begun, _) in done {
            state.done.entry(kind).or_default().push(begun.elapsed());
        }
    }
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
