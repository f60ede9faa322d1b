//! What the service shows of itself: every metric and every field that is documented, and whether it
//! is ready.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use easq::telemetry::names::{Kind, Metric, TABLE};
use serde_json::Value;
use support::metrics::{Sample, samples};
use support::{Cluster, Easq, Line, Served, eventually, eventually_nothing};

const PARTITIONS: i32 = 2;
const VIEWS: u64 = 20_000;
const DEADLINE: Duration = Duration::from_secs(120);
const STATUS_PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/status.md");
/// As README says: of the joiner, and of the trainer.
const SERIES_PER_PARTITION: usize = 43 + 6;
const MOST_OTHER_SERIES: usize = 450;
const SECRET: &str = "correct-horse-battery-staple";

/// The metric that a series belongs to: of a histogram there are three.
fn metric_of(series: &str) -> Option<&'static Metric> {
    let is_of = |metric: &&Metric| match metric.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|part| series.strip_suffix(part).is_some_and(|name| name == metric.name)),
        _ => series == metric.name,
    };
    TABLE.iter().find(is_of)
}

/// Series that there are once more for each partition number.
fn series_of_partition(metrics: &str, partition: &str) -> usize {
    let is_of = |sample: &&Sample| sample.labels.get("partition").is_some_and(|found| found == partition);
    samples(metrics).iter().filter(is_of).count()
}

/// What is shown and not documented: names, kinds, explanations, labels.
fn faults(metrics: &str) -> BTreeSet<String> {
    let mut faults = BTreeSet::new();
    for sample in samples(metrics) {
        let Some(metric) = metric_of(&sample.name) else {
            faults.insert(format!("{} is in no table", sample.name));
            continue;
        };
        let labels = sample.labels.keys().map(String::as_str).filter(|&label| label != "le");
        if !labels.clone().eq(metric.labels.iter().copied().collect::<BTreeSet<_>>()) {
            faults.insert(format!("{} has labels {:?}", sample.name, labels.collect::<Vec<_>>()));
        }
        for line in [
            format!("# HELP {} {}", metric.name, metric.help),
            format!("# TYPE {} {}", metric.name, metric.kind.as_str()),
        ] {
            if !metrics.lines().any(|found| found == line) {
                faults.insert(format!("no line '{line}'"));
            }
        }
    }
    faults
}

/// A field of `/status` as it is documented: its path, where `*` is any key, and whether what lies below
/// it has keys of its own.
#[derive(Debug, PartialEq)]
struct Field {
    path: Vec<String>,
    is_map: bool,
}

/// The rows of the table: `| path | type | meaning |`.
fn fields(page: &str) -> Vec<Field> {
    let (_, table) = page.split_once("| field | type | meaning |").expect("the table of fields");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (path, rest) = row.split_once("` | ").expect("a path and a type");
        let path = path.split('.').map(str::to_owned).collect();
        Field { path, is_map: rest.starts_with("map") }
    })
    .collect()
}

/// The paths of everything that is no object, or an empty one.
fn leaves(value: &Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, bool)>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => {
            for (key, value) in object {
                path.push(key.clone());
                leaves(value, path, found);
                path.pop();
            }
        }
        None => found.push((path.clone(), value.is_null())),
    }
}

fn is_of(path: &[String], field: &Field) -> bool {
    let is_long_enough =
        if field.is_map { path.len() >= field.path.len() } else { path.len() == field.path.len() };
    is_long_enough && field.path.iter().zip(path).all(|(asked, found)| asked == "*" || asked == found)
}

/// Documented and not there, there and not documented.
fn differences(documented: &[Field], statuses: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    statuses.iter().for_each(|status| leaves(status, &mut Vec::new(), &mut found));
    let absent = documented.iter().filter(|field| !found.iter().any(|(path, _)| is_of(path, field)));
    let absent = absent.map(|field| format!("{} is documented only", field.path.join(".")));
    // A role that a process does not have is null as a whole.
    let is_documented = |path: &[String], is_null: bool| {
        let is_above = |field: &&Field| field.path.starts_with(path);
        documented.iter().any(|field| is_of(path, field))
            || (is_null && documented.iter().any(|field| is_above(&field)))
    };
    let unknown = found.iter().filter(|(path, is_null)| !is_documented(path, *is_null));
    absent.chain(unknown.map(|(path, _)| format!("{} is not documented", path.join(".")))).collect()
}

#[test]
fn a_running_line_shows_every_metric_and_every_field_that_is_documented_and_no_secret() {
    let line = Line::new("status")
        .set("publish.interval_ms", 200)
        .set("publish.checkpoint_interval_ms", 500)
        // Versions are compared with an anchor soon, and pass.
        .set("gate.warmup_steps", 5)
        .set("gate.anchor_age_ms", 2_000)
        .set("gate.tolerance_points", 100)
        .set("gate.min_rank_correlation", -1)
        .set("kafka.properties.sasl.password", SECRET);
    line.create_topics(PARTITIONS);
    let run = Served::start(&line, &["run", "--role", "all"]);
    eventually(DEADLINE, "the line is ready", || run.ready().0 == 200);
    let second = Served::start(&line, &["run", "--role", "trainer"]);
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("model");
    let dir = dir.to_str().expect("a path in UTF-8");
    let follower = Served::start(&line, &["follow", "--dir", dir, "--listen", "127.0.0.1:0"]);
    assert_eq!(follower.ready(), (503, "follower: no version is in place yet\n".to_owned()));
    let simulate = ["simulate", "--views", &VIEWS.to_string()];
    let (simulated, output) = Easq::run(line.arguments(&simulate), DEADLINE);
    assert!(simulated.success(), "{output}");

    let shown = || format!("{}{}", run.get("/metrics"), follower.get("/metrics"));
    eventually_nothing(DEADLINE, "every metric of README is shown", || {
        let names: BTreeSet<_> = samples(&shown())
            .iter()
            .filter_map(|sample| metric_of(&sample.name).map(|metric| metric.name))
            .collect();
        TABLE.iter().map(|metric| metric.name).filter(|name| !names.contains(name)).collect()
    });
    for process in [&run, &second, &follower] {
        assert_eq!(faults(&process.get("/metrics")), BTreeSet::new(), "{}", process.address);
    }

    // Another partition may have been the first to show some of them.
    let of_first = || series_of_partition(&run.get("/metrics"), "0");
    eventually(DEADLINE, "every metric of the first partition is shown", || {
        of_first() >= SERIES_PER_PARTITION
    });
    assert_eq!(of_first(), SERIES_PER_PARTITION);
    // Its transactional id may be another one at each start.
    let clients = samples(&run.get("/metrics")).into_iter().filter_map(|mut s| s.labels.remove("client"));
    let clients: BTreeSet<_> = clients.collect();
    assert!(clients.contains("joiner-0 producer"), "{clients:?}");
    assert!(!clients.iter().any(|client| client.contains(&*line.settings().joiner.group)), "{clients:?}");
    let all = samples(&run.get("/metrics")).len();
    assert!(all - PARTITIONS as usize * SERIES_PER_PARTITION < MOST_OTHER_SERIES, "{all} series");

    let page = fs::read_to_string(STATUS_PAGE).expect("docs/status.md is readable");
    let documented = fields(&page);
    assert!(documented.len() > 40, "{documented:?}");
    eventually_nothing(DEADLINE, "the fields of /status are those of docs/status.md", || {
        differences(&documented, &[run.status(), follower.status()])
    });
    eventually(DEADLINE, "the follower is ready", || follower.ready().0 == 200);
    tells_what_it_does(&run, &second, &follower);

    for process in [&run, &second, &follower] {
        for path in ["/metrics", "/status", "/readyz", "/healthz"] {
            assert!(!process.get(path).contains(SECRET), "{path} tells a secret");
        }
    }
    run.stop();
    second.stop();
    follower.stop();
}

/// The figures of `/status` are those of `/metrics`, and the roles what they are.
#[track_caller]
fn tells_what_it_does(run: &Served, second: &Served, follower: &Served) {
    eventually(DEADLINE, "all views are in the funnel", || {
        let funnel = run.status()["funnel"].clone();
        let views = funnel["views"].as_object().cloned().unwrap_or_default();
        views.values().filter_map(Value::as_u64).sum::<u64>() == VIEWS && funnel["labels"].as_u64() > Some(0)
    });
    eventually(DEADLINE, "nothing is behind", || {
        let status = run.status();
        let lags: Vec<f64> = samples(&run.get("/metrics"))
            .iter()
            .filter(|sample| sample.name == "easq_trainer_lag_records")
            .map(|sample| sample.value)
            .collect();
        status["joiner"]["views"]["lag_records"] == 0 && lags.iter().all(|&lag| lag == 0.0)
    });
    let status = run.status();
    assert_eq!(status["roles"], serde_json::json!(["joiner", "trainer"]));
    assert_eq!((&status["ready"], &status["trainer"]["state"]), (&true.into(), &"training".into()));
    assert_eq!(status["joiner"]["instances"]["0"]["state"], "working");
    assert_eq!(status["joiner"]["instances"]["0"]["partitions"], serde_json::json!([0, 1]));
    assert_eq!(status["trainer"]["last_decision"]["result"], "passed");
    eventually(DEADLINE, "what is in place at the follower is in production", || {
        let production = run.status()["trainer"]["production"]["version"].as_u64();
        production.is_some() && follower.status()["follower"]["in_place"]["version"].as_u64() == production
    });

    let metrics = samples(&run.get("/metrics"));
    let answers: BTreeMap<_, _> = metrics
        .iter()
        .filter(|sample| sample.name.ends_with("_count"))
        .map(|sample| (sample.name.as_str(), sample.value))
        .collect();
    assert!(answers["easq_joiner_answer_to_label_seconds_count"] >= 1.0);
    assert!(answers["easq_trainer_answer_to_production_seconds_count"] >= 1.0);
    assert_eq!(second.ready().0, 200, "one that stands by is ready");
    assert_eq!(second.status()["trainer"]["state"], "standing_by");
}

#[test]
fn it_is_ready_with_its_partitions_and_its_model_and_not_while_no_broker_answers() {
    let cluster = Cluster::start(1, 1);
    let line = Line::on(cluster.kafka(), "ready")
        .set("kafka.bootstrap_servers", cluster.door(0))
        .set("telemetry.unready_after_ms", 1_500);
    line.create_topics(PARTITIONS);
    cluster.refuse(0);
    let service = Served::start(&line, &["run", "--role", "all"]);
    let is_unready_for = |words: &[&str]| {
        let (status, body) = service.ready();
        status == 503 && words.iter().all(|word| body.contains(word))
    };
    eventually(DEADLINE, "it says what it waits for", || {
        is_unready_for(&["joiner: instance 0 waits", "trainer: waits for its group", "no broker answers"])
    });
    assert!(!service.status()["kafka_unavailable"].as_object().expect("an object").is_empty());
    assert_eq!(service.get("/healthz"), "ok\n", "a restart would change nothing");
    let of_some_age = || service.status()["uptime_seconds"].as_f64().is_some_and(|age| age > 2.0);
    eventually(DEADLINE, "time passes", of_some_age);
    assert_eq!(service.status()["trainer"]["state"], "joining", "nobody has said who owns the model");

    for _ in 0..2 {
        cluster.mend(0);
        // Nothing is written: no record tells that the brokers are back.
        eventually(DEADLINE, "it is ready", || service.ready() == (200, "ok\n".to_owned()));
        eventually_nothing(DEADLINE, "no client is away", || {
            let metrics = samples(&service.get("/metrics"));
            let away = metrics.into_iter().filter(|s| s.name == "easq_kafka_unavailable" && s.value != 0.0);
            away.map(|sample| sample.labels["client"].clone()).collect()
        });
        cluster.refuse(0);
        eventually(DEADLINE, "an outage that lasts is told", || is_unready_for(&["no broker answers"]));
    }
    cluster.mend(0);
    eventually(DEADLINE, "it is ready again", || service.ready().0 == 200);
    service.stop();
}

#[test]
fn a_field_that_only_one_side_knows_is_found() {
    let page = "| `/a` | other |\n| field | type | meaning |\n| `a` | number | x |\n| `b.*.c` | number | x |\n| `d` | map | x |\nother\n";
    let documented = fields(page);
    let status = serde_json::json!({"a": 1, "b": {"k": {"c": 2}}, "d": {"anything": {"deep": 3}}});
    assert_eq!(differences(&documented, &[status]), [""; 0]);
    let status = serde_json::json!({"a": 1, "b": {"k": {"e": 2}}, "d": {}});
    let found = differences(&documented, &[status]);
    assert_eq!(found, ["b.*.c is documented only", "b.k.e is not documented"]);
    let status = serde_json::json!({"a": 1, "b": null, "d": {}});
    assert_eq!(differences(&documented, &[status]), ["b.*.c is documented only"]);
}
