//! What the learner does with the gate's verdicts.

use crate::contract::v1;
use crate::model::HostTensor;
use crate::publish::{Candidate, Published, WayBack};
use crate::telemetry::events::{
    AnswersInProduction, ComparedWithAnchor, GateEvidence, SampleHeldOut, StreamAccepted, StreamEvidence,
    StreamSuspected, StreamTrusted, WentBack,
};
use crate::train::{Signal, Trainer};

use super::answers::Answers;
use super::error::TrainerError;
use super::learner::Learner;
use super::progress::Partition;

const SUSPECT: &str = "held out: the stream was suspect";

/// What is remembered between a version and what the gate said of it.
#[derive(Default)]
pub struct Judged {
    /// The tensors that score, of the version that is with the publisher.
    pub cut_tensors: Vec<HostTensor>,
    /// Steps of the checkpoint that training went back to: with these the model is one that passed.
    pub passed_step: Option<u64>,
    was_suspect: bool,
}

impl Judged {
    /// Of a checkpoint that training went back to, when it goes on from one.
    pub fn resumed(passed_step: Option<u64>) -> Self {
        Self { passed_step, ..Self::default() }
    }
}

impl Learner {
    /// A sample of a suspect stream: scored, not learned, named as skipped.
    pub(super) fn hold_out(&mut self, kind: &'static str, partition: &Partition, offset: i64) {
        SampleHeldOut { kind }.emit();
        self.progress.skipped(partition, offset, SUSPECT);
        self.schedule.changed();
        if !self.judged.was_suspect {
            self.tell_suspicion();
        }
    }

    /// Says when the stream becomes suspect, and when it no longer is.
    fn tell_suspicion(&mut self) {
        let suspicion = self.trainer.suspicion();
        let is_suspect = suspicion.is_some();
        match suspicion {
            Some(suspicion) if !self.judged.was_suspect => {
                for (signal, reason) in &suspicion.reasons {
                    StreamSuspected { signal: signal.as_str(), reason }.emit();
                }
            }
            None if self.judged.was_suspect => StreamTrusted.emit(),
            _ => {}
        }
        self.judged.was_suspect = is_suspect;
    }

    /// What the gate will see.
    pub(super) fn tell_evidence(&mut self, candidate: &Candidate) {
        self.tell_suspicion();
        let watch = self.trainer.stream_watch();
        let suspicion = self.trainer.suspicion();
        let is_suspect =
            |signal: Signal| suspicion.iter().flat_map(|s| &s.reasons).any(|(other, _)| *other == signal);
        let stream = Signal::ALL.map(|signal| StreamEvidence {
            signal: signal.as_str(),
            is_suspect: is_suspect(signal),
            win_rates: watch.win_rates(signal),
        });
        GateEvidence {
            stream,
            feature_shift: watch.feature_shift(),
            comparison: candidate.comparison.as_ref().map(beside_anchor),
        }
        .emit();
    }

    /// From now on the model is measured beside what readers get, and beside its anchors.
    pub(super) fn published(&mut self, published: Published) -> Result<(), TrainerError> {
        self.is_publishing = false;
        let manifest = &published.manifest;
        let tensors = std::mem::take(&mut self.judged.cut_tensors);
        // A new anchor is what was production until this version.
        let anchors: Vec<u64> = manifest.anchors.iter().map(|anchor| anchor.version).collect();
        self.trainer.set_anchors(&anchors);
        if manifest.gate.as_ref().is_some_and(|gate| gate.promoted) {
            let answered_ms = self.answers.promoted();
            let now_ms = jiff::Timestamp::now().as_millisecond();
            AnswersInProduction { answered_ms: &answered_ms, now_ms }.emit();
            let version = manifest.version;
            let reference = |source| TrainerError::Reference { version, source };
            self.trainer.set_production(version, tensors).map_err(reference)?;
        }
        if let Some(at_ms) = published.stream_accepted_at_ms
            && self.trainer.accept_stream(at_ms)
        {
            StreamAccepted.emit();
            self.schedule.changed();
        }
        match published.way_back {
            Some(way_back) => self.go_back(way_back),
            None => Ok(()),
        }
    }

    /// Takes back what was learned since a checkpoint that passed the gate, and goes on from here.
    fn go_back(&mut self, way_back: WayBack) -> Result<(), TrainerError> {
        let WayBack { manifest, tensors } = way_back;
        let version = manifest.version;
        WentBack { version, steps: self.trainer.steps().saturating_sub(manifest.step) }.emit();
        let restored = Trainer::restore(&self.settings, tensors);
        let restored = restored.map_err(|source| TrainerError::Resume { version, source })?;
        self.answers = Answers::resume(restored.reservoir().never_used);
        let before = std::mem::replace(&mut self.trainer, restored);
        let reference = |source| TrainerError::Reference { version, source };
        self.trainer.succeed(before, version).map_err(reference)?;
        self.progress
            .go_back(&manifest.inputs, &format!("passed over: training went back to version {version}"));
        self.event_time_watermark_ms = manifest.event_time_watermark_ms;
        self.judged.passed_step = Some(manifest.step);
        self.schedule.went_back();
        Ok(())
    }
}

/// What the metrics say of it.
fn beside_anchor(comparison: &v1::AnchorComparison) -> ComparedWithAnchor {
    let pair = |figure: Option<v1::ComparedFigure>| figure.map(|figure| (figure.mean, figure.upper));
    ComparedWithAnchor {
        behavior: pair(comparison.behavior),
        preference: pair(comparison.preference),
        rank_correlation: comparison.rank_correlation.map(|figure| figure.mean),
    }
}
