//! The line from the world to the follower, and its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::drain::{self, SampleEnds, Stall};
use super::error::DemoError;
use super::follow::{Followed, follow};
use super::report::VersionPoint;
use super::stages::Stage;
use super::watch::{Counts, Watched, watch};
use crate::contract::v1::{Manifest, VersionKind};
use crate::settings::Settings;
use crate::simulate::{FaultRates, ProduceOptions, Produced, RecordTime, World, produce};
use crate::supervise::StopToken;
use crate::telemetry::Progress;
use crate::telemetry::partitions::{self, PartitionReport};
use crate::{joiner, trainer};

const POLL: Duration = Duration::from_millis(50);

/// The stages on threads of their own. Dropping it stops them all.
pub(super) struct Line {
    settings: Arc<Settings>,
    // In the order in which data flows, which is the order in which they end.
    joiner: Stage,
    trainer: Stage,
    follower: Stage,
    watcher: Stage,
    seen: Seen,
}

/// What the stages let the demo see; clones share it.
#[derive(Clone, Default)]
struct Seen {
    produced: Arc<Mutex<Produced>>,
    watched: Watched,
    followed: Followed,
}

impl Seen {
    fn produced(&self) -> Produced {
        self.produced.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A run after its end.
pub(super) struct Drained {
    pub produced: Produced,
    /// The joiner's counts by partition, when it had read everything.
    pub reports: BTreeMap<i32, PartitionReport>,
    pub counts: Counts,
    pub delays_ms: Vec<f64>,
    pub history: Vec<VersionPoint>,
    /// The last version: it has learned every sample.
    pub checkpoint: Arc<Manifest>,
    pub traffic_seconds: f64,
}

impl Line {
    /// Starts every stage behind the world.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(settings: &Settings, model_dir: &Path) -> Result<Self, DemoError> {
        let settings = Arc::new(settings.clone());
        let began = Instant::now();
        let seen = Seen::default();
        let watcher =
            start("watcher", &settings, &seen, |settings, seen, stop| watch(settings, &seen.watched, stop))?;
        let dir = model_dir.to_owned();
        let follower = start("follower", &settings, &seen, move |settings, seen, stop| {
            follow(settings, &dir, began, &seen.followed, stop)
        })?;
        let trainer = start("trainer", &settings, &seen, |settings, _, stop| {
            Ok(trainer::run(settings, stop.clone())?)
        })?;
        let joiner = start("joiner", &settings, &seen, |settings, _, stop| Ok(joiner::run(settings, stop)?))?;
        Ok(Self { settings, joiner, trainer, follower, watcher, seen })
    }

    /// Sends the world's stream within `duration`, then ends the stages one after the other, each
    /// when it has done all there was to do. `control_records`: how many a commit leaves behind the
    /// last record of a partition.
    ///
    /// # Errors
    /// When a stage fails or hangs, or the stop comes.
    pub(super) fn run(
        mut self,
        world: &World,
        duration: Duration,
        control_records: i64,
        stop: &StopToken,
    ) -> Result<Drained, DemoError> {
        // Its start-up is no delay of the join.
        self.wait("the joiner owns its partitions", stop, |_| u64::from(partitions::reports().is_empty()))?;
        let traffic_began = Instant::now();
        self.send_all(world, duration, stop)?;
        let traffic_seconds = traffic_began.elapsed().as_secs_f64();
        let produced = self.seen.produced();
        self.wait("the joiner has read everything", stop, |_| drain::unread_records(&produced))?;
        self.wait("the joiner's outputs are seen", stop, |seen| drain::unseen_outputs(&seen.watched))?;
        let reports = partitions::reports();
        self.joiner.finish()?;
        let ends = SampleEnds::read(&self.settings, control_records)?;
        self.wait("every sample is learned", stop, |seen| ends.unlearned(&seen.followed))?;
        self.trainer.finish()?;
        self.wait("the last version is loaded", stop, |seen| {
            u64::from(checkpoint(&seen.followed).is_none())
        })?;
        self.follower.finish()?;
        self.watcher.finish()?;
        let Seen { watched, followed, .. } = &self.seen;
        let checkpoint = checkpoint(followed).expect("it was waited for, and the follower has ended");
        Ok(Drained {
            produced,
            reports,
            counts: watched.counts(),
            delays_ms: watched.delays_ms(),
            history: followed.history(),
            checkpoint,
            traffic_seconds,
        })
    }

    fn send_all(&mut self, world: &World, duration: Duration, stop: &StopToken) -> Result<(), DemoError> {
        let world = world.clone();
        let mut progress = Progress::new(world.config().views, "views");
        let mut producing = start("world", &self.settings, &self.seen, move |settings, seen, stop| {
            produce_world(settings, &world, duration, seen, stop)
        })?;
        while !producing.is_finished() {
            self.pause(stop)?;
            self.show(&mut progress);
        }
        producing.finish()?;
        self.show(&mut progress);
        progress.finish();
        Ok(())
    }

    /// Waits until nothing is missing.
    fn wait(
        &mut self,
        what: &'static str,
        stop: &StopToken,
        missing: impl Fn(&Seen) -> u64,
    ) -> Result<(), DemoError> {
        let mut stall = Stall::new(what);
        while stall.is_missing(missing(&self.seen))? {
            self.pause(stop)?;
        }
        Ok(())
    }

    fn pause(&mut self, stop: &StopToken) -> Result<(), DemoError> {
        for stage in [&mut self.joiner, &mut self.trainer, &mut self.follower, &mut self.watcher] {
            stage.check()?;
        }
        if stop.wait(POLL) { Err(DemoError::Interrupted) } else { Ok(()) }
    }

    fn show(&self, progress: &mut Progress) {
        let produced = self.seen.produced();
        let counts = self.seen.watched.counts();
        let learned = self.seen.followed.newest().map(|manifest| {
            let losses = manifest.progressive.unwrap_or_default();
            format!(
                ", losses {:.3} {:.3} {:.3}, version {}",
                losses.loss_main, losses.loss_satisfaction, losses.loss_dpo, manifest.version
            )
        });
        let message = format!(
            "{} answers, {} labels, {} pairs{}",
            produced.responses,
            counts.labelled_views,
            counts.preference_pairs,
            learned.unwrap_or_default()
        );
        progress.set(produced.views, message);
    }
}

fn checkpoint(followed: &Followed) -> Option<Arc<Manifest>> {
    followed.newest().filter(|manifest| manifest.kind() == VersionKind::Checkpoint)
}

fn start(
    name: &'static str,
    settings: &Arc<Settings>,
    seen: &Seen,
    run: impl FnOnce(&Settings, &Seen, &StopToken) -> Result<(), DemoError> + Send + 'static,
) -> Result<Stage, DemoError> {
    let (settings, seen) = (Arc::clone(settings), seen.clone());
    Stage::start(name, move |stop| run(&settings, &seen, stop))
}

fn produce_world(
    settings: &Settings,
    world: &World,
    duration: Duration,
    seen: &Seen,
    stop: &StopToken,
) -> Result<(), DemoError> {
    let options = ProduceOptions {
        faults: FaultRates::default(),
        duration: Some(duration),
        record_time: RecordTime::Event,
    };
    let mut sent = |delivery: &_, so_far: &Produced| {
        seen.watched.sent(delivery);
        so_far.clone_into(&mut seen.produced.lock().unwrap_or_else(PoisonError::into_inner));
    };
    produce(settings, world, options, None, &mut sent, stop)?;
    Ok(())
}
