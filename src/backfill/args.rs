//! `easq backfill`: its arguments.

use std::path::PathBuf;
use std::str::FromStr;

use jiff::{Span, SpanRelativeTo};

use super::plan::Origin;
use super::time::Moment;
use crate::offline::Precision;

/// Replay a range of both input topics: join, pair, and train, publish or write samples, apart from
/// everything that runs.
///
/// It gives the labels whose answers, and the behavior groups whose last views, lie in the range of event
/// time. All partitions are merged by event time in a defined order, so the same range gives the same
/// bytes. It reads without a group, commits no offset of what it reads, and writes to Kafka only what
/// --publish and --pairs-topic name: topics that no service reads or writes.
#[derive(Debug, Clone, clap::Args)]
#[command(group(clap::ArgGroup::new("gives").required(true).multiple(true)
    .args(["output", "publish", "samples", "pairs_topic", "join_only"])))]
#[command(group(clap::ArgGroup::new("learns").multiple(true).args(["output", "publish"])))]
pub struct Args {
    /// Beginning of the range: RFC 3339 with a zone, as in 2026-01-31T06:00:00Z, or relative to now, as in
    /// -6h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, required_unless_present = "resume")]
    pub from: Option<Moment>,
    /// End of the range, which it does not include; `now` is allowed.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, required_unless_present = "resume")]
    pub to: Option<Moment>,
    /// What is read: both inputs, which are joined again; or the labels, pairs and groups that the joiner
    /// has written, where the inputs are gone.
    #[arg(long, value_enum, value_name = "TOPICS", default_value_t = Origin::Inputs)]
    pub source: Origin,
    /// Folder for the model that is trained on the range, as of `easq train`; must not be there, or be
    /// empty. It appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Write the preference pairs and behavior groups to FILE (.pb or .jsonl), in the order in which
    /// --output learns them. It appears whole or not at all.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Publish what is trained on the range as the first version, a checkpoint and production, of a model
    /// of its own: <model.name>.replay-RUN, with topics of its own, which are created where they are
    /// missing and must hold no version [default RUN: the time at which this began, as in
    /// 20260131T060000Z].
    #[arg(long, value_name = "RUN")]
    pub publish: Option<Option<String>>,
    /// Write the preference pairs to this topic too, as the joiner writes them: same partitions, keys and
    /// bytes. It is created where it is missing, must be empty, and no topic of the service. They come in
    /// transactions of up to a thousand: what is interrupted leaves the first ones of each partition. With
    /// --output, --resume goes on behind them; without, delete the topic or name another one, and begin anew.
    #[arg(long, value_name = "TOPIC")]
    pub pairs_topic: Option<String>,
    /// Only join, and say what comes of it.
    #[arg(long, conflicts_with_all = ["output", "publish", "samples", "pairs_topic"])]
    pub join_only: bool,
    /// Train on from a version in the registry (its number), or from a folder or file as --init of `easq
    /// train` takes it [default: begin anew from model.seed].
    #[arg(long, value_name = "VERSION|DIR", requires = "learns")]
    pub base: Option<Base>,
    /// Precision of the parameters [default: that of --base, else float32].
    #[arg(long, value_enum, value_name = "TYPE", requires = "learns")]
    pub dtype: Option<Precision>,
    /// Labels of so much time before --from can be partners in pairs; not with --source samples, whose
    /// pairs are made [default: 1h].
    #[arg(long, value_name = "TIME", value_parser = parse_length_ms)]
    pub pair_run_in: Option<i64>,
    /// Go on where a replay into --output was interrupted: the same range and offsets, to the same bytes.
    /// Name --samples, --publish and --pairs-topic again if they are wanted; pairs that the topic has
    /// already are not written again.
    #[arg(long, requires = "output")]
    #[arg(conflicts_with_all = ["from", "to", "source", "base", "dtype", "pair_run_in", "accept_gap"])]
    pub resume: bool,
    /// Go on although records that the range needs are gone from the topics.
    #[arg(long)]
    pub accept_gap: bool,
}

/// Of [`Args::pair_run_in`], where it is not given.
pub const PAIR_RUN_IN_MS: i64 = 3_600_000;

/// What training goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    Version(u64),
    Path(PathBuf),
}

impl FromStr for Base {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Path(text.into()), Self::Version))
    }
}

/// Milliseconds of a length of time, as in `90m` or `2d`.
fn parse_length_ms(text: &str) -> Result<i64, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|error| format!("{error}"))?;
    match i64::try_from(length.as_millis()) {
        Ok(length_ms) if length_ms >= 0 => Ok(length_ms),
        _ => Err("must not be negative".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_a_unit_and_is_not_negative() {
        assert_eq!(parse_length_ms("1h30m"), Ok(90 * 60_000));
        assert_eq!(parse_length_ms("2d"), Ok(48 * 3_600_000));
        assert_eq!(parse_length_ms("0s"), Ok(0));
        for wrong in ["-1h", "7", "1mo"] {
            assert!(parse_length_ms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_base_is_a_version_or_a_path() {
        assert_eq!("12".parse(), Ok(Base::Version(12)));
        assert_eq!("./12".parse(), Ok(Base::Path("./12".into())));
    }
}
