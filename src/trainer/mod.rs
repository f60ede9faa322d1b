//! The service around [`crate::train`]: samples in, versions out.
//!
//! ```text
//! trainer-groups ──┐ bounded                      candidate            publisher
//!                  ├────────▶ trainer (libtorch) ───────────▶ pages, manifest, pointers
//! trainer-pairs  ──┘ channels                     ◀───────────         in one transaction
//!                                                 published
//! the calling thread: the membership that makes this process the model's owner
//! ```
//!
//! Order at start: ownership, `init_transactions`, the registry to its last stable offset, the newest
//! checkpoint, the inputs at its offsets. What fails first ends all of them; a stop first publishes
//! a checkpoint. Whoever does not own the model stands by.

pub(crate) mod error;
mod input;
mod learner;
mod progress;
mod resume;
mod schedule;
mod start;
#[cfg(test)]
mod tests;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::kafka::ownership::{Owned, Ownership};
use crate::publish::{Candidate, Published, Publisher};
use crate::settings::Settings;
use crate::supervise::StopToken;
use crate::telemetry::events::{OwnershipGained, OwnershipLost, StandingBy};

pub use error::TrainerError;
use input::Input;
use learner::{Connections, Learner};

/// How often a waiting thread looks at its tokens.
const SLICE: Duration = Duration::from_millis(100);

/// Trains the model that the settings name until `stop`, then publishes a checkpoint and leaves the
/// group. Stands by first, while another process owns the model. Blocks the calling thread.
///
/// # Errors
/// Whatever a restart, a person or a correction of the settings has to do something about. Once the
/// model is lost to another process the error is [fenced](TrainerError::is_fenced).
pub fn run(settings: &Settings, stop: StopToken) -> Result<(), TrainerError> {
    let model = &settings.model.name;
    let group = format!("easq-trainer-{model}");
    let ownership = Ownership::join(&settings.kafka, &group, &settings.topics.registry(model))?;
    if !stand_by(&ownership, model, &stop)? {
        return Ok(());
    }
    OwnershipGained { model }.emit();
    let tokens = Tokens { stop, halt: StopToken::new(), is_learning: AtomicBool::new(false) };
    let result = thread::scope(|scope| {
        let training = spawn(scope, "trainer", &tokens.halt, || train(settings, &ownership, &tokens))?;
        let membership = keep(&ownership, model, &training, &tokens);
        let trained = join(training);
        // It ends while training runs only by its own fault, which is then the cause of the rest.
        membership.and(trained)
    });
    OwnershipLost { model }.emit();
    match result {
        Err(error) if error.is_stop() && tokens.stop.is_stopped() => Ok(()),
        result => result,
    }
}

/// What ends training.
struct Tokens {
    /// The request from outside: a checkpoint first.
    stop: StopToken,
    /// A failure, or a stop before there is anything to keep: at once.
    halt: StopToken,
    /// Whether the first steps may have been taken.
    is_learning: AtomicBool,
}

/// Waits until this process owns the model; false when the stop comes first.
fn stand_by(ownership: &Ownership, model: &str, stop: &StopToken) -> Result<bool, TrainerError> {
    let mut said = false;
    while !stop.is_stopped() {
        if ownership.poll(SLICE)? == Owned::Yes {
            return Ok(true);
        }
        if !said {
            said = true;
            StandingBy { model }.emit();
        }
    }
    Ok(false)
}

/// Serves the membership while training runs; its loss halts training at once, since whatever it
/// would publish is void.
fn keep(
    ownership: &Ownership,
    model: &str,
    training: &ScopedJoinHandle<'_, Result<(), TrainerError>>,
    tokens: &Tokens,
) -> Result<(), TrainerError> {
    let halt = &tokens.halt;
    while !training.is_finished() {
        if tokens.stop.is_stopped() && !tokens.is_learning.load(Ordering::Relaxed) {
            halt.stop();
        }
        match ownership.poll(SLICE) {
            Ok(Owned::Yes) => {}
            Ok(Owned::No | Owned::Lost) => {
                halt.stop();
                return Err(TrainerError::Fenced { model: model.to_owned() });
            }
            Err(error) => {
                halt.stop();
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Starts everything, learns on this thread, and ends everything.
fn train(settings: &Settings, ownership: &Ownership, tokens: &Tokens) -> Result<(), TrainerError> {
    let (stop, halt) = (&tokens.stop, &tokens.halt);
    let started = start::start(settings, halt)?;
    tokens.is_learning.store(true, Ordering::Relaxed);
    let queued = settings.train.queued_samples;
    let (groups_in, groups) = bounded(queued);
    let (pairs_in, pairs) = bounded(queued);
    let (candidates, to_publish) = bounded(1);
    let (to_learner, published) = bounded(1);
    let (topics, gap) = (&settings.topics, settings.train.gap);
    let group_positions = started.learned.progress.positions(&topics.behavior_groups);
    let pair_positions = started.learned.progress.positions(&topics.preference_pairs);
    let groups_input = Input {
        positions: group_positions,
        reader: started.groups,
        topic: topics.behavior_groups.clone(),
        gap,
        sender: groups_in,
        halt: halt.clone(),
    };
    let pairs_input = Input {
        positions: pair_positions,
        reader: started.pairs,
        topic: topics.preference_pairs.clone(),
        gap,
        sender: pairs_in,
        halt: halt.clone(),
    };
    let connections =
        Connections { groups, pairs, candidates, published, stop: stop.clone(), halt: halt.clone() };
    let learner = Learner::new(settings, started.learned, connections);
    let publisher = started.publisher;
    thread::scope(|scope| {
        let threads = [
            spawn(scope, "publisher", halt, move || publish(publisher, ownership, &to_publish, &to_learner))?,
            spawn(scope, "trainer-groups", halt, move || groups_input.run())?,
            spawn(scope, "trainer-pairs", halt, move || pairs_input.run())?,
        ];
        let learned = learner.run();
        // The learner's end closes the channels, and with them the other threads end.
        halt.stop();
        threads.into_iter().map(join).fold(learned, |first, next| first.and(next))
    })
}

/// Publishes one candidate after the other until the learner lets its end go.
fn publish(
    mut publisher: Publisher,
    ownership: &Ownership,
    candidates: &Receiver<Candidate>,
    published: &Sender<Published>,
) -> Result<(), TrainerError> {
    for candidate in candidates {
        let version = publisher.publish(candidate, &|| ownership.group_metadata())?;
        if published.send(version).is_err() {
            break;
        }
    }
    Ok(())
}

/// Starts a named thread whose failure or panic halts the others.
fn spawn<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    name: &'static str,
    halt: &StopToken,
    run: impl FnOnce() -> Result<(), TrainerError> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<(), TrainerError>>, TrainerError> {
    let guard = HaltUnlessOk { halt: halt.clone(), ok: false };
    let run = move || {
        let mut guard = guard;
        let result = run();
        guard.ok = result.is_ok();
        result
    };
    let spawned = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
    spawned.map_err(|source| {
        halt.stop();
        TrainerError::Thread { name, source }
    })
}

/// Halts on drop unless the thread that holds it came to a good end.
struct HaltUnlessOk {
    halt: StopToken,
    ok: bool,
}

impl Drop for HaltUnlessOk {
    fn drop(&mut self) {
        if !self.ok {
            self.halt.stop();
        }
    }
}

/// The thread's result; its panic goes on here, so that the supervisor sees it.
fn join(handle: ScopedJoinHandle<'_, Result<(), TrainerError>>) -> Result<(), TrainerError> {
    handle.join().unwrap_or_else(|panic| resume_unwind(panic))
}
