//! Why a range was not replayed.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::time::{Length, Shown};
use crate::contract::samples::SampleError;
use crate::join::JoinFault;
use crate::kafka::reader::ReadError;
use crate::kafka::topics::TopicsError;
use crate::kafka::transaction::TransactionError;
use crate::offline::TrainFileError;
use crate::publish::PublishError;

const INTERRUPTED: &str = "interrupted before the end of the range";
const NOTHING_LEARNED: &str =
    "the range holds no behavior group and no preference pair that could be learned";

#[derive(Debug, Error)]
pub enum BackfillError {
    #[error("--from {} does not lie before --to {}", Shown(*from_ms), Shown(*to_ms))]
    EmptyRange { from_ms: i64, to_ms: i64 },
    #[error(
        "'{behavior}' has {behavior_partitions} partitions and '{responses}' {responses_partitions}: what belongs \
         together cannot lie in partitions of one number"
    )]
    UnlikePartitions {
        behavior: String,
        behavior_partitions: i32,
        responses: String,
        responses_partitions: i32,
    },
    #[error("{0}")]
    NothingThere(NothingThere),
    #[error("{0}")]
    Missing(Box<Missing>),
    #[error(
        "a hole: the log of '{topic}' partition {partition} has lost the {records} offsets from {from} up to {to} \
         while it was read; begin again with a later --from"
    )]
    Hole { topic: String, partition: i32, from: i64, to: i64, records: i64 },
    #[error("{NOTHING_LEARNED}: nothing was written")]
    NothingLearned,
    #[error(
        "--base {version}: the registry of model '{model}' holds no such version; `easq model list` shows them"
    )]
    NoVersion { model: String, version: u64 },
    #[error("--pair-run-in: pairs are made already where --source samples reads them; leave it out")]
    RunInOfSamples,
    #[error("--publish: the model would be called '{name}': {problem}")]
    ModelName { name: String, problem: String },
    #[error("--publish: {0}; name another RUN")]
    NotPublishable(PublishError),
    #[error("--pairs-topic '{topic}': {problem}")]
    PairsName { topic: String, problem: String },
    #[error(
        "--pairs-topic '{topic}': it has {found} partitions, and pairs are written to {partitions}; name a topic that is \
         not there, and it is created with that many"
    )]
    PairsPartitions { topic: String, found: i32, partitions: i32 },
    #[error(
        "--pairs-topic '{topic}': partition {partition} holds records already, and pairs would be there twice; name \
         another topic, or delete this one; what was interrupted with --output goes on with --resume"
    )]
    PairsThere { topic: String, partition: i32 },
    #[error(
        "--pairs-topic '{topic}': the last record of partition {partition} is no pair of this range: something else \
         writes to it, and nothing more was written there"
    )]
    PairsOfAnother { topic: String, partition: i32 },
    #[error(
        "--pairs-topic '{topic}': another replay writes to it now, or an outage outlasted \
         joiner.transaction_timeout_ms"
    )]
    PairsTaken { topic: String },
    #[error(
        "{}; '{topic}' holds the first {pairs} pairs, and nothing goes on from there: delete it, or name another \
         topic, and begin anew",
        reason.but_for_pairs()
    )]
    PairsLeft { reason: Box<BackfillError>, topic: String, pairs: u64 },
    #[error("the range was replayed, and not published: {0}")]
    NotPublished(Box<BackfillError>),
    #[error("{reason}; what was learned lies in '{}', and --resume goes on from it", path.display())]
    Kept { reason: Box<BackfillError>, path: PathBuf },
    #[error("{reason}; and what was learned could not be kept: {why}")]
    NotKept { reason: Box<BackfillError>, why: Box<BackfillError> },
    #[error("{INTERRUPTED}: nothing was written")]
    Interrupted,
    #[error(
        "{INTERRUPTED}: what was learned lies in '{}', and --resume goes on from it",
        path.display()
    )]
    Resumable { path: PathBuf },
    #[error(
        "--resume: '{topic}' was created anew since '{}' was begun: what it holds now is something else; begin anew",
        path.display()
    )]
    OtherTopic { path: PathBuf, topic: String },
    #[error(
        "--resume: {learned} samples were learned before, and the range gives {found} now: records are gone since; \
         begin anew"
    )]
    FewerSamples { learned: u64, found: u64 },
    #[error(
        "--resume: sample {number} was a group before, and is a pair now: the topics are others; begin anew"
    )]
    OtherSample { number: u64 },
    #[error("--resume: '{}' is not there: nothing was interrupted that could go on", path.display())]
    NothingToResume { path: PathBuf },
    #[error(
        "--resume: '{}' was begun by easq {program} or with other settings of [topics], [input], [features], \
         [reward], [join], [model] or [train]; set them back, or begin anew", path.display()
    )]
    OtherSettings { path: PathBuf, program: String },
    #[error("the thread that reads cannot start: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Read(ReadError),
    #[error(transparent)]
    Join(#[from] JoinFault),
    #[error("the join emitted what the contract does not know: {0}")]
    Output(#[from] prost::DecodeError),
    #[error(transparent)]
    Samples(#[from] SampleError),
    #[error(transparent)]
    Train(#[from] TrainFileError),
    #[error(transparent)]
    Base(#[from] PublishError),
    #[error(transparent)]
    Topics(#[from] TopicsError),
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

/// No record of the topics is as new as the range.
#[derive(Debug)]
pub struct NothingThere {
    pub topics: Vec<String>,
    pub read_from_ms: i64,
    /// The newest record of all; none where they are empty.
    pub newest_ms: Option<i64>,
}

impl std::fmt::Display for NothingThere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topics, read_from_ms, newest_ms } = self;
        let topics: Vec<String> = topics.iter().map(|topic| format!("'{topic}'")).collect();
        let topics = topics.join(" and ");
        match newest_ms {
            None => write!(f, "{topics} hold no record"),
            Some(newest_ms) => write!(
                f,
                "{topics} hold no record from {} on, where this range begins to be read; the \
                 newest one is of {}",
                Shown(*read_from_ms),
                Shown(*newest_ms),
            ),
        }
    }
}

/// Records that the range may need are gone.
#[derive(Debug)]
pub struct Missing {
    pub topic: String,
    pub partition: i32,
    /// The first offset that is left there.
    pub low: i64,
    /// Other partitions of which the same is to be said.
    pub others: usize,
    pub read_from_ms: i64,
    /// From when on all of these hold everything; none where one holds nothing.
    pub whole_from_ms: Option<i64>,
    /// The first --from for which that is enough.
    pub earliest_from_ms: Option<i64>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}' partition {}", self.topic, self.partition)?;
        match self.others {
            0 => {}
            1 => f.write_str(" and another one")?,
            others => write!(f, " and {others} others")?,
        }
        write!(f, " lost what lay before offset {}; this range needs it from ", self.low)?;
        write!(f, "{} on", Shown(self.read_from_ms))?;
        if let (Some(whole_ms), Some(earliest_ms)) = (self.whole_from_ms, self.earliest_from_ms) {
            let hole = Length(whole_ms.saturating_sub(self.read_from_ms));
            write!(f, ", and all that is left begins at {}: a hole of up to {hole}", Shown(whole_ms))?;
            write!(f, "; the earliest --from that misses nothing is {}", Shown(earliest_ms))?;
        } else {
            f.write_str(
                ", and one of these holds nothing any more: how old the lost records were cannot be known",
            )?;
        }
        f.write_str("; --accept-gap goes on without it")
    }
}

impl BackfillError {
    /// For `map_err` of what is done with a file or folder.
    pub(super) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// What happened, without what that left: pairs were written.
    fn but_for_pairs(&self) -> String {
        match self {
            Self::Interrupted => INTERRUPTED.to_owned(),
            Self::NothingLearned => NOTHING_LEARNED.to_owned(),
            error => error.to_string(),
        }
    }

    /// Whether it was a person who ended it (exit code 4).
    pub fn is_interrupted(&self) -> bool {
        match self {
            Self::Interrupted | Self::Resumable { .. } | Self::Read(ReadError::Stopped { .. }) => true,
            Self::Train(error) => error.is_interrupted(),
            Self::Base(error) | Self::NotPublishable(error) => error.is_stopped(),
            Self::Transaction(error) => error.is_stopped(),
            Self::PairsLeft { reason, .. } | Self::NotKept { reason, .. } | Self::NotPublished(reason) => {
                reason.is_interrupted()
            }
            _ => false,
        }
    }

    /// Whether a replay that goes on could end otherwise: nothing is wrong with what was learned.
    pub(super) fn leaves_what_was_learned(&self) -> bool {
        match self {
            Self::Train(error) => error.is_interrupted() || matches!(error, TrainFileError::File { .. }),
            Self::NotPublished(reason) => reason.leaves_what_was_learned(),
            Self::NothingLearned | Self::FewerSamples { .. } | Self::OtherSample { .. } => false,
            error => !error.is_usage(),
        }
    }

    /// Whether the arguments are at fault (exit code 2), not the run.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::EmptyRange { .. }
            | Self::RunInOfSamples
            | Self::ModelName { .. }
            | Self::PairsName { .. }
            | Self::NoVersion { .. }
            | Self::NothingToResume { .. }
            | Self::OtherTopic { .. }
            | Self::OtherSettings { .. } => true,
            Self::Samples(error) => matches!(error, SampleError::Extension { .. }),
            Self::Train(error) => error.is_usage(),
            _ => false,
        }
    }
}

impl From<ReadError> for BackfillError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::OffsetGone { topic, partition, offset, low, .. } if low > offset => Self::Hole {
                topic: topic.to_string(),
                partition,
                from: offset,
                to: low,
                records: low - offset,
            },
            error => Self::Read(error),
        }
    }
}
