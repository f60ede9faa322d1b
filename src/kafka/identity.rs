//! Which topic a name stands for: one that was deleted and created again has the name of the one
//! before, other records at the same offsets, and an id of its own.
//!
//! librdkafka goes on at its old position in the new topic. Where the new one is shorter that ends
//! in an offset out of range; where it is longer, records are skipped and nothing says so.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;

use super::client::{Context, client_config};
use super::metadata;
use crate::settings;

/// The id that a cluster gave to a topic when it was created, in base64 as Kafka's tools print it.
pub type TopicId = String;

/// A client that does nothing but ask for ids.
pub struct TopicObserver {
    client: BaseConsumer<Context>,
}

impl TopicObserver {
    /// `client` names it in the logs.
    ///
    /// # Errors
    /// librdkafka refuses the properties.
    pub fn new(kafka: &settings::Kafka, client: &str) -> Result<Self, String> {
        let created = client_config(kafka, &[], &[]).create_with_context(Context::new(client, ()));
        Ok(Self { client: created.map_err(|error: KafkaError| error.to_string())? })
    }

    /// The ids of topics, in their order; `None` where the brokers give none. Blocks for some three
    /// seconds at most.
    ///
    /// # Errors
    /// In words: no broker answers, or it refuses, or does not know one of the topics.
    pub fn topic_ids(&self, topics: &[&str]) -> Result<Vec<Option<TopicId>>, String> {
        topic_ids(self.client.client(), topics, OBSERVER_TIMEOUT).map_err(|error| error.to_string())
    }

    /// Whether all answers of some seconds say that there is no such topic. False at the first sign of it,
    /// and when nobody answers.
    pub fn is_missing(&self, topic: &str) -> bool {
        metadata::is_missing(self.client.client(), topic, OBSERVER_TIMEOUT)
    }
}

const UNKNOWN_TOPIC: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
/// What brokers say that give no ids.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";
/// The answer comes with the request's own timeout at the latest; this is for its way through queues.
const GRACE: Duration = Duration::from_secs(1);
const OBSERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Set where librdkafka's mock cluster is the broker, which lets questions wait that it does not know.
static IS_MOCK: AtomicBool = AtomicBool::new(false);

/// Says that the brokers of this process tell neither ids nor settings of topics.
pub(super) fn brokers_are_a_mock() {
    IS_MOCK.store(true, Ordering::Relaxed);
}

/// Whether they do not.
pub(super) fn are_brokers_a_mock() -> bool {
    IS_MOCK.load(Ordering::Relaxed)
}

/// Asks for the ids of topics, in their order; `None` where the brokers give none (Apache Kafka
/// before 2.8). Blocks for little more than `timeout` at most.
///
/// # Errors
/// No broker answers, or it refuses; or it does not know one of the topics, which one that has just
/// started can say of a topic that is there.
pub(crate) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<Option<TopicId>>, KafkaError> {
    if are_brokers_a_mock() {
        return Ok(vec![None; topics.len()]);
    }
    let described = describe(client, topics, timeout)?;
    let id_of = |topic: &&str| {
        let found = described.iter().find(|(name, _)| name == *topic);
        found.map(|(_, id)| id.clone()).ok_or_else(|| failed(UNKNOWN_TOPIC))
    };
    topics.iter().map(id_of).collect()
}

/// Name and id of each topic. rdkafka has no call for it.
#[allow(unsafe_code)]
fn describe<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<(String, Option<TopicId>)>, KafkaError> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let ms = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `client` outlives the call and librdkafka is thread-safe. The names are copied by
    // `of_topic_names`, options and collection by `DescribeTopics`. Whatever is created here is
    // destroyed here, once, the event after the last use of what it owns.
    unsafe {
        let handle = client.native_ptr();
        let collection =
            native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let options = native::rd_kafka_AdminOptions_new(
            handle,
            native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        let mut reason = [0; 256];
        native::rd_kafka_AdminOptions_set_request_timeout(
            options,
            ms(timeout),
            reason.as_mut_ptr(),
            reason.len(),
        );
        let queue = native::rd_kafka_queue_new(handle);
        native::rd_kafka_DescribeTopics(handle, collection, options, queue);
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_TopicCollection_destroy(collection);
        let event = native::rd_kafka_queue_poll(queue, ms(timeout + GRACE));
        let described = if event.is_null() {
            Err(failed(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT))
        } else {
            read(event)
        };
        native::rd_kafka_event_destroy(event);
        native::rd_kafka_queue_destroy(queue);
        described
    }
}

/// # Safety
/// `event` is the answer to `DescribeTopics`.
#[allow(unsafe_code)]
unsafe fn read(event: *mut native::rd_kafka_event_t) -> Result<Vec<(String, Option<TopicId>)>, KafkaError> {
    // SAFETY: of the event, which the caller keeps, as everything that is read from it.
    unsafe {
        let error = native::rd_kafka_event_error(event);
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(failed(error));
        }
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        let mut count = 0;
        let descriptions = native::rd_kafka_DescribeTopics_result_topics(result, ptr::from_mut(&mut count));
        let mut topics = Vec::new();
        for index in 0..count {
            let description = *descriptions.add(index);
            let name = CStr::from_ptr(native::rd_kafka_TopicDescription_name(description));
            let error = native::rd_kafka_TopicDescription_error(description);
            let id = match native::rd_kafka_error_code(error) {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    let id = native::rd_kafka_TopicDescription_topic_id(description);
                    let text = CStr::from_ptr(native::rd_kafka_Uuid_base64str(id));
                    Some(text.to_string_lossy().into_owned()).filter(|id| id != NO_ID)
                }
                error => return Err(failed(error)),
            };
            topics.push((name.to_string_lossy().into_owned(), id));
        }
        Ok(topics)
    }
}

fn failed(error: RDKafkaRespErr) -> KafkaError {
    KafkaError::MetadataFetch(error.into())
}
