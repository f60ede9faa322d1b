//! docker-compose.yml: its parts fit together, and each of its commands does what it is there for.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_yaml_ng::Value as Yaml;
use support::{Easq, Line, answer, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const DEADLINE: Duration = Duration::from_secs(120);
/// Where an easq container serves HTTP, as the image says.
const LISTEN: &str = "0.0.0.0:9464";
/// Services that run until they are stopped, in the order in which they are started here.
const SERVICES: [&str; 3] = ["joiner", "trainer", "follower"];

/// What this project uses of <https://compose-spec.io>; anything else is a slip of the pen.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compose {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "x-easq")]
    _easq: Yaml,
    #[serde(rename = "x-service")]
    _service: Yaml,
    services: BTreeMap<String, Service>,
    volumes: BTreeMap<String, Option<Yaml>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Service {
    build: Option<Build>,
    image: String,
    environment: BTreeMap<String, Yaml>,
    read_only: bool,
    command: Vec<String>,
    init: bool,
    healthcheck: Option<Healthcheck>,
    depends_on: BTreeMap<String, Dependency>,
    stop_grace_period: Option<String>,
    restart: Option<String>,
    ports: Vec<String>,
    volumes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    context: String,
    args: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Healthcheck {
    test: Vec<String>,
    interval: String,
    #[serde(rename = "timeout")]
    _timeout: String,
    #[serde(rename = "retries")]
    _retries: u32,
    #[serde(rename = "start_period")]
    _start_period: String,
    start_interval: String,
    disable: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependency {
    condition: Condition,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

impl Service {
    /// Whether it runs this program.
    fn is_easq(&self) -> bool {
        self.image == "easq:latest"
    }

    /// Whether something tells that it works: the image of easq has a health check.
    fn is_probed(&self) -> bool {
        match &self.healthcheck {
            Some(check) => !check.disable && !check.test.is_empty(),
            None => self.is_easq(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Yaml {
    let mut yaml: Yaml = serde_yaml_ng::from_str(&read(path)).expect("YAML");
    yaml.apply_merge().expect("merges of mappings");
    yaml
}

fn compose() -> Compose {
    serde_yaml_ng::from_value(yaml("docker-compose.yml")).expect("docker-compose.yml as Compose reads it")
}

#[test]
fn services_wait_for_what_is_there_and_are_looked_after() {
    let compose = compose();
    for (name, service) in &compose.services {
        for (on, Dependency { condition }) in &service.depends_on {
            let other =
                compose.services.get(on).unwrap_or_else(|| panic!("{name} waits for {on}, which is none"));
            let can_be = match condition {
                Condition::ServiceHealthy => other.is_probed(),
                // Whoever is started again does not complete.
                Condition::ServiceCompletedSuccessfully => other.restart.is_none(),
            };
            assert!(can_be, "{name} waits for {on}: {condition:?}");
        }
        let is_short = ["topics", "simulator"].contains(&name.as_str());
        assert_eq!(service.is_probed(), !is_short, "{name}: whether a health check makes sense");
        for port in &service.ports {
            assert!(port.starts_with("127.0.0.1:"), "{name}: anybody on the network reaches {port}");
        }
        for volume in &service.volumes {
            let source = volume.split(':').next().expect("a source");
            let is_there = compose.volumes.contains_key(source) || Path::new(ROOT).join(source).exists();
            assert!(is_there, "{name}: there is no {source}");
        }
        assert_eq!(service.build.is_some(), service.is_easq(), "{name}: whether it is built here");
        if let Some(Build { context, args }) = &service.build {
            assert!(context == "." && args.contains_key("EASQ_REVISION"), "{name}: {context} {args:?}");
        }
    }
    let check = compose.services["kafka"].healthcheck.as_ref().expect("a health check");
    assert_eq!((&*check.interval, &*check.start_interval), ("30s", "3s"), "each starts a JVM");
    let drain = Line::new("compose").settings().joiner.drain_deadline_ms;
    for name in SERVICES {
        let service = &compose.services[name];
        let grace = service.stop_grace_period.as_deref().and_then(|period| period.strip_suffix('s'));
        let grace: u64 = grace.and_then(|seconds| seconds.parse().ok()).expect("seconds of grace");
        assert!(1_000 * grace > drain, "{name} is killed before joiner.drain_deadline_ms is over");
        assert_eq!(service.restart.as_deref(), Some("on-failure"), "{name}");
        assert!(service.read_only && !service.init, "{name} needs no more than it has");
    }
    assert!(compose.services["joiner"].ports.is_empty(), "of several joiners one alone would get the port");
}

#[test]
fn prometheus_and_grafana_find_what_they_are_given() {
    let compose = compose();
    let prometheus = yaml("config/prometheus/prometheus.yml");
    let mut scraped = Vec::new();
    for job in prometheus["scrape_configs"].as_sequence().expect("jobs") {
        let found = &job["dns_sd_configs"][0];
        let port = LISTEN.split(':').nth(1).and_then(|port| port.parse::<u64>().ok());
        assert_eq!(found["port"].as_u64(), port, "{job:?}");
        let name = found["names"][0].as_str().expect("a name");
        assert_eq!(job["job_name"].as_str(), Some(&*format!("easq-{name}")), "{job:?}");
        scraped.push(name.to_owned());
    }
    assert_eq!(scraped, SERVICES);
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains(&format!("EASQ__TELEMETRY__LISTEN={LISTEN}")), "the image serves elsewhere");

    let source = yaml("config/grafana/provisioning/datasources/prometheus.yml");
    let url = source["datasources"][0]["url"].as_str().expect("an address");
    let port = compose.services["prometheus"].ports[0].rsplit(':').next().expect("a port").to_owned();
    assert_eq!(url, format!("http://prometheus:{port}"));
    let interval = source["datasources"][0]["jsonData"]["timeInterval"].as_str();
    assert_eq!(interval, prometheus["global"]["scrape_interval"].as_str(), "of scrapes");

    let provider = yaml("config/grafana/provisioning/dashboards/easq.yml");
    let dashboards = provider["providers"][0]["options"]["path"].as_str().expect("a folder");
    let mounts = &compose.services["grafana"].volumes;
    let is_mounted = |from: &str, to: &str| mounts.contains(&format!("./config/grafana/{from}:{to}:ro"));
    assert!(is_mounted("dashboards", dashboards), "{mounts:?}");
    assert!(is_mounted("provisioning", "/etc/grafana/provisioning"), "{mounts:?}");
    let home = compose.services["grafana"].environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].clone();
    let home =
        home.as_str().and_then(|home| home.strip_prefix(dashboards)).expect("a dashboard that is mounted");
    assert!(Path::new(ROOT).join("config/grafana/dashboards").join(home.trim_start_matches('/')).exists());
}

/// The image's build gets what `.dockerignore` lets through, in this one form: everything is left out but
/// what is named.
#[test]
fn the_image_gets_what_cargo_wants_to_see() {
    let context = tempfile::tempdir().expect("a folder");
    let ignored = read(".dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    let names: Vec<&str> = lines.map(|line| line.strip_prefix('!').expect("what gets through")).collect();
    let copied = Command::new("cp")
        .args(["-r", "--parents"])
        .args(&names)
        .arg(context.path())
        .current_dir(ROOT)
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "not all of them are there: {names:?}");
    // Reads the manifest as a build does, and fetches nothing that is not there yet.
    let fetch = ["fetch", "--offline", "--locked", "--target", "x86_64-unknown-linux-gnu"];
    let fetch = Command::new(env!("CARGO")).args(fetch).current_dir(context.path()).output();
    let fetch = fetch.expect("cargo runs");
    assert!(fetch.status.success(), "{}", String::from_utf8_lossy(&fetch.stderr));
    for file in ["scripts/get-libtorch", "scripts/system-packages"] {
        assert!(context.path().join(file).exists(), "the Dockerfile runs {file}");
    }
}

/// Starts a service's own command line with its own environment, but for the brokers, for the place
/// where it serves HTTP, and for folders of the container. Topics, groups and model are those of `line`.
fn start(compose: &Compose, name: &str, line: &Line, folder: &Path) -> Easq {
    let service = &compose.services[name];
    let inside: Vec<_> = service.volumes.iter().filter_map(|volume| volume.split(':').nth(1)).collect();
    let here = folder.to_str().expect("a path in UTF-8");
    let outside = |word: &String| match word.as_str() {
        LISTEN => "127.0.0.1:0".to_owned(),
        word if inside.contains(&word) => here.to_owned(),
        word => word.to_owned(),
    };
    let command: Vec<_> = service.command.iter().map(outside).collect();
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    let text = |value: &Yaml| value.as_str().expect("text").to_owned();
    let environment: Vec<_> =
        service.environment.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    let brokers = environment.iter().find(|(name, _)| *name == "EASQ__KAFKA__BOOTSTRAP_SERVERS");
    assert_eq!(brokers.map(|(_, value)| value.as_str()), Some("kafka:9092"), "{name}");
    let environment = environment.iter().map(|(name, value)| (*name, value.as_str()));
    Easq::start_with(line.clone().set("telemetry.listen", "127.0.0.1:0").arguments(&command), environment)
}

#[test]
fn each_command_starts_serves_and_ends_with_0_after_sigterm() {
    let (compose, line) = (compose(), Line::new("compose"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut topics = start(&compose, "topics", &line, folder.path());
    assert_eq!(topics.wait(DEADLINE).code(), Some(0), "{}", topics.output());
    // So soon that a version comes from it in the time of this test: groups close after minutes.
    let line = line.set("join.group_span_ms", 1_000);
    let simulator = start(&compose, "simulator", &line, folder.path());
    let mut running = vec![("simulator", simulator)];
    for name in SERVICES {
        let mut service = start(&compose, name, &line, folder.path());
        service.wait_for_output("serving /healthz", DEADLINE);
        let address = service.address();
        eventually(DEADLINE, &format!("{name} is healthy and ready"), || {
            ["/healthz", "/readyz"]
                .iter()
                .all(|path| answer(&address, path).is_some_and(|(status, _)| status == 200))
        });
        running.push((name, service));
    }
    assert!(folder.path().join("current").join("model.safetensors").exists(), "what a ranker would load");
    for (name, mut service) in running.into_iter().rev() {
        assert!(service.is_running(), "{name} has ended by itself: {}", service.output());
        service.terminate();
        assert_eq!(service.wait(DEADLINE).code(), Some(0), "{name}: {}", service.output());
    }
}
