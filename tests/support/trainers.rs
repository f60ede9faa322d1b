//! Trainer processes on a line.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use tempfile::TempDir;

use super::lineage::{self, Logs};
use super::{Easq, Kafka, Line, eventually};

/// Long enough for any step of a test on a busy machine.
pub const SOON: Duration = Duration::from_secs(90);
pub const PARTITIONS: i32 = 2;

/// A line whose trainer publishes many times a second, with its topics.
pub fn line(prefix: &str) -> Line {
    line_on(Kafka::shared(), prefix)
}

/// The same on other brokers.
pub fn line_on(kafka: &Kafka, prefix: &str) -> Line {
    let line = Line::on(kafka, prefix)
        .set("publish.interval_ms", 100)
        .set("publish.checkpoint_interval_ms", 700)
        .set("train.batch_groups", 8)
        .set("train.batch_age_ms", 20)
        // No stall of the machine costs a trainer its model.
        .set("train.session_timeout_ms", 60_000)
        // These samples mean nothing: no version is better than another one.
        .set("gate.warmup_steps", 1_000_000);
    line.create_topics(PARTITIONS);
    line
}

/// A process of `easq run --role trainer` on a disk of its own that nobody has used before.
pub struct Trainer {
    pub process: Easq,
    line: Line,
    _home: TempDir,
}

impl Trainer {
    pub fn start(line: &Line) -> Self {
        Self::start_with(line, "")
    }

    /// `failpoints`: what happens at which point of the program, as [`easq::supervise::failpoint`]
    /// reads it.
    pub fn start_with(line: &Line, failpoints: &str) -> Self {
        let disk = tempfile::tempdir().expect("an empty disk");
        let home = disk.path().to_str().expect("a path in UTF-8");
        let environment = [("HOME", home), ("TMPDIR", home), ("FAILPOINTS", failpoints)];
        let process = Easq::start_with(line.arguments(&["run", "--role", "trainer"]), environment);
        Self { process, line: line.clone(), _home: disk }
    }

    /// SIGTERM; it must drain and exit with code 0. Readers see its last version then.
    #[track_caller]
    pub fn stop(mut self) {
        self.process.terminate();
        let status = self.process.wait(SOON);
        assert_eq!(status.code(), Some(0), "{status}: {}", self.process.output());
        let settings = self.line.settings();
        self.line.kafka().settle(&settings.topics.registry(&settings.model.name));
    }

    /// Waits for the end that a failpoint brings: by SIGKILL, and no other.
    #[track_caller]
    pub fn wait_for_death(&mut self) {
        const SIGKILL: i32 = 9;
        let status = self.process.wait(SOON);
        assert_eq!(status.signal(), Some(SIGKILL), "{status}: {}", self.process.output());
    }

    /// Waits until another owns the model and this process ends for it: with exit code 3, and words
    /// that name the model and say what to do.
    #[track_caller]
    pub fn wait_for_fence(&mut self) {
        let status = self.process.wait(SOON);
        let output = self.process.output();
        assert_eq!(status.code(), Some(3), "{status}: {output}");
        let last = output.lines().last().expect("a process that fails says why");
        assert!(last.contains(&self.line.settings().model.name) && last.contains("restart"), "{last}");
    }

    /// How many versions it has published, as it says itself.
    pub fn published(&self) -> usize {
        self.process.output().matches("version published").count()
    }
}

/// Waits until production has learned everything that lies in the inputs now.
#[track_caller]
pub fn production_learns_all(line: &Line) {
    production_learns_all_while(line, || {});
}

/// As [`production_learns_all`], doing something between two looks.
#[track_caller]
pub fn production_learns_all_while(line: &Line, mut meanwhile: impl FnMut()) {
    let settings = line.settings();
    let logs = Logs::read(&settings);
    eventually(SOON, "production has learned everything", || {
        meanwhile();
        let registry = lineage::registry(&settings);
        registry.production_manifest().is_some_and(|manifest| logs.are_learned(manifest))
    });
}
