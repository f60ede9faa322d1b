//! Alerts: Prometheus accepts them, each fires where it should, and docs/runbook.md says of each what
//! to do, with metrics, commands, settings and log lines that exist.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;
use easq::cli::Cli;
use easq::settings::DEFAULTS;
use serde::Deserialize;
use support::prometheus::promtool;
use support::promql::{faults, parse};
use support::rules::{Rule, alerts, known_with_recorded, rules};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// What people read beside the README, in which names of things can grow old.
const PAGES: [&str; 4] = ["docs/runbook.md", "docs/operations.md", "docs/security.md", "docs/contract.md"];
/// What every section of the runbook answers.
const PARTS: [&str; 5] = ["It means.", "Users notice.", "Look at.", "Do.", "False alarm."];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn assert_none<T: std::fmt::Debug>(what: &str, faults: impl IntoIterator<Item = T>) {
    let faults: Vec<_> = faults.into_iter().collect();
    assert!(faults.is_empty(), "{what}: {faults:#?}");
}

/// Sections of the runbook that are named after an alert, with their text.
fn sections(runbook: &str) -> BTreeMap<String, String> {
    let sections = runbook.split("\n## ").skip(1);
    let split =
        |section: &str| section.split_once('\n').map(|(name, text)| (name.to_owned(), text.to_owned()));
    sections.filter_map(split).collect()
}

/// What stands between backticks, and the lines of code blocks.
fn code(runbook: &str) -> Vec<String> {
    let mut code = Vec::new();
    for (index, block) in runbook.split("```").enumerate() {
        if index % 2 == 1 {
            code.extend(block.lines().skip(1).map(str::to_owned));
        } else {
            code.extend(block.split('`').skip(1).step_by(2).map(|text| text.replace('\n', " ")));
        }
    }
    code
}

#[test]
fn prometheus_accepts_configuration_and_rules() {
    for arguments in [
        ["check", "config", "config/prometheus/prometheus.yml"],
        ["check", "rules", "config/prometheus/alerts.yml"],
    ] {
        let (accepted, output) = promtool(&arguments);
        assert!(accepted, "{output}");
    }
}

#[derive(Deserialize)]
struct UnitTests {
    tests: Vec<UnitTest>,
}

#[derive(Deserialize)]
struct UnitTest {
    name: String,
    input_series: Vec<BTreeMap<String, String>>,
    promql_expr_test: Vec<ExprTest>,
}

#[derive(Deserialize)]
struct ExprTest {
    expr: String,
    exp_samples: Vec<BTreeMap<String, serde_yaml_ng::Value>>,
}

#[test]
fn each_alert_fires_where_it_should_and_stays_quiet_elsewhere() {
    let (passed, output) = promtool(&["test", "rules", "config/prometheus/alerts.test.yml"]);
    assert!(passed, "{output}");

    let tests: UnitTests = serde_yaml_ng::from_str(&read("config/prometheus/alerts.test.yml"))
        .expect("tests as promtool reads them");
    for alert in alerts() {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        let of_alert = tests.tests.iter().find(|test| test.name == alert);
        let test = of_alert.unwrap_or_else(|| panic!("no unit test of {alert}"));
        let mut looks = test.promql_expr_test.iter().filter(|look| look.expr == firing);
        assert!(looks.clone().any(|look| !look.exp_samples.is_empty()), "{alert} never fires");
        assert!(looks.any(|look| look.exp_samples.is_empty()), "{alert} is never quiet");
        let quiet = test.input_series.iter().filter_map(|series| series.get("series"));
        assert!(quiet.clone().any(|series| series.contains("easq-good")), "{alert} has no quiet series");
    }
}

#[test]
fn an_alert_says_how_bad_it_is_and_where_its_section_of_the_runbook_stands() {
    for rule in rules() {
        let Rule::Alert { alert, pending, labels, annotations, .. } = rule else { continue };
        assert!(pending.ends_with('m'), "{alert} fires at once");
        let severity = labels.get("severity").map(String::as_str);
        assert!(matches!(severity, Some("critical" | "warning")), "{alert}: {severity:?}");
        let expected = format!("docs/runbook.md#{}", alert.to_lowercase());
        assert_eq!(annotations.get("runbook"), Some(&expected), "{alert}");
        for name in ["summary", "description"] {
            assert!(annotations.get(name).is_some_and(|text| !text.is_empty()), "{alert} has no {name}");
        }
    }
}

#[test]
fn rules_ask_for_metrics_and_labels_that_exist() {
    let known = known_with_recorded();
    let of_rule = |rule: Rule| {
        let faults = faults(&parse(rule.expr()), &known);
        faults.into_iter().map(move |fault| format!("{}: {fault}", rule.name())).collect::<Vec<_>>()
    };
    assert_none("rules", rules().into_iter().flat_map(of_rule));
}

#[test]
fn the_runbook_has_a_section_for_each_alert_and_for_nothing_else() {
    let sections = sections(&read("docs/runbook.md"));
    let (named, alerts): (BTreeSet<_>, BTreeSet<_>) =
        (sections.keys().cloned().collect(), alerts().into_iter().collect());
    assert_eq!(named, alerts);
    for (name, text) in &sections {
        let places = PARTS.map(|part| text.find(&format!("**{part}**")));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{name} lacks a part: {places:?}");
    }
    let runbook = read("docs/runbook.md");
    let links = runbook.split("](#").skip(1).filter_map(|rest| rest.split(')').next());
    let anchors: BTreeSet<_> = named.iter().map(|name| name.to_lowercase()).collect();
    assert_none("links to no section", links.filter(|link| !anchors.contains(*link)));
}

/// Words of a command line as a shell splits them.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('"').enumerate();
    let word = |(index, part): (usize, &str)| match index % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    };
    quoted.flat_map(word).collect()
}

/// Words like the names of alerts.
fn alerts_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let is_alert = |word: &&str| {
        word.strip_prefix("Easq")
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
    };
    words.filter(is_alert).map(str::to_owned).collect()
}

#[test]
fn what_pages_name_exists_metrics_commands_settings_and_alerts() {
    let known = known_with_recorded();
    let histogram = |word: &str| known.iter().any(|known| known.name == format!("{word}_count"));
    let is_metric = |word: &str| known.iter().any(|known| known.name == word) || histogram(word);
    let defaults: toml::Table = DEFAULTS.parse().expect("TOML");
    let sections: BTreeSet<_> = defaults.keys().map(String::as_str).collect();
    let is_setting = |section: &str, key: &str| defaults[section].get(key).is_some();
    let mut seen = [0; 4];
    let pages = PAGES.map(read).concat();
    for alert in alerts_in(&pages) {
        seen[3] += 1;
        assert!(alerts().contains(&alert), "there is no alert {alert}");
    }
    for text in PAGES.map(read).iter().flat_map(|page| code(page)) {
        if text.starts_with("easq_") || text.starts_with("process_") || text.starts_with("easq:") {
            seen[0] += 1;
            assert!(is_metric(&text), "there is no metric {text}");
        } else if text.starts_with("easq ") {
            seen[1] += 1;
            if let Err(error) = Cli::try_parse_from(words(&text)) {
                // A command that is named as a whole, with what it wants left open.
                let is_open = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
                let is_name = words(&text).iter().all(|word| !word.starts_with('-'));
                assert!(is_open && is_name, "{text}: {error}");
            }
        } else if let Some((section, key)) =
            text.split_once('.').filter(|(section, key)| sections.contains(section) && *key != "proto")
        {
            seen[2] += 1;
            let key = key.split(' ').next().unwrap_or(key);
            assert!(is_setting(section, key), "there is no setting {text}");
        }
    }
    assert!(seen.iter().all(|&count| count > 10), "what the pages name was not found: {seen:?}");
}

fn sources(folder: PathBuf, into: &mut String) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).expect("a readable source"));
        }
    }
}

#[test]
fn the_runbook_quotes_log_lines_that_the_program_writes() {
    let mut text = String::new();
    sources(Path::new(ROOT).join("src/telemetry/events"), &mut text);
    let runbook = code(&read("docs/runbook.md"));
    let quoted: Vec<_> =
        runbook.iter().filter_map(|code| code.strip_prefix('"')?.strip_suffix('"')).collect();
    assert!(quoted.len() > 10, "log lines were not found in the runbook: {quoted:?}");
    assert_none("no such log line", quoted.into_iter().filter(|line| !text.contains(line)));
}
