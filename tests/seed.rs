//! `easq model seed`: a trainer begins with what a folder holds, and its lineage with the offsets from
//! which it reads.

mod support;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use easq::contract::v1;
use easq::publish::files;
use support::lineage::registry;
use support::replays::{account, line, replayed, text, time};
use support::trainers::{PARTITIONS, SOON, Trainer, production_learns_all};
use support::{Easq, Kafka, Line, Samples, eventually, world};

const SEED: u64 = 20_261_128;
const SPAN_MS: i64 = 3_600_000;

/// Runs `easq model seed`; its exit code and what it printed.
fn seed(line: &Line, words: &[&str]) -> (Option<i32>, String) {
    let (status, output) = Easq::run(line.arguments(&[&["model", "seed"], words].concat()), SOON);
    (status.code(), output)
}

/// Invariant 7.
#[test]
fn a_trainer_goes_on_from_a_replay_and_its_lineage_begins_where_it_reads() {
    println!("seed {SEED}");
    let line = line("seed")
        .set("publish.checkpoint_interval_ms", 1000)
        .set("train.batch_age_ms", 20)
        .set("gate.warmup_steps", 1_000_000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, 4000, SPAN_MS, SEED, PARTITIONS);
    world::write(&line, &deliveries);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    let start_ms = deliveries[0].arrived_ms;
    replayed(&line, (start_ms, start_ms + SPAN_MS), &["--output", text(&model)]);
    let groups = account(&model.join("backfill.json"))["behavior_groups"].as_u64().expect("a number");
    let replayed = files::read_manifest(&model).expect("a manifest");

    // What lies there before is not learned, and what comes then is.
    let mut samples = Samples::new(&settings, PARTITIONS);
    samples.write(50);
    let (code, said) = seed(&line, &[text(&model)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("version 1 of model"), "{said}");
    let first = registry(&settings).production_manifest().expect("production").clone();
    assert_eq!(
        (first.step, first.behavior_groups_learned),
        (replayed.step, replayed.behavior_groups_learned)
    );
    assert!(first.gate.as_ref().is_some_and(|gate| gate.promoted));
    // The pairs that wait in the replay's reservoir are no records of the logs that are read now.
    let names = |manifest: &v1::Manifest| -> Vec<String> {
        manifest.tensors.iter().map(|tensor| tensor.name.clone()).collect()
    };
    let mut expected = names(&replayed);
    expected.retain(|name| name != "training.reservoir.sources");
    assert_eq!(names(&first), expected);
    assert_eq!(expected.len() + 1, replayed.tensors.len());
    for range in &first.inputs {
        let (_, end) = Kafka::shared().watermarks(&range.topic, range.partition);
        assert_eq!((range.next_offset, range.samples), (end, 0), "{range:?}");
        assert_eq!(range.gaps.iter().map(|gap| gap.to_offset).sum::<i64>(), end);
        assert!(!range.topic_id.is_empty());
    }
    assert_eq!(first.inputs.len(), 2 * PARTITIONS as usize);

    let trainer = Trainer::start(&line);
    samples.write(50);
    production_learns_all(&line);
    trainer.stop();
    let last = registry(&settings).newest_checkpoint().expect("that of a clean stop").clone();
    assert!(last.step > replayed.step && last.version > 1);
    assert!(groups > 100 && replayed.behavior_groups_learned > 100);
    assert_eq!(last.behavior_groups_learned, replayed.behavior_groups_learned + 50);
    let learned: u64 = of_topic(&last, &settings.topics.behavior_groups).map(|range| range.samples).sum();
    assert_eq!(learned, 50);
    is_refused_once_there_is_a_version(&line, &model);
}

fn of_topic<'a>(manifest: &'a v1::Manifest, topic: &'a str) -> impl Iterator<Item = &'a v1::LearnedRange> {
    manifest.inputs.iter().filter(move |range| range.topic == topic)
}

fn is_refused_once_there_is_a_version(line: &Line, model: &Path) {
    let before = registry(&line.settings());
    let (code, said) = seed(line, &[text(model)]);
    assert!(code == Some(1) && said.contains("delete the two topics"), "{said}");
    assert_eq!(registry(&line.settings()), before);
}

#[test]
fn a_trainer_can_be_told_to_begin_earlier_and_what_is_no_checkpoint_is_refused() {
    let line = line("seed-start");
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| dir.path().join(name);
    let (samples, model) = (path("samples.pb"), path("model"));
    for words in [
        vec!["simulate", "--views", "2000", "--samples", text(&samples)],
        vec!["train", "--samples", text(&samples), "--output", text(&model)],
    ] {
        let (status, said) = Easq::run(line.arguments(&words), SOON);
        assert!(status.success(), "{said}");
    }
    let mut written = Samples::new(&settings, PARTITIONS);
    written.write(50);
    let now_ms = || SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis() as i64;
    let last_ms =
        |topic: &str| Kafka::shared().read_to_end(topic).iter().filter_map(|r| r.timestamp_ms).max();
    let newest_ms = last_ms(&settings.topics.preference_pairs).max(last_ms(&settings.topics.behavior_groups));
    eventually(SOON, "the clock moves on", || Some(now_ms()) > newest_ms);
    let between_ms = now_ms();
    let ends = |manifest: &v1::Manifest| -> Vec<i64> {
        let end = |range: &v1::LearnedRange| Kafka::shared().watermarks(&range.topic, range.partition).1;
        manifest.inputs.iter().map(end).collect()
    };
    let seeded = |name: &str, start: &str| {
        let line = line.clone().set("model.name", format!("{}-{name}", settings.model.name));
        let settings = line.settings();
        let topics = &settings.topics;
        Kafka::shared().create_topic(&topics.model(&settings.model.name), 1);
        Kafka::shared().create_topic(&topics.registry(&settings.model.name), 1);
        let (code, said) = seed(&line, &[text(&model), "--start", start]);
        assert_eq!(code, Some(0), "{said}");
        registry(&settings).versions[&1].clone()
    };
    let next = |manifest: &v1::Manifest| -> Vec<i64> {
        manifest.inputs.iter().map(|range| range.next_offset).collect()
    };
    let earliest = seeded("earliest", "earliest");
    assert!(next(&earliest).iter().all(|&offset| offset == 0));
    assert!(earliest.inputs.iter().all(|range| range.gaps.is_empty()));
    let before = ends(&earliest);
    written.write(50);
    let since = seeded("since", &time(between_ms));
    assert_eq!(next(&since), before);
    assert!(ends(&since) != before, "there are records behind it");

    let (code, said) = seed(&line, &[text(&model), "--start", "noon"]);
    assert!(code == Some(2) && said.contains("latest, earliest or a time"), "{said}");
    let other = line.clone().set("model.hidden_dim", settings.model.hidden_dim + 1);
    let (code, said) = seed(&other, &[text(&model)]);
    assert!(code == Some(1) && said.contains("other settings of [model]"), "{said}");
    fs::rename(model.join(files::ADAPTER), path("adapter")).expect("moved");
    let (code, said) = seed(&line, &[text(&model)]);
    assert!(code == Some(1) && said.contains("projection.lora_") && said.contains("is missing"), "{said}");
    fs::rename(path("adapter"), model.join(files::ADAPTER)).expect("moved");
    fs::rename(model.join(files::TRAINING), path("away")).expect("moved");
    let (code, said) = seed(&line, &[text(&model)]);
    assert!(code == Some(1) && said.contains("no training state"), "{said}");
    let mut bytes = fs::read(path("away")).expect("the training state");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(model.join(files::TRAINING), bytes).expect("written");
    let (code, said) = seed(&line, &[text(&model)]);
    assert!(code == Some(1) && said.contains("is not that of its manifest.json"), "{said}");
    assert_eq!(registry(&settings).highest_version, 0);
}
