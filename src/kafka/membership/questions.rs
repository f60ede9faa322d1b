//! What a member asks the brokers, with answers that it waits for.

use std::time::Instant;

use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{
    Bounds, Committed, CommittedPartition, Membership, MembershipError, PATIENCE, REQUEST_TIMEOUT,
    RETRY_PAUSE,
};
use crate::contract::Side;
use crate::kafka::client::is_access_refused;
use crate::kafka::identity::{TopicId, topic_ids};
use crate::kafka::{metadata, partition_list};
use crate::supervise::StopToken;

impl Membership {
    /// The group's committed offsets of both inputs. Waits until they are stable, that is until a
    /// pending transaction of the previous owner has ended: the fencing barrier. `None`: stopped,
    /// or the assignment was lost meanwhile; answer the assignment with [`Membership::release`].
    ///
    /// # Errors
    /// [`MembershipError::NoAnswer`] after [`PATIENCE`]: poll, and ask again.
    pub fn committed(
        &self,
        partitions: &[i32],
        stop: &StopToken,
    ) -> Result<Option<Vec<CommittedPartition>>, MembershipError> {
        if partitions.is_empty() {
            return Ok(Some(Vec::new()));
        }
        self.patiently("committed offsets", stop, || self.committed_once(partitions))
    }

    fn committed_once(&self, partitions: &[i32]) -> Result<Vec<CommittedPartition>, KafkaError> {
        let asked = [&self.mirror.topic, &self.member.topic]
            .into_iter()
            .flat_map(|topic| partitions.iter().map(|&partition| (&**topic, partition, Offset::Invalid)));
        let list = self.member.consumer.committed_offsets(partition_list(asked)?, REQUEST_TIMEOUT)?;
        for element in list.elements() {
            element.error()?;
        }
        let one = |topic: &str, partition: i32| {
            let element = list.find_partition(topic, partition)?;
            match element.offset() {
                Offset::Offset(offset) => Some(Committed { offset, metadata: element.metadata().to_owned() }),
                _ => None,
            }
        };
        Ok(partitions
            .iter()
            .map(|&partition| CommittedPartition {
                partition,
                views: one(&self.mirror.topic, partition),
                responses: one(&self.member.topic, partition),
            })
            .collect())
    }

    /// Asks for the bounds of any topic's partition, as `read_committed` readers see them. `None`:
    /// stopped, or the assignment was lost, before the brokers answered.
    ///
    /// # Errors
    /// [`MembershipError::NoAnswer`] after [`PATIENCE`]: poll, and ask again.
    pub fn bounds(
        &self,
        topic: &str,
        partition: i32,
        stop: &StopToken,
    ) -> Result<Option<Bounds>, MembershipError> {
        self.patiently(&format!("the offsets of '{topic}' partition {partition}"), stop, || {
            let (low, end) =
                metadata::watermarks(self.mirror.consumer.client(), topic, partition, REQUEST_TIMEOUT)?;
            Ok(Bounds { low, end })
        })
    }

    /// The ids of both input topics, views first; `None` within where the brokers give none. A topic
    /// that the brokers do not know counts as no answer. `None` as of [`Membership::bounds`].
    ///
    /// # Errors
    /// As [`Membership::bounds`].
    pub fn topic_ids(&self, stop: &StopToken) -> Result<Option<[Option<TopicId>; 2]>, MembershipError> {
        self.patiently("the ids of the input topics", stop, || {
            let topics = [&*self.mirror.topic, &*self.member.topic];
            let mut ids = topic_ids(self.uncommitted.client(), &topics, REQUEST_TIMEOUT)?.into_iter();
            Ok([ids.next().flatten(), ids.next().flatten()])
        })
    }

    /// The end of any topic's partition, behind records of transactions that are still open or not
    /// yet visible. `None` and errors as [`Membership::bounds`].
    ///
    /// # Errors
    /// As [`Membership::bounds`].
    pub fn uncommitted_end(
        &self,
        topic: &str,
        partition: i32,
        stop: &StopToken,
    ) -> Result<Option<i64>, MembershipError> {
        self.patiently(&format!("the end of '{topic}' partition {partition}"), stop, || {
            Ok(metadata::watermarks(self.uncommitted.client(), topic, partition, REQUEST_TIMEOUT)?.1)
        })
    }

    /// The offset of the first record of an input that is not older than `time_ms`, or the end
    /// offset when there is none. `None` and errors as [`Membership::bounds`].
    ///
    /// # Errors
    /// As [`Membership::bounds`].
    pub fn offset_at(
        &self,
        side: Side,
        partition: i32,
        time_ms: i64,
        stop: &StopToken,
    ) -> Result<Option<i64>, MembershipError> {
        let feed = self.feed(side);
        self.patiently(&format!("an offset by time of '{}'", feed.topic), stop, || {
            let asked = partition_list([(&*feed.topic, partition, Offset::Offset(time_ms))])?;
            let found = feed.consumer.offsets_for_times(asked, REQUEST_TIMEOUT)?;
            match found.find_partition(&feed.topic, partition).map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => Ok(offset),
                _ => {
                    Ok(metadata::watermarks(feed.consumer.client(), &feed.topic, partition, REQUEST_TIMEOUT)?
                        .1)
                }
            }
        })
    }

    /// Asks until there is an answer. `None`: stopped, or the assignment was lost meanwhile.
    fn patiently<T>(
        &self,
        what: &str,
        stop: &StopToken,
        ask: impl Fn() -> Result<T, KafkaError>,
    ) -> Result<Option<T>, MembershipError> {
        let begun = Instant::now();
        loop {
            if stop.is_stopped() || self.member.consumer.assignment_lost() {
                return Ok(None);
            }
            let reason = match ask() {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => error,
            };
            if reason.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerDestroy) {
                return Ok(None);
            }
            if let Some(error) = self.refusal(what, &reason) {
                return Err(error);
            }
            if begun.elapsed() > PATIENCE {
                let is_answer = metadata::is_unknown(&reason);
                let reason = reason.to_string();
                if !is_answer {
                    self.member.consumer.context().logging.connection.note_down(&reason);
                }
                return Err(MembershipError::NoAnswer {
                    what: what.to_owned(),
                    group: self.group.clone(),
                    reason,
                });
            }
            stop.wait(RETRY_PAUSE);
        }
    }

    /// What no patience helps against: this member was given up, or has no right to ask.
    fn refusal(&self, what: &str, error: &KafkaError) -> Option<MembershipError> {
        use RDKafkaErrorCode as Code;
        let fatal = || self.member.consumer.client().fatal_error().map(|(_, reason)| reason);
        let reason = error.to_string();
        match error.rdkafka_error_code() {
            Some(Code::FencedInstanceId) => {
                Some(MembershipError::Fenced { group: self.group.clone(), reason })
            }
            Some(Code::Fatal) => {
                Some(MembershipError::Fenced { group: self.group.clone(), reason: fatal().unwrap_or(reason) })
            }
            Some(code) if is_access_refused(code) => {
                Some(MembershipError::NotAuthorized { what: what.to_owned(), reason })
            }
            _ => None,
        }
    }
}
