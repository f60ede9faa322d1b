//! Where counted facts are kept until Prometheus fetches them.

use std::time::{Duration, Instant};

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::events::Looked;
use super::names::{self, Kind};
use super::partitions;
use super::state::state;

/// Histograms take their observations in between scrapes at this interval at the latest, so that a
/// process that nobody scrapes does not grow.
pub(super) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Bucket bounds of the histograms, all of which are durations in seconds: from a transaction of a
/// few milliseconds to an answer that waited an hour for production.
const SECONDS_BUCKETS: [f64; 19] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    1_000.0, 3_600.0,
];

/// Counting cannot begin: something else in this process counts already.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the metrics recorder")]
pub struct RecorderError(#[from] BuildError);

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics {
    recorder: PrometheusHandle,
}

impl Metrics {
    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        let ready = state().known().ready(Instant::now());
        Looked { ready: &ready }.emit();
        let mut text = self.recorder.render();
        text.push_str(&partitions::render());
        text
    }

    pub(super) fn run_upkeep(&self) {
        self.recorder.run_upkeep();
    }
}

/// Starts counting, for the rest of the process. Facts that were emitted before are not counted.
///
/// # Errors
/// A second call.
pub fn install_recorder() -> Result<Metrics, RecorderError> {
    let mut builder = PrometheusBuilder::new();
    for metric in names::TABLE.iter().filter(|metric| metric.kind == Kind::Histogram) {
        let matcher = Matcher::Full(metric.name.to_owned());
        builder = builder.set_buckets_for_metric(matcher, &SECONDS_BUCKETS)?;
    }
    let recorder = builder.install_recorder()?;
    for metric in names::TABLE {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.help),
        }
    }
    Ok(Metrics { recorder })
}
