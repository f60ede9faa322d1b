//! What the join must make of two logs, by brute force over the whole of both.

use std::collections::{BTreeMap, BTreeSet};

use super::builders::{LATENESS_MS, OFFSET_STEP, SPAN_MS, TestResponse, TestView, WINDOW_MS, scenario_of};
use crate::contract::v1::{Answer, LabelledView, PairScope};
use crate::settings::Settings;

/// Offsets of a view and its response.
pub type Match = (i64, i64);
/// Outcomes by name, without those that are zero.
pub type Counts = BTreeMap<&'static str, u64>;
/// Request time, and the offsets of the views.
pub type GroupViews = (i64, Vec<i64>);

#[derive(Debug, Default, PartialEq)]
pub struct Truth {
    pub matches: BTreeSet<Match>,
    pub views: Counts,
    pub responses: Counts,
    pub groups: BTreeSet<GroupViews>,
}

struct Timed {
    is_late: Vec<bool>,
    end_ms: Option<i64>,
}

fn lateness(records: impl Iterator<Item = (i64, bool)>) -> Timed {
    let mut timed = Timed { is_late: Vec::new(), end_ms: None };
    for (time_ms, is_broken) in records {
        let is_late = timed.end_ms.is_some_and(|end_ms| time_ms < end_ms - LATENESS_MS);
        timed.is_late.push(is_late && !is_broken);
        if !is_broken {
            timed.end_ms = timed.end_ms.max(Some(time_ms));
        }
    }
    timed
}

fn are_near(a_ms: i64, b_ms: i64) -> bool {
    (a_ms - b_ms).abs() <= WINDOW_MS
}

pub fn truth(views: &[TestView], responses: &[TestResponse], settings: &Settings) -> Truth {
    let view_times = lateness(views.iter().map(|view| (view.event_time_ms, view.is_broken)));
    let response_times =
        lateness(responses.iter().map(|response| (response.event_time_ms, response.is_broken)));
    let clock_ms = view_times.end_ms.min(response_times.end_ms);
    let has_expired =
        |time_ms: i64| clock_ms.is_some_and(|clock_ms| time_ms + WINDOW_MS + LATENESS_MS < clock_ms);

    let is_eligible = |at: usize| !views[at].is_broken && !view_times.is_late[at] && views[at].is_eligible;
    let repeats = |at: usize| {
        (0..at).any(|before| {
            is_eligible(before)
                && (views[before].impression, views[before].user) == (views[at].impression, views[at].user)
                && are_near(views[before].event_time_ms, views[at].event_time_ms)
        })
    };
    let is_kept = |at: usize| is_eligible(at) && !repeats(at);
    let home = |response: &TestResponse| {
        (0..views.len()).find(|&at| {
            is_kept(at)
                && (views[at].impression, views[at].user) == (response.impression, response.user)
                && are_near(views[at].event_time_ms, response.event_time_ms)
        })
    };

    let mut truth = Truth::default();
    let mut labels: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, response) in responses.iter().enumerate() {
        let home = home(response);
        let outcome = if response.is_broken {
            "rejected"
        } else if response_times.is_late[at] {
            "late"
        } else if let Some(home) = home {
            if *labels.entry(home).or_insert(at) == at { "matched" } else { "duplicate" }
        } else if has_expired(response.event_time_ms) {
            "unmatched"
        } else {
            "waiting"
        };
        *truth.responses.entry(outcome).or_default() += 1;
    }
    let (groups, grouped_again) = groups(views, &view_times.is_late, &repeats, settings);
    truth.groups = groups;
    for (at, view) in views.iter().enumerate() {
        let outcome = if view.is_broken {
            "rejected"
        } else if view_times.is_late[at] {
            "late"
        } else if repeats(at) || (!view.is_eligible && grouped_again.contains(&at)) {
            "duplicate"
        } else if !view.is_eligible {
            "ineligible"
        } else if labels.contains_key(&at) {
            "matched"
        } else if has_expired(view.event_time_ms) {
            "unanswered"
        } else {
            "waiting"
        };
        *truth.views.entry(outcome).or_default() += 1;
    }
    let offset = |at: usize| at as i64 * OFFSET_STEP;
    truth.matches = labels.into_iter().map(|(view, response)| (offset(view), offset(response))).collect();
    truth
}

/// The groups that are emitted, and the views whose impression was in their group before.
fn groups(
    views: &[TestView],
    is_late: &[bool],
    repeats: &dyn Fn(usize) -> bool,
    settings: &Settings,
) -> (BTreeSet<GroupViews>, BTreeSet<usize>) {
    let mut members: BTreeMap<(i64, u8, u8), (Vec<usize>, bool)> = BTreeMap::new();
    let mut again = BTreeSet::new();
    let mut time_ms = i64::MIN;
    for (at, view) in views.iter().enumerate().filter(|(_, view)| !view.is_broken) {
        time_ms = time_ms.max(view.event_time_ms);
        if is_late[at] || repeats(at) || time_ms > view.request_time_ms + SPAN_MS {
            continue;
        }
        let (group, is_full) = members.entry((view.request_time_ms, view.request, view.user)).or_default();
        if group.iter().any(|&other| views[other].impression == view.impression) {
            again.insert(at);
        } else if *is_full || group.len() >= settings.join.max_group_views {
            *is_full = true;
        } else {
            group.push(at);
        }
    }
    let groups = members
        .into_iter()
        .filter(|((request_time_ms, ..), (group, _))| time_ms > request_time_ms + SPAN_MS && group.len() > 1)
        .map(|((request_time_ms, ..), (group, _))| {
            (request_time_ms, group.into_iter().map(|at| at as i64 * OFFSET_STEP).collect())
        })
        .collect();
    (groups, again)
}

/// A pair by the view offsets of chosen and rejected.
pub type PairViews = (i64, i64, PairScope);

/// The pairs of a sequence of labelled views, in order.
pub fn pairs(labelled: &[LabelledView], settings: &Settings) -> Vec<PairViews> {
    let answer = |at: usize| labelled[at].response.as_ref().unwrap().answer();
    let time_ms = |at: usize| labelled[at].response.as_ref().unwrap().event_time_ms;
    let offset = |at: usize| labelled[at].view_source.as_ref().unwrap().offset;
    let view = |at: usize| labelled[at].view.as_ref().unwrap();
    let join = &settings.join;
    let mut pairs = Vec::new();
    for new in 0..labelled.len() {
        let opposite = match answer(new) {
            Answer::Satisfied => Answer::Dissatisfied,
            Answer::Dissatisfied => Answer::Satisfied,
            _ => continue,
        };
        let newest = |is_same: &dyn Fn(usize) -> bool, most: usize| -> Vec<usize> {
            let span = new.saturating_sub(join.pair_lookback)..new;
            let ring = span.rev().filter(|&at| answer(at) == opposite && is_same(at)).take(join.ring_size);
            ring.filter(|&at| time_ms(at) >= time_ms(new) - join.pair_horizon_ms).take(most).collect()
        };
        let of_user = newest(&|at| view(at).user_id == view(new).user_id, join.max_pairs_per_label);
        let of_scenario = newest(&|at| view(at).scenario == view(new).scenario, join.max_scenario_pairs);
        let (partners, scope) = if of_user.is_empty() {
            (of_scenario, PairScope::SameScenario)
        } else {
            (of_user, PairScope::SameUser)
        };
        for partner in partners {
            let (chosen, rejected) =
                if answer(new) == Answer::Satisfied { (new, partner) } else { (partner, new) };
            pairs.push((offset(chosen), offset(rejected), scope));
        }
    }
    pairs
}

#[test]
fn the_oracle_itself_knows_a_plain_match() {
    use super::builders::{response, settings, view};
    let truth = truth(&[view(1, 100)], &[response(1, 130), response(2, 131)], &settings());
    assert_eq!(truth.matches, BTreeSet::from([(0, 0)]));
    assert_eq!(truth.responses, Counts::from([("matched", 1), ("waiting", 1)]));
    assert_eq!(scenario_of(3), "scenario-1");
}
