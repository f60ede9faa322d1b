//! The stages between the logs: input, join, joiner, publishing, and the synthetic world.

use super::{Findings, max_payload_bytes};
use crate::settings::Settings;

const MAX_INSTANCES: usize = 64;

pub(super) fn input(settings: &Settings, findings: &mut Findings) {
    let input = &settings.input;
    let is_start =
        matches!(&*input.start, "earliest" | "latest") || input.start.parse::<jiff::Timestamp>().is_ok();
    let problem = "must be earliest, latest or a time such as 2026-01-31T12:00:00Z";
    findings.require(is_start, "input.start", problem);
    let max_bytes = max_payload_bytes(settings);
    let problem = format!("must be from 1024 to {max_bytes}: a dead letter carries the whole record");
    findings.require((1024..=max_bytes).contains(&input.max_record_bytes), "input.max_record_bytes", problem);
    findings.not_negative(input.max_clock_skew_ms, "input.max_clock_skew_ms");
    findings.positive(input.mis_keyed_sample_records, "input.mis_keyed_sample_records");
    findings.share(input.mis_keyed_max_ratio, "input.mis_keyed_max_ratio");
}

pub(super) fn join(settings: &Settings, findings: &mut Findings) {
    let join = &settings.join;
    findings.positive(join.window_ms, "join.window_ms");
    findings.not_negative(join.allowed_lateness_ms, "join.allowed_lateness_ms");
    findings.positive(join.idle_after_ms, "join.idle_after_ms");
    findings.positive(join.max_lead_ms, "join.max_lead_ms");
    let ratio = join.trigger_watched_ratio;
    findings.require(ratio >= 0.0, "join.trigger_watched_ratio", "must be a number that is not negative");
    findings.positive(join.group_span_ms, "join.group_span_ms");
    let problem = "must be at least 2: a group of one view has nothing to compare";
    findings.require(join.max_group_views >= 2, "join.max_group_views", problem);
    let max_bytes = max_payload_bytes(settings);
    let problem = format!("must be from 1024 to {max_bytes}: a group is one record, which the broker limits");
    findings.require((1024..=max_bytes).contains(&join.max_group_bytes), "join.max_group_bytes", problem);
    findings.share(join.behavior_sample_rate, "join.behavior_sample_rate");
    pairing(settings, findings);
    findings.positive(join.max_waiting_records, "join.max_waiting_records");
    let floor = settings.input.max_record_bytes;
    let problem = format!("must be at least input.max_record_bytes ({floor})");
    findings.require(join.max_waiting_bytes >= floor, "join.max_waiting_bytes", problem);
}

fn pairing(settings: &Settings, findings: &mut Findings) {
    let join = &settings.join;
    findings.positive(join.pair_lookback, "join.pair_lookback");
    let problem = format!("must be from 1 to join.pair_lookback ({})", join.pair_lookback);
    findings.require((1..=join.pair_lookback).contains(&join.ring_size), "join.ring_size", problem);
    findings.positive(join.pair_horizon_ms, "join.pair_horizon_ms");
    findings.positive(join.max_pairs_per_label, "join.max_pairs_per_label");
    findings.require(!join.pair_scopes.is_empty(), "join.pair_scopes", "must name at least one scope");
    findings.distinct(&join.pair_scopes, "join.pair_scopes");
}

pub(super) fn joiner(settings: &Settings, findings: &mut Findings) {
    let joiner = &settings.joiner;
    let problem = format!("must be from 1 to {MAX_INSTANCES}");
    findings.require((1..=MAX_INSTANCES).contains(&joiner.instances), "joiner.instances", problem);
    findings.require(!joiner.group.is_empty(), "joiner.group", "must not be empty");
    findings.positive(joiner.commit_interval_ms, "joiner.commit_interval_ms");
    findings.positive(joiner.poll_records, "joiner.poll_records");
    findings.session("joiner", joiner.session_timeout_ms, joiner.heartbeat_interval_ms);
    let session = joiner.session_timeout_ms;
    let problem = format!("must be at least joiner.session_timeout_ms ({session})");
    findings.require(joiner.max_poll_interval_ms >= session, "joiner.max_poll_interval_ms", problem);
    findings.transaction_timeout(joiner.transaction_timeout_ms, "joiner.transaction_timeout_ms");
    let commit = joiner.commit_interval_ms;
    let problem = format!("must be longer than joiner.commit_interval_ms ({commit})");
    findings.require(
        joiner.transaction_timeout_ms > commit,
        "joiner.transaction_timeout_ms",
        problem.clone(),
    );
    findings.require(joiner.drain_deadline_ms > commit, "joiner.drain_deadline_ms", problem);
}

pub(super) fn publish(settings: &Settings, findings: &mut Findings) {
    let publish = &settings.publish;
    findings.positive(publish.interval_ms, "publish.interval_ms");
    let problem = format!("must be at least publish.interval_ms ({})", publish.interval_ms);
    let is_ordered = publish.checkpoint_interval_ms >= publish.interval_ms;
    findings.require(is_ordered, "publish.checkpoint_interval_ms", problem);
    let max_bytes = max_payload_bytes(settings);
    let problem = format!("must be from 4096 to {max_bytes}: a page is one record, which the broker limits");
    findings.require((4096..=max_bytes).contains(&publish.page_bytes), "publish.page_bytes", problem);
    findings.positive(publish.keep_versions, "publish.keep_versions");
    findings.transaction_timeout(publish.transaction_timeout_ms, "publish.transaction_timeout_ms");
}

pub(super) fn gate(settings: &Settings, findings: &mut Findings) {
    let gate = &settings.gate;
    findings.positive(gate.min_answers, "gate.min_answers");
    let problem = format!("must be at least gate.min_answers ({})", gate.min_answers);
    findings.require(gate.window as u64 >= gate.min_answers, "gate.window", problem);
    findings.not_negative(gate.tolerance_points, "gate.tolerance_points");
    let is_correlation = (-1.0..=1.0).contains(&gate.min_rank_correlation);
    findings.require(is_correlation, "gate.min_rank_correlation", "must be from -1 to 1");
    findings.positive(gate.anchor_age_ms, "gate.anchor_age_ms");
    findings.require(gate.stream_window >= 20, "gate.stream_window", "must be at least 20");
    findings.not_negative(gate.stream_drop_points, "gate.stream_drop_points");
    findings.require(gate.feature_band > 0.0, "gate.feature_band", "must be above 0");
    findings.positive(gate.rollback_after, "gate.rollback_after");
}

pub(super) fn simulate(settings: &Settings, findings: &mut Findings) {
    let simulate = &settings.simulate;
    let counts = [
        (simulate.users, "simulate.users"),
        (simulate.videos, "simulate.videos"),
        (simulate.authors, "simulate.authors"),
        (simulate.topics, "simulate.topics"),
        (simulate.scenarios, "simulate.scenarios"),
    ];
    for (count, key) in counts {
        findings.positive(count, key);
    }
}
