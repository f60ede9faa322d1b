//! Looks after what no consumer tells: whether the input topics are there, and still the ones that were
//! begun with.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::kafka::identity::{TopicId, TopicObserver};
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::events::{InputBack, InputMissing};

use super::JoinerError;

/// Between two questions to the brokers.
const INTERVAL: Duration = Duration::from_secs(5);
/// After one that they did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The ids that the instances began with, as far as the brokers give any; views first.
pub(super) type KnownTopics = Arc<Mutex<[Option<TopicId>; 2]>>;

/// Asks for the ids of both input topics from time to time, until the stop or until one is another
/// than the instances began with. Tells of one that is not there any more, and when it is back.
///
/// # Errors
/// [`JoinerError::TopicReplacedMeanwhile`]; a client that cannot be made. Brokers that do not answer
/// are no matter here: who reads the topics says so.
pub(super) fn watch(settings: &Settings, known: &KnownTopics, stop: &StopToken) -> Result<(), JoinerError> {
    let topics = [settings.topics.behavior.clone(), settings.topics.responses.clone()];
    let observer = TopicObserver::new(&settings.kafka, "joiner observer").map_err(JoinerError::Observer)?;
    let mut missing = Missing::default();
    let mut wait = INTERVAL;
    while !stop.wait(wait) {
        match observer.topic_ids(&topics.each_ref().map(String::as_str)) {
            Ok(now) => {
                let before = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                compare(&topics, &before, &now)?;
                missing.are(BTreeSet::new());
                wait = INTERVAL;
            }
            Err(_) => {
                let gone: BTreeSet<&str> =
                    topics.iter().map(String::as_str).filter(|topic| observer.is_missing(topic)).collect();
                // One that has come back while that was asked may be another one.
                wait = if gone.is_empty() { RETRY_PAUSE } else { INTERVAL };
                if !gone.is_empty() {
                    missing.are(gone);
                }
            }
        }
    }
    Ok(())
}

/// The topics that were told as missing.
#[derive(Default)]
struct Missing(BTreeSet<String>);

impl Missing {
    /// Tells what has changed: each topic once when it goes, and once when it is back.
    fn are(&mut self, now: BTreeSet<&str>) {
        for topic in now.iter().filter(|topic| !self.0.contains(**topic)) {
            InputMissing { topic }.emit();
        }
        for topic in self.0.iter().filter(|topic| !now.contains(topic.as_str())) {
            InputBack { topic }.emit();
        }
        self.0 = now.into_iter().map(str::to_owned).collect();
    }
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
