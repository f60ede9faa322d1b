//! What a replay that is interrupted leaves behind, and how it goes on.
//!
//! Training is what takes long: its state is kept, with the number of samples that it has taken and those of
//! them that were groups of an open batch. A replay that goes on reads the same offsets of the same topics and
//! joins them again, which gives the same samples (invariant 10); it takes the groups of that batch once more,
//! and then those that follow. So it ends with the bytes of one that was never interrupted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::error::BackfillError;
use super::plan::{Origin, Plan};
use super::range::Range;
use super::run::{Task, TopicIds};
use super::sink::Learned;
use crate::contract::v1::LearnedRange;
use crate::kafka::reader::Stretch;
use crate::offline::{self, Learning};
use crate::settings::Settings;
use crate::telemetry::REVISION;

/// Name of the file beside the training state.
const FILE: &str = "resume.json";

/// How far an interrupted replay had come, and in what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Version of the program.
    program: String,
    /// The commit that it was built from, where the build was told.
    revision: String,
    /// A hash of the settings that decide what is learned.
    settings: String,
    pub from_ms: i64,
    pub to_ms: i64,
    /// Not of samples.
    pub pair_run_in_ms: Option<i64>,
    /// Samples that the training state has taken,
    samples: u64,
    /// but for these groups of an open batch.
    open: Vec<u64>,
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
    /// The cluster's; empty where the brokers gave none.
    topic_id: String,
    partition: i32,
    from_offset: i64,
    end_offset: i64,
    lacks_records: bool,
}

impl Progress {
    pub fn new(settings: &Settings, task: &Task, learned: Learned) -> Self {
        let Task { range, pair_run_in_ms, plan, topic_ids, base_inputs, .. } = task;
        let input = |(number, stretch): (usize, &Stretch)| Input {
            topic: stretch.topic.to_string(),
            topic_id: topic_ids.get(&stretch.topic).cloned().unwrap_or_default(),
            partition: stretch.partition,
            from_offset: stretch.from,
            end_offset: stretch.end,
            lacks_records: plan.lacking.contains(&number),
        };
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            revision: REVISION.to_owned(),
            settings: digest(settings),
            from_ms: range.from_ms,
            to_ms: range.to_ms,
            pair_run_in_ms: *pair_run_in_ms,
            samples: learned.samples,
            open: learned.open,
            base_inputs: base_inputs.clone(),
            source: plan.origin,
            partitions: plan.partitions,
            inputs: plan.stretches.iter().enumerate().map(input).collect(),
        }
    }

    pub fn learned(&self) -> Learned {
        Learned { samples: self.samples, open: self.open.clone() }
    }

    /// Refuses topics that were created anew since: their offsets are others.
    ///
    /// # Errors
    /// One of them was.
    pub fn check_topics(&self, now: &TopicIds, partial: &Path) -> Result<(), BackfillError> {
        let is_another = |input: &&Input| {
            let now = now.get(input.topic.as_str()).map_or("", String::as_str);
            !input.topic_id.is_empty() && !now.is_empty() && input.topic_id != now
        };
        match self.inputs.iter().find(is_another) {
            None => Ok(()),
            Some(input) => {
                Err(BackfillError::OtherTopic { path: partial.to_owned(), topic: input.topic.clone() })
            }
        }
    }

    /// What contradicts itself, and no replay has written.
    fn problem(&self, settings: &Settings) -> Option<&'static str> {
        let topics = self.source.topics(&settings.topics);
        let partitions = |topic: &str| -> Vec<i32> {
            self.inputs.iter().filter(|input| input.topic == topic).map(|input| input.partition).collect()
        };
        let are_of = |topic: &str, count: i32| count > 0 && partitions(topic).into_iter().eq(0..count);
        let in_order: Vec<&str> = self.inputs.iter().map(|input| input.topic.as_str()).collect();
        let grouped = in_order.chunk_by(|before, after| before == after).map(|topic| topic[0]);
        let are_whole = topics.iter().enumerate().all(|(number, topic)| match self.source {
            Origin::Samples if number != 1 => are_of(topic, partitions(topic).len() as i32),
            _ => are_of(topic, self.partitions),
        });
        if !grouped.eq(topics.iter().copied()) || !are_whole {
            return Some("it does not name all partitions of what is read");
        }
        let is_open = |pair: &[u64]| pair[0] < pair[1];
        if !self.open.windows(2).all(is_open) || self.open.last().is_some_and(|last| *last > self.samples) {
            return Some("the groups of the open batch are not among its samples");
        }
        None
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
        Plan {
            origin: self.source,
            partitions: self.partitions,
            stretches: self.inputs.iter().map(stretch).collect(),
            lacking: lacking.map(|(number, _)| number).collect(),
        }
    }

    /// Reads what lies in `partial`.
    ///
    /// # Errors
    /// Nothing lies there, it is damaged, or it was begun with other settings or by another program.
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
        let program = |version: &str, revision: &str| format!("{version} ({revision})");
        let begun_by = program(&found.program, &found.revision);
        if begun_by != program(env!("CARGO_PKG_VERSION"), REVISION) || found.settings != digest(settings) {
            return Err(BackfillError::OtherSettings { path: partial.to_owned(), program: begun_by });
        }
        match found.problem(settings) {
            Some(problem) => Err(BackfillError::file(&path)(io::Error::other(format!("damaged: {problem}")))),
            None => Ok(found),
        }
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
    use std::sync::Arc;

    use super::*;

    fn task(settings: &Settings, origin: Origin) -> Task {
        let topics = origin.topics(&settings.topics);
        let stretch = |number: i64| Stretch {
            topic: topics[number as usize / 2].into(),
            partition: number as i32 % 2,
            from: number,
            end: 10 * number,
        };
        let stretches = (0..2 * topics.len() as i64).map(stretch).collect();
        let plan = Plan { origin, partitions: 2, stretches, lacking: vec![3] };
        let topic_ids = [(topics[0].into(), "first".to_owned())].into();
        let (range, pair_run_in_ms) = match origin {
            Origin::Inputs => (Range::new(settings, 10, 20, 7), Some(7)),
            Origin::Samples => (Range::of_samples(settings, 10, 20), None),
        };
        let learned_before = Learned::default();
        Task { range, pair_run_in_ms, plan, topic_ids, learned_before, base_inputs: Vec::new() }
    }

    fn seven() -> Learned {
        Learned { samples: 7, open: vec![3, 6] }
    }

    fn put(dir: &Path, progress: &Progress) {
        fs::write(dir.join(FILE), serde_json::to_vec(progress).expect("JSON")).expect("written");
    }

    #[test]
    fn the_same_offsets_are_read_again() {
        let settings = Settings::default();
        for origin in [Origin::Inputs, Origin::Samples] {
            let task = task(&settings, origin);
            let progress = Progress::new(&settings, &task, seven());
            assert_eq!(progress.learned(), seven());
            let again = progress.plan();
            assert_eq!(again.stretches, task.plan.stretches);
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
        for origin in [Origin::Inputs, Origin::Samples] {
            let task = Task { base_inputs: vec![base.clone()], ..task(&settings, origin) };
            let progress = Progress::new(&settings, &task, seven());
            put(dir.path(), &progress);
            assert_eq!(Progress::read(&settings, dir.path()).expect("the same settings"), progress);
        }
        let progress = Progress::read(&settings, dir.path()).expect("the same settings");
        put(dir.path(), &Progress { revision: "another".to_owned(), ..progress.clone() });
        let said = Progress::read(&settings, dir.path()).expect_err("of another build").to_string();
        assert!(said.contains("(another)"), "{said}");
        put(dir.path(), &progress);
        let mut other = settings;
        other.telemetry.listen = String::new();
        Progress::read(&other, dir.path()).expect("of no consequence");
        other.train.batch_groups += 1;
        assert!(matches!(Progress::read(&other, dir.path()), Err(BackfillError::OtherSettings { .. })));
    }

    #[test]
    fn topics_that_were_created_anew_and_damaged_files_are_refused() {
        let settings = Settings::default();
        let dir = tempfile::tempdir().expect("a temporary folder");
        for origin in [Origin::Inputs, Origin::Samples] {
            let task = task(&settings, origin);
            let progress = Progress::new(&settings, &task, seven());
            let topic = task.plan.stretches[0].topic.clone();
            let with_id = |id: &str| TopicIds::from([(Arc::clone(&topic), id.to_owned())]);
            for same in [with_id("first"), with_id(""), TopicIds::new()] {
                progress.check_topics(&same, dir.path()).expect("the same, or not known");
            }
            let said =
                progress.check_topics(&with_id("second"), dir.path()).expect_err("another").to_string();
            assert!(said.contains(&*topic) && said.contains("--resume"), "{said}");

            let mut fewer = progress.clone();
            fewer.inputs.remove(0);
            let mut mixed = progress.clone();
            mixed.inputs.swap(0, 1);
            let mut none = progress.clone();
            none.inputs.clear();
            let open = Progress { open: vec![8], ..progress.clone() };
            let twice = Progress { open: vec![3, 3], ..progress.clone() };
            let more = Progress { partitions: 3, ..progress };
            for damaged in [fewer, mixed, none, open, twice, more] {
                put(dir.path(), &damaged);
                let said = Progress::read(&settings, dir.path()).expect_err("damaged").to_string();
                assert!(said.contains("damaged"), "{said}");
            }
        }
    }
}
