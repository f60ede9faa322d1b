//! Preference pairs: a new labelled view against earlier ones with another answer.
//!
//! Pairs are a pure function of the order of one partition of the labelled topic (invariant 5).
//! Of the `pair_lookback` labelled views before a new one, those that are among the last
//! `ring_size` of their user (or scenario) and answer, and not older than `pair_horizon_ms` before
//! the new response, can be its partners. The scopes are tried in the order of the settings; the
//! first that gives a partner gives all, newest first.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;
use prost::Message;

use crate::contract::v1::{Answer, PairScope, QuestionnaireResponse, envelope};
use crate::settings::{Join, Scope, Uncertain};

/// A labelled view, as far as pairing looks at it.
#[derive(Debug, Clone)]
pub(super) struct Labelled {
    pub user_id: Bytes,
    pub scenario: Bytes,
    pub answer: Answer,
    /// Of the response.
    pub event_time_ms: i64,
    /// The whole `LabelledView`.
    pub encoded: Bytes,
}

impl Labelled {
    /// Reads a record of the labelled topic.
    pub fn decode(encoded: Bytes) -> Result<Labelled, String> {
        let decode = || {
            let labelled = envelope::LabelledView::decode(encoded.clone())?;
            let view = envelope::BehaviorEvent::decode(labelled.view)?;
            let response = QuestionnaireResponse::decode(labelled.response)?;
            Ok::<_, prost::DecodeError>((view, response))
        };
        let (view, response) = decode().map_err(|error| error.to_string())?;
        Ok(Labelled {
            user_id: view.user_id.into_bytes().into(),
            scenario: view.scenario.into_bytes().into(),
            answer: response.answer(),
            event_time_ms: response.event_time_ms,
            encoded,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RingKey {
    scope: PairScope,
    /// User id or scenario.
    value: Bytes,
    answer: i32,
}

#[derive(Debug, Clone)]
struct Candidate {
    number: u64,
    event_time_ms: i64,
    encoded: Bytes,
}

#[derive(Debug)]
pub(super) struct Pairing {
    lookback: usize,
    ring_size: usize,
    horizon_ms: i64,
    scopes: Vec<Scope>,
    max_user_pairs: usize,
    max_scenario_pairs: usize,
    uncertain: Uncertain,
    /// Labelled views seen, which numbers them.
    seen: u64,
    /// The rings of each of the last `lookback` labelled views, oldest first.
    span: VecDeque<Vec<RingKey>>,
    rings: HashMap<RingKey, VecDeque<Candidate>>,
}

impl Pairing {
    pub fn new(settings: &Join) -> Pairing {
        Pairing {
            lookback: settings.pair_lookback,
            ring_size: settings.ring_size,
            horizon_ms: settings.pair_horizon_ms,
            scopes: settings.pair_scopes.clone(),
            max_user_pairs: settings.max_pairs_per_label,
            max_scenario_pairs: settings.max_scenario_pairs,
            uncertain: settings.uncertain,
            seen: 0,
            span: VecDeque::new(),
            rings: HashMap::new(),
        }
    }

    /// Labelled views of the span.
    pub fn len(&self) -> usize {
        self.span.len()
    }

    /// The pairs of a new labelled view, which is then one of the candidates of the next.
    pub fn pairs_of(&mut self, labelled: &Labelled) -> Vec<envelope::PreferencePair> {
        let pairs = self.scopes.iter().map(|&scope| self.pairs_in(scope, labelled));
        let pairs = pairs.into_iter().find(|pairs| !pairs.is_empty()).unwrap_or_default();
        self.add(labelled);
        pairs
    }

    /// Makes a labelled view a candidate, without pairs of its own.
    pub fn add(&mut self, labelled: &Labelled) {
        let is_paired = rank(labelled.answer, self.uncertain).is_some();
        let scopes = if is_paired { self.scopes.as_slice() } else { &[] };
        let keys: Vec<RingKey> =
            scopes.iter().map(|&scope| ring_key(scope, labelled, labelled.answer)).collect();
        for key in &keys {
            let ring = self.rings.entry(key.clone()).or_default();
            ring.push_back(Candidate {
                number: self.seen,
                event_time_ms: labelled.event_time_ms,
                encoded: labelled.encoded.clone(),
            });
            if ring.len() > self.ring_size {
                ring.pop_front();
            }
        }
        self.span.push_back(keys);
        self.seen += 1;
        if self.span.len() > self.lookback {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let number = self.seen - self.span.len() as u64;
        for key in self.span.pop_front().into_iter().flatten() {
            let Some(ring) = self.rings.get_mut(&key) else { continue };
            if ring.front().is_some_and(|candidate| candidate.number == number) {
                ring.pop_front();
            }
            if ring.is_empty() {
                self.rings.remove(&key);
            }
        }
    }

    fn pairs_in(&self, scope: Scope, labelled: &Labelled) -> Vec<envelope::PreferencePair> {
        let Some(own_rank) = rank(labelled.answer, self.uncertain) else { return Vec::new() };
        let oldest_ms = labelled.event_time_ms.saturating_sub(self.horizon_ms);
        let mut partners: Vec<(u8, &Candidate)> = Vec::new();
        for answer in [Answer::Satisfied, Answer::Dissatisfied, Answer::Uncertain] {
            let Some(rank) = rank(answer, self.uncertain).filter(|&rank| rank != own_rank) else { continue };
            let ring = self.rings.get(&ring_key(scope, labelled, answer));
            let candidates = ring.into_iter().flatten().filter(|other| other.event_time_ms >= oldest_ms);
            partners.extend(candidates.map(|candidate| (rank, candidate)));
        }
        partners.sort_unstable_by_key(|(_, candidate)| std::cmp::Reverse(candidate.number));
        partners.truncate(match scope {
            Scope::SameUser => self.max_user_pairs,
            Scope::SameScenario => self.max_scenario_pairs,
        });
        let scope = pair_scope(scope);
        let pair = |(rank, partner): (u8, &Candidate)| {
            let (own, other) = (labelled.encoded.clone(), partner.encoded.clone());
            let (chosen, rejected) = if own_rank > rank { (own, other) } else { (other, own) };
            let event_time_ms = labelled.event_time_ms.max(partner.event_time_ms);
            envelope::PreferencePair { chosen, rejected, scope: scope.into(), event_time_ms }
        };
        partners.into_iter().map(pair).collect()
    }
}

fn ring_key(scope: Scope, labelled: &Labelled, answer: Answer) -> RingKey {
    let value = match scope {
        Scope::SameUser => &labelled.user_id,
        Scope::SameScenario => &labelled.scenario,
    };
    // A copy: a slice would keep the record alive that it is a part of.
    RingKey { scope: pair_scope(scope), value: Bytes::copy_from_slice(value), answer: answer.into() }
}

fn pair_scope(scope: Scope) -> PairScope {
    match scope {
        Scope::SameUser => PairScope::SameUser,
        Scope::SameScenario => PairScope::SameScenario,
    }
}

/// Of two answers the one with the higher rank is preferred; without a rank there are no pairs.
fn rank(answer: Answer, uncertain: Uncertain) -> Option<u8> {
    match (answer, uncertain) {
        (Answer::Dissatisfied, _) => Some(0),
        (Answer::Uncertain, Uncertain::Middle) => Some(1),
        (Answer::Satisfied, _) => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn labelled(id: u8, user: &'static str, answer: Answer, event_time_ms: i64) -> Labelled {
        Labelled {
            user_id: Bytes::from_static(user.as_bytes()),
            scenario: Bytes::from_static(b"feed"),
            answer,
            event_time_ms,
            encoded: Bytes::from(vec![id]),
        }
    }

    /// Ids of chosen and rejected of the pairs of `new`, after the others.
    fn pairs(change: impl FnOnce(&mut Join), before: &[Labelled], new: &Labelled) -> Vec<(u8, u8)> {
        let mut settings = Settings::default().join;
        change(&mut settings);
        let mut pairing = Pairing::new(&settings);
        before.iter().for_each(|labelled| pairing.add(labelled));
        pairing.pairs_of(new).iter().map(|pair| (pair.chosen[0], pair.rejected[0])).collect()
    }

    #[test]
    fn the_newest_opposites_come_first_and_no_more_than_the_settings_say() {
        let before: Vec<_> = (1..=6).map(|id| labelled(id, "u", Answer::Dissatisfied, 10)).collect();
        let new = labelled(9, "u", Answer::Satisfied, 10);
        assert_eq!(pairs(|_| {}, &before, &new), [(9, 6), (9, 5), (9, 4), (9, 3)]);
    }

    #[test]
    fn invariant_5_a_partner_lies_within_the_lookback() {
        let others = (2..=20).map(|id| labelled(id, "another", Answer::Uncertain, 10));
        let before: Vec<_> = [labelled(1, "u", Answer::Satisfied, 10)].into_iter().chain(others).collect();
        let new = labelled(99, "u", Answer::Dissatisfied, 10);
        assert_eq!(pairs(|join| join.pair_lookback = 20, &before, &new), [(1, 99)]);
        assert_eq!(pairs(|join| join.pair_lookback = 19, &before, &new), []);
    }

    #[test]
    fn a_partner_is_not_older_than_the_horizon() {
        let before = [labelled(1, "u", Answer::Satisfied, 10), labelled(2, "u", Answer::Satisfied, 11)];
        let new = labelled(9, "u", Answer::Dissatisfied, 111);
        assert_eq!(pairs(|join| join.pair_horizon_ms = 100, &before, &new), [(2, 9)]);
    }

    #[test]
    fn uncertain_answers_make_pairs_only_as_the_middle() {
        let before = [
            labelled(1, "u", Answer::Satisfied, 10),
            labelled(2, "u", Answer::Uncertain, 10),
            labelled(3, "u", Answer::Dissatisfied, 10),
        ];
        let uncertain = labelled(9, "u", Answer::Uncertain, 10);
        assert_eq!(pairs(|_| {}, &before, &uncertain), []);
        let middle = |join: &mut Join| join.uncertain = Uncertain::Middle;
        assert_eq!(pairs(middle, &before, &uncertain), [(9, 3), (1, 9)]);
        let satisfied = labelled(9, "u", Answer::Satisfied, 10);
        assert_eq!(pairs(middle, &before, &satisfied), [(9, 3), (9, 2)]);
    }

    #[test]
    fn the_first_scope_that_gives_a_partner_gives_all() {
        let before = [
            labelled(1, "u", Answer::Satisfied, 10),
            labelled(2, "another", Answer::Satisfied, 10),
            labelled(3, "another", Answer::Satisfied, 10),
            labelled(4, "another", Answer::Satisfied, 10),
        ];
        let new = labelled(9, "u", Answer::Dissatisfied, 10);
        assert_eq!(pairs(|_| {}, &before, &new), [(1, 9)]);
        assert_eq!(pairs(|join| join.pair_scopes.reverse(), &before, &new), [(4, 9), (3, 9)]);
        assert_eq!(pairs(|join| join.pair_scopes = vec![Scope::SameUser], &before[1..], &new), []);
    }

    #[test]
    fn invariant_12_rings_of_labels_that_left_the_lookback_are_gone() {
        let mut pairing = Pairing::new(&Join { pair_lookback: 3, ..Settings::default().join });
        for id in 0..100 {
            let user = Bytes::from(vec![id]);
            pairing.add(&Labelled { user_id: user, ..labelled(id, "", Answer::Satisfied, 10) });
        }
        assert_eq!((pairing.len(), pairing.rings.len()), (3, 4));
    }
}
