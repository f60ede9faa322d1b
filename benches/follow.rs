//! How fast rankers have a version: a follower that starts on an empty folder, and one that follows
//! small changes of a large model. Fails when one of the bounds below is missed.
//!
//! ```text
//! scripts/with-kafka cargo bench --bench follow -- --updates 200
//! ```
//!
//! Publisher and broker are real; the follower is the library's, in this process, with its files on
//! the disk of the temporary folder. The tensors are random, so that nothing can be compressed.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use comfy_table::Table;
use easq::contract::v1::VersionKind;
use easq::model::{Dtype, HostTensor};
use easq::publish::registry::PRODUCTION;
use easq::publish::{Candidate, FollowEvent, Follower};
use easq::supervise::StopToken;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use support::model::{Model, candidate};
use support::{Kafka, Line, Record};

/// From the first call that connects to the version in place, at the 99th percentile.
const COLD_BOUND: Duration = Duration::from_secs(2);
/// From the writing of the pointer, just before the commit, to the version in place, likewise.
const HOT_BOUND: Duration = Duration::from_millis(200);
const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// Starts followers on empty folders, then publishes small changes to one that runs.
#[derive(Parser)]
struct Arguments {
    /// Size of the model.
    #[arg(long, default_value_t = 50)]
    model_mib: usize,
    /// What an update changes of it.
    #[arg(long, default_value_t = 1)]
    change_mib: usize,
    /// How many versions follow each other.
    #[arg(long, default_value_t = 200)]
    updates: u32,
    /// How often a follower starts on an empty folder.
    #[arg(long, default_value_t = 10)]
    starts: u32,
    /// Contents and places of the changes follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// cargo hands it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A model most of which is one table, as with embeddings.
struct Weights {
    table: Bytes,
    change: usize,
    random: StdRng,
}

impl Weights {
    fn new(arguments: &Arguments) -> Self {
        let mut random = StdRng::seed_from_u64(arguments.seed);
        let mut table = vec![0; arguments.model_mib * MIB];
        random.fill_bytes(&mut table);
        Self { table: table.into(), change: arguments.change_mib * MIB, random }
    }

    /// Changes whole pages somewhere in the table.
    fn change(&mut self) {
        let mut table = BytesMut::from(&self.table[..]);
        let places = (table.len() - self.change) / (MIB / 2);
        let start = self.random.random_range(0..=places) * (MIB / 2);
        self.random.fill_bytes(&mut table[start..start + self.change]);
        self.table = table.freeze();
    }

    fn candidate(&self, step: u64) -> Candidate {
        let (name, data) = ("embeddings.video.weight".to_owned(), self.table.clone());
        let table = HostTensor { name, dtype: Dtype::U8, shape: vec![data.len()], data };
        let mut tensors = candidate(step).tensors;
        tensors.push(table);
        Candidate { kind: VersionKind::Serving, tensors, ..candidate(step) }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let line = Line::new("follow-bench").set("publish.keep_versions", 2);
    let mut model = Model::new(&line);
    let mut weights = Weights::new(&arguments);
    model.publish(weights.candidate(1));
    println!(
        "{} MiB, of which an update changes {} MiB, seed {}",
        arguments.model_mib, arguments.change_mib, arguments.seed
    );
    let cold: Vec<Duration> = (0..arguments.starts).map(|_| cold_start(&model)).collect();
    let (publish, hot) = updates(&mut model, &mut weights, arguments.updates);
    report(cold, publish, hot)
}

/// A follower that starts: from the first call that connects to the version in place.
fn cold_start(model: &Model) -> Duration {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut follower = model.follow(dir.path());
    let began = Instant::now();
    assert_eq!(next_version(&mut follower), model.newest);
    began.elapsed()
}

fn next_version(follower: &mut Follower) -> u64 {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "no version within {PATIENCE:?}");
        match follower.poll(POLL).expect("a registry that can be read") {
            Some(FollowEvent::Loaded { manifest, .. }) => return manifest.version,
            Some(kept @ FollowEvent::Kept { .. }) => panic!("{kept:?}"),
            None => {}
        }
    }
}

/// One version after the other; how long each took to publish, and how long from the writing of its
/// pointer until it was in place.
fn updates(model: &mut Model, weights: &mut Weights, updates: u32) -> (Vec<Duration>, Vec<Duration>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut follower = Follower::new(&model.settings, dir.path(), 3, &StopToken::new()).expect("a follower");
    let (sender, in_place) = mpsc::channel();
    let follow =
        thread::spawn(move || while sender.send((next_version(&mut follower), SystemTime::now())).is_ok() {});
    in_place.recv_timeout(PATIENCE).expect("the version that is there");
    let (mut publish, mut places) = (Vec::new(), HashMap::new());
    for step in 2..u64::from(updates) + 2 {
        weights.change();
        let began = Instant::now();
        model.publish(weights.candidate(step));
        publish.push(began.elapsed());
        let (version, at) = in_place.recv_timeout(PATIENCE).expect("the next version");
        assert_eq!(version, model.newest);
        places.insert(version, at);
    }
    drop(in_place);
    // It ends with the next version.
    model.publish(weights.candidate(u64::from(updates) + 2));
    follow.join().expect("the follower does not panic");
    (publish, delays(model, &places))
}

/// By the timestamps of the pointers in the log.
fn delays(model: &Model, places: &HashMap<u64, SystemTime>) -> Vec<Duration> {
    let pointers = Kafka::shared().read_to_end(&model.registry_topic()).into_iter();
    let delay = |record: Record| {
        let pointer: easq::contract::v1::VersionPointer = record.decode();
        let written = Duration::from_millis(record.timestamp_ms?.cast_unsigned());
        let place = places.get(&pointer.version)?;
        Some(place.duration_since(SystemTime::UNIX_EPOCH + written).unwrap_or_default())
    };
    pointers.filter(|record| record.key.as_deref() == Some(PRODUCTION.as_bytes())).filter_map(delay).collect()
}

fn report(mut cold: Vec<Duration>, mut publish: Vec<Duration>, mut hot: Vec<Duration>) -> ExitCode {
    let mut table = Table::new();
    table.set_header(["", "times", "p50", "p99", "max"]);
    for (name, times) in [
        ("start on an empty folder, connecting included", &mut cold),
        ("publish of an update", &mut publish),
        ("update, from just before its commit to in place", &mut hot),
    ] {
        times.sort();
        let cells =
            [0.5, 0.99, 1.0].map(|share| format!("{:.0} ms", quantile(times, share).as_secs_f64() * 1e3));
        table.add_row([&[name.to_owned(), times.len().to_string()][..], &cells].concat());
    }
    println!("{table}");
    let mut holds = true;
    for (name, times, bound) in [("start", &cold, COLD_BOUND), ("update", &hot, HOT_BOUND)] {
        let reached = quantile(times, 0.99);
        let verdict = if reached <= bound { "holds" } else { "does NOT hold" };
        println!("{name}: p99 {reached:.0?}, at most {bound:?}: the bound {verdict}");
        holds &= reached <= bound;
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The least value that at least this share of the sorted values does not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
