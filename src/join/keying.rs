//! Whether the producers' keys and partitioner are what the settings say.
//!
//! Mis-keyed records are rejected one by one, but when many of the *first* records of a partition
//! are, the settings are wrong, and going on would lose every label.

use bytes::Bytes;

use super::{Config, JoinFault};
use crate::contract::{InputRecord, Rejection, partitioner};

/// Keys that a suggestion is tried on.
const SAMPLE_KEYS: usize = 200;

#[derive(Debug, Default)]
pub(super) struct KeyingCheck {
    /// Since the group began.
    mis_keyed: u64,
    keys: Vec<Bytes>,
    is_over: bool,
}

impl KeyingCheck {
    pub fn new(mis_keyed: u64) -> KeyingCheck {
        KeyingCheck { mis_keyed, ..KeyingCheck::default() }
    }

    /// Whether the sample lies behind: a record that is not mis-keyed need not be shown any more.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn mis_keyed(&self) -> u64 {
        self.mis_keyed
    }

    /// Takes the `number`-th record since the group began, counted from 1. The fault comes as soon
    /// as the share of the whole sample is certain.
    pub fn observe(
        &mut self,
        number: u64,
        record: &InputRecord,
        rejection: Option<&Rejection>,
        topic: &str,
        config: &Config,
    ) -> Result<(), JoinFault> {
        let is_mis_keyed = rejection.is_some_and(Rejection::is_mis_keyed);
        self.mis_keyed += u64::from(is_mis_keyed);
        if number > config.mis_keyed_sample_records {
            self.keys = Vec::new();
            self.is_over = true;
            return Ok(());
        }
        if self.keys.len() < SAMPLE_KEYS {
            self.keys.extend(record.key.clone());
        }
        let bound = config.mis_keyed_max_ratio * config.mis_keyed_sample_records as f64;
        if is_mis_keyed && self.mis_keyed as f64 > bound {
            return Err(self.fault(number, record.partition, topic, config));
        }
        Ok(())
    }

    fn fault(&self, records: u64, partition: i32, topic: &str, config: &Config) -> JoinFault {
        let configured = config.limits.partitioner;
        let found = self.keys.iter().map(|key| (&key[..], partition));
        let suggested = partitioner::suggest(found, config.limits.partitions);
        let remedy = match suggested {
            Some(suggested) if suggested == configured => {
                "the partitioner fits the keys: key the records by user_id".to_owned()
            }
            Some(suggested) => format!("input.partitioner = {suggested} would fit"),
            None => "no known partitioner fits: key the records by user_id, with one of them".to_owned(),
        };
        JoinFault::MisKeyed {
            topic: topic.to_owned(),
            partition,
            records,
            mis_keyed: self.mis_keyed,
            configured,
            suggested,
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Partitioner, Settings};

    fn observe_keys(count: u64, sample: u64) -> Result<(), JoinFault> {
        let mut config = Config::new(&Settings::default(), 8);
        config.mis_keyed_sample_records = sample;
        let mut check = KeyingCheck::default();
        let keys = (0..).map(|n| format!("user-{n}"));
        let of_librdkafka = keys.filter(|key| partitioner::consistent_random(key.as_bytes(), 8) == 3);
        for (number, key) in (1..=count).zip(of_librdkafka) {
            let expected = partitioner::murmur2_random(key.as_bytes(), 8);
            let rejection = (expected != 3).then_some(Rejection::WrongPartition { expected, found: 3 });
            let key = Some(Bytes::from(key));
            let record = InputRecord { partition: 3, offset: 0, timestamp_ms: None, key, payload: None };
            check.observe(number, &record, rejection.as_ref(), "behavior-log", &config)?;
        }
        Ok(())
    }

    #[test]
    fn a_wrong_partitioner_is_a_fault_that_names_the_one_that_fits() {
        let fault = observe_keys(1_000, 1_000).unwrap_err();
        let JoinFault::MisKeyed { suggested, records, .. } = &fault else { panic!("{fault}") };
        assert_eq!(*suggested, Some(Partitioner::ConsistentRandom));
        assert!(*records < 100, "certain after some fifty mis-keyed records, not {records}");
        assert!(fault.to_string().contains("consistent_random would fit"), "{fault}");
    }

    #[test]
    fn a_small_share_of_mis_keyed_records_is_no_fault() {
        assert_eq!(observe_keys(50, 1_000), Ok(()));
    }

    #[test]
    fn records_after_the_sample_are_no_fault() {
        assert_eq!(observe_keys(1_000, 0), Ok(()));
    }
}
