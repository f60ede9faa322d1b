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
    /// Samples that were learned before this replay began.
    learned_before: u64,
    /// No batch is open.
    is_at_rest: bool,
}

impl Sink {
    /// `learned_before`: samples at the beginning that `learning` has taken already.
    pub fn new(range: Range, outlets: Outlets, learned_before: u64) -> Self {
        Self {
            range,
            given: Given::default(),
            is_label_given: false,
            outlets,
            delivered: 0,
            learned_before,
            is_at_rest: true,
        }
    }

    /// Whether training could go on from the samples that have been delivered: no batch is open.
    pub fn is_at_rest(&self) -> bool {
        self.is_at_rest
    }

    /// Samples that the training state has taken.
    pub fn learned(&self) -> u64 {
        self.delivered.max(self.learned_before)
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
        if let Some(pairs) = &mut self.outlets.pairs {
            pairs.take(partition, output)?;
        }
        if self.wants_samples() {
            let payload = output.payload().unwrap_or_default();
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
            learning.finish()?;
            self.is_at_rest = true;
            if learning.summary().is_empty() && self.learned_before == 0 {
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
        if let Some(learning) =
            self.outlets.learning.as_mut().filter(|_| self.delivered > self.learned_before)
        {
            let opens_batch = matches!(sample.sample, Some(Kind::BehaviorGroup(_)));
            let has_stepped = learning.take(sample)?;
            self.is_at_rest = has_stepped || (self.is_at_rest && !opens_batch);
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
        let written = temporary(&beside, ".json").and_then(|mut file| {
            io::Write::write_all(&mut file, account.as_bytes())?;
            place(file, &beside)
        });
        written.map_err(BackfillError::file(&beside))?;
        place(self.temporary, &self.path).map_err(BackfillError::file(&self.path))
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
