//! What a replay that is interrupted leaves behind, and how it goes on.
//!
//! Training is what takes long: its state is kept, at the end of a batch, with the number of samples that it
//! has taken. A replay that goes on reads the same offsets and joins them again, which gives the same
//! samples (invariant 10), and learns those that follow. So it ends with the bytes of one that was never
//! interrupted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::error::BackfillError;
use super::plan::{Origin, Plan};
use super::range::Range;
use super::run::Task;
use crate::contract::v1::LearnedRange;
use crate::kafka::reader::Stretch;
use crate::offline::{self, Learning};
use crate::settings::Settings;

/// Name of the file beside the training state.
const FILE: &str = "resume.json";

/// How far an interrupted replay had come, and in what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Version of the program.
    program: String,
    /// A hash of the settings that decide what is learned.
    settings: String,
    pub from_ms: i64,
    pub to_ms: i64,
    /// Not of samples.
    pub pair_run_in_ms: Option<i64>,
    /// Samples that the training state has taken.
    pub samples: u64,
    /// What training had begun with had learned this.
    pub base_inputs: Vec<LearnedRange>,
    source: Origin,
    partitions: i32,
    /// Topic by topic, by partition.
    inputs: Vec<Input>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    topic: String,
    partition: i32,
    from_offset: i64,
    end_offset: i64,
    lacks_records: bool,
}

impl Progress {
    pub fn new(settings: &Settings, task: &Task, base_inputs: &[LearnedRange], samples: u64) -> Self {
        let Task { range, pair_run_in_ms, plan, .. } = task;
        let input = |(number, stretch): (usize, &Stretch)| Input {
            topic: stretch.topic.to_string(),
            partition: stretch.partition,
            from_offset: stretch.from,
            end_offset: stretch.end,
            lacks_records: plan.lacking.contains(&number),
        };
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            settings: digest(settings),
            from_ms: range.from_ms,
            to_ms: range.to_ms,
            pair_run_in_ms: *pair_run_in_ms,
            samples,
            base_inputs: base_inputs.to_vec(),
            source: plan.origin,
            partitions: plan.partitions,
            inputs: plan.stretches.iter().enumerate().map(input).collect(),
        }
    }

    /// The same range once more.
    pub fn range(&self, settings: &Settings) -> Range {
        match self.source {
            Origin::Inputs => {
                Range::new(settings, self.from_ms, self.to_ms, self.pair_run_in_ms.unwrap_or_default())
            }
            Origin::Samples => Range::of_samples(settings, self.from_ms, self.to_ms),
        }
    }

    /// The same offsets once more.
    pub fn plan(&self) -> Plan {
        let stretch = |input: &Input| Stretch {
            topic: input.topic.as_str().into(),
            partition: input.partition,
            from: input.from_offset,
            end: input.end_offset,
        };
        let lacking = self.inputs.iter().enumerate().filter(|(_, input)| input.lacks_records);
        let lacking = lacking.map(|(number, _)| number).collect();
        Plan::new(self.source, self.partitions, self.inputs.iter().map(stretch).collect(), lacking)
    }

    /// Reads what lies in `partial`.
    ///
    /// # Errors
    /// Nothing lies there, or it was begun with other settings or by another version.
    pub fn read(settings: &Settings, partial: &Path) -> Result<Self, BackfillError> {
        let path = partial.join(FILE);
        let json = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackfillError::NothingToResume { path: partial.to_owned() });
            }
            read => read.map_err(BackfillError::file(&path))?,
        };
        let found: Self = serde_json::from_slice(&json)
            .map_err(|error| BackfillError::file(&path)(io::Error::other(error)))?;
        let wanted = (env!("CARGO_PKG_VERSION"), digest(settings));
        if (found.program.as_str(), &found.settings) != (wanted.0, &wanted.1) {
            return Err(BackfillError::OtherSettings { path: partial.to_owned(), program: found.program });
        }
        Ok(found)
    }

    /// Puts the training state into `partial`, in the place of what lies there.
    ///
    /// # Errors
    /// The disk takes no more, or a value is not finite.
    pub fn write(
        &self,
        settings: &Settings,
        learning: &Learning,
        partial: &Path,
    ) -> Result<(), BackfillError> {
        let mut json = serde_json::to_vec_pretty(self).expect("it has a JSON form");
        json.push(b'\n');
        let next = beside(partial, ".next");
        remove(&next)?;
        offline::write(settings, learning, &next, &[(FILE, &json)])?;
        remove(partial)?;
        fs::rename(&next, partial).map_err(BackfillError::file(partial))
    }
}

/// Where an interrupted replay into `output` leaves what it has learned.
pub fn partial(output: &Path) -> PathBuf {
    beside(output, ".partial")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Removes a folder, if it is there.
pub fn remove(dir: &Path) -> Result<(), BackfillError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackfillError::file(dir)(error)),
        _ => Ok(()),
    }
}

/// Of the sections that decide what is read, joined and learned.
fn digest(settings: &Settings) -> String {
    let Settings { topics, input, features, reward, join, model, train, .. } = settings;
    let sections = serde_json::to_vec(&(topics, input, features, reward, join, model, train));
    format!("{:016x}", xxh3_64(&sections.expect("settings have a JSON form")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(settings: &Settings, origin: Origin) -> Task {
        let stretch = |number: i64| Stretch {
            topic: ["a", "b"][number as usize / 2].into(),
            partition: number as i32 % 2,
            from: number,
            end: 10 * number,
        };
        let plan = Plan::new(origin, 2, (0..4).map(stretch).collect(), vec![3]);
        let (range, pair_run_in_ms) = match origin {
            Origin::Inputs => (Range::new(settings, 10, 20, 7), Some(7)),
            Origin::Samples => (Range::of_samples(settings, 10, 20), None),
        };
        Task { range, pair_run_in_ms, plan, learned_before: 0, base_inputs: Vec::new() }
    }

    #[test]
    fn the_same_offsets_are_read_again() {
        let settings = Settings::default();
        for origin in [Origin::Inputs, Origin::Samples] {
            let task = task(&settings, origin);
            let progress = Progress::new(&settings, &task, &[], 7);
            let again = progress.plan();
            assert_eq!(again.stretches, task.plan.stretches);
            assert_eq!(again.sources, task.plan.sources);
            assert_eq!((again.origin, again.partitions, again.lacking), (origin, 2, vec![3]));
            assert_eq!(progress.range(&settings), task.range);
        }
    }

    #[test]
    fn what_was_begun_with_other_settings_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let settings = Settings::default();
        let nothing = Progress::read(&settings, dir.path());
        assert!(matches!(nothing, Err(BackfillError::NothingToResume { .. })));
        let base = LearnedRange { topic: "c".to_owned(), next_offset: 3, ..LearnedRange::default() };
        let progress = Progress::new(&settings, &task(&settings, Origin::Inputs), &[base], 7);
        fs::write(dir.path().join(FILE), serde_json::to_vec(&progress).expect("JSON")).expect("written");
        assert_eq!(Progress::read(&settings, dir.path()).expect("the same settings"), progress);
        let mut other = settings;
        other.telemetry.listen = String::new();
        Progress::read(&other, dir.path()).expect("of no consequence");
        other.train.batch_groups += 1;
        assert!(matches!(Progress::read(&other, dir.path()), Err(BackfillError::OtherSettings { .. })));
    }
}
