//! The whole line under traffic, and a real Prometheus that scrapes it with the repository's
//! configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml_ng::Value as Yaml;

use super::prometheus::Prometheus;
use super::rules::RULES;
use super::{Easq, Line, Served, eventually};

const PARTITIONS: i32 = 4;
const DEADLINE: Duration = Duration::from_secs(180);
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/prometheus.yml");

/// The whole line under traffic that goes on, and a Prometheus beside it.
pub struct Watched {
    joiners: Vec<Served>,
    _others: [Served; 3],
    _traffic: Easq,
    pub prometheus: Prometheus,
    _folder: tempfile::TempDir,
}

/// A line that settles and judges soon.
pub fn line(name: &str) -> Line {
    let line = Line::new(name)
        // Views settle within seconds where the world runs faster than the clock.
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
    /// Two joiners, two trainers and a follower; `traffic`: arguments of `easq simulate`.
    pub fn start(line: &Line, traffic: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let joiners: Vec<_> = (0..2).map(|_| Served::start(line, &["run", "--role", "joiner"])).collect();
        let trainers = [(); 2].map(|()| Served::start(line, &["run", "--role", "trainer"]));
        let dir = folder.path().join("model");
        let follow = ["follow", "--listen", "127.0.0.1:0", "--dir", dir.to_str().expect("a path in UTF-8")];
        let follower = Served::start(line, &follow);
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
        let traffic = line.start(&[&["simulate"], traffic].concat());
        let [first, second] = trainers;
        Self { joiners, _others: [first, second, follower], _traffic: traffic, prometheus, _folder: folder }
    }

    /// Partitions move to a process that is scraped already, so that their recovery is seen.
    pub fn move_partitions(&mut self) {
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
        self.joiners.pop().expect("two joiners").stop();
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
