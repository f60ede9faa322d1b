//! Every metric: name, kind, labels and meaning, in one table.
//!
//! Prometheus' conventions: the prefix `easq_`, base units (seconds, bytes) last in the name,
//! `_total` for counters; `process_` for what every program has. README's table is compared with this one by a test.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at the start of the process or of what it counts.
    Counter,
    /// A value of now.
    Gauge,
    /// How often values fell into each of fixed ranges.
    Histogram,
}

impl Kind {
    /// The word of the Prometheus text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// With prefix and unit.
    pub name: &'static str,
    /// Decides what a query may do with it.
    pub kind: Kind,
    /// Names of the labels, in the order of README's table.
    pub labels: &'static [&'static str],
    /// What `# HELP` says in the text format.
    pub help: &'static str,
}

macro_rules! table {
    ($($constant:ident $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// All metrics, in the order in which data flows.
        pub const TABLE: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

table! {
    BUILD_INFO "easq_build_info" Gauge ["version", "revision", "libtorch"]
        "Always 1; the version of the program, the commit (unknown where the build was not told) and the libtorch it was built with.";
    READY "easq_ready" Gauge ["role"]
        "1 while a role of this process (joiner, trainer or follower) is ready, else 0; a drain, for which /readyz says 503, changes nothing here.";

    JOIN_RECORDS "easq_join_records_total" Counter ["topic", "partition", "outcome"]
        "Committed input records since the group began, by final outcome; only partitions owned by this process.";
    JOIN_CONSUMED_RECORDS "easq_join_consumed_records_total" Counter ["topic", "partition"]
        "Committed input records since the group began: equals all outcomes plus those waiting.";
    JOIN_WAITING_RECORDS "easq_join_waiting_records" Gauge ["topic", "partition"]
        "Records in the join window that may still match.";
    JOIN_BUFFERED_BYTES "easq_join_buffered_bytes" Gauge ["topic", "partition"]
        "Memory of the join window.";
    JOIN_MAX_WAITING_BYTES "easq_join_max_waiting_bytes" Gauge []
        "What it may be in each input of a partition (join.max_waiting_bytes); the oldest records are pushed out there.";
    JOIN_HELD_RECORDS "easq_join_held_records" Gauge ["topic", "partition"]
        "Records that the join holds: those that wait, views kept to tell what repeats them, and views in open groups.";
    JOIN_MAX_WAITING_RECORDS "easq_join_max_waiting_records" Gauge []
        "How many they may be in each input of a partition (join.max_waiting_records); the oldest records are pushed out there.";
    JOIN_STREAM_TIME "easq_join_stream_time_seconds" Gauge ["topic", "partition"]
        "Greatest event time read, as Unix time.";
    JOIN_LAG_RECORDS "easq_join_lag_records" Gauge ["topic", "partition"]
        "Records between the position and the end of the partition.";
    JOIN_LAG_SECONDS "easq_join_lag_seconds" Gauge ["topic", "partition"]
        "Time since the last record read was written, 0 at the end of the partition.";
    JOIN_PAIRS "easq_join_pairs_total" Counter ["partition", "scope"]
        "Committed preference pairs since the group began.";
    JOIN_GROUPS "easq_join_groups_total" Counter ["partition", "outcome"]
        "Committed behavior groups since the group began, by outcome.";
    JOIN_UNGROUPED_VIEWS "easq_join_ungrouped_views_total" Counter ["partition", "reason"]
        "Committed views since the group began that are in no behavior group though in time, by reason.";
    JOIN_FORGOTTEN_VIEWS "easq_join_forgotten_views_total" Counter ["partition"]
        "Committed views since the group began that a memory bound made the join forget before what repeats them could be told.";

    JOINER_PARTITIONS "easq_joiner_partitions" Gauge ["instance"]
        "Partition numbers owned by a joiner instance.";
    JOINER_RECOVERING "easq_joiner_recovering_partitions" Gauge ["instance"]
        "Partition numbers owned by a joiner instance whose state is being rebuilt, and which give no output yet.";
    JOINER_REBALANCES "easq_joiner_rebalances_total" Counter ["kind"]
        "Changes of what a joiner instance owns: assigned, revoked, or lost (taken away without a chance to commit).";
    JOINER_REBALANCE_SECONDS "easq_joiner_rebalance_seconds" Histogram []
        "Time in which a joiner instance owned nothing: from its start, or from a revocation, until it reads what was assigned.";
    JOINER_TRANSACTIONS "easq_joiner_transactions_total" Counter ["result"]
        "Joiner transactions, committed or aborted.";
    JOINER_TRANSACTION_SECONDS "easq_joiner_transaction_seconds" Histogram []
        "Time from begin to commit of a joiner transaction.";
    JOINER_RECOVERY_SECONDS "easq_joiner_recovery_seconds" Histogram []
        "Time from the assignment of a partition until its state is rebuilt and it gives new output; not of those that kept their state.";
    JOINER_LABEL_SECONDS "easq_joiner_label_seconds" Histogram []
        "Time from the writing of the record that completed a label to the commit of the label.";
    JOINER_ANSWER_LABEL_SECONDS "easq_joiner_answer_to_label_seconds" Histogram []
        "Time from an answer, by its event time, to the commit of its label.";
    JOINER_LOST_OFFSETS "easq_joiner_lost_offsets_total" Counter ["topic", "partition"]
        "Input offsets that retention removed before the join had done with them.";
    JOINER_DROPPED_RECORDS "easq_joiner_dropped_records_total" Counter ["instance"]
        "Records handed out a second time or of partitions not owned, and dropped: any is a defect.";
    KAFKA_UNAVAILABLE "easq_kafka_unavailable" Gauge ["client"]
        "1 while a Kafka client is retrying, else 0.";

    TRAINER_OWNER "easq_trainer_owner" Gauge []
        "1 while this process trains the model, 0 while it stands by.";
    TRAINER_LAG_RECORDS "easq_trainer_lag_records" Gauge ["topic", "partition"]
        "Samples between the trainer's position and the end of the partition.";
    TRAINER_LAG_SECONDS "easq_trainer_lag_seconds" Gauge ["topic", "partition"]
        "Time since the last sample read was written, 0 at the end of the partition.";
    TRAINER_QUEUED "easq_trainer_queued_samples" Gauge ["topic"]
        "Samples read and not yet taken by training; train.queued_samples is the bound, at which an input waits.";
    TRAINER_LOST_OFFSETS "easq_trainer_lost_offsets_total" Counter ["topic", "partition"]
        "Input offsets that were gone before they were learned, and accepted as a gap.";
    TRAINER_REPEATED_RECORDS "easq_trainer_repeated_records_total" Counter ["topic"]
        "Records handed out a second time, and dropped: any is a defect.";
    TRAINER_SAMPLES "easq_trainer_samples_total" Counter ["kind"]
        "Samples taken into training: group or pair.";
    TRAINER_DROPPED "easq_trainer_dropped_samples_total" Counter ["kind", "reason"]
        "Samples that training refused.";
    TRAINER_ANSWER_PRODUCTION_SECONDS "easq_trainer_answer_to_production_seconds" Histogram []
        "Time from an answer, by the event time of its preference pair, until the first version that has learned the pair is production.";
    TRAIN_STEPS "easq_train_steps_total" Counter []
        "Training steps.";
    TRAIN_STEP_SECONDS "easq_train_step_seconds" Histogram []
        "Time of a training step, scoring before learning included.";
    TRAIN_BATCH "easq_train_batch_samples" Gauge ["kind"]
        "Size of the last step: groups, their views, behavior pairs among these (behavior_pair), and preference pairs drawn (preference_pair).";
    TRAIN_LEARNED "easq_train_learned_samples" Gauge ["kind"]
        "Samples that the model has learned since it began, over all restarts, each once: group or pair.";
    TRAIN_SKIPPED_BATCHES "easq_train_skipped_batches_total" Counter []
        "Batches skipped because a loss or gradient was not finite.";
    TRAIN_LOSS "easq_train_loss" Gauge ["term"]
        "Losses of the last step: main, satisfaction, dpo.";
    TRAIN_WIN_RATE "easq_train_win_rate" Gauge ["model", "kind"]
        "Progressive share of pairs ranked right before they were learned: of the model and its twin, on behavior and preference.";
    TRAIN_GRADIENT_NORM "easq_train_gradient_norm" Gauge ["group"]
        "Gradient norm of the last step, before clipping.";
    TRAIN_CLIPPED_STEPS "easq_train_clipped_steps_total" Counter []
        "Steps whose gradient was clipped (train.clip_norm).";
    TRAIN_DPO_WEIGHT "easq_train_dpo_weight" Gauge []
        "Weight of L_DPO (lambda 2) in the last step; train.price_control moves it.";
    TRAIN_BEHAVIOR_COST "easq_train_behavior_cost_points" Gauge []
        "Points of behavior accuracy that alignment costs against the twin, a mean over about 100 steps; train.behavior_budget_points is what it may cost.";
    TRAIN_PREFERENCE_STEPS "easq_train_preference_steps_total" Counter []
        "Steps that drew preference pairs.";
    TRAIN_DEAD_GATES "easq_train_dead_gates_ratio" Gauge ["expert"]
        "Share of the last batch's views for which the gate of a main expert was 0; of expert all, every gate.";
    TRAIN_GATE "easq_train_gate" Gauge ["expert"]
        "Mean gate of a main expert over the last batch's views: how much of it the score takes.";
    TRAIN_SCORE "easq_train_score" Gauge ["head", "statistic"]
        "Scores of the last batch: mean and min, of the main and the satisfaction head.";
    TRAIN_RESERVOIR_PAIRS "easq_train_reservoir_pairs" Gauge ["state"]
        "Preference pairs in the label reservoir: never_used or used.";
    TRAIN_RESERVOIR_DRAWS "easq_train_reservoir_draws" Gauge []
        "Draws per pair in the label reservoir, on average.";
    TRAIN_RESERVOIR_AGE "easq_train_reservoir_age_steps" Gauge []
        "Steps since a pair in the label reservoir came, on average.";

    PUBLISH_VERSIONS "easq_publish_versions_total" Counter ["kind"]
        "Versions published: serving or checkpoint.";
    PUBLISH_VERSION "easq_publish_version" Gauge ["kind"]
        "Number of the newest version of a kind.";
    PUBLISH_PRODUCTION "easq_publish_production_version" Gauge []
        "Number of the version that production points to.";
    PUBLISH_PRODUCTION_CREATED "easq_publish_production_created_seconds" Gauge []
        "When that version was published, as Unix time: its age is time() minus this.";
    PUBLISH_PRODUCTION_EVENT_TIME "easq_publish_production_event_time_seconds" Gauge []
        "Greatest event time among the samples of that version, as Unix time: how far production is behind is time() minus this.";
    PUBLISH_PAGES "easq_publish_pages_total" Counter ["state"]
        "Pages of published versions: written or reused.";
    PUBLISH_BYTES "easq_publish_bytes_total" Counter ["state"]
        "Bytes of these pages.";
    PUBLISH_ABORTS "easq_publish_aborts_total" Counter []
        "Transactions of a version that were aborted and tried again.";
    GATE_DECISIONS "easq_gate_decisions_total" Counter ["result"]
        "Versions that the gate has judged: passed, and became production, or refused.";
    GATE_REFUSALS "easq_gate_refusals_total" Counter ["test"]
        "Versions that did not become production, by the test that they failed: finite, offsets, stream, preference, behavior or rank_correlation.";
    GATE_DIFFERENCE "easq_gate_difference_points" Gauge ["kind", "statistic"]
        "Points of win rate of the model minus the gate's anchor, on behavior and preference: mean, and upper confidence bound.";
    GATE_RANK_CORRELATION "easq_gate_rank_correlation" Gauge []
        "Mean correlation within groups of the model's order of views with the anchor's.";
    GATE_STREAM_SUSPECT "easq_gate_stream_suspect" Gauge ["signal"]
        "1 while nothing of the stream is learned because of production's win rate on answers, on behavior, or because of features.";
    GATE_STREAM_WIN_RATE "easq_gate_stream_win_rate" Gauge ["signal", "span"]
        "Production's win rate on the pairs of the last answers and groups (signal answers or behavior): recent, and long_run.";
    GATE_FEATURE_SHIFT "easq_gate_feature_shift_deviations" Gauge []
        "How far the dense feature that has moved most has, recently against its long run, in standard deviations.";
    GATE_HELD_OUT "easq_gate_held_out_samples_total" Counter ["kind"]
        "Samples of a suspect stream that were scored and not learned: group or pair.";
    GATE_ROLLBACKS "easq_gate_rollbacks_total" Counter []
        "Returns of training to a checkpoint that had passed, after gate.rollback_after refusals in a row.";
    PUBLISH_SECONDS "easq_publish_seconds" Histogram []
        "Time of a publish, from the tensors to the commit.";

    FOLLOWER_VERSION "easq_follower_version" Gauge []
        "Number of the version that a follower has in place.";
    FOLLOWER_WANTED "easq_follower_wanted_version" Gauge []
        "Number of the version that readers should follow: the pinned one, else production.";
    FOLLOWER_CREATED "easq_follower_version_created_seconds" Gauge []
        "When that version was published, as Unix time: its age is time() minus this.";
    FOLLOWER_EVENT_TIME "easq_follower_event_time_seconds" Gauge []
        "Greatest event time among the samples of that version, as Unix time.";
    FOLLOWER_DELAY "easq_follower_delay_seconds" Histogram []
        "Time from the writing of the pointer to a version, just before its commit, until the version is in place; by both clocks.";
    FOLLOWER_PAGES "easq_follower_pages_total" Counter ["state"]
        "Pages of versions put in place: read or reused.";
    FOLLOWER_BYTES "easq_follower_bytes_total" Counter ["state"]
        "Bytes of these pages.";
    FOLLOWER_REFUSED "easq_follower_refused_versions_total" Counter ["reason"]
        "Versions that a follower did not take: no_manifest, wrong_manifest, newer_format, other_model, missing_page, wrong_page, disk or other.";

    PROCESS_CPU "process_cpu_seconds_total" Counter []
        "Time on processors, by the user and for the system.";
    PROCESS_RESIDENT_MEMORY "process_resident_memory_bytes" Gauge []
        "Resident memory.";
    PROCESS_VIRTUAL_MEMORY "process_virtual_memory_bytes" Gauge []
        "Virtual memory.";
    PROCESS_VIRTUAL_MEMORY_MAX "process_virtual_memory_max_bytes" Gauge []
        "The bound of virtual memory; 0 without one.";
    PROCESS_OPEN_FDS "process_open_fds" Gauge []
        "Open file descriptors.";
    PROCESS_MAX_FDS "process_max_fds" Gauge []
        "The bound of open file descriptors.";
    PROCESS_THREADS "process_threads" Gauge []
        "Threads.";
    PROCESS_START_TIME "process_start_time_seconds" Gauge []
        "Start of the process, as Unix time.";
}

/// The row of a metric.
///
/// # Panics
/// When `name` is not one of this module's constants.
pub(super) fn metric(name: &str) -> &'static Metric {
    TABLE.iter().find(|metric| metric.name == name).expect("every constant has its row")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions_of_prometheus() {
        let names: BTreeSet<_> = TABLE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for metric in TABLE {
            let is_ours = metric.name.starts_with("easq_") || metric.name.starts_with("process_");
            assert!(is_ours, "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            let is_duration = metric.name.ends_with("_seconds");
            assert!(metric.kind != Kind::Histogram || is_duration, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
