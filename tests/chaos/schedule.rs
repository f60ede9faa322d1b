//! What is done to whom, and when: all of it follows from the seed.

use std::fmt;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A process or a broker, by its number among its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Joiner(usize),
    Trainer(usize),
    Broker(usize),
}

impl Target {
    /// Its kind.
    pub fn kind(self) -> &'static str {
        match self {
            Target::Joiner(_) => "joiner",
            Target::Trainer(_) => "trainer",
            Target::Broker(_) => "broker",
        }
    }
}

/// How it is hurt, and what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL; started again.
    Kill,
    /// SIGSTOP; SIGCONT.
    Freeze,
    /// Its network carries nothing; mended.
    Cut,
    /// Its connections end, and every new one at once; mended.
    Refuse,
    /// SIGTERM; started again: two rebalances.
    Leave,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Kill => "killed",
            Fault::Freeze => "frozen",
            Fault::Cut => "cut off",
            Fault::Refuse => "refused",
            Fault::Leave => "left",
        })
    }
}

/// A fault and its end.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Since the beginning.
    pub at: Duration,
    pub lasts: Duration,
    pub target: Target,
    pub fault: Fault,
}

/// Whom there is to hurt.
#[derive(Debug, Clone, Copy)]
pub struct Crew {
    pub joiners: usize,
    pub trainers: usize,
    pub brokers: usize,
}

/// Between two faults, on average.
const PAUSE: Duration = Duration::from_millis(1_000);
/// The first fault meets a line at work, and so does the end of the last.
const QUIET: Duration = Duration::from_secs(5);

/// Faults over `duration`, in their order. Faults of one target do not overlap; those of different
/// ones do. Of the brokers one at a time is hurt.
pub fn schedule(seed: u64, duration: Duration, crew: Crew) -> Vec<Event> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut events: Vec<Event> = Vec::new();
    let mut at = QUIET;
    while at < duration.saturating_sub(QUIET) {
        let target = target(&mut random, crew);
        let fault = fault(&mut random, target);
        // Some end before a session or a transaction times out, some after both.
        let most_ms = match (target, fault) {
            (Target::Broker(_), _) => 8_000,
            (_, Fault::Refuse) => 4_000,
            (_, Fault::Kill | Fault::Leave) => 10_000,
            (_, Fault::Freeze | Fault::Cut) => 16_000,
        };
        let event =
            Event { at, lasts: Duration::from_millis(random.random_range(200..most_ms)), target, fault };
        if !events.iter().any(|earlier| earlier.excludes(&event)) {
            events.push(event);
        }
        at += PAUSE.mul_f64(random.random_range(0.2..1.8));
    }
    events
}

impl Event {
    /// The kind of whom, and how: what is counted together.
    pub fn kind(&self) -> String {
        format!("{} {}", self.target.kind(), self.fault)
    }

    /// Whether a later event cannot begin before this one is over.
    fn excludes(&self, later: &Event) -> bool {
        let of_one_kind =
            |a: Target, b: Target| a == b || matches!((a, b), (Target::Broker(_), Target::Broker(_)));
        // What is hurt is given some time to stand up, or it would never be seen at work.
        of_one_kind(self.target, later.target) && later.at < self.at + self.lasts + QUIET
    }
}

fn target(random: &mut ChaCha8Rng, crew: Crew) -> Target {
    match random.random_range(0..10) {
        0..6 => Target::Joiner(random.random_range(0..crew.joiners)),
        6..9 => Target::Trainer(random.random_range(0..crew.trainers)),
        _ => Target::Broker(random.random_range(0..crew.brokers)),
    }
}

fn fault(random: &mut ChaCha8Rng, target: Target) -> Fault {
    let possible: &[Fault] = match target {
        Target::Broker(_) => &[Fault::Kill, Fault::Freeze],
        _ => &[Fault::Kill, Fault::Kill, Fault::Kill, Fault::Freeze, Fault::Cut, Fault::Refuse, Fault::Leave],
    };
    possible[random.random_range(0..possible.len())]
}
