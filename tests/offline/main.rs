//! `easq train` and `easq evaluate` on files, without Kafka: what they write and say is a function of
//! the files alone (invariant 10).

mod evaluate;
#[path = "../support/mod.rs"]
mod support;
mod train;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use easq::contract::samples::{SampleReader, SampleWriter};
use easq::contract::v1::Sample;
use easq::kafka::client::property_fault;
use easq::settings::{Settings, Sources, load};
use support::Easq;

const DEADLINE: Duration = Duration::from_secs(120);
const VIEWS: usize = 6_000;
/// Few places in the reservoir, so that pairs close batches too; statistics that freeze on the way.
const SETTINGS: [&str; 5] = [
    "train.device=cpu",
    "train.batch_groups=8",
    "train.reservoir_pairs=32",
    "train.normalizer_views=3000",
    "train.progressive_pairs=2000",
];

fn settings() -> Settings {
    let overrides = SETTINGS.map(str::to_owned).to_vec();
    let sources = Sources { file: None, environment: Vec::new(), overrides };
    load(&sources, property_fault).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The stream and the held-out lists of one small world with many answers.
fn world() -> &'static (tempfile::TempDir, PathBuf, PathBuf) {
    static WORLD: OnceLock<(tempfile::TempDir, PathBuf, PathBuf)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (samples, lists) = (dir.path().join("stream.pb"), dir.path().join("lists.jsonl"));
        let (views, users) = (VIEWS.to_string(), "120");
        let many = ["--exposure", "0.5", "--answer-rate", "0.4", "--lists", "60", "--seed", "3"];
        let world = ["simulate", "--views", &views, "--users", users, "--start", "2026-01-01T00:00:00Z"];
        let written = ["--samples", text(&samples), "--held-out", text(&lists)];
        let (status, output) = Easq::run([&world[..], &many, &written].concat(), DEADLINE);
        assert!(status.success(), "{output}");
        (dir, samples, lists)
    })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

fn read(path: &Path) -> Vec<Sample> {
    SampleReader::open(path).expect("a sample file").map(|sample| sample.expect("a sample")).collect()
}

fn write(path: &Path, samples: &[Sample]) {
    let mut writer = SampleWriter::create(path).expect("a new file");
    samples.iter().for_each(|sample| writer.write(sample).expect("it is written"));
    writer.finish().expect("it is written");
}

/// The command line of `easq train` with the settings of these tests.
fn command(samples: &Path, output: &Path, more: &[&str]) -> Vec<String> {
    let words = ["train", "--samples", text(samples), "--output", text(output)];
    let sets = SETTINGS.iter().flat_map(|setting| ["--set", setting]);
    words.into_iter().chain(sets).chain(more.iter().copied()).map(str::to_owned).collect()
}

#[track_caller]
fn train(samples: &Path, output: &Path, more: &[&str]) -> String {
    let (status, output) = Easq::run(command(samples, output, more), DEADLINE);
    assert!(status.success(), "{output}");
    output
}
