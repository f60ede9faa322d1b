//! From an error to an exit code and to one line.

use std::error::Error;
use std::io::{self, ErrorKind};

use crate::backfill::BackfillError;
use crate::demo::DemoError;
use crate::joiner::JoinerError;
use crate::offline::TrainFileError;
use crate::publish::commands::CommandError;
use crate::settings::Faults;
use crate::simulate::SimulateError;
use crate::supervise::SuperviseError;
use crate::trainer::TrainerError;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const FENCED: u8 = 3;
const UNDRAINED: u8 = 4;

/// 2: wrong settings or arguments. 3: fenced, a restart is right. 4: interrupted before the drain
/// ended. 1: anything else.
pub(super) fn code(error: &anyhow::Error) -> u8 {
    let any = |holds: fn(&(dyn Error + 'static)) -> bool| error.chain().any(holds);
    // A drain that a fenced stage began is right to end with a restart, also when it was cut short.
    if any(|cause| cause.downcast_ref().is_some_and(JoinerError::is_fenced))
        || any(|cause| cause.downcast_ref().is_some_and(TrainerError::is_fenced))
    {
        FENCED
    } else if any(|cause| cause.downcast_ref().is_some_and(SuperviseError::is_undrained))
        || any(|cause| cause.downcast_ref().is_some_and(DemoError::is_interrupted))
        || any(|cause| cause.downcast_ref().is_some_and(TrainFileError::is_interrupted))
        || any(|cause| cause.downcast_ref().is_some_and(BackfillError::is_interrupted))
        || any(of_comparison::is_interrupted)
    {
        UNDRAINED
    } else if any(|cause| cause.is::<Faults>())
        || any(|cause| cause.downcast_ref().is_some_and(SimulateError::is_usage))
        || any(|cause| cause.downcast_ref().is_some_and(DemoError::is_usage))
        || any(|cause| cause.downcast_ref().is_some_and(TrainFileError::is_usage))
        || any(|cause| cause.downcast_ref().is_some_and(CommandError::is_usage))
        || any(|cause| cause.downcast_ref().is_some_and(BackfillError::is_usage))
        || any(of_comparison::is_usage)
    {
        WRONG_USAGE
    } else {
        FAILED
    }
}

/// Errors of what only a build for research has.
mod of_comparison {
    use std::error::Error;

    #[cfg(feature = "research")]
    use crate::evaluate::compare::CompareError;

    #[cfg(feature = "research")]
    pub(super) fn is_interrupted(cause: &(dyn Error + 'static)) -> bool {
        cause.downcast_ref().is_some_and(CompareError::is_interrupted)
    }

    #[cfg(feature = "research")]
    pub(super) fn is_usage(cause: &(dyn Error + 'static)) -> bool {
        cause.downcast_ref().is_some_and(CompareError::is_usage)
    }

    #[cfg(not(feature = "research"))]
    pub(super) fn is_interrupted(_: &(dyn Error + 'static)) -> bool {
        false
    }

    #[cfg(not(feature = "research"))]
    pub(super) fn is_usage(_: &(dyn Error + 'static)) -> bool {
        false
    }
}

/// Whether threads may still run that nothing can end.
pub(super) fn leaves_threads(error: &anyhow::Error) -> bool {
    let any = |holds: fn(&(dyn Error + 'static)) -> bool| error.chain().any(holds);
    any(|cause| cause.downcast_ref().is_some_and(SuperviseError::is_undrained))
        || any(|cause| cause.downcast_ref().is_some_and(JoinerError::leaves_threads))
        || any(|cause| cause.downcast_ref().is_some_and(TrainerError::leaves_threads))
}

/// The error with its causes. A cause that the line above it quotes already is not said twice.
pub(super) fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_broken = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_broken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::TaskError;
    use std::time::Duration;

    fn failed(source: impl Into<TaskError>) -> anyhow::Error {
        SuperviseError::Failed { task: "trainer".to_owned(), source: source.into() }.into()
    }

    #[test]
    fn a_fenced_stage_asks_for_a_restart() {
        let fenced = failed(TrainerError::Fenced { model: "main".to_owned() });
        assert_eq!(code(&fenced), 3);
        assert_eq!(code(&failed("the disk is full")), 1);
    }

    #[test]
    fn a_process_with_threads_that_nothing_can_end_does_not_wait_for_them() {
        let lost = TrainerError::Fenced { model: "main".to_owned() };
        assert!(!leaves_threads(&failed("the disk is full")));
        let left = failed(TrainerError::Left { source: lost.into(), seconds: 20 });
        assert_eq!((code(&left), leaves_threads(&left)), (3, true));
        let model = || "main".to_owned();
        for hung in [
            TrainerError::Hung { model: model(), limit_ms: 1 },
            TrainerError::PublishHung { model: model(), limit_ms: 1 },
        ] {
            let hung = failed(hung);
            assert_eq!((code(&hung), leaves_threads(&hung)), (1, true));
        }
    }

    #[test]
    fn a_drain_that_a_fenced_stage_began_asks_for_a_restart_also_when_it_is_cut_short() {
        let fenced = TrainerError::Fenced { model: "main".to_owned() };
        let failed = SuperviseError::Failed { task: "trainer".to_owned(), source: fenced.into() };
        let undrained = SuperviseError::DrainDeadline {
            tasks: vec!["joiner".to_owned()],
            deadline: Duration::from_secs(1),
            failure: Some(Box::new(failed)),
        };
        assert_eq!(code(&undrained.into()), 3);
    }

    #[test]
    fn a_drain_cut_short_is_told_apart_from_a_failure() {
        let deadline = Duration::from_secs(1);
        let tasks = vec!["trainer".to_owned()];
        let undrained = SuperviseError::DrainDeadline { tasks, deadline, failure: None };
        assert_eq!(code(&undrained.into()), 4);
    }

    #[test]
    fn wrong_settings_are_wrong_usage() {
        assert_eq!(code(&Faults(Vec::new()).into()), 2);
    }

    #[test]
    fn causes_are_named_once() {
        assert_eq!(in_one_line(&failed("the disk is full")), "trainer failed: the disk is full");
        let quoting = failed("the disk is full").context("stopped: trainer failed");
        assert_eq!(in_one_line(&quoting), "stopped: trainer failed: the disk is full");
    }
}
