//! What values are allowed, alone and together.

mod connection;
mod learning;
mod stages;

use super::{PropertyFault, Settings};

/// A message to Kafka carries headers and a batch's overhead besides its payload.
const MESSAGE_OVERHEAD_BYTES: usize = 16 * 1024;
/// librdkafka's `message.max.bytes` where no property sets it; the broker's limit is a little more.
const DEFAULT_MESSAGE_BYTES: usize = 1_000_000;
/// Kafka's advice: three heartbeats must fit, or one lost packet ends a session.
const HEARTBEATS_PER_SESSION: u64 = 3;
/// The broker's own limit of a transaction's timeout (`transaction.max.timeout.ms`).
const MAX_TRANSACTION_TIMEOUT_MS: u64 = 900_000;

/// What a setting of a size, a duration or a weight is.
trait Number: PartialOrd + Default {
    /// Not infinite.
    fn is_number(&self) -> bool {
        true
    }
}

impl Number for i64 {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for usize {}
impl Number for f64 {
    fn is_number(&self) -> bool {
        self.is_finite()
    }
}

/// A value that is not allowed.
pub(super) struct Finding {
    pub key: String,
    /// What is allowed instead.
    pub problem: String,
}

/// Everything about the settings that is not allowed.
pub(super) fn check(settings: &Settings, property_fault: PropertyFault) -> Vec<Finding> {
    let mut findings = Findings::default();
    connection::kafka(settings, &mut findings);
    connection::properties(settings, property_fault, &mut findings);
    connection::topics(settings, &mut findings);
    connection::telemetry(settings, &mut findings);
    stages::input(settings, &mut findings);
    stages::join(settings, &mut findings);
    stages::joiner(settings, &mut findings);
    stages::publish(settings, &mut findings);
    stages::gate(settings, &mut findings);
    stages::simulate(settings, &mut findings);
    learning::features(settings, &mut findings);
    learning::reward(settings, &mut findings);
    learning::model(settings, &mut findings);
    learning::train(settings, &mut findings);
    findings.0
}

/// What is wrong with the model's name and the names of the topics, in words.
pub(super) fn names(settings: &Settings) -> Option<String> {
    let mut findings = Findings::default();
    connection::topics(settings, &mut findings);
    findings.0.first().map(|Finding { key, problem }| format!("{key} {problem}"))
}

pub(super) use connection::{TOPIC_RULE, is_topic};

/// The largest payload of one record that every client and the broker's default accept.
fn max_payload_bytes(settings: &Settings) -> usize {
    let property = settings.kafka.properties.get("message.max.bytes");
    let limit = property.and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_MESSAGE_BYTES);
    limit.saturating_sub(MESSAGE_OVERHEAD_BYTES)
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn require(&mut self, holds: bool, key: &str, problem: impl Into<String>) {
        if !holds {
            self.0.push(Finding { key: key.to_owned(), problem: problem.into() });
        }
    }

    fn positive<T: Number>(&mut self, value: T, key: &str) {
        self.require(value.is_number() && value > T::default(), key, "must be a number greater than 0");
    }

    fn not_negative<T: Number>(&mut self, value: T, key: &str) {
        self.require(value.is_number() && value >= T::default(), key, "must be a number, and not negative");
    }

    fn share(&mut self, value: f64, key: &str) {
        self.require((0.0..=1.0).contains(&value), key, "must be from 0 to 1");
    }

    fn distinct<T: PartialEq>(&mut self, values: &[T], key: &str) {
        let is_new = |(at, value): (usize, &T)| !values[..at].contains(value);
        self.require(values.iter().enumerate().all(is_new), key, "must not name anything twice");
    }

    /// A group membership's timeouts, in the section that sets them.
    fn session(&mut self, section: &str, session_timeout_ms: u64, heartbeat_interval_ms: u64) {
        let (session, heartbeat) =
            (format!("{section}.session_timeout_ms"), format!("{section}.heartbeat_interval_ms"));
        self.positive(session_timeout_ms, &session);
        self.positive(heartbeat_interval_ms, &heartbeat);
        let most = session_timeout_ms / HEARTBEATS_PER_SESSION;
        let problem = format!("must be at most a third of {session} ({most})");
        self.require(heartbeat_interval_ms <= most, &heartbeat, problem);
    }

    fn transaction_timeout(&mut self, value_ms: u64, key: &str) {
        let allowed = 1_000..=MAX_TRANSACTION_TIMEOUT_MS;
        let problem =
            format!("must be from 1000 to {MAX_TRANSACTION_TIMEOUT_MS}, the broker's default limit");
        self.require(allowed.contains(&value_ms), key, problem);
    }
}
