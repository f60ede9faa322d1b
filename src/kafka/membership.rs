//! Two consumers with one group membership, so that the sparse responses never wait behind the
//! dense views.
//!
//! The *member* subscribes to both input topics, so that the range assignor gives it the same
//! partition numbers of both, but fetches responses only. The *mirror* is a client of its own that
//! is assigned the same partition numbers of the behavior topic by hand and never commits. The
//! offsets of both topics are committed, in the producer's transaction, with the member's group
//! metadata.
//!
//! One thread uses a [`Membership`]. A rebalance is handed out by [`Membership::poll_responses`]
//! as a [`Rebalance`], and the member stays in that rebalance until it is answered, on the same
//! thread and before the next poll: with [`Membership::start`] after an assignment, with
//! [`Membership::release`] after a revocation. Heartbeats go on in the background meanwhile;
//! `joiner.max_poll_interval_ms` bounds the time between two polls.

mod config;
mod context;
mod error;
mod feed;
mod questions;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use self::context::ChangeKind;
pub use self::error::MembershipError;
use self::error::failed;
use self::feed::{Fault, Feed};
use super::client::Context;
use super::reader::unreadable;
use super::{GroupMetadata, Record, metadata};
use crate::contract::Side;
use crate::settings::{self, Settings};
use crate::supervise::StopToken;

/// One request to the broker, as long as it may take before the loop looks at its stop token.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer is waited for before the caller polls again: heartbeats alone do not keep a
/// membership alive.
pub const PATIENCE: Duration = Duration::from_secs(3);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A change of the partitions that this member owns; the same numbers of both inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalance {
    /// All partitions of the new assignment. Answer with [`Membership::start`].
    Assigned { partitions: Vec<i32> },
    /// All partitions are taken away. `lost`: others may own them already, so what is open must be
    /// aborted, not committed. Answer with [`Membership::release`].
    Revoked { partitions: Vec<i32>, lost: bool },
}

/// The offsets at which a partition of both inputs is read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub partition: i32,
    pub views: i64,
    pub responses: i64,
}

/// What can be read of a partition: from `low` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub low: i64,
    pub end: i64,
}

/// What the group has committed for one partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub metadata: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedPartition {
    pub partition: i32,
    pub views: Option<Committed>,
    pub responses: Option<Committed>,
}

/// What the polls met since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Records below the expected offset or of partitions not owned. Any is a defect.
    pub dropped_records: u64,
    /// A position is out of the range that the broker still has: recover from the committed offsets.
    pub offset_gone: bool,
}

/// See the [module documentation](self).
pub struct Membership {
    member: Feed,
    mirror: Feed,
    /// Asked about logs beyond their last stable offset, and about ends; reads nothing, so that no
    /// answer waits behind a fetch.
    uncommitted: BaseConsumer<Context>,
    group: String,
    kafka: settings::Kafka,
    partition_count: i32,
    /// Of the assignment that is started.
    group_metadata: Option<GroupMetadata>,
    /// Of the assignment that was handed out last.
    assigned_metadata: Option<GroupMetadata>,
}

impl Membership {
    /// Checks the partition counts and subscribes. Waits for the brokers until they answer or
    /// `stop` says so (then `None`). `instance_id` empty: dynamic membership.
    ///
    /// # Errors
    /// Unequal partition counts, a missing topic, properties that librdkafka refuses.
    pub fn join(
        settings: &Settings,
        instance_id: &str,
        stop: &StopToken,
    ) -> Result<Option<Self>, MembershipError> {
        let member =
            Feed::new(settings.topics.responses.as_str().into(), config::member(settings, instance_id)?);
        let mirror = Feed::new(settings.topics.behavior.as_str().into(), config::mirror(settings)?);
        let mut membership = Self {
            member,
            mirror,
            uncommitted: config::uncommitted(settings)?,
            partition_count: 0,
            group: settings.joiner.group.clone(),
            kafka: settings.kafka.clone(),
            group_metadata: None,
            assigned_metadata: None,
        };
        let Some(partition_count) = membership.check_partition_counts(stop)? else { return Ok(None) };
        membership.partition_count = partition_count;
        let topics = [&*membership.member.topic, &*membership.mirror.topic];
        membership.member.consumer.subscribe(&topics).map_err(failed("subscribing to the inputs"))?;
        Ok(Some(membership))
    }

    /// `None`: stopped before the brokers answered. Asking the mirror also warms it: its first
    /// fetch would otherwise be a second late.
    fn check_partition_counts(&self, stop: &StopToken) -> Result<Option<i32>, MembershipError> {
        let mut counts = [0; 2];
        for (count, feed) in counts.iter_mut().zip([&self.mirror, &self.member]) {
            *count = loop {
                if stop.is_stopped() {
                    return Ok(None);
                }
                match feed.partition_count(REQUEST_TIMEOUT)? {
                    Some(count) => break count,
                    None => drop(stop.wait(RETRY_PAUSE)),
                }
            };
        }
        if counts[0] == counts[1] {
            return Ok(Some(counts[0]));
        }
        Err(MembershipError::UnequalPartitions {
            behavior: self.mirror.topic.to_string(),
            behavior_partitions: counts[0],
            responses: self.member.topic.to_string(),
            responses_partitions: counts[1],
        })
    }

    /// Appends at most `max` responses to `records`, waiting at most `timeout` for the first. The
    /// rebalance, if there is one, comes after these records and must be answered before the next
    /// poll.
    ///
    /// # Errors
    /// Fenced, not authorized, records that cannot be read, or an assignment whose partition numbers differ between the inputs.
    /// Brokers that are away are not an error: polls bring nothing until they are back.
    pub fn poll_responses(
        &mut self,
        max: usize,
        timeout: Duration,
        records: &mut Vec<Record>,
    ) -> Result<Option<Rebalance>, MembershipError> {
        let polled = self.member.poll(max, timeout, records);
        polled.map_err(|fault| self.ended(Side::Responses, fault))?;
        let Some(change) = self.member.consumer.context().take_rebalance() else { return Ok(None) };
        let views: Vec<i32> = change.numbers(&self.mirror.topic);
        let responses: Vec<i32> = change.numbers(&self.member.topic);
        Ok(Some(match change.kind {
            ChangeKind::Assigned => {
                let partitions = self.aligned(views, responses)?;
                // Before it is answered the group cannot go on to another generation. Once the session
                // is lost the metadata is that of nobody, which fences nothing: but the mark of the
                // loss comes first.
                let metadata = self.member.consumer.group_metadata().map(GroupMetadata::new);
                self.assigned_metadata = metadata.filter(|_| !self.member.consumer.assignment_lost());
                Rebalance::Assigned { partitions }
            }
            ChangeKind::Revoked { lost } => Rebalance::Revoked { partitions: responses, lost },
        }))
    }

    /// Appends at most `max` views to `records`, waiting at most `timeout` for the first.
    ///
    /// # Errors
    /// As [`Membership::poll_responses`].
    pub fn poll_views(
        &mut self,
        max: usize,
        timeout: Duration,
        records: &mut Vec<Record>,
    ) -> Result<(), MembershipError> {
        let polled = self.mirror.poll(max, timeout, records);
        polled.map_err(|fault| self.ended(Side::Views, fault))
    }

    /// Answers an assignment, or begins to read after it was [put off](Membership::put_off): both
    /// inputs from `starts` on.
    ///
    /// # Errors
    /// librdkafka refuses the assignment.
    pub fn start(&mut self, starts: &[Start]) -> Result<(), MembershipError> {
        self.member
            .assign(&offsets(starts, |start| start.responses))
            .map_err(failed("assigning responses"))?;
        self.mirror.assign(&offsets(starts, |start| start.views)).map_err(failed("assigning views"))?;
        self.group_metadata = self.assigned_metadata.clone();
        Ok(())
    }

    /// Answers an assignment without reading anything yet, so that the membership stays alive
    /// while the caller finds out where to start.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn put_off(&mut self) -> Result<(), MembershipError> {
        self.group_metadata = None;
        self.mirror.unassign().map_err(failed("putting views off"))?;
        self.member.assign(&[]).map_err(failed("putting responses off"))
    }

    /// Goes back to `starts` within the same assignment, after an aborted transaction.
    ///
    /// # Errors
    /// librdkafka cannot seek; recover by leaving and joining again.
    pub fn rewind(&mut self, starts: &[Start]) -> Result<(), MembershipError> {
        // Seeking leaves the member's rebalance state alone, where a second assign would clear the
        // mark that tells a lost assignment.
        self.member.seek(&offsets(starts, |start| start.responses)).map_err(failed("rewinding responses"))?;
        self.mirror.assign(&offsets(starts, |start| start.views)).map_err(failed("rewinding views"))
    }

    /// Answers a revocation (or an assignment that was lost before it started): nothing is owned.
    ///
    /// # Errors
    /// librdkafka refuses.
    pub fn release(&mut self) -> Result<(), MembershipError> {
        (self.group_metadata, self.assigned_metadata) = (None, None);
        self.mirror.unassign().map_err(failed("releasing views"))?;
        self.member.unassign().map_err(failed("releasing responses"))
    }

    /// The group metadata of the current assignment, captured when it was handed out; `None` while
    /// nothing is read.
    #[must_use]
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        self.group_metadata.clone()
    }

    /// Partitions of either input topic.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        self.partition_count
    }

    /// The partition numbers that are owned and started.
    #[must_use]
    pub fn owned(&self) -> Vec<i32> {
        self.member.owned()
    }

    #[must_use]
    pub fn topic(&self, side: Side) -> &Arc<str> {
        &self.feed(side).topic
    }

    /// Stops fetching one partition of one side, or goes on where it stopped. What librdkafka has
    /// fetched of a held partition is fetched again on resuming.
    ///
    /// # Errors
    /// The partition is not owned.
    pub fn hold(&mut self, side: Side, partition: i32, held: bool) -> Result<(), MembershipError> {
        self.feed_mut(side).hold(partition, held).map_err(failed("pausing or resuming a partition"))
    }

    /// The partition was read to its end, and nothing has arrived since.
    #[must_use]
    pub fn at_end(&self, side: Side, partition: i32) -> bool {
        self.feed(side).at_end(partition)
    }

    /// The partition is read to the end that it has now: the brokers were asked within the last
    /// second, and everything below their answer was handed out. False while they do not answer.
    pub fn is_at_current_end(&mut self, side: Side, partition: i32) -> bool {
        let feed = match side {
            Side::Views => &mut self.mirror,
            Side::Responses => &mut self.member,
        };
        feed.is_at_current_end(partition, &self.uncommitted)
    }

    /// The offset behind the last record that was handed out of an owned partition.
    #[must_use]
    pub fn next_offset(&self, side: Side, partition: i32) -> Option<i64> {
        self.feed(side).next_offset(partition)
    }

    /// End of the partition as the last fetch saw it, refreshed about once a second; `None` before
    /// the first.
    #[must_use]
    pub fn end_offset(&self, side: Side, partition: i32) -> Option<i64> {
        self.feed(side).consumer.context().end_offset(partition)
    }

    /// What happened on both sides since the last call.
    pub fn take_health(&mut self) -> Health {
        let mut health = self.mirror.take_health();
        let member = self.member.take_health();
        health.dropped_records += member.dropped_records;
        health.offset_gone |= member.offset_gone;
        health
    }

    /// The partitions of an assignment, which are the same of both inputs. The group has none to give of a
    /// topic that is not there any more, and nothing can be joined then.
    fn aligned(&self, views: Vec<i32>, responses: Vec<i32>) -> Result<Vec<i32>, MembershipError> {
        if views == responses {
            return Ok(responses);
        }
        let empty = [(&self.mirror, views.is_empty()), (&self.member, responses.is_empty())];
        let is_gone = |feed: &Feed| {
            let count = metadata::partition_count(self.uncommitted.client(), &feed.topic, REQUEST_TIMEOUT);
            matches!(count, Ok(0))
        };
        if empty.iter().any(|(feed, is_empty)| *is_empty && is_gone(feed)) {
            return Ok(Vec::new());
        }
        Err(MembershipError::Misaligned { group: self.group.clone(), views, responses })
    }

    fn ended(&self, side: Side, fault: Fault) -> MembershipError {
        match fault.unreadable() {
            Some(code) => {
                let places = self.feed(side).places();
                let place = unreadable::find(&self.kafka, "joiner second look", places, code);
                MembershipError::Unreadable { place }
            }
            None => fault.into_error(&self.group),
        }
    }

    fn feed(&self, side: Side) -> &Feed {
        match side {
            Side::Views => &self.mirror,
            Side::Responses => &self.member,
        }
    }

    fn feed_mut(&mut self, side: Side) -> &mut Feed {
        match side {
            Side::Views => &mut self.mirror,
            Side::Responses => &mut self.member,
        }
    }
}

impl Drop for Membership {
    /// Leaves the group; a static member's partitions wait for it until the session times out.
    fn drop(&mut self) {
        // The clients go away with this value: failures change nothing.
        let _ = self.mirror.unassign();
        self.member.consumer.context().close();
        let _ = self.member.unassign();
    }
}

fn offsets(starts: &[Start], side: impl Fn(&Start) -> i64) -> Vec<(i32, i64)> {
    starts.iter().map(|start| (start.partition, side(start))).collect()
}
