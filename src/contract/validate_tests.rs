use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::contract::v1::{
    BehaviorEvent, Engagement, Features as V1Features, QuestionnaireResponse, SparseFeature,
};

const NOW_MS: i64 = 1_700_000_000_000;

fn limits() -> Limits {
    Limits {
        partitions: 1,
        partitioner: Partitioner::Murmur2Random,
        max_record_bytes: 4_096,
        max_clock_skew_ms: 1_000,
        schema_version: 7,
        dense_values: 3,
    }
}

fn event() -> BehaviorEvent {
    BehaviorEvent {
        impression_id: "impression".to_owned(),
        user_id: "user".to_owned(),
        video_id: "video".to_owned(),
        request_id: "request".to_owned(),
        scenario: "feed".to_owned(),
        event_time_ms: NOW_MS,
        engagement: Some(Engagement {
            watched_ms: 9_000,
            duration_ms: 20_000,
            liked: true,
            other: [("shared".to_owned(), 0.5)].into(),
            ..Engagement::default()
        }),
        questionnaire_exposed: Some(true),
        features: Some(V1Features {
            dense: vec![0.1, 0.2, 0.3],
            sparse: vec![SparseFeature { field: 1, ids: vec![1, u64::MAX] }],
            schema_version: 7,
        }),
        request_time_ms: NOW_MS - 5_000,
    }
}

fn answer() -> QuestionnaireResponse {
    QuestionnaireResponse {
        impression_id: "impression".to_owned(),
        user_id: "user".to_owned(),
        video_id: "video".to_owned(),
        scenario: String::new(),
        event_time_ms: NOW_MS,
        answer: Answer::Dissatisfied.into(),
        questionnaire_id: String::new(),
    }
}

fn record(payload: impl Into<Bytes>) -> InputRecord {
    InputRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(NOW_MS),
        key: Some(Bytes::from_static(b"user")),
        payload: Some(payload.into()),
    }
}

fn check_event(change: impl FnOnce(&mut BehaviorEvent)) -> Result<View, Rejection> {
    let mut event = event();
    change(&mut event);
    behavior(&record(event.encode_to_vec()), &limits())
}

fn check_answer(change: impl FnOnce(&mut QuestionnaireResponse)) -> Result<Response, Rejection> {
    let mut answer = answer();
    change(&mut answer);
    response(&record(answer.encode_to_vec()), &limits())
}

#[test]
fn a_valid_view_is_read_without_touching_its_bytes() {
    let payload = Bytes::from(event().encode_to_vec());
    let view = behavior(&record(payload.clone()), &limits()).unwrap();
    assert_eq!(view.payload.as_ptr(), payload.as_ptr());
    assert_eq!((view.impression_id(), view.user_id()), (&b"impression"[..], &b"user"[..]));
    assert_eq!((view.request_id(), view.scenario.of(&view.payload)), (&b"request"[..], &b"feed"[..]));
    assert_eq!((view.event_time_ms, view.request_time_ms), (NOW_MS, NOW_MS - 5_000));
    assert_eq!((view.watched_ms, view.duration_ms), (9_000, 20_000));
    assert_eq!(view.questionnaire_exposed, Some(true));
}

#[test]
fn a_valid_response_is_read() {
    let response = check_answer(|_| {}).unwrap();
    assert_eq!((response.impression_id(), response.user_id()), (&b"impression"[..], &b"user"[..]));
    assert_eq!((response.event_time_ms, response.answer), (NOW_MS, Answer::Dissatisfied));
}

#[test]
fn a_missing_id_is_rejected_by_name() {
    let missing = |field| Err(Rejection::MissingId { field });
    assert_eq!(check_event(|event| event.impression_id.clear()), missing("impression_id"));
    assert_eq!(check_event(|event| event.user_id.clear()), missing("user_id"));
    assert_eq!(check_event(|event| event.video_id.clear()), missing("video_id"));
    assert_eq!(check_event(|event| event.request_id.clear()), missing("request_id"));
    let missing = |field| Err(Rejection::MissingId { field });
    assert_eq!(check_answer(|answer| answer.impression_id.clear()), missing("impression_id"));
    assert_eq!(check_answer(|answer| answer.user_id.clear()), missing("user_id"));
    assert_eq!(check_answer(|answer| answer.video_id.clear()), missing("video_id"));
}

#[test]
fn an_id_of_128_bytes_is_taken_and_one_of_129_is_not() {
    assert!(check_event(|event| event.impression_id = "i".repeat(128)).is_ok());
    let oversized = Rejection::OversizedId { field: "impression_id", bytes: 129 };
    assert_eq!(check_event(|event| event.impression_id = "i".repeat(129)), Err(oversized));
    let oversized = Rejection::OversizedId { field: "scenario", bytes: 129 };
    assert_eq!(check_answer(|answer| answer.scenario = "s".repeat(129)), Err(oversized));
}

#[test]
fn a_scenario_may_be_absent() {
    assert!(check_event(|event| event.scenario.clear()).is_ok());
}

#[test]
fn request_time_lies_within_one_and_the_event_time() {
    for request_time_ms in [1, NOW_MS] {
        assert!(check_event(|event| event.request_time_ms = request_time_ms).is_ok());
    }
    for request_time_ms in [i64::MIN, 0, NOW_MS + 1] {
        let rejection = check_event(|event| event.request_time_ms = request_time_ms).unwrap_err();
        assert_eq!(rejection.as_str(), "request_time");
    }
}

#[test]
fn an_event_before_1970_is_rejected() {
    for event_time_ms in [i64::MIN, 0] {
        let rejection = check_answer(|answer| answer.event_time_ms = event_time_ms).unwrap_err();
        assert_eq!(rejection, Rejection::EventTime { event_time_ms });
    }
}

#[test]
fn an_event_may_lie_after_its_records_timestamp_by_the_clock_skew_and_no_more() {
    assert!(check_event(|event| event.event_time_ms = NOW_MS + 1_000).is_ok());
    let rejection = check_event(|event| event.event_time_ms = NOW_MS + 1_001).unwrap_err();
    assert_eq!(rejection.as_str(), "time_ahead");
    let rejection = check_answer(|answer| answer.event_time_ms = i64::MAX).unwrap_err();
    assert_eq!(rejection.as_str(), "time_ahead");
}

#[test]
fn a_record_without_a_timestamp_is_rejected() {
    let record = InputRecord { timestamp_ms: None, ..record(event().encode_to_vec()) };
    assert_eq!(behavior(&record, &limits()), Err(Rejection::NoTimestamp));
}

#[test]
fn features_are_there_once_with_the_right_version_and_length() {
    assert_eq!(check_event(|event| event.features = None), Err(Rejection::MissingFeatures));
    let twice = [
        event().encode_to_vec(),
        BehaviorEvent { features: event().features, ..Default::default() }.encode_to_vec(),
    ];
    assert_eq!(behavior(&record(twice.concat()), &limits()), Err(Rejection::RepeatedFeatures));
    let features =
        |change: fn(&mut V1Features)| check_event(|event| change(event.features.as_mut().unwrap()));
    let version = Rejection::WrongSchemaVersion { found: 8, expected: 7 };
    assert_eq!(features(|features| features.schema_version = 8), Err(version));
    let length = Rejection::WrongDenseLength { found: 2, expected: 3 };
    assert_eq!(features(|features| features.dense.truncate(2)), Err(length));
}

#[test]
fn unpacked_dense_values_count_like_packed_ones() {
    let mut features = Vec::new();
    for value in [0.1f32, 0.2, 0.3] {
        features.push(1 << 3 | 5);
        features.extend(value.to_le_bytes());
    }
    features.extend([3 << 3, 7]);
    let mut payload = BehaviorEvent { features: None, ..event() }.encode_to_vec();
    payload.extend([9 << 3 | 2, u8::try_from(features.len()).unwrap()]);
    payload.extend(features);
    assert!(behavior(&record(payload), &limits()).is_ok());
}

#[test]
fn an_unknown_answer_is_rejected() {
    for number in [0, 4, -1] {
        let rejection = check_answer(|response| response.answer = number).unwrap_err();
        assert_eq!(rejection, Rejection::UnknownAnswer { answer: number });
    }
}

#[test]
fn a_record_is_too_large_above_the_bound_and_not_at_it() {
    let bytes = event().encode_to_vec().len();
    let check = |max_record_bytes| {
        behavior(&record(event().encode_to_vec()), &Limits { max_record_bytes, ..limits() })
    };
    assert!(check(bytes).is_ok());
    assert_eq!(check(bytes - 1), Err(Rejection::TooLarge { bytes, max_bytes: bytes - 1 }));
}

#[test]
fn a_key_other_than_the_user_or_in_another_partition_is_mis_keyed() {
    for key in [None, Some(Bytes::from_static(b"another"))] {
        let record = InputRecord { key, ..record(event().encode_to_vec()) };
        assert_eq!(behavior(&record, &limits()), Err(Rejection::KeyNotUserId));
    }
    let limits = Limits { partitions: 8, ..limits() };
    let expected = partitioner::murmur2_random(b"user", 8);
    let at = |partition| behavior(&InputRecord { partition, ..record(event().encode_to_vec()) }, &limits);
    assert!(at(expected).is_ok());
    let found = (expected + 1) % 8;
    assert_eq!(at(found), Err(Rejection::WrongPartition { expected, found }));
}

#[test]
fn a_tombstone_or_garbage_is_undecodable() {
    let tombstone = InputRecord { payload: None, ..record(Bytes::new()) };
    assert_eq!(behavior(&tombstone, &limits()).unwrap_err().as_str(), "undecodable");
    assert_eq!(response(&record(&b"not protobuf"[..]), &limits()).unwrap_err().as_str(), "undecodable");
}

#[test]
fn unknown_fields_are_no_error_and_groups_are() {
    let with =
        |extra: &[u8]| behavior(&record([event().encode_to_vec(), extra.to_vec()].concat()), &limits());
    assert!(with(&[0xa0, 0x06, 1]).is_ok());
    assert_eq!(with(&[0xa3, 0x06, 0xa4, 0x06]).unwrap_err().as_str(), "undecodable");
}

/// A valid encoding of `event`, damaged in places.
fn damaged(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (damage, any::<prop::sample::Index>(), any::<bool>()).prop_map(move |(damage, end, is_cut)| {
        let mut bytes = valid.clone();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if is_cut {
            bytes.truncate(end.index(valid.len()));
        }
        bytes
    })
}

/// What prost makes of a view must be what the walk over the wire made of it: whoever reads an
/// output that carries these bytes reads them with prost.
fn assert_agrees_on_view(bytes: &[u8]) {
    let decoded = BehaviorEvent::decode(bytes);
    match (ViewFields::read(bytes), decoded) {
        (Ok(fields), Ok(event)) => {
            let payload = Bytes::copy_from_slice(bytes);
            let view = &fields.view;
            assert_eq!(view.impression_id.of(&payload), event.impression_id.as_bytes());
            assert_eq!(view.user_id.of(&payload), event.user_id.as_bytes());
            assert_eq!(fields.video_id.of(&payload), event.video_id.as_bytes());
            assert_eq!(view.request_id.of(&payload), event.request_id.as_bytes());
            assert_eq!(view.scenario.of(&payload), event.scenario.as_bytes());
            assert_eq!(
                (view.event_time_ms, view.request_time_ms),
                (event.event_time_ms, event.request_time_ms)
            );
            assert_eq!(view.questionnaire_exposed, event.questionnaire_exposed);
            let engagement = event.engagement.unwrap_or_default();
            assert_eq!((view.watched_ms, view.duration_ms), (engagement.watched_ms, engagement.duration_ms));
            assert_eq!(fields.features.is_some(), event.features.is_some());
            if let (Some(skimmed), Some(features), false) =
                (fields.features, event.features, fields.features_repeated)
            {
                assert_eq!(skimmed.schema_version, features.schema_version);
                assert_eq!(skimmed.dense_values, features.dense.len());
            }
        }
        (Err(malformed), Ok(_)) => assert_eq!(malformed, Malformed("a field is a group")),
        (Ok(_), Err(error)) => panic!("taken, but prost says {error}"),
        (Err(_), Err(_)) => {}
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = behavior(&record(bytes.clone()), &limits());
        let _ = response(&record(bytes.clone()), &limits());
        assert_agrees_on_view(&bytes);
    }

    #[test]
    fn a_damaged_view_is_read_as_prost_reads_it(bytes in damaged(event().encode_to_vec())) {
        let _ = behavior(&record(bytes.clone()), &limits());
        assert_agrees_on_view(&bytes);
    }

    #[test]
    fn a_damaged_response_is_read_as_prost_reads_it(bytes in damaged(answer().encode_to_vec())) {
        let decoded = QuestionnaireResponse::decode(&bytes[..]);
        match response(&record(bytes), &limits()) {
            Ok(response) => {
                let decoded = decoded.unwrap();
                prop_assert_eq!(response.impression_id(), decoded.impression_id.as_bytes());
                prop_assert_eq!(response.event_time_ms, decoded.event_time_ms);
                prop_assert_eq!(response.answer, decoded.answer());
            }
            Err(Rejection::Undecodable { detail }) => {
                prop_assert!(decoded.is_err() || detail == "a field is a group");
            }
            Err(_) => prop_assert!(decoded.is_ok()),
        }
    }
}
