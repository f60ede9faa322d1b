//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{Table, presets};

use crate::train::{BadBatch, DropReason, StepReport, Trainer};

/// Views, groups and pairs that were not learned, by reason.
pub type Reasons = BTreeMap<(&'static str, &'static str), usize>;

/// In words, to go behind a sentence.
pub struct Dropped<'a>(pub &'a Reasons);

impl fmt::Display for Dropped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ((part, reason), count)) in self.0.iter().enumerate() {
            write!(f, "{} {count} {part} dropped: {reason}", if index == 0 { ";" } else { "," })?;
        }
        Ok(())
    }
}

/// Counts of one run.
#[derive(Debug, Default)]
pub struct Summary {
    pub steps: u64,
    pub groups: u64,
    pub views: u64,
    /// Pairs that came into the reservoir, and pairs that were drawn from it for the first time.
    pub pairs_taken: u64,
    pub pairs_learned: u64,
    pub skipped_batches: u64,
    /// Groups and pairs that these took with them.
    pub skipped_groups: u64,
    pub skipped_pairs: u64,
    pub dropped: Reasons,
    last: Option<StepReport>,
}

impl Summary {
    pub fn add(&mut self, report: &StepReport) {
        self.steps += 1;
        self.groups += report.groups as u64;
        self.views += report.views as u64;
        self.pairs_learned += report.drawn_new_pairs as u64;
        self.drop_parts(&report.dropped);
        self.last = Some(report.clone());
    }

    pub fn skip(&mut self, bad: &BadBatch) {
        self.skipped_batches += 1;
        self.skipped_groups += bad.groups as u64;
        self.skipped_pairs += (bad.lost_pairs.len() + bad.lost_pairs_without_source) as u64;
        self.drop_parts(&bad.dropped);
    }

    pub fn drop_pair(&mut self, reason: DropReason) {
        *self.dropped.entry(("pairs", reason.as_str())).or_default() += 1;
    }

    fn drop_parts(&mut self, dropped: &BTreeMap<DropReason, usize>) {
        for (&reason, &count) in dropped {
            let part = if reason == DropReason::GroupTooSmall { "groups" } else { "views" };
            *self.dropped.entry((part, reason.as_str())).or_default() += count;
        }
    }

    /// Whether the samples have changed nothing in the model.
    pub fn is_empty(&self) -> bool {
        self.groups == 0 && self.pairs_taken == 0
    }

    /// For the progress.
    pub fn in_one_line(&self, trainer: &Trainer) -> String {
        let figures = trainer.progressive();
        format!(
            "step {}, L_main {:.3}, behavior {:.3} (twin {:.3}), satisfaction {:.3} (twin {:.3})",
            trainer.steps(),
            figures.loss_main,
            figures.behavior_win_rate,
            figures.behavior_only_win_rate,
            figures.preference_win_rate,
            figures.behavior_only_preference_win_rate,
        )
    }

    /// For the end.
    pub fn table(&self, trainer: &Trainer) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(["learned", "model", "behavior-only twin"]);
        let mut row = |name: &str, model: String, twin: String| _ = table.add_row([name, &model, &twin]);
        let none = String::new;
        row("steps", format!("{} (since it began: {})", self.steps, trainer.steps()), none());
        row("behavior groups", format!("{} with {} views", self.groups, self.views), none());
        let waiting = trainer.reservoir().never_used;
        row("preference pairs", format!("{}, {waiting} wait in the reservoir", self.pairs_learned), none());
        if self.skipped_batches > 0 {
            let (groups, pairs) = (self.skipped_groups, self.skipped_pairs);
            row(
                "skipped batches",
                format!("{}: {groups} groups, {pairs} pairs", self.skipped_batches),
                none(),
            );
        }
        for ((part, reason), count) in &self.dropped {
            row(&format!("dropped {part}"), format!("{count}: {reason}"), none());
        }
        let figures = trainer.progressive();
        row("L_main", format!("{:.4}", figures.loss_main), none());
        row("L_satis", format!("{:.4}", figures.loss_satisfaction), none());
        row("L_DPO", format!("{:.4}", figures.loss_dpo), none());
        let rate = |rate: f64, pairs: u64| if pairs > 0 { format!("{rate:.3}") } else { "-".to_owned() };
        let (behavior, preference) = (figures.behavior_pairs, figures.preference_pairs);
        row(
            &format!("behavior win rate, last {behavior} pairs"),
            rate(figures.behavior_win_rate, behavior),
            rate(figures.behavior_only_win_rate, behavior),
        );
        row(
            &format!("preference win rate, last {preference} pairs"),
            rate(figures.preference_win_rate, preference),
            rate(figures.behavior_only_preference_win_rate, preference),
        );
        if let Some(last) = &self.last {
            row("λ2", format!("{:.3}", last.dpo_weight), none());
            row("cost in behavior accuracy", format!("{:.2} points", 100.0 * last.behavior_cost), none());
        }
        table
    }
}
