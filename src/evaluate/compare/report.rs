//! What the comparison found out: a table, `comparison.json`, `comparison.html`.

use std::fmt::Write as _;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use super::CompareError;
use super::chart::{Point, front};
use super::contenders::Family;
use super::learn::Run;
use super::statistics::{Spread, paired_t};

const TEMPLATE: &str = include_str!("comparison.html");

/// Everything in it was measured in one run of the program.
#[derive(Debug, Serialize)]
pub struct Report {
    pub program: String,
    pub views: u64,
    pub seeds: u64,
    pub streams: Vec<StreamOf>,
    pub summaries: Vec<Summary>,
    pub runs: Vec<Run>,
}

/// How many answers a stream had, and how many preference pairs they made.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StreamOf {
    pub world: &'static str,
    pub seed: u64,
    pub answers: u64,
    pub pairs: u64,
}

/// One contender in one world, over the seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub world: &'static str,
    pub contender: String,
    pub family: Family,
    pub ndcg_at_10: Spread,
    pub hr_at_1: Spread,
    pub mrr: Spread,
    pub behavior_accuracy: Spread,
    /// Points of behavior accuracy below behavior-only, on the held-out lists.
    pub cost_points: Spread,
    /// The same in the last third of the stream; only of those that have a twin.
    pub stream_cost_points: Option<Spread>,
    /// λ2 at the end.
    pub dpo_weight: Option<Spread>,
    /// Paired t of NDCG@10 against behavior-only, and against the baseline with the highest mean.
    pub t_behavior_only: Option<f64>,
    pub t_best_baseline: Option<f64>,
}

impl Report {
    pub fn new(views: u64, seeds: u64) -> Report {
        let program = concat!("easq ", env!("CARGO_PKG_VERSION")).to_owned();
        Report { program, views, seeds, streams: Vec::new(), summaries: Vec::new(), runs: Vec::new() }
    }

    /// Means over the seeds, once all runs are in.
    pub fn summarize(&mut self) {
        let mut worlds: Vec<&'static str> = self.streams.iter().map(|stream| stream.world).collect();
        worlds.dedup();
        self.summaries = worlds.into_iter().flat_map(|world| self.of_world(world)).collect();
    }

    fn of_world(&self, world: &'static str) -> Vec<Summary> {
        let runs: Vec<&Run> = self.runs.iter().filter(|run| run.world == world).collect();
        let mut names: Vec<&str> = Vec::new();
        for run in &runs {
            if !names.contains(&run.contender.as_str()) {
                names.push(&run.contender);
            }
        }
        // In the order of the seeds for each, so that equal places are pairs.
        let of = |name: &str| runs.iter().copied().filter(|run| run.contender == name).collect::<Vec<_>>();
        let alone: Vec<&Run> =
            runs.iter().copied().filter(|run| run.family == Family::BehaviorOnly).collect();
        let baselines = names.iter().filter(|name| of(name)[0].family == Family::Baseline);
        let best =
            baselines.max_by(|a, b| mean(&of(a), ndcg).total_cmp(&mean(&of(b), ndcg))).map(|name| of(name));
        names.iter().map(|name| summary(&of(name), &alone, best.as_deref())).collect()
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and names are JSON") + "\n"
    }

    /// For a terminal, one table per world.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (world, rows) in self.worlds() {
            let mut table = Table::new();
            table.load_preset(UTF8_FULL_CONDENSED).set_header(HEADER);
            rows.iter().for_each(|row| _ = table.add_row(cells(row)));
            let (answers, pairs) = (self.mean_of(world, |s| s.answers), self.mean_of(world, |s| s.pairs));
            // Writing into a string does not fail.
            let _ = writeln!(
                text,
                "{world}: {} views, {answers:.0} answers, {pairs:.0} preference pairs, {} seeds",
                self.views, self.seeds
            );
            let _ = writeln!(text, "{table}");
        }
        text + NOTE
    }

    /// A page of one file.
    ///
    /// # Errors
    /// A chart cannot be drawn.
    pub fn to_html(&self) -> Result<String, CompareError> {
        let mut sections = String::new();
        for (world, rows) in self.worlds() {
            let point = |row: &&Summary| Point {
                family: row.family,
                behavior_accuracy: row.behavior_accuracy.mean,
                ndcg_at_10: row.ndcg_at_10.mean,
            };
            let chart = front(&rows.iter().map(point).collect::<Vec<_>>())?;
            let head: String = HEADER.map(|name| format!("<th>{name}</th>")).concat();
            let body: String = rows.iter().map(row_html).collect();
            let _ = write!(
                sections,
                "<section><h2>{world}</h2><p>{:.0} answers, {:.0} preference pairs per stream</p>{chart}\
                 <div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>",
                self.mean_of(world, |stream| stream.answers),
                self.mean_of(world, |stream| stream.pairs)
            );
        }
        let fields = [
            ("program", self.program.clone()),
            ("views", self.views.to_string()),
            ("seeds", self.seeds.to_string()),
            ("note", NOTE.to_owned()),
            ("sections", sections),
        ];
        let fill =
            |page: String, (name, value): (&str, String)| page.replace(&format!("{{{{{name}}}}}"), &value);
        Ok(fields.into_iter().fold(TEMPLATE.to_owned(), fill))
    }

    fn worlds(&self) -> Vec<(&'static str, Vec<&Summary>)> {
        let mut worlds: Vec<(&'static str, Vec<&Summary>)> = Vec::new();
        for summary in &self.summaries {
            match worlds.last_mut() {
                Some((world, rows)) if *world == summary.world => rows.push(summary),
                _ => worlds.push((summary.world, vec![summary])),
            }
        }
        worlds
    }

    /// Mean over the streams of a world.
    fn mean_of(&self, world: &str, value: fn(&StreamOf) -> u64) -> f64 {
        let of_world = self.streams.iter().filter(|stream| stream.world == world);
        Spread::of(&of_world.map(|stream| value(stream) as f64).collect::<Vec<_>>()).mean
    }
}

const HEADER: [&str; 10] = [
    "contender",
    "NDCG@10",
    "HR@1",
    "MRR",
    "behavior accuracy",
    "points lost",
    "in the stream",
    "lambda 2",
    "t behavior-only",
    "t best baseline",
];
const NOTE: &str = "Mean ± standard deviation over seeds, on held-out lists that nothing was trained on. Points lost: \
                    behavior accuracy below behavior-only on these lists; in the stream: against the twin, in its last \
                    third, before learning. t: paired, of NDCG@10.";

fn ndcg(run: &Run) -> f64 {
    run.held_out.ndcg_at_10
}

fn mean(runs: &[&Run], value: fn(&Run) -> f64) -> f64 {
    Spread::of(&values(runs, value)).mean
}

fn values(runs: &[&Run], value: fn(&Run) -> f64) -> Vec<f64> {
    runs.iter().map(|run| value(run)).collect()
}

/// `alone` are the behavior-only runs of the same seeds, `best` those of the best baseline.
fn summary(runs: &[&Run], alone: &[&Run], best: Option<&[&Run]>) -> Summary {
    let spread = |value: fn(&Run) -> f64| Spread::of(&values(runs, value));
    let accuracy = |run: &Run| run.held_out.behavior_accuracy;
    let lost: Vec<f64> = values(alone, accuracy)
        .iter()
        .zip(values(runs, accuracy))
        .map(|(alone, own)| 100.0 * (alone - own))
        .collect();
    let all = |value: fn(&Run) -> Option<f64>| {
        let values: Option<Vec<f64>> = runs.iter().map(|run| value(run)).collect();
        values.map(|values| Spread::of(&values))
    };
    let t = |others: &[&Run]| paired_t(&values(runs, ndcg), &values(others, ndcg));
    Summary {
        world: runs[0].world,
        contender: runs[0].contender.clone(),
        family: runs[0].family,
        ndcg_at_10: spread(ndcg),
        hr_at_1: spread(|run| run.held_out.hr_at_1),
        mrr: spread(|run| run.held_out.mrr),
        behavior_accuracy: spread(accuracy),
        cost_points: Spread::of(&lost),
        stream_cost_points: all(|run| run.stream_cost_points),
        dpo_weight: all(|run| run.dpo_weight),
        t_behavior_only: t(alone),
        t_best_baseline: best.and_then(t),
    }
}

fn cells(row: &Summary) -> [String; 10] {
    let small = |spread: Spread| format!("{:.3} ± {:.3}", spread.mean, spread.sd);
    let points = |spread: Spread| format!("{:.2} ± {:.2}", spread.mean, spread.sd);
    let or_none = |text: Option<String>| text.unwrap_or_default();
    let t = |t: Option<f64>| or_none(t.map(|t| format!("{t:.1}")));
    let is_alone = row.family == Family::BehaviorOnly;
    [
        row.contender.clone(),
        small(row.ndcg_at_10),
        small(row.hr_at_1),
        small(row.mrr),
        small(row.behavior_accuracy),
        if is_alone { String::new() } else { points(row.cost_points) },
        or_none(row.stream_cost_points.map(points)),
        or_none(row.dpo_weight.map(points)),
        t(row.t_behavior_only),
        t(row.t_best_baseline),
    ]
}

fn row_html(row: &&Summary) -> String {
    let [name, cells @ ..] = cells(row);
    let cells: String = cells.into_iter().map(|cell| format!("<td>{cell}</td>")).collect();
    let family = serde_json::to_string(&row.family).unwrap_or_default();
    format!("<tr class={family}><th>{name}</th>{cells}</tr>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::ranking::RankingTally;

    fn run(contender: &str, family: Family, seed: u64, is_right: bool, cost: Option<f64>) -> Run {
        let mut tally = RankingTally::default();
        // One list of two: NDCG 1 where it is ranked right, 1 / log2(3) where not; rewards likewise.
        let scores = if is_right { [1.0, 0.0] } else { [0.0, 1.0] };
        tally.add(0, &scores, &[1.0, 0.0], 0.2);
        Run {
            contender: contender.to_owned(),
            family,
            world: "dense",
            seed,
            held_out: tally.metrics().expect("a pair"),
            stream_cost_points: cost,
            dpo_weight: cost,
            steps: 1,
            seconds: 1.0,
        }
    }

    #[test]
    fn a_row_says_mean_deviation_price_and_t_against_the_same_seeds() {
        let mut report = Report::new(1_000, 3);
        report.streams =
            (1..=3).map(|seed| StreamOf { world: "dense", seed, answers: seed, pairs: 10 * seed }).collect();
        for seed in 1..=3 {
            report.runs.push(run("behavior-only", Family::BehaviorOnly, seed, seed == 1, None));
            report.runs.push(run("poor", Family::Baseline, seed, false, None));
            report.runs.push(run("good", Family::Baseline, seed, seed != 2, None));
            report.runs.push(run("easq", Family::Easq, seed, true, Some(seed as f64)));
        }
        report.summarize();
        let [alone, poor, _, easq] = &report.summaries[..] else { panic!("four rows") };
        assert_eq!((easq.ndcg_at_10, alone.t_behavior_only), (Spread { mean: 1.0, sd: 0.0 }, None));
        assert!((alone.cost_points.mean, (poor.cost_points.mean - 100.0 / 3.0).abs() < 1e-9) == (0.0, true));
        assert!((easq.cost_points.mean + 200.0 / 3.0).abs() < 1e-9, "{easq:?}");
        assert_eq!(easq.stream_cost_points, Some(Spread { mean: 2.0, sd: 1.0 }));
        // Differences of NDCG 0, d, d: t = 2; against the good baseline 0, d, 0: t = 1.
        let near = |t: Option<f64>, expected: f64| t.is_some_and(|t| (t - expected).abs() < 1e-9);
        assert!(near(easq.t_behavior_only, 2.0) && near(easq.t_best_baseline, 1.0), "{easq:?}");
        let table = report.table();
        assert!(table.contains("20 preference pairs") && table.contains("2.00 ± 1.00"), "{table}");
        let page = report.to_html().expect("a page");
        assert!(page.contains("<svg") && !page.contains("{{"), "{page}");
    }
}
