//! How a transactional call can fail, and what librdkafka's word on it asks for.

use rdkafka::error::{RDKafkaError, RDKafkaErrorCode};

/// Why a transactional call did not succeed. Retriable errors never come this far.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum TransactionError {
    /// The session of this transactional id is over: another process has taken it, or the broker
    /// gave it up because a transaction stayed open too long. Drop the producer without another
    /// call and end the process (exit code 3): a restart takes over and goes on.
    #[error(
        "transactional id '{transactional_id}' was fenced in {call}: {reason}; another process uses this id, or \
         an outage outlasted the transaction timeout: restart"
    )]
    Fenced { transactional_id: String, call: &'static str, reason: String },
    /// The transaction cannot commit any more. Call [`TransactionalProducer::abort`](super::TransactionalProducer::abort), go back to
    /// the committed offsets and build it anew.
    #[error("the transaction of '{transactional_id}' must be aborted after {call}: {reason}")]
    MustAbort { transactional_id: String, call: &'static str, reason: String },
    /// As [`MustAbort`](Self::MustAbort), because the group has moved on since the membership of
    /// this commit was captured: only a newer one can commit.
    #[error("the transaction of '{transactional_id}' must be aborted, its group has moved on: {reason}")]
    GroupMoved { transactional_id: String, reason: String },
    /// Neither a retry nor an abort helps: a mistake in the settings, missing rights, or a defect.
    #[error("{call} failed for transactional id '{transactional_id}': {reason}")]
    Fatal { transactional_id: String, call: &'static str, reason: String },
    /// A stop was asked for while the call waited for the brokers, before any transaction began.
    #[error("stopped while {call} of transactional id '{transactional_id}' waited for the brokers")]
    Stopped { transactional_id: String, call: &'static str },
}

impl TransactionError {
    /// True when the process must end with exit code 3.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }

    /// True when a stop ended the waiting for brokers: not a failure of a process that ends anyway.
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped { .. })
    }

    /// True when [`TransactionalProducer::abort`](super::TransactionalProducer::abort) and a rewind make it good.
    pub fn must_abort(&self) -> bool {
        matches!(self, Self::MustAbort { .. } | Self::GroupMoved { .. })
    }
}

/// Errors that say that a membership is over.
pub(super) fn is_of_group(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::UnknownMemberId | Code::IllegalGeneration | Code::FencedInstanceId | Code::RebalanceInProgress
    )
}

/// What librdkafka says about a failed transactional call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    fatal: bool,
    requires_abort: bool,
    retriable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client is unusable.
    Over,
    Abort,
    Retry,
    Fatal,
}

impl Facts {
    pub(super) fn of(error: &RDKafkaError) -> Self {
        Self {
            fatal: error.is_fatal(),
            requires_abort: error.txn_requires_abort(),
            retriable: error.is_retriable(),
        }
    }

    /// The order matters: a fatal error may be marked retriable too.
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self { fatal: true, .. } => Verdict::Over,
            Self { requires_abort: true, .. } => Verdict::Abort,
            Self { retriable: true, .. } => Verdict::Retry,
            _ => Verdict::Fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(fatal: bool, requires_abort: bool, retriable: bool) -> Verdict {
        Facts { fatal, requires_abort, retriable }.verdict()
    }

    #[test]
    fn a_fatal_error_ends_the_client_whatever_else_it_says() {
        assert_eq!(verdict(true, true, true), Verdict::Over);
        assert_eq!(verdict(true, false, false), Verdict::Over);
    }

    #[test]
    fn an_abortable_error_is_not_retried() {
        assert_eq!(verdict(false, true, true), Verdict::Abort);
    }

    #[test]
    fn a_retriable_error_is_retried_and_an_unknown_one_is_not() {
        assert_eq!(verdict(false, false, true), Verdict::Retry);
        assert_eq!(verdict(false, false, false), Verdict::Fatal);
    }
}
