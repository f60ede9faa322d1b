//! What becomes of the join's outputs: counted, written, learned.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::NamedTempFile;

use super::error::BackfillError;
use super::pairs::PairsTopic;
use super::range::Range;
use crate::contract::samples::{self, SampleWriter};
use crate::contract::v1::{BehaviorGroup, PreferencePair, Sample, sample::Sample as Kind};
use crate::join::{Output, OutputKind};
use crate::offline::Learning;

/// What the range gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    pub labels: u64,
    pub pairs: u64,
    pub groups: u64,
    /// Labels before the range, which only gave partners.
    pub run_in_labels: u64,
}

/// Where what the range gives goes to.
#[derive(Default)]
pub struct Outlets {
    pub samples: Option<SampleFile>,
    pub learning: Option<Learning>,
    pub pairs: Option<PairsTopic>,
}

/// Takes what a replay gives, in order.
pub struct Sink {
    range: Range,
    given: Given,
    /// Whether the last label lies in the range: its pairs follow it.
    is_label_given: bool,
    pub outlets: Outlets,
    /// Samples of the range so far.
    delivered: u64,
    learned_before: Learned,
    /// The groups of the open batch, by the numbers of their samples.
    open: Vec<u64>,
}

/// Which samples of a range a training state has taken, counted from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// All up to this one,
    pub samples: u64,
    /// but for these: groups of a batch that was open. They are there to be taken again.
    pub open: Vec<u64>,
}

impl Sink {
    /// `learned_before`: what `learning` has taken already.
    pub fn new(range: Range, outlets: Outlets, learned_before: Learned) -> Self {
        Self {
            range,
            given: Given::default(),
            is_label_given: false,
            outlets,
            delivered: 0,
            open: learned_before.open.clone(),
            learned_before,
        }
    }

    /// What the training state has taken.
    pub fn learned(&self) -> Learned {
        Learned { samples: self.delivered.max(self.learned_before.samples), open: self.open.clone() }
    }

    pub fn given(&self) -> Given {
        self.given
    }

    /// Takes the next output of the join of a partition.
    ///
    /// # Errors
    /// It cannot be written or learned.
    pub fn take(&mut self, partition: i32, output: &Output) -> Result<(), BackfillError> {
        // Late records and dead letters have none.
        let Some(time_ms) = output.event_time_ms else { return Ok(()) };
        match output.kind {
            OutputKind::LabelledView => self.label(time_ms),
            OutputKind::PreferencePair if self.is_label_given => self.pair(partition, output)?,
            OutputKind::BehaviorGroup if self.range.holds(time_ms) => {
                self.group(output)?;
            }
            OutputKind::BehaviorGroup
            | OutputKind::PreferencePair
            | OutputKind::Late
            | OutputKind::DeadLetter => {}
        }
        Ok(())
    }

    /// Takes a label with an answer of this time.
    pub fn label(&mut self, time_ms: i64) {
        self.is_label_given = self.range.holds(time_ms);
        self.given.labels += u64::from(self.is_label_given);
        self.given.run_in_labels += u64::from(time_ms < self.range.from_ms);
    }

    /// Takes a pair of the range, of a partition.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn pair(&mut self, partition: i32, output: &Output) -> Result<(), BackfillError> {
        self.given.pairs += 1;
        // Encoded once for both.
        let written = self.outlets.pairs.as_mut().map(|pairs| pairs.take(partition, output)).transpose()?;
        if self.wants_samples() {
            let payload = written.unwrap_or_else(|| output.payload()).unwrap_or_default();
            self.deliver(Kind::PreferencePair(PreferencePair::decode(payload)?))?;
        }
        Ok(())
    }

    /// Takes a group of the range.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn group(&mut self, output: &Output) -> Result<(), BackfillError> {
        self.given.groups += 1;
        if self.wants_samples() {
            let payload = output.payload().unwrap_or_default();
            self.deliver(Kind::BehaviorGroup(BehaviorGroup::decode(payload)?))?;
        }
        Ok(())
    }

    /// Learns and writes what is open at the end of the range.
    ///
    /// # Errors
    /// As [`take`](Self::take); or nothing has come of it.
    pub fn finish(&mut self) -> Result<(), BackfillError> {
        if let Some(learning) = &mut self.outlets.learning {
            let learned = self.learned_before.samples;
            if self.delivered < learned {
                return Err(BackfillError::FewerSamples { learned, found: self.delivered });
            }
            learning.finish()?;
            self.open.clear();
            if learning.summary().is_empty() && learned == 0 {
                return Err(BackfillError::NothingLearned);
            }
        }
        self.outlets.pairs.as_mut().map_or(Ok(()), PairsTopic::finish)
    }

    fn wants_samples(&self) -> bool {
        self.outlets.samples.is_some() || self.outlets.learning.is_some()
    }

    fn deliver(&mut self, sample: Kind) -> Result<(), BackfillError> {
        let sample = Sample { sample: Some(sample) };
        if let Some(file) = &mut self.outlets.samples {
            file.writer.write(&sample)?;
        }
        self.delivered += 1;
        self.learn(sample)
    }

    fn learn(&mut self, sample: Sample) -> Result<(), BackfillError> {
        let (number, before) = (self.delivered, &self.learned_before);
        let is_new = number > before.samples;
        let Some(learning) = &mut self.outlets.learning else { return Ok(()) };
        if !is_new && before.open.binary_search(&number).is_err() {
            return Ok(());
        }
        let is_group = matches!(sample.sample, Some(Kind::BehaviorGroup(_)));
        if !is_new && !is_group {
            return Err(BackfillError::OtherSample { number });
        }
        if learning.take(sample)? {
            self.open.clear();
        } else if is_new && is_group {
            self.open.push(number);
        }
        Ok(())
    }
}

/// A sample file that is not there before it is whole.
pub struct SampleFile {
    path: PathBuf,
    temporary: NamedTempFile,
    writer: SampleWriter,
}

impl SampleFile {
    /// Begins a file that is to become `path`.
    ///
    /// # Errors
    /// Its name is not that of a sample file, or its folder takes no file.
    pub fn create(path: &Path) -> Result<Self, BackfillError> {
        samples::check_name(path)?;
        let suffix = format!(".{}", path.extension().unwrap_or_default().to_string_lossy());
        let temporary = temporary(path, &suffix).map_err(BackfillError::file(path))?;
        let writer = SampleWriter::create(temporary.path())?;
        Ok(Self { path: path.to_owned(), temporary, writer })
    }

    /// Puts the file in place, and `account` beside it.
    ///
    /// # Errors
    /// The disk takes no more.
    pub fn finish(self, account: &str) -> Result<(), BackfillError> {
        self.writer.finish()?;
        let beside = account_path(&self.path);
        let file = temporary(&beside, ".json").and_then(|mut file| {
            io::Write::write_all(&mut file, account.as_bytes())?;
            Ok(file)
        });
        let file = file.map_err(BackfillError::file(&beside))?;
        place(self.temporary, &self.path).map_err(BackfillError::file(&self.path))?;
        place(file, &beside).map_err(BackfillError::file(&beside))
    }
}

/// Where the account of a sample file lies.
fn account_path(samples: &Path) -> PathBuf {
    let mut name = samples.file_name().unwrap_or_default().to_owned();
    name.push(".backfill.json");
    samples.with_file_name(name)
}

fn temporary(beside: &Path, suffix: &str) -> io::Result<NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    let folder = beside.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // What the umask leaves of it, as for any other file.
    let permissions = std::fs::Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(".easq-").suffix(suffix).permissions(permissions).tempfile_in(folder)
}

fn place(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::offline;
    use crate::settings::{Dpo, Settings};
    use crate::train::Trainer;
    use crate::train::tests::{checkpoint, group, pair, settings};

    const GROUPS: u64 = 30;

    fn small() -> Settings {
        let mut settings = settings(Dpo::Live);
        settings.train.batch_groups = 4;
        settings.train.reservoir_pairs = 32;
        settings
    }

    fn sink(settings: &Settings, trainer: Trainer, learned_before: Learned) -> Sink {
        let begun = offline::Begun { trainer, event_time_watermark_ms: 0, inputs: Vec::new() };
        let learning = offline::Learning::new(settings, begun, Path::new("test"));
        let outlets = Outlets { learning: Some(learning), ..Outlets::default() };
        Sink::new(Range::new(settings, i64::MIN, i64::MAX, 0), outlets, learned_before)
    }

    fn trainer(sink: &Sink) -> &Trainer {
        sink.outlets.learning.as_ref().expect("it learns").trainer()
    }

    /// Three pairs before each group.
    fn give(sink: &mut Sink, samples: std::ops::Range<u64>) {
        for number in samples {
            let given = match number % 4 {
                3 => {
                    let group = group(number / 4).encode_to_vec();
                    sink.group(&Output::stored(OutputKind::BehaviorGroup, None, Some(group.into())))
                }
                pair_of_three => {
                    let pair = pair(number / 4 * 3 + pair_of_three).encode_to_vec();
                    sink.pair(0, &Output::stored(OutputKind::PreferencePair, None, Some(pair.into())))
                }
            };
            given.expect("taken");
        }
    }

    #[test]
    fn invariant_10_an_interruption_in_the_middle_of_a_batch_changes_nothing() {
        let settings = small();
        let new = || Trainer::new(&settings).expect("a CPU");
        let mut whole = sink(&settings, new(), Learned::default());
        give(&mut whole, 0..4 * GROUPS);
        whole.finish().expect("learned");
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // The third group of the third batch has come; then anywhere.
        let mut places = vec![44];
        places.extend((0..5).map(|_| random.random_range(0..=4 * GROUPS)));
        for place in places {
            let mut first = sink(&settings, new(), Learned::default());
            give(&mut first, 0..place);
            let learned = first.learned();
            assert_eq!(learned.open.len() as u64, place / 4 % 4, "{place}");
            let kept = checkpoint(trainer(&first));
            let restore = || Trainer::restore(&settings, kept.clone()).expect("it fits");
            // Once more, before it has come to where the first ended.
            let mut second = sink(&settings, restore(), learned.clone());
            give(&mut second, 0..place / 2);
            assert_eq!(second.learned(), learned);
            let mut third = sink(&settings, restore(), second.learned());
            give(&mut third, 0..4 * GROUPS);
            third.finish().expect("learned");
            assert!(checkpoint(trainer(&third)) == checkpoint(trainer(&whole)), "interrupted at {place}");
        }
    }

    #[test]
    fn a_range_that_gives_other_samples_than_before_is_not_gone_on_with() {
        let settings = small();
        let mut first = sink(&settings, Trainer::new(&settings).expect("a CPU"), Learned::default());
        give(&mut first, 0..44);
        let kept = checkpoint(trainer(&first));
        let restore = || Trainer::restore(&settings, kept.clone()).expect("it fits");
        let mut fewer = sink(&settings, restore(), first.learned());
        give(&mut fewer, 0..43);
        assert!(matches!(fewer.finish(), Err(BackfillError::FewerSamples { learned: 44, found: 43 })));
        let mut shifted = sink(&settings, restore(), first.learned());
        give(&mut shifted, 1..36);
        let pair = pair(0).encode_to_vec();
        let pair = Output::stored(OutputKind::PreferencePair, None, Some(pair.into()));
        assert!(matches!(shifted.pair(0, &pair), Err(BackfillError::OtherSample { number: 36 })));
    }
}
