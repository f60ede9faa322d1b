//! One sample after the other, and what became of each.

use std::path::{Path, PathBuf};

use super::begin::Begun;
use super::error::TrainFileError;
use super::summary::Summary;
use crate::contract::v1::{self, sample};
use crate::settings::Settings;
use crate::telemetry::events::SampleDropped;
use crate::train::{BadRun, Driver, Offered, PairSource, Stepped, Trainer};
use crate::trainer::told;

/// Learns the samples of a file.
pub struct Learning {
    path: PathBuf,
    /// A group needs no name: nothing is reported of one.
    driver: Driver<Trainer, ()>,
    bad_batches: BadRun,
    number: u64,
    summary: Summary,
    event_time_watermark_ms: i64,
}

impl Learning {
    pub fn new(settings: &Settings, begun: Begun, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            driver: Driver::new(begun.trainer, settings.train.batch_groups),
            bad_batches: BadRun::new(settings.train.max_bad_batches),
            number: 0,
            summary: Summary::default(),
            event_time_watermark_ms: begun.event_time_watermark_ms,
        }
    }

    /// Takes in the next sample; true when that made a step.
    ///
    /// # Errors
    /// It is not there to be learned, or too many batches in a row were bad.
    pub fn take(&mut self, sample: v1::Sample) -> Result<bool, TrainFileError> {
        self.number += 1;
        match sample.sample {
            Some(sample::Sample::BehaviorGroup(group)) => {
                let stepped = self.driver.take_group((), group);
                self.settle(stepped)
            }
            Some(sample::Sample::PreferencePair(pair)) => self.take_pair(&pair),
            Some(sample::Sample::HeldOutList(_)) => {
                Err(TrainFileError::HeldOut { path: self.path.clone(), number: self.number })
            }
            None => Err(TrainFileError::UnknownSample { path: self.path.clone(), number: self.number }),
        }
    }

    /// Learns what is open at the end of the samples.
    ///
    /// # Errors
    /// Too many batches in a row were bad.
    pub fn finish(&mut self) -> Result<(), TrainFileError> {
        let stepped = self.driver.close();
        self.settle(stepped)?;
        Ok(())
    }

    fn take_pair(&mut self, pair: &v1::PreferencePair) -> Result<bool, TrainFileError> {
        // Its number among all pairs that the model has taken in, not its place in the file: a
        // stream that is learned in two files leaves the same reservoir as in one.
        let number = self.driver.learner().preference_pairs_taken();
        let source = PairSource { partition: 0, offset: i64::try_from(number).unwrap_or(i64::MAX) };
        let (mut offered, stepped) = self.driver.take_pair(pair, source);
        let mut has_stepped = self.settle(stepped)?;
        while offered == Offered::Full {
            let (again, stepped) = self.driver.take_pair(pair, source);
            offered = again;
            has_stepped |= self.settle(stepped)?;
        }
        match offered {
            Offered::Taken => {
                self.summary.pairs_taken += 1;
                self.saw(pair.event_time_ms);
            }
            Offered::Dropped(reason) => {
                let topic = &self.path.to_string_lossy();
                let offset = i64::try_from(self.number).unwrap_or(i64::MAX);
                SampleDropped { kind: "pair", reason: reason.as_str(), topic, partition: 0, offset }.emit();
                self.summary.drop_pair(reason);
            }
            Offered::Full => unreachable!("offered until there was room"),
            Offered::HeldOut => unreachable!("without a production the stream is never suspect"),
        }
        Ok(has_stepped)
    }

    fn settle(&mut self, stepped: Option<Stepped<()>>) -> Result<bool, TrainFileError> {
        let Some(Stepped { groups, result, .. }) = stepped else { return Ok(false) };
        match result {
            Ok(report) => {
                self.bad_batches.end();
                told::parts_dropped(&report.dropped);
                for (position, group) in groups.iter().enumerate() {
                    if !report.too_small.contains(&position) {
                        self.saw(group.event_time_ms);
                    }
                }
                self.summary.add(&report);
            }
            Err(bad) => {
                self.summary.skip(&bad);
                told::batch_skipped(&mut self.bad_batches, bad)?;
            }
        }
        Ok(true)
    }

    fn saw(&mut self, event_time_ms: i64) {
        self.event_time_watermark_ms = self.event_time_watermark_ms.max(event_time_ms);
    }

    pub fn trainer(&self) -> &Trainer {
        self.driver.learner()
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Greatest event time among the samples that were learned, or wait in the reservoir.
    pub fn event_time_watermark_ms(&self) -> i64 {
        self.event_time_watermark_ms
    }
}
