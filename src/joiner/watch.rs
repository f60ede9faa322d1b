//! Looks after what no consumer tells: whether the input topics are still the ones that were begun with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::kafka::identity::{TopicId, TopicObserver};
use crate::settings::Settings;
use crate::supervise::StopToken;

use super::JoinerError;

/// Between two questions to the brokers.
const INTERVAL: Duration = Duration::from_secs(5);

/// The ids that the instances began with, as far as the brokers give any; views first.
pub(super) type KnownTopics = Arc<Mutex<[Option<TopicId>; 2]>>;

/// Asks for the ids of both input topics from time to time, until the stop or until one is another
/// than the instances began with.
///
/// # Errors
/// [`JoinerError::TopicReplacedMeanwhile`]; a client that cannot be made. Brokers that do not answer
/// are no matter here: who reads the topics says so.
pub(super) fn watch(settings: &Settings, known: &KnownTopics, stop: &StopToken) -> Result<(), JoinerError> {
    let topics = [settings.topics.behavior.clone(), settings.topics.responses.clone()];
    let observer = TopicObserver::new(&settings.kafka, "joiner observer").map_err(JoinerError::Observer)?;
    while !stop.wait(INTERVAL) {
        let before = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if before.iter().all(Option::is_none) {
            continue;
        }
        if let Ok(now) = observer.topic_ids(&topics.each_ref().map(String::as_str)) {
            compare(&topics, &before, &now)?;
        }
    }
    Ok(())
}

/// An error when one of the topics is another one now.
fn compare(
    topics: &[String],
    before: &[Option<TopicId>],
    now: &[Option<TopicId>],
) -> Result<(), JoinerError> {
    for ((topic, before), now) in topics.iter().zip(before).zip(now) {
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            return Err(JoinerError::TopicReplacedMeanwhile {
                topic: topic.clone(),
                before: before.clone(),
                now: now.clone(),
                within_seconds: INTERVAL.as_secs(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_another_id_is_another_topic() {
        let topics = ["views".to_owned(), "answers".to_owned()];
        let ids =
            |views: Option<&str>, answers: Option<&str>| [views, answers].map(|id| id.map(str::to_owned));
        let before = ids(Some("a"), Some("b"));
        for now in [ids(Some("a"), Some("b")), ids(None, Some("b")), ids(None, None)] {
            compare(&topics, &before, &now).expect("the same as before, as far as it is known");
        }
        let error = compare(&topics, &before, &ids(Some("a"), Some("c"))).expect_err("another topic");
        let message = error.to_string();
        assert!(message.contains("'answers'") && message.contains("id b before, c now"), "{message}");
    }
}
