//! From the first sample to the folder.

use std::fs;
use std::io::{self, Write};

use super::args::Args;
use super::begin::{Initial, begin_anew, begin_from};
use super::error::TrainFileError;
use super::learning::Learning;
use super::output;
use crate::contract::samples::SampleReader;
use crate::settings::Settings;
use crate::supervise::{StopToken, failpoint};
use crate::telemetry::Progress;
use crate::telemetry::events::FileTrainingBegins;

/// Learns the samples that `args` name and writes the model, or nothing when `stop` comes first.
/// Blocks the calling thread, which becomes libtorch's.
///
/// # Errors
/// Whatever keeps the model from being learned whole: then there is no output.
pub fn run(settings: &Settings, args: &Args, stop: &StopToken) -> Result<(), TrainFileError> {
    output::check_free(&args.output)?;
    let mut samples = SampleReader::open(&args.samples)?;
    let bytes = fs::metadata(&args.samples).map_err(TrainFileError::file(&args.samples))?.len();
    let dtype = args.dtype.map(|precision| precision.dtype());
    let begun = match &args.init {
        Some(path) => begin_from(settings, &Initial { argument: "--init", path }, dtype)?,
        None => begin_anew(settings, dtype)?,
    };
    FileTrainingBegins { path: &args.samples, step: begun.trainer.steps() }.emit();
    let mut learning = Learning::new(settings, begun, &args.samples);
    let mut progress = Progress::new(bytes, "bytes");
    while let Some(sample) = samples.next() {
        failpoint("train-sample");
        if stop.is_stopped() {
            return Err(TrainFileError::Interrupted);
        }
        if learning.take(sample?)? {
            progress.set(samples.bytes_read(), learning.summary().in_one_line(learning.trainer()));
        }
    }
    learning.finish()?;
    progress.set(samples.bytes_read(), learning.summary().in_one_line(learning.trainer()));
    progress.finish();
    if learning.summary().is_empty() {
        let dropped = learning.summary().dropped.clone();
        return Err(TrainFileError::NothingLearned { path: args.samples.clone(), dropped });
    }
    if stop.is_stopped() {
        return Err(TrainFileError::Interrupted);
    }
    output::write(settings, &learning, &args.output, &[])?;
    let table = learning.summary().table(learning.trainer());
    // The model is written: a reader of this that has gone away takes nothing from it.
    let _ = writeln!(io::stdout(), "{table}\n{}", args.output.display());
    Ok(())
}
