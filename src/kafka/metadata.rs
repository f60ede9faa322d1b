//! What brokers say of topics, and when to believe it.
//!
//! A broker that has just started answers before it knows all topics and partitions. librdkafka
//! keeps such an answer for a quarter of an hour and then says of a partition that is there that it
//! is unknown; so whoever is told that asks anew.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

/// For how long all answers must say that a topic is missing before it is.
const MISSING_FOR: Duration = Duration::from_secs(5);
const BETWEEN_ANSWERS: Duration = Duration::from_millis(200);

/// Low watermark and end of a partition.
pub(super) fn watermarks<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> KafkaResult<(i64, i64)> {
    match client.fetch_watermarks(topic, partition, timeout) {
        Err(error) if is_unknown(&error) => {
            client.fetch_metadata(Some(topic), timeout)?;
            client.fetch_watermarks(topic, partition, timeout)
        }
        answered => answered,
    }
}

/// Asks again, until `timeout` is over, where the leader of a partition moves and so cannot answer now.
pub(super) fn patiently<T>(timeout: Duration, mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Err(error) if is_moving(&error) && begun.elapsed() < timeout => thread::sleep(BETWEEN_ANSWERS),
            answered => return answered,
        }
    }
}

fn is_moving(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(code, Code::NotLeaderForPartition | Code::LeaderNotAvailable | Code::ReplicaNotAvailable)
    })
}

/// Says that a topic or partition is not known, rightly or not.
pub(super) fn is_unknown(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_unknown_code)
}

/// See [`is_unknown`].
pub(super) fn is_unknown_code(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

/// The partitions of a topic, 0 when a broker says that there is no such topic.
///
/// # Errors
/// No answer, or none that says either.
pub(super) fn partition_count<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<i32> {
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(0) };
    match found.error() {
        None => Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(0),
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
    }
}

/// Whether a topic that may be missing is: asks for some seconds, since a broker that has
/// just started may not know it yet. False at the first sign of it, and when nobody answers.
pub(super) fn is_missing<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> bool {
    let begun = Instant::now();
    loop {
        if !matches!(partition_count(client, topic, timeout), Ok(0)) {
            return false;
        }
        if begun.elapsed() >= MISSING_FOR {
            return true;
        }
        thread::sleep(BETWEEN_ANSWERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_moves_is_asked_again_and_nobody_else() {
        let ask = |first: RDKafkaErrorCode, timeout| {
            let mut asked = 0;
            let answer = patiently(timeout, || {
                asked += 1;
                if asked <= 2 { Err(KafkaError::MetadataFetch(first)) } else { Ok(()) }
            });
            (answer.is_ok(), asked)
        };
        let long = Duration::from_secs(60);
        assert_eq!(ask(RDKafkaErrorCode::NotLeaderForPartition, long), (true, 3));
        assert_eq!(ask(RDKafkaErrorCode::NotLeaderForPartition, Duration::ZERO), (false, 1));
        assert_eq!(ask(RDKafkaErrorCode::TopicAuthorizationFailed, long), (false, 1));
    }
}
