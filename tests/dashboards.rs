//! Dashboards and alerts beside a real Prometheus that scrapes a running line: what they ask for is
//! there, and comes with the labels that they show.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use support::dashboards::{Dashboard, Panel, dashboards};
use support::eventually_nothing;
use support::prometheus::Series;
use support::promql::{faults, parse, selectors};
use support::rules::{known_with_recorded, rules};
use support::watched::{self, Watched};

const DEADLINE: Duration = Duration::from_secs(180);
/// Four scrapes at least, so that a rate has its samples on a busy machine too.
const RATE_INTERVAL: &str = "20s";
/// Twenty hours of the world in half an hour, with its faults.
#[rustfmt::skip]
const TRAFFIC: [&str; 16] = [
    "--rate", "600", "--duration", "30m", "--span", "20h", "--exposure", "0.3",
    "--duplicates", "0.02", "--late", "0.01", "--orphans", "0.2", "--malformed", "0.005",
];
/// Of the dashboards, all through their variable.
const DATASOURCE: &str = "${datasource}";

fn panels() -> Vec<Panel> {
    dashboards().iter().flat_map(Dashboard::panels).collect()
}

/// What is wrong with the way a dashboard is written.
fn form(dashboard: &Dashboard) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{}: {what}", dashboard.uid()));
    let pretty = serde_json::to_value(&dashboard.json).and_then(|json| serde_json::to_string_pretty(&json));
    let lines = |text: &str| text.lines().count();
    if lines(&pretty.expect("JSON")) != lines(&dashboard.text) {
        fault("not one value per line, as two spaces of indentation give it".to_owned());
    }
    for name in ["datasource", "job", "instance", "model"] {
        if dashboard.variable(name).is_none() {
            fault(format!("no variable {name}"));
        }
    }
    for uid in uids(&dashboard.json) {
        if uid != DATASOURCE {
            fault(format!("the data source '{uid}' is that of one Grafana"));
        }
    }
    let mut seen = BTreeSet::new();
    for panel in dashboard.json["panels"].as_array().expect("panels") {
        if !seen.insert(panel["id"].as_u64()) {
            fault(format!("two panels with the id {}", panel["id"]));
        }
    }
    let panels = dashboard.panels();
    for (index, panel) in panels.iter().enumerate() {
        faults.extend(form_of_panel(panel).into_iter().map(|what| format!("{}: {what}", panel.name())));
        let cover =
            panels[..index].iter().find(|other| overlap(&other.json["gridPos"], &panel.json["gridPos"]));
        faults.extend(cover.map(|other| format!("{} lies over {}", panel.name(), other.name())));
    }
    faults
}

fn form_of_panel(panel: &Panel) -> Vec<&'static str> {
    let description = panel.json["description"].as_str().unwrap_or_default();
    let queries = panel.queries();
    [
        (panel.title().is_empty(), "no title"),
        (!description.ends_with('.'), "no description that is a sentence"),
        (panel.unit().is_empty(), "no unit"),
        (queries.is_empty(), "no query"),
        (queries.iter().any(|query| query.legend.is_empty()), "a query without a legend"),
        (panel.json["datasource"]["uid"] != DATASOURCE, "no data source"),
    ]
    .into_iter()
    .filter_map(|(is_fault, what)| is_fault.then_some(what))
    .collect()
}

/// Of data sources, wherever they stand.
fn uids(json: &Value) -> Vec<&str> {
    match json {
        Value::Object(fields) => {
            let own = fields.get("datasource").and_then(|datasource| datasource["uid"].as_str());
            own.into_iter().chain(fields.values().flat_map(uids)).collect()
        }
        Value::Array(values) => values.iter().flat_map(uids).collect(),
        _ => Vec::new(),
    }
}

fn overlap(one: &Value, other: &Value) -> bool {
    let span = |place: &Value, at: &str, size: &str| {
        let at = place[at].as_u64().expect("a place on the grid");
        (at, at + place[size].as_u64().expect("a size"))
    };
    let meet = |(from, to): (u64, u64), (start, end): (u64, u64)| from < end && start < to;
    meet(span(one, "x", "w"), span(other, "x", "w")) && meet(span(one, "y", "h"), span(other, "y", "h"))
}

#[test]
fn panels_have_units_legends_and_descriptions_and_no_data_source_of_their_own() {
    let dashboards = dashboards();
    assert_eq!(dashboards.iter().map(Dashboard::uid).collect::<Vec<_>>(), ["easq-model", "easq-service"]);
    let faults: Vec<_> = dashboards.iter().flat_map(form).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn panels_ask_for_metrics_and_labels_that_exist() {
    let known = known_with_recorded();
    let of_panel = |panel: Panel| {
        let queries = panel.queries().into_iter();
        let faults = queries.flat_map(|query| faults(&parse(&query.filled(RATE_INTERVAL)), &known));
        faults.map(|fault| format!("{}: {fault}", panel.name())).collect::<Vec<_>>()
    };
    let faults: Vec<_> = panels().into_iter().flat_map(of_panel).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Whether something is there, NaN aside.
fn has_values(series: &[Series]) -> bool {
    series.iter().flat_map(|series| &series.points).any(|(_, value)| value.is_finite())
}

/// What is asked, and where.
struct Asked {
    place: String,
    expr: String,
    legend_labels: Vec<String>,
}

/// Every query of the dashboards, every expression that is recorded, and every series of an alert: an
/// alert itself gives nothing while all is well.
fn asked() -> Vec<Asked> {
    let mut asked = Vec::new();
    for panel in panels() {
        for query in panel.queries() {
            let (place, expr) = (panel.name(), query.filled(RATE_INTERVAL));
            asked.push(Asked { place, expr, legend_labels: query.legend_labels() });
        }
    }
    for rule in rules() {
        let of = |expr: String| Asked { place: rule.name().to_owned(), expr, legend_labels: Vec::new() };
        asked.extend(selectors(&parse(rule.expr())).iter().map(|selector| of(selector.to_string())));
    }
    asked
}

#[test]
fn everything_that_dashboards_and_alerts_ask_for_comes_from_a_running_line() {
    let mut watched = Watched::start(&watched::line("dashboards"), &TRAFFIC);
    watched.move_partitions();
    let prometheus = &watched.prometheus;
    for rule in rules() {
        prometheus.query(rule.expr()).unwrap_or_else(|error| panic!("{}: {error}", rule.name()));
    }
    let mut open = asked();
    assert!(open.len() > 100, "what dashboards and alerts ask for was not found");
    eventually_nothing(DEADLINE, "every query gives something", || {
        open.retain(|Asked { place, expr, legend_labels }| {
            let series = prometheus.query(expr).unwrap_or_else(|error| panic!("{place}: {error} in {expr}"));
            let found = has_values(&series);
            for label in legend_labels.iter().filter(|_| found) {
                let shown = series.iter().any(|series| series.labels.iter().any(|(name, _)| name == label));
                assert!(shown, "{place}: the legend shows '{label}', which {expr} does not give");
            }
            !found
        });
        open.iter().map(|Asked { place, expr, .. }| format!("{place}: {expr}")).collect()
    });
    // Invariant 11, as Prometheus has seen it, also while partitions moved.
    for worst in ["max_over_time", "min_over_time"] {
        let asked = format!("{worst}(easq:join_unaccounted:records[1h])");
        for series in prometheus.query(&asked).expect("a query") {
            assert_eq!(series.points[0].1, 0.0, "records are unaccounted for: {series:?}");
        }
    }
}
