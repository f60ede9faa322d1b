//! What a restart must read again, and what it does when that is gone.

use std::sync::Arc;

use super::builders::{
    LATENESS_MS, OFFSET_STEP, TestResponse, TestView, WINDOW_MS, config, response, response_records,
    settings, view, view_records,
};
use super::driver::{Driver, Step};
use crate::join::{Effects, InputState, JoinFault, Outcome, OutputKind, PartitionJoin, Side, Start};

const LIFETIME_MS: i64 = WINDOW_MS + LATENESS_MS;

fn driver(views: &[TestView], responses: &[TestResponse]) -> Driver {
    Driver::new(config(&settings()), view_records(views), response_records(responses))
}

/// One view and its response every 10 ms, each impression used once within the byte's range.
fn steady(records: u8) -> (Vec<TestView>, Vec<TestResponse>) {
    let time_ms = |at: u8| 100 + 10 * i64::from(at);
    let views = (0..records).map(|at| view(at, time_ms(at))).collect();
    let responses = (0..records).map(|at| response(at, time_ms(at) + 2)).collect();
    (views, responses)
}

#[test]
fn a_restart_reads_again_no_more_than_what_has_not_expired() {
    let (views, responses) = steady(100);
    let mut driver = driver(&views, &responses);
    driver.finish();
    let end_ms = views[99].event_time_ms;
    let needed = views.iter().position(|view| view.event_time_ms + 2 + LIFETIME_MS >= end_ms).unwrap();
    assert_eq!(driver.replay_from().0, needed as i64 * OFFSET_STEP);
}

#[test]
fn invariant_12_an_impression_that_is_used_for_ever_does_not_hold_the_replay_back() {
    let views: Vec<_> = (0..400).map(|at| view(1, 100 + 25 * at)).collect();
    let responses: Vec<_> = (0..400).map(|at| response(1, 110 + 25 * at)).collect();
    let mut driver = driver(&views, &responses);
    driver.finish();
    let (views_from, responses_from) = driver.replay_from();
    let bound = 400 - 8 * LIFETIME_MS / 25;
    assert!(views_from > bound * OFFSET_STEP, "{views_from}");
    assert!(responses_from > bound * OFFSET_STEP, "{responses_from}");
}

#[test]
fn invariant_12_an_impression_that_is_repeated_for_ever_is_held_a_few_times() {
    for step_ms in [0, 1, 7] {
        let views: Vec<_> = (0..2_000).map(|at| view(1, 100 + step_ms * at)).collect();
        let mut driver = driver(&views, &[response(2, 100)]);
        driver.finish();
        let held = driver.join.gauges().held_views as i64;
        let spanned = step_ms * 2_000 / WINDOW_MS;
        assert!(held <= spanned + 3, "{held} held of a repetition every {step_ms} ms");
    }
}

#[test]
fn invariant_4_after_a_restart_a_second_response_is_still_a_duplicate() {
    let mut driver = driver(&[view(1, 100)], &[response(1, 101), response(1, 102)]);
    driver.run(&[Step::Read(Side::Views), Step::Read(Side::Responses), Step::Commit, Step::Crash(0)]);
    driver.finish();
    assert_eq!(driver.outputs(OutputKind::LabelledView).count(), 1);
    assert_eq!(driver.join.outcomes(Side::Responses).get(Outcome::Duplicate), 1);
}

#[test]
fn a_pair_across_the_committed_offset_is_emitted_after_the_restart() {
    for (before, after) in [(Side::Views, Side::Responses), (Side::Responses, Side::Views)] {
        let mut driver = driver(&[view(1, 100)], &[response(1, 101)]);
        driver.run(&[Step::Read(before), Step::Commit, Step::Read(after), Step::Crash(0)]);
        driver.finish();
        assert_eq!(driver.outputs(OutputKind::LabelledView).count(), 1);
    }
}

#[test]
fn what_retention_removed_is_reported_and_counted() {
    let views = [view(1, 100), view(2, 101), view(3, 102)];
    let mut driver = driver(&views, &[response(1, 103), response(3, 104)]);
    driver.run(&[Step::Read(Side::Views); 3]);
    driver.commit();
    driver.low = (2 * OFFSET_STEP, 0);
    driver.crash(0);
    let loss = &driver.join.retention_losses()[0];
    assert_eq!((loss.side, loss.from_offset, loss.to_offset), (Side::Views, 0, 2 * OFFSET_STEP));
    assert_eq!((loss.from_time_ms, loss.to_time_ms), (None, Some(102)));
    driver.finish();
    let outcomes = driver.join.outcomes(Side::Views);
    assert_eq!((outcomes.get(Outcome::LostToRetention), outcomes.get(Outcome::Matched)), (2, 1));
    assert_eq!(outcomes.consumed(), 3);
}

#[test]
fn invariant_11_a_response_whose_view_was_lost_is_not_counted_twice() {
    let mut driver = driver(&[view(1, 100), view(2, 400)], &[response(1, 101), response(2, 400)]);
    driver.run(&[Step::Read(Side::Views), Step::Read(Side::Responses), Step::Commit]);
    driver.low = (OFFSET_STEP, 0);
    driver.crash(0);
    driver.finish();
    let outcomes = driver.join.outcomes(Side::Responses);
    assert_eq!((outcomes.get(Outcome::Matched), outcomes.get(Outcome::Unmatched)), (2, 0));
    assert_eq!(outcomes.consumed(), 2);
}

fn committed(driver: &mut Driver) -> (InputState, InputState) {
    let frontier = driver.join.frontier();
    let state =
        |position: crate::join::Position| InputState::decode(position.next_offset, &position.metadata);
    (state(frontier.views).unwrap(), state(frontier.responses).unwrap())
}

#[test]
fn a_topic_that_was_created_again_is_a_fault() {
    let mut driver = driver(&[view(1, 100)], &[response(1, 101)]);
    driver.finish();
    let (views, responses) = committed(&mut driver);
    let resume = |state: &InputState| Start::Resume { state: state.clone(), low_watermark: 0 };
    let mut join = PartitionJoin::new(config(&settings()), 0, resume(&views), resume(&responses));
    let mut effects = Effects::default();
    join.on_view(view_records(&[view(2, 100)])[0].clone(), &mut effects).unwrap();
    let fault = join.on_response(response_records(&[response(1, 101)])[0].clone(), &mut effects).unwrap_err();
    assert!(
        matches!(&fault, JoinFault::TopicChanged { topic, offset: 0, .. } if topic == "behavior-log"),
        "{fault}"
    );
}

#[test]
fn a_replay_takes_up_no_group_that_was_closed_before_the_commit() {
    let views = [view(1, 100), view(2, 105), view(3, 130)];
    let mut driver = driver(&views, &[]);
    driver.finish();
    assert_eq!(driver.join.gauges().open_groups, 1);
    let (views_state, responses_state) = committed(&mut driver);
    let resume = |state: InputState| Start::Resume { state, low_watermark: 0 };
    let mut join = PartitionJoin::new(config(&settings()), 0, resume(views_state), resume(responses_state));
    for (record, open_groups) in view_records(&views).iter().zip([0, 0, 1]) {
        join.on_view(record.clone(), &mut Effects::default()).unwrap();
        assert_eq!(join.gauges().open_groups, open_groups);
    }
}

#[test]
fn a_side_that_has_caught_up_waits_for_the_replay_of_the_other() {
    let mut driver = driver(&[view(1, 100), view(2, 101)], &[response(1, 101)]);
    driver.finish();
    let (views, responses) = committed(&mut driver);
    let resume = |state: InputState| Start::Resume { state, low_watermark: 0 };
    let mut join = PartitionJoin::new(config(&settings()), 0, resume(views), resume(responses));
    assert!(join.is_replaying());
    join.on_response(response_records(&[response(1, 101)])[0].clone(), &mut Effects::default()).unwrap();
    assert!(!join.may_read(Side::Responses, false));
    assert!(join.may_read(Side::Views, true));
}

#[test]
fn the_check_of_the_keys_goes_on_after_a_restart() {
    let mut settings = settings();
    settings.input.mis_keyed_sample_records = 100;
    let config = config(&settings);
    let mut records = view_records(&vec![view(1, 100); 6]);
    records.iter_mut().for_each(|record| record.key = None);
    let (mut views, mut responses) = (Start::At(0), Start::At(0));
    let mut fault = None;
    for record in records {
        let mut join = PartitionJoin::new(Arc::clone(&config), 0, views.clone(), responses.clone());
        while join.is_replaying() {
            let again = join.read_from(Side::Views);
            let mut again_record = record.clone();
            again_record.offset = again;
            join.on_view(again_record.clone(), &mut Effects::default()).unwrap();
        }
        fault = join.on_view(record.clone(), &mut Effects::default()).err();
        if fault.is_some() {
            break;
        }
        let frontier = join.frontier();
        let resume = |position: crate::join::Position| {
            let mut state = InputState::decode(position.next_offset, &position.metadata).unwrap();
            state.last = None;
            Start::Resume { state, low_watermark: 0 }
        };
        (views, responses) = (resume(frontier.views), resume(frontier.responses));
    }
    assert!(matches!(fault, Some(JoinFault::MisKeyed { mis_keyed: 6, .. })), "{fault:?}");
}
