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
mod output;
mod partition;
mod report;
mod tail;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use crate::settings::Settings;
use crate::supervise::{StopToken, panic_message};

pub use error::JoinerError;
use identity::identity;
use instance::Instance;
use watch::TopicWatch;

/// How often the instances are looked after while they run.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Runs `joiner.instances` instances on threads of their own until `stop`, or until the first of
/// them fails, which stops the others: what is open is committed, the group is left.
///
/// # Errors
/// The first failure; [`JoinerError::is_fenced`] tells whether a restart goes on by itself.
pub fn run(settings: &Settings, stop: &StopToken) -> Result<(), JoinerError> {
    // Of its own, so that a failure stops the instances and nothing else.
    let instances_stop = StopToken::new();
    let halt = StopToken::new();
    let mut topics = TopicWatch::new(settings)?;
    thread::scope(|scope| {
        let mut running = Vec::new();
        let mut outcome = Ok(());
        for instance in 0..settings.joiner.instances {
            let (stop, halt) = (&instances_stop, &halt);
            let thread = thread::Builder::new().name(format!("joiner-{instance}"));
            match thread.spawn_scoped(scope, move || run_caught(settings, instance, stop, halt)) {
                Ok(handle) => running.push(handle),
                Err(source) => outcome = outcome.and(Err(JoinerError::Thread { instance, source })),
            }
        }
        while !running.is_empty() {
            if outcome.is_ok()
                && let Err(replaced) = topics.look()
            {
                halt.stop();
                outcome = Err(replaced);
            }
            if outcome.is_err()
                || stop.wait(WATCH_INTERVAL)
                || running.iter().any(|handle| handle.is_finished())
            {
                instances_stop.stop();
                for handle in running.drain(..) {
                    let ended = handle.join().expect("panics of an instance are caught on its thread");
                    outcome = outcome.and(ended);
                }
            }
        }
        outcome
    })
}

fn run_caught(
    settings: &Settings,
    instance: usize,
    stop: &StopToken,
    halt: &StopToken,
) -> Result<(), JoinerError> {
    // Nothing that a panic left half done is used again.
    catch_unwind(AssertUnwindSafe(|| run_instance(settings, instance, stop, halt)))
        .unwrap_or_else(|panic| Err(JoinerError::Panicked { instance, message: panic_message(&*panic) }))
}

/// Runs one instance until `stop`. `instance` is its number within the process: a part of its
/// names in the group and as a producer. With `halt` stopped too, what is open is taken back
/// instead of committed.
///
/// # Errors
/// Whatever it cannot recover from by going back to the committed offsets.
pub fn run_instance(
    settings: &Settings,
    instance: usize,
    stop: &StopToken,
    halt: &StopToken,
) -> Result<(), JoinerError> {
    let host_name = gethostname::gethostname();
    let identity = identity(
        &settings.joiner.group,
        &settings.joiner.instance_id,
        &host_name.to_string_lossy(),
        instance,
        rand::random(),
    );
    let result = match Instance::start(settings, instance, &identity, stop, halt) {
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
