//! One Apache Kafka process, broker and controller, on data that outlives it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::support::process::signal;

const COMMON: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.properties"));
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/get-kafka");

/// Starts quickly and stays small, at the price of speed under load.
const JAVA_OPTIONS: [&str; 4] =
    ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.showDateTime=true"];

/// Lines of a broker's log that are shown when something went wrong.
const SHOWN_LINES: usize = 20;

/// Where the nodes of a cluster listen.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub controller: SocketAddr,
    pub direct: SocketAddr,
    /// One listener for each door, and the proxy's address in front of it.
    pub doors: Vec<(SocketAddr, SocketAddr)>,
}

pub struct Broker {
    node_id: usize,
    pub direct: SocketAddr,
    properties: PathBuf,
    log: PathBuf,
    /// `None` while it is down.
    process: Mutex<Option<Child>>,
}

impl Broker {
    /// Node `index` + 1 of a cluster that listens at `all`, with data in `folder`. Not started.
    /// `more`: properties of its own.
    pub fn new(index: usize, all: &[Addresses], folder: &Path, cluster_id: &str, more: &str) -> Self {
        let node_id = index + 1;
        let file = |name: &str| folder.join(format!("{name}-{node_id}"));
        let properties = file("properties");
        fs::write(&properties, properties_text(index, all, &file("data")) + more).expect("a file of our own");
        let mut format = java(&["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c"]);
        let formatted = format.arg(&properties).output().expect("java starts: scripts/system-packages");
        assert!(formatted.status.success(), "Kafka's storage could not be formatted: {formatted:?}");
        Self { node_id, direct: all[index].direct, properties, log: file("log"), process: Mutex::new(None) }
    }

    /// Starts a process on the data that is there.
    pub fn start(&self) {
        let mut process = self.process();
        assert!(process.is_none(), "broker {} runs already", self.node_id);
        let log = File::options().create(true).append(true).open(&self.log).expect("a file of our own");
        let mut command = Command::new("setpriv");
        // What a killed Java leaves behind goes with the cluster's folder.
        let folder = self.log.parent().expect("a file in the cluster's folder");
        let temporary = format!("-Djava.io.tmpdir={}", folder.display());
        command.args(["--pdeathsig", "KILL"]).args(java_arguments(&[&temporary, "kafka.Kafka"]));
        command.arg(&self.properties);
        let errors = log.try_clone().expect("another handle of the log");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        *process = Some(spawn(command).expect("setpriv starts: scripts/system-packages"));
    }

    /// Its exit status, when it has ended by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.process().as_mut()?.try_wait().expect("a child of this process")
    }

    pub fn signal(&self, name: &str) {
        assert!(self.ended().is_none(), "the broker has ended");
        signal(self.process().as_ref().expect("a running broker").id(), name);
    }

    /// Waits for its end and forgets the process, so that it can be started again.
    pub fn reap(&self) -> ExitStatus {
        let mut process = self.process();
        let status = process.as_mut().expect("a broker that was started").wait();
        *process = None;
        status.expect("a child of this process")
    }

    pub fn is_up(&self) -> bool {
        self.process().is_some()
    }

    /// Makes every growing file of the broker fail, or none of them any more.
    pub fn limit_files(&self, bytes: &str) {
        let process = self.process();
        let id = process.as_ref().expect("a running broker").id().to_string();
        let limited = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:")]).status();
        assert!(limited.is_ok_and(|status| status.success()), "prlimit has no effect on the broker");
    }

    pub fn log(&self) -> String {
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// The end of its log, for the message of a failure.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!("--- broker {}\n{}\n---", self.node_id, last.join("\n"))
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut process) = self.process().take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The quorum takes a killed broker for dead, and lets it come back, after the session timeout. It is
/// below the default of nine seconds, which is long for a test, and above the pauses of a busy machine.
const SESSION: &str = "broker.session.timeout.ms=4000\nbroker.heartbeat.interval.ms=500\n";

fn properties_text(index: usize, all: &[Addresses], data: &Path) -> String {
    let own = &all[index];
    let voters: Vec<String> =
        all.iter().enumerate().map(|(index, node)| format!("{}@{}", index + 1, node.controller)).collect();
    let mut listeners = format!("DIRECT://{},CONTROLLER://{}", own.direct, own.controller);
    let mut advertised = format!("DIRECT://{}", own.direct);
    let mut protocols = "DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for (door, (listener, proxy)) in own.doors.iter().enumerate() {
        listeners += &format!(",DOOR{door}://{listener}");
        advertised += &format!(",DOOR{door}://{proxy}");
        protocols += &format!(",DOOR{door}:PLAINTEXT");
    }
    let replicas = all.len();
    let min_isr = if replicas > 1 { 2 } else { 1 };
    format!(
        "{COMMON}{SESSION}\
         node.id={}\n\
         controller.quorum.voters={}\n\
         listeners={listeners}\n\
         advertised.listeners={advertised}\n\
         listener.security.protocol.map={protocols}\n\
         inter.broker.listener.name=DIRECT\n\
         log.dirs={}\n\
         default.replication.factor={replicas}\n\
         min.insync.replicas={min_isr}\n\
         offsets.topic.replication.factor={replicas}\n\
         transaction.state.log.replication.factor={replicas}\n\
         transaction.state.log.min.isr={min_isr}\n",
        index + 1,
        voters.join(","),
        data.display(),
    )
}

/// Where Kafka's jars lie.
fn libs() -> &'static str {
    static LIBS: LazyLock<String> = LazyLock::new(|| {
        let found = Command::new(SCRIPT).stderr(Stdio::inherit()).output();
        let found = found.unwrap_or_else(|error| panic!("{SCRIPT}: {error}"));
        assert!(found.status.success(), "{SCRIPT} gave no Kafka; what it printed says why");
        String::from_utf8(found.stdout).expect("a path in UTF-8").trim().to_owned()
    });
    &LIBS
}

fn java_arguments(arguments: &[&str]) -> Vec<String> {
    let class_path = format!("{}/*", libs());
    let own = JAVA_OPTIONS.iter().chain(arguments).map(|&word| word.to_owned());
    ["java".to_owned(), "-cp".to_owned(), class_path].into_iter().chain(own).collect()
}

fn java(arguments: &[&str]) -> Command {
    let mut words = java_arguments(arguments).into_iter();
    let mut command = Command::new(words.next().expect("the program's name"));
    command.args(words);
    command
}

/// Runs a tool of Kafka's to its end.
#[track_caller]
pub fn run_tool(class: &str, arguments: &[&str]) {
    let done = java(&[&[class], arguments].concat()).output().expect("java starts: scripts/system-packages");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{class} {arguments:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
}

/// The kernel ends a broker with the *thread* that started it. Threads of tests come and go, so all
/// brokers are started by one that lasts as long as this process.
fn spawn(command: Command) -> io::Result<Child> {
    type Spawned = io::Result<Child>;
    static SPAWNER: LazyLock<Sender<(Command, Sender<Spawned>)>> = LazyLock::new(|| {
        let (sender, receiver) = channel::<(Command, Sender<Spawned>)>();
        let spawner = thread::Builder::new().name("broker-spawner".to_owned());
        let run = move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        };
        spawner.spawn(run).expect("a thread");
        sender
    });
    let (answer, spawned) = channel();
    SPAWNER.send((command, answer)).expect("a thread that lasts");
    spawned.recv().expect("an answer to every command")
}

/// Ports nobody listens on, below the range that the kernel gives to outgoing connections: a broker
/// must find its own free again when it comes back, so that no one is given twice.
pub fn free_ports(count: usize) -> Vec<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("nobody panics with it");
    let mut bound: Vec<TcpListener> = Vec::new();
    while bound.len() < count {
        let port = rand::random_range(20_000..32_000);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            && given.insert(port)
        {
            bound.push(listener);
        }
    }
    bound.iter().map(|listener| listener.local_addr().expect("a bound address")).collect()
}
