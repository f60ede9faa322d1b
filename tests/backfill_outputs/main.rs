//! What `easq backfill` writes to Kafka when it is asked to: a version of a model of its own, and a topic
//! of pairs. The service beside it notices neither.

mod pairs;
mod published;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use easq::contract::v1::PreferencePair;
use support::joiners::{self, Joiner};
use support::lineage::registry;
use support::replays::{self, PARTITIONS, State, line, partition_of, replayed, state, text};
use support::trainers::{self, Trainer};
use support::{Line, world};

const SEED: u64 = 20_261_126;
const VIEWS: u64 = 16_000;
const SPAN_MS: i64 = 2 * 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// A Ctrl-C in the first half, and time to hear it.
const EARLY: &str = "backfill-look=1*return(INT)->sleep(1000)";

/// A line that a service has worked on, and what a replay of a part of it gave.
struct Run {
    line: Line,
    range: (i64, i64),
    dir: tempfile::TempDir,
    /// The checkpoint of the live model, in number.
    checkpoint: u64,
}

static RUN: LazyLock<Run> = LazyLock::new(run);

fn run() -> Run {
    println!("seed {SEED}");
    let line = line("outputs").set("publish.checkpoint_interval_ms", 1000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, VIEWS, SPAN_MS, SEED, PARTITIONS);
    world::write(&line, &deliveries);
    let joiner = Joiner::start(&line, "live");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    joiner.stop();
    let trainer = Trainer::start(&line);
    trainers::production_learns_all(&line);
    trainer.stop();
    let checkpoint = registry(&settings).newest_checkpoint().expect("that of a clean stop").version;
    let start_ms = deliveries[0].arrived_ms;
    let range = (start_ms + 20 * MINUTE_MS, start_ms + 100 * MINUTE_MS);
    let run = Run { line, range, dir: tempfile::tempdir().expect("a temporary folder"), checkpoint };
    run.replay(&["--output", text(&run.path("model")), "--samples", text(&run.path("samples.pb"))]);
    run
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn replay(&self, more: &[&str]) -> String {
        replayed(&self.line, self.range, more)
    }

    /// The model that a replay publishes under this name.
    fn replayed_model(&self, run: &str) -> Line {
        replays::replayed_model(&self.line, run)
    }

    fn pairs(&self) -> BTreeMap<i32, Vec<PreferencePair>> {
        let mut pairs: BTreeMap<i32, Vec<PreferencePair>> = BTreeMap::new();
        for pair in replays::pairs(&self.path("samples.pb")) {
            pairs.entry(partition_of(&pair)).or_default().push(pair);
        }
        pairs
    }
}

#[track_caller]
fn assert_unchanged(line: &Line, before: &State) {
    assert!(state(line) == *before, "the replay changed something of the service");
}
