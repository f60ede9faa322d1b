//! One test's own line: topics, groups and a model that no other test touches.

use std::collections::BTreeMap;
use std::fmt::Display;

use easq::kafka::client::property_fault;
use easq::settings::{Settings, Sources, load};

use super::{Easq, Kafka};

/// Settings for one test, usable in this process and by the binary as a child process.
#[derive(Debug, Clone)]
pub struct Line {
    kafka: Kafka,
    name: String,
    overrides: BTreeMap<String, String>,
}

impl Line {
    /// The defaults on the shared broker, with every topic, group and model named after `prefix`.
    /// Clients started from it listen on no HTTP port.
    pub fn new(prefix: &str) -> Self {
        Self::on(Kafka::shared(), prefix)
    }

    /// The same on other brokers. Where `kafka.bootstrap_servers` is set afterwards, the program
    /// takes that way to them, and the test goes on directly.
    pub fn on(kafka: &Kafka, prefix: &str) -> Self {
        let name = Kafka::unique(prefix);
        let mut line = Self { kafka: kafka.clone(), name, overrides: BTreeMap::new() };
        line = line.set("kafka.bootstrap_servers", kafka.bootstrap()).set("telemetry.listen", "");
        for key in [
            "topics.behavior",
            "topics.responses",
            "topics.labelled_views",
            "topics.preference_pairs",
            "topics.behavior_groups",
            "topics.late",
            "topics.dead_letters",
            "topics.model_prefix",
            "topics.registry_prefix",
            "joiner.group",
            "model.name",
        ] {
            let suffix = key.split_once('.').expect("section and key").1.replace('_', "-");
            let value = format!("{}.{suffix}", line.name);
            line = line.set(key, value);
        }
        line
    }

    /// The brokers that its topics are on.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Overrides `section.key`.
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.overrides.insert(key.to_owned(), value.to_string());
        self
    }

    /// The settings as a program started with [`Line::arguments`] sees them.
    pub fn settings(&self) -> Settings {
        let overrides = self.overrides.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let sources = Sources { file: None, environment: Vec::new(), overrides };
        load(&sources, property_fault).unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// `command` followed by `--set section.key=value` for every override.
    pub fn arguments(&self, command: &[&str]) -> Vec<String> {
        let sets =
            self.overrides.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
        command.iter().map(|&word| word.to_owned()).chain(sets).collect()
    }

    /// Starts the binary on this line.
    pub fn start(&self, command: &[&str]) -> Easq {
        Easq::start(self.arguments(command))
    }

    /// Creates both input topics and the outputs of joiner and trainer, as production has them.
    pub fn create_topics(&self, partitions: i32) {
        let kafka = &self.kafka;
        let settings = self.settings();
        let topics = &settings.topics;
        for (_, topic) in topics.partitioned() {
            kafka.create_topic(topic, partitions);
        }
        let model = &settings.model.name;
        kafka.create_topic(&topics.model(model), 1);
        kafka.create_topic_with(&topics.registry(model), 1, &[("cleanup.policy", "compact")]);
    }
}
