//! `easq simulate`: its arguments, and the plan they make.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::config::WorldConfig;
use super::faults::FaultRates;
use super::run::SimulateError;
use crate::settings::{Preset, Settings, Simulate};

/// Event time per view when neither `--rate` nor `--span` says: 192,000 views in 12 hours.
const MS_PER_VIEW: u64 = 225;
const DEFAULT_VIEWS: u64 = 100_000;

/// Write a synthetic world's views and answers to Kafka, or its joined samples to a file.
///
/// The same seed and options give the same records. Faults are drawn apart: switching one on
/// changes nothing else.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Views to write in all [default: rate times duration, else 100000].
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub views: Option<u64>,
    /// How long to write, for example 60s or 5m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "rate")]
    pub duration: Option<Duration>,
    /// Views per second of the clock [default: as fast as they are taken].
    #[arg(long, value_name = "VIEWS/S")]
    pub rate: Option<f64>,
    /// Event time that the stream takes: longer than its writing, and event time runs faster than
    /// the clock [default: as long as the writing with --rate, else 225 ms per view].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub span: Option<Duration>,
    /// Event time of the first views, RFC 3339 [default: now when event time runs with the clock,
    /// else so that the stream ends by now].
    #[arg(long, value_name = "TIME")]
    pub start: Option<Timestamp>,
    /// Timestamp of the records: when it happened, or when it was written.
    #[arg(long, value_enum, default_value_t, value_name = "TIME")]
    pub record_time: RecordTime,
    /// [default: simulate.seed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// [default: simulate.users]
    #[arg(long, value_name = "N")]
    pub users: Option<usize>,
    /// [default: simulate.videos]
    #[arg(long, value_name = "N")]
    pub videos: Option<usize>,
    /// dense, sparse, mild or drift [default: simulate.preset].
    #[arg(long, value_enum, value_name = "PRESET")]
    pub preset: Option<Preset>,
    /// Share of the triggered views that are shown the questionnaire [default: the preset's].
    #[arg(long, value_name = "SHARE")]
    pub exposure: Option<f64>,
    /// Share of the shown questionnaires that the average user answers [default: the preset's].
    #[arg(long, value_name = "SHARE")]
    pub answer_rate: Option<f64>,
    /// Leave open in the log which views were shown the questionnaire: the trigger decides.
    #[arg(long)]
    pub hide_exposure: bool,
    #[command(flatten)]
    pub faults: FaultRates,
    /// Write what only the world knows to FILE, as JSON lines: which views satisfied, which
    /// records are faults.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// Write the joined samples, preference pairs and behavior groups, to FILE (.pb or .jsonl)
    /// instead of writing records to Kafka.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "record_time"])]
    pub samples: Option<PathBuf>,
    /// Write held-out lists to FILE (.pb or .jsonl) as well, for `easq evaluate`: views at the end of
    /// the stream of which the first satisfies and the others do not. Nothing of them is in the stream.
    #[arg(long, value_name = "FILE")]
    pub held_out: Option<PathBuf>,
    /// Held-out lists to write.
    #[arg(long, value_name = "N", default_value_t = 1500, requires = "held_out")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub lists: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RecordTime {
    #[default]
    Event,
    Now,
}

/// A time span of the command line, as in `60s`, `5m` or `1h30m`.
///
/// # Errors
/// When it is not one, or not longer than 0.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be longer than 0".to_owned()),
    }
}

/// What is written, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub world: WorldConfig,
    /// How long the writing takes; `None`: as long as it takes.
    pub duration: Option<Duration>,
}

impl Args {
    /// Completes the arguments from the settings.
    ///
    /// # Errors
    /// When a rate or a span is out of range.
    pub fn plan(&self, settings: &Settings, now: Timestamp) -> Result<Plan, SimulateError> {
        let base = &settings.simulate;
        let simulate = Simulate {
            seed: self.seed.unwrap_or(base.seed),
            users: self.users.unwrap_or(base.users),
            videos: self.videos.unwrap_or(base.videos),
            preset: self.preset.unwrap_or(base.preset),
            ..base.clone()
        };
        let defaults = WorldConfig::new(&simulate, settings.features.schema_version);
        let views = self.views_in_all()?;
        let duration = self.rate.map(|rate| seconds("--rate", views as f64 / rate)).transpose()?;
        let span_ms = match self.span.or(duration) {
            Some(span) => i64::try_from(span.as_millis()).unwrap_or(i64::MAX),
            None => i64::try_from(views.saturating_mul(MS_PER_VIEW)).unwrap_or(i64::MAX),
        }
        .max(1000);
        let live = self.span.is_none() && duration.is_some();
        let start_ms = match self.start {
            Some(start) => start.as_millisecond(),
            None if live => now.as_millisecond(),
            // The last answers come some 20 minutes after the last views.
            None => now.as_millisecond().saturating_sub(span_ms.saturating_add(30 * 60_000)),
        };
        self.faults.check()?;
        let world = WorldConfig {
            exposure: self.exposure.unwrap_or(defaults.exposure),
            answer_rate: self.answer_rate.unwrap_or(defaults.answer_rate),
            log_exposure: !self.hide_exposure,
            views,
            start_ms,
            span_ms,
            ..defaults
        };
        Ok(Plan { world, duration })
    }

    fn views_in_all(&self) -> Result<u64, SimulateError> {
        if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Err(SimulateError::argument("--rate", rate, "more than 0"));
        }
        Ok(match (self.views, self.rate.zip(self.duration)) {
            (Some(views), _) => views,
            (None, Some((rate, duration))) => (rate * duration.as_secs_f64()).round() as u64,
            (None, None) => DEFAULT_VIEWS,
        })
    }
}

fn seconds(argument: &'static str, seconds: f64) -> Result<Duration, SimulateError> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| SimulateError::argument(argument, seconds, "a rate that ends within a lifetime"))
}
