//! The real binary as production runs it: under a supervisor that starts it again after exit code 3.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Easq, Line, eventually, eventually_some};

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// To end for somebody who only wants to know how it ended.
const EXITS_WITHIN: Duration = Duration::from_secs(30);

/// Exit code 3 means that a restart is right. Any other end that nobody asked for is a failure.
const RESTART: i32 = 3;

/// A supervised `easq`. Killed when dropped; what all its runs printed is shown when the test fails.
pub struct Supervised {
    state: Arc<Mutex<State>>,
    supervisor: Option<thread::JoinHandle<()>>,
}

struct State {
    running: Option<Easq>,
    /// What the runs before printed.
    before: String,
    restarts: usize,
    /// Started no more: the last run's exit code (`None` is a signal) is what it came to.
    ended: Option<Option<i32>>,
    is_stopping: bool,
}

impl Supervised {
    /// Starts `command` on a line.
    pub fn start(line: &Line, command: &[&str]) -> Self {
        Self::start_with(line, command, "")
    }

    /// The same, with failpoints in each run.
    pub fn start_with(line: &Line, command: &[&str], failpoints: &'static str) -> Self {
        let arguments = line.arguments(command);
        let run = move || Easq::start_with(&arguments, [("FAILPOINTS", failpoints)]);
        let running = Some(run());
        let state = State { running, before: String::new(), restarts: 0, ended: None, is_stopping: false };
        let state = Arc::new(Mutex::new(state));
        let watched = state.clone();
        let supervisor = thread::spawn(move || {
            while watch(&mut lock(&watched), &run) {
                thread::sleep(BETWEEN_LOOKS);
            }
        });
        Self { state, supervisor: Some(supervisor) }
    }

    /// How often it was started again.
    pub fn restarts(&self) -> usize {
        self.state().restarts
    }

    /// What all runs have printed so far.
    pub fn output(&self) -> String {
        let state = self.state();
        let now = state.running.as_ref().map(Easq::output).unwrap_or_default();
        format!("{}{now}", state.before)
    }

    /// Waits until the output holds `text`.
    #[track_caller]
    pub fn wait_for_output(&self, text: &str, deadline: Duration) {
        eventually(deadline, &format!("the service prints '{text}'"), || {
            self.must_run();
            self.output().contains(text)
        });
    }

    /// Fails once it has ended with a code that no supervisor answers with a restart.
    #[track_caller]
    pub fn must_run(&self) {
        let ended = self.state().ended;
        assert!(ended.is_none(), "the service ended by itself, with code {ended:?}");
    }

    /// Sends a signal by its name, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        self.state().running.as_ref().expect("a running service").signal(name);
    }

    /// SIGTERM; it must drain and exit with code 0.
    #[track_caller]
    pub fn stop(self, deadline: Duration) {
        self.must_run();
        let mut state = self.state();
        state.is_stopping = true;
        state.running.as_ref().expect("a running service").terminate();
        drop(state);
        assert_eq!(self.wait_for_end(deadline), Some(0));
    }

    /// The exit code of its end: asked for, or one after which it is not started again.
    #[track_caller]
    pub fn wait_for_end(&self, deadline: Duration) -> Option<i32> {
        eventually_some(deadline, "the service ends", || self.state().ended)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- supervised easq, {} restarts\n{}---", self.restarts(), self.output());
        }
        let mut state = self.state();
        state.is_stopping = true;
        if let Some(easq) = &mut state.running {
            easq.kill();
        }
        drop(state);
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

/// A failed assertion of the test elsewhere leaves the state whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks after the process; false when there is nothing to look after any more.
fn watch(state: &mut State, run: &dyn Fn() -> Easq) -> bool {
    let Some(easq) = state.running.as_mut() else { return false };
    if easq.is_running() {
        return true;
    }
    let code = easq.wait(EXITS_WITHIN).code();
    state.before += &easq.output();
    state.running = None;
    if code == Some(RESTART) && !state.is_stopping {
        state.restarts += 1;
        state.running = Some(run());
        return true;
    }
    state.ended = Some(code);
    false
}
