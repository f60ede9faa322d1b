//! What a ranker does with a version: load it whole, score with it.

use easq::contract::v1::{Features, SparseFeature};
use easq::model::{Architecture, HostTensor, Scorer};
use easq::settings::Settings;
use easq::train::Trainer;

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.train.device = "cpu".into();
    settings
}

fn scorer() -> Scorer {
    let settings = settings();
    let tensors = Trainer::new(&settings).unwrap().serving_tensors();
    Scorer::from_tensors(&Architecture::from_settings(&settings), tensors).unwrap()
}

fn view(first: f32) -> Features {
    let mut dense = vec![0.25; 16];
    dense[0] = first;
    let sparse = vec![SparseFeature { field: 2, ids: vec![u64::MAX, 3] }];
    Features { dense, sparse, schema_version: 1 }
}

#[test]
fn a_view_scores_the_same_alone_and_among_others_and_a_field_given_twice_is_one() {
    let scorer = scorer();
    let (first, second) = (view(1.0), view(-1.0));
    let both = scorer.score(&[&first, &second]).unwrap();
    let alone = scorer.score(&[&second]).unwrap();
    // Single precision: the order of sums may differ with the number of rows.
    assert!((both[1] / alone[0] - 1.0).abs() < 1e-6, "{both:?} {alone:?}");
    assert_ne!(both[0], both[1]);
    let mut split = second.clone();
    split.sparse = [u64::MAX, 3].map(|id| SparseFeature { field: 2, ids: vec![id] }).to_vec();
    assert_eq!(scorer.score(&[&split]).unwrap(), alone);
    assert_eq!(scorer.score(&[]).unwrap(), Vec::<f64>::new());
}

#[test]
fn features_that_do_not_fit_are_refused_by_position_and_reason() {
    let error = scorer().score(&[&view(0.0), &view(f32::NAN)]).unwrap_err();
    assert_eq!(error.to_string(), "view 1 cannot be scored: non_finite_feature");
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let settings = settings();
    let mut tensors = Trainer::new(&settings).unwrap().serving_tensors();
    tensors.retain(|tensor| tensor.name != "main.gate.bias");
    tensors.push(HostTensor::from_i64("optimizer", &[1]));
    let std = tensors.iter_mut().find(|tensor| tensor.name == "normalizer.std").unwrap();
    *std = HostTensor::from_f32("normalizer.std", vec![16], &[0.0; 16]);
    let error = Scorer::from_tensors(&Architecture::from_settings(&settings), tensors).err().unwrap();
    assert_eq!(error.missing, ["main.gate.bias"]);
    assert_eq!(error.extra, ["optimizer"]);
    assert_eq!(error.misshapen, ["normalizer.std has values that are not above 0"]);
}

#[test]
fn a_serving_version_holds_the_public_table_of_names_and_shapes() {
    let tensors = Trainer::new(&settings()).unwrap().serving_tensors();
    let table: Vec<_> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
    let expected: [(&str, &[usize]); 22] = [
        ("embeddings.author.weight", &[1024, 8]),
        ("embeddings.topic.weight", &[64, 8]),
        ("embeddings.user.weight", &[4096, 8]),
        ("embeddings.video.weight", &[8192, 8]),
        ("main.experts.hidden.bias", &[4, 16]),
        ("main.experts.hidden.weight", &[4, 16, 32]),
        ("main.experts.output.bias", &[4]),
        ("main.experts.output.weight", &[4, 16]),
        ("main.gate.bias", &[4]),
        ("main.gate.weight", &[4, 32]),
        ("normalizer.mean", &[16]),
        ("normalizer.std", &[16]),
        ("projection.bias", &[32]),
        ("projection.lora_A.weight", &[4, 48]),
        ("projection.lora_B.weight", &[32, 4]),
        ("projection.weight", &[32, 48]),
        ("satisfaction.experts.hidden.bias", &[2, 16]),
        ("satisfaction.experts.hidden.weight", &[2, 16, 32]),
        ("satisfaction.experts.output.bias", &[2]),
        ("satisfaction.experts.output.weight", &[2, 16]),
        ("satisfaction.gate.bias", &[2]),
        ("satisfaction.gate.weight", &[2, 32]),
    ];
    assert_eq!(table, expected);
}
