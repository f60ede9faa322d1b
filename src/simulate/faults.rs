//! The faults that a log has: repeated, late, orphaned and malformed records.

use super::run::SimulateError;

/// How often each fault is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, clap::Args)]
pub struct FaultRates {
    /// Share of the records that come twice.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub duplicates: f64,
    /// Share of the records that are held back for 5 to 15 minutes of event time.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub late: f64,
    /// Answers to views that never were, per answer.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub orphans: f64,
    /// Records that no joiner can use, per record: spoiled copies of true ones.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub malformed: f64,
}

impl FaultRates {
    pub(super) fn check(&self) -> Result<(), SimulateError> {
        let rates = [
            ("--duplicates", self.duplicates),
            ("--late", self.late),
            ("--orphans", self.orphans),
            ("--malformed", self.malformed),
        ];
        match rates.into_iter().find(|(_, rate)| !(0.0..=1.0).contains(rate)) {
            Some((argument, rate)) => Err(SimulateError::argument(argument, rate, "0 to 1")),
            None => Ok(()),
        }
    }
}
