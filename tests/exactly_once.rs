//! Joiner processes that are killed, restarted, doubled and added in the middle of their work leave
//! every effect of every input record exactly once (invariants 1 and 2).

mod support;

use support::joiners::{self, Joiner, SOON};
use support::{Easq, Kafka, Line, eventually, eventually_some, verify, world};

const PARTITIONS: i32 = 4;
const SPAN_MS: i64 = 3 * 3_600_000;

#[track_caller]
fn assert_exactly_once(line: &Line) {
    let verdict = verify::joiner(line);
    assert!(verdict.effects > 100, "the stream proves nothing: {verdict:?}");
    assert!(verdict.is_exactly_once(), "{verdict:#?}");
}

#[test]
fn killed_at_any_moment_every_effect_is_there_exactly_once() {
    const SEED: u64 = 7;
    println!("seed {SEED}");
    let line = Line::new("killed");
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, 40_000, SPAN_MS, SEED, PARTITIONS);
    let mut joiner = Joiner::start(&line, "one");
    for (round, part) in deliveries.chunks(deliveries.len().div_ceil(5)).enumerate() {
        let before = joiners::consumed_records(&line, PARTITIONS);
        world::write(&line, part);
        // Killed while it has begun, and not finished, what was just written; another time a
        // different share of it.
        let share = part.len() as u64 * (round as u64 + 1) / 8;
        eventually(SOON, "a part of the new records is consumed", || {
            joiners::consumed_records(&line, PARTITIONS) > before + share
        });
        joiner.process.kill();
        joiner = Joiner::start(&line, "one");
    }
    joiners::consumed_to_the_end(&line, PARTITIONS);
    joiner.stop();
    assert_exactly_once(&line);
}

#[test]
fn members_that_come_and_go_hand_their_partitions_over_without_loss_or_doubling() {
    const SEED: u64 = 8;
    println!("seed {SEED}");
    // Dynamic members hand over at once; the session of a killed one has to time out.
    let line = Line::new("handed-over").set("joiner.session_timeout_ms", 6_000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, 30_000, SPAN_MS, SEED, PARTITIONS);
    let parts: Vec<_> = deliveries.chunks(deliveries.len().div_ceil(3)).collect();
    world::write(&line, parts[0]);
    let first = Joiner::start(&line, "dynamic");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let second = Joiner::start(&line, "dynamic");
    world::write(&line, parts[1]);
    eventually(SOON, "both members own partitions", || {
        [&first, &second].iter().all(|joiner| !joiner.metric("easq_join_consumed_records_total").is_empty())
    });
    joiners::consumed_to_the_end(&line, PARTITIONS);
    first.stop();
    world::write(&line, parts[2]);
    joiners::consumed_to_the_end(&line, PARTITIONS);
    second.stop();
    assert_exactly_once(&line);
}

/// Partitions that stay with a member while another one comes keep their state, and nothing is
/// replayed for them.
#[test]
fn partitions_that_stay_with_a_member_across_a_rebalance_keep_their_state() {
    const SEED: u64 = 11;
    println!("seed {SEED}");
    // No session is lost to a busy machine here.
    let line = Line::new("stays").set("joiner.session_timeout_ms", 60_000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, 20_000, SPAN_MS, SEED, PARTITIONS);
    let (before, after) = deliveries.split_at(deliveries.len() / 2);
    world::write(&line, before);
    let first = Joiner::start(&line, "a");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let second = Joiner::start(&line, "b");
    eventually(SOON, "the second member owns partitions", || {
        second.metric("easq_joiner_partitions").values().any(|&owned| owned == 2.0)
    });
    world::write(&line, after);
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let (kept, replayed) = ("partition kept its state", "partition recovered");
    assert_eq!(first.process.output().matches(kept).count(), 2, "{}", first.process.output());
    assert_eq!(first.process.output().matches(replayed).count(), 0, "{}", first.process.output());
    assert_eq!(second.process.output().matches(replayed).count(), 2, "{}", second.process.output());
    first.stop();
    second.stop();
    assert_exactly_once(&line);
}

/// The time to recover grows with the window and not with the topic: so many records are read again.
#[test]
fn a_restart_reads_the_window_again_and_not_the_topic() {
    const SEED: u64 = 12;
    println!("seed {SEED}");
    let replayed = |hours: i64| {
        let line = Line::new("recovery").set("join.window_ms", 600_000);
        line.create_topics(1);
        let views = 2_000 * hours.cast_unsigned();
        let deliveries = world::deliveries(&line.settings(), views, hours * 3_600_000, SEED, 1);
        world::write(&line, &deliveries);
        let mut joiner = Joiner::start(&line, "one");
        joiners::consumed_to_the_end(&line, 1);
        joiner.process.kill();
        let mut joiner = Joiner::start(&line, "one");
        joiner.process.wait_for_output("partition recovered", SOON);
        let output = joiner.process.output();
        let (_, after) = output.split_once("replayed_records=").expect("the log line says how many");
        let recoveries = joiner.metric_of_all("easq_joiner_recovery_seconds_count");
        assert_eq!(recoveries, Some(1.0), "one partition, assigned once");
        assert!(joiner.metric_of_all("easq_joiner_recovery_seconds_sum").is_some_and(|s| s > 0.0));
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        joiner.stop();
        (digits.parse::<usize>().expect("a number"), deliveries.len())
    };
    let ((short, short_topic), (long, long_topic)) = (replayed(4), replayed(16));
    assert!(long_topic > 3 * short_topic);
    assert!(0 < short && short < short_topic / 2, "{short} of {short_topic} records read again");
    assert!(long < 2 * short, "{short} records read again of {short_topic}, {long} of {long_topic}");
}

/// SIGSTOP until the group has given it up, then SIGCONT.
#[test]
fn a_frozen_joiner_that_wakes_up_commits_nothing_of_what_others_have_taken_over() {
    const SEED: u64 = 13;
    println!("seed {SEED}");
    let line = Line::new("frozen").set("joiner.session_timeout_ms", 6_000);
    line.create_topics(PARTITIONS);
    let settings = line.settings();
    let deliveries = world::deliveries(&settings, 30_000, SPAN_MS, SEED, PARTITIONS);
    let parts: Vec<_> = deliveries.chunks(deliveries.len().div_ceil(3)).collect();
    world::write(&line, parts[0]);
    let frozen = Joiner::start(&line, "frozen");
    let other = Joiner::start(&line, "other");
    eventually(SOON, "both members own partitions", || {
        [&frozen, &other]
            .iter()
            .all(|joiner| joiner.metric("easq_joiner_partitions").values().any(|&owned| owned == 2.0))
    });
    let before = joiners::consumed_records(&line, PARTITIONS);
    world::write(&line, parts[1]);
    eventually(SOON, "some of it is consumed", || joiners::consumed_records(&line, PARTITIONS) > before);
    frozen.process.signal("STOP");
    // The other takes over what it had, and goes on with all of it.
    world::write(&line, parts[2]);
    joiners::consumed_to_the_end(&line, PARTITIONS);
    let positions = || -> Vec<_> {
        let numbers = (0..PARTITIONS).flat_map(|number| joiners::inputs(&line).map(|(_, t)| (t, number)));
        numbers.map(|(topic, number)| joiners::committed(&line, &topic, number)).collect()
    };
    let taken_over = positions();
    let mut frozen = frozen;
    let assigned = |frozen: &Joiner| frozen.process.output().matches("partitions assigned").count();
    let before = assigned(&frozen);
    frozen.process.signal("CONT");
    // It is a member again, or the broker has fenced it and it says so: a supervisor starts it anew.
    let ended = eventually_some(SOON, "the frozen one rejoins or ends", || {
        if !frozen.process.is_running() {
            return Some(true);
        }
        (assigned(&frozen) > before).then_some(false)
    });
    assert_eq!(positions(), taken_over, "the frozen one has moved the group back");
    if ended {
        assert_eq!(frozen.process.wait(SOON).code(), Some(3), "{}", frozen.process.output());
    } else {
        frozen.stop();
    }
    other.stop();
    assert_exactly_once(&line);
}

/// A call into librdkafka that never returns: the thread is lost, and with it all that it holds.
#[test]
fn a_joiner_that_hangs_ends_with_exit_code_3_and_the_one_started_next_goes_on() {
    const SEED: u64 = 14;
    println!("seed {SEED}");
    let line = Line::new("hung")
        .set("joiner.instance_id", "one")
        .set("joiner.session_timeout_ms", 2_000)
        .set("joiner.heartbeat_interval_ms", 500)
        .set("joiner.max_poll_interval_ms", 3_000);
    line.create_topics(PARTITIONS);
    let deliveries = world::deliveries(&line.settings(), 10_000, SPAN_MS, SEED, PARTITIONS);
    world::write(&line, &deliveries);
    let hangs = [("FAILPOINTS", "transaction-before-offsets=1*off->pause")];
    let mut hung = Easq::start_with(line.arguments(&["run", "--role", "joiner"]), hangs);
    let status = hung.wait(SOON);
    let output = hung.output();
    assert_eq!(status.code(), Some(3), "{output}");
    let last = output.lines().last().expect("a process that fails says why");
    for part in ["joiner.max_poll_interval_ms", "3000 ms", "restart"] {
        assert!(last.contains(part), "{part}: {last}");
    }
    let joiner = Joiner::start(&line, "one");
    joiners::consumed_to_the_end(&line, PARTITIONS);
    joiner.stop();
    assert_exactly_once(&line);
}

#[test]
fn a_twin_with_the_same_instance_id_ends_the_first_with_exit_code_3() {
    let line = Line::new("twin");
    line.create_topics(1);
    let settings = line.settings();
    world::write(&line, &world::deliveries(&settings, 1_000, SPAN_MS, 9, 1));
    let mut first = Joiner::start(&line, "same");
    joiners::consumed_to_the_end(&line, 1);
    let second = Joiner::start(&line, "same");
    let status = first.process.wait(SOON);
    assert_eq!(status.code(), Some(3), "{}", first.process.output());
    second.stop();
}

#[test]
fn an_open_transaction_of_a_killed_process_holds_its_successor_up_for_moments_only() {
    let line = Line::new("successor").set("joiner.transaction_timeout_ms", 300_000);
    line.create_topics(1);
    let settings = line.settings();
    world::write(&line, &world::deliveries(&settings, 5_000, SPAN_MS, 10, 1));
    let mut killed = Joiner::start(&line.clone().set("joiner.commit_interval_ms", 15_000), "one");
    eventually(SOON, "the first has written outputs that it has not committed", || {
        Kafka::shared().uncommitted_end(&settings.topics.behavior_groups, 0) > 0
    });
    killed.process.kill();
    let successor = Joiner::start(&line, "one");
    // Far below the transaction timeout. With another transactional id, the records left open would
    // hide all later ones from readers for that long.
    eventually(SOON, "readers see outputs of the successor", || {
        let (_, stable_end) = Kafka::shared().watermarks(&settings.topics.behavior_groups, 0);
        stable_end > 0
    });
    joiners::consumed_to_the_end(&line, 1);
    successor.stop();
}
