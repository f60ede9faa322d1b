//! Looks after what no consumer tells: whether the input topics are still the ones that were begun with.

use std::time::{Duration, Instant};

use crate::kafka::identity::{TopicId, TopicObserver};
use crate::settings::Settings;

use super::JoinerError;

/// Between two questions to the brokers.
const INTERVAL: Duration = Duration::from_secs(5);

/// Asks for the ids of both input topics from time to time. Used by one thread.
pub(super) struct TopicWatch {
    observer: TopicObserver,
    topics: [String; 2],
    ids: [Option<TopicId>; 2],
    next: Instant,
}

impl TopicWatch {
    pub(super) fn new(settings: &Settings) -> Result<Self, JoinerError> {
        let topics = [settings.topics.behavior.clone(), settings.topics.responses.clone()];
        let observer =
            TopicObserver::new(&settings.kafka, "joiner observer").map_err(JoinerError::Observer)?;
        Ok(Self { observer, topics, ids: [None, None], next: Instant::now() })
    }

    /// Asks, if it is time to. Brokers that do not answer are no matter here: who reads the topics
    /// says so.
    pub(super) fn look(&mut self) -> Result<(), JoinerError> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + INTERVAL;
        let topics = self.topics.each_ref().map(String::as_str);
        match self.observer.topic_ids(&topics) {
            Ok(now) => compare(&self.topics, &mut self.ids, now),
            Err(_) => Ok(()),
        }
    }
}

/// Takes note of the ids of now; an error when one has become another. A topic that is away for a
/// moment keeps the id that it had.
fn compare(
    topics: &[String],
    known: &mut [Option<TopicId>],
    now: Vec<Option<TopicId>>,
) -> Result<(), JoinerError> {
    for ((topic, before), now) in topics.iter().zip(known).zip(now) {
        match (&*before, now) {
            (Some(before), Some(now)) if *before != now => {
                return Err(JoinerError::TopicReplacedMeanwhile {
                    topic: topic.clone(),
                    before: before.clone(),
                    now,
                    within_seconds: INTERVAL.as_secs(),
                });
            }
            (_, Some(now)) => *before = Some(now),
            (_, None) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_goes_and_comes_back_with_another_id_is_another_topic() {
        let topics = ["views".to_owned(), "answers".to_owned()];
        let id = |id: &str| Some(id.to_owned());
        let mut known = [None, None];
        compare(&topics, &mut known, vec![id("a"), id("b")]).expect("seen for the first time");
        compare(&topics, &mut known, vec![None, id("b")]).expect("away for a moment");
        compare(&topics, &mut known, vec![id("a"), None]).expect("the same as before");
        let error = compare(&topics, &mut known, vec![id("a"), id("c")]).expect_err("another topic");
        let message = error.to_string();
        assert!(message.contains("'answers'") && message.contains("id b before, c now"), "{message}");
    }
}
