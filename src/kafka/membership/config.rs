//! Properties of the two consumers, as measured: see the table of rates and settings in the Kafka
//! rules of the design.

use std::sync::Arc;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;

use super::context::FeedContext;
use super::{MembershipError, failed};
use crate::kafka::client::{self, Context, STATISTICS};
use crate::kafka::reader::FETCH_TUNING;
use crate::settings::Settings;

/// What the guarantees rest on, for both consumers.
const CONTROLLED: [(&str, &str); 5] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("isolation.level", "read_committed"),
    // Positions are given by hand; one that is gone is an event, never a silent jump.
    ("auto.offset.reset", "error"),
];

const MEMBER_TUNING: [(&str, &str); 5] = [
    ("check.crcs", "true"),
    ("fetch.min.bytes", "1"),
    ("fetch.error.backoff.ms", "50"),
    // An empty fetch tells that the end is reached, which lets the views go ahead.
    ("fetch.wait.max.ms", "100"),
    // They bring the end offsets of the fetched partitions too, without requests of their own.
    STATISTICS,
];

/// Besides what every reader of dense topics has. An answer that lies ahead of the views waits until
/// their end is known, see [`MEMBER_TUNING`].
const MIRROR_TUNING: [(&str, &str); 2] = [("fetch.wait.max.ms", "100"), STATISTICS];

/// The consumer that is the member of the group and reads the responses. `instance_id` empty:
/// dynamic membership.
pub(super) fn member(
    settings: &Settings,
    instance_id: &str,
) -> Result<BaseConsumer<FeedContext>, MembershipError> {
    let joiner = &settings.joiner;
    let mut config = client::client_config(&settings.kafka, &MEMBER_TUNING, &CONTROLLED);
    config
        .set("group.id", &joiner.group)
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", joiner.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", joiner.heartbeat_interval_ms.to_string())
        .set("max.poll.interval.ms", joiner.max_poll_interval_ms.to_string());
    if !instance_id.is_empty() {
        config.set("group.instance.id", instance_id);
    }
    create(&config, &settings.topics.responses, "joiner member")
}

/// The consumer that reads the views at the member's partitions. It needs a group id for being
/// assigned anything, but never joins that group.
pub(super) fn mirror(settings: &Settings) -> Result<BaseConsumer<FeedContext>, MembershipError> {
    let tuning = [&FETCH_TUNING[..], &MIRROR_TUNING].concat();
    let mut config = client::client_config(&settings.kafka, &tuning, &CONTROLLED);
    config.set("group.id", format!("{}-mirror", settings.joiner.group));
    create(&config, &settings.topics.behavior, "joiner mirror")
}

/// A client that sees logs up to their very end. It is asked, and reads nothing.
pub(super) fn uncommitted(settings: &Settings) -> Result<BaseConsumer<Context>, MembershipError> {
    const CLIENT: &str = "joiner probe";
    client::client_config(&settings.kafka, &[], &[("isolation.level", "read_uncommitted")])
        .create_with_context(Context::new(CLIENT, ()))
        .map_err(failed(&format!("creating the {CLIENT}")))
}

fn create(
    config: &ClientConfig,
    topic: &str,
    client: &str,
) -> Result<BaseConsumer<FeedContext>, MembershipError> {
    config
        .create_with_context(FeedContext::new(client, Arc::from(topic)))
        .map_err(failed(&format!("creating the {client}'s consumer")))
}
