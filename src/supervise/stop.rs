//! The request to stop: one value for threads and for asynchronous tasks.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// A request to stop that all clones share and that is never taken back.
///
/// Threads ask with [`is_stopped`](Self::is_stopped) or sleep with [`wait`](Self::wait), which a
/// stop ends at once; asynchronous tasks await [`cancelled`](Self::cancelled).
#[derive(Debug, Clone, Default)]
pub struct StopToken {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    token: CancellationToken,
    /// Held while the token is cancelled, so that a thread between its check and its sleep cannot
    /// miss the wake-up.
    sleepers: Mutex<()>,
    wake: Condvar,
}

impl StopToken {
    /// A request that nobody has made yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether any clone has been [stopped](Self::stop).
    pub fn is_stopped(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// Asks everything that holds a clone to stop. Asking again changes nothing.
    pub fn stop(&self) {
        let _sleepers = self.inner.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.token.cancel();
        self.inner.wake.notify_all();
    }

    /// Blocks the calling thread until the stop or for `timeout`; true when stopped. Not for
    /// asynchronous tasks: those select on [`cancelled`](Self::cancelled).
    pub fn wait(&self, timeout: Duration) -> bool {
        let sleepers = self.inner.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        let _woken = self
            .inner
            .wake
            .wait_timeout_while(sleepers, timeout, |()| !self.is_stopped())
            .unwrap_or_else(PoisonError::into_inner);
        self.is_stopped()
    }

    /// Completes at the stop, at once if it has happened.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.inner.token.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn a_wait_without_a_stop_ends_after_its_timeout() {
        assert!(!StopToken::new().wait(Duration::from_millis(1)));
    }

    #[test]
    fn a_stop_ends_the_wait_of_every_clone() {
        let stop = StopToken::new();
        let sleepers: Vec<_> = (0..4)
            .map(|_| {
                let stop = stop.clone();
                thread::spawn(move || stop.wait(Duration::from_secs(60)))
            })
            .collect();
        let began = Instant::now();
        stop.stop();
        for sleeper in sleepers {
            assert!(sleeper.join().expect("the sleeper does not panic"));
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the wait went on after the stop");
    }

    #[tokio::test]
    async fn a_stop_completes_cancelled_also_when_it_came_before() {
        let stop = StopToken::new();
        stop.stop();
        stop.stop();
        stop.cancelled().await;
        assert!(stop.is_stopped());
    }
}
