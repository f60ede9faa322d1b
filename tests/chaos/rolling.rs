//! A ranker beside it all: follows the versions and checks that each one it sees is whole
//! (invariant 8).

use std::sync::Mutex;
use std::time::Duration;

use easq::publish::page_reader::PageReader;
use easq::publish::{FollowEvent, Follower};
use easq::supervise::StopToken;

use crate::recovery::Recoveries;
use crate::support::{Line, lineage};

const POLL: Duration = Duration::from_millis(200);

/// Reasons that have nothing to do with the version: brokers are away, or it was trimmed meanwhile
/// since production has gone on.
const PASSING: [&str; 2] = ["no answer", "is gone"];

/// What the follower has met.
#[derive(Debug, Default)]
pub struct Rolling {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    loaded: usize,
    newest: u64,
    faults: Vec<String>,
}

impl Rolling {
    /// Follows until the stop. Brokers that are away are no fault, a version that is not whole is.
    pub fn follow(&self, line: &Line, recoveries: &Recoveries, stop: &StopToken) {
        let settings = line.settings();
        let folder = tempfile::tempdir().expect("a folder");
        let mut follower: Option<Follower> = None;
        while !stop.is_stopped() {
            let Some(following) = &mut follower else {
                follower = Follower::new(&settings, folder.path(), 2, stop).ok();
                continue;
            };
            match following.poll(POLL) {
                Ok(Some(FollowEvent::Loaded { manifest, .. })) => {
                    self.loaded(manifest.version);
                    recoveries.has_version(manifest.version);
                }
                Ok(Some(FollowEvent::Kept { wanted, reason, .. })) => {
                    if !PASSING.iter().any(|passing| reason.contains(passing)) {
                        self.fault(format!("version {wanted} is not whole: {reason}"));
                    }
                }
                Ok(None) => {}
                Err(_) => follower = None,
            }
        }
    }

    fn loaded(&self, version: u64) {
        let mut state = self.state.lock().expect("no follower panicked");
        state.loaded += 1;
        if version < state.newest {
            let newest = state.newest;
            state.faults.push(format!("production went back from version {newest} to {version}"));
        }
        state.newest = state.newest.max(version);
    }

    fn fault(&self, fault: String) {
        self.state.lock().expect("no follower panicked").faults.push(fault);
    }

    /// Loads every version that the registry still holds, training state included, digest by digest.
    pub fn verify_kept_versions(&self, line: &Line) {
        let settings = line.settings();
        let registry = lineage::registry(&settings);
        let mut pages = PageReader::new(&settings, "chaos pages").expect("a valid configuration");
        for (version, manifest) in &registry.versions {
            if let Err(error) = pages.load(manifest, |_| true) {
                self.fault(format!("version {version} cannot be loaded: {error}"));
            }
        }
        let followed = registry.followed();
        if followed.is_none_or(|version| !registry.versions.contains_key(&version)) {
            self.fault(format!("production points to {followed:?}, which is not there"));
        }
    }

    /// The newest version loaded.
    pub fn newest(&self) -> u64 {
        self.state.lock().expect("no follower panicked").newest
    }

    /// Versions loaded on the way.
    pub fn versions_loaded(&self) -> usize {
        self.state.lock().expect("no follower panicked").loaded
    }

    pub fn faults(&self) -> Vec<String> {
        self.state.lock().expect("no follower panicked").faults.clone()
    }
}
