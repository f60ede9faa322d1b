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
        let Ok(now) = self.observer.topic_ids(&topics) else { return Ok(()) };
        for ((topic, before), now) in self.topics.iter().zip(&mut self.ids).zip(now) {
            if let (Some(before), Some(now)) = (&*before, &now)
                && before != now
            {
                return Err(JoinerError::TopicReplacedMeanwhile {
                    topic: topic.clone(),
                    before: before.clone(),
                    now: now.clone(),
                    within_seconds: INTERVAL.as_secs(),
                });
            }
            *before = now.or(before.take());
        }
        Ok(())
    }
}
