//! Other processes read a followed folder while versions are swapped and its follower is killed: each
//! of their reads finds one whole version (invariant 8). They are Python programs that know nothing of
//! easq.

mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use easq::model::HostTensor;
use easq::publish::{Candidate, FollowEvent, Follower, current, read_current};
use easq::supervise::StopToken;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use serde::Deserialize;
use support::folders::names;
use support::model::{DEADLINE, Model, candidate, next_event, small_pages, tensor};
use support::{Easq, Line, eventually, interpreter};

const KEPT: usize = 3;

/// A Python process that reads the current version over and over; killed when dropped.
struct Reader(Child);

/// What a reader found.
#[derive(Debug, Deserialize)]
struct Seen {
    whole: u64,
    versions: u64,
    overtaken: u64,
    newest: u64,
}

impl Reader {
    fn start(dir: &Path) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/follow_reader.py");
        let reader = Command::new(interpreter("python-env"))
            .arg(program)
            .arg(dir)
            .arg(KEPT.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(reader.expect("the interpreter starts"))
    }

    fn has_failed(&mut self) -> bool {
        self.0.try_wait().expect("a child of this process").is_some()
    }

    /// Lets it end; what it could not read whole it has said on standard error.
    #[track_caller]
    fn end(mut self) -> Seen {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().expect("a piped standard output").read_to_string(&mut said).expect("UTF-8");
        assert!(self.0.wait().expect("a child of this process").success(), "a reader has failed");
        let seen: Seen = serde_json::from_str(&said).expect("JSON");
        println!("{seen:?}");
        seen
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A seed that is printed, for the case that a run fails.
fn random() -> StdRng {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// A version of a model of this size, of which one part changes each time.
struct Weights {
    table: Vec<u8>,
    random: StdRng,
}

impl Weights {
    fn new(bytes: usize, mut random: StdRng) -> Self {
        let mut table = vec![0; bytes];
        random.fill_bytes(&mut table);
        Self { table, random }
    }

    fn next(&mut self, step: u64) -> Candidate {
        let end = self.random.random_range(1..=self.table.len());
        let start = self.random.random_range(end.saturating_sub(self.table.len() / 8)..end);
        self.random.fill_bytes(&mut self.table[start..end]);
        let mut tensors = candidate(step).tensors;
        // In the file of LoRA too there is something that every version has anew.
        tensors.retain(|tensor| !tensor.name.starts_with("projection.lora_"));
        tensors.push(HostTensor::from_i64("projection.lora_A.weight", &[step as i64]));
        tensors.push(tensor("embeddings.video.weight", self.table.clone()));
        Candidate { tensors, ..candidate(step) }
    }
}

/// What a follower has begun to write, or to remove.
fn leftovers(dir: &Path) -> usize {
    let begun = |name: &String| name.starts_with(".easq-");
    names(dir).iter().chain(&names(&dir.join("versions"))).filter(|name| begun(name)).count()
}

#[test]
fn invariant_8_processes_that_race_with_a_thousand_swaps_read_one_whole_version_each_time() {
    const SWAPS: usize = 1_000;
    // The follower is not to be late for a page.
    let line = small_pages("race").set("publish.keep_versions", 20).set("publish.trim", false);
    let mut model = Model::new(&line);
    let mut weights = Weights::new(20_000, random());
    let dir = tempfile::tempdir().expect("a folder");
    let mut follower =
        Follower::new(&model.settings, dir.path(), KEPT, &StopToken::new()).expect("a follower");
    model.publish(weights.next(1));
    let in_place = |event| match event {
        FollowEvent::Loaded { manifest, .. } => manifest.version,
        kept @ FollowEvent::Kept { .. } => panic!("{kept:?}"),
    };
    in_place(next_event(&mut follower));
    let mut readers: Vec<Reader> = (0..2).map(|_| Reader::start(dir.path())).collect();

    // The publisher waits for nobody: of versions that come together the follower takes the newest.
    let is_over = AtomicBool::new(false);
    let last = thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for step in 2.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                model.publish(weights.next(step));
            }
        });
        let mut last = 0;
        for _ in 0..SWAPS {
            last = in_place(next_event(&mut follower));
            if publisher.is_finished() || readers.iter_mut().any(Reader::has_failed) {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        last
    });
    let seen: Vec<Seen> = readers.into_iter().map(Reader::end).collect();
    assert!(seen.iter().all(|seen| seen.newest == last), "the last version is {last}");
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let (whole, versions) = (sum(|seen| seen.whole), sum(|seen| seen.versions));
    println!("{} reads were overtaken by {KEPT} swaps", sum(|seen| seen.overtaken));
    assert!(whole > 1_000 && versions > 300, "{whole} reads of {versions} versions say little");
    drop(follower);
    assert_eq!(names(&dir.path().join("versions")).len(), KEPT);
    assert_eq!(leftovers(dir.path()), 0);
}

/// Where a follower is killed while it puts a version in place.
const PLACES: [&str; 4] =
    ["version-half-written", "follow-before-name", "follow-before-current", "follow-after-current"];

/// Runs a follower until it is killed: at a place that it comes to, or at some moment after the
/// publish of a version.
fn killed(model: &mut Model, weights: &mut Weights, line: &Line, dir: &Path, place: Option<&str>) {
    let command = ["follow", "--dir", dir.to_str().expect("UTF-8"), "--keep", &KEPT.to_string()];
    let failpoints = match place {
        Some(place) => format!("{place}={}*off->1*return", weights.random.random_range(0..3)),
        None => String::new(),
    };
    println!("killed at {:?}", place.map_or("some moment", |_| &failpoints));
    let mut follower = Easq::start_with(line.arguments(&command), [("FAILPOINTS", failpoints.as_str())]);
    let publish = |model: &mut Model, weights: &mut Weights| {
        model.publish(weights.next(model.newest + 1));
    };
    if place.is_none() {
        publish(model, weights);
        eventually(DEADLINE, "it follows", || in_place(dir) == Some(model.newest));
        for _ in 0..weights.random.random_range(1..3) {
            publish(model, weights);
        }
        thread::sleep(Duration::from_millis(weights.random.random_range(0..60)));
        follower.kill();
        return;
    }
    let began = Instant::now();
    while follower.is_running() {
        assert!(began.elapsed() < DEADLINE, "it is killed");
        publish(model, weights);
    }
}

/// The number of the version in place, all of it checked.
fn in_place(dir: &Path) -> Option<u64> {
    match read_current(dir) {
        Ok((manifest, _)) => Some(manifest.version),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn invariant_8_a_follower_that_is_killed_again_and_again_leaves_nothing_torn_and_nothing_behind() {
    const ROUNDS: usize = 15;
    let line = small_pages("killed")
        .set("publish.keep_versions", 500)
        .set("publish.trim", false)
        .set("publish.page_bytes", 128 << 10);
    let mut model = Model::new(&line);
    let mut weights = Weights::new(4 << 20, random());
    let dir = tempfile::tempdir().expect("a folder");
    model.publish(weights.next(1));
    let once = ["follow", "--once", "--dir", dir.path().to_str().expect("UTF-8")];
    let (status, output) = Easq::run(line.arguments(&once), DEADLINE);
    assert!(status.success(), "{output}");
    let mut readers: Vec<Reader> = (0..2).map(|_| Reader::start(dir.path())).collect();

    let mut left = 0;
    for round in 0..ROUNDS {
        let place = PLACES.get(round % (PLACES.len() + 1)).copied();
        killed(&mut model, &mut weights, &line, dir.path(), place);
        let is_half_written = matches!(place, Some("version-half-written" | "follow-before-name"));
        assert!(!is_half_written || leftovers(dir.path()) > 0, "it was writing");
        left += leftovers(dir.path());
        assert!(!readers.iter_mut().any(Reader::has_failed), "a reader has failed in round {round}");
    }
    println!("{left} leftovers");
    let (status, output) = Easq::run(line.arguments(&once), DEADLINE);
    assert!(status.success(), "{output}");
    assert_eq!(in_place(dir.path()), Some(model.newest));
    assert_eq!(leftovers(dir.path()), 0);
    assert!(names(&dir.path().join("versions")).len() <= KEPT);
    assert_eq!(current(dir.path()).expect("a version").parent(), Some(dir.path().join("versions").as_path()));
    for seen in readers.into_iter().map(Reader::end) {
        assert_eq!(seen.newest, model.newest);
        assert!(seen.whole > ROUNDS as u64 && seen.versions > 5, "{seen:?} says little");
    }
}
