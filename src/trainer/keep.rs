//! Owning a model while it is trained, and letting go of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::SLICE;
use super::error::TrainerError;
use super::threads;
use crate::kafka::ownership::{Owned, Ownership};
use crate::publish::Publisher;
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
    /// Moved by whatever the publisher does.
    pub publisher_beat: Beat,
    /// Whether the learner runs. Only then it beats: loading a checkpoint takes as long as it takes.
    is_learning: Arc<AtomicBool>,
    /// Whether the publisher's thread runs.
    is_publishing: Arc<AtomicBool>,
}

impl Tokens {
    pub fn new(stop: StopToken) -> Self {
        Self {
            stop,
            halt: StopToken::new(),
            beat: Beat::default(),
            publisher_beat: Beat::default(),
            is_learning: Arc::default(),
            is_publishing: Arc::default(),
        }
    }

    /// Marks the time in which the learner runs; its end, also by a panic, halts everything else.
    pub fn learning(&self) -> Learning<'_> {
        self.is_learning.store(true, Ordering::Relaxed);
        Learning(self)
    }

    /// Marks the time in which the publisher's thread runs, until the value is dropped.
    pub fn publishing(&self) -> Publishing<'_> {
        self.is_publishing.store(true, Ordering::Relaxed);
        Publishing(self)
    }

    fn is_publishing(&self) -> bool {
        self.is_publishing.load(Ordering::Relaxed)
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

/// See [`Tokens::publishing`].
pub struct Publishing<'a>(&'a Tokens);

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.is_publishing.store(false, Ordering::Relaxed);
    }
}

/// Serves the membership while training runs. When the model is lost, or training or publishing hangs, training
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
    let limit_ms = settings.train.hang_timeout_ms;
    let publish_limit_ms = limit_ms + Publisher::longest_call_ms(settings);
    let watch = |beat: &Beat, ms| BeatWatch::new(beat.clone(), Duration::from_millis(ms), Instant::now());
    let mut learner = watch(&tokens.beat, limit_ms);
    let mut publisher = watch(&tokens.publisher_beat, publish_limit_ms);
    while !training.is_finished() {
        if tokens.stop.is_stopped() && !tokens.is_learning() {
            tokens.halt.stop();
        }
        match ownership.poll(SLICE)? {
            Owned::Yes => {}
            Owned::No | Owned::Lost => return Err(TrainerError::Fenced { model: model.clone() }),
        }
        if tokens.is_learning() && learner.is_silent(Instant::now()) {
            return Err(TrainerError::Hung { model: model.clone(), limit_ms });
        }
        if tokens.is_publishing() && publisher.is_silent(Instant::now()) {
            return Err(TrainerError::PublishHung { model: model.clone(), limit_ms: publish_limit_ms });
        }
    }
    Ok(())
}
