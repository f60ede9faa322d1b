//! Input records as producers would write them, and settings that fit small numbers.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use crate::contract::InputRecord;
use crate::contract::v1::{Answer, BehaviorEvent, Engagement, Features, QuestionnaireResponse};
use crate::join::Config;
use crate::settings::Settings;

pub const WINDOW_MS: i64 = 30;
pub const LATENESS_MS: i64 = 6;
pub const SPAN_MS: i64 = 20;
/// Records lie at every third offset, as they may in a log that transactions wrote.
pub const OFFSET_STEP: i64 = 3;

/// Settings with short times, one partition, and nothing that holds an input back.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.join.window_ms = WINDOW_MS;
    settings.join.allowed_lateness_ms = LATENESS_MS;
    settings.join.group_span_ms = SPAN_MS;
    settings.join.max_lead_ms = i64::MAX;
    settings.join.pair_lookback = 6;
    settings.join.ring_size = 3;
    settings.join.max_pairs_per_label = 2;
    settings.join.max_scenario_pairs = 1;
    settings.join.pair_horizon_ms = 40;
    settings.join.max_group_views = 4;
    settings.input.mis_keyed_sample_records = 0;
    settings.features.dense = vec!["one".to_owned()];
    settings.features.sparse = Vec::new();
    settings
}

pub fn config(settings: &Settings) -> Arc<Config> {
    let mut config = Config::new(settings, 1);
    // A replay reads nothing that is not needed, so that what is needed and missing shows.
    config.replay_stretch_records = 1;
    Arc::new(config)
}

#[derive(Debug, Clone, PartialEq)]
pub struct TestView {
    pub impression: u8,
    pub user: u8,
    pub request: u8,
    pub request_time_ms: i64,
    pub event_time_ms: i64,
    pub is_eligible: bool,
    pub is_broken: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TestResponse {
    pub impression: u8,
    pub user: u8,
    pub event_time_ms: i64,
    pub answer: Answer,
    pub is_broken: bool,
}

/// An eligible view of user 0, alone in its request.
pub fn view(impression: u8, event_time_ms: i64) -> TestView {
    TestView {
        impression,
        user: 0,
        request: impression,
        request_time_ms: event_time_ms,
        event_time_ms,
        is_eligible: true,
        is_broken: false,
    }
}

/// A satisfied response of user 0.
pub fn response(impression: u8, event_time_ms: i64) -> TestResponse {
    TestResponse { impression, user: 0, event_time_ms, answer: Answer::Satisfied, is_broken: false }
}

pub fn scenario_of(impression: u8) -> String {
    format!("scenario-{}", impression % 2)
}

pub fn view_records(views: &[TestView]) -> Vec<InputRecord> {
    let encode = |view: &TestView| BehaviorEvent {
        impression_id: format!("impression-{}", view.impression),
        user_id: format!("user-{}", view.user),
        video_id: "video".to_owned(),
        request_id: format!("request-{}", view.request),
        scenario: scenario_of(view.impression),
        event_time_ms: view.event_time_ms,
        engagement: Some(Engagement { watched_ms: 1_000, duration_ms: 60_000, ..Engagement::default() }),
        questionnaire_exposed: Some(view.is_eligible),
        features: (!view.is_broken).then(|| Features { dense: vec![0.5], sparse: vec![], schema_version: 1 }),
        request_time_ms: view.request_time_ms,
    };
    views.iter().enumerate().map(|(at, view)| record(at, view.user, &encode(view))).collect()
}

pub fn response_records(responses: &[TestResponse]) -> Vec<InputRecord> {
    let encode = |response: &TestResponse| QuestionnaireResponse {
        impression_id: format!("impression-{}", response.impression),
        user_id: format!("user-{}", response.user),
        video_id: if response.is_broken { String::new() } else { "video".to_owned() },
        scenario: String::new(),
        event_time_ms: response.event_time_ms,
        answer: response.answer.into(),
        questionnaire_id: "q".to_owned(),
    };
    responses.iter().enumerate().map(|(at, response)| record(at, response.user, &encode(response))).collect()
}

fn record(at: usize, user: u8, message: &impl Message) -> InputRecord {
    InputRecord {
        partition: 0,
        offset: at as i64 * OFFSET_STEP,
        timestamp_ms: Some(1_000_000),
        key: Some(Bytes::from(format!("user-{user}"))),
        payload: Some(message.encode_to_vec().into()),
    }
}

/// Event times that go forward with ties, jitter up to the bound of lateness, and stragglers.
fn event_times(most: usize) -> impl Strategy<Value = Vec<i64>> {
    let jitter = prop_oneof![
        4 => Just(0i64),
        2 => 0..=LATENESS_MS,
        1 => Just(LATENESS_MS),
        1 => Just(LATENESS_MS + 1),
        1 => 0..3 * WINDOW_MS,
    ];
    let step = prop_oneof![8 => 0i64..6, 1 => 0..2 * WINDOW_MS];
    prop::collection::vec((step, jitter), 0..most).prop_map(|steps| {
        let mut now_ms = 200;
        let mut times = Vec::new();
        for (step, jitter) in steps {
            now_ms += step;
            times.push(now_ms - jitter);
        }
        times
    })
}

pub fn view_log(most: usize) -> impl Strategy<Value = Vec<TestView>> {
    let rest = (0u8..4, prop_oneof![5 => Just(0u8), 1 => Just(1)], 0u8..2, 0i64..4, any::<u8>());
    (event_times(most), prop::collection::vec(rest, most)).prop_map(|(times, rest)| {
        let view = |(event_time_ms, (impression, user, request, requests_back, dice)): (i64, _)| {
            let dice: u8 = dice;
            TestView {
                impression,
                user,
                request,
                request_time_ms: event_time_ms / 8 * 8 - 8 * requests_back,
                event_time_ms,
                is_eligible: !dice.is_multiple_of(4),
                is_broken: dice % 32 == 1,
            }
        };
        times.into_iter().zip(rest).map(view).collect()
    })
}

pub fn response_log(most: usize) -> impl Strategy<Value = Vec<TestResponse>> {
    let answer = prop_oneof![Just(Answer::Satisfied), Just(Answer::Dissatisfied), Just(Answer::Uncertain)];
    let rest = (0u8..5, prop_oneof![5 => Just(0u8), 1 => Just(1)], answer, 0u8..32);
    (event_times(most), prop::collection::vec(rest, most)).prop_map(|(times, rest)| {
        let response = |(event_time_ms, (impression, user, answer, dice)): (i64, _)| TestResponse {
            impression,
            user,
            event_time_ms,
            answer,
            is_broken: dice == 1,
        };
        times.into_iter().zip(rest).map(response).collect()
    })
}
