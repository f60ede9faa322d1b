//! `easq run` as it is started in production: from input records to a version, what it shows on
//! the way, and how it ends.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::{Easq, Kafka, Line, eventually, eventually_some};

const PARTITIONS: i32 = 4;
const VIEWS: u64 = 5_000;
const DEADLINE: Duration = Duration::from_secs(120);

/// The line's program with every role, serving HTTP on a free port; and its address.
fn start(line: Line, role: &str) -> (Easq, String) {
    let mut easq = line.set("telemetry.listen", "127.0.0.1:0").start(&["run", "--role", role]);
    easq.wait_for_output("serving /healthz and /metrics", DEADLINE);
    let output = easq.output();
    let (_, after) = output.split_once("address=").expect("the log line names the address");
    let address = after.split_whitespace().next().expect("an address").to_owned();
    (easq, address)
}

/// The body of the answer to `GET path`, if there is one.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// One sample of the Prometheus text format: its name, its labels, its value.
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn samples(metrics: &str) -> Vec<Sample> {
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

/// Sums of a metric by topic and partition.
fn by_partition(samples: &[Sample], name: &str) -> BTreeMap<(String, String), f64> {
    let mut sums = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name == name) {
        let key = (sample.labels["topic"].clone(), sample.labels["partition"].clone());
        *sums.entry(key).or_default() += sample.value;
    }
    sums
}

#[test]
fn sigterm_drains_all_roles_and_exits_0() {
    let line = Line::new("run-drain");
    let settings = line.settings();
    let create = ["topics", "create", "--inputs", "--partitions", &PARTITIONS.to_string()];
    let (created, output) = Easq::run(line.arguments(&create), DEADLINE);
    assert!(created.success(), "{output}");
    let (mut easq, address) = start(line.clone(), "all");
    let (simulated, output) =
        Easq::run(line.arguments(&["simulate", "--views", &VIEWS.to_string()]), DEADLINE);
    assert!(simulated.success(), "{output}");

    let seen = |name: &str, topic: &str| -> f64 {
        let samples = samples(&get(&address, "/metrics").unwrap_or_default());
        by_partition(&samples, name).iter().filter(|((of, _), _)| of == topic).map(|(_, sum)| sum).sum()
    };
    let views = &settings.topics.behavior;
    eventually(DEADLINE, "every view is consumed and committed", || {
        seen("easq_join_consumed_records_total", views) == VIEWS as f64
    });
    // Invariant 11, as it is shown: each record has one outcome or waits.
    let shown = samples(&get(&address, "/metrics").expect("metrics while running"));
    let mut accounted = by_partition(&shown, "easq_join_records_total");
    for (partition, waiting) in by_partition(&shown, "easq_join_waiting_records") {
        *accounted.entry(partition).or_default() += waiting;
    }
    assert_eq!(accounted, by_partition(&shown, "easq_join_consumed_records_total"));
    assert_eq!(get(&address, "/healthz").as_deref(), Some("ok\n"));

    eventually(DEADLINE, "a version is in production", || {
        get(&address, "/metrics").unwrap_or_default().contains("easq_publish_production_version")
    });
    easq.terminate();
    assert_eq!(easq.wait(DEADLINE).code(), Some(0));

    let kafka = Kafka::shared();
    for partition in 0..PARTITIONS {
        for topic in [&settings.topics.behavior, &settings.topics.responses] {
            let (_, end) = kafka.watermarks(topic, partition);
            let committed = kafka.committed(&settings.joiner.group, topic, partition);
            assert_eq!(committed.map(|(offset, _)| offset), Some(end), "{topic} {partition}");
        }
    }
    let (listed, output) = Easq::run(line.arguments(&["model", "list", "--json"]), DEADLINE);
    assert!(listed.success(), "{output}");
    let last = output.lines().last().expect("a version");
    assert!(last.contains("checkpoint"), "the drain leaves a checkpoint: {last}");
}

#[test]
fn a_second_joiner_with_the_same_instance_id_fences_the_first_which_exits_3() {
    let line = Line::new("run-fenced").set("joiner.instance_id", "twin");
    line.create_topics(PARTITIONS);
    let (mut first, _) = start(line.clone(), "joiner");
    first.wait_for_output("partitions assigned", DEADLINE);
    let (mut second, _) = start(line, "joiner");
    assert_eq!(first.wait(DEADLINE).code(), Some(3));
    second.wait_for_output("partitions assigned", DEADLINE);
    second.terminate();
    assert_eq!(second.wait(DEADLINE).code(), Some(0));
}

#[test]
fn without_a_broker_it_keeps_trying_until_sigterm_and_exits_0() {
    // Port 1 is reserved and nothing answers there.
    let line = Line::new("run-alone").set("kafka.bootstrap_servers", "127.0.0.1:1");
    let (mut easq, address) = start(line, "all");
    let unavailable = eventually_some(DEADLINE, "the outage is shown", || {
        let samples = samples(&get(&address, "/metrics")?);
        samples.into_iter().find(|sample| sample.name == "easq_kafka_unavailable")
    });
    assert_eq!(unavailable.value, 1.0);
    easq.terminate();
    assert_eq!(easq.wait(DEADLINE).code(), Some(0));
}

#[test]
fn a_port_in_use_is_an_error_that_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound address");
    let line = Line::new("run-port").set("telemetry.listen", address);
    let (ended, output) = Easq::run(line.arguments(&["run"]), DEADLINE);
    assert_eq!(ended.code(), Some(1));
    assert!(output.contains(&address.to_string()) && output.contains("telemetry.listen"), "{output}");
}
