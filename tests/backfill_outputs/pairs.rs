//! A topic of pairs.

use std::collections::BTreeMap;

use easq::contract::v1::{PairScope, PreferencePair};

use crate::support::folders::{assert_same, contents, names};
use crate::support::replays::{DEADLINE, PARTITIONS, command, ended_by, refused, resumed, state, text};
use crate::support::{Easq, Input, Kafka, Record, eventually};
use crate::{EARLY, RUN, assert_unchanged};

/// A topic of pairs by partition, each record with its key, payload and headers.
type Written = BTreeMap<i32, Vec<Record>>;

/// What readers see when no transaction is open any more.
fn written(topic: &str) -> Written {
    let mut written = Written::new();
    Kafka::shared().settle(topic);
    for record in Kafka::shared().read_to_end(topic) {
        written.entry(record.partition).or_default().push(record);
    }
    written
}

fn count(topic: &str) -> usize {
    written(topic).values().map(Vec::len).sum()
}

/// Every pair of the range is there once, in the order of the replay.
#[track_caller]
fn assert_all_pairs(topic: &str) {
    let expected = RUN.pairs();
    assert!(expected.values().map(Vec::len).sum::<usize>() > 1500, "too few pairs prove nothing");
    let decoded =
        |records: Vec<Record>| -> Vec<PreferencePair> { records.iter().map(Record::decode).collect() };
    let found: BTreeMap<i32, Vec<PreferencePair>> =
        written(topic).into_iter().map(|(partition, records)| (partition, decoded(records))).collect();
    let count = |pairs: &BTreeMap<i32, Vec<PreferencePair>>| pairs.values().map(Vec::len).sum::<usize>();
    assert!(found == expected, "{} pairs, expected {}", count(&found), count(&expected));
}

fn topic_of_pairs(name: &str) -> String {
    Kafka::unique(&format!("pairs-again-{name}"))
}

#[test]
fn the_pairs_of_the_range_lie_in_their_topic_as_the_joiner_writes_them() {
    let run = &*RUN;
    let before = state(&run.line);
    let topic = topic_of_pairs("all");
    let says = run.replay(&["--pairs-topic", &topic]);
    assert_unchanged(&run.line, &before);
    assert_all_pairs(&topic);
    assert_eq!(Kafka::shared().partitions(&topic), PARTITIONS);
    assert!(says.contains(&format!("pairs in topic '{topic}'")), "{says}");
    let live = written(&run.line.settings().topics.preference_pairs);
    let mut equal = 0;
    for (partition, records) in written(&topic) {
        let theirs: BTreeMap<&[u8], &Record> = live[&partition]
            .iter()
            .map(|record| (record.payload.as_deref().expect("a pair"), record))
            .collect();
        for record in &records {
            // Those that the order of arrival made otherwise have no record to compare with.
            let Some(live) = theirs.get(record.payload.as_deref().expect("a pair")) else { continue };
            assert_eq!(record.headers, live.headers);
            let pair: PreferencePair = record.decode();
            // Of two users it is that of the label that was there last, here or there.
            if pair.scope() == PairScope::SameUser {
                assert_eq!(record.key, live.key);
            }
            let users =
                [pair.chosen, pair.rejected].map(|label| label?.view.map(|view| view.user_id.into_bytes()));
            assert!(users.contains(&record.key));
            equal += 1;
        }
        let headers = &live[&partition][0].headers;
        assert!(!headers.is_empty() && records.iter().all(|record| record.headers == *headers));
    }
    assert!(equal > 1000, "only {equal} pairs are those of the service");
}

#[test]
fn pairs_that_were_interrupted_go_on_where_they_ended_and_none_is_there_twice() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (output, topic) = (dir.path().join("model"), topic_of_pairs("interrupted"));
    let words = ["--output", text(&output), "--pairs-topic", &topic];
    let after_one = "backfill-pairs-before-commit=1*return(INT);backfill-pairs-committed=1*sleep(1000)";
    let (code, says) = ended_by(command(&run.line, run.range, &words), after_one);
    assert!(code == Some(4) && says.contains("--resume goes on"), "{says}");
    let first = count(&topic);
    assert!(0 < first && first < run.pairs().values().map(Vec::len).sum(), "{first} pairs");
    // Each partition has the beginning of what it is to have.
    for (partition, records) in written(&topic) {
        let expected = &run.pairs()[&partition][..records.len()];
        assert!(
            records.iter().zip(expected).all(|(record, pair)| record.decode::<PreferencePair>() == *pair)
        );
    }
    let says = refused(&run.line, run.range, &["--pairs-topic", &topic], 1);
    assert!(says.contains("holds records already"), "{says}");
    resumed(&run.line, &words);
    assert_all_pairs(&topic);
    assert_same(&contents(&run.path("model")), &contents(&output));

    // Without a folder there is nothing to go on from, and what is there is said.
    let topic = topic_of_pairs("left");
    let (code, says) = ended_by(command(&run.line, run.range, &["--pairs-topic", &topic]), after_one);
    assert_eq!(code, Some(4), "{says}");
    let first = count(&topic);
    let left = format!("the range; '{topic}' holds the first {first} pairs");
    assert!(says.contains(&left) && !says.contains("nothing was written"), "{says}");
    assert!(says.contains("delete it, or name another topic"), "{says}");
    let says = refused(&run.line, run.range, &["--pairs-topic", &topic], 1);
    assert!(says.contains("holds records already") && says.contains("delete this one"), "{says}");
    assert_eq!(count(&topic), first);
}

#[test]
fn a_topic_that_gets_other_records_is_not_gone_on_with() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (output, topic) = (dir.path().join("model"), topic_of_pairs("strange"));
    let words = ["--output", text(&output), "--pairs-topic", &topic];
    let (code, says) = ended_by(command(&run.line, run.range, &words), EARLY);
    assert!(code == Some(4) && says.contains("--resume goes on"), "{says}");
    let strange = Input { partition: Some(1), payload: Some(b"strange".to_vec()), ..Input::default() };
    Kafka::shared().produce(&topic, &[strange]);
    let before = written(&topic)[&1].len();
    let arguments = run.line.arguments(&[&["backfill", "--resume"], &words[..]].concat());
    let (status, says) = Easq::run(arguments, DEADLINE);
    assert_eq!(status.code(), Some(1), "{says}");
    assert!(says.contains("partition 1 is no pair of this range"), "{says}");
    assert_eq!(written(&topic)[&1].len(), before);
}

/// Invariant 2.
#[test]
fn what_dies_in_a_transaction_of_pairs_leaves_none_of_it() {
    let run = &*RUN;
    let topic = topic_of_pairs("killed");
    let command = command(&run.line, run.range, &["--pairs-topic", &topic]);
    let (code, _) = ended_by(command.clone(), "backfill-pairs-before-commit=return");
    assert_eq!(code, None, "it was killed");
    assert_eq!(Kafka::shared().read_to_end(&topic), Vec::new());
    let (status, output) = Easq::run(command, DEADLINE);
    assert!(status.success(), "{output}");
    assert_all_pairs(&topic);
}

#[test]
fn a_second_replay_into_a_topic_takes_it_from_the_first() {
    let run = &*RUN;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, topic) = (dir.path().join("model"), topic_of_pairs("two"));
    let words = ["--output", text(&model), "--pairs-topic", &topic];
    let mut first = Easq::start_with(
        command(&run.line, run.range, &words),
        [("FAILPOINTS", "backfill-pairs-before-commit=1*return(STOP)")],
    );
    eventually(DEADLINE, "the first has a transaction open", || first.is_frozen());
    run.replay(&["--pairs-topic", &topic]);
    first.signal("CONT");
    assert_eq!(first.wait(DEADLINE).code(), Some(1), "{}", first.output());
    assert!(first.output().contains("another replay writes to it now"), "{}", first.output());
    assert_all_pairs(&topic);

    // What it had learned is not lost, in whichever place of a batch it was.
    assert!(first.output().contains("--resume goes on"), "{}", first.output());
    assert_eq!(names(dir.path()), ["model.partial"]);
    let progress = std::fs::read(dir.path().join("model.partial/resume.json")).expect("what was learned");
    let progress: serde_json::Value = serde_json::from_slice(&progress).expect("JSON");
    assert_ne!(progress["open"].as_array().expect("a list").len(), 0, "it ended between two batches");
    resumed(&run.line, &words[..2]);
    assert_same(&contents(&run.path("model")), &contents(&model));
}

#[test]
fn no_topic_of_the_service_and_none_of_another_shape_is_written_to() {
    let run = &*RUN;
    let before = state(&run.line);
    let settings = run.line.settings();
    let (topics, model) = (&settings.topics, &settings.model.name);
    let of_models = [topics.model(model), topics.registry(model), topics.registry("another")];
    let of_the_service = topics.partitioned().map(|(_, topic)| topic);
    let others = of_models.iter().map(String::as_str).chain(["__consumer_offsets", "no topic"]);
    for topic in of_the_service.into_iter().chain(others) {
        let says = refused(&run.line, run.range, &["--pairs-topic", topic], 2);
        assert!(says.contains(topic) && says.contains("--pairs-topic"), "{says}");
    }
    refused(&run.line, run.range, &["--pairs-topic", "pairs", "--join-only"], 2);
    let narrow = topic_of_pairs("narrow");
    Kafka::shared().create_topic(&narrow, PARTITIONS - 1);
    let says = refused(&run.line, run.range, &["--pairs-topic", &narrow], 1);
    assert!(says.contains("has 2 partitions") && says.contains("written to 3"), "{says}");
    assert_unchanged(&run.line, &before);
}
