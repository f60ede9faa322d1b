//! A model topic that rankers can trust: whatever is damaged, away or somebody else's, a follower
//! keeps what it has, says why, and goes on with the next good version (invariant 8).

mod damage;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use easq::model::{Dtype, HostTensor};
use easq::publish::{Candidate, Follower, Refusal, read_current};
use easq::supervise::StopToken;
use rand::{RngCore, SeedableRng};
use support::metrics::{Sample, samples};
use support::model::{DEADLINE, Model, PAGE_BYTES, candidate, loaded, small_pages};
use support::{Cluster, Easq, Kafka, Line, Samples, answer, eventually, free_ports, get};

/// `easq follow` as a service, with its endpoints.
struct Daemon {
    process: Easq,
    address: String,
}

impl Daemon {
    fn start(line: &Line, dir: &Path) -> Self {
        let dir = dir.to_str().expect("a path in UTF-8");
        let mut process = line.start(&["follow", "--dir", dir, "--keep", "2", "--listen", "127.0.0.1:0"]);
        process.wait_for_output("serving /healthz", DEADLINE);
        let address = process.address();
        Self { process, address }
    }

    fn metrics(&self) -> String {
        get(&self.address, "/metrics").expect("metrics while it runs")
    }

    /// A sample of the metrics, 0 where it has not come up yet.
    fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics();
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    fn refused(&self, kind: Refusal) -> f64 {
        self.metric(&format!("easq_follower_refused_versions_total{{reason=\"{}\"}}", kind.as_str()))
    }

    /// Versions that were not taken, for whatever reason.
    fn all_refused(&self) -> f64 {
        let refused = |sample: &Sample| sample.name == "easq_follower_refused_versions_total";
        samples(&self.metrics()).into_iter().filter(refused).map(|sample| sample.value).sum()
    }

    fn readiness(&self) -> u16 {
        answer(&self.address, "/readyz").expect("an answer while it runs").0
    }

    #[track_caller]
    fn until_in_place(&self, version: u64) {
        eventually(DEADLINE, "the version is in place", || {
            self.metric("easq_follower_version") == version as f64
        });
    }
}

#[test]
fn a_follower_that_is_stopped_before_any_broker_has_answered_ends_with_0() {
    let nobody = free_ports(1)[0];
    let line = Line::new("follow-nobody").set("kafka.bootstrap_servers", nobody);
    let dir = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start(&line, dir.path());
    // It asks for its first ten seconds.
    daemon.process.terminate();
    assert_eq!(daemon.process.wait(DEADLINE).code(), Some(0), "{}", daemon.process.output());
}

#[test]
fn a_daemon_outlives_its_brokers_is_ready_with_what_it_has_and_goes_on_by_itself() {
    let cluster = Cluster::start(1, 1);
    let direct = Line::on(cluster.kafka(), "outage");
    let mut model = Model::new(&direct);
    let behind_the_door = direct.set("kafka.bootstrap_servers", cluster.door(0));
    let home = tempfile::tempdir().expect("a folder");

    // No broker answers when it starts: alive, and not ready.
    cluster.refuse(0);
    let mut daemon = Daemon::start(&behind_the_door, home.path());
    daemon.process.wait_for_output("stays while the brokers are away", DEADLINE);
    assert_eq!(
        (daemon.readiness(), answer(&daemon.address, "/healthz").map(|(status, _)| status)),
        (503, Some(200))
    );
    model.publish(candidate(10));
    cluster.mend(0);
    daemon.until_in_place(1);
    eventually(DEADLINE, "it is ready", || daemon.readiness() == 200);

    // They go away while it follows, with versions that come and go meanwhile.
    for outage in 0..2 {
        if outage == 0 {
            cluster.refuse(0)
        } else {
            cluster.cut(0)
        }
        (0..3).for_each(|step| _ = model.publish(candidate(20 + 10 * outage + step)));
        assert_eq!(daemon.readiness(), 200);
        assert_eq!(read_current(home.path()).expect("whole").0.version, model.newest - 3);
        cluster.mend(0);
        daemon.until_in_place(model.newest);
    }
    assert_eq!(read_current(home.path()).expect("whole").0.version, model.newest);
    assert_eq!(daemon.all_refused(), 0.0);

    // A new process on the same folder is ready before any broker answers.
    daemon.process.terminate();
    assert_eq!(daemon.process.wait(DEADLINE).code(), Some(0));
    cluster.refuse(0);
    let daemon = Daemon::start(&behind_the_door, home.path());
    eventually(DEADLINE, "it is ready with what lies there", || daemon.readiness() == 200);
    assert_eq!(daemon.metric("easq_follower_version"), model.newest as f64);
    model.publish(candidate(50));
    cluster.mend(0);
    daemon.until_in_place(model.newest);
}

#[test]
fn a_daemon_shows_what_it_follows_in_its_metrics() {
    let line = small_pages("shown");
    let mut model = Model::new(&line);
    model.publish(candidate(10));
    let home = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(&line, home.path());
    daemon.until_in_place(1);
    let created = |model: &Model, version: u64| {
        let manifest = model.registry().versions[&version].clone();
        manifest.created_at_ms as f64 / 1000.0
    };
    assert_eq!(daemon.metric("easq_follower_version_created_seconds"), created(&model, 1));
    let series =
        |name: &str, state: &str| daemon.metric(&format!("easq_follower_{name}_total{{state=\"{state}\"}}"));
    assert_eq!((series("pages", "read"), series("pages", "reused")), (5.0, 0.0));
    assert_eq!(daemon.metric("easq_follower_delay_seconds_count"), 0.0, "it was there before the follower");
    let read = series("bytes", "read");
    model.publish(candidate(11));
    daemon.until_in_place(2);
    // Counted last.
    eventually(DEADLINE, "it is counted", || daemon.metric("easq_follower_delay_seconds_count") == 1.0);
    assert_eq!(series("pages", "reused"), 4.0);
    assert_eq!((series("pages", "read"), series("bytes", "read")), (6.0, read + 8.0));
    assert_eq!(series("bytes", "reused"), read - 8.0);
    assert!(daemon.metric("easq_follower_delay_seconds_sum") < DEADLINE.as_secs_f64());
    assert_eq!(daemon.metric("easq_follower_version_created_seconds"), created(&model, 2));
}

/// A model whose topics take records of this size at most.
fn limited(line: &Line, max_message_bytes: usize) -> Model {
    let model = Model::new(line);
    let limit = max_message_bytes.to_string();
    let limit = ("max.message.bytes", limit.as_str());
    line.kafka().configure_topic(&model.page_topic(), &[limit, ("retention.ms", "-1")]);
    line.kafka().configure_topic(&model.registry_topic(), &[limit, ("cleanup.policy", "compact")]);
    model
}

/// One tensor of so many bytes that do not compress.
fn large(step: u64, bytes: usize) -> Candidate {
    let mut data = vec![0; bytes];
    rand::rngs::StdRng::seed_from_u64(step).fill_bytes(&mut data);
    let tensors = vec![HostTensor {
        name: "projection.weight".to_owned(),
        dtype: Dtype::U8,
        shape: vec![bytes],
        data: data.into(),
    }];
    Candidate { tensors, ..candidate(step) }
}

#[test]
fn pages_and_manifests_fit_into_topics_that_take_600_kib() {
    let line = small_pages("600-kib").set("publish.page_bytes", 512 << 10);
    let mut model = limited(&line, 600 << 10);
    // Pages of the full size, a short one among them, and in several batches of the producer.
    let published = model.publish(large(1, 70 * (512 << 10) + 100_000));
    assert_eq!(published.pages_written, 71);
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(loaded(&mut model.follow(dir.path()), 1), 71);

    // Ten thousand pages still fit into a manifest of that size.
    let line = small_pages("600-kib-manifest");
    let mut model = limited(&line, 600 << 10);
    assert_eq!(model.publish(large(1, 10_000 * PAGE_BYTES)).pages_written, 10_000);
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(loaded(&mut model.follow(dir.path()), 1), 10_000);
}

#[test]
fn what_would_not_fit_is_refused_with_the_limit_before_anything_is_written() {
    let line = small_pages("too-large");
    let mut model = limited(&line, 600 << 10);
    model.publish(candidate(10));
    let ends = |model: &Model| {
        [model.page_topic(), model.registry_topic()].map(|topic| Kafka::shared().uncommitted_end(&topic, 0))
    };
    let before = ends(&model);
    let refused = model.try_publish(large(2, 14_000 * PAGE_BYTES)).expect_err("14,000 pages in one manifest");
    let said = refused.to_string();
    for word in
        ["14000 pages", "614400", "max.message.bytes", "publish.page_bytes (4096)", &model.registry_topic()]
    {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(ends(&model), before);
    // The next version that fits is published.
    model.publish(candidate(11));

    let line = small_pages("too-large-page").set("publish.page_bytes", 600 << 10);
    let mut model = limited(&line, 600 << 10);
    let before = ends(&model);
    let refused = model.try_publish(large(1, 700 << 10)).expect_err("a page of the size of a batch");
    let said = refused.to_string();
    assert!(said.contains("publish.page_bytes") && said.contains("614400"), "{said}");
    assert_eq!(ends(&model), before);
}

#[test]
fn two_trainers_of_two_models_share_a_broker_and_their_followers_follow_their_own() {
    let line = Line::new("beside").set("publish.interval_ms", 200).set("train.batch_age_ms", 20);
    line.create_topics(1);
    // Inputs and prefixes are the same: only the name tells the two apart.
    let names = ["first", "second"].map(|name| format!("{}.{name}", line.settings().model.name));
    let lines: Vec<Line> = names
        .iter()
        .zip(1..)
        .map(|(name, seed)| {
            let line = line.clone().set("model.name", name).set("model.seed", seed);
            let topics = line.settings().topics;
            Kafka::shared().create_topic(&topics.model(name), 1);
            Kafka::shared().create_topic_with(&topics.registry(name), 1, &[("cleanup.policy", "compact")]);
            line
        })
        .collect();
    let homes = [0, 1].map(|_| tempfile::tempdir().expect("a folder"));
    let followers: Vec<Daemon> =
        lines.iter().zip(&homes).map(|(line, home)| Daemon::start(line, home.path())).collect();
    let mut trainers: Vec<Easq> =
        lines.iter().map(|line| line.start(&["run", "--role", "trainer"])).collect();
    let mut samples = Samples::new(&line.settings(), 1);
    for round in 1..=3_u64 {
        samples.write(100);
        for (home, follower) in homes.iter().zip(&followers) {
            eventually(2 * DEADLINE, "what was learned last is in place", || {
                let current = read_current(home.path());
                current.is_ok_and(|(manifest, _)| manifest.behavior_groups_learned == 100 * round)
            });
            assert_eq!(follower.all_refused(), 0.0);
        }
    }
    for trainer in &mut trainers {
        trainer.terminate();
        assert!(trainer.wait(DEADLINE).success());
    }
    let [first, second] = homes.each_ref().map(|home| read_current(home.path()).expect("whole"));
    assert_eq!([&first.0.model, &second.0.model], [&names[0], &names[1]]);
    let differ = first.1.iter().zip(&second.1).filter(|(first, second)| {
        assert_eq!((&first.name, &first.shape), (&second.name, &second.shape));
        first.data != second.data
    });
    assert!(differ.count() > 5, "two seeds make two models");
    // A folder that holds the one model is not taken for the other.
    drop(followers);
    let mut other =
        Follower::new(&lines[1].settings(), homes[0].path(), 2, &StopToken::new()).expect("a follower");
    assert_eq!(other.current(), None);
    let newest = second.0.version;
    eventually(DEADLINE, "the other model is in place", || {
        other.poll(Duration::from_millis(20)).expect("a registry that can be read");
        other.current().is_some_and(|current| current >= newest)
    });
    assert_eq!(read_current(homes[0].path()).expect("whole").0.model, names[1]);
}
