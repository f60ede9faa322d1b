//! The records of a world as a log has them: encoded, and with the faults that a log has.
//!
//! Faults are drawn from a stream of random numbers of their own. Orphans and malformed records
//! are added to what the world sends, duplicates repeat it, and late records are held back: so the
//! views and the answers of the world stay what they are without faults.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use prost::Message;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::args::RecordTime;
use super::malformed::{Defect, spoil};
use super::run::SimulateError;
use super::stream::{Arrival, Event, Stream, ViewTruth};
use super::world::{Purpose, World, generator};
use crate::contract::v1::{Answer, BehaviorEvent, QuestionnaireResponse};
use crate::settings::Partitioner;

/// A repeated record comes this much later: soon enough never to be late itself.
const REPEATED_AFTER_MS: std::ops::Range<i64> = 100..10_000;
/// A late record is held back for this long.
const HELD_BACK_MS: std::ops::Range<i64> = 300_000..900_000;

/// How often each fault is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, clap::Args)]
pub struct FaultRates {
    /// Share of the records that come twice.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub duplicates: f64,
    /// Share of the records that are held back for 5 to 15 minutes of event time.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub late: f64,
    /// Answers to views that never were, per answer.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub orphans: f64,
    /// Records that no joiner can use, per record: spoiled copies of true ones.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub malformed: f64,
}

impl FaultRates {
    pub(super) fn check(&self) -> Result<(), SimulateError> {
        let rates = [
            ("--duplicates", self.duplicates),
            ("--late", self.late),
            ("--orphans", self.orphans),
            ("--malformed", self.malformed),
        ];
        match rates.into_iter().find(|(_, rate)| !(0.0..=1.0).contains(rate)) {
            Some((argument, rate)) => Err(SimulateError::argument(argument, rate, "0 to 1")),
            None => Ok(()),
        }
    }
}

/// One of the two inputs of the joiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Views: `topics.behavior`.
    Behavior,
    /// Answers: `topics.responses`.
    Responses,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The same bytes came before.
    Duplicate,
    /// Held back. Whether it is late is for the log to say: nothing of its partition may have come
    /// in the meantime.
    Late,
    /// An answer to a view that never was.
    Orphan,
    /// A copy of a true record that no joiner can use.
    Malformed(Defect),
}

impl Fault {
    /// Its name in the truth file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Late => "late",
            Self::Orphan => "orphan",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// A record on its way to a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Event time at which the record reaches the log, Unix milliseconds.
    pub arrived_ms: i64,
    /// The topic that it is for.
    pub input: Input,
    /// What view and answer share, in a malformed record that of the one it was made from.
    pub impression_id: String,
    /// The user.
    pub key: Bytes,
    /// An encoded view or answer, or what a fault made of it.
    pub payload: Option<Bytes>,
    /// `None`: the one that the partitioner gives the key.
    pub partition: Option<i32>,
    /// When what the record tells has happened.
    pub event_time_ms: i64,
    /// `None`: as the world gave it.
    pub fault: Option<Fault>,
    /// Of the views of the world.
    pub truth: Option<ViewTruth>,
}

impl Delivery {
    /// Whether this is an answer that a user of the world gave, at its first coming.
    pub fn is_own_response(&self) -> bool {
        self.input == Input::Responses && matches!(self.fault, None | Some(Fault::Late))
    }

    /// The record's own timestamp; `None`: the time of writing.
    pub(super) fn timestamp_ms(&self, record_time: RecordTime) -> Option<i64> {
        match (record_time, self.fault) {
            // Ahead of the time of writing it may not be.
            (RecordTime::Event, _) | (_, Some(Fault::Malformed(Defect::TimeAhead))) => {
                Some(self.event_time_ms)
            }
            (RecordTime::Now, _) => None,
        }
    }
}

/// How the log that the records are for is cut into partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitioning {
    /// Of either topic.
    pub partitions: i32,
    /// By which producers choose a partition by the key.
    pub partitioner: Partitioner,
}

/// The records of a world in the order of arrival; see [`World::deliveries`].
pub struct Deliveries<'a> {
    stream: std::iter::Peekable<Stream<'a>>,
    rates: FaultRates,
    partitioning: Partitioning,
    rng: ChaCha8Rng,
    seed: u64,
    /// Records made or held back by a fault, by arrival, then by the order in which they were made.
    delayed: BinaryHeap<Reverse<Delayed>>,
    made: u64,
}

struct Delayed {
    number: u64,
    delivery: Delivery,
}

impl Delayed {
    fn key(&self) -> (i64, u64) {
        (self.delivery.arrived_ms, self.number)
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Delayed {}
impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl World {
    /// The whole stream as records of a log with `partitioning`, with faults at these rates.
    pub fn deliveries(&self, rates: FaultRates, partitioning: Partitioning) -> Deliveries<'_> {
        let seed = self.config.seed;
        Deliveries {
            stream: self.events().peekable(),
            rates,
            partitioning,
            rng: generator(seed, Purpose::Faults),
            seed,
            delayed: BinaryHeap::new(),
            made: 0,
        }
    }
}

impl Deliveries<'_> {
    fn happens(&mut self, rate: f64) -> bool {
        self.rng.random::<f64>() < rate
    }

    fn delay(&mut self, delivery: Delivery) {
        self.made += 1;
        self.delayed.push(Reverse(Delayed { number: self.made, delivery }));
    }

    /// The record of an arrival; `None` when it is held back.
    fn deliver(&mut self, arrival: Arrival) -> Option<Delivery> {
        let delivery = encode(&arrival);
        if self.happens(self.rates.malformed) {
            let partitioning = self.partitioning;
            let copy = spoil(&arrival.event, &delivery, partitioning, &mut self.rng);
            self.delay(copy);
        }
        if let Event::Response(response) = &arrival.event
            && self.happens(self.rates.orphans)
        {
            self.send_orphan(response, arrival.arrived_ms);
        }
        let repeated_after_ms = self.rng.random_range(REPEATED_AFTER_MS);
        let repeats = self.happens(self.rates.duplicates);
        if self.happens(self.rates.late) {
            let arrived_ms = delivery.arrived_ms + self.rng.random_range(HELD_BACK_MS);
            self.delay(Delivery { arrived_ms, fault: Some(Fault::Late), ..delivery });
            return None;
        }
        if repeats {
            let arrived_ms = delivery.arrived_ms + repeated_after_ms;
            let fault = Some(Fault::Duplicate);
            self.delay(Delivery { arrived_ms, fault, truth: None, ..delivery.clone() });
        }
        Some(delivery)
    }

    fn send_orphan(&mut self, like: &QuestionnaireResponse, arrived_ms: i64) {
        let impression_id = format!("orphan{}-{}", self.seed, self.made);
        let answer = if self.rng.random() { Answer::Satisfied } else { Answer::Dissatisfied };
        let orphan = QuestionnaireResponse { impression_id, answer: answer.into(), ..like.clone() };
        let delivery = encode(&Arrival { arrived_ms, event: Event::Response(orphan) });
        self.delay(Delivery { fault: Some(Fault::Orphan), ..delivery });
    }
}

impl Iterator for Deliveries<'_> {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        loop {
            let delayed_ms = self.delayed.peek().map(|Reverse(delayed)| delayed.delivery.arrived_ms);
            let stream_ms = self.stream.peek().map(|arrival| arrival.arrived_ms);
            match (delayed_ms, stream_ms) {
                (Some(delayed_ms), Some(stream_ms)) if stream_ms <= delayed_ms => {}
                (None, Some(_)) => {}
                _ => return self.delayed.pop().map(|Reverse(delayed)| delayed.delivery),
            }
            if let Some(arrival) = self.stream.next()
                && let Some(delivery) = self.deliver(arrival)
            {
                return Some(delivery);
            }
        }
    }
}

fn encode(arrival: &Arrival) -> Delivery {
    let (input, impression_id, user_id, payload, event_time_ms, truth) = match &arrival.event {
        Event::View(simulated) => {
            let BehaviorEvent { impression_id, user_id, event_time_ms, .. } = &simulated.view;
            let payload = simulated.view.encode_to_vec();
            (Input::Behavior, impression_id, user_id, payload, *event_time_ms, Some(simulated.truth))
        }
        Event::Response(response) => {
            let QuestionnaireResponse { impression_id, user_id, event_time_ms, .. } = response;
            (Input::Responses, impression_id, user_id, response.encode_to_vec(), *event_time_ms, None)
        }
    };
    Delivery {
        arrived_ms: arrival.arrived_ms,
        input,
        impression_id: impression_id.clone(),
        key: Bytes::copy_from_slice(user_id.as_bytes()),
        payload: Some(payload.into()),
        partition: None,
        event_time_ms,
        fault: None,
        truth,
    }
}
