//! Dashboards and alerts beside a real Prometheus that scrapes a running line: what they ask for is
//! there, and comes with the labels that they show.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use serde_yaml_ng::Value as Yaml;
use support::dashboards::{Dashboard, Panel, dashboards};
use support::prometheus::{Prometheus, Series};
use support::promql::{faults, parse, selectors};
use support::rules::{RULES, known_with_recorded, rules};
use support::{Easq, Line, eventually, eventually_nothing};

const PARTITIONS: i32 = 4;
const DEADLINE: Duration = Duration::from_secs(180);
/// Four scrapes at least, so that a rate has its samples on a busy machine too.
const RATE_INTERVAL: &str = "20s";
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/prometheus.yml");
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

/// A process that serves its metrics.
struct Served {
    process: Easq,
    address: String,
}

impl Served {
    fn start(line: &Line, command: &[&str]) -> Self {
        let mut process = line.clone().set("telemetry.listen", "127.0.0.1:0").start(command);
        process.wait_for_output("serving /healthz", DEADLINE);
        let address = process.address();
        Self { process, address }
    }

    #[track_caller]
    fn stop(&mut self) {
        self.process.terminate();
        assert_eq!(self.process.wait(DEADLINE).code(), Some(0), "{}", self.process.output());
    }
}

/// The whole line under traffic that goes on, and a Prometheus beside it.
struct Watched {
    joiners: Vec<Served>,
    _others: [Served; 3],
    _traffic: Easq,
    prometheus: Prometheus,
    _folder: tempfile::TempDir,
}

fn line() -> Line {
    let line = Line::new("dashboards")
        // Views of a minute of the world's time settle in seconds of the clock.
        .set("join.window_ms", 60_000)
        .set("join.allowed_lateness_ms", 20_000)
        .set("join.group_span_ms", 30_000)
        .set("joiner.instance_id", "dynamic")
        .set("publish.interval_ms", 500)
        .set("publish.checkpoint_interval_ms", 1_000)
        // Versions are compared with an anchor soon, and pass.
        .set("gate.warmup_steps", 20)
        .set("gate.min_answers", 20)
        .set("gate.anchor_age_ms", 2_000)
        .set("gate.tolerance_points", 100)
        .set("gate.min_rank_correlation", -1);
    line.create_topics(PARTITIONS);
    line
}

impl Watched {
    fn start() -> Self {
        let (line, folder) = (line(), tempfile::tempdir().expect("a folder"));
        let joiners: Vec<_> = (0..2).map(|_| Served::start(&line, &["run", "--role", "joiner"])).collect();
        let trainers = [(); 2].map(|()| Served::start(&line, &["run", "--role", "trainer"]));
        let dir = folder.path().join("model");
        let follow = ["follow", "--listen", "127.0.0.1:0", "--dir", dir.to_str().expect("a path in UTF-8")];
        let follower = Served::start(&line, &follow);
        let addresses = |name: &str| -> Vec<String> {
            let of = |served: &[Served]| served.iter().map(|served| served.address.clone()).collect();
            match name {
                "joiner" => of(&joiners),
                "trainer" => of(&trainers),
                "follower" => vec![follower.address.clone()],
                strange => panic!("a service that this test does not start: {strange}"),
            }
        };
        let config = configuration(folder.path(), &addresses);
        let prometheus = Prometheus::start(&config);
        // Ten hours of the world in the time of the test, and its faults.
        let traffic =
            ["simulate", "--rate", "600", "--duration", "30m", "--span", "20h", "--exposure", "0.3"];
        let faults = ["--duplicates", "0.02", "--late", "0.01", "--orphans", "0.2", "--malformed", "0.005"];
        let traffic = line.start(&[&traffic[..], &faults[..]].concat());
        let [first, second] = trainers;
        Self { joiners, _others: [first, second, follower], _traffic: traffic, prometheus, _folder: folder }
    }

    /// A partition moves to a process that is scraped: so that its recovery is seen.
    fn move_partitions(&mut self) {
        let owned = |watched: &Self, address: &str| {
            let asked = format!("sum by (instance) (easq_joiner_partitions{{instance=\"{address}\"}})");
            let found =
                watched.prometheus.query(&asked).expect("a query").first().map(|series| series.points[0].1);
            found.unwrap_or_default()
        };
        let addresses: Vec<_> = self.joiners.iter().map(|joiner| joiner.address.clone()).collect();
        eventually(DEADLINE, "both joiners own partitions", || {
            addresses.iter().all(|address| owned(self, address) > 0.0)
        });
        let mut leaving = self.joiners.pop().expect("two joiners");
        leaving.stop();
        eventually(DEADLINE, "one joiner owns everything", || {
            owned(self, &addresses[0]) == f64::from(PARTITIONS)
        });
    }
}

/// The repository's configuration with the addresses of this line, scraped every second.
fn configuration(folder: &Path, addresses: &dyn Fn(&str) -> Vec<String>) -> PathBuf {
    let text = fs::read_to_string(CONFIG).expect("config/prometheus/prometheus.yml is readable");
    let mut config: Yaml = serde_yaml_ng::from_str(&text).expect("YAML");
    for interval in ["scrape_interval", "evaluation_interval"] {
        config["global"][interval] = "1s".into();
    }
    config["rule_files"] = Yaml::Sequence(vec![RULES.into()]);
    for job in config["scrape_configs"].as_sequence_mut().expect("jobs") {
        let names =
            job.as_mapping_mut().expect("a job").remove("dns_sd_configs").expect("names of containers");
        let name = names[0]["names"][0].as_str().expect("the name of a service").to_owned();
        let targets: Vec<Yaml> = addresses(&name).into_iter().map(Yaml::from).collect();
        let mut targets_of = serde_yaml_ng::Mapping::new();
        targets_of.insert("targets".into(), targets.into());
        job["static_configs"] = vec![Yaml::Mapping(targets_of)].into();
    }
    let path = folder.join("prometheus.yml");
    fs::write(&path, serde_yaml_ng::to_string(&config).expect("YAML")).expect("a writable folder");
    path
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
    let mut watched = Watched::start();
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
