//! How many views a second one partition's join takes in, on one thread.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use easq::contract::InputRecord;
use easq::contract::v1::{Answer, BehaviorEvent, Engagement, Features, QuestionnaireResponse, SparseFeature};
use easq::join::{Config, Effects, PartitionJoin, Side, Start};
use easq::settings::Settings;
use prost::Message;

const VIEWS: u64 = 200_000;
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
fn logs(dense: usize) -> (Vec<InputRecord>, Vec<InputRecord>) {
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

fn run(config: &Arc<Config>, views: &[InputRecord], responses: &[InputRecord]) -> usize {
    let mut join = PartitionJoin::new(Arc::clone(config), 0, Start::At(0), Start::At(0));
    let (mut effects, mut emitted) = (Effects::default(), 0);
    for (number, view) in views.iter().enumerate() {
        if number % 100 == 0 {
            let response = &responses[number / 100];
            join.on_response(response.clone(), &mut effects).expect("a valid log");
        }
        join.on_view(view.clone(), &mut effects).expect("a valid log");
        if number % 1_000 == 0 {
            emitted += effects.outputs.len();
            effects.outputs.clear();
            black_box(join.frontier());
        }
    }
    assert_eq!(join.outcomes(Side::Views).consumed(), VIEWS);
    emitted + effects.outputs.len()
}

fn join(criterion: &mut Criterion) {
    let settings = Settings::default();
    let config = Arc::new(Config::new(&settings, 1));
    let (views, responses) = logs(settings.features.dense.len());
    let mut group = criterion.benchmark_group("join");
    group.throughput(Throughput::Elements(VIEWS)).sample_size(10);
    group.bench_function("views", |bencher| {
        bencher.iter_batched(|| (), |()| run(&config, &views, &responses), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, join);
criterion_main!(benches);
