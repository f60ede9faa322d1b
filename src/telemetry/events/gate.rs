use metrics::{counter, gauge};
use tracing::{info, warn};

use crate::telemetry::names;
use crate::telemetry::state::{Decision, state};

/// What the gate will see of the version that is cut.
pub struct GateEvidence {
    pub stream: [StreamEvidence; 3],
    /// Of the feature that has moved most, in standard deviations.
    pub feature_shift: f64,
    pub comparison: Option<ComparedWithAnchor>,
}

/// One signal of the stream.
pub struct StreamEvidence {
    pub signal: &'static str,
    /// Whether it makes the stream suspect.
    pub is_suspect: bool,
    /// Production's win rate recently and in the long run, where the signal is one.
    pub win_rates: Option<(f64, f64)>,
}

/// The model beside the gate's anchor: win rates minus its, mean and upper bound.
pub struct ComparedWithAnchor {
    pub behavior: Option<(f64, f64)>,
    pub preference: Option<(f64, f64)>,
    pub rank_correlation: Option<f64>,
}

impl GateEvidence {
    pub fn emit(self) {
        for StreamEvidence { signal, is_suspect, win_rates } in self.stream {
            gauge!(names::GATE_STREAM_SUSPECT, "signal" => signal).set(f64::from(u8::from(is_suspect)));
            let Some((recent, long_run)) = win_rates else { continue };
            for (span, rate) in [("recent", recent), ("long_run", long_run)] {
                gauge!(names::GATE_STREAM_WIN_RATE, "signal" => signal, "span" => span).set(rate);
            }
        }
        gauge!(names::GATE_FEATURE_SHIFT).set(self.feature_shift);
        let Some(comparison) = self.comparison else { return };
        for (kind, figure) in [("behavior", comparison.behavior), ("preference", comparison.preference)] {
            let Some((mean, upper)) = figure else { continue };
            for (statistic, value) in [("mean", mean), ("upper", upper)] {
                gauge!(names::GATE_DIFFERENCE, "kind" => kind, "statistic" => statistic).set(100.0 * value);
            }
        }
        if let Some(correlation) = comparison.rank_correlation {
            gauge!(names::GATE_RANK_CORRELATION).set(correlation);
        }
    }
}

/// What the gate said of a version, when it is published or found.
pub struct VersionJudged<'a> {
    pub version: u64,
    pub at_ms: i64,
    /// Whether it became production.
    pub is_promoted: bool,
    /// The tests that it failed, and in words why.
    pub failed: &'a [(&'a str, &'a str)],
    /// Whether it was said just now: only then it counts.
    pub is_new: bool,
}

impl VersionJudged<'_> {
    pub fn emit(self) {
        let Self { version, at_ms, is_promoted, failed, is_new } = self;
        if is_new {
            let result = if is_promoted { "passed" } else { "refused" };
            counter!(names::GATE_DECISIONS, "result" => result).increment(1);
            for (test, reason) in failed {
                counter!(names::GATE_REFUSALS, "test" => (*test).to_owned()).increment(1);
                info!(version, test, "version not promoted: {reason}");
            }
        }
        let owned = |text: &&str| (*text).to_owned();
        let (tests, reasons) = failed.iter().map(|(test, reason)| (owned(test), owned(reason))).unzip();
        state().gate_decided(Decision { version, at_ms, is_promoted, tests, reasons });
    }
}

/// A sample of a suspect stream was scored and not learned.
pub struct SampleHeldOut {
    pub kind: &'static str,
}

impl SampleHeldOut {
    pub fn emit(self) {
        counter!(names::GATE_HELD_OUT, "kind" => self.kind).increment(1);
    }
}

/// From here on nothing is learned.
pub struct StreamSuspected<'a> {
    pub signal: &'static str,
    pub reason: &'a str,
}

impl StreamSuspected<'_> {
    pub fn emit(self) {
        state().stream_is_suspect(self.signal, self.reason);
        warn!(
            signal = self.signal,
            "the stream is suspect, nothing is learned: {}; if it is right as it is: easq model accept-stream",
            self.reason
        );
    }
}

/// The stream is as it was before: it is learned again.
pub struct StreamTrusted;

impl StreamTrusted {
    pub fn emit(self) {
        state().stream_is_trusted();
        info!("the stream is trusted again, and learned");
    }
}

/// A person has said that the stream is right as it is.
pub struct StreamAccepted;

impl StreamAccepted {
    pub fn emit(self) {
        info!("the stream was accepted as it is: what it is like now counts as its long run");
    }
}

/// Too many versions in a row were refused.
pub struct WentBack {
    /// Where training goes on from.
    pub version: u64,
    /// That were taken back.
    pub steps: u64,
}

impl WentBack {
    pub fn emit(self) {
        counter!(names::GATE_ROLLBACKS).increment(1);
        let Self { version, steps } = self;
        warn!(version, steps, "training went back to the newest checkpoint that the gate let pass");
    }
}
