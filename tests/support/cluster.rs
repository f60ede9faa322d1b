//! A Kafka of one test's own that the test can hurt: brokers are stopped, killed, paused, filled up
//! and started again on their data, and the network before them is cut.
//!
//! The shared broker of [`Kafka::shared`] stays untouched. A broker takes some 250 MB and ten
//! seconds of one core for its start, so a test starts one cluster and hurts it several times.

mod broker;
mod door;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::ExitStatus;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Kafka, eventually, eventually_some};
pub use broker::free_ports;
use broker::{Addresses, Broker};
pub use door::Door;

/// Another process can take a port between the moment it was found free and the broker's start.
const START_ATTEMPTS: usize = 3;
/// Long enough on a machine that is busy with other tests.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a batch of Kafka's format 2, before its records.
const BATCH_HEADER_BYTES: usize = 61;
/// Among its attributes: the batch is the end of a transaction.
const CONTROL_BATCH: u8 = 0x20;

/// One or three nodes, each broker and controller. Brokers and doors are numbered from 0. All of it
/// ends with this value, or with this process.
///
/// Methods take `&self`, so that one thread can hurt what another one uses.
pub struct Cluster {
    kafka: Kafka,
    brokers: Vec<Broker>,
    doors: Vec<Door>,
    through: Vec<String>,
    // Dropped in this order: the brokers first, then what they stand on.
    _network: Runtime,
    folder: TempDir,
}

impl Cluster {
    /// Starts `brokers` nodes (1 or 3) and waits until they answer. Of three, each partition of a
    /// topic has replicas on all, and two are enough to write. Clients reach them directly, or through
    /// one of `doors` networks.
    #[track_caller]
    pub fn start(brokers: usize, doors: usize) -> Self {
        Self::start_with(brokers, doors, "")
    }

    /// The same with properties of its brokers, one a line.
    #[track_caller]
    pub fn start_with(brokers: usize, doors: usize, properties: &str) -> Self {
        assert!(matches!(brokers, 1 | 3), "a quorum has 1 or 3 nodes here");
        let started = (0..START_ATTEMPTS).find_map(|_| Self::try_start(brokers, doors, properties));
        started.unwrap_or_else(|| panic!("a port was taken at each of {START_ATTEMPTS} starts"))
    }

    /// `None`: another process took a port.
    fn try_start(brokers: usize, doors: usize, properties: &str) -> Option<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("network").enable_all().build();
        let network = runtime.expect("a thread");
        let folder = tempfile::Builder::new().prefix("easq-cluster-").tempdir().expect("a folder");
        let doors: Vec<Door> = (0..doors).map(|_| Door::new()).collect();
        let ports = free_ports(brokers * (2 + doors.len()));
        let lead = |(&listener, door): (&SocketAddr, &Door)| (listener, door.lead_to(listener, &network));
        let addresses = |ports: &[SocketAddr]| Addresses {
            controller: ports[0],
            direct: ports[1],
            doors: ports[2..].iter().zip(&doors).map(lead).collect(),
        };
        let nodes: Vec<Addresses> = ports.chunks(2 + doors.len()).map(addresses).collect();
        let list = |address: &dyn Fn(&Addresses) -> SocketAddr| {
            nodes.iter().map(|node| address(node).to_string()).collect::<Vec<_>>().join(",")
        };
        let through = (0..doors.len()).map(|door| list(&|node| node.doors[door].1)).collect();
        let kafka = Kafka::at(&list(&|node| node.direct), brokers);
        // Nodes of another cluster that come to the same port are turned away by it.
        let cluster_id = format!("easq-{:016x}", rand::random::<u64>());
        let broker = |index| Broker::new(index, &nodes, folder.path(), &cluster_id, properties);
        let brokers = (0..brokers).map(broker).collect();
        let cluster = Self { kafka, brokers, doors, through, _network: network, folder };
        cluster.brokers.iter().for_each(Broker::start);
        let all_answer = (0..cluster.brokers.len()).all(|broker| cluster.until_it_answers(broker));
        all_answer.then_some(cluster)
    }

    /// The cluster, reached directly whatever the doors do.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// The brokers' own addresses, for `kafka.bootstrap_servers`.
    pub fn bootstrap(&self) -> &str {
        self.kafka.bootstrap()
    }

    /// The brokers' addresses behind a door: a client that is given these talks to each of them
    /// through that door alone.
    pub fn door(&self, door: usize) -> &str {
        &self.through[door]
    }

    /// Runs a command line tool of Kafka's, given by its class, against the brokers' own addresses.
    #[track_caller]
    pub fn tool(&self, class: &str, arguments: &[&str]) {
        broker::run_tool(class, &[&["--bootstrap-server", self.bootstrap()], arguments].concat());
    }

    /// SIGTERM, and waits for its end: leaders move to other brokers, logs are closed.
    #[track_caller]
    pub fn stop(&self, broker: usize) {
        self.brokers[broker].signal("TERM");
        self.reap(broker);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self, broker: usize) {
        self.brokers[broker].signal("KILL");
        self.reap(broker);
    }

    /// Starts a broker that is down again, on its data, and waits until it answers as part of the
    /// cluster. Its replicas may still have to catch up: [`Cluster::until_in_sync`].
    #[track_caller]
    pub fn restart(&self, broker: usize) {
        self.brokers[broker].start();
        assert!(self.until_it_answers(broker), "{}", self.brokers[broker].last_words());
    }

    /// SIGSTOP: the broker holds its connections and answers nothing.
    pub fn pause(&self, broker: usize) {
        self.brokers[broker].signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self, broker: usize) {
        self.brokers[broker].signal("CONT");
    }

    /// No file of the broker can grow any more. It stands for a full disk: a write fails in the
    /// broker as it does there, but for the number of the error (EFBIG, not ENOSPC). A broker whose
    /// only disk fails ends itself: [`Cluster::reap`] waits for that, [`Cluster::restart`] starts
    /// it with room again.
    pub fn fill_disk(&self, broker: usize) {
        self.brokers[broker].limit_files("1");
    }

    /// Changes a byte of the records in a batch in the middle of a partition's oldest segment, as a bad disk
    /// does; the offsets of its records, up to without the last.
    pub fn spoil_batch(&self, broker: usize, topic: &str, partition: i32) -> Range<i64> {
        let data = self.folder.path().join(format!("data-{}", broker + 1));
        let path = data.join(format!("{topic}-{partition}")).join("00000000000000000000.log");
        let segment = fs::read(&path).expect("a segment of the broker");
        // Each begins with its first offset, and the number of bytes behind those two.
        let number = |at: usize, bytes: usize| {
            segment[at..at + bytes].iter().fold(0, |number, &byte| (number << 8) | u64::from(byte))
        };
        let next = |&at: &usize| Some(at + 12 + number(at + 8, 4) as usize).filter(|&at| at < segment.len());
        let is_data = |&at: &usize| segment[at + 22] & CONTROL_BATCH == 0;
        let batches: Vec<usize> = std::iter::successors(Some(0), next).filter(is_data).collect();
        let batch = batches[batches.len() / 2];
        let file = File::options().write(true).open(&path).expect("a segment of the broker");
        let at = batch + BATCH_HEADER_BYTES;
        file.write_all_at(&[!segment[at]], at as u64).expect("a file that takes a byte");
        let first = number(batch, 8) as i64;
        first..first + number(batch + 23, 4) as i64 + 1
    }

    /// Waits until a broker has ended, by itself or by a signal.
    #[track_caller]
    pub fn reap(&self, broker: usize) -> ExitStatus {
        let broker = &self.brokers[broker];
        eventually_some(ANSWERS_WITHIN, "a broker ends", || broker.ended());
        broker.reap()
    }

    /// Waits until every partition has a leader and all of its replicas in sync.
    #[track_caller]
    pub fn until_in_sync(&self) {
        let client: BaseConsumer = self.kafka.client().create().expect("a valid client configuration");
        eventually(ANSWERS_WITHIN, "all replicas are in sync", || {
            let Ok(metadata) = client.fetch_metadata(None, REQUEST_TIMEOUT) else { return false };
            metadata.topics().iter().flat_map(|topic| topic.partitions()).all(|partition| {
                partition.leader() >= 0 && partition.isr().len() == partition.replicas().len()
            })
        });
    }

    /// Bytes that brokers have sent to clients through a door so far.
    pub fn sent_through(&self, door: usize) -> u64 {
        self.doors[door].sent()
    }

    /// Cuts every connection through a door as a pulled cable does: nothing flows either way, no
    /// connection ends, new ones are accepted and lead nowhere.
    pub fn cut(&self, door: usize) {
        self.doors[door].cut();
    }

    /// Ends every connection through a door, and every new one at once.
    pub fn refuse(&self, door: usize) {
        self.doors[door].refuse();
    }

    /// Opens a door that was cut or refused. What a cut has held back flows first.
    pub fn mend(&self, door: usize) {
        self.doors[door].mend();
    }

    /// `false` when its port was taken.
    #[track_caller]
    fn until_it_answers(&self, index: usize) -> bool {
        let broker = &self.brokers[index];
        let mut config = self.kafka.client();
        config.set("bootstrap.servers", broker.direct.to_string());
        eventually_some(ANSWERS_WITHIN, "the broker answers", || {
            if broker.ended().is_some() {
                let taken = broker.log().contains("Address already in use");
                assert!(taken, "a broker ended while starting\n{}", broker.last_words());
                return Some(false);
            }
            // A client of its own for each question: one that has seen the cluster asks others too.
            let client: BaseConsumer = config.create().expect("a valid client configuration");
            let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT).ok()?;
            let id = i32::try_from(index + 1).expect("a small number");
            metadata.brokers().iter().any(|broker| broker.id() == id).then_some(true)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.brokers.iter().for_each(|broker| eprintln!("{}", broker.last_words()));
        }
    }
}
