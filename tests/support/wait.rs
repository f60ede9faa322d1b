//! Waits on conditions, never on the clock alone.

use std::thread;
use std::time::{Duration, Instant};

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Returns once `condition` holds; panics with `what` when it does not within `deadline`.
#[track_caller]
pub fn eventually(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(deadline, what, || condition().then_some(()));
}

/// Returns the first value that `look` finds; panics with `what` when there is none within `deadline`.
#[track_caller]
pub fn eventually_some<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// Returns once `look` finds nothing any more; panics with `what` and all that it still finds when that
/// is not within `deadline`.
#[track_caller]
pub fn eventually_nothing<T: std::fmt::Debug>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Vec<T>,
) {
    let start = Instant::now();
    loop {
        let found = look();
        if found.is_empty() {
            return;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}; there is still {found:?}");
        thread::sleep(BETWEEN_LOOKS);
    }
}
