//! Threads whose failure or panic halts the others.

use std::panic::resume_unwind;
use std::thread::{self, JoinHandle, Scope, ScopedJoinHandle};

use super::error::TrainerError;
use crate::supervise::StopToken;

type Outcome = Result<(), TrainerError>;

/// Starts a named thread that may outlive its caller.
pub fn start(
    name: &'static str,
    halt: &StopToken,
    run: impl FnOnce() -> Outcome + Send + 'static,
) -> Result<JoinHandle<Outcome>, TrainerError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(guarded(halt, run));
    spawned.map_err(|source| TrainerError::Thread { name, source })
}

/// Starts a named thread that ends before `scope` does.
pub fn start_scoped<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &'static str,
    halt: &StopToken,
    run: impl FnOnce() -> Outcome + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Outcome>, TrainerError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, guarded(halt, run));
    spawned.map_err(|source| TrainerError::Thread { name, source })
}

/// The outcome of a thread; its panic goes on here, so that the supervisor sees it.
pub fn outcome(joined: thread::Result<Outcome>) -> Outcome {
    joined.unwrap_or_else(|panic| resume_unwind(panic))
}

fn guarded<F: FnOnce() -> Outcome>(halt: &StopToken, run: F) -> impl FnOnce() -> Outcome + use<F> {
    let guard = HaltUnlessOk { halt: halt.clone(), ok: false };
    move || {
        let mut guard = guard;
        let result = run();
        guard.ok = result.is_ok();
        result
    }
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
