//! What became of each record (invariant 11), and of each label and group.

use serde::{Deserialize, Serialize};

use super::Side;

/// The final outcome of a consumed record. One that has none yet is *waiting*.
///
/// The first that applies counts: rejected, late (or late after idle), duplicate, the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Outcome {
    /// Its partner was found, and the labelled view emitted.
    Matched,
    /// A view that no response came for in time.
    Unanswered,
    /// A response that belongs to no view.
    Unmatched,
    /// A view that no questionnaire was shown for.
    Ineligible,
    /// Pushed out at a memory bound; to `topics.late`.
    Evicted,
    /// Waiting at the last commit, and no longer readable after a restart.
    LostToRetention,
    /// To `topics.late`.
    Late,
    /// Late only because its idle partition had been advanced; to `topics.late`.
    LateAfterIdle,
    /// Of an impression that has its view or its label already (invariant 4).
    Duplicate,
    /// To `topics.dead_letters`.
    Rejected,
}

impl Outcome {
    /// Outcomes of both inputs together.
    pub const COUNT: usize = 10;

    /// The outcomes that a record of this input can have, in a fixed order.
    pub fn of(side: Side) -> &'static [Outcome] {
        use Outcome::*;
        match side {
            Side::Views => &[
                Matched,
                Unanswered,
                Ineligible,
                Evicted,
                LostToRetention,
                Late,
                LateAfterIdle,
                Duplicate,
                Rejected,
            ],
            Side::Responses => {
                &[Matched, Unmatched, Evicted, LostToRetention, Late, LateAfterIdle, Duplicate, Rejected]
            }
        }
    }

    /// The value of metrics labels, and of the header `reason` of a late record.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Matched => "matched",
            Outcome::Unanswered => "unanswered",
            Outcome::Unmatched => "unmatched",
            Outcome::Ineligible => "ineligible",
            Outcome::Evicted => "evicted",
            Outcome::LostToRetention => "lost_to_retention",
            Outcome::Late => "late",
            Outcome::LateAfterIdle => "late_after_idle",
            Outcome::Duplicate => "duplicate",
            Outcome::Rejected => "rejected",
        }
    }
}

/// Cumulative counts of one input partition, since the group began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Records consumed and without a final outcome.
    pub waiting: u64,
    pub(super) decided: [u64; Outcome::COUNT],
}

impl Outcomes {
    /// Records with this outcome since the group began.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.decided[outcome as usize]
    }

    /// Records consumed: the sum over all outcomes and those that wait.
    pub fn consumed(&self) -> u64 {
        self.waiting + self.decided.iter().sum::<u64>()
    }

    pub(super) fn add(&mut self, outcome: Outcome, records: u64) {
        self.decided[outcome as usize] += records;
    }
}

/// Cumulative counts of what one partition's join made, since the group began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Products {
    /// Matches, all of which were emitted.
    pub labelled_views: u64,
    /// Preference pairs of the same user.
    pub user_pairs: u64,
    /// Preference pairs of the same scenario.
    pub scenario_pairs: u64,
    /// Behavior groups emitted.
    pub groups: u64,
    /// Views in them.
    pub grouped_views: u64,
    /// Groups of one view: not emitted.
    pub single_view_groups: u64,
    /// Views of requests that `join.behavior_sample_rate` leaves out.
    pub unsampled_views: u64,
    /// Views that came after their group was closed.
    pub views_after_group: u64,
    /// Views that found their group full.
    pub views_over_group: u64,
    /// Eligible views whose impression was in the group already.
    pub views_again_in_group: u64,
    /// Views of groups that were pushed out at a memory bound.
    pub views_of_evicted_groups: u64,
    /// Views whose outcome was known and whose ids were pushed out at a memory bound: what repeats
    /// them is not told any more. An exception to invariant 3, like the outcome `evicted`.
    pub forgotten_views: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_contract_documents_every_outcome_with_the_records_that_can_have_it() {
        let contract = include_str!("../../docs/contract.md");
        let (_, section) = contract.split_once("### What becomes of a record\n").expect("the section");
        let table = section.lines().take_while(|line| !line.starts_with('#'));
        let rows = table.filter_map(|line| {
            let (outcome, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((outcome, rest.split_once(" |")?.0))
        });
        let of = |outcome: &Outcome| match [Side::Views, Side::Responses]
            .map(|s| Outcome::of(s).contains(outcome))
        {
            [true, true] => "both",
            [true, false] => "views",
            [false, _] => "answers",
        };
        let outcomes = Outcome::of(Side::Views).iter().chain(Outcome::of(Side::Responses));
        let expected: BTreeMap<_, _> = outcomes.map(|outcome| (outcome.as_str(), of(outcome))).collect();
        assert_eq!(rows.collect::<BTreeMap<_, _>>(), expected);
    }
}
