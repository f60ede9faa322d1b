//! `report.html`: one file without external resources, for phone and desktop, light and dark.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::charts::{self, ChartError, Line, grouped};
use super::report::{Conservation, HeldOut, Report, VersionPoint};

const TEMPLATE: &str = include_str!("report.html");

/// The page.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn render(report: &Report) -> Result<String, ChartError> {
    let held_out = &report.held_out;
    let mut fields = BTreeMap::from([
        ("program", escaped(&report.program)),
        ("seed", report.seed.to_string()),
        ("began_at", escaped(&report.began_at)),
        ("traffic_seconds", format!("{:.0}", report.traffic_seconds)),
        ("total_seconds", format!("{:.0}", report.total_seconds)),
        ("event_time_hours", format!("{:.1}", report.event_time_hours)),
        ("broker", escaped(&report.broker)),
        ("broker_note", escaped(&report.broker_note)),
        ("headline", headline(held_out)),
        ("tiles", tiles(report)),
        ("lists", grouped(held_out.lists)),
        ("production_version", held_out.production_version.to_string()),
        ("held_out_rows", held_out_rows(held_out)),
        ("p50", format!("{:.0}", report.join_delay.p50_ms)),
        ("p90", format!("{:.0}", report.join_delay.p90_ms)),
        ("p99", format!("{:.0}", report.join_delay.p99_ms)),
        ("versions", report.versions.to_string()),
        ("versions_loaded", report.versions_loaded.to_string()),
        ("loaded_after", median_load_ms(&report.version_history).to_string()),
        ("conservation_rows", conservation_rows(&report.conservation)),
        ("conservation_faults", faults(&report.conservation)),
    ]);
    let (class, word) = if report.conservation.ok { ("good", "holds") } else { ("bad", "does not hold") };
    fields.insert("conservation_class", class.to_owned());
    fields.insert("conservation_word", word.to_owned());
    fields.insert("chart_held_out", charts::held_out(held_out)?);
    fields.insert("chart_funnel", charts::funnel(&report.funnel)?);
    fields.insert("chart_delay", charts::join_delay(&report.join_delay)?);
    fields.insert("chart_losses", losses(&report.version_history)?);
    fields.insert("chart_win_rates", win_rates(&report.version_history)?);
    fields.insert("chart_versions", charts::versions(&report.version_history)?);
    Ok(filled(&fields))
}

fn filled(fields: &BTreeMap<&str, String>) -> String {
    fields
        .iter()
        .fold(TEMPLATE.to_owned(), |page, (name, value)| page.replace(&format!("{{{{{name}}}}}"), value))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn headline(held_out: &HeldOut) -> String {
    let gain = held_out.ndcg_at_10_gain;
    let class = if gain > 0.0 { "" } else { " class=\"bad\"" };
    format!(
        "The production model ranks what satisfies with NDCG@10 {:.3}, its behavior-only twin with {:.3}: \
         <b{class}>{gain:+.3}</b>, for {:.1} points of behavior accuracy.",
        held_out.production.ndcg_at_10,
        held_out.behavior_only.ndcg_at_10,
        held_out.behavior_accuracy_points_lost,
    )
}

fn tiles(report: &Report) -> String {
    let tiles = [
        ("views", report.views),
        ("answers", report.answers),
        ("labelled views", report.labelled_views),
        ("preference pairs", report.preference_pairs),
        ("behavior groups", report.behavior_groups),
        ("versions", report.versions),
    ];
    tiles.iter().fold(String::new(), |mut html, (name, count)| {
        let _ = write!(html, "<div class=\"tile\"><b>{}</b><span>{name}</span></div>", grouped(*count));
        html
    })
}

fn held_out_rows(held_out: &HeldOut) -> String {
    held_out.rows().iter().fold(String::new(), |mut html, (name, ours, twin)| {
        let difference = ours - twin;
        let class = if difference >= 0.0 { "good" } else { "bad" };
        let _ = write!(
            html,
            "<tr><td>{name}</td><td>{ours:.3}</td><td>{twin:.3}</td><td class=\"{class}\">{difference:+.3}</td></tr>"
        );
        html
    })
}

fn losses(points: &[VersionPoint]) -> Result<String, ChartError> {
    let lines = [
        Line { value: |point| point.loss_main },
        Line { value: |point| point.loss_satisfaction },
        Line { value: |point| point.loss_dpo },
    ];
    charts::lines("losses over time", "loss", points, &lines)
}

fn win_rates(points: &[VersionPoint]) -> Result<String, ChartError> {
    let lines = [
        Line { value: |point| point.behavior_win_rate },
        Line { value: |point| point.behavior_only_win_rate },
        Line { value: |point| point.preference_win_rate },
    ];
    charts::lines("win rates over time", "win rate", points, &lines)
}

fn median_load_ms(points: &[VersionPoint]) -> i64 {
    let mut delays: Vec<i64> = points.iter().map(|point| point.loaded_after_ms).collect();
    delays.sort_unstable();
    delays.get(delays.len() / 2).copied().unwrap_or_default()
}

fn conservation_rows(conservation: &Conservation) -> String {
    let (views, responses) = (&conservation.views, &conservation.responses);
    let mut rows = vec![
        ("written", Some(views.produced), Some(responses.produced)),
        ("read", Some(views.consumed), Some(responses.consumed)),
        ("waiting", Some(views.waiting), Some(responses.waiting)),
    ];
    let outcomes: BTreeSet<&String> = views.outcomes.keys().chain(responses.outcomes.keys()).collect();
    for outcome in outcomes {
        let counts = (views.outcomes.get(outcome).copied(), responses.outcomes.get(outcome).copied());
        if counts.0.unwrap_or_default() + counts.1.unwrap_or_default() > 0 {
            rows.push((outcome, counts.0, counts.1));
        }
    }
    let cell = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), grouped);
    rows.into_iter().fold(String::new(), |mut html, (name, views, responses)| {
        let name = escaped(name).replace('_', " ");
        let _ = write!(html, "<tr><td>{name}</td><td>{}</td><td>{}</td></tr>", cell(views), cell(responses));
        html
    })
}

fn faults(conservation: &Conservation) -> String {
    if conservation.faults.is_empty() {
        return String::new();
    }
    let items: String =
        conservation.faults.iter().map(|fault| format!("<li>{}</li>", escaped(fault))).collect();
    format!("<ul class=\"bad\">{items}</ul>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::tests::sample;

    #[test]
    fn the_page_is_whole_and_needs_nothing_from_elsewhere() {
        let page = render(&sample()).expect("the charts can be drawn");
        assert!(!page.contains("{{"), "a field of the template is not filled");
        assert_eq!(page.matches("<svg").count(), 6);
        for reference in ["src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(reference), "{reference} in the page");
        }
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let mut report = sample();
        report.broker = "<script>alert(1)</script>".to_owned();
        let page = render(&report).expect("the charts can be drawn");
        assert!(!page.contains("<script"));
    }

    #[test]
    fn an_empty_run_has_a_page_too() {
        let mut report = sample();
        report.version_history.clear();
        report.join_delay = super::super::report::JoinDelay::default();
        render(&report).expect("the charts can be drawn");
    }

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
