//! What every client has in common: properties, logs, and whether brokers can be reached.
//!
//! A property comes from one of three places, the later ones winning: the tuning that was measured
//! for this kind of client, `[kafka.properties]` of the settings, and the properties that easq's
//! guarantees rest on. A person may tune everything except the last kind
//! ([`settings::controlled_property`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaConfRes;

use crate::settings;
use crate::telemetry::events;

/// What is wrong with a property of `[kafka.properties]` in librdkafka's eyes, without contacting
/// a broker: an unknown name, or a value that is not allowed. Does not quote the value.
pub fn property_fault(key: &str, value: &str) -> Option<String> {
    let error = ClientConfig::new().set(key, value).create_native_config().err()?;
    Some(match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => {
            "librdkafka has no such property".to_owned()
        }
        _ => "librdkafka does not allow this value; its CONFIGURATION.md says what it does".to_owned(),
    })
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
    for (key, value) in
        kafka.properties.iter().filter(|(key, _)| settings::controlled_property(key).is_none())
    {
        config.set(key, value);
    }
    config.set("bootstrap.servers", &kafka.bootstrap_servers).set("client.id", &kafka.client_id);
    for (key, value) in controlled {
        config.set(*key, *value);
    }
    config
}

const COMMON_TUNING: [(&str, &str); 5] = [
    // A broker that has just started may know less than there is: not for the default of 5 minutes.
    ("topic.metadata.refresh.interval.ms", "10000"),
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
    /// What librdkafka told last about one broker: it counts the brokers that are down without saying why.
    trouble: Mutex<Option<String>>,
}

/// Brings [`Connection::note_statistics`]. Only for clients that are polled all the time: of others they
/// would gather without a bound.
pub(crate) const STATISTICS: (&str, &str) = ("statistics.interval.ms", "1000");

impl Connection {
    fn new(client: String) -> Self {
        events::KafkaClientMade { client: &client }.emit();
        Self { client, down: AtomicBool::new(false), trouble: Mutex::default() }
    }

    /// The client's name in the logs.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    pub(crate) fn note_down(&self, reason: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            events::KafkaUnavailable { client: &self.client, error: reason }.emit();
        }
    }

    /// All brokers are down.
    fn note_all_down(&self, reason: &str) {
        match self.lock_trouble().take() {
            Some(trouble) => self.note_down(&format!("{reason}, the last one because: {trouble}")),
            None => self.note_down(reason),
        }
    }

    fn lock_trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no sign of life has come since a connection was lost.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// What a client says of its brokers tells that they are back, where nothing else does: an idle log
    /// brings no record, and who has nothing to write sees nothing delivered.
    pub(crate) fn note_statistics(&self, statistics: &Statistics) {
        let brokers = statistics.brokers.values();
        if is_connected(brokers.map(|broker| (broker.nodeid, broker.state.as_str()))) {
            self.note_up();
        }
    }

    /// Called for every sign of life, so the common case is one relaxed load.
    pub(crate) fn note_up(&self) {
        if self.is_down() && self.down.swap(false, Ordering::Relaxed) {
            events::KafkaAvailable { client: &self.client }.emit();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *self.down.get_mut() {
            events::KafkaClientGone { client: &self.client }.emit();
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
        // While brokers are away that is no news.
        let level =
            if facility == "REQTMOUT" && self.connection.is_down() { RDKafkaLogLevel::Debug } else { level };
        forward_log(&self.connection.client, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report_error(&self.connection, &error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if self.connection.is_down()
            && let Ok(statistics) = serde_json::from_slice(statistics)
        {
            self.connection.note_statistics(&statistics);
        }
    }
}

/// Whether a broker is connected and none is that a connection to was tried and is not there: the number
/// of each, negative of those that have none of their own, and its state.
fn is_connected<'a>(mut brokers: impl Iterator<Item = (i32, &'a str)> + Clone) -> bool {
    brokers.clone().any(|(_, state)| state == "UP")
        && brokers.all(|(number, state)| number < 0 || matches!(state, "UP" | "INIT"))
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
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
        return connection.note_all_down(reason);
    }
    *connection.lock_trouble() = Some(reason.to_owned());
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
        let tuning = [("linger.ms", "5"), ("batch.size", "131072")];
        let config = client_config(&kafka, &tuning, &[("enable.idempotence", "true")]);
        assert_eq!(config.get("linger.ms"), Some("7"));
        assert_eq!(config.get("batch.size"), Some("131072"), "what nobody sets is tuned");
        assert_eq!(config.get("enable.idempotence"), Some("true"));
    }

    #[test]
    fn a_controlled_property_is_ignored_where_easq_leaves_it_out() {
        let config = client_config(&kafka(&[("transactional.id", "x")]), &[], &[]);
        assert_eq!(config.get("transactional.id"), None);
    }

    #[test]
    fn a_client_is_connected_when_no_broker_that_it_needs_is_away() {
        let is_connected = |brokers: &[(i32, &str)]| super::is_connected(brokers.iter().copied());
        assert!(is_connected(&[(1, "UP"), (2, "INIT"), (-1, "DOWN")]));
        assert!(!is_connected(&[(1, "UP"), (2, "TRY_CONNECT")]));
        assert!(!is_connected(&[(1, "INIT")]));
        assert!(!is_connected(&[]));
    }

    #[test]
    fn an_unknown_property_and_a_value_out_of_range_are_faults() {
        assert!(property_fault("linger.mss", "5").is_some_and(|fault| fault.contains("no such property")));
        assert!(property_fault("linger.ms", "soon").is_some_and(|fault| !fault.contains("soon")));
        assert_eq!(property_fault("security.protocol", "ssl"), None);
    }
}
