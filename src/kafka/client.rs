//! What every client has in common: properties, logs, and whether brokers can be reached.
//!
//! A property comes from one of three places, the later ones winning: the tuning that was measured
//! for this kind of client, `[kafka.properties]` of the settings, and the properties that easq's
//! guarantees rest on. A person may tune everything except the last kind ([`is_controlled`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::settings;

/// Properties that a person cannot set: exactly-once, the join and recovery rest on them, or they
/// have a setting of their own.
const CONTROLLED: [&str; 21] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "client.id",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
    "isolation.level",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "allow.auto.create.topics",
    "transactional.id",
    "transaction.timeout.ms",
    "enable.idempotence",
    "partitioner",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "test.mock.num.brokers",
];

/// True for a property that easq sets itself and `[kafka.properties]` must not name.
pub fn is_controlled(property: &str) -> bool {
    CONTROLLED.contains(&property)
}

/// A property in `[kafka.properties]` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyFault {
    #[error("kafka.properties.\"{key}\" is set by easq itself: remove it")]
    Controlled { key: String },
    #[error("kafka.properties.\"{key}\" = \"{value}\": {reason}")]
    Refused { key: String, value: String, reason: String },
}

/// All faults of `[kafka.properties]`, without contacting a broker. The value of a property whose
/// name speaks of a password or a secret is not shown.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Vec<PropertyFault> {
    properties.iter().filter_map(|(key, value)| property_fault(key, value)).collect()
}

fn property_fault(key: &str, value: &str) -> Option<PropertyFault> {
    if is_controlled(key) {
        return Some(PropertyFault::Controlled { key: key.to_owned() });
    }
    match ClientConfig::new().set(key, value).create_native_config() {
        Ok(_) => None,
        Err(error) => {
            let secret = ["password", "secret", "key.pem"].iter().any(|word| key.contains(word));
            let reason = match error {
                KafkaError::ClientConfig(_, description, ..) => description,
                other => other.to_string(),
            };
            let value = if secret { "***" } else { value };
            Some(PropertyFault::Refused { key: key.to_owned(), value: value.to_owned(), reason })
        }
    }
}

/// The properties of one client: `tuning`, then the settings' own, then `controlled`.
pub(crate) fn client_config(
    kafka: &settings::Kafka,
    tuning: &[(&str, &str)],
    controlled: &[(&str, &str)],
) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in COMMON_TUNING.iter().chain(tuning) {
        config.set(*key, *value);
    }
    for (key, value) in kafka.properties.iter().filter(|(key, _)| !is_controlled(key)) {
        config.set(key, value);
    }
    config.set("bootstrap.servers", &kafka.bootstrap_servers).set("client.id", &kafka.client_id);
    for (key, value) in controlled {
        config.set(*key, *value);
    }
    config
}

const COMMON_TUNING: [(&str, &str); 4] = [
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
    ("retry.backoff.ms", "20"),
    // An idle connection that the broker closes is opened again on demand: not worth a line.
    ("log.connection.close", "false"),
];

/// Whether the brokers of one client can be reached, reported once per change.
#[derive(Debug)]
pub(crate) struct Connection {
    client: String,
    down: AtomicBool,
}

impl Connection {
    fn new(client: String) -> Self {
        Self { client, down: AtomicBool::new(false) }
    }

    /// The client's name in the logs.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    pub(crate) fn note_down(&self, reason: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(client = self.client, reason, "brokers cannot be reached; trying again");
        }
    }

    /// Called for every sign of life, so the common case is one relaxed load.
    pub(crate) fn note_up(&self) {
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            tracing::info!(client = self.client, "brokers can be reached again");
        }
    }
}

/// The context of every client: its logs and connection state, and what its callbacks keep.
#[derive(Debug)]
pub(crate) struct Context<S = ()> {
    pub(crate) connection: Connection,
    pub(crate) state: S,
}

impl<S> Context<S> {
    /// `client` names the client in the logs, for example `trainer reader`.
    pub(crate) fn new(client: &str, state: S) -> Self {
        Self { connection: Connection::new(client.to_owned()), state }
    }
}

impl<S> Context<Mutex<S>> {
    /// What the callbacks keep. They leave no value half changed, so one whose holder panicked is
    /// whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Send + Sync> ClientContext for Context<S> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        forward_log(&self.connection.client, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report_error(&self.connection, &error, reason);
    }
}

impl ConsumerContext for Context {}

/// Sends a line of librdkafka's log to tracing. Failed connections come as errors every few
/// hundred milliseconds while a broker is away; [`Connection`] reports that once.
fn forward_log(client: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
    match level {
        _ if matches!(facility, "FAIL" | "ERROR") => {
            tracing::debug!(target: "librdkafka", client, facility, "{message}");
        }
        Emerg | Alert | Critical | Error => {
            tracing::error!(target: "librdkafka", client, facility, "{message}");
        }
        Warning => tracing::warn!(target: "librdkafka", client, facility, "{message}"),
        Notice | Info => tracing::info!(target: "librdkafka", client, facility, "{message}"),
        Debug => tracing::debug!(target: "librdkafka", client, facility, "{message}"),
    }
}

/// A client-level error: a lost connection changes the connection's state, the rest is logged.
fn report_error(connection: &Connection, error: &KafkaError, reason: &str) {
    if is_connection_trouble(error) {
        connection.note_down(reason);
    } else {
        tracing::debug!(target: "librdkafka", client = connection.client, %error, reason, "client error");
    }
}

/// True when no broker answers, which passes by itself.
pub(crate) fn is_connection_trouble(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::TimedOutQueue
                | Code::BrokerNotAvailable
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::NetworkException
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::WaitingForCoordinator
                | Code::RequestTimedOut
        )
    )
}

/// True when a person must change something first: credentials or access rights.
pub(crate) fn is_access_refused(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn kafka(properties: &[(&str, &str)]) -> settings::Kafka {
        let mut kafka = Settings::default().kafka;
        kafka.properties =
            properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        kafka
    }

    #[test]
    fn a_persons_property_overrides_tuning_but_not_what_easq_rests_on() {
        let kafka = kafka(&[("linger.ms", "7"), ("enable.idempotence", "false")]);
        let config = client_config(&kafka, &[("linger.ms", "5")], &[("enable.idempotence", "true")]);
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert_eq!(config.get("enable.idempotence"), Some("true"));
    }

    #[test]
    fn a_controlled_property_is_ignored_where_easq_leaves_it_out() {
        let config = client_config(&kafka(&[("transactional.id", "x")]), &[], &[]);
        assert_eq!(config.get("transactional.id"), None);
    }

    #[test]
    fn all_faulty_properties_are_named_and_secrets_are_not_shown() {
        let faults = check_properties(
            &kafka(&[
                ("group.id", "mine"),
                ("linger.ms", "soon"),
                ("linger.mss", "5"),
                ("security.protocol", "ssl"),
            ])
            .properties,
        );
        let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[0].contains("group.id") && text[0].contains("remove it"), "{text:?}");
        assert!(text[1].contains("linger.ms") && text[1].contains("soon"), "{text:?}");
        assert!(text[2].contains("linger.mss"), "{text:?}");
    }
}
