//! The Prometheus text format.

use std::collections::BTreeMap;

/// One sample of the Prometheus text format: its name, its labels, its value.
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// The samples in an answer of `/metrics`.
pub fn samples(metrics: &str) -> Vec<Sample> {
    let parse = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| {
            let (name, value) = label.split_once("=\"")?;
            Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
        });
        Some(Sample { name: name.to_owned(), labels: labels.collect(), value: value.parse().ok()? })
    };
    metrics.lines().filter(|line| !line.starts_with('#')).filter_map(parse).collect()
}
