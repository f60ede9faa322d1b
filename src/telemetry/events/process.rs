use metrics::gauge;
use tracing::{error, info, warn};

use crate::telemetry::names;

/// The process has read its settings and begins its work.
pub struct Started<'a> {
    pub command: &'a str,
}

impl Started<'_> {
    pub fn emit(self) {
        let version = env!("CARGO_PKG_VERSION");
        gauge!(names::BUILD_INFO, "version" => version).set(1.0);
        info!(version, "easq {} starts", self.command);
    }
}

/// Everything has ended as asked.
pub struct Stopped;

impl Stopped {
    pub fn emit(self) {
        info!("stopped; everything that was begun is committed");
    }
}

/// The process ends with an error.
pub struct Failed<'a> {
    /// The chain of causes in one line.
    pub error: &'a str,
    pub exit_code: u8,
}

impl Failed<'_> {
    pub fn emit(self) {
        error!(exit_code = self.exit_code, "stopped: {}", self.error);
    }
}

/// A Kafka client is made. It has met no trouble yet.
pub struct KafkaClientBegins<'a> {
    /// What the client is for.
    pub client: &'a str,
}

impl KafkaClientBegins<'_> {
    pub fn emit(self) {
        gauge!(names::KAFKA_UNAVAILABLE, "client" => self.client.to_owned()).set(0.0);
    }
}

/// A Kafka client began to retry something; emitted once per outage, not once per attempt.
pub struct KafkaUnavailable<'a> {
    /// What the client is for, such as `joiner-0 member`.
    pub client: &'a str,
    pub error: &'a str,
}

impl KafkaUnavailable<'_> {
    pub fn emit(self) {
        gauge!(names::KAFKA_UNAVAILABLE, "client" => self.client.to_owned()).set(1.0);
        warn!(client = self.client, "Kafka does not answer, retrying: {}", self.error);
    }
}

/// The outage that [`KafkaUnavailable`] told of is over.
pub struct KafkaAvailable<'a> {
    pub client: &'a str,
}

impl KafkaAvailable<'_> {
    pub fn emit(self) {
        gauge!(names::KAFKA_UNAVAILABLE, "client" => self.client.to_owned()).set(0.0);
        info!(client = self.client, "Kafka answers again");
    }
}
