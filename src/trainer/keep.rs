//! Owning a model while it is trained, and letting go of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::SLICE;
use super::error::TrainerError;
use super::threads;
use crate::kafka::ownership::{Owned, Ownership};
use crate::settings::Settings;
use crate::supervise::{Beat, BeatWatch, StopToken};

/// How often the end of training is looked for once the model is let go.
const END_SLICE: Duration = Duration::from_millis(10);

/// What ends training, and what it shows of its progress; clones share it.
#[derive(Clone)]
pub struct Tokens {
    /// The request from outside: a checkpoint first.
    pub stop: StopToken,
    /// A failure, or a stop before there is anything to keep: at once.
    pub halt: StopToken,
    /// Moved by each turn of the learner.
    pub beat: Beat,
    /// Whether the learner runs. Only then it beats: loading a checkpoint takes as long as it takes.
    is_learning: Arc<AtomicBool>,
}

impl Tokens {
    pub fn new(stop: StopToken) -> Self {
        Self { stop, halt: StopToken::new(), beat: Beat::default(), is_learning: Arc::default() }
    }

    /// Marks the time in which the learner runs; its end, also by a panic, halts everything else.
    pub fn learning(&self) -> Learning<'_> {
        self.is_learning.store(true, Ordering::Relaxed);
        Learning(self)
    }

    fn is_learning(&self) -> bool {
        self.is_learning.load(Ordering::Relaxed)
    }
}

/// See [`Tokens::learning`].
pub struct Learning<'a>(&'a Tokens);

impl Drop for Learning<'_> {
    fn drop(&mut self) {
        self.0.is_learning.store(false, Ordering::Relaxed);
        self.0.halt.stop();
    }
}

/// Serves the membership while training runs. When the model is lost, or training hangs, training
/// is halted and the model let go at once: whatever would still be published is void, and another
/// process can take over.
pub fn keep(
    settings: &Settings,
    ownership: Ownership,
    training: JoinHandle<Result<(), TrainerError>>,
    tokens: &Tokens,
) -> Result<(), TrainerError> {
    let Err(error) = serve(settings, &ownership, &training, tokens) else {
        return threads::outcome(training.join());
    };
    tokens.halt.stop();
    drop(ownership);
    if error.leaves_threads() {
        return Err(error);
    }
    let deadline = Duration::from_millis(settings.joiner.drain_deadline_ms);
    let began = Instant::now();
    while !training.is_finished() {
        if began.elapsed() >= deadline {
            return Err(TrainerError::Left { source: error.into(), seconds: deadline.as_secs() });
        }
        // A halted token would end a wait on it at once.
        std::thread::sleep(END_SLICE);
    }
    // What went wrong with training is the consequence; only a panic is more than that.
    let _ = threads::outcome(training.join());
    Err(error)
}

/// Polls the membership until training has ended, or must be ended.
fn serve(
    settings: &Settings,
    ownership: &Ownership,
    training: &JoinHandle<Result<(), TrainerError>>,
    tokens: &Tokens,
) -> Result<(), TrainerError> {
    let model = &settings.model.name;
    let limit = Duration::from_millis(settings.train.hang_timeout_ms);
    let mut watch = BeatWatch::new(tokens.beat.clone(), limit, Instant::now());
    while !training.is_finished() {
        if tokens.stop.is_stopped() && !tokens.is_learning() {
            tokens.halt.stop();
        }
        match ownership.poll(SLICE)? {
            Owned::Yes => {}
            Owned::No | Owned::Lost => return Err(TrainerError::Fenced { model: model.clone() }),
        }
        if tokens.is_learning() && watch.is_silent(Instant::now()) {
            return Err(TrainerError::Hung {
                model: model.clone(),
                limit_ms: settings.train.hang_timeout_ms,
            });
        }
    }
    Ok(())
}
