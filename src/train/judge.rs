//! What the trainer knows about itself and its stream: for the gate.

use xxhash_rust::xxh3::xxh3_64;

use crate::contract::v1::{BehaviorGroup, Features, LabelledView, PreferencePair};
use crate::model::{HostTensor, LoadError};

use super::groups::MainBatch;
use super::references::win_rate;
use super::report::ReferenceEvidence;
use super::stream::{StreamWatch, Suspicion};
use super::trainer::Trainer;

impl Trainer {
    /// What readers get from now on. It judges the stream.
    ///
    /// # Errors
    /// The tensors are not those of a version of this model.
    pub fn set_production(
        &mut self,
        version: u64,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<(), LoadError> {
        self.references.set_production(version, tensors)
    }

    /// Adds the newest of the versions that the model is compared with.
    ///
    /// # Errors
    /// As [`Trainer::set_production`].
    pub fn add_anchor(
        &mut self,
        version: u64,
        tensors: impl IntoIterator<Item = HostTensor>,
    ) -> Result<(), LoadError> {
        self.references.add_anchor(version, tensors)
    }

    /// The versions that the model is compared with from now on, the oldest first: of those that are,
    /// and production.
    pub fn set_anchors(&mut self, versions: &[u64]) {
        self.references.set_anchors(versions);
    }

    /// The model beside the gate's anchor; None before there is one. It is not part of a checkpoint.
    pub fn beside_anchor(&self) -> Option<ReferenceEvidence> {
        self.references.evidence()
    }

    /// Looks at a main batch before it is learned. While the stream is suspect it is not to be learned,
    /// and this says true.
    pub fn examine(&mut self, groups: &[BehaviorGroup]) -> bool {
        if !self.is_watching() {
            return false;
        }
        let main = MainBatch::new(&self.architecture, &self.reward, groups);
        let scaling = self.normalizer.scaling(self.placement.dtype);
        let outcomes = self.references.production_on_groups(&main).unwrap_or_default();
        let usable = groups.iter().enumerate().filter(|(position, _)| !main.too_small.contains(position));
        let mut first = 0;
        for (((_, group), &views), outcomes) in usable.zip(&main.sizes).zip(&outcomes) {
            self.watch.observe_features(group.event_time_ms, &scaling, &main.views[first..first + views]);
            first += views;
            if !outcomes.is_empty() {
                self.watch.observe_behavior(group.event_time_ms, win_rate(outcomes));
            }
        }
        self.is_suspect()
    }

    /// The same of a preference pair.
    pub(super) fn examine_pair(
        &mut self,
        pair: &PreferencePair,
        chosen: &Features,
        rejected: &Features,
    ) -> bool {
        let answer = later_answer(pair);
        if self.is_watching()
            && let Some(production) = self.references.production_on_pair(chosen, rejected)
        {
            self.watch.observe_pair(answer, pair.event_time_ms, production);
        }
        let is_suspect = self.is_suspect();
        self.references.observe_pair(answer, chosen, rejected, !is_suspect);
        is_suspect
    }

    /// Without a production there is no judge: what is learned from a file is learned whole.
    pub(super) fn is_suspect(&self) -> bool {
        self.references.has_production() && self.watch.is_suspect()
    }

    /// From the warm-up on; and before it where training went back to there, else a suspicion would
    /// never end.
    fn is_watching(&self) -> bool {
        let is_time = self.steps >= self.warmup_steps || self.watch.is_suspect();
        is_time && self.references.has_production()
    }

    /// Why nothing is to be learned now; None while the stream is trusted.
    pub fn suspicion(&self) -> Option<Suspicion> {
        self.watch.suspicion().filter(|_| self.references.has_production())
    }

    /// What the stream is judged by.
    pub fn stream_watch(&self) -> &StreamWatch {
        &self.watch
    }

    /// This is a checkpoint, version `version`, that training goes back to from `before`: what is known
    /// about the stream stays known, this is production from now on, and anchors that are newer than it
    /// are none any more.
    ///
    /// # Errors
    /// As [`Trainer::set_production`].
    pub fn succeed(&mut self, before: Trainer, version: u64) -> Result<(), LoadError> {
        self.watch = before.watch;
        self.references = before.references.back_at(version);
        self.set_production(version, self.serving_tensors())
    }

    /// A person has said, then, that what the stream is like now is how it is from now on. False when
    /// that was heard before.
    pub fn accept_stream(&mut self, written_at_ms: i64) -> bool {
        self.watch.accept(written_at_ms)
    }
}

/// A number for the answer that made this pair: the later of the two.
fn later_answer(pair: &PreferencePair) -> u64 {
    let answered_at = |view: &LabelledView| view.response.as_ref().map(|response| response.event_time_ms);
    let views = [&pair.chosen, &pair.rejected].map(Option::as_ref);
    let is_later = |view: &&LabelledView| answered_at(view) == Some(pair.event_time_ms);
    let later = views.into_iter().flatten().find(is_later).or(views[0]);
    let id = later.and_then(|labelled| labelled.view.as_ref()).map(|view| view.impression_id.as_bytes());
    xxh3_64(id.unwrap_or_default())
}

#[cfg(test)]
mod tests;
