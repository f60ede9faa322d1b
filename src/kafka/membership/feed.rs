//! One consumer of one input topic, at positions given by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::context::FeedContext;
use super::{Health, MembershipError, REQUEST_TIMEOUT, RETRY_PAUSE};
use crate::kafka::client::{Context, is_access_refused};
use crate::kafka::reader::unreadable::is_unreadable;
use crate::kafka::{Record, metadata, partition_list};

/// A seek is local work of librdkafka; it answers at once unless the client is shutting down.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// What an error of a poll asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Go on: librdkafka recovers by itself.
    Retry,
    /// The position is gone: recover from the committed offsets.
    Recover,
    /// The session is given up.
    Fenced,
    /// A person must act.
    NotAuthorized,
    /// Records are there that cannot be read.
    Unreadable,
}

fn action(error: &KafkaError) -> Action {
    if let KafkaError::MessageConsumptionFatal(_) = error {
        return Action::Fenced;
    }
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Action::Recover,
        Some(RDKafkaErrorCode::FencedInstanceId) => Action::Fenced,
        Some(code) if is_access_refused(code) => Action::NotAuthorized,
        Some(code) if is_unreadable(code) => Action::Unreadable,
        _ => Action::Retry,
    }
}

/// An error of a poll that ends the membership.
pub(super) struct Fault {
    action: Action,
    topic: Arc<str>,
    error: KafkaError,
}

impl Fault {
    /// Of records that cannot be read.
    pub(super) fn unreadable(&self) -> Option<RDKafkaErrorCode> {
        self.error.rdkafka_error_code().filter(|_| self.action == Action::Unreadable)
    }

    pub(super) fn into_error(self, group: &str) -> MembershipError {
        let reason = self.error.to_string();
        match self.action {
            Action::Fenced => MembershipError::Fenced { group: group.to_owned(), reason },
            Action::NotAuthorized => MembershipError::NotAuthorized { what: self.topic.to_string(), reason },
            Action::Retry | Action::Recover | Action::Unreadable => {
                MembershipError::Client { what: format!("reading '{}'", self.topic), source: self.error }
            }
        }
    }
}

/// How long the brokers' word on the end of a partition counts, or their silence.
const END_KNOWN_FOR: Duration = Duration::from_secs(1);
/// A question about an end is short, since the polling thread waits for it.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// How far one owned partition was read.
struct Progress {
    next_offset: i64,
    at_end: bool,
    held: bool,
    /// When the brokers were asked for the end, and what they said.
    asked_end: Option<(Instant, Option<i64>)>,
}

pub(super) struct Feed {
    pub(super) topic: Arc<str>,
    pub(super) consumer: BaseConsumer<FeedContext>,
    owned: BTreeMap<i32, Progress>,
    /// When the brokers did not answer the question for an end.
    unanswered: Option<Instant>,
    health: Health,
}

impl Feed {
    pub(super) fn new(topic: Arc<str>, consumer: BaseConsumer<FeedContext>) -> Self {
        Self { topic, consumer, owned: BTreeMap::new(), unanswered: None, health: Health::default() }
    }

    /// Stops early at a rebalance, so that no record of the next assignment is mixed in.
    pub(super) fn poll(
        &mut self,
        max: usize,
        timeout: Duration,
        records: &mut Vec<Record>,
    ) -> Result<(), Fault> {
        let mut wait = timeout;
        for _ in 0..max {
            let Some(polled) = self.consumer.poll(wait) else { break };
            wait = Duration::ZERO;
            match polled {
                Ok(message) => {
                    self.consumer.context().logging.connection.note_up();
                    if advance(&mut self.owned, message.partition(), message.offset()) {
                        records.push(Record::copied(self.topic.clone(), &message));
                    } else {
                        self.health.dropped_records += 1;
                    }
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.consumer.context().logging.connection.note_up();
                    if let Some(progress) = self.owned.get_mut(&partition) {
                        progress.at_end = true;
                    }
                }
                Err(error) => {
                    self.on_error(error)?;
                    break;
                }
            }
            if self.consumer.context().has_rebalance() {
                break;
            }
        }
        Ok(())
    }

    fn on_error(&mut self, error: KafkaError) -> Result<(), Fault> {
        match action(&error) {
            Action::Retry => {
                if metadata::is_unknown(&error) {
                    // What it says is of no matter: asking is what makes librdkafka look again.
                    let _ = self.consumer.fetch_metadata(Some(&self.topic), REQUEST_TIMEOUT);
                } else {
                    self.consumer.context().logging.connection.note_down(&error.to_string());
                }
                // With the brokers down, polls return at once, again and again.
                thread::sleep(RETRY_PAUSE);
                Ok(())
            }
            Action::Recover => {
                self.health.offset_gone = true;
                Ok(())
            }
            action @ (Action::Fenced | Action::NotAuthorized | Action::Unreadable) => {
                Err(Fault { action, topic: self.topic.clone(), error })
            }
        }
    }

    pub(super) fn assign(&mut self, offsets: &[(i32, i64)]) -> KafkaResult<()> {
        self.resume_held()?;
        let list = self.list(offsets)?;
        self.consumer.assign(&list)?;
        self.restart(offsets);
        Ok(())
    }

    pub(super) fn seek(&mut self, offsets: &[(i32, i64)]) -> KafkaResult<()> {
        self.resume_held()?;
        if offsets.is_empty() {
            return Ok(());
        }
        let list = self.consumer.seek_partitions(self.list(offsets)?, SEEK_TIMEOUT)?;
        for element in list.elements() {
            element.error()?;
        }
        self.restart(offsets);
        Ok(())
    }

    pub(super) fn unassign(&mut self) -> KafkaResult<()> {
        self.resume_held()?;
        self.owned.clear();
        self.consumer.unassign()
    }

    /// librdkafka keeps a partition paused through unassigning and assigning it again: held once
    /// and not resumed, it would never be fetched again.
    fn resume_held(&mut self) -> KafkaResult<()> {
        let is_held = |(&partition, progress): (&i32, &Progress)| progress.held.then_some(partition);
        let held: Vec<i32> = self.owned.iter().filter_map(is_held).collect();
        held.into_iter().try_for_each(|partition| self.hold(partition, false))
    }

    pub(super) fn hold(&mut self, partition: i32, held: bool) -> KafkaResult<()> {
        let Some(progress) = self.owned.get_mut(&partition) else { return Ok(()) };
        if progress.held == held {
            return Ok(());
        }
        progress.held = held;
        let list = partition_list([(&*self.topic, partition, Offset::Invalid)])?;
        if held { self.consumer.pause(&list) } else { self.consumer.resume(&list) }
    }

    pub(super) fn owned(&self) -> Vec<i32> {
        self.owned.keys().copied().collect()
    }

    /// Topic, partition and next offset of all that is owned.
    pub(super) fn places(&self) -> impl Iterator<Item = (Arc<str>, i32, i64)> {
        self.owned.iter().map(|(&partition, progress)| (self.topic.clone(), partition, progress.next_offset))
    }

    /// Behind the last record that was handed out.
    pub(super) fn next_offset(&self, partition: i32) -> Option<i64> {
        self.owned.get(&partition).map(|progress| progress.next_offset)
    }

    pub(super) fn at_end(&self, partition: i32) -> bool {
        self.owned.get(&partition).is_some_and(|progress| progress.at_end)
    }

    /// Whether a partition is read to the end that it has now, by the brokers' own word.
    ///
    /// [`at_end`](Self::at_end) alone does not tell: while a leader is away it stays as it was, and
    /// librdkafka says once only that an end was reached. So the brokers are asked, at most once a
    /// second, through `probe`, which fetches nothing: an answer would wait behind a fetch. The
    /// position of what was handed out, which moves over control records too, must have come as far.
    pub(super) fn is_at_current_end(&mut self, partition: i32, probe: &BaseConsumer<Context>) -> bool {
        let Some(progress) = self.owned.get_mut(&partition).filter(|progress| progress.at_end) else {
            return false;
        };
        let end = match progress.asked_end {
            Some((asked, end)) if asked.elapsed() < END_KNOWN_FOR => end,
            // Who does not answer for one partition is not asked for the next.
            _ if self.unanswered.is_some_and(|asked| asked.elapsed() < END_KNOWN_FOR) => None,
            _ => {
                let asked = Instant::now();
                let bounds = metadata::watermarks(probe.client(), &self.topic, partition, END_TIMEOUT);
                let end = bounds.ok().map(|(_, end)| end);
                self.unanswered = end.is_none().then_some(asked);
                progress.asked_end = Some((asked, end));
                end
            }
        };
        end.is_some() && self.position(partition) >= end
    }

    /// Behind the last record or control record that was handed out or passed over.
    fn position(&self, partition: i32) -> Option<i64> {
        let next_offset = self.next_offset(partition);
        let positions = self.consumer.position().ok()?;
        match positions.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(offset) => next_offset.max(Some(offset)),
            _ => next_offset,
        }
    }

    pub(super) fn take_health(&mut self) -> Health {
        std::mem::take(&mut self.health)
    }

    /// `None`: the brokers do not answer yet.
    pub(super) fn partition_count(&self, timeout: Duration) -> Result<Option<i32>, MembershipError> {
        match metadata::partition_count(self.consumer.client(), &self.topic, timeout) {
            Ok(0) if metadata::is_missing(self.consumer.client(), &self.topic, timeout) => {
                Err(MembershipError::TopicMissing { topic: self.topic.to_string() })
            }
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(error) if error.rdkafka_error_code().is_some_and(is_access_refused) => {
                Err(MembershipError::NotAuthorized {
                    what: self.topic.to_string(),
                    reason: error.to_string(),
                })
            }
            Err(_) => Ok(None),
        }
    }

    fn restart(&mut self, offsets: &[(i32, i64)]) {
        let fresh = |&(partition, next_offset): &(i32, i64)| {
            (partition, Progress { next_offset, at_end: false, held: false, asked_end: None })
        };
        self.owned = offsets.iter().map(fresh).collect();
        self.health.offset_gone = false;
    }

    fn list(&self, offsets: &[(i32, i64)]) -> KafkaResult<TopicPartitionList> {
        partition_list(
            offsets.iter().map(|&(partition, offset)| (&*self.topic, partition, Offset::Offset(offset))),
        )
    }
}

/// Moves the position past `offset`; `false` when the record must be dropped.
fn advance(owned: &mut BTreeMap<i32, Progress>, partition: i32, offset: i64) -> bool {
    let Some(progress) = owned.get_mut(&partition) else { return false };
    if offset < progress.next_offset {
        return false;
    }
    progress.next_offset = offset + 1;
    progress.at_end = false;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(partition: i32, next_offset: i64) -> BTreeMap<i32, Progress> {
        BTreeMap::from([(partition, Progress { next_offset, at_end: true, held: false, asked_end: None })])
    }

    /// Invariant 2: no record takes effect twice, whatever a broker or a stale fetch hands out.
    #[test]
    fn a_record_below_the_expected_offset_is_dropped() {
        let mut owned = owned(3, 7);
        assert!(!advance(&mut owned, 3, 6));
        assert!(advance(&mut owned, 3, 7));
        assert!(!advance(&mut owned, 3, 7), "the same record again");
        assert!(advance(&mut owned, 3, 12), "gaps are transaction markers");
        assert_eq!(owned[&3].next_offset, 13);
    }

    #[test]
    fn a_record_of_a_partition_that_is_not_owned_is_dropped() {
        assert!(!advance(&mut owned(3, 0), 4, 0));
    }

    #[test]
    fn a_record_ends_the_end_of_the_partition() {
        let mut owned = owned(0, 0);
        advance(&mut owned, 0, 0);
        assert!(!owned[&0].at_end);
    }

    #[test]
    fn errors_of_a_poll_ask_for_the_action_of_the_kafka_rules() {
        use RDKafkaErrorCode as Code;
        let passing = |code| action(&KafkaError::MessageConsumption(code));
        assert_eq!(passing(Code::BrokerTransportFailure), Action::Retry);
        assert_eq!(passing(Code::AllBrokersDown), Action::Retry);
        assert_eq!(passing(Code::AutoOffsetReset), Action::Recover);
        assert_eq!(passing(Code::BadMessage), Action::Unreadable);
        assert_eq!(passing(Code::FencedInstanceId), Action::Fenced);
        assert_eq!(passing(Code::TopicAuthorizationFailed), Action::NotAuthorized);
        assert_eq!(action(&KafkaError::MessageConsumptionFatal(Code::Fenced)), Action::Fenced);
    }
}
