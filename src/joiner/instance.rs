//! One polling thread: both consumers, the joins of the owned partitions, one producer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::contract::Side;
use crate::join::{Config, Effects, OutputKind};
use crate::kafka::membership::{Membership, Rebalance};
use crate::kafka::transaction::TransactionalProducer;
use crate::kafka::{NextOffset, Outgoing, Record};
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::events;
use crate::telemetry::partitions::{self, PartitionReport};
use crate::telemetry::state::InstanceState;

use super::identity::Identity;
use super::losses::ToldLosses;
use super::output::OutputTopics;
use super::partition::{Ends, Partition};
use super::report;
use super::{JoinerError, Tokens};

/// How long the loop waits for a response when the turn before found nothing to do.
const IDLE_WAIT: Duration = Duration::from_millis(5);
/// How often what is shown of a partition follows its lag between commits.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A side of a partition is no longer fetched when this many polls of records wait for the join,
/// and fetched again when one poll is left.
const MAX_WAITING_POLLS: usize = 8;

/// An assignment that is not read yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) partitions: Vec<i32>,
    pub(super) since: Instant,
}

pub(super) struct Instance<'a> {
    pub(super) settings: &'a Settings,
    pub(super) number: usize,
    pub(super) stop: &'a StopToken,
    pub(super) tokens: &'a Tokens,
    pub(super) config: Arc<Config>,
    pub(super) membership: Membership,
    pub(super) producer: TransactionalProducer,
    pub(super) partitions: BTreeMap<i32, Partition>,
    /// States of the assignment before, between its revocation and the next one.
    pub(super) kept: BTreeMap<i32, Partition>,
    /// Partitions that were assigned, and whose states cannot be built before the brokers answer.
    pub(super) pending: Option<Pending>,
    /// The assignment's states must be built again from the committed offsets.
    pub(super) must_rebuild: bool,
    pub(super) told_losses: ToldLosses,
    topics: OutputTopics,
    /// When the open transaction was begun.
    open: Option<Instant>,
    last_commit: Instant,
    last_report: Instant,
    /// When it began to own nothing.
    pub(super) nothing_since: Instant,
    /// What it was at when that was last told.
    told: InstanceState,
    /// Outputs that the open transaction, or the next, is still to take.
    outputs: Vec<Outgoing>,
    /// Kafka timestamps of the records that completed the labels among them.
    completed_ms: Vec<i64>,
    /// Event times of the answers of these labels.
    answered_ms: Vec<i64>,
    effects: Effects,
    polled: Vec<Record>,
}

impl<'a> Instance<'a> {
    /// Joins the group and takes over the transactional id. `None`: stopped before the brokers
    /// answered.
    pub(super) fn start(
        settings: &'a Settings,
        number: usize,
        identity: &Identity,
        tokens: &'a Tokens,
    ) -> Result<Option<Self>, JoinerError> {
        let stop = &tokens.stop;
        let timeout = Duration::from_millis(settings.joiner.transaction_timeout_ms);
        let client = format!("joiner-{number} producer");
        let id = &identity.transactional_id;
        let producer = TransactionalProducer::named(&settings.kafka, &client, id, timeout, stop)?;
        producer.init()?;
        let Some(membership) = Membership::join(settings, &identity.instance_id, stop)? else {
            return Ok(None);
        };
        let config = Arc::new(Config::new(settings, membership.partition_count()));
        let now = Instant::now();
        Ok(Some(Self {
            settings,
            number,
            stop,
            tokens,
            config,
            membership,
            producer,
            partitions: BTreeMap::new(),
            kept: BTreeMap::new(),
            pending: None,
            must_rebuild: false,
            told_losses: ToldLosses::default(),
            topics: OutputTopics::new(&settings.topics),
            open: None,
            last_commit: now,
            last_report: now,
            nothing_since: now,
            told: InstanceState::Joining,
            outputs: Vec::new(),
            completed_ms: Vec::new(),
            answered_ms: Vec::new(),
            effects: Effects::default(),
            polled: Vec::new(),
        }))
    }

    /// Joins until the stop, then commits what is open and leaves the group.
    pub(super) fn run(mut self) -> Result<(), JoinerError> {
        let mut is_busy = false;
        while !self.stop.is_stopped() {
            self.tokens.beat.beat();
            is_busy = self.turn(is_busy)?;
        }
        if self.tokens.halt.is_stopped() {
            self.abort("the joiner halts")?;
        }
        self.transact(Self::commit)?;
        self.forget_partitions(false);
        Ok(())
    }

    /// One turn of the loop; true when it moved any record.
    fn turn(&mut self, is_busy: bool) -> Result<bool, JoinerError> {
        let wait = if is_busy { Duration::ZERO } else { IDLE_WAIT };
        let rebalance = self.poll(wait)?;
        self.read_tails()?;
        let moved = self.advance()?;
        self.transact(Self::send_outputs)?;
        match rebalance {
            Some(Rebalance::Assigned { partitions }) => self.on_assigned(partitions)?,
            Some(Rebalance::Revoked { lost, .. }) => self.on_revoked(lost)?,
            None if self.pending.is_some() => self.start_pending()?,
            None if self.must_rebuild => self.rebuild()?,
            None => {}
        }
        self.transact(Self::commit_if_due)?;
        self.check_health()?;
        self.tell_changes();
        self.show_lag_if_due();
        Ok(moved)
    }

    /// Polls both consumers; the rebalance, if any, is to be answered in this turn.
    fn poll(&mut self, wait: Duration) -> Result<Option<Rebalance>, JoinerError> {
        let max = self.settings.joiner.poll_records;
        let mut polled = std::mem::take(&mut self.polled);
        let rebalance = self.membership.poll_responses(max, wait, &mut polled)?;
        self.accept(Side::Responses, &mut polled);
        self.membership.poll_views(max, Duration::ZERO, &mut polled)?;
        self.accept(Side::Views, &mut polled);
        self.polled = polled;
        Ok(rebalance)
    }

    fn accept(&mut self, side: Side, polled: &mut Vec<Record>) {
        let now = Instant::now();
        for record in polled.drain(..) {
            // After an abort nothing takes them: they are read again.
            if let Some(partition) = self.partitions.get_mut(&record.partition) {
                partition.accept(side, record, now);
            }
        }
    }

    /// Gives the joins what they may read, and fetches less of what has to wait.
    fn advance(&mut self) -> Result<bool, JoinerError> {
        let now = Instant::now();
        let idle_after = Duration::from_millis(self.settings.join.idle_after_ms);
        let poll_records = self.settings.joiner.poll_records;
        let mut moved = false;
        for (&number, partition) in &mut self.partitions {
            let ends = Ends {
                views: self.membership.at_end(Side::Views, number),
                responses: self.membership.at_end(Side::Responses, number),
            };
            moved |= partition.advance(ends, &mut self.effects, &mut self.completed_ms)?;
            for output in self.effects.outputs.drain(..) {
                if output.kind == OutputKind::LabelledView {
                    self.answered_ms.extend(output.event_time_ms);
                }
                self.outputs.push(self.topics.outgoing(number, output));
            }
            let membership = &mut self.membership;
            partition.note_idle(ends, idle_after, now, |side| membership.is_at_current_end(side, number));
            partition.note_recovered();
            for side in [Side::Views, Side::Responses] {
                let waiting = partition.waiting_records(side);
                if waiting >= poll_records * MAX_WAITING_POLLS {
                    self.membership.hold(side, number, true)?;
                } else if waiting <= poll_records {
                    self.membership.hold(side, number, false)?;
                }
            }
        }
        Ok(moved)
    }

    fn send_outputs(&mut self) -> Result<(), JoinerError> {
        if self.outputs.is_empty() {
            return Ok(());
        }
        self.open_transaction()?;
        for output in self.outputs.drain(..) {
            self.producer.send(&output)?;
        }
        Ok(())
    }

    fn open_transaction(&mut self) -> Result<Instant, JoinerError> {
        if let Some(begun) = self.open {
            return Ok(begun);
        }
        self.producer.begin()?;
        Ok(*self.open.insert(Instant::now()))
    }

    fn commit_if_due(&mut self) -> Result<(), JoinerError> {
        let interval = Duration::from_millis(self.settings.joiner.commit_interval_ms);
        if self.last_commit.elapsed() < interval { Ok(()) } else { self.commit() }
    }

    /// Commits the outputs sent so far with the next offsets of both inputs of every partition that
    /// took records, if any did.
    pub(super) fn commit(&mut self) -> Result<(), JoinerError> {
        self.last_commit = Instant::now();
        let Some(group) = self.membership.group_metadata() else { return Ok(()) };
        let mut next = Vec::new();
        let mut moved = Vec::new();
        for (&number, partition) in &mut self.partitions {
            let Some(frontier) = partition.uncommitted() else { continue };
            for (side, position) in [(Side::Views, &frontier.views), (Side::Responses, &frontier.responses)] {
                next.push(NextOffset {
                    topic: Arc::clone(self.membership.topic(side)),
                    partition: number,
                    offset: position.next_offset,
                    metadata: position.metadata.clone(),
                });
            }
            moved.push((number, frontier));
        }
        if next.is_empty() {
            return Ok(());
        }
        let begun = self.open_transaction()?;
        self.producer.commit(&next, &group)?;
        self.open = None;
        let mut numbers = Vec::new();
        for (number, frontier) in moved {
            if let Some(partition) = self.partitions.get_mut(&number) {
                partition.is_changed = false;
                partition.frontier = Some(frontier);
                partition.committed = Some(report::committed(&partition.join, &self.settings.topics));
                numbers.push(number);
            }
        }
        self.show_commit(begun.elapsed(), &numbers);
        Ok(())
    }

    /// Runs a transactional step; when the transaction must be aborted, it is, and the states are
    /// built again from the committed offsets.
    pub(super) fn transact(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), JoinerError>,
    ) -> Result<(), JoinerError> {
        match step(self) {
            Err(JoinerError::Transaction(error)) if error.must_abort() => self.abort(&error.to_string()),
            result => result,
        }
    }

    /// Takes back what is open. The joins have moved past the committed offsets: they go, and are
    /// built again in the next turn.
    pub(super) fn abort(&mut self, reason: &str) -> Result<(), JoinerError> {
        self.outputs.clear();
        self.forget_labels();
        if self.open.take().is_some() {
            self.producer.abort()?;
            events::JoinerAborted { instance: self.number, reason }.emit();
        }
        self.partitions.clear();
        self.must_rebuild = true;
        Ok(())
    }

    fn forget_labels(&mut self) {
        self.completed_ms.clear();
        self.answered_ms.clear();
    }

    /// A commit is what makes counts and labels exist for others.
    fn show_commit(&mut self, elapsed: Duration, moved: &[i32]) {
        let reports =
            moved.iter().filter_map(|number| Some((*number, self.report(self.partitions.get(number)?)?)));
        events::JoinerCommitted { elapsed, reports: reports.collect() }.emit();
        let (completed_ms, answered_ms) = (&self.completed_ms, &self.answered_ms);
        events::LabelsCommitted { completed_ms, answered_ms, now_ms: report::now_ms() }.emit();
        self.forget_labels();
    }

    /// Says what it is at when that has changed.
    fn tell_changes(&mut self) {
        let recovering = self.partitions.values().filter(|partition| !partition.is_live()).count();
        let now = if self.pending.is_some() || self.must_rebuild {
            InstanceState::Waiting
        } else if self.membership.group_metadata().is_none() {
            InstanceState::Joining
        } else if recovering > 0 {
            InstanceState::Recovering { partitions: recovering }
        } else {
            InstanceState::Working
        };
        if now != self.told {
            self.told = now;
            events::InstanceChanged { instance: self.number, now }.emit();
        }
    }

    /// Shows what a new owner has found committed, and how the lag of a partition changes between
    /// commits.
    fn show_lag_if_due(&mut self) {
        if self.last_report.elapsed() < REPORT_INTERVAL {
            return;
        }
        self.last_report = Instant::now();
        for partition in self.partitions.values_mut().filter(|partition| partition.is_to_be_shown()) {
            partition.committed = Some(report::committed(&partition.join, &self.settings.topics));
        }
        for (&number, partition) in &self.partitions {
            if let Some(report) = self.report(partition) {
                partitions::report(number, report);
            }
        }
    }

    /// What was last committed, with the lag of now.
    fn report(&self, partition: &Partition) -> Option<PartitionReport> {
        let mut report = partition.committed.clone()?;
        for (side, input) in [(Side::Views, &mut report.behavior), (Side::Responses, &mut report.responses)] {
            let position = report::Position {
                next_offset: self.membership.next_offset(side, partition.number),
                waiting_records: partition.waiting_records(side),
                at_end: self.membership.at_end(side, partition.number),
                end_offset: self.membership.end_offset(side, partition.number),
                last_consumed_ms: partition.last_consumed_ms(side),
            };
            input.lag_records = position.lag_records();
            input.lag_seconds = position.lag_seconds(report::now_ms());
        }
        Some(report)
    }

    /// What the polls met besides records.
    fn check_health(&mut self) -> Result<(), JoinerError> {
        let health = self.membership.take_health();
        if health.dropped_records > 0 {
            events::RecordsDropped { instance: self.number, records: health.dropped_records }.emit();
        }
        if health.offset_gone && !self.must_rebuild {
            self.abort("a position lies outside its log")?;
        }
        Ok(())
    }
}
