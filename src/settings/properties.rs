//! librdkafka's properties, which pass through: what easq itself must decide, and what is secret.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::fault::{REDACTED, is_secret};

const COMMITTED_WITH_OUTPUTS: &str = "offsets are committed with the outputs, in their transaction";
const ONE_MEMBERSHIP: &str =
    "both inputs are read under one group membership that assigns partitions by range";
const WHOLE_OR_NOTHING: &str = "a reader must see committed records only, and a writer each record once";

/// Properties that easq decides, each with the reason or the setting to use instead.
const CONTROLLED: [(&str, &str); 29] = [
    ("bootstrap.servers", "use kafka.bootstrap_servers"),
    ("metadata.broker.list", "use kafka.bootstrap_servers"),
    ("client.id", "use kafka.client_id"),
    ("group.id", "use joiner.group"),
    ("group.instance.id", "use joiner.instance_id and train.instance_id"),
    ("group.protocol", ONE_MEMBERSHIP),
    ("group.remote.assignor", ONE_MEMBERSHIP),
    ("partition.assignment.strategy", ONE_MEMBERSHIP),
    ("session.timeout.ms", "use joiner.session_timeout_ms and train.session_timeout_ms"),
    ("heartbeat.interval.ms", "use joiner.heartbeat_interval_ms and train.heartbeat_interval_ms"),
    ("max.poll.interval.ms", "use joiner.max_poll_interval_ms"),
    ("enable.auto.commit", COMMITTED_WITH_OUTPUTS),
    ("auto.commit.enable", COMMITTED_WITH_OUTPUTS),
    ("auto.commit.interval.ms", COMMITTED_WITH_OUTPUTS),
    ("enable.auto.offset.store", COMMITTED_WITH_OUTPUTS),
    ("offset.store.method", COMMITTED_WITH_OUTPUTS),
    ("auto.offset.reset", "use input.start; offsets that are gone are an error, never a jump"),
    ("isolation.level", WHOLE_OR_NOTHING),
    ("enable.idempotence", WHOLE_OR_NOTHING),
    ("acks", WHOLE_OR_NOTHING),
    ("request.required.acks", WHOLE_OR_NOTHING),
    ("enable.gapless.guarantee", WHOLE_OR_NOTHING),
    ("transactional.id", "it follows from joiner.instance_id, and from model.name"),
    ("transaction.timeout.ms", "use joiner.transaction_timeout_ms and publish.transaction_timeout_ms"),
    ("partitioner", "an output goes to the partition number of its input"),
    ("allow.auto.create.topics", "topics are created by `easq topics create`, with their partitions"),
    ("enable.partition.eof", "the ends of partitions decide what is idle"),
    ("test.mock.num.brokers", "it would replace the brokers by a simulation"),
    ("plugin.library.paths", "it would load code into the process"),
];

/// Why easq decides this librdkafka property itself; none when a person may.
pub fn controlled_property(property: &str) -> Option<&'static str> {
    CONTROLLED.iter().find(|(name, _)| *name == property).map(|(_, reason)| *reason)
}

/// The properties with nothing in them that may be a secret.
pub(super) fn redacted(properties: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    properties
        .iter()
        .map(|(name, value)| (name.as_str(), if is_secret(name) { REDACTED } else { value.as_str() }))
        .collect()
}

/// Properties are text for librdkafka; in TOML numbers and switches may stand without quotes.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let properties = BTreeMap::<String, Text>::deserialize(deserializer)?;
    Ok(properties.into_iter().map(|(name, Text(value))| (name, value)).collect())
}

struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsText;
        impl Visitor<'_> for AsText {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a whole number, true or false")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Text, E> {
                Ok(Text(value.to_owned()))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
        }
        deserializer.deserialize_any(AsText)
    }
}
