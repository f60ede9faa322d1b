use metrics::gauge;
use tracing::{error, info, warn};

use super::zeros;
use crate::telemetry::state::{Role, state};
use crate::telemetry::{build, names};

/// The process has read its settings and begins its work.
pub struct Started<'a> {
    pub command: &'a str,
    pub roles: &'a [Role],
    pub joiner_instances: usize,
}

impl Started<'_> {
    pub fn emit(self) {
        let labels =
            [("version", build::VERSION), ("revision", build::REVISION), ("libtorch", build::LIBTORCH)];
        gauge!(names::BUILD_INFO, &labels).set(1.0);
        self.roles.iter().for_each(|&role| zeros::show(role, self.joiner_instances));
        info!(version = build::VERSION, revision = build::REVISION, "easq {} starts", self.command);
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

/// A Kafka client is made.
pub struct KafkaClientMade<'a> {
    pub client: &'a str,
}

impl KafkaClientMade<'_> {
    pub fn emit(self) {
        if !state().known().away.contains_key(self.client) {
            gauge!(names::KAFKA_UNAVAILABLE, "client" => self.client.to_owned()).set(0.0);
        }
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
        state().client_is_away(self.client, self.error);
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
        is_back(self.client);
        info!(client = self.client, "Kafka answers again");
    }
}

/// A client was let go while its outage lasted.
pub struct KafkaClientGone<'a> {
    pub client: &'a str,
}

impl KafkaClientGone<'_> {
    pub fn emit(self) {
        is_back(self.client);
    }
}

/// Several clients may have one name: the gauge falls with the last of them.
fn is_back(client: &str) {
    if state().client_is_back(client) {
        gauge!(names::KAFKA_UNAVAILABLE, "client" => client.to_owned()).set(0.0);
    }
}

/// The figures of a moment that nothing in the program is a fact of: they are looked up for a scrape.
pub struct Looked<'a> {
    /// Each role of this process, and whether it is ready.
    pub ready: &'a [(&'static str, bool)],
}

impl Looked<'_> {
    pub fn emit(self) {
        for (role, is_ready) in self.ready {
            gauge!(names::READY, "role" => *role).set(f64::from(u8::from(*is_ready)));
        }
        metrics_process::Collector::default().collect();
    }
}
