//! What rankers do with a model, in programs that know nothing of easq: Python follows the topic with
//! an ordinary Kafka client and scores in PyTorch, and the peft library loads a followed LoRA. Both
//! give the scores of `easq score`. Run by `make interop`.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use easq::contract::v1;
use easq::settings::Settings;
use serde::Deserialize;
use support::lineage::registry;
use support::{Easq, Line, Samples, eventually, group, interpreter, python_of};

const DEADLINE: Duration = Duration::from_secs(120);
const TOLERANCE: f64 = 1e-5;

/// Views that the model has not seen, some with several ids in a field or none.
fn views() -> Vec<v1::BehaviorEvent> {
    (0..5).flat_map(|number| group(10_000 + number).views).collect()
}

/// A line whose trainer has published, and the folder where this test keeps its files.
struct Published {
    line: Line,
    settings: Settings,
    trainer: Easq,
    samples: Samples,
    groups: u32,
    dir: tempfile::TempDir,
}

impl Published {
    fn new(prefix: &str) -> Self {
        let line = Line::new(prefix).set("publish.interval_ms", 200).set("train.batch_age_ms", 20);
        line.create_topics(1);
        let settings = line.settings();
        let samples = Samples::new(&settings, 1);
        let trainer = line.start(&["run", "--role", "trainer"]);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let lines = views().into_iter().map(|view| serde_json::to_string(&view).expect("JSON") + "\n");
        fs::write(dir.path().join("views.jsonl"), lines.collect::<String>()).expect("written");
        Self { line, settings, trainer, samples, groups: 0, dir }
    }

    /// Lets the trainer learn `count` more groups, and waits until production has.
    fn learn(&mut self, count: u32) {
        self.samples.write(count);
        self.groups += count;
        eventually(DEADLINE, "all groups are learned by production", || {
            self.production().is_some_and(|manifest| {
                manifest.behavior_groups_learned == u64::from(self.groups)
                    && manifest.preference_pairs_learned > 0
            })
        });
    }

    fn production(&self) -> Option<v1::Manifest> {
        registry(&self.settings).production_manifest().map(|manifest| (**manifest).clone())
    }

    fn stop(&mut self) {
        self.trainer.terminate();
        assert!(self.trainer.wait(DEADLINE).success());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The version in place after `easq follow --once`, and the scores that `easq score` gives with it.
    fn followed(&self) -> (u64, Vec<f64>) {
        let (model, views) = (self.file("model"), self.file("views.jsonl"));
        let arguments = ["follow", "--once", "--dir", text(&model)];
        let (status, output) = Easq::run(self.line.arguments(&arguments), DEADLINE);
        assert!(status.success(), "{output}");
        let (manifest, _) = easq::publish::read_current(&model).expect("whole");
        let arguments = ["score", "--dir", text(&model), "--views", text(&views)];
        let output = Command::new(env!("CARGO_BIN_EXE_easq")).args(arguments).output();
        let output = output.expect("the binary that cargo built starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        #[derive(Deserialize)]
        struct Scored {
            score: f64,
        }
        let scored = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Scored>();
        (manifest.version, scored.map(|scored| scored.expect("a score").score).collect())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!((found.len(), expected.len()), (20, 20));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    let greatest = differences.fold(0.0, f64::max);
    println!("greatest difference {greatest:e}");
    assert!(greatest <= TOLERANCE, "{found:?} differs from {expected:?}");
}

/// `examples/follow.py` as a child process; killed when dropped.
struct Example {
    process: Child,
    versions: mpsc::Receiver<Scores>,
}

#[derive(Debug, Deserialize)]
struct Scores {
    version: u64,
    scores: Vec<f64>,
}

impl Example {
    fn start(published: &Published) -> Self {
        let settings = &published.settings;
        let name = &settings.model.name;
        let mut process = Command::new(interpreter("interop-env"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/follow.py"))
            .args([
                &settings.kafka.bootstrap_servers,
                &settings.topics.model(name),
                &settings.topics.registry(name),
            ])
            .arg(published.file("views.jsonl"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter starts");
        let printed = BufReader::new(process.stdout.take().expect("a piped standard output"));
        let (sender, versions) = mpsc::channel();
        thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                let scores = serde_json::from_str(&line).expect("a version with its scores");
                if sender.send(scores).is_err() {
                    break;
                }
            }
        });
        Self { process, versions }
    }

    /// What it printed of a version; what it printed before is let go.
    #[track_caller]
    fn of_version(&self, version: u64) -> Vec<f64> {
        let began = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed());
            let next = self.versions.recv_timeout(left).expect("it follows and prints");
            assert!(next.version <= version, "version {} after {version}", next.version);
            if next.version == version {
                return next.scores;
            }
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_example_follows_the_topic_and_scores_in_pytorch_as_easq_does() {
    let mut published = Published::new("rankers-example");
    published.learn(300);
    let example = Example::start(&published);
    let first = example.versions.recv_timeout(DEADLINE).expect("it loads what is there");
    published.learn(200);
    published.stop();
    let (version, scores) = published.followed();
    assert!(version > first.version);
    assert_close(&example.of_version(version), &scores);
}

#[test]
fn the_peft_library_loads_a_followed_lora_and_scores_as_easq_does() {
    let mut published = Published::new("rankers-peft");
    published.learn(300);
    published.stop();
    let (_, scores) = published.followed();
    let folder = easq::publish::current(&published.file("model")).expect("a version");
    let said = python_of(
        "interop-env",
        include_str!("rankers_peft.py"),
        &[text(&folder), text(&published.file("views.jsonl"))],
    );
    #[derive(Deserialize)]
    struct Said {
        scores: Vec<f64>,
        bare: Vec<f64>,
    }
    let said: Said = serde_json::from_str(&said).expect("JSON");
    assert_close(&said.scores, &scores);
    let share = said.scores.iter().zip(&said.bare).map(|(with, without)| (with - without).abs());
    assert!(share.fold(0.0, f64::max) > 10.0 * TOLERANCE, "LoRA moves no score: {:?}", said.scores);
}

/// A module of PyTorch gives `model.backbone`; what is trained on it has every bit of it.
#[test]
fn a_backbone_that_was_made_in_pytorch_is_adapted_and_stays_as_it_was() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let settings = Line::new("backbone").settings();
    let fields: Vec<_> = settings.features.sparse.iter().map(|f| (&f.name, f.rows, f.dim)).collect();
    let sizes = serde_json::json!({
        "fields": fields, "dense": settings.features.dense.len(), "hidden": settings.model.hidden_dim,
    });
    let make = r#"
import json, sys
import torch
from safetensors.torch import save_file
sizes = json.loads(sys.argv[1])
torch.manual_seed(48)

class Normalizer(torch.nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.register_buffer("mean", 0.1 * torch.randn(dense))
        self.register_buffer("std", 1.0 + torch.rand(dense))

class Backbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        tables = {name: torch.nn.EmbeddingBag(rows, dim, mode="mean") for name, rows, dim in sizes["fields"]}
        self.embeddings = torch.nn.ModuleDict(tables)
        width = sum(dim for _, _, dim in sizes["fields"]) + sizes["dense"]
        self.projection = torch.nn.Linear(width, sizes["hidden"])
        self.normalizer = Normalizer(sizes["dense"])

save_file(Backbone().state_dict(), sys.argv[2])
"#;
    python_of("interop-env", make, &[&sizes.to_string(), &path("backbone.safetensors")]);
    let samples = path("samples.pb");
    let simulate = ["simulate", "--views", "4000", "--samples", &samples];
    let (status, output) = Easq::run(simulate, DEADLINE);
    assert!(status.success(), "{output}");
    let backbone = format!("model.backbone={}", path("backbone.safetensors"));
    let model = path("model");
    let train = ["train", "--samples", &samples, "--output", &model, "--set", &backbone];
    let (status, output) = Easq::run(train, DEADLINE);
    assert!(status.success(), "{output}");
    let check = r#"
import sys
import torch
from safetensors.torch import load_file
before, after = load_file(sys.argv[1]), load_file(sys.argv[2])
assert all(torch.equal(after[name], tensor) for name, tensor in before.items()), "the backbone has changed"
print(sum(name.startswith("main.") for name in after))
"#;
    let heads =
        python_of("interop-env", check, &[&path("backbone.safetensors"), &path("model/model.safetensors")]);
    assert_eq!(heads.trim(), "6", "the main head was trained beside it");
}
