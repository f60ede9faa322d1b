//! The stages of the line on threads of their own, stopped one by one in the order of the flow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use super::error::DemoError;
use crate::supervise::{StopToken, panic_message};

/// A stage that runs until it is stopped.
pub(super) struct Stage {
    name: &'static str,
    stop: StopToken,
    /// `None` once it was joined.
    handle: Option<JoinHandle<Result<(), DemoError>>>,
}

impl Stage {
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(
        name: &'static str,
        run: impl FnOnce(&StopToken) -> Result<(), DemoError> + Send + 'static,
    ) -> Result<Self, DemoError> {
        let stop = StopToken::new();
        let own_stop = stop.clone();
        let caught = move || {
            // The closure is consumed: nothing that a panic left half done is seen again.
            catch_unwind(AssertUnwindSafe(|| run(&own_stop))).unwrap_or_else(|panic| {
                Err(DemoError::Panicked { stage: name, message: panic_message(&*panic) })
            })
        };
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(caught)
            .map_err(|source| DemoError::Start { stage: name, source })?;
        Ok(Self { name, stop, handle: Some(handle) })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// # Errors
    /// When the stage has ended although nothing had asked it to: with its own error, if it has
    /// one.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        if self.handle.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join()?;
            return Err(DemoError::EndedEarly { stage: self.name });
        }
        Ok(())
    }

    /// Asks the stage to end and waits until it has drained; does nothing after the first time.
    ///
    /// # Errors
    /// Its own.
    pub(super) fn finish(&mut self) -> Result<(), DemoError> {
        self.stop.stop();
        self.join()
    }

    fn join(&mut self) -> Result<(), DemoError> {
        match self.handle.take() {
            Some(handle) => handle.join().expect("panics of a stage are caught on its thread"),
            None => Ok(()),
        }
    }
}

impl Drop for Stage {
    /// Whatever has failed elsewhere, nothing goes on behind the demo's back.
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!(stage = self.name, %error, "a stage failed while the demo was giving up");
        }
    }
}
