//! How many views a second one partition's join takes in, on one thread.

mod logs;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use easq::contract::InputRecord;
use easq::join::{Config, Effects, PartitionJoin, Side, Start};
use easq::settings::Settings;
use logs::{VIEWS, logs};

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
