//! A real Prometheus and its promtool, as `scripts/get-prometheus` finds or fetches them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::cluster::free_ports;
use super::{answer, eventually_some};

const START_WITHIN: Duration = Duration::from_secs(60);
/// Another process can take a port between the moment it was found free and the start.
const START_ATTEMPTS: usize = 3;

/// Runs promtool in the root of the repository: whether it was content, and what it printed.
pub fn promtool(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(folder().join("promtool"));
    let done = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let done = done.expect("promtool starts");
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn folder() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/get-prometheus");
    let mut command = Command::new(script);
    let done = command.stderr(Stdio::inherit()).output().expect("scripts/get-prometheus starts");
    assert!(done.status.success(), "there is no Prometheus; what scripts/get-prometheus printed says why");
    String::from_utf8(done.stdout).expect("a path in UTF-8").trim().into()
}

/// A Prometheus of one test, on a port and in a folder of its own; gone when dropped.
pub struct Prometheus {
    child: Child,
    address: String,
    _data: TempDir,
}

/// One series of an answer: its labels, and its values by Unix time.
#[derive(Debug, Clone)]
pub struct Series {
    pub labels: Vec<(String, String)>,
    pub points: Vec<(f64, f64)>,
}

impl Prometheus {
    #[track_caller]
    pub fn start(config: &Path) -> Self {
        let started = (0..START_ATTEMPTS).find_map(|_| Self::try_start(config));
        started.unwrap_or_else(|| panic!("a port was taken at each of {START_ATTEMPTS} starts"))
    }

    /// `None`: another process took the port.
    fn try_start(config: &Path) -> Option<Self> {
        let data = tempfile::tempdir().expect("an empty folder");
        let address = free_ports(1)[0].to_string();
        let log = data.path().join("log");
        let child = Command::new(folder().join("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a file for its log"))
            .spawn()
            .expect("prometheus starts");
        let mut started = Self { child, address, _data: data };
        let is_ready = eventually_some(START_WITHIN, "Prometheus is ready or has ended", || {
            if let Some(status) = started.child.try_wait().expect("a child of this process") {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                assert!(log.contains("address already in use"), "Prometheus ended with {status}: {log}");
                return Some(false);
            }
            answer(&started.address, "/-/ready").filter(|(status, _)| *status == 200).map(|_| true)
        });
        is_ready.then_some(started)
    }

    /// What an expression gives now.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub fn query(&self, expression: &str) -> Result<Vec<Series>, String> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)))?;
        Ok(series(&data, "value"))
    }

    /// What it gave from one Unix time to another, every `step` seconds.
    ///
    /// # Errors
    /// What Prometheus says against it.
    pub fn query_range(&self, expression: &str, range: (f64, f64), step: f64) -> Result<Vec<Series>, String> {
        let (expression, (from, to)) = (encoded(expression), range);
        let data =
            self.ask(&format!("/api/v1/query_range?query={expression}&start={from}&end={to}&step={step}"))?;
        Ok(series(&data, "values"))
    }

    /// The `data` of an answer of its HTTP interface.
    ///
    /// # Errors
    /// What Prometheus says against the question.
    pub fn ask(&self, path: &str) -> Result<Value, String> {
        let (_, body) = answer(&self.address, path).ok_or("Prometheus does not answer")?;
        let mut body: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        match body["status"].as_str() {
            Some("success") => Ok(body["data"].take()),
            _ => Err(body["error"].as_str().unwrap_or("no reason given").to_owned()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte.into()),
            _ => write!(out, "%{byte:02X}").expect("writing to a string"),
        }
    }
    out
}

/// `key`: where the points stand, `value` for one and `values` for many.
fn series(data: &Value, key: &str) -> Vec<Series> {
    if data["resultType"] == "scalar" {
        return vec![Series { labels: Vec::new(), points: point(&data["result"]).into_iter().collect() }];
    }
    let one = |found: &Value| Series {
        labels: labels(&found["metric"]),
        points: match &found[key] {
            Value::Array(points) if key == "values" => points.iter().filter_map(point).collect(),
            single => point(single).into_iter().collect(),
        },
    };
    data["result"].as_array().into_iter().flatten().map(one).collect()
}

fn labels(metric: &Value) -> Vec<(String, String)> {
    let labels = metric.as_object().into_iter().flatten();
    labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// `[time, "value"]`.
fn point(pair: &Value) -> Option<(f64, f64)> {
    Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?))
}
