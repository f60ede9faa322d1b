//! Input records with everything filled in that validation asks for; tests change what they are about.

use easq::contract::v1::{Answer, BehaviorEvent, Engagement, Features, QuestionnaireResponse, SparseFeature};
use easq::settings::Settings;

/// A view of `impression` by `user` that ended at `event_time_ms`: watched to the end, so that it
/// is eligible, in a request of its own, with features as the default settings want them.
pub fn view(user: &str, impression: &str, event_time_ms: i64) -> BehaviorEvent {
    let schema = Settings::default().features;
    BehaviorEvent {
        impression_id: impression.to_owned(),
        user_id: user.to_owned(),
        video_id: format!("video-of-{impression}"),
        request_id: format!("request-of-{impression}"),
        scenario: "feed".to_owned(),
        event_time_ms,
        engagement: Some(Engagement { watched_ms: 20_000, duration_ms: 20_000, ..Engagement::default() }),
        questionnaire_exposed: None,
        features: Some(Features {
            dense: vec![0.5; schema.dense.len()],
            sparse: schema.sparse.iter().map(|s| SparseFeature { field: s.field, ids: vec![7] }).collect(),
            schema_version: schema.schema_version,
        }),
        request_time_ms: event_time_ms - 20_000,
    }
}

/// What `user` answered at `event_time_ms` about the view of `impression` that [`view`] builds.
pub fn response(user: &str, impression: &str, event_time_ms: i64, answer: Answer) -> QuestionnaireResponse {
    QuestionnaireResponse {
        impression_id: impression.to_owned(),
        user_id: user.to_owned(),
        video_id: format!("video-of-{impression}"),
        scenario: "feed".to_owned(),
        event_time_ms,
        answer: answer.into(),
        questionnaire_id: "satisfied/1".to_owned(),
    }
}
