//! `easq run` as it is started in production: from input records to a version, what it shows on
//! the way, and how it ends.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::metrics::{Sample, samples};
use support::{Easq, Kafka, Line, Samples, eventually, eventually_some, get, world};

const PARTITIONS: i32 = 4;
const VIEWS: u64 = 5_000;
const DEADLINE: Duration = Duration::from_secs(120);

/// The line's program with every role, serving HTTP on a free port; and its address.
fn start(line: Line, role: &str) -> (Easq, String) {
    let mut easq = line.set("telemetry.listen", "127.0.0.1:0").start(&["run", "--role", role]);
    easq.wait_for_output("serving /healthz", DEADLINE);
    let address = easq.address();
    (easq, address)
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

/// What SIGTERM alone makes visible: nothing was committed, nothing published before it.
#[test]
fn the_drain_commits_and_publishes_what_is_open_and_leaves_both_groups() {
    const NEVER_MS: u64 = 600_000;
    const SESSION_MS: u64 = 60_000;
    let line = Line::new("run-last-commit").set("joiner.session_timeout_ms", SESSION_MS);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let topics = &settings.topics;
    let lazy = line
        .clone()
        .set("joiner.commit_interval_ms", 90_000)
        .set("joiner.transaction_timeout_ms", 110_000)
        .set("joiner.drain_deadline_ms", 120_000)
        .set("publish.interval_ms", NEVER_MS)
        .set("publish.checkpoint_interval_ms", NEVER_MS);
    let (mut easq, address) = start(lazy, "all");
    easq.wait_for_output("partitions assigned", DEADLINE);
    // The joiner's own outputs are not visible before its commit.
    Samples::new(&settings, PARTITIONS).write(200);
    world::write(&line, &world::deliveries(&settings, 2_000, 3_600_000, 1, PARTITIONS));
    eventually(DEADLINE, "outputs are written that are not committed", || {
        let open = |partition| Kafka::shared().uncommitted_end(&topics.behavior_groups, partition);
        (0..PARTITIONS).any(|partition| {
            open(partition) > Kafka::shared().watermarks(&topics.behavior_groups, partition).1
        })
    });
    eventually(DEADLINE, "samples are learned", || {
        let samples = samples(&get(&address, "/metrics").unwrap_or_default());
        samples.iter().any(|sample| sample.name == "easq_train_steps_total" && sample.value > 0.0)
    });
    let inputs = [&topics.behavior, &topics.responses];
    let committed = |topic, partition| Kafka::shared().committed(&settings.joiner.group, topic, partition);
    assert!(inputs.iter().all(|topic| (0..PARTITIONS).all(|number| committed(topic, number).is_none())));
    let registry = topics.registry(&settings.model.name);
    assert_eq!(Kafka::shared().watermarks(&registry, 0).1, 0, "a version before the drain");

    easq.terminate();
    assert_eq!(easq.wait(DEADLINE).code(), Some(0), "{}", easq.output());
    let consumed = inputs.iter().map(|topic| (0..PARTITIONS).filter_map(|n| committed(topic, n)).count());
    assert_eq!(consumed.collect::<Vec<_>>(), [PARTITIONS as usize; 2], "the last commit is missing");
    assert!(Kafka::shared().watermarks(&registry, 0).1 > 0, "the last version is missing");
    // A member that had not left would hold the partitions, and the model, for the session timeout.
    let (mut next, _) = start(line, "all");
    let at_once = Duration::from_millis(SESSION_MS / 2);
    next.wait_for_output("partitions assigned", at_once);
    next.terminate();
    assert_eq!(next.wait(DEADLINE).code(), Some(0), "{}", next.output());
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
        samples.into_iter().find(|sample| sample.name == "easq_kafka_unavailable" && sample.value != 0.0)
    });
    assert_eq!(unavailable.value, 1.0);
    // There is one thread for all that is asynchronous: whoever waited for a broker on it would
    // keep these from being answered.
    let probes: Vec<_> = (0..8).map(|_| get(&address, "/healthz")).collect();
    assert!(probes.iter().all(|answer| answer.as_deref() == Some("ok\n")), "{probes:?}");
    easq.terminate();
    assert_eq!(easq.wait(DEADLINE).code(), Some(0));
}

#[test]
fn its_status_can_be_asked_for_without_an_http_client() {
    let line = Line::new("run-status").set("kafka.bootstrap_servers", "127.0.0.1:1");
    let (mut easq, address) = start(line.clone(), "trainer");
    let ask = |address: &str| Easq::run(line.arguments(&["status", "--address", address]), DEADLINE);
    let (status, said) = ask(&address);
    assert!(status.success(), "{said}");
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON and nothing else");
    assert_eq!(said["command"], "run");
    // The same place by the setting.
    let same = line.clone().set("telemetry.listen", &address);
    assert!(Easq::run(same.arguments(&["status"]), DEADLINE).0.success());
    easq.terminate();
    assert_eq!(easq.wait(DEADLINE).code(), Some(0));
    let (status, said) = ask(&address);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("no process of easq answers at") && said.contains(&address), "{said}");
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
