//! The rules of `config/prometheus/alerts.yml`.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;

use super::promql::{Known, known, parse, selectors};

pub const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/alerts.yml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(rename = "name")]
    _name: String,
    rules: Vec<Rule>,
}

/// A recording rule or an alert.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Rule {
    Record {
        record: String,
        expr: String,
    },
    Alert {
        alert: String,
        expr: String,
        #[serde(rename = "for")]
        pending: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    },
}

impl Rule {
    pub fn name(&self) -> &str {
        match self {
            Self::Record { record: name, .. } | Self::Alert { alert: name, .. } => name,
        }
    }

    pub fn expr(&self) -> &str {
        match self {
            Self::Record { expr, .. } | Self::Alert { expr, .. } => expr,
        }
    }
}

pub fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(RULES).expect("config/prometheus/alerts.yml is readable");
    let rules: Rules = serde_yaml_ng::from_str(&text).expect("rules as Prometheus reads them");
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Names of the alerts, in order.
pub fn alerts() -> Vec<String> {
    let rules = rules();
    let alerts = rules.iter().filter(|rule| matches!(rule, Rule::Alert { .. }));
    alerts.map(|rule| rule.name().to_owned()).collect()
}

/// The program's metrics, and what the recording rules make of them.
pub fn known_with_recorded() -> Vec<Known> {
    let mut known = known();
    for rule in rules() {
        if let Rule::Record { record, expr } = rule {
            let named = selectors(&parse(&expr));
            let sources = known
                .iter()
                .filter(|known| named.iter().any(|selector| selector.name.as_ref() == Some(&known.name)));
            let labels = sources.flat_map(|source| source.labels.iter().cloned()).collect();
            known.push(Known { name: record, labels });
        }
    }
    known
}
