//! What a replay holds, and what becomes of it, does not depend on how long the range is, how fast a
//! partition comes, or which one comes first; and what is deleted under its feet never goes unnoticed.

mod support;

use std::fs;
use std::path::Path;

use easq::kafka::Outgoing;
use easq::kafka::producer::Producer;
use easq::kafka::topics::Admin;
use easq::settings::Topics;
use prost::Message;
use support::folders::names;
use support::replays::{DEADLINE, command, refused, replayed, text};
use support::{Cluster, Easq, Line, eventually, view, world};

const START_MS: i64 = 1_750_000_000_000;
const HOUR_MS: i64 = 3_600_000;
const SEED: u64 = 20_261_126;

fn line(prefix: &str) -> Line {
    Line::new(prefix).set("train.device", "cpu")
}

/// Fetches little at a time, so that what librdkafka holds hardly counts.
fn in_small_steps(line: Line) -> Line {
    line.set("kafka.properties.max.partition.fetch.bytes", 30_000)
        .set("kafka.properties.queued.max.messages.kbytes", 64)
}

/// Starts a replay that freezes where `failpoint` says, and waits until it has.
#[track_caller]
fn frozen(line: &Line, range: (i64, i64), more: &[&str], failpoint: &str) -> Easq {
    let process = Easq::start_with(command(line, range, more), [("FAILPOINTS", failpoint)]);
    eventually(DEADLINE, "the replay has come to where it freezes", || process.is_frozen());
    process
}

/// Writes records in batches of 20 kB and without compression: so what is fetched is what they weigh.
fn write(line: &Line, records: impl IntoIterator<Item = Outgoing>) {
    let line = line.clone().set("kafka.properties.batch.size", 20_000);
    let settings = line.set("kafka.properties.compression.type", "none").settings();
    let producer = Producer::new(&settings.kafka, settings.input.partitioner).expect("a producer");
    for record in records {
        producer.send(&record).expect("a record that is taken");
    }
    producer.flush(DEADLINE).expect("all records delivered");
}

/// A view of one user, in a request of its own.
fn seen(topics: &Topics, number: i64, at_ms: i64, ids: u64) -> Outgoing {
    let mut event = view("user", &format!("impression-{number}"), at_ms);
    let features = event.features.as_mut().expect("a view has features");
    features.sparse[0].ids = (0..ids).map(|id| id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    Outgoing::to(topics.behavior.as_str()).key("user").payload(event.encode_to_vec()).timestamp_ms(at_ms)
}

/// The most memory that a replay of the first hours has had.
#[track_caller]
fn peak_bytes(line: &Line, hours: i64) -> u64 {
    let range = (START_MS, START_MS + hours * HOUR_MS);
    let mut process = Easq::start(command(line, range, &["--join-only"]));
    let mut peak = 0;
    eventually(DEADLINE, "the replay ends", || {
        peak = process.peak_bytes().max(peak);
        !process.is_running()
    });
    let status = process.wait(DEADLINE);
    assert!(status.success(), "{}", process.output());
    peak
}

#[test]
fn invariant_12_memory_follows_from_the_window_and_not_from_the_range() {
    let line = in_small_steps(line("backfill-memory"));
    line.create_topics(1);
    let (hours, views_per_hour) = (6, 8_000);
    let topics = line.settings().topics;
    let at_ms = |number: i64| START_MS + number * HOUR_MS / views_per_hour;
    let record = |number| seen(&topics, number, at_ms(number), 480);
    let bytes = (hours * views_per_hour).unsigned_abs() * record(0).len_bytes() as u64;
    write(&line, (0..hours * views_per_hour).map(record));
    let (short, long) = (peak_bytes(&line, 1), peak_bytes(&line, hours));
    // The short one is read up to a window past its end, which is half an hour.
    let more = bytes * 9 / 12;
    println!("{bytes} bytes; at the peak {short} for one hour, {long} for {hours}");
    assert!(long < short + more / 4, "{long} bytes for {hours} hours, {short} for one");
}

/// Bytes that have come through the door behind `before`, once they are `at_least` so many and no more
/// come.
#[track_caller]
fn settled(cluster: &Cluster, before: u64, at_least: u64) -> u64 {
    // Looks and not seconds: those of a machine that stands still are none.
    const QUIET_LOOKS: u32 = 150;
    let (mut last, mut quiet) = (cluster.sent_through(0), 0);
    eventually(DEADLINE, &format!("{at_least} bytes are fetched, and then no more"), || {
        let sent = cluster.sent_through(0);
        // Answers that say that there is nothing new go on coming.
        (last, quiet) = if sent > last + 10_000 { (sent, 0) } else { (last, quiet + 1) };
        sent - before >= at_least && quiet > QUIET_LOOKS
    });
    cluster.sent_through(0) - before
}

/// Each broker has one partition of both inputs. One that answers nothing holds its partition back, while
/// the others could be read; which partitions come first differs from run to run.
#[test]
fn invariant_10_a_partition_that_comes_late_makes_no_others_pile_up_and_changes_no_byte() {
    println!("seed {SEED}");
    let cluster = Cluster::start(3, 1);
    let line = in_small_steps(Line::on(cluster.kafka(), "backfill-slow").set("train.device", "cpu"));
    let topics = line.settings().topics;
    for topic in [&topics.behavior, &topics.responses] {
        cluster.kafka().create_topic_on(topic, &[0, 1, 2]);
    }
    let deliveries = world::deliveries(&line.settings(), 60_000, 6 * HOUR_MS, SEED, 3);
    let records = deliveries.iter().map(|delivery| world::outgoing(&topics, delivery));
    let bytes = records.clone().map(|record| record.len_bytes() as u64).sum::<u64>();
    write(&line, records);
    let start_ms = deliveries[0].arrived_ms;
    let range = (start_ms + HOUR_MS, start_ms + 5 * HOUR_MS);

    let dir = tempfile::tempdir().expect("a temporary folder");
    let undisturbed = dir.path().join("undisturbed.pb");
    replayed(&line, range, &["--samples", text(&undisturbed)]);
    let through = line.set("kafka.bootstrap_servers", cluster.door(0));
    for broker in [0, 1] {
        let samples = dir.path().join(format!("without-{broker}.pb"));
        let mut process =
            frozen(&through, range, &["--samples", text(&samples)], "backfill-planned=1*return(STOP)");
        cluster.pause(broker);
        let before = cluster.sent_through(0);
        process.signal("CONT");
        let ahead = settled(&cluster, before, 60_000);
        assert!(process.is_running(), "it ended without a partition\n{}", process.output());
        println!("without broker {broker}: {ahead} bytes fetched of {bytes}");
        assert!(ahead < bytes / 10, "{ahead} bytes were fetched ahead of {bytes}");
        cluster.resume(broker);
        let status = process.wait(DEADLINE);
        assert!(status.success(), "{}", process.output());
        same(&undisturbed, &samples);
    }
}

#[track_caller]
fn same(left: &Path, right: &Path) {
    for suffix in ["pb", "pb.backfill.json"] {
        let read = |path: &Path| fs::read(path.with_extension(suffix)).expect("a file that was written");
        assert!(read(left) == read(right), "{} and {} differ", left.display(), right.display());
    }
    assert!(fs::metadata(left).expect("a file").len() > 100_000, "too few samples prove nothing");
}

/// A broker that is killed and comes back, with partitions that no other one has; then one that goes, and whose
/// partitions go over to others.
#[test]
fn invariant_10_brokers_that_go_while_a_replay_reads_change_no_byte() {
    println!("seed {SEED}");
    let cluster = Cluster::start(3, 0);
    let line = |prefix| in_small_steps(Line::on(cluster.kafka(), prefix).set("train.device", "cpu"));
    let (alone, copied) = (line("backfill-killed"), line("backfill-moved"));
    let of = |line: &Line| [line.settings().topics.behavior, line.settings().topics.responses];
    of(&alone).iter().for_each(|topic| cluster.kafka().create_topic_on(topic, &[0, 1, 2]));
    of(&copied).iter().for_each(|topic| cluster.kafka().create_topic(topic, 3));
    let deliveries = world::deliveries(&alone.settings(), 20_000, 6 * HOUR_MS, SEED, 3);
    let start_ms = deliveries[0].arrived_ms;
    let range = (start_ms + HOUR_MS, start_ms + 5 * HOUR_MS);
    let dir = tempfile::tempdir().expect("a temporary folder");
    for line in [&alone, &copied] {
        let topics = line.settings().topics;
        write(line, deliveries.iter().map(|delivery| world::outgoing(&topics, delivery)));
        let file = |name: &str| dir.path().join(format!("{}-{name}.pb", topics.behavior));
        let (undisturbed, disturbed) = (file("undisturbed"), file("disturbed"));
        replayed(line, range, &["--samples", text(&undisturbed)]);
        let look = "backfill-look=1*off->1*return(STOP)";
        let mut process = frozen(line, range, &["--samples", text(&disturbed)], look);
        if topics.behavior == alone.settings().topics.behavior {
            cluster.kill(0);
            process.signal("CONT");
            process.wait_for_output("Kafka does not answer, retrying", DEADLINE);
            assert!(process.is_running(), "it ended without a partition\n{}", process.output());
            cluster.restart(0);
        } else {
            cluster.stop(1);
            process.signal("CONT");
        }
        let status = process.wait(DEADLINE);
        assert!(status.success(), "{}", process.output());
        same(&undisturbed, &disturbed);
    }
}

/// Nobody has set how much: each of many partitions has a share of 256 MiB.
#[test]
fn invariant_12_what_is_fetched_ahead_is_bounded_where_no_setting_bounds_it() {
    let cluster = Cluster::start(3, 1);
    let line = Line::on(cluster.kafka(), "backfill-ahead").set("train.device", "cpu");
    let topics = line.settings().topics;
    // All but the one that is fetched are on a broker that does not answer.
    let brokers: Vec<i32> = (0..8).map(|partition| i32::from(partition == 6)).collect();
    cluster.kafka().create_topic_on(&topics.behavior, &brokers);
    cluster.kafka().create_topic_on(&topics.responses, &[0; 8]);
    let views = 12_000;
    let other = view("other", "impression", START_MS).encode_to_vec();
    let other = Outgoing::to(topics.behavior.as_str()).key("other").payload(other).timestamp_ms(START_MS);
    let record = |number| seen(&topics, number, START_MS + number, 480);
    let bytes: u64 = (0..views).map(|number| record(number).len_bytes() as u64).sum();
    write(&line, std::iter::once(other).chain((0..views).map(record)));
    let through = line.set("kafka.bootstrap_servers", cluster.door(0));
    let range = (START_MS, START_MS + HOUR_MS);
    let mut process = frozen(&through, range, &["--join-only"], "backfill-planned=1*return(STOP)");
    cluster.pause(0);
    let before = cluster.sent_through(0);
    process.signal("CONT");
    let ahead = settled(&cluster, before, 12 << 20);
    println!("{ahead} bytes fetched of {bytes}");
    // A share of 16 MiB, and one fetch above it.
    assert!(bytes > 32 << 20 && ahead < 24 << 20, "{ahead} bytes fetched of {bytes}");
    cluster.resume(0);
    let status = process.wait(DEADLINE);
    assert!(status.success(), "{}", process.output());
}

/// What librdkafka passes over, and what it would ask for again for ever.
#[test]
fn what_cannot_be_read_ends_a_replay_with_its_offset() {
    let cluster = Cluster::start(1, 0);
    let views = 3_000;
    for (checks, compression, reason) in [(true, "none", "Bad message"), (false, "lz4", "compress")] {
        let line = in_small_steps(Line::on(cluster.kafka(), "backfill-spoilt").set("train.device", "cpu"));
        let topics = line.settings().topics;
        let line = line.set("kafka.properties.compression.type", compression);
        // It is what a reader does where nobody says otherwise.
        let line = if checks { line } else { line.set("kafka.properties.check.crcs", "false") };
        line.create_topics(1);
        let settings = line.clone().set("kafka.properties.batch.size", 20_000).settings();
        let producer = Producer::new(&settings.kafka, settings.input.partitioner).expect("a producer");
        for number in 0..views {
            let record = seen(&topics, number, START_MS + number * 100, 8);
            producer.send(&record).expect("a record that is taken");
        }
        producer.flush(DEADLINE).expect("all records delivered");
        let topic = topics.behavior.as_str();
        let offset = cluster.spoil_batch(0, topic, 0).start;
        assert!(0 < offset && offset < views);
        let says = refused(&line, (START_MS, START_MS + views * 100), &["--join-only"], 1);
        let place = format!("'{topic}' partition 0 cannot be read from offset {offset} on: ");
        assert!(says.contains(&place) && says.contains(reason), "{says}");
    }
}

#[test]
fn a_range_from_the_beginning_of_time_is_all_there_is() {
    let line = line("backfill-all");
    line.create_topics(1);
    let topics = line.settings().topics;
    write(&line, (0..100).map(|number| seen(&topics, number, START_MS + number * 100, 1)));
    let says = replayed(&line, (0, START_MS + HOUR_MS), &["--join-only"]);
    assert!(says.contains("100: "), "{says}");
}

#[test]
fn what_is_deleted_while_a_replay_reads_ends_it_with_the_offsets_that_are_missing() {
    let views = 30_000;
    // Before the first fetch, and in the middle of the log.
    for (failpoint, low) in
        [("backfill-planned=1*return(STOP)", 100), ("backfill-look=2*off->1*return(STOP)", views - 10)]
    {
        let line = in_small_steps(line("backfill-hole"));
        line.create_topics(1);
        let (dir, topics) = (tempfile::tempdir().expect("a temporary folder"), line.settings().topics);
        let topic = &topics.behavior;
        write(&line, (0..views).map(|number| seen(&topics, number, START_MS + number * 100, 1)));
        let samples = dir.path().join("samples.pb");
        let range = (START_MS, START_MS + views * 100);
        let mut process = frozen(&line, range, &["--samples", text(&samples)], failpoint);
        let admin = Admin::new(&line.settings().kafka).expect("a valid configuration");
        admin.delete_records_below(topic, 0, low).expect("deleted");
        process.signal("CONT");
        let status = process.wait(DEADLINE);
        let output = process.output();
        assert_eq!(status.code(), Some(1), "{output}");
        let says = output.lines().last().expect("a process that fails says why");
        assert!(says.contains(&format!("a hole: the log of '{topic}' partition 0")), "{says}");
        let (_, hole) = says.split_once(" offsets from ").expect("the offsets");
        let (from, rest) = hole.split_once(" up to ").expect("both offsets");
        let from: i64 = from.parse().expect("an offset");
        assert!(rest.starts_with(&format!("{low} ")), "{says}");
        let lost = says.split("has lost the ").nth(1).expect("how many").split(' ').next().expect("a number");
        assert_eq!(lost, (low - from).to_string(), "{says}");
        if low == 100 {
            assert_eq!(from, 0, "{says}");
        } else {
            assert!(2 * 4096 <= from && from < low, "{says}");
        }
        assert_eq!(names(dir.path()), [""; 0], "a replay that failed left something");
    }
}
