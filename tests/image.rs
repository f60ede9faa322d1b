//! `make image-check`: the container image as a container. runc starts it from the image's own
//! configuration, with a file system that cannot be written, as process 1 and as the image's user,
//! beside a real broker.
//!
//! The engine's part (`docker run --read-only --network host`) is played here: volumes are folders,
//! and the health check is run when this test wants to know.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{env, fs};

use serde::Deserialize;
use serde_json::{Value, json};
use support::{Easq, Kafka, Line, answer, eventually, free_ports};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(120);
/// Of docker-compose.yml; `docker stop` alone would give ten seconds.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Of the image, and of nobody on this machine.
const USER: u32 = 10_001;
const VOLUME: &str = "/model";

/// The image that `scripts/image-check` has built, unpacked.
struct Image {
    root: PathBuf,
    revision: String,
    config: Config,
}

/// What an image says of how it is run, as Docker keeps it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    user: String,
    env: Vec<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    exposed_ports: BTreeMap<String, Value>,
    healthcheck: Healthcheck,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    /// `CMD` and the words of a command.
    test: Vec<String>,
    interval: u64,
    timeout: u64,
    retries: u64,
}

impl Image {
    fn get() -> Self {
        let variable =
            |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name}: run `make image-check`"));
        let config = variable("EASQ_TEST_IMAGE_CONFIG");
        Self {
            root: PathBuf::from(variable("EASQ_TEST_IMAGE_ROOT")),
            revision: variable("EASQ_TEST_IMAGE_REVISION"),
            config: serde_json::from_str(&config).unwrap_or_else(|error| panic!("{error}: {config}")),
        }
    }

    /// `docker run IMAGE arguments`; without arguments its own command.
    fn run<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Container {
        let given: Vec<String> = arguments.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let command = if given.is_empty() { &self.config.cmd } else { &given };
        self.start(&[self.config.entrypoint.as_slice(), command].concat(), 0)
    }

    fn start(&self, command: &[String], port: u16) -> Container {
        let folder = TempDir::new().expect("a temporary folder");
        let volume = folder.path().join("volume");
        fs::create_dir(&volume).expect("a folder");
        // A new volume gets the owner of the folder that it is mounted on.
        let owner =
            fs::metadata(self.root.join(VOLUME.trim_start_matches('/'))).expect("/model in the image");
        chown(&volume, Some(owner.uid()), Some(owner.gid())).expect("root's right");
        fs::set_permissions(&volume, owner.permissions()).expect("root's right");
        let mut environment = self.config.env.clone();
        if port != 0 {
            environment.retain(|variable| !variable.starts_with("EASQ__TELEMETRY__LISTEN="));
            environment.push(format!("EASQ__TELEMETRY__LISTEN=0.0.0.0:{port}"));
        }
        let bundle = self.bundle(command, &environment, &volume);
        fs::write(folder.path().join("config.json"), bundle.to_string()).expect("config.json");
        let name = Kafka::unique("easq-image").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(folder.path().join("state"));
        runc.args(["run", "--bundle"]).arg(folder.path()).arg(&name);
        let shown = command.join(" ");
        let process = Easq::spawn(runc, shown.strip_prefix("easq ").unwrap_or(&shown).to_owned());
        Container { process, name, environment, volume, folder }
    }

    /// What runc is told, after the OCI runtime specification 1.0.
    fn bundle(&self, command: &[String], environment: &[String], volume: &Path) -> Value {
        let (user, group) = self.config.user.split_once(':').expect("a user and a group");
        let id = |text: &str| text.parse::<u32>().expect("by number: names may differ on the host");
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": id(user), "gid": id(group) },
                "args": command,
                "env": environment,
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": self.root, "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "mode=755", "size=65536k"] },
                { "destination": VOLUME, "type": "bind", "source": volume, "options": ["bind", "rw"] },
            ],
            // Of the host: the network, on which Kafka is.
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] },
        })
    }
}

/// A running container; gone when dropped.
struct Container {
    process: Easq,
    name: String,
    environment: Vec<String>,
    volume: PathBuf,
    folder: TempDir,
}

impl Container {
    fn runc(&self, arguments: &[&str]) -> Output {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.folder.path().join("state")).args(arguments);
        runc.output().expect("runc runs")
    }

    /// `docker exec`: the status of a command in the container.
    fn exec(&self, command: &[String]) -> i32 {
        let mut arguments = vec!["exec"];
        self.environment.iter().for_each(|variable| arguments.extend(["--env", variable]));
        arguments.push(&self.name);
        arguments.extend(command.iter().map(String::as_str));
        self.runc(&arguments).status.code().expect("an exit code")
    }

    /// Waits for its end, which must come with this exit code.
    #[track_caller]
    fn ends_with(&mut self, code: i32) -> String {
        let status = self.process.wait(DEADLINE);
        assert_eq!(status.code(), Some(code), "{}", self.process.output());
        self.process.output()
    }

    /// `docker stop`.
    #[track_caller]
    fn stop(mut self) {
        let start = Instant::now();
        self.process.terminate();
        self.ends_with(0);
        assert!(start.elapsed() < STOP_GRACE, "it would have been killed: {:?}", start.elapsed());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.runc(&["delete", "--force", &self.name]);
    }
}

#[test]
fn the_image_says_how_it_is_run() {
    let Image { config, revision, .. } = Image::get();
    assert_eq!(config.user, format!("{USER}:{USER}"));
    assert_eq!((config.entrypoint, config.cmd), (vec!["easq".to_owned()], vec!["run".to_owned()]));
    assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["9464/tcp"]);
    let check = config.healthcheck;
    let seconds = [check.interval, check.timeout].map(|nanoseconds| nanoseconds / 1_000_000_000);
    assert_eq!((check.test[0].as_str(), seconds, check.retries), ("CMD", [10, 3], 3));
    assert_eq!(config.labels["org.opencontainers.image.revision"], revision);
}

#[test]
fn a_command_finds_all_its_libraries_and_their_licenses() {
    let image = Image::get();
    assert!(image.run(["--version"]).ends_with(0).starts_with("easq "));
    let shell = |script: &str| {
        let command = ["bash", "-c", script].map(str::to_owned);
        image.start(&command, 0).ends_with(0)
    };
    // What libtorch loads; NVIDIA's wheels hold plugins for clusters besides. The driver comes from the host.
    let missing = shell(
        "for file in /opt/easq/bin/easq /opt/easq/lib/lib{torch,c10,caffe2,cudnn}*.so*; do \
         [ ! -e $file ] || ldd $file; done 2>&1 | grep 'not found' | sort -u || true",
    );
    let missing: Vec<&str> = missing.lines().filter(|line| !line.contains("libcuda.so.1 ")).collect();
    assert_eq!(missing, [""; 0]);
    for license in ["easq/LICENSE", "torch-2.11.0/LICENSE"] {
        assert!(image.root.join("opt/easq/licenses").join(license).exists(), "{license}");
    }
}

/// The user of the image, and one that an orchestrator has made up, of the group root.
#[test]
fn whoever_runs_it_writes_to_the_volume_and_nowhere_else() {
    for user in [format!("{USER}:{USER}"), "23456:0".to_owned()] {
        let mut image = Image::get();
        image.config.user.clone_from(&user);
        let script =
            format!("id -u; touch /tmp/file; touch /opt/easq/file; touch {VOLUME}/file && easq --version");
        let command = ["bash", "-c", &script].map(str::to_owned);
        let output = image.start(&command, 0).ends_with(0);
        assert!(output.contains(user.split(':').next().expect("a user")), "{output}");
        assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
        assert!(output.contains(concat!("easq ", env!("CARGO_PKG_VERSION"))), "{output}");
    }
}

#[test]
fn the_demo_runs_from_the_image() {
    let image = Image::get();
    let kafka = Kafka::shared();
    for broker in [&[] as &[&str], &["--kafka", kafka.bootstrap()]] {
        let demo = ["demo", "--duration", "5s", "--seed", "3", "--output", VOLUME];
        let mut demo = image.run([&demo, broker].concat());
        demo.ends_with(0);
        let report = fs::read_to_string(demo.volume.join("report.json")).expect("report.json is there");
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["conservation"]["ok"], true, "{report}");
        assert!(demo.volume.join("report.html").exists());
        assert!(demo.volume.join("model/current/model.safetensors").exists());
    }
}

/// Topics, a simulator, the whole service and a follower, each in a container.
#[test]
fn the_service_runs_from_the_image_is_probed_and_stops() {
    let image = Image::get();
    let line = Line::new("image").set("join.group_span_ms", 1_000);
    // The image itself says where to listen, unless the environment does.
    let arguments = |command: &[&str]| {
        let words = line.arguments(command);
        let silent = words.iter().position(|word| word == "telemetry.listen=").expect("as a line has it");
        [&words[..silent - 1], &words[silent + 1..]].concat()
    };
    image.run(arguments(&["topics", "create", "--inputs", "--partitions", "2"])).ends_with(0);
    let ports = free_ports(2);
    let on_port = |port: u16, command: &[&str]| {
        image.start(&[image.config.entrypoint.clone(), arguments(command)].concat(), port)
    };
    let simulator =
        image.run(arguments(&["simulate", "--rate", "500", "--duration", "1h", "--exposure", "0.3"]));
    let mut service = on_port(ports[0].port(), &["run"]);
    let probe = &image.config.healthcheck.test[1..];
    eventually(DEADLINE, "the health check of the service succeeds", || service.exec(probe) == 0);
    let address = format!("127.0.0.1:{}", ports[0].port());
    eventually(DEADLINE, "the service is ready", || {
        answer(&address, "/readyz").is_some_and(|(status, _)| status == 200)
    });
    let (_, status) = answer(&address, "/status").expect("an answer");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["revision"], image.revision, "{status}");
    // As an orchestrator finds it where nobody listens.
    let elsewhere: Vec<String> =
        probe.iter().map(|word| word.replace("${EASQ__TELEMETRY__LISTEN##*:}", "1")).collect();
    assert_ne!(elsewhere, probe);
    assert_ne!(service.exec(&elsewhere), 0);

    let listen = format!("0.0.0.0:{}", ports[1].port());
    let follower = on_port(ports[1].port(), &["follow", "--dir", VOLUME, "--listen", &listen]);
    let current = follower.volume.join("current/model.safetensors");
    eventually(DEADLINE, "the follower has a version", || current.exists());
    assert_eq!(fs::metadata(&current).expect("a file").uid(), USER);
    assert_eq!(follower.exec(probe), 0);
    service.process.wait_for_output("version published", DEADLINE);

    follower.stop();
    service.stop();
    simulator.stop();
}
