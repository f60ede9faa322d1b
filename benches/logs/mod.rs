//! Two logs of one partition.

use bytes::Bytes;
use easq::contract::InputRecord;
use easq::contract::v1::{Answer, BehaviorEvent, Engagement, Features, QuestionnaireResponse, SparseFeature};
use prost::Message;

/// Views in the log.
pub const VIEWS: u64 = 200_000;
const START_MS: i64 = 1_700_000_000_000;

fn record(offset: u64, event_time_ms: i64, user_id: &str, message: &impl Message) -> InputRecord {
    InputRecord {
        partition: 0,
        offset: offset.cast_signed(),
        timestamp_ms: Some(event_time_ms),
        key: Some(Bytes::copy_from_slice(user_id.as_bytes())),
        payload: Some(message.encode_to_vec().into()),
    }
}

/// Requests of eight views, 500 views a second; of every hundred views one is answered a minute later.
pub fn logs(dense: usize) -> (Vec<InputRecord>, Vec<InputRecord>) {
    let (mut views, mut responses) = (Vec::new(), Vec::new());
    for number in 0..VIEWS {
        let request = number / 8;
        let event_time_ms = START_MS + number.cast_signed() * 2;
        let user_id = format!("user-{:07}", request % 50_000);
        let impression_id = format!("impression-{number:012}");
        let id = |field| SparseFeature { field, ids: vec![number.wrapping_mul(0x9e37_79b9_7f4a_7c15)] };
        let view = BehaviorEvent {
            impression_id: impression_id.clone(),
            user_id: user_id.clone(),
            video_id: format!("video-{:07}", number % 2_500),
            request_id: format!("request-{request:012}"),
            scenario: "feed".to_owned(),
            event_time_ms,
            engagement: Some(Engagement { watched_ms: 9_000, duration_ms: 20_000, ..Engagement::default() }),
            questionnaire_exposed: None,
            features: Some(Features {
                dense: vec![0.5; dense],
                sparse: (1..=4).map(id).collect(),
                schema_version: 1,
            }),
            request_time_ms: START_MS + (request * 16).cast_signed(),
        };
        views.push(record(number, event_time_ms, &user_id, &view));
        if number % 100 == 0 {
            let response = QuestionnaireResponse {
                impression_id,
                user_id: user_id.clone(),
                video_id: view.video_id,
                scenario: String::new(),
                event_time_ms: event_time_ms + 60_000,
                answer: if number % 200 == 0 { Answer::Satisfied } else { Answer::Dissatisfied }.into(),
                questionnaire_id: "q1".to_owned(),
            };
            responses.push(record(number / 100, event_time_ms + 60_000, &user_id, &response));
        }
    }
    (views, responses)
}
