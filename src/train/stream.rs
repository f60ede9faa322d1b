//! Whether the stream can be trusted.
//!
//! A poisoned model likes poisoned data, so the model that learns cannot be its own judge. Production
//! is: it stands still while the stream is suspect. Its win rate over the last answers, and over the
//! last groups, is compared with its long-run mean; and each dense feature with what it used to be.

use std::collections::VecDeque;

use crate::contract::v1::Features;
use crate::model::{Dtype, HostTensor, Scaling, TensorMap};
use crate::settings;

use super::progressive::Outcome;

/// Recent values stand beside a long run that reaches back this many times as far.
const LONG_RUN: f64 = 20.0;
/// Groups over which a feature is averaged: its recent value, and its long run.
const FEATURE_GROUPS: (f64, f64) = (64.0, 20_000.0);
/// A feature is not judged before so many groups.
const FEATURE_LEAST: f64 = 1_000.0;
/// The part of the band in which a feature that had left it is back.
const FEATURE_BACK: f64 = 0.8;
/// Standard errors by which a win rate has to lie too low.
const STANDARD_ERRORS: f64 = 2.0;
const PREFIX: &str = "training.stream.";

/// Why nothing of the stream is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspicion {
    /// What each signal says, in words.
    pub reasons: Vec<(Signal, String)>,
    /// Event time of the oldest sample that spoke for it when it began: what was learned from there on
    /// may be poisoned.
    pub since_ms: i64,
}

/// What the stream is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Production's win rate on preference pairs.
    Answers,
    /// Production's win rate on behavior pairs.
    Behavior,
    /// Mean and spread of a dense feature.
    Features,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 3] = [Signal::Answers, Signal::Behavior, Signal::Features];

    /// The value of metrics labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Answers => "answers",
            Signal::Behavior => "behavior",
            Signal::Features => "features",
        }
    }
}

/// The last win rates of production, one per answer or group, beside those before them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Level {
    /// Event time and win rate.
    recent: VecDeque<(i64, f64)>,
    long_run: f64,
    /// Values that it rests on, at most [`LONG_RUN`] windows.
    count: f64,
    is_low: bool,
    /// Event time of the oldest recent value when it became low.
    low_since_ms: i64,
}

impl Level {
    fn push(&mut self, time_ms: i64, value: f64, window: usize, is_trusted: bool) {
        self.recent.push_back((time_ms, value));
        while self.recent.len() > window {
            let Some((_, settled)) = self.recent.pop_front() else { break };
            // A long run that poison could move would get used to it.
            if is_trusted {
                self.count = (self.count + 1.0).min(LONG_RUN * window as f64);
                self.long_run += (settled - self.long_run) / self.count;
            }
        }
    }

    fn mean(&self) -> f64 {
        self.recent.iter().map(|(_, value)| value).sum::<f64>() / self.recent.len().max(1) as f64
    }

    fn standard_error(&self) -> f64 {
        let (n, mean) = (self.recent.len() as f64, self.mean());
        let squares: f64 = self.recent.iter().map(|(_, value)| (value - mean).powi(2)).sum();
        if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { f64::INFINITY }
    }

    /// Low is what even the upper bound puts below the limit; it lasts until the mean is back.
    fn judge(&mut self, window: usize, drop: f64) {
        if self.recent.len() < window || self.count < window as f64 {
            self.is_low = false;
            return;
        }
        let margin = if self.is_low { 0.0 } else { STANDARD_ERRORS * self.standard_error() };
        let is_low = self.mean() + margin < self.long_run - drop;
        let was_low = std::mem::replace(&mut self.is_low, is_low);
        if self.is_low && !was_low {
            self.low_since_ms = self.recent.front().map_or(0, |(time_ms, _)| *time_ms);
        }
    }

    fn accept(&mut self, window: usize) {
        if self.recent.len() == window {
            (self.long_run, self.count) = (self.mean(), window as f64);
        }
        self.is_low = false;
    }

    fn save(&self, name: &str) -> HostTensor {
        let is_low = f64::from(u8::from(self.is_low));
        let head = [self.long_run, self.count, is_low, self.low_since_ms as f64];
        // Milliseconds since 1970 are far below 2^53.
        let recent = self.recent.iter().flat_map(|&(time_ms, value)| [time_ms as f64, value]);
        let values: Vec<f64> = head.into_iter().chain(recent).collect();
        HostTensor::from_f64(format!("{PREFIX}{name}"), vec![values.len()], &values)
    }

    fn load(name: &str, tensors: &mut TensorMap) -> Option<Level> {
        let values = tensors.take(&format!("{PREFIX}{name}"), &[Dtype::F64], &[None])?.to_f64()?;
        let [long_run, count, is_low, low_since_ms, recent @ ..] = values.as_slice() else {
            tensors.fault(format!("{PREFIX}{name} is too short"));
            return None;
        };
        let recent = recent.chunks_exact(2).map(|pair| (pair[0] as i64, pair[1])).collect();
        Some(Level {
            recent,
            long_run: *long_run,
            count: *count,
            is_low: *is_low != 0.0,
            low_since_ms: *low_since_ms as i64,
        })
    }
}

/// The pairs of one answer are one value: they are not independent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct OpenAnswer {
    key: u64,
    time_ms: i64,
    half_wins: i64,
    pairs: i64,
}

/// Mean and mean square of a feature on the model's scale, recently and in the long run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Feature {
    recent: [f64; 2],
    long_run: [f64; 2],
}

impl Feature {
    fn push(&mut self, group: [f64; 2], count: f64, is_trusted: bool) {
        let step = |rate: f64, mean: &mut [f64; 2]| {
            mean.iter_mut().zip(group).for_each(|(mean, value)| *mean += rate * (value - *mean));
        };
        let (recent, long_run) = FEATURE_GROUPS;
        step(1.0 / count.min(recent), &mut self.recent);
        if is_trusted {
            step(1.0 / count.min(long_run), &mut self.long_run);
        }
    }

    /// How far mean and spread are from what they used to be, in standard deviations; the greater.
    fn shift(&self) -> f64 {
        let mean = (self.recent[0] - self.long_run[0]).abs();
        mean.max((self.recent[1].sqrt() - self.long_run[1].sqrt()).abs())
    }
}

/// Watches the stream, sample by sample, before it is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamWatch {
    window: usize,
    /// Share of pairs.
    drop: f64,
    band: f64,
    answers: Level,
    behavior: Level,
    open: OpenAnswer,
    features: Vec<Feature>,
    names: Vec<String>,
    /// Groups seen.
    groups: f64,
    is_shifted: bool,
    /// Event time of the group with which they were.
    shifted_since_ms: i64,
    accepted_at_ms: i64,
}

impl StreamWatch {
    pub(super) fn new(gate: &settings::Gate, features: &[String]) -> StreamWatch {
        StreamWatch {
            window: gate.stream_window,
            drop: gate.stream_drop_points / 100.0,
            band: gate.feature_band,
            answers: Level::default(),
            behavior: Level::default(),
            open: OpenAnswer::default(),
            features: vec![Feature::default(); features.len()],
            names: features.to_vec(),
            groups: 0.0,
            is_shifted: false,
            shifted_since_ms: 0,
            accepted_at_ms: 0,
        }
    }

    /// A preference pair of the answer `key`, as production ranks it.
    pub(super) fn observe_pair(&mut self, key: u64, time_ms: i64, production: Outcome) {
        if self.open.key != key && self.open.pairs > 0 {
            let OpenAnswer { time_ms, half_wins, pairs, .. } = self.open;
            let is_trusted = !self.is_suspect();
            self.answers.push(time_ms, half_wins as f64 / (2 * pairs) as f64, self.window, is_trusted);
            self.answers.judge(self.window, self.drop);
            self.open = OpenAnswer::default();
        }
        self.open.key = key;
        self.open.time_ms = time_ms;
        self.open.half_wins += i64::from(production.half_wins());
        self.open.pairs += 1;
    }

    /// Production's win rate on the behavior pairs of one group.
    pub(super) fn observe_behavior(&mut self, time_ms: i64, win_rate: f64) {
        let is_trusted = !self.is_suspect();
        self.behavior.push(time_ms, win_rate, self.window, is_trusted);
        self.behavior.judge(self.window, self.drop);
    }

    /// The dense features of one group's views.
    pub(super) fn observe_features(&mut self, time_ms: i64, scaling: &Scaling, views: &[&Features]) {
        let is_trusted = !self.is_suspect();
        self.groups += 1.0;
        let mut sums = vec![[0.0; 2]; self.features.len()];
        for view in views {
            for ([mean, square], value) in sums.iter_mut().zip(scaling.apply(&view.dense)) {
                *mean += value / views.len() as f64;
                *square += value * value / views.len() as f64;
            }
        }
        for (feature, group) in self.features.iter_mut().zip(sums) {
            feature.push(group, self.groups, is_trusted);
        }
        let was_shifted = self.is_shifted;
        // It lasts until the feature is well within its band, so that it does not come and go.
        let band = if self.is_shifted { FEATURE_BACK * self.band } else { self.band };
        self.is_shifted = self.groups >= FEATURE_LEAST && self.most_shifted().1 > band;
        if self.is_shifted && !was_shifted {
            self.shifted_since_ms = time_ms;
        }
    }

    fn most_shifted(&self) -> (usize, f64) {
        let shifts = self.features.iter().map(Feature::shift).enumerate();
        shifts.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
    }

    /// Whether nothing is to be learned now.
    pub fn is_suspect(&self) -> bool {
        self.answers.is_low || self.behavior.is_low || self.is_shifted
    }

    /// Why nothing is; None while the stream is trusted.
    pub fn suspicion(&self) -> Option<Suspicion> {
        let mut reasons = Vec::new();
        let mut since_ms = i64::MAX;
        for (signal, level, unit) in
            [(Signal::Answers, &self.answers, "answers"), (Signal::Behavior, &self.behavior, "groups")]
        {
            if level.is_low {
                let reason = format!(
                    "production ranks {:.1} % of the pairs of the last {} {unit} right, in the long run {:.1} % \
                     ({:.1} points less are allowed)",
                    100.0 * level.mean(),
                    level.recent.len(),
                    100.0 * level.long_run,
                    100.0 * self.drop,
                );
                reasons.push((signal, reason));
                since_ms = since_ms.min(level.low_since_ms);
            }
        }
        if self.is_shifted {
            let (index, shift) = self.most_shifted();
            let name = self.names.get(index).map_or("", String::as_str);
            let band = self.band;
            let reason =
                format!("feature '{name}' has moved by {shift:.1} standard deviations ({band} are allowed)");
            reasons.push((Signal::Features, reason));
            since_ms = since_ms.min(self.shifted_since_ms);
        }
        (!reasons.is_empty()).then_some(Suspicion { reasons, since_ms })
    }

    /// Production's recent win rate and its long-run mean, where there is enough to say.
    pub fn win_rates(&self, signal: Signal) -> Option<(f64, f64)> {
        let level = match signal {
            Signal::Answers => &self.answers,
            Signal::Behavior => &self.behavior,
            Signal::Features => return None,
        };
        (!level.recent.is_empty() && level.count > 0.0).then(|| (level.mean(), level.long_run))
    }

    /// How far the feature that has moved most has, in standard deviations.
    pub fn feature_shift(&self) -> f64 {
        self.most_shifted().1
    }

    /// A person has said that what the stream is like now is how it is from now on. False when that
    /// was heard already.
    pub fn accept(&mut self, written_at_ms: i64) -> bool {
        // Not by which is later: people write it by clocks of their own.
        if written_at_ms == self.accepted_at_ms {
            return false;
        }
        self.accepted_at_ms = written_at_ms;
        self.answers.accept(self.window);
        self.behavior.accept(self.window);
        self.features.iter_mut().for_each(|feature| feature.long_run = feature.recent);
        self.is_shifted = false;
        true
    }

    pub(super) fn save(&self) -> Vec<HostTensor> {
        let OpenAnswer { key, time_ms, half_wins, pairs } = self.open;
        let integers = [
            key.cast_signed(),
            time_ms,
            half_wins,
            pairs,
            self.groups as i64,
            i64::from(self.is_shifted),
            self.shifted_since_ms,
            self.accepted_at_ms,
        ];
        let features: Vec<f64> = self
            .features
            .iter()
            .flat_map(|feature| feature.recent.into_iter().chain(feature.long_run))
            .collect();
        vec![
            self.answers.save("answers"),
            self.behavior.save("behavior"),
            HostTensor::from_f64(format!("{PREFIX}features"), vec![features.len()], &features),
            HostTensor::from_i64(format!("{PREFIX}counts"), &integers),
        ]
    }

    /// What was saved in place of this. None when the tensors do not fit, which they remember.
    pub(super) fn load(mut self, tensors: &mut TensorMap) -> Option<StreamWatch> {
        let counts = format!("{PREFIX}counts");
        // Checkpoints from before the stream was watched do not have it.
        if !tensors.has(&counts) {
            return Some(self);
        }
        let length = 4 * self.features.len();
        let features = tensors
            .take(&format!("{PREFIX}features"), &[Dtype::F64], &[Some(length)])
            .and_then(|t| t.to_f64());
        let counts = tensors.take_i64(&counts, Some(8));
        let answers = Level::load("answers", tensors);
        let behavior = Level::load("behavior", tensors);
        for (feature, values) in self.features.iter_mut().zip(features?.chunks_exact(4)) {
            *feature = Feature { recent: [values[0], values[1]], long_run: [values[2], values[3]] };
        }
        let counts = counts?;
        self.open = OpenAnswer {
            key: counts[0].cast_unsigned(),
            time_ms: counts[1],
            half_wins: counts[2],
            pairs: counts[3],
        };
        self.groups = counts[4] as f64;
        self.is_shifted = counts[5] != 0;
        (self.shifted_since_ms, self.accepted_at_ms) = (counts[6], counts[7]);
        (self.answers, self.behavior) = (answers?, behavior?);
        Some(self)
    }
}

#[cfg(test)]
mod tests;
