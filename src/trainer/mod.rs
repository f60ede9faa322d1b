//! The service around [`crate::train`]: samples in, versions out.
//!
//! ```text
//! trainer-groups ──┐ bounded                      candidate            publisher
//!                  ├────────▶ trainer (libtorch) ───────────▶ pages, manifest, pointers
//! trainer-pairs  ──┘ channels                     ◀───────────         in one transaction
//!                                                 published
//! the calling thread: the membership that makes this process the model's owner,
//! and a look at whether trainer and publisher still make progress
//! ```
//!
//! Order at start: ownership, `init_transactions`, the registry to its last stable offset, the newest
//! checkpoint, the inputs at its offsets. What fails first ends all of them; a stop first publishes
//! a checkpoint. Whoever does not own the model stands by.
//!
//! An owner can die, freeze or hang at any instruction. Whoever stands by takes over once the
//! group's session is over, or at once when a hang is noticed here; taking over the transactional id
//! aborts what the last owner left open. That one, should it wake up, can commit nothing: neither its
//! membership nor its transactional id counts any more (invariant 9).

mod answers;
pub(crate) mod error;
mod input;
mod judged;
mod keep;
mod learner;
mod progress;
mod resume;
mod schedule;
mod start;
#[cfg(test)]
mod tests;
mod threads;
pub(crate) mod told;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::kafka::ownership::{Claim, Owned, Ownership};
use crate::publish::{Candidate, Published, Publisher, writer_name};
use crate::settings::Settings;
use crate::supervise::{Beat, StopToken};
use crate::telemetry::events::{OwnershipGained, OwnershipLost, StandingBy};

pub use error::TrainerError;
use input::Input;
use keep::Tokens;
use learner::{Connections, Learner};
use threads::start_scoped;

/// How often a waiting thread looks at its tokens.
const SLICE: Duration = Duration::from_millis(100);

/// Trains the model that the settings name until `stop`, then publishes a checkpoint and leaves the
/// group. Stands by first, while another process owns the model. Blocks the calling thread.
///
/// # Errors
/// Whatever a restart, a person or a correction of the settings has to do something about. Once the
/// model is lost to another process the error is [fenced](TrainerError::is_fenced). After some of
/// them threads [are left](TrainerError::leaves_threads) that only the end of the process ends.
pub fn run(settings: &Settings, stop: StopToken) -> Result<(), TrainerError> {
    let model = &settings.model.name;
    let group = writer_name(model);
    let ownership = Ownership::join(settings, &group, &settings.topics.registry(model))?;
    if !stand_by(&ownership, model, &stop)? {
        return Ok(());
    }
    OwnershipGained { model }.emit();
    let tokens = Tokens::new(stop);
    let training = {
        let (settings, claim, tokens) = (settings.clone(), ownership.claim(), tokens.clone());
        // Not scoped: a thread that hangs in libtorch cannot be ended, only left.
        threads::start("trainer", &tokens.halt.clone(), move || train(&settings, &claim, &tokens))?
    };
    let result = keep::keep(settings, ownership, training, &tokens);
    OwnershipLost { model }.emit();
    match result {
        Err(error) if error.is_stop() && tokens.stop.is_stopped() => Ok(()),
        result => result,
    }
}

/// Waits until this process owns the model; false when the stop comes first.
fn stand_by(ownership: &Ownership, model: &str, stop: &StopToken) -> Result<bool, TrainerError> {
    let mut said = false;
    while !stop.is_stopped() {
        if ownership.poll(SLICE)? == Owned::Yes {
            return Ok(true);
        }
        if !said && ownership.is_member() {
            said = true;
            StandingBy { model }.emit();
        }
    }
    Ok(false)
}

/// Starts everything, learns on this thread, and ends everything.
fn train(settings: &Settings, claim: &Claim, tokens: &Tokens) -> Result<(), TrainerError> {
    let (stop, halt) = (&tokens.stop, &tokens.halt);
    let started = start::start(settings, halt)?;
    let queued = settings.train.queued_samples;
    let (groups_in, groups) = bounded(queued);
    let (pairs_in, pairs) = bounded(queued);
    let (candidates, to_publish) = bounded(1);
    let (to_learner, published) = bounded(1);
    let (topics, gap) = (&settings.topics, settings.train.gap);
    let positions = |topic: &str| started.learned.progress.positions(topic);
    let topic_id = |topic: &str| started.learned.progress.topic_id_of(topic).cloned();
    let groups_input = Input {
        positions: positions(&topics.behavior_groups),
        topic_id: topic_id(&topics.behavior_groups),
        reader: started.groups,
        topic: topics.behavior_groups.clone(),
        gap,
        sender: groups_in,
        halt: halt.clone(),
        written_ms: BTreeMap::new(),
        looked: Instant::now(),
    };
    let pairs_input = Input {
        positions: positions(&topics.preference_pairs),
        topic_id: topic_id(&topics.preference_pairs),
        reader: started.pairs,
        topic: topics.preference_pairs.clone(),
        gap,
        sender: pairs_in,
        halt: halt.clone(),
        written_ms: BTreeMap::new(),
        looked: Instant::now(),
    };
    let (beat, stop, halting) = (tokens.beat.clone(), stop.clone(), halt.clone());
    let connections = Connections { groups, pairs, candidates, published, beat, stop, halt: halting };
    let learner = Learner::new(settings, started.learned, connections);
    let publisher = started.publisher.beating(&tokens.publisher_beat);
    thread::scope(|scope| {
        let learning = tokens.learning();
        let threads = [
            start_scoped(scope, "publisher", halt, move || {
                let _publishing = tokens.publishing();
                publish(publisher, claim, &to_publish, &to_learner, &tokens.publisher_beat)
            })?,
            start_scoped(scope, "trainer-groups", halt, move || groups_input.run())?,
            start_scoped(scope, "trainer-pairs", halt, move || pairs_input.run())?,
        ];
        let learned = learner.run();
        // The learner's end closes the channels, and with them the other threads end.
        drop(learning);
        threads.into_iter().map(|thread| threads::outcome(thread.join())).fold(learned, Result::and)
    })
}

/// Publishes one candidate after the other until the learner lets its end go.
fn publish(
    mut publisher: Publisher,
    claim: &Claim,
    candidates: &Receiver<Candidate>,
    published: &Sender<Published>,
    beat: &Beat,
) -> Result<(), TrainerError> {
    loop {
        // With nothing to publish it waits, and does not hang.
        beat.beat();
        let candidate = match candidates.recv_timeout(SLICE) {
            Ok(candidate) => candidate,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let version = publisher.publish(candidate, &|| claim.group_metadata())?;
        if published.send(version).is_err() {
            return Ok(());
        }
    }
}
