//! How long a step and an arriving pair take on one core: 16 groups of 8 views, the default model
//! with its twin, 16 preference pairs drawn on each step.

#[path = "../tests/learning/mod.rs"]
mod learning;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use easq::settings::Dpo;
use easq::train::Trainer;
use learning::{Samples, settings, source};

fn train_step(criterion: &mut Criterion) {
    let mut samples = Samples::new(1);
    let batches: Vec<_> = (0..50).map(|_| samples.groups(16)).collect();
    let pairs = samples.pairs(2000);
    for dpo in [Dpo::Live, Dpo::Pairs] {
        let mut trainer = Trainer::new(&settings(dpo)).expect("a CPU");
        let (mut step, mut offered) = (0, 0);
        criterion.bench_function(&format!("step of 16 groups, 16 pairs, {dpo:?}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    for _ in 0..16 {
                        trainer.offer_pair(&pairs[offered % pairs.len()], source(offered));
                        offered += 1;
                    }
                    step += 1;
                    let started = Instant::now();
                    trainer.step(&batches[step % batches.len()]).expect("finite samples");
                    elapsed += started.elapsed();
                }
                elapsed
            });
        });
    }
    let mut trainer = Trainer::new(&settings(Dpo::Live)).expect("a CPU");
    let mut offered = 0;
    criterion.bench_function("arrival of a pair", |bencher| {
        bencher.iter(|| {
            // A full reservoir would refuse: a step without groups makes room.
            if trainer.is_full() {
                trainer.step(&[]).expect("finite samples");
            }
            offered += 1;
            trainer.offer_pair(&pairs[offered % pairs.len()], source(offered))
        });
    });
}

criterion_group!(benches, train_step);
criterion_main!(benches);
