//! What each role of this process is at, in words: what no figure says, and what readiness rests on.
//!
//! It is filled by the same [`events`](super::events) that move the metrics and write the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a joiner instance is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// It waits for the group to give it partitions, perhaps none.
    Joining,
    /// The brokers do not say where its partitions stand.
    Waiting,
    /// The states of so many partitions are being rebuilt.
    Recovering { partitions: usize },
    /// Whatever comes in goes out.
    Working,
}

/// What the trainer is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrainerState {
    /// It waits for the group to say whether it owns the model.
    Joining,
    /// Another process owns the model.
    StandingBy,
    /// It owns the model and reads what it goes on from.
    Loading {
        /// Where brokers give no answer.
        waits_for: Option<String>,
    },
    /// It learns, and can publish.
    Training,
}

/// What the gate said of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub version: u64,
    pub at_ms: i64,
    pub is_promoted: bool,
    /// The tests that it failed.
    pub tests: Vec<String>,
    /// Why, test by test.
    pub reasons: Vec<String>,
}

/// The roles that a process can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Joiner,
    Trainer,
    Follower,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joiner => "joiner",
            Self::Trainer => "trainer",
            Self::Follower => "follower",
        }
    }
}

/// What a process is there for.
#[derive(Debug, Clone, Default)]
pub struct Purpose {
    /// As on the command line.
    pub command: &'static str,
    pub roles: Vec<Role>,
    pub joiner_instances: usize,
    pub model: String,
    /// A role that was ready is until it has been in trouble for longer.
    pub unready_after: Duration,
}

/// A joiner instance.
#[derive(Debug, Clone)]
pub struct Instance {
    pub state: InstanceState,
    pub partitions: Vec<i32>,
}

/// Everything that is known; readable by whoever holds the lock.
#[derive(Debug, Clone)]
pub struct Known {
    pub purpose: Purpose,
    pub started: Instant,
    pub instances: BTreeMap<usize, Instance>,
    pub trainer: TrainerState,
    pub is_version_in_place: bool,
    /// Clients whose brokers are away, and what they said; several may have one name.
    pub away: BTreeMap<String, Away>,
    pub decision: Option<Decision>,
    /// Topics of the joiner that are not there any more.
    pub missing_inputs: BTreeSet<String>,
    /// Why nothing of the stream is learned, by signal.
    pub suspicion: BTreeMap<String, String>,
    troubles: BTreeMap<Role, Trouble>,
}

/// Clients of one name without a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    clients: usize,
    pub reason: String,
}

/// A role that does not do what it is there for.
#[derive(Debug, Clone)]
struct Trouble {
    /// None while there is none.
    since: Option<Instant>,
    was_ready: bool,
}

/// The state of a process; clones share it.
#[derive(Debug, Clone)]
pub struct State(Arc<Mutex<Known>>);

/// That of this process.
pub fn state() -> &'static State {
    static STATE: LazyLock<State> = LazyLock::new(State::default);
    &STATE
}

impl Default for State {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Known {
            purpose: Purpose::default(),
            started: Instant::now(),
            instances: BTreeMap::new(),
            trainer: TrainerState::Joining,
            is_version_in_place: false,
            away: BTreeMap::new(),
            decision: None,
            missing_inputs: BTreeSet::new(),
            suspicion: BTreeMap::new(),
            troubles: BTreeMap::new(),
        })))
    }
}

impl State {
    /// Says what the process is there for, before it begins.
    pub fn begin(&self, purpose: Purpose) {
        self.change(|known| {
            known.instances = (0..purpose.joiner_instances)
                .map(|number| (number, Instance { state: InstanceState::Joining, partitions: Vec::new() }))
                .collect();
            known.purpose = purpose;
        });
    }

    pub fn instance_is(&self, number: usize, state: InstanceState) {
        self.change(|known| known.instance(number).state = state);
    }

    pub fn instance_owns(&self, number: usize, partitions: &[i32]) {
        self.change(|known| known.instance(number).partitions = partitions.to_vec());
    }

    pub fn trainer_is(&self, state: TrainerState) {
        self.change(|known| known.trainer = state);
    }

    pub fn version_is_in_place(&self) {
        self.change(|known| known.is_version_in_place = true);
    }

    pub fn client_is_away(&self, client: &str, reason: &str) {
        self.change(|known| {
            let away = known.away.entry(client.to_owned());
            let away = away.or_insert_with(|| Away { clients: 0, reason: String::new() });
            away.clients += 1;
            reason.clone_into(&mut away.reason);
        });
    }

    /// True when no client of this name is away any more.
    pub fn client_is_back(&self, client: &str) -> bool {
        self.change(|known| {
            let Some(away) = known.away.get_mut(client) else { return true };
            away.clients -= 1;
            let is_last = away.clients == 0;
            if is_last {
                known.away.remove(client);
            }
            is_last
        })
    }

    pub fn input_is_missing(&self, topic: &str) {
        self.change(|known| known.missing_inputs.insert(topic.to_owned()));
    }

    pub fn input_is_there(&self, topic: &str) {
        self.change(|known| known.missing_inputs.remove(topic));
    }

    pub fn gate_decided(&self, decision: Decision) {
        self.change(|known| known.decision = Some(decision));
    }

    pub fn stream_is_suspect(&self, signal: &str, reason: &str) {
        self.change(|known| known.suspicion.insert(signal.to_owned(), reason.to_owned()));
    }

    pub fn stream_is_trusted(&self) {
        self.change(|known| known.suspicion.clear());
    }

    /// What is known now.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        // Changes are small and do not panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known();
        let result = change(&mut known);
        known.note_troubles(Instant::now());
        result
    }
}

impl Known {
    /// Each role of this process, and whether it is ready. One that was ready once stays so through
    /// troubles that pass within [`Purpose::unready_after`].
    pub fn ready(&self, now: Instant) -> Vec<(&'static str, bool)> {
        let roles = self.purpose.roles.iter();
        roles.map(|&role| (role.as_str(), self.is_ready(role, now))).collect()
    }

    /// Why the process is not ready; nothing when it is.
    pub fn not_ready(&self, now: Instant) -> Vec<String> {
        let roles = self.purpose.roles.iter().filter(|&&role| !self.is_ready(role, now));
        roles.flat_map(|&role| self.problems(role)).collect()
    }

    fn is_ready(&self, role: Role, now: Instant) -> bool {
        let Some(trouble) = self.troubles.get(&role) else { return false };
        let patience = self.purpose.unready_after;
        trouble.since.is_none_or(|since| trouble.was_ready && now.duration_since(since) <= patience)
    }

    fn note_troubles(&mut self, now: Instant) {
        for role in self.purpose.roles.clone() {
            let is_well = self.problems(role).is_empty();
            let trouble = self.troubles.entry(role).or_insert(Trouble { since: Some(now), was_ready: false });
            if is_well {
                *trouble = Trouble { since: None, was_ready: true };
            } else {
                trouble.since.get_or_insert(now);
            }
        }
    }

    /// What keeps a role from its work, in words.
    fn problems(&self, role: Role) -> Vec<String> {
        let mut problems = match role {
            Role::Joiner => {
                let missing = self.missing_inputs.iter();
                let missing = missing.map(|topic| format!("input topic '{topic}' is not there any more"));
                self.instances.iter().filter_map(of_instance).chain(missing).collect()
            }
            Role::Trainer => of_trainer(&self.trainer).into_iter().collect(),
            Role::Follower if self.is_version_in_place => Vec::new(),
            Role::Follower => vec!["no version is in place yet".to_owned()],
        };
        // A follower serves what it has, whether brokers are there or not.
        if role != Role::Follower {
            let away = self.away.iter();
            problems
                .extend(away.map(|(client, away)| format!("no broker answers {client}: {}", away.reason)));
        }
        problems.into_iter().map(|problem| format!("{}: {problem}", role.as_str())).collect()
    }

    fn instance(&mut self, number: usize) -> &mut Instance {
        let joining = Instance { state: InstanceState::Joining, partitions: Vec::new() };
        self.instances.entry(number).or_insert(joining)
    }
}

fn of_instance((number, instance): (&usize, &Instance)) -> Option<String> {
    match instance.state {
        InstanceState::Joining => Some(format!("instance {number} waits for its partitions")),
        InstanceState::Waiting => {
            Some(format!("instance {number} waits for the brokers to say where its partitions stand"))
        }
        InstanceState::Recovering { partitions } => {
            Some(format!("instance {number} is recovering {partitions} partitions"))
        }
        InstanceState::Working => None,
    }
}

fn of_trainer(state: &TrainerState) -> Option<String> {
    match state {
        TrainerState::Joining => Some("waits for its group to say who owns the model".to_owned()),
        TrainerState::Loading { waits_for: None } => Some("loads what it goes on from".to_owned()),
        TrainerState::Loading { waits_for: Some(reason) } => Some(format!("waits for the brokers: {reason}")),
        TrainerState::StandingBy | TrainerState::Training => None,
    }
}

#[cfg(test)]
mod tests;
