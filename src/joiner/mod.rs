//! The joiner: consumers in, the join, a transaction out.
//!
//! An instance is one thread with two consumers of one group membership and a transactional
//! producer of its own ([`crate::kafka::membership`], [`crate::kafka::transaction`]). What it
//! decides about records is decided by [`crate::join`]; here records are fetched, outputs sent,
//! and both inputs' offsets committed with them, every `joiner.commit_interval_ms`, in one
//! transaction (invariant 2). An instance keeps nothing that it could not build again from the
//! committed offsets, so that every trouble has one way out: abort, go back, build again.

mod assignment;
mod begin;
mod error;
mod identity;
mod instance;
mod losses;
mod output;
mod partition;
mod report;
mod tail;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::kafka::identity::TopicId;
use crate::settings::Settings;
use crate::supervise::{Beat, BeatWatch, StopToken, panic_message};
use crate::telemetry::events::WindowBounded;

pub use error::JoinerError;
use identity::identity;
use instance::Instance;
pub(crate) use output::outgoing;
#[doc(hidden)]
pub use report::tell_commit;
use watch::{KnownTopics, watch};

/// How often the instances are looked after while they run.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// And while they end.
const END_INTERVAL: Duration = Duration::from_millis(5);

/// What an instance hears of the others, and shows them.
#[derive(Clone, Default)]
struct Tokens {
    /// Commit what is open, leave the group, return.
    stop: StopToken,
    /// Set before `stop`: take back what is open, it rests on something that is not so any more.
    halt: StopToken,
    /// Moved by each turn of the loop.
    beat: Beat,
    /// Which topics the instances read.
    topics: KnownTopics,
}

impl Tokens {
    /// The ids of the inputs that an assignment begins with, views first. The first ones stay: what
    /// another assignment of this process finds instead is another topic.
    fn know_topics(&self, ids: &[Option<TopicId>; 2]) {
        let mut known = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        for (known, id) in known.iter_mut().zip(ids) {
            *known = known.take().or_else(|| id.clone());
        }
    }
}

/// Runs `joiner.instances` instances on threads of their own until `stop`, or until the first of
/// them fails, which stops the others: what is open is committed, the group is left.
///
/// # Errors
/// The first failure; [`JoinerError::is_fenced`] tells whether a restart goes on by itself, and
/// [`JoinerError::leaves_threads`] whether a thread is left that only the end of the process ends.
pub fn run(settings: &Settings, stop: &StopToken) -> Result<(), JoinerError> {
    let settings = Arc::new(settings.clone());
    let join = &settings.join;
    WindowBounded { records: join.max_waiting_records, bytes: join.max_waiting_bytes }.emit();
    // Of its own, so that a failure stops the instances and nothing else.
    let tokens = Tokens::default();
    let watching = start_watch(&settings, &tokens)?;
    let mut running = Vec::new();
    let mut outcome = Ok(());
    for instance in 0..settings.joiner.instances {
        match Running::start(&settings, instance, &tokens) {
            Ok(started) => running.push(started),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    loop {
        let instances = running.len();
        running = running.into_iter().filter_map(|instance| instance.look(&mut outcome)).collect();
        if running.is_empty() {
            return outcome;
        }
        if outcome.is_ok()
            && let Ok(Err(replaced)) = watching.try_recv()
        {
            tokens.halt.stop();
            outcome = Err(replaced);
        }
        if outcome.is_err() || stop.is_stopped() || running.len() < instances {
            tokens.stop.stop();
        }
        // A stop that has come would end a wait for it at once.
        match tokens.stop.is_stopped() {
            true => thread::sleep(END_INTERVAL),
            false => drop(stop.wait(WATCH_INTERVAL)),
        }
    }
}

/// Looks after the topics on a thread of its own, which waits for brokers; it is left to end by
/// itself after the stop.
fn start_watch(
    settings: &Arc<Settings>,
    tokens: &Tokens,
) -> Result<Receiver<Result<(), JoinerError>>, JoinerError> {
    let (sender, receiver) = bounded(1);
    let (settings, tokens) = (Arc::clone(settings), tokens.clone());
    let watch = move || {
        // Nobody listens any more only when all has ended.
        let _ = sender.send(watch(&settings, &tokens.topics, &tokens.stop));
    };
    let spawned = thread::Builder::new().name("joiner-topics".to_owned()).spawn(watch);
    spawned.map(|_| receiver).map_err(|source| JoinerError::Thread { instance: 0, source })
}

/// An instance on its thread.
struct Running {
    number: usize,
    limit_ms: u64,
    beat: Beat,
    watch: BeatWatch,
    thread: JoinHandle<Result<(), JoinerError>>,
}

impl Running {
    fn start(settings: &Arc<Settings>, number: usize, tokens: &Tokens) -> Result<Self, JoinerError> {
        let tokens = Tokens { beat: Beat::default(), ..tokens.clone() };
        let (settings, beat) = (Arc::clone(settings), tokens.beat.clone());
        // Who does not poll for so long has lost the partitions anyway.
        let limit_ms = settings.joiner.max_poll_interval_ms;
        let watch = BeatWatch::new(beat.clone(), Duration::from_millis(limit_ms), Instant::now());
        let thread = thread::Builder::new().name(format!("joiner-{number}"));
        let spawned = thread.spawn(move || run_caught(&settings, number, &tokens));
        let thread = spawned.map_err(|source| JoinerError::Thread { instance: number, source })?;
        Ok(Self { number, limit_ms, beat, watch, thread })
    }

    /// Itself while it runs; how it ended is added to `outcome`. One that hangs counts as ended.
    fn look(mut self, outcome: &mut Result<(), JoinerError>) -> Option<Self> {
        let ended = if self.thread.is_finished() {
            self.thread.join().expect("panics of an instance are caught on its thread")
        } else if self.beat.has_begun() && self.watch.is_silent(Instant::now()) {
            Err(JoinerError::Hung { instance: self.number, limit_ms: self.limit_ms })
        } else {
            return Some(self);
        };
        if outcome.is_ok() {
            *outcome = ended;
        }
        None
    }
}

fn run_caught(settings: &Settings, instance: usize, tokens: &Tokens) -> Result<(), JoinerError> {
    // Nothing that a panic left half done is used again.
    catch_unwind(AssertUnwindSafe(|| run_instance(settings, instance, tokens)))
        .unwrap_or_else(|panic| Err(JoinerError::Panicked { instance, message: panic_message(&*panic) }))
}

/// Runs one instance until the stop. `instance` is its number within the process: a part of its
/// names in the group and as a producer.
fn run_instance(settings: &Settings, instance: usize, tokens: &Tokens) -> Result<(), JoinerError> {
    let host_name = gethostname::gethostname();
    let identity = identity(
        &settings.joiner.group,
        &settings.joiner.instance_id,
        &host_name.to_string_lossy(),
        instance,
        rand::random(),
    );
    let result = match Instance::start(settings, instance, &identity, tokens) {
        Ok(Some(instance)) => instance.run(),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match result {
        // Asked to stop before the brokers had ever answered: nothing was begun.
        Err(JoinerError::Transaction(error)) if error.is_stopped() => Ok(()),
        result => result,
    }
}
