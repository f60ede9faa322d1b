//! What becomes of the records of a transaction, as their delivery reports tell it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;

use crate::kafka::client::{Context, is_access_refused};
use crate::kafka::metadata;

/// A record's place in [`Deliveries::offsets`], counted from 1, travels as its opaque value.
pub(super) const NO_SLOT: usize = 0;
pub(super) const UNKNOWN_OFFSET: i64 = -1;

/// What the deliveries of the open transaction came to.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// The first failed delivery.
    pub(super) failed: Option<Failure>,
    /// Topics with a failed delivery that may not be there: brokers that do not know one say so,
    /// rightly or not, and librdkafka keeps records for a deleted one until they time out, those for
    /// other topics of the transaction with them.
    pub(super) perhaps_missing: BTreeSet<String>,
    /// Where the records of the running `deliver` were stored.
    pub(super) offsets: Vec<i64>,
}

/// Why a record was not delivered.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// The same record would fail again.
    pub(super) for_good: bool,
}

impl Failure {
    fn new(topic: &str, partition: i32, bytes: usize, code: Option<RDKafkaErrorCode>) -> Self {
        let why = match code {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => {
                "it is larger than the topic's max.message.bytes: raise that".to_owned()
            }
            Some(code) => code.to_string(),
            None => "no reason was given".to_owned(),
        };
        Self {
            reason: format!("a record of {bytes} bytes for '{topic}' partition {partition} failed: {why}"),
            for_good: code.is_some_and(is_refused_for_good),
        }
    }
}

/// Errors of a delivery that come again however often the record is sent. What is too large is not
/// among them: a topic's limit can be raised while this goes on, and which of two errors comes first,
/// this or that of the transaction it fails, is a matter of chance.
fn is_refused_for_good(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    is_access_refused(code)
        || matches!(
            code,
            Code::InvalidTopic | Code::InvalidRecord | Code::InvalidTimestamp | Code::PolicyViolation
        )
}

fn is_said_when_missing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    metadata::is_unknown_code(code) || matches!(code, Code::MessageTimedOut | Code::PurgeQueue)
}

/// Takes delivery reports on the producer's polling thread.
pub(super) type DeliveryContext = Context<Mutex<Deliveries>>;

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        match result {
            Ok(message) => {
                self.connection.note_up();
                if slot != NO_SLOT
                    && let Some(offset) = self.lock().offsets.get_mut(slot - 1)
                {
                    *offset = message.offset();
                }
            }
            Err((error, message)) => {
                let bytes = message.payload().map_or(0, <[u8]>::len);
                let code = error.rdkafka_error_code();
                let failure = Failure::new(message.topic(), message.partition(), bytes, code);
                let mut deliveries = self.lock();
                deliveries.failed.get_or_insert(failure);
                if code.is_some_and(is_said_when_missing) {
                    deliveries.perhaps_missing.insert(message.topic().to_owned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_given_up_only_when_it_would_fail_again() {
        let failure = |code| Failure::new("t", 3, 9, Some(code));
        assert!(!failure(RDKafkaErrorCode::MessageTimedOut).for_good);
        assert!(!failure(RDKafkaErrorCode::PurgeQueue).for_good);
        assert!(failure(RDKafkaErrorCode::TopicAuthorizationFailed).for_good);
        // A broker that has just started may say so of a topic that is there.
        assert!(!failure(RDKafkaErrorCode::UnknownTopic).for_good);
        let large = failure(RDKafkaErrorCode::MessageSizeTooLarge);
        assert!(!large.for_good, "the limit can be raised");
        for part in ["9 bytes", "'t' partition 3", "max.message.bytes"] {
            assert!(large.reason.contains(part), "{}", large.reason);
        }
    }
}
