//! Adapter mode: on a backbone made elsewhere, which never changes, LoRA and both heads are trained
//! and published.

mod learning;
mod support;

use std::collections::BTreeSet;
use std::path::Path;

use easq::contract::v1::Manifest;
use easq::model::{Dtype, HostTensor};
use easq::settings::{Dpo, Settings};
use easq::train::{Loss, Trainer, behavior_only_tensors};
use learning::{checkpoint, differences, source, tensor};
use support::lineage::registry;
use support::trainers::{PARTITIONS, SOON, Trainer as Process, line, production_learns_all};
use support::{Line, python};

/// What a backbone consists of, with the default features.
const BACKBONE: [&str; 8] = [
    "embeddings.author.weight",
    "embeddings.topic.weight",
    "embeddings.user.weight",
    "embeddings.video.weight",
    "normalizer.mean",
    "normalizer.std",
    "projection.bias",
    "projection.weight",
];

fn settings() -> Settings {
    let mut settings = learning::settings(Dpo::Live);
    settings.model.backbone = "made elsewhere".into();
    settings
}

/// As another model has learned it, in the precision asked for.
fn backbone(dtype: Dtype) -> Vec<HostTensor> {
    let mut elsewhere = Trainer::with_dtype(&learning::settings(Dpo::Off), dtype).unwrap();
    let mut samples = learning::Samples::new(40);
    for _ in 0..5 {
        elsewhere.step(&samples.groups(16)).unwrap();
    }
    let tensors = elsewhere.serving_tensors();
    let of_backbone = tensors.into_iter().filter(|tensor| BACKBONE.contains(&tensor.name.as_str()));
    let backbone: Vec<_> = of_backbone.collect();
    assert_eq!(backbone.len(), BACKBONE.len());
    backbone
}

fn adapted() -> Trainer {
    Trainer::adapting(&settings(), Dtype::F32, backbone(Dtype::F32)).unwrap()
}

fn advance(trainer: &mut Trainer, seed: u64, steps: usize) {
    let mut samples = learning::Samples::new(seed);
    for step in 0..steps {
        for (index, pair) in samples.pairs(8).iter().enumerate() {
            trainer.offer_pair(pair, source(8 * step + index));
        }
        trainer.step(&samples.groups(16)).unwrap();
    }
}

#[test]
fn the_backbone_stays_as_it_came_to_the_bit_and_everything_else_learns() {
    let backbone = backbone(Dtype::F32);
    let mut trainer = adapted();
    let before = trainer.serving_tensors();
    advance(&mut trainer, 41, 10);
    let after = trainer.serving_tensors();
    for of_backbone in &backbone {
        assert_eq!(tensor(&after, &of_backbone.name), of_backbone);
    }
    let changed: BTreeSet<_> = differences(&before, &after).into_iter().collect();
    let learned = before.iter().map(|tensor| tensor.name.clone());
    let learned: BTreeSet<_> = learned.filter(|name| !BACKBONE.contains(&name.as_str())).collect();
    assert_eq!(changed, learned);
}

#[test]
fn invariant_6_no_loss_has_a_gradient_by_the_frozen_backbone() {
    let mut trainer = adapted();
    advance(&mut trainer, 42, 2);
    let mut samples = learning::Samples::new(43);
    let (groups, pairs) = (samples.groups(4), samples.pairs(4));
    for loss in [Loss::Main, Loss::Satisfaction, Loss::Dpo] {
        let (_, gradients) = trainer.gradients_of(loss, &groups, &pairs).unwrap();
        let of_loss =
            if loss == Loss::Satisfaction { ["satisfaction.", "projection.lora_"] } else { ["main."; 2] };
        for gradient in gradients {
            let is_zero = gradient.to_f64().unwrap().iter().all(|value| *value == 0.0);
            let is_reached = of_loss.iter().any(|prefix| gradient.name.starts_with(prefix));
            assert!(!BACKBONE.contains(&gradient.name.as_str()), "{}", gradient.name);
            assert_eq!(is_zero, !is_reached, "{loss:?} by {}", gradient.name);
        }
    }
}

#[test]
fn its_checkpoint_goes_on_bit_for_bit_and_holds_the_backbone_once() {
    let mut uninterrupted = adapted();
    advance(&mut uninterrupted, 44, 10);
    let saved = checkpoint(&uninterrupted);
    assert!(saved.iter().all(|tensor| !tensor.name.starts_with("training.twin.embeddings.")));
    let mut restored = Trainer::restore(&settings(), saved.clone()).unwrap();
    restored.check_backbone(backbone(Dtype::F32)).unwrap();
    advance(&mut uninterrupted, 45, 10);
    advance(&mut restored, 45, 10);
    let none = Vec::<String>::new();
    assert_eq!(differences(&checkpoint(&uninterrupted), &checkpoint(&restored)), none);

    let twin = behavior_only_tensors(&saved).unwrap();
    assert_eq!(tensor(&twin, "projection.weight"), tensor(&saved, "projection.weight"));
    assert_eq!(tensor(&twin, "main.gate.weight").data, tensor(&saved, "training.twin.main.gate.weight").data);
}

#[test]
fn either_precision_is_taken() {
    for (of_file, of_training) in [(Dtype::F64, Dtype::F32), (Dtype::F32, Dtype::F64)] {
        let file = backbone(of_file);
        let mut trainer = Trainer::adapting(&settings(), of_training, file.clone()).unwrap();
        trainer.check_backbone(file.clone()).unwrap();
        advance(&mut trainer, 46, 2);
        let std = tensor(&file, "normalizer.std").to_f64().unwrap();
        let rounded = |value: &f64| if of_training == Dtype::F32 { f64::from(*value as f32) } else { *value };
        let served = tensor(&trainer.serving_tensors(), "normalizer.std").to_f64().unwrap();
        assert_eq!(served, std.iter().map(rounded).collect::<Vec<_>>());
        let restored = Trainer::restore(&settings(), checkpoint(&trainer)).unwrap();
        restored.check_backbone(file).unwrap();
    }
}

#[test]
fn a_missing_an_extra_and_a_misshapen_tensor_are_named_together() {
    let mut tensors = backbone(Dtype::F32);
    tensors.retain(|tensor| tensor.name != "projection.bias");
    tensors.push(HostTensor::from_f32("main.gate.bias", vec![4], &[0.0; 4]));
    let mean = tensors.iter_mut().find(|tensor| tensor.name == "normalizer.mean").unwrap();
    *mean = HostTensor::from_f32("normalizer.mean", vec![2], &[0.0; 2]);
    let std = tensors.iter_mut().find(|tensor| tensor.name == "normalizer.std").unwrap();
    *std = HostTensor::from_f32("normalizer.std", vec![16], &[0.0; 16]);
    let error = Trainer::adapting(&settings(), Dtype::F32, tensors).err().unwrap().to_string();
    for part in [
        "model.backbone",
        "missing projection.bias",
        "not part of it main.gate.bias",
        "normalizer.mean is F32 [2]",
        "normalizer.std has elements that are not between",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_backbone_with_a_value_that_is_not_finite_in_the_precision_of_training_is_refused_by_name() {
    let with = |name: &str, value: f64| {
        let mut tensors = backbone(Dtype::F64);
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let mut values = tensor.to_f64().unwrap();
        *values.last_mut().unwrap() = value;
        *tensor = HostTensor::from_f64(name, tensor.shape.clone(), &values);
        Trainer::adapting(&settings(), Dtype::F32, tensors).err().map(|error| error.to_string())
    };
    assert_eq!(with("normalizer.mean", 1.0), None);
    for (name, value) in [
        ("normalizer.mean", f64::NAN),
        ("embeddings.user.weight", f64::INFINITY),
        ("projection.weight", 1e39),
    ] {
        let error = with(name, value).expect("refused");
        assert!(error.contains(&format!("{name} has a value that is not finite")), "{error}");
    }
}

#[test]
fn no_trainer_begins_with_a_backbone_that_nobody_gave() {
    let error = Trainer::new(&settings()).err().expect("refused").to_string();
    assert!(error.contains("model.backbone = \"made elsewhere\""), "{error}");
}

#[test]
fn another_backbone_than_the_one_that_was_trained_on_is_refused_by_name() {
    let mut other = backbone(Dtype::F32);
    let bias = other.iter_mut().find(|tensor| tensor.name == "projection.bias").unwrap();
    let mut bytes = bias.data.to_vec();
    bytes[0] ^= 1;
    bias.data = bytes.into();
    let error = adapted().check_backbone(other).unwrap_err().to_string();
    assert!(error.contains("projection.bias has other values"), "{error}");
    assert!(!error.contains("projection.weight"), "{error}");
}

/// Writes a backbone for the settings as a program without easq does.
fn write_backbone(settings: &Settings, path: &Path) {
    let fields: Vec<_> = settings.features.sparse.iter().map(|f| (&f.name, f.rows, f.dim)).collect();
    let k =
        settings.features.dense.len() as u32 + settings.features.sparse.iter().map(|f| f.dim).sum::<u32>();
    let sizes = serde_json::json!({
        "fields": fields, "dense": settings.features.dense.len(), "k": k, "hidden": settings.model.hidden_dim,
    });
    let program = r#"
import json, sys
import numpy as np
from safetensors.numpy import save_file
sizes, rng = json.loads(sys.argv[1]), np.random.default_rng(47)
normal = lambda *shape: (0.1 * rng.standard_normal(shape)).astype(np.float32)
tensors = {f"embeddings.{name}.weight": normal(rows, dim) for name, rows, dim in sizes["fields"]}
tensors["projection.weight"] = normal(sizes["hidden"], sizes["k"])
tensors["projection.bias"] = normal(sizes["hidden"])
tensors["normalizer.mean"] = normal(sizes["dense"])
tensors["normalizer.std"] = np.ones(sizes["dense"], np.float32)
save_file(tensors, sys.argv[2])
"#;
    python(program, &[&sizes.to_string(), path.to_str().unwrap()]);
}

fn pages_of(manifest: &Manifest, name: &str) -> Vec<i64> {
    let tensors = manifest.tensors.iter().filter(|tensor| tensor.name == name);
    tensors.flat_map(|tensor| &tensor.pages).map(|page| page.offset).collect()
}

#[test]
fn the_service_publishes_the_backbone_of_a_file_once_and_goes_on_only_with_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backbone.safetensors");
    let line: Line = line("adapter").set("model.backbone", file.display());
    let settings = line.settings();
    write_backbone(&settings, &file);
    let mut samples = support::Samples::new(&settings, PARTITIONS);
    for _ in 0..2 {
        let trainer = Process::start(&line);
        samples.write(200);
        production_learns_all(&line);
        samples.write(200);
        production_learns_all(&line);
        trainer.stop();
    }
    let registry = registry(&settings);
    let (first, last) =
        (registry.versions.values().next().unwrap(), registry.versions.values().last().unwrap());
    assert!(last.version > first.version + 2);
    for name in BACKBONE {
        assert!(!pages_of(first, name).is_empty(), "{name}");
        assert_eq!(pages_of(first, name), pages_of(last, name), "{name}");
    }
    assert_ne!(pages_of(first, "main.gate.weight"), pages_of(last, "main.gate.weight"));
    assert!(last.shape.as_ref().unwrap().frozen_backbone);

    let other = "import sys; from safetensors.numpy import load_file, save_file; t = load_file(sys.argv[1]); \
                 t['projection.bias'] += 1; save_file(t, sys.argv[1])";
    python(other, &[file.to_str().unwrap()]);
    let mut refused = Process::start(&line);
    assert_eq!(refused.process.wait(SOON).code(), Some(1));
    let output = refused.process.output();
    assert!(output.contains("projection.bias has other values than the model was trained with"), "{output}");
}
