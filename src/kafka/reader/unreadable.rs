//! Records that are there and cannot be read: librdkafka passes over them, or asks for them for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::{Fed, Feeds, LogReader, ReadError, Stretch};
use crate::settings;

/// For how long the place is looked for.
const FOUND_WITHIN: Duration = Duration::from_secs(15);
const SLICE: Duration = Duration::from_millis(50);

/// Whether records are there that librdkafka passes over, or tries again for ever.
pub(crate) fn is_unreadable(code: Code) -> bool {
    // Of a checksum; of a codec; of a format; of a batch above what one fetch may bring.
    matches!(
        code,
        Code::BadMessage
            | Code::InvalidMessage
            | Code::BadCompression
            | Code::NotImplemented
            | Code::MessageSizeTooLarge
    )
}

/// The error of a partition whose records from `offset` on cannot be read.
pub(super) fn unreadable(topic: &Arc<str>, partition: i32, offset: i64, code: Code) -> ReadError {
    let reason = format!("{}; {}", KafkaError::MessageConsumption(code), remedy(code));
    ReadError::Unreadable { topic: Arc::clone(topic), partition, offset, reason }
}

fn remedy(code: Code) -> &'static str {
    match code {
        Code::NotImplemented => {
            "this build does not know its format or compression: let producers write with gzip, snappy or lz4"
        }
        Code::MessageSizeTooLarge => "raise kafka.properties.receive.message.max.bytes",
        _ => "if another replica holds it whole, make that one the leader and start again",
    }
}

/// The first place of `places` (topic, partition, next offset) whose records cannot be read.
///
/// rdkafka gives such an error without its place. It comes in the order of its partition's records, so
/// one of the partitions has it as the next thing; each is read once more from there, with a queue of
/// its own, which tells the place.
pub(crate) fn find(
    kafka: &settings::Kafka,
    client: &str,
    places: impl IntoIterator<Item = (Arc<str>, i32, i64)>,
    code: Code,
) -> ReadError {
    let stretch = |(topic, partition, from)| Stretch { topic, partition, from, end: i64::MAX };
    let stretches: Vec<Stretch> = places.into_iter().map(stretch).collect();
    let mut waiting: Vec<usize> = (0..stretches.len()).collect();
    let mut feeds = match Feeds::begin(kafka, client, stretches) {
        Ok(feeds) => feeds,
        Err(error) => return error,
    };
    let begun = Instant::now();
    // Of one pass over all of them.
    let slice = SLICE / u32::try_from(waiting.len().max(1)).unwrap_or(u32::MAX);
    while !waiting.is_empty() && begun.elapsed() < FOUND_WITHIN {
        let mut found = None;
        waiting.retain(|&number| match feeds.next(number, slice) {
            Ok(Fed::Nothing) => true,
            Ok(Fed::Record(_) | Fed::End) => false,
            Err(error) => {
                found.get_or_insert(error);
                false
            }
        });
        if let Some(error) = found {
            return error;
        }
    }
    ReadError::Client {
        client: client.to_owned(),
        reason: format!(
            "{}, and a second look did not find where: start again",
            KafkaError::MessageConsumption(code)
        ),
    }
}

impl LogReader {
    /// Where what cannot be read lies, as an error.
    pub(super) fn unreadable(&self, code: Code) -> ReadError {
        let place = |(topic, partition, from): &(Arc<str>, i32, i64)| {
            let next = self.position(topic, *partition).unwrap_or(*from);
            (Arc::clone(topic), *partition, next)
        };
        find(&self.kafka, &self.client, self.assigned.iter().map(place), code)
    }
}
