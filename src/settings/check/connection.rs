//! What the program talks to: brokers, topics, scrapers.

use std::net::SocketAddr;

use tracing_subscriber::EnvFilter;

use super::Findings;
use crate::settings::{PropertyFault, Settings, controlled_property};

/// Kafka's limit of a topic name; file names derive from it.
const MAX_TOPIC_BYTES: usize = 249;
/// Leaves room for what is put before and after it.
const MAX_NAME_BYTES: usize = 128;

pub(super) fn kafka(settings: &Settings, findings: &mut Findings) {
    let servers = &settings.kafka.bootstrap_servers;
    let problem = "must be host:port, or several with commas between";
    findings.require(servers.split(',').all(is_host_and_port), "kafka.bootstrap_servers", problem);
    findings.require(!settings.kafka.client_id.is_empty(), "kafka.client_id", "must not be empty");
}

pub(super) fn properties(settings: &Settings, property_fault: PropertyFault, findings: &mut Findings) {
    for (name, value) in &settings.kafka.properties {
        let decided = |reason| format!("easq decides this itself: {reason}");
        let problem = controlled_property(name).map(decided).or_else(|| property_fault(name, value));
        if let Some(problem) = problem {
            findings.require(false, &format!("kafka.properties.{name}"), problem);
        }
    }
}

fn is_host_and_port(server: &str) -> bool {
    let Some((host, port)) = server.trim().rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

pub(super) fn topics(settings: &Settings, findings: &mut Findings) {
    let topics = &settings.topics;
    let model = &settings.model.name;
    let of_model =
        [("topics.model_prefix", topics.model(model)), ("topics.registry_prefix", topics.registry(model))];
    let partitioned = topics.partitioned().map(|(key, topic)| (key, topic.to_owned()));
    let named: Vec<(&str, String)> = partitioned.into_iter().chain(of_model).collect();
    for (at, (key, topic)) in named.iter().enumerate() {
        findings.require(is_topic(topic), key, format!("must be {TOPIC_RULE}"));
        // The broker refuses names that differ in `.` and `_` alone: its metrics mix them up.
        let same = |other: &&(&str, String)| other.1.replace('.', "_") == topic.replace('.', "_");
        if let Some((other, _)) = named[..at].iter().find(same) {
            findings.require(false, key, format!("must differ from {other} in more than . and _"));
        }
    }
    let is_name = is_topic(model) && model.len() <= MAX_NAME_BYTES;
    let problem = "must be 1 to 128 letters, digits, '.', '_' or '-': it is part of two topics' names";
    findings.require(is_name, "model.name", problem);
}

pub(in crate::settings) const TOPIC_RULE: &str =
    "1 to 249 letters, digits, '.', '_' or '-', and neither '.' nor '..'";

pub(in crate::settings) fn is_topic(name: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=MAX_TOPIC_BYTES).contains(&name.len()) && name.chars().all(is_legal) && name != "." && name != ".."
}

pub(super) fn telemetry(settings: &Settings, findings: &mut Findings) {
    let telemetry = &settings.telemetry;
    let is_address = telemetry.listen.is_empty() || telemetry.listen.parse::<SocketAddr>().is_ok();
    findings.require(is_address, "telemetry.listen", "must be address:port such as 127.0.0.1:9464, or empty");
    if let Err(error) = EnvFilter::try_new(&telemetry.log_filter) {
        let problem = format!("must be a filter such as \"info,easq::joiner=debug\" ({error})");
        findings.require(false, "telemetry.log_filter", problem);
    }
}
