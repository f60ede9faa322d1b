//! A checkpoint holds everything that the next step depends on (invariant 10).

mod learning;

use easq::model::{Dtype, HostTensor};
use easq::settings::{Dpo, Switch};
use easq::train::{TrainError, Trainer};
use learning::{Samples, checkpoint, differences, settings, source};

/// Pairs arrive in bursts, one step in three.
fn advance(trainer: &mut Trainer, samples: &mut Samples, steps: usize) {
    for step in 0..steps {
        for (index, pair) in samples.pairs(if step % 3 == 0 { 40 } else { 0 }).iter().enumerate() {
            trainer.offer_pair(pair, source(100 * step + index));
        }
        trainer.step(&samples.groups(16)).unwrap();
    }
}

#[test]
fn a_restored_trainer_goes_on_bit_for_bit() {
    let (live, pairs, off) = (Dpo::Live, Dpo::Pairs, Dpo::Off);
    let (on, fixed) = (Switch::On, Switch::Off);
    // λ2 moves from step 101 on.
    let cases = [
        (live, on, Dtype::F32, 1),
        (live, on, Dtype::F32, 37),
        (live, on, Dtype::F32, 110),
        (live, on, Dtype::F64, 25),
        (live, fixed, Dtype::F32, 25),
        (pairs, on, Dtype::F32, 110),
        (pairs, fixed, Dtype::F32, 25),
        (off, on, Dtype::F32, 25),
    ];
    for (dpo, price_control, dtype, steps) in cases {
        let what = format!("{dpo:?} {price_control:?} {dtype:?} after {steps} steps");
        let mut settings = settings(dpo);
        settings.train.price_control = price_control;
        settings.train.reservoir_pairs = 256;
        settings.train.normalizer_views = 5_000;
        settings.train.progressive_pairs = 3_000;
        let mut samples = Samples::new(10);
        let mut uninterrupted = Trainer::with_dtype(&settings, dtype).unwrap();
        advance(&mut uninterrupted, &mut samples, steps);

        let saved = checkpoint(&uninterrupted);
        let weight = learning::tensor(&saved, "training.price").to_f64().unwrap()[0];
        assert_eq!(weight != 0.3, dpo == off || price_control == fixed || steps > 100, "{what}: {weight}");
        let mut restored = Trainer::restore(&settings, saved.clone()).unwrap();
        assert_eq!(differences(&saved, &checkpoint(&restored)), Vec::<String>::new(), "{what}");
        // Samples are a function of their seed too: the same ones for both.
        let mut again = Samples::new(11);
        advance(&mut uninterrupted, &mut Samples::new(11), 30);
        advance(&mut restored, &mut again, 30);
        let (left, right) = (checkpoint(&uninterrupted), checkpoint(&restored));
        assert_eq!(differences(&left, &right), Vec::<String>::new(), "{what}");
        assert_eq!(uninterrupted.progressive(), restored.progressive(), "{what}");
        assert_ne!(differences(&saved, &left), Vec::<String>::new());
    }
}

#[test]
fn equal_seeds_give_equal_models_and_a_model_never_trained_can_be_resumed() {
    let settings = settings(Dpo::Live);
    let first = checkpoint(&Trainer::new(&settings).unwrap());
    assert_eq!(first, checkpoint(&Trainer::new(&settings).unwrap()));
    assert_eq!(first, checkpoint(&Trainer::restore(&settings, first.clone()).unwrap()));
    let mut other = settings.clone();
    other.model.seed = 2;
    assert!(differences(&first, &checkpoint(&Trainer::new(&other).unwrap())).len() > 10);
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_with_every_fault_named() {
    let mut settings = settings(Dpo::Live);
    let mut tensors = checkpoint(&Trainer::new(&settings).unwrap());
    tensors.retain(|tensor| tensor.name != "training.twin.main.gate.bias");
    tensors.push(HostTensor::from_i64("training.unheard_of", &[1]));
    settings.features.sparse[1].rows = 9;
    let Err(TrainError::Load(error)) = Trainer::restore(&settings, tensors) else {
        panic!("it fits");
    };
    assert_eq!(error.missing, ["training.twin.main.gate.bias"]);
    assert_eq!(error.extra, ["training.unheard_of"]);
    let tables = ["", "training.twin."].map(|prefix| {
        format!("{prefix}embeddings.video.weight is F32 [8192, 8] of 262144 bytes, expected F32 [9, 8]")
    });
    assert_eq!(error.misshapen[..2], tables);
    assert_eq!(error.misshapen.len(), 4, "the two accumulators as well: {error}");
}
