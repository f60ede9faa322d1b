//! A version made visible: pages, manifest and pointers in one transaction.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost::Message;

use crate::contract::v1;
use crate::kafka::topics::Admin;
use crate::kafka::transaction::{TransactionError, TransactionalProducer};
use crate::kafka::{GroupMetadata, NextOffset, Outgoing};
use crate::model::Architecture;
use crate::settings::Settings;
use crate::supervise::{Beat, StopToken, failpoint};
use crate::telemetry::events::{PagesNotTrimmed, PublishAborted, VersionPublished};

use super::candidate::{Candidate, Published, StreamSuspect, WayBack};
use super::error::PublishError;
use super::gate::{self, Refusals, Rules};
use super::limit::RecordLimits;
use super::page_reader::PageReader;
use super::pages::{KnownPages, PagePlan, Relocation};
use super::registry::{self, Registry, RegistryReader};
use super::{keep, manifest, told};

/// Pages handed to the producer at a time: bounds what its queue holds beside the tensors.
const DELIVERY_BYTES: usize = 32 << 20;

/// A transaction that the broker refused is built anew this often.
const ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

/// Deleting is asked for when it frees at least this many records.
const TRIM_RECORDS: i64 = 64;

/// Publishes the versions of one model, one after the other. Blocks; used by one thread.
pub struct Publisher {
    settings: Settings,
    rules: Rules,
    producer: TransactionalProducer,
    registry: RegistryReader,
    pages: PageReader,
    admin: Admin,
    parent: Option<u64>,
    refusals: Refusals,
    /// The offset behind the last page known to be in the log.
    log_end: i64,
    trimmed_below: i64,
    /// None until the brokers have told them.
    limits: Option<RecordLimits>,
    stop: StopToken,
    /// Moved by each step of a publish, the wait for an answer of the brokers included.
    beat: Beat,
}

/// A publish before its transaction: nothing in it waits for anything but the broker.
struct Draft {
    manifest: v1::Manifest,
    plan: PagePlan,
    /// Kept older versions whose pages move.
    relocations: Vec<Relocation>,
    /// Versions that are not kept any more.
    dropped: BTreeSet<u64>,
}

/// A publish whose transaction has committed.
struct Committed {
    manifest: v1::Manifest,
    relocated: Vec<v1::Manifest>,
    production: Option<v1::VersionPointer>,
    log_end: i64,
    /// The offset behind the last record in the registry.
    registry_end: i64,
}

impl Publisher {
    /// `producer` is initialized, `registry` was read after that; `parent` is the checkpoint that
    /// training goes on from. `stop` ends waiting between attempts.
    pub fn new(
        settings: &Settings,
        producer: TransactionalProducer,
        registry: RegistryReader,
        parent: Option<u64>,
        stop: &StopToken,
    ) -> Result<Self, PublishError> {
        let pages = PageReader::new(settings, "publisher pages")?;
        let admin = Admin::new(&settings.kafka)?;
        let log_end =
            registry.registry.versions.values().map(|manifest| keep::end(manifest)).max().unwrap_or(0);
        let (settings, rules) = (settings.clone(), Rules::new(settings));
        let stop = stop.clone();
        let refusals = Refusals::resume(&registry.registry, settings.gate.rollback_after);
        Ok(Self {
            settings,
            rules,
            producer,
            registry,
            pages,
            admin,
            parent,
            refusals,
            log_end,
            trimmed_below: 0,
            limits: None,
            stop,
            beat: Beat::default(),
        })
    }

    /// The same, moving `beat` before and after whatever may take long. Where that is silent for longer
    /// than [`longest_call_ms`](Self::longest_call_ms) and what the processor needs, a call hangs.
    pub fn beating(self, beat: &Beat) -> Self {
        let (producer, pages) = (self.producer.beating(beat), self.pages.beating(beat));
        Self { producer, pages, beat: beat.clone(), ..self }
    }

    /// For how long a call to the brokers lasts at most, also where they are away: then it comes back without
    /// an answer, and is made again.
    pub fn longest_call_ms(settings: &Settings) -> u64 {
        settings.publish.transaction_timeout_ms.max(Admin::ANSWER_WITHIN.as_millis() as u64)
    }

    /// What a reader of the registry sees once the last commit has reached it.
    pub fn registry(&self) -> &Registry {
        &self.registry.registry
    }

    /// Publishes a candidate under the next version number and, if the gate lets it, as production.
    ///
    /// `group` gives the trainer's membership while it owns the model: the broker refuses the
    /// transaction of an owner that has lost it.
    pub fn publish(
        &mut self,
        candidate: Candidate,
        group: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Result<Published, PublishError> {
        let started = Instant::now();
        let draft = self.draft_patiently(&candidate)?;
        let committed = self.commit(&draft, group)?;
        let manifest = self.apply(&draft, committed);
        failpoint("publish-before-trim");
        self.beat.beat();
        self.trim();
        failpoint("publish-after-trim");
        let written: usize = draft.plan.writes.iter().map(|page| page.len()).sum();
        let is_promoted = manifest.gate.as_ref().is_some_and(|gate| gate.promoted);
        VersionPublished {
            version: manifest.version,
            kind: if manifest.kind() == v1::VersionKind::Checkpoint { "checkpoint" } else { "serving" },
            is_production: is_promoted,
            pages_written: draft.plan.writes.len() as u64,
            pages_reused: draft.plan.pages_reused,
            bytes_written: written as u64,
            bytes_reused: draft.plan.bytes_reused,
            elapsed: started.elapsed(),
        }
        .emit();
        told::published(&manifest);
        let way_back = self.way_back(&manifest, candidate.suspicion.as_ref())?;
        Ok(Published {
            manifest,
            pages_written: draft.plan.writes.len(),
            stream_accepted_at_ms: self.registry().accept.as_ref().map(|accept| accept.written_at_ms),
            way_back,
        })
    }

    /// What training has to go back to, after so many refusals in a row.
    fn way_back(
        &mut self,
        published: &v1::Manifest,
        suspicion: Option<&StreamSuspect>,
    ) -> Result<Option<WayBack>, PublishError> {
        let registry = &self.registry.registry;
        let Some(manifest) = self.refusals.count(registry, published, suspicion).cloned() else {
            return Ok(None);
        };
        match self.pages.load(&manifest, |_| true) {
            Ok(tensors) => {
                self.refusals.went_back();
                self.parent = Some(manifest.version);
                Ok(Some(WayBack { manifest, tensors }))
            }
            // After the next refusal then.
            Err(error) if error.is_outage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A draft, also where the brokers that it asks are away for a while.
    fn draft_patiently(&mut self, candidate: &Candidate) -> Result<Draft, PublishError> {
        let topic = self.settings.topics.registry(&self.settings.model.name);
        loop {
            self.beat.beat();
            let heard = self.registry.poll_people(|| self.pages.stable_end(&topic));
            match heard.and_then(|()| self.draft(candidate.clone())) {
                Err(error) if error.is_outage() && !self.stop.wait(BETWEEN_ATTEMPTS) => {
                    tracing::debug!(%error, "the draft of a version is made again");
                }
                drafted => return drafted,
            }
        }
    }

    /// Decides and prepares everything: an open transaction that waits for us would hold the last
    /// stable offset of both topics, and so every reader.
    fn draft(&mut self, mut candidate: Candidate) -> Result<Draft, PublishError> {
        let registry = &self.registry.registry;
        let production = registry.production_manifest().map(Arc::as_ref);
        let parent = self.parent.and_then(|parent| registry.versions.get(&parent)).map(Arc::as_ref);
        let decision = self.rules.decide(&candidate, production, parent);
        let tensors = std::mem::take(&mut candidate.tensors);
        let manifest = self.manifest(candidate, decision);

        let mut after = registry.clone();
        after.add(manifest.clone());
        let kept = keep::kept(&after, self.settings.publish.keep_versions);
        let dropped = registry.versions.keys().filter(|version| !kept.contains(version)).copied().collect();
        let older: Vec<Arc<v1::Manifest>> = registry
            .versions
            .iter()
            .filter(|(version, _)| kept.contains(version))
            .map(|(_, m)| m.clone())
            .collect();

        let trim = self.settings.publish.trim;
        let horizon = if trim { keep::move_below(older.iter().map(Arc::as_ref), self.log_end) } else { None };
        let known = KnownPages::of(older.iter().map(Arc::as_ref), horizon.unwrap_or(0));
        let mut plan = PagePlan::new(&tensors, self.settings.publish.page_bytes, &known);
        let relocations = match horizon {
            Some(horizon) => self.relocate(&mut plan, &older, horizon)?,
            None => Vec::new(),
        };
        self.fits(&manifest, &plan, &relocations)?;
        Ok(Draft { manifest, plan, relocations, dropped })
    }

    /// Whether the brokers will take all records of a draft. Where they do not say what they take, the
    /// delivery shows it.
    fn fits(
        &mut self,
        manifest: &v1::Manifest,
        plan: &PagePlan,
        relocations: &[Relocation],
    ) -> Result<(), PublishError> {
        if self.limits.is_none() {
            match RecordLimits::ask(&self.admin, &self.settings, &self.beat) {
                Ok(limits) => self.limits = Some(limits),
                Err(error) => {
                    tracing::debug!(%error, "the largest record of the model's topics is not known")
                }
            }
        }
        self.limits.map_or(Ok(()), |limits| limits.check(&self.settings, manifest, plan, relocations))
    }

    /// The manifest but for its tensors, whose pages have no offsets yet.
    fn manifest(&self, candidate: Candidate, decision: v1::GateDecision) -> v1::Manifest {
        let architecture = Architecture::from_settings(&self.settings);
        let registry = &self.registry.registry;
        let before = gate::anchors_before(registry, self.parent);
        let created_at_ms = now_ms();
        v1::Manifest {
            format: manifest::FORMAT,
            model: self.settings.model.name.clone(),
            version: self.registry.registry.highest_version + 1,
            kind: candidate.kind.into(),
            parent: self.parent,
            created_at_ms,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            inputs: candidate.inputs,
            event_time_watermark_ms: candidate.event_time_watermark_ms,
            step: candidate.step,
            behavior_groups_learned: candidate.behavior_groups_learned,
            preference_pairs_learned: candidate.preference_pairs_learned,
            features: Some(architecture.feature_schema()),
            shape: Some(architecture.model_shape()),
            progressive: Some(candidate.progressive),
            gate: Some(decision),
            anchors: self.rules.anchors(&before, gate::next_anchor(registry), candidate.step, created_at_ms),
            ..v1::Manifest::default()
        }
    }

    /// Plans the pages below `horizon` of kept older versions to be written again.
    fn relocate(
        &mut self,
        plan: &mut PagePlan,
        older: &[Arc<v1::Manifest>],
        horizon: i64,
    ) -> Result<Vec<Relocation>, PublishError> {
        let held_back: Vec<_> = older
            .iter()
            .filter(|manifest| keep::lowest_needed([manifest.as_ref()]) < Some(horizon))
            .collect();
        let absent = held_back.iter().flat_map(|manifest| plan.unplaced(manifest, horizon));
        let contents = self.pages.read(absent)?;
        let moved = held_back.iter().map(|manifest| plan.relocate(manifest, horizon, &contents));
        Ok(moved.collect::<Result<_, _>>()?)
    }

    fn commit(
        &self,
        draft: &Draft,
        group: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Result<Committed, PublishError> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            let membership = group().ok_or_else(|| self.not_owned())?;
            let error = match self.transact(draft, &membership) {
                Err(PublishError::Transaction(error)) if error.must_abort() => error,
                result => return result,
            };
            self.producer.abort()?;
            reason = error.to_string();
            PublishAborted { version: draft.manifest.version, reason: &reason }.emit();
            match error {
                TransactionError::GroupMoved { .. } => self.wait_for_another(&membership, group)?,
                _ => _ = self.stop.wait(BETWEEN_ATTEMPTS),
            }
        }
        Err(PublishError::Attempts { version: draft.manifest.version, attempts: ATTEMPTS, reason })
    }

    /// The broker has said that a membership is over. The member itself hears of it with its next
    /// heartbeat: then it owns the model anew or not at all. One that hears nothing for as long as a
    /// session lasts owns it no more.
    fn wait_for_another(
        &self,
        refused: &GroupMetadata,
        group: &dyn Fn() -> Option<GroupMetadata>,
    ) -> Result<(), PublishError> {
        let began = Instant::now();
        let session = Duration::from_millis(self.settings.train.session_timeout_ms);
        while group().is_some_and(|membership| membership.is_same(refused)) {
            self.beat.beat();
            if began.elapsed() >= session || self.stop.wait(BETWEEN_ATTEMPTS) {
                return Err(self.not_owned());
            }
        }
        Ok(())
    }

    fn not_owned(&self) -> PublishError {
        PublishError::NotOwned { model: self.settings.model.name.clone() }
    }

    fn transact(&self, draft: &Draft, membership: &GroupMetadata) -> Result<Committed, PublishError> {
        let model = &self.settings.model.name;
        self.producer.begin()?;
        failpoint("publish-before-pages");
        let offsets = self.deliver_pages(draft)?;
        failpoint("publish-before-manifest");
        let manifest = v1::Manifest { tensors: draft.plan.placed(&offsets), ..draft.manifest.clone() };
        let relocated: Vec<_> = draft.relocations.iter().map(|moved| moved.placed(&offsets)).collect();
        let promoted = manifest.gate.as_ref().is_some_and(|gate| gate.promoted);
        let production = promoted.then(|| v1::VersionPointer {
            version: manifest.version,
            reason: "the gate let it pass".to_owned(),
            written_at_ms: manifest.created_at_ms,
        });

        let topic: Arc<str> = self.settings.topics.registry(model).into();
        let record = |key: String| Outgoing::to(topic.clone()).partition(0).key(key);
        let mut records = Vec::new();
        for manifest in relocated.iter().chain([&manifest]) {
            records.push(record(registry::version_key(manifest.version)).payload(manifest::encode(manifest)));
        }
        if let Some(production) = &production {
            records.push(record(registry::PRODUCTION.to_owned()).payload(production.encode_to_vec()));
        }
        records.extend(draft.dropped.iter().map(|version| record(registry::version_key(*version))));
        let written = self.producer.deliver(&records)?;
        // The position means nothing to anybody: with it the broker checks the membership.
        let next = written.last().map_or(0, |offset| offset + 1);
        let position = NextOffset { topic, partition: 0, offset: next, metadata: String::new() };
        failpoint("publish-before-commit");
        self.producer.commit(&[position], membership)?;
        failpoint("publish-after-commit");
        let log_end = offsets.last().map_or(self.log_end, |offset| offset + 1);
        Ok(Committed { manifest, relocated, production, log_end, registry_end: next })
    }

    fn deliver_pages(&self, draft: &Draft) -> Result<Vec<i64>, PublishError> {
        let topic: Arc<str> = self.settings.topics.model(&self.settings.model.name).into();
        let at_a_time = (DELIVERY_BYTES / self.settings.publish.page_bytes).max(1);
        let mut offsets = Vec::with_capacity(draft.plan.writes.len());
        for pages in draft.plan.writes.chunks(at_a_time) {
            let records: Vec<_> = pages
                .iter()
                .map(|page| Outgoing::to(topic.clone()).partition(0).payload(page.clone()))
                .collect();
            offsets.extend(self.producer.deliver(&records)?);
        }
        Ok(offsets)
    }

    /// What a reader of the registry sees from now on.
    fn apply(&mut self, draft: &Draft, committed: Committed) -> Arc<v1::Manifest> {
        self.registry.wrote_below(committed.registry_end);
        let registry: &mut Registry = &mut self.registry.registry;
        for manifest in committed.relocated {
            registry.add(manifest);
        }
        let version = committed.manifest.version;
        registry.add(committed.manifest);
        for version in &draft.dropped {
            registry.versions.remove(version);
        }
        registry.production = committed.production.or(registry.production.take());
        self.parent = Some(version);
        self.log_end = committed.log_end;
        registry.versions[&version].clone()
    }

    /// Deletes pages below the lowest one that a kept version needs. A failure only leaves more on
    /// the broker's disk than has to be there, so it is reported and tried again with the next one.
    fn trim(&mut self) {
        let manifests = self.registry.registry.versions.values().map(Arc::as_ref);
        let Some(bound) = keep::lowest_needed(manifests) else { return };
        if !self.settings.publish.trim || bound - self.trimmed_below < TRIM_RECORDS {
            return;
        }
        let topic = self.settings.topics.model(&self.settings.model.name);
        match self.admin.delete_records_below(&topic, 0, bound) {
            Ok(_) => self.trimmed_below = bound,
            Err(error) => {
                let reason = error.to_string();
                PagesNotTrimmed { topic: &topic, below_offset: bound, reason: &reason }.emit();
            }
        }
    }
}

pub(super) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
