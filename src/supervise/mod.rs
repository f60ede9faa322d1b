//! Named threads and tasks that start, fail and stop together.
//!
//! What a [`Supervisor`] runs ends in one of three ways, each of them seen: it returns, it fails,
//! it panics. The first failure stops all the others. Stopping goes stage by stage (see [`Stage`])
//! and has one deadline; what has not ended by then is named in the error.
//!
//! Whether a thread still makes progress shows a [`Beat`], to whoever can do something about it. Where
//! tests end or freeze the process says [`failpoint()`].
//!
//! Kafka clients and libtorch block, so they run on threads of their own
//! ([`Supervisor::thread`]); the asynchronous runtime serves HTTP and signals, and nothing on it
//! ever waits for them.

mod beat;
mod failpoint;
mod stop;

use std::error::Error;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use std::{any::Any, io, thread};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use beat::{Beat, BeatWatch};
pub use failpoint::failpoint;
pub use stop::StopToken;

/// Any error of a task; its type is kept, so that a caller can ask for it by downcast.
pub(crate) type TaskError = Box<dyn Error + Send + Sync>;

/// When a task is asked to stop: a stage is asked once the one before it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// What the program exists for.
    Work,
    /// What makes the work visible, so that the drain can still be watched.
    Endpoints,
}

const STAGES: [Stage; 2] = [Stage::Work, Stage::Endpoints];

/// What it means when a task returns without an error and without having been asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It should have gone on: [`SuperviseError::EndedEarly`].
    Service,
    /// It has done what there was to do; everything else is stopped, in order.
    Job,
}

/// Why a supervised group did not end as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    #[error("{task} failed")]
    Failed { task: String, source: TaskError },
    #[error("{task} panicked: {message}")]
    Panicked { task: String, message: String },
    #[error("{task} ended although nothing had asked it to")]
    EndedEarly { task: String },
    #[error("cannot start {task}")]
    Start { task: String, source: io::Error },
    #[error("still running {} s after the request to stop: {}", deadline.as_secs_f64(), tasks.join(", "))]
    DrainDeadline {
        tasks: Vec<String>,
        deadline: Duration,
        /// The failure that had begun the stop, if one had.
        #[source]
        failure: Option<Box<SuperviseError>>,
    },
    #[error("interrupted for a second time while draining: {}", tasks.join(", "))]
    Interrupted { tasks: Vec<String> },
}

impl SuperviseError {
    /// True when the drain was cut short, so that work may be lost that the log holds still.
    pub fn is_undrained(&self) -> bool {
        matches!(self, Self::DrainDeadline { .. } | Self::Interrupted { .. })
    }
}

struct Ended {
    index: usize,
    result: Result<(), SuperviseError>,
}

struct Member {
    name: String,
    stage: Stage,
    kind: Kind,
    running: bool,
}

/// Owns a group of threads and tasks from their start to their end. Made and joined inside a
/// tokio runtime.
pub(crate) struct Supervisor {
    /// The request to stop as a whole, from outside or from the first failure.
    stop: StopToken,
    /// The request to stop as each stage gets it.
    stages: [StopToken; STAGES.len()],
    members: Vec<Member>,
    running: JoinSet<Ended>,
    drain_deadline: Duration,
}

impl Supervisor {
    pub fn new(drain_deadline: Duration) -> Self {
        Self {
            stop: StopToken::new(),
            stages: Default::default(),
            members: Vec::new(),
            running: JoinSet::new(),
            drain_deadline,
        }
    }

    /// Stopping this token stops the whole group, in order.
    pub fn stop_token(&self) -> StopToken {
        self.stop.clone()
    }

    /// Starts `run` on a thread of its own, named `name` (the system shows the first 15 bytes).
    /// `run` returns soon after its token stops.
    ///
    /// # Errors
    /// [`SuperviseError::Start`] when the system refuses a thread.
    pub fn thread<E>(
        &mut self,
        name: &str,
        stage: Stage,
        kind: Kind,
        run: impl FnOnce(StopToken) -> Result<(), E> + Send + 'static,
    ) -> Result<(), SuperviseError>
    where
        E: Into<TaskError> + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let stop = self.stages[stage as usize].clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // The closure is consumed: nothing that a panic left half done is seen again.
                let result = catch_unwind(AssertUnwindSafe(|| run(stop).map_err(Into::into)));
                // Nobody listens any more only when the deadline has passed.
                let _ = sender.send(result);
            })
            .map_err(|source| SuperviseError::Start { task: name.to_owned(), source })?;
        let task = name.to_owned();
        self.watch(name, stage, kind, async move {
            match receiver.await.expect("the thread sends before it ends, panics are caught") {
                Ok(result) => result.map_err(|source| SuperviseError::Failed { task, source }),
                Err(panic) => Err(SuperviseError::Panicked { task, message: panic_message(&*panic) }),
            }
        });
        Ok(())
    }

    /// Starts an asynchronous task.
    pub fn task<E, F>(&mut self, name: &str, stage: Stage, kind: Kind, run: impl FnOnce(StopToken) -> F)
    where
        E: Into<TaskError> + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let handle = tokio::spawn(run(self.stages[stage as usize].clone()));
        let task = name.to_owned();
        self.watch(name, stage, kind, async move {
            match handle.await {
                Ok(result) => result.map_err(|error| SuperviseError::Failed { task, source: error.into() }),
                Err(error) => {
                    let message = match error.try_into_panic() {
                        Ok(panic) => panic_message(&*panic),
                        Err(error) => error.to_string(),
                    };
                    Err(SuperviseError::Panicked { task, message })
                }
            }
        });
    }

    fn watch(
        &mut self,
        name: &str,
        stage: Stage,
        kind: Kind,
        result: impl Future<Output = Result<(), SuperviseError>> + Send + 'static,
    ) {
        let index = self.members.len();
        self.members.push(Member { name: name.to_owned(), stage, kind, running: true });
        self.running.spawn(async move { Ended { index, result: result.await } });
    }

    /// Waits until everything has ended: after SIGTERM or SIGINT, a stop of
    /// [`stop_token`](Self::stop_token), the end of a [`Kind::Job`] or the first failure.
    ///
    /// # Errors
    /// The first failure; or [`SuperviseError::DrainDeadline`] and
    /// [`SuperviseError::Interrupted`] with the names of what still runs. Threads cannot be ended
    /// from outside: after these two the process must exit.
    pub async fn join(mut self) -> Result<(), SuperviseError> {
        let mut signals = Signals::listen()?;
        let failure = tokio::select! {
            () = self.stop.cancelled() => None,
            () = signals.next() => None,
            ended = self.running.join_next() => match ended {
                Some(ended) => self.ended(ended, false),
                None => return Ok(()),
            },
        };
        self.stop.stop();
        self.drain(&mut signals, failure).await
    }

    async fn drain(
        mut self,
        signals: &mut Signals,
        mut failure: Option<SuperviseError>,
    ) -> Result<(), SuperviseError> {
        let deadline = Instant::now() + self.drain_deadline;
        for stage in STAGES {
            self.stages[stage as usize].stop();
            while self.members.iter().any(|member| member.running && member.stage <= stage) {
                tokio::select! {
                    ended = self.running.join_next() => {
                        let ended = ended.expect("a member that runs is in the set");
                        failure = failure.or(self.ended(ended, true));
                    }
                    () = signals.next() => return Err(SuperviseError::Interrupted { tasks: self.names() }),
                    () = tokio::time::sleep_until(deadline) => {
                        return Err(SuperviseError::DrainDeadline {
                            tasks: self.names(),
                            deadline: self.drain_deadline,
                            failure: failure.map(Box::new),
                        });
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Records the end of a member; its failure, if it is one.
    fn ended(
        &mut self,
        ended: Result<Ended, tokio::task::JoinError>,
        stopping: bool,
    ) -> Option<SuperviseError> {
        let ended = ended.expect("a watcher neither panics nor is aborted");
        let member = &mut self.members[ended.index];
        member.running = false;
        match ended.result {
            Err(error) => Some(error),
            Ok(()) if !stopping && member.kind == Kind::Service => {
                Some(SuperviseError::EndedEarly { task: member.name.clone() })
            }
            Ok(()) => None,
        }
    }

    fn names(&self) -> Vec<String> {
        self.members.iter().filter(|member| member.running).map(|member| member.name.clone()).collect()
    }
}

/// What a panic said, if it said it in words.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// The two signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, SuperviseError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| SuperviseError::Start { task: "the signal handler".to_owned(), source })
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests;
