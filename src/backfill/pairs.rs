//! The pairs of a range once more, in a topic of their own, as the joiner writes pairs.
//!
//! Readers of committed records see each pair once, in the order of the replay: all of the range, or of a
//! replay that did not end the first ones of each partition. Since a replay gives the same pairs again
//! (invariant 10), one that is resumed goes on behind the last one that a partition has.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::BackfillError;
use crate::join::Output;
use crate::joiner::outgoing;
use crate::kafka::Outgoing;
use crate::kafka::reader::{From, ReadError, Reading};
use crate::kafka::topics::create_like_pairs;
use crate::kafka::transaction::{TransactionError, TransactionalProducer};
use crate::settings::{self, Settings};
use crate::supervise::{StopToken, failpoint};

/// Pairs that wait for a transaction, at most: it is open only for as long as writing them takes.
const BATCH_PAIRS: usize = 1000;
const BATCH_BYTES: usize = 8 << 20;
/// A transaction that the brokers refused is built anew this often.
const ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);
/// How long brokers may take to say where a partition begins and ends.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often reading looks at the stop.
const SLICE: Duration = Duration::from_millis(100);

/// A topic that pairs are written to.
pub struct PairsTopic {
    topic: Arc<str>,
    producer: TransactionalProducer,
    /// Of partitions that hold pairs of a replay before this one: the last, until it comes again.
    last: BTreeMap<i32, Bytes>,
    waiting: Vec<Outgoing>,
    waiting_bytes: usize,
    /// Pairs of this replay that readers see, those from before among them.
    there: u64,
    stop: StopToken,
}

/// Refuses what is no name of a topic, or one of the service's.
///
/// # Errors
/// The argument is at fault.
pub fn check_name(settings: &Settings, topic: &str) -> Result<(), BackfillError> {
    let refused = |problem: String| Err(BackfillError::PairsName { topic: topic.to_owned(), problem });
    if let Some(rule) = settings::topic_problem(topic) {
        return refused(format!("a topic has {rule}"));
    }
    let topics = &settings.topics;
    if let Some((key, _)) = topics.partitioned().iter().find(|(_, name)| *name == topic) {
        return refused(format!("it is a topic of the service ({key}), and a replay leaves that alone"));
    }
    let prefixes =
        [("topics.model_prefix", &topics.model_prefix), ("topics.registry_prefix", &topics.registry_prefix)];
    let is_below = |prefix: &str| topic == prefix || topic.starts_with(&format!("{prefix}."));
    if let Some((key, _)) = prefixes.iter().find(|(_, prefix)| is_below(prefix)) {
        return refused(format!("it is the topic of a model ({key}), and a replay leaves that alone"));
    }
    if topic.starts_with("__") {
        return refused("it is a topic of Kafka itself".to_owned());
    }
    Ok(())
}

impl PairsTopic {
    /// Creates the topic where it is missing and takes it over from any other replay. Of a replay that
    /// goes on (`is_resumed`) it may hold pairs.
    ///
    /// # Errors
    /// It has other partitions than pairs have, holds records, or the brokers refuse.
    pub fn open(
        settings: &Settings,
        topic: &str,
        partitions: i32,
        is_resumed: bool,
        stop: &StopToken,
    ) -> Result<Self, BackfillError> {
        let created = create_like_pairs(settings, topic, partitions)?;
        if created.partitions != partitions {
            return Err(BackfillError::PairsPartitions {
                topic: topic.to_owned(),
                found: created.partitions,
                partitions,
            });
        }
        // Before it is taken over: who holds records there may be at work.
        if !is_resumed {
            last_pairs(settings, topic, partitions, is_resumed, stop)?;
        }
        let timeout = Duration::from_millis(settings.joiner.transaction_timeout_ms);
        let id = format!("easq-backfill-{topic}");
        let producer = TransactionalProducer::new(&settings.kafka, &id, timeout, stop)?;
        producer.init()?;
        // What another one left open is aborted by now, and what it has committed is visible.
        let held = last_pairs(settings, topic, partitions, is_resumed, stop)?;
        Ok(Self {
            topic: topic.into(),
            producer,
            there: held.values().map(|held| held.records).sum(),
            last: held.into_iter().map(|(partition, held)| (partition, held.last)).collect(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            stop: stop.clone(),
        })
    }

    /// Takes the next pair, of a partition; its payload.
    ///
    /// # Errors
    /// The brokers refuse it, or another replay has taken the topic over.
    pub fn take(&mut self, partition: i32, output: &Output) -> Result<Option<Bytes>, BackfillError> {
        let record = outgoing(Arc::clone(&self.topic), partition, output.clone());
        let payload = record.payload.clone();
        if let Some(last) = self.last.get(&partition) {
            if payload.as_ref() == Some(last) {
                self.last.remove(&partition);
            }
            return Ok(payload);
        }
        self.waiting_bytes += record.len_bytes();
        self.waiting.push(record);
        if self.waiting.len() >= BATCH_PAIRS || self.waiting_bytes >= BATCH_BYTES {
            self.commit()?;
        }
        Ok(payload)
    }

    /// Writes what waits still.
    ///
    /// # Errors
    /// As [`take`](Self::take); and the topic held something that the range does not give.
    pub fn finish(&mut self) -> Result<(), BackfillError> {
        self.commit()?;
        match self.last.keys().next() {
            None => Ok(()),
            Some(&partition) => {
                Err(BackfillError::PairsOfAnother { topic: self.topic.to_string(), partition })
            }
        }
    }

    /// Pairs that readers of committed records see.
    pub fn there(&self) -> u64 {
        self.there
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    fn commit(&mut self) -> Result<(), BackfillError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut attempts = 1;
        while let Err(error) = self.transact() {
            if !error.must_abort() || attempts == ATTEMPTS {
                return Err(self.failed(error));
            }
            self.producer.abort().map_err(|error| self.failed(error))?;
            attempts += 1;
            self.stop.wait(BETWEEN_ATTEMPTS);
        }
        self.there += self.waiting.len() as u64;
        self.waiting.clear();
        self.waiting_bytes = 0;
        failpoint("backfill-pairs-committed");
        Ok(())
    }

    fn transact(&self) -> Result<(), TransactionError> {
        self.producer.begin()?;
        for record in &self.waiting {
            self.producer.send(record)?;
        }
        failpoint("backfill-pairs-before-commit");
        self.producer.commit_outputs()
    }

    fn failed(&self, error: TransactionError) -> BackfillError {
        match error.is_fenced() {
            true => BackfillError::PairsTaken { topic: self.topic.to_string() },
            false => error.into(),
        }
    }
}

/// What a partition holds.
struct Held {
    records: u64,
    last: Bytes,
}

/// Of the partitions that hold something: their last pairs.
fn last_pairs(
    settings: &Settings,
    topic: &str,
    partitions: i32,
    may_hold: bool,
    stop: &StopToken,
) -> Result<BTreeMap<i32, Held>, BackfillError> {
    let mut held: BTreeMap<i32, Held> = BTreeMap::new();
    for partition in 0..partitions {
        let mut reading = Reading::begin(&settings.kafka, topic, partition, From::Beginning, PATIENCE)?;
        let mut is_over = false;
        while !is_over {
            if stop.is_stopped() {
                return Err(ReadError::Stopped { topic: topic.to_owned(), partition }.into());
            }
            is_over = reading.advance(Instant::now() + SLICE, |record| {
                let held = held.entry(partition).or_insert(Held { records: 0, last: Bytes::new() });
                held.records += 1;
                held.last = record.payload.unwrap_or_default();
                if may_hold { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if !may_hold && held.contains_key(&partition) {
                return Err(BackfillError::PairsThere { topic: topic.to_owned(), partition });
            }
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_topic_of_the_service_is_written_to() {
        let settings = Settings::default();
        let topics = &settings.topics;
        for (topic, said) in [
            (topics.behavior.as_str(), "topics.behavior"),
            (&topics.responses, "topics.responses"),
            (&topics.labelled_views, "topics.labelled_views"),
            (&topics.preference_pairs, "topics.preference_pairs"),
            (&topics.behavior_groups, "topics.behavior_groups"),
            (&topics.late, "topics.late"),
            (&topics.dead_letters, "topics.dead_letters"),
            (&topics.model("main"), "topics.model_prefix"),
            (&topics.registry("another"), "topics.registry_prefix"),
            ("__consumer_offsets", "Kafka itself"),
            ("two words", "letters"),
            ("", "letters"),
        ] {
            let text = check_name(&settings, topic).expect_err(topic).to_string();
            assert!(text.contains(said) && text.contains("--pairs-topic"), "{topic}: {text}");
        }
        for free in ["easq.preference-pairs.again", "pairs", "easq.models"] {
            check_name(&settings, free).expect(free);
        }
    }
}
