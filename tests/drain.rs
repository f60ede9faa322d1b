//! A stop in the middle of an outage: what is open is still committed once the broker answers, within
//! the drain deadline, since an open transaction holds back every reader (invariant 2).

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use easq::kafka::Outgoing;
use easq::kafka::producer::Producer;
use easq::kafka::reader::{From, read_to_end};
use easq::supervise::StopToken;
use support::joiners::SOON;
use support::{Easq, Line, eventually};

/// A broker of this test's own, which it can freeze. It ends with this value, or with this process.
struct Broker {
    script: Child,
    bootstrap: String,
}

impl Broker {
    fn start() -> Self {
        let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-kafka"))
            // It would abort a transaction that is too old when it goes on.
            .args(["--property", "transaction.abort.timed.out.transaction.cleanup.interval.ms=600000"])
            .args(["sh", "-c", r#"echo "$EASQ_TEST_KAFKA"; exec cat"#])
            .env_remove("EASQ_TEST_KAFKA")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/with-kafka starts");
        let mut address = String::new();
        let stdout = script.stdout.take().expect("a piped standard output");
        BufReader::new(stdout).read_line(&mut address).expect("standard output in UTF-8");
        let bootstrap = address.trim().to_owned();
        assert!(!bootstrap.is_empty(), "no Kafka was started; what was printed says why");
        Self { script, bootstrap }
    }

    /// Sends a signal to the broker's process.
    fn signal(&self, name: &str) {
        let script = self.script.id();
        let children = fs::read_to_string(format!("/proc/{script}/task/{script}/children"));
        let children = children.expect("the children of the script");
        let is_java = |process: &&str| {
            fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim() == "java")
        };
        let broker = children.split_whitespace().find(is_java).expect("the broker's process");
        support::signal(broker.parse().expect("a number"), name);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Its end follows from that of its standard input.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

#[test]
fn invariant_2_a_stop_during_an_outage_commits_what_is_open_when_the_broker_answers_again() {
    let broker = Broker::start();
    let line = Line::new("drain")
        .set("kafka.bootstrap_servers", &broker.bootstrap)
        // What waits for the broker for this long is tried again.
        .set("joiner.transaction_timeout_ms", 3_000)
        .set("joiner.session_timeout_ms", 60_000)
        .set("joiner.drain_deadline_ms", 400_000)
        .set("telemetry.log_filter", "info,easq::kafka::transaction=debug");
    let settings = line.settings();
    let (created, output) =
        Easq::run(line.arguments(&["topics", "create", "--inputs", "--partitions", "1"]), SOON);
    assert!(created.success(), "{output}");
    let freeze = [("FAILPOINTS", "transaction-before-offsets=1*return(STOP)")];
    let mut joiner = Easq::start_with(line.arguments(&["run", "--role", "joiner"]), freeze);
    joiner.wait_for_output("partitions assigned", SOON);

    // What cannot be used makes an output by itself.
    let producer = Producer::new(&settings.kafka, settings.input.partitioner).expect("a producer");
    producer.send(&Outgoing::to(&*settings.topics.behavior).key("user").payload("no view")).expect("room");
    producer.flush(SOON).expect("delivered");
    eventually(SOON, "the joiner is in the middle of a commit", || joiner.is_frozen());
    broker.signal("STOP");
    joiner.terminate();
    joiner.signal("CONT");
    joiner.wait_for_output(r#"call="send_offsets_to_transaction""#, SOON);
    broker.signal("CONT");
    let status = joiner.wait(SOON);
    assert_eq!(status.code(), Some(0), "{status}: {}", joiner.output());

    // Long before the broker would look for transactions that are too old.
    eventually(SOON, "the output is visible", || {
        let mut payloads = Vec::new();
        let dead_letters = &settings.topics.dead_letters;
        read_to_end(&settings.kafka, dead_letters, 0, From::Beginning, &StopToken::new(), |record| {
            payloads.extend(record.payload);
        })
        .expect("the log");
        payloads == ["no view"]
    });
}
