//! What the join promises of single records.

use bytes::Bytes;
use prost::Message;

use super::builders::{
    LATENESS_MS, SPAN_MS, TestResponse, TestView, WINDOW_MS, config, response, response_records, settings,
    view, view_records,
};
use super::driver::{Driver, Step};
use crate::contract::InputRecord;
use crate::contract::v1::{Answer, BehaviorEvent, BehaviorGroup, LabelledView, PairScope, PreferencePair};
use crate::join::{Effects, JoinFault, Outcome, Output, OutputKind, PartitionJoin, Side, Start};
use crate::settings::Settings;

const V: Step = Step::Read(Side::Views);
const R: Step = Step::Read(Side::Responses);

/// Reads the logs in the order of the steps, then to their ends.
fn join(views: &[TestView], responses: &[TestResponse], steps: &[Step]) -> Driver {
    join_with(&settings(), views, responses, steps)
}

fn join_with(settings: &Settings, views: &[TestView], responses: &[TestResponse], steps: &[Step]) -> Driver {
    let mut driver = Driver::new(config(settings), view_records(views), response_records(responses));
    driver.run(steps);
    driver.finish();
    driver
}

fn decode<M: Message + Default>(driver: &Driver, kind: OutputKind) -> Vec<M> {
    driver.outputs(kind).map(|output| M::decode(output.payload().unwrap()).unwrap()).collect()
}

fn header<'a>(output: &'a Output, name: &str) -> &'a str {
    let value = output.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value);
    std::str::from_utf8(value.expect("the header is there")).unwrap()
}

/// Pairs of offsets in units of the test's records.
fn matches(driver: &Driver) -> Vec<(i64, i64)> {
    let offset = |source: &Option<crate::contract::v1::Source>| source.as_ref().unwrap().offset / 3;
    let labelled = decode::<LabelledView>(driver, OutputKind::LabelledView);
    labelled
        .iter()
        .map(|labelled| (offset(&labelled.view_source), offset(&labelled.response_source)))
        .collect()
}

#[test]
fn a_labelled_view_comes_when_the_second_of_the_two_is_read() {
    let (views, responses) = ([view(1, 100)], [response(1, 110)]);
    for order in [[V, R], [R, V]] {
        let mut driver = Driver::new(config(&settings()), view_records(&views), response_records(&responses));
        driver.run(&order[..1]);
        driver.commit();
        assert_eq!(driver.committed, []);
        driver.run(&order[1..]);
        driver.commit();
        let labelled = decode::<LabelledView>(&driver, OutputKind::LabelledView);
        let event = BehaviorEvent::decode(view_records(&views)[0].payload.clone().unwrap()).unwrap();
        assert_eq!(labelled[0].view, Some(event));
        assert_eq!(labelled[0].response.as_ref().unwrap().answer(), Answer::Satisfied);
        let source = labelled[0].response_source.as_ref().unwrap();
        assert_eq!((source.topic.as_str(), source.partition), ("questionnaire-responses", 0));
        assert_eq!(driver.committed[0].key.as_deref(), Some(&b"user-0"[..]));
        assert_eq!(header(&driver.committed[0], "contract-version"), "1");
    }
}

#[test]
fn invariant_3_the_window_holds_at_its_ends_before_and_after() {
    let views = [view(1, 100), view(2, 101), view(3, 140), view(4, 141)];
    let responses = [
        response(3, 140 - WINDOW_MS),
        response(4, 141 - WINDOW_MS - 1),
        response(1, 100 + WINDOW_MS),
        response(2, 101 + WINDOW_MS + 1),
    ];
    for steps in [[V; 4], [R; 4]] {
        let mut found = matches(&join(&views, &responses, &steps));
        found.sort_unstable();
        assert_eq!(found, [(0, 2), (2, 0)]);
    }
}

#[test]
fn invariant_4_of_the_responses_that_wait_the_first_that_matches_is_the_label() {
    let too_early = response(1, 100);
    let responses = [too_early, response(1, 140), response(1, 135)];
    let driver = join(&[view(1, 150)], &responses, &[R, R, R]);
    assert_eq!(matches(&driver), [(0, 1)]);
    let outcomes = driver.join.outcomes(Side::Responses);
    assert_eq!((outcomes.get(Outcome::Duplicate), outcomes.get(Outcome::Unmatched)), (1, 1));
}

#[test]
fn invariant_4_an_impression_id_that_is_used_again_windows_later_is_labelled_again() {
    let views = [view(1, 100), view(1, 150)];
    let responses = [response(1, 125), response(1, 126), response(1, 160)];
    for steps in [[V, V, R, R, R], [R, R, R, V, V], [V, R, R, V, R]] {
        let mut found = matches(&join(&views, &responses, &steps));
        found.sort_unstable();
        assert_eq!(found, [(0, 0), (1, 2)], "a response labels one view");
    }
}

#[test]
fn a_response_of_another_user_is_unmatched_and_no_duplicate() {
    let of_another = TestResponse { user: 1, ..response(1, 100) };
    let late_enough = response(9, 100 + 3 * WINDOW_MS);
    let views = [view(1, 100), view(8, 100 + 3 * WINDOW_MS)];
    let driver = join(&views, &[of_another, late_enough], &[V, V]);
    let outcomes = driver.join.outcomes(Side::Responses);
    assert_eq!((outcomes.get(Outcome::Unmatched), outcomes.get(Outcome::Duplicate)), (1, 0));
    assert_eq!(driver.join.outcomes(Side::Views).get(Outcome::Unanswered), 1);
}

#[test]
fn a_late_response_goes_to_the_late_topic_as_it_was() {
    let responses = [response(2, 200), response(1, 200 - LATENESS_MS - 1)];
    let driver = join(&[view(1, 190)], &responses, &[]);
    assert_eq!(matches(&driver), []);
    let late: Vec<_> = driver.outputs(OutputKind::Late).collect();
    let record = &response_records(&responses)[1];
    assert_eq!((&late[0].key, late[0].payload()), (&record.key, record.payload.clone()));
    assert_eq!(header(late[0], "reason"), "late");
    assert_eq!(header(late[0], "topic"), "questionnaire-responses");
    assert_eq!((header(late[0], "partition"), header(late[0], "offset")), ("0", "3"));
    assert_eq!(late[0].reason, Some((Side::Responses, "late")));
}

#[test]
fn a_rejected_record_is_a_dead_letter_and_does_not_move_stream_time() {
    let broken = TestView { is_broken: true, ..view(2, 900) };
    let driver = join(&[broken, view(1, 100)], &[response(1, 100)], &[]);
    assert_eq!(matches(&driver), [(1, 0)]);
    let letter = driver.outputs(OutputKind::DeadLetter).next().unwrap();
    assert_eq!((header(letter, "reason"), header(letter, "offset")), ("missing_features", "0"));
    assert_eq!(header(letter, "detail"), "features is missing");
    assert_eq!(driver.join.stream_time_ms(Side::Views), Some(100));
}

#[test]
fn the_dead_letter_of_an_oversized_record_carries_its_first_64_kib() {
    let mut records = view_records(&[view(1, 100)]);
    records[0].payload = Some(Bytes::from(vec![7; 100_000]));
    let mut driver = Driver::new(config(&settings()), records, Vec::new());
    driver.finish();
    assert_eq!(header(&driver.committed[0], "reason"), "too_large");
    assert_eq!(driver.committed[0].payload().unwrap().len(), 65_536);
}

#[test]
fn a_view_is_eligible_when_exposed_or_when_nothing_is_known_and_the_trigger_is_met() {
    let cases: [(Option<bool>, u32, u32, bool); 7] = [
        (Some(true), 0, 60_000, true),
        (Some(false), 60_000, 60_000, false),
        (None, 7_000, 60_000, true),
        (None, 6_999, 60_000, false),
        (None, 5_000, 10_000, true),
        (None, 4_999, 10_000, false),
        (None, 0, 0, false),
    ];
    for (exposed, watched_ms, duration_ms, is_eligible) in cases {
        let mut records = view_records(&[view(1, 100)]);
        let mut event = BehaviorEvent::decode(records[0].payload.clone().unwrap()).unwrap();
        event.questionnaire_exposed = exposed;
        let engagement = event.engagement.as_mut().unwrap();
        (engagement.watched_ms, engagement.duration_ms) = (watched_ms, duration_ms);
        records[0].payload = Some(event.encode_to_vec().into());
        let mut driver = Driver::new(config(&settings()), records, response_records(&[response(1, 100)]));
        driver.finish();
        assert_eq!(
            matches(&driver).len(),
            usize::from(is_eligible),
            "{exposed:?} {watched_ms} {duration_ms}"
        );
    }
}

#[test]
fn an_idle_input_holds_back_no_expiry_and_what_comes_after_is_late_after_idle() {
    let views = [view(1, 100), view(2, 300)];
    let mut driver = Driver::new(
        config(&settings()),
        view_records(&views),
        response_records(&[response(1, 110), response(2, 300)]),
    );
    driver.run(&[V, V]);
    assert_eq!(driver.join.outcomes(Side::Views).get(Outcome::Unanswered), 0);
    driver.run(&[Step::Idle(Side::Responses)]);
    assert_eq!(driver.join.outcomes(Side::Views).get(Outcome::Unanswered), 1);
    driver.finish();
    let outcomes = driver.join.outcomes(Side::Responses);
    assert_eq!((outcomes.get(Outcome::LateAfterIdle), outcomes.get(Outcome::Matched)), (1, 1));
    assert_eq!(header(driver.outputs(OutputKind::Late).next().unwrap(), "reason"), "late_after_idle");
}

#[test]
fn a_side_that_is_ahead_waits_for_one_that_has_unread_records() {
    let mut settings = settings();
    settings.join.max_lead_ms = 50;
    let records = (view_records(&[view(1, 100)]), response_records(&[response(1, 150), response(2, 151)]));
    let mut driver = Driver::new(config(&settings), records.0, records.1);
    assert!(driver.join.may_read(Side::Responses, true));
    driver.run(&[R]);
    assert!(!driver.join.may_read(Side::Responses, true), "nothing of the other side is known yet");
    assert!(driver.join.may_read(Side::Responses, false));
    driver.run(&[V]);
    assert!(driver.join.may_read(Side::Responses, true));
    driver.run(&[R]);
    assert!(!driver.join.may_read(Side::Responses, true));
    assert!(driver.join.may_read(Side::Views, true));
}

#[test]
fn invariant_12_at_the_memory_bound_the_oldest_goes_to_the_late_topic() {
    let mut settings = settings();
    settings.join.max_waiting_records = 2;
    let views: Vec<_> =
        [(1, 100), (2, 101), (3, 102)].map(|(impression, time)| view(impression, time)).into();
    // Views of groups are held as well, and are let go of in the same order.
    let driver = join_with(&settings, &views, &[response(1, 102), response(3, 102)], &[V, V, V]);
    assert_eq!(matches(&driver), [(2, 1)]);
    let late = driver.outputs(OutputKind::Late).next().unwrap();
    assert_eq!((header(late, "reason"), header(late, "offset")), ("evicted", "0"));
    assert_eq!(late.key.as_deref(), Some(&b"user-0"[..]));
    assert!(driver.join.outcomes(Side::Views).get(Outcome::Evicted) >= 1);
}

fn of_request(impression: u8, event_time_ms: i64) -> TestView {
    TestView { request: 0, request_time_ms: 100, ..view(impression, event_time_ms) }
}

#[test]
fn a_group_is_closed_by_the_first_record_past_its_span() {
    let mut views = vec![of_request(1, 105), of_request(2, 103), view(9, 100 + SPAN_MS)];
    let records = |views: &[TestView]| Driver::new(config(&settings()), view_records(views), Vec::new());
    let mut driver = records(&views);
    driver.finish();
    assert_eq!(driver.outputs(OutputKind::BehaviorGroup).count(), 0);
    views.push(of_request(3, 100 + SPAN_MS + 1));
    let mut driver = records(&views);
    driver.finish();
    let groups = decode::<BehaviorGroup>(&driver, OutputKind::BehaviorGroup);
    let impressions: Vec<_> = groups[0].views.iter().map(|view| view.impression_id.as_str()).collect();
    assert_eq!(impressions, ["impression-1", "impression-2"], "the view that closes it came too late");
    assert_eq!((groups[0].event_time_ms, groups[0].request_id.as_str()), (105, "request-0"));
    assert_eq!(groups[0].first_source.as_ref().unwrap().offset, 0);
    assert_eq!(driver.join.products().views_after_group, 1);
}

#[test]
fn a_group_of_one_view_is_counted_and_not_emitted() {
    let driver = join(&[of_request(1, 105), view(9, 200)], &[], &[]);
    assert_eq!(driver.outputs(OutputKind::BehaviorGroup).count(), 0);
    assert_eq!(driver.join.products().single_view_groups, 1);
}

#[test]
fn a_full_group_takes_no_more() {
    let mut views: Vec<_> = (1..=6).map(|impression| of_request(impression, 105)).collect();
    views.push(view(9, 200));
    let driver = join(&views, &[], &[]);
    assert_eq!(decode::<BehaviorGroup>(&driver, OutputKind::BehaviorGroup)[0].views.len(), 4);
    assert_eq!(driver.join.products().views_over_group, 2);
    let mut settings = settings();
    settings.join.max_group_bytes = 3 * view_records(&views)[0].payload.as_ref().unwrap().len();
    let driver = join_with(&settings, &views, &[], &[]);
    assert_eq!(decode::<BehaviorGroup>(&driver, OutputKind::BehaviorGroup)[0].views.len(), 3);
}

#[test]
fn requests_are_sampled_by_the_hash_of_their_id() {
    let mut settings = settings();
    settings.join.behavior_sample_rate = 0.5;
    let mut views: Vec<_> = (0..100)
        .flat_map(|request| {
            [1, 2].map(|impression| TestView { impression, request, request_time_ms: 100, ..view(0, 105) })
        })
        .collect();
    views.iter_mut().for_each(|view| view.is_eligible = false);
    views.push(view(9, 200));
    let driver = join_with(&settings, &views, &[], &[]);
    let groups = decode::<BehaviorGroup>(&driver, OutputKind::BehaviorGroup);
    assert!((30..70).contains(&groups.len()), "{} of 100 requests", groups.len());
    for group in groups {
        assert!(xxhash_rust::xxh3::xxh3_64(group.request_id.as_bytes()) < 1 << 63, "{}", group.request_id);
    }
}

#[test]
fn a_new_label_is_paired_with_the_users_own_and_else_with_the_scenarios() {
    let by = |impression, user, answer| {
        let view = TestView { user, ..view(impression, 100) };
        (view, TestResponse { user, answer, ..response(impression, 100) })
    };
    let labels = [by(0, 0, Answer::Satisfied), by(2, 1, Answer::Dissatisfied), by(4, 1, Answer::Satisfied)];
    let (views, responses): (Vec<_>, Vec<_>) = labels.into_iter().unzip();
    let driver = join(&views, &responses, &[V, V, V]);
    let pairs = decode::<PreferencePair>(&driver, OutputKind::PreferencePair);
    let ids = |pair: &PreferencePair| {
        let id = |labelled: &Option<LabelledView>| labelled.clone().unwrap().view.unwrap().impression_id;
        (id(&pair.chosen), id(&pair.rejected), pair.scope())
    };
    let expected = |chosen: u8, rejected: u8, scope| {
        (format!("impression-{chosen}"), format!("impression-{rejected}"), scope)
    };
    let found: Vec<_> = pairs.iter().map(ids).collect();
    assert_eq!(found, [expected(0, 2, PairScope::SameScenario), expected(4, 2, PairScope::SameUser)]);
    assert_eq!(pairs[1].event_time_ms, 100);
    let keys: Vec<_> =
        driver.outputs(OutputKind::PreferencePair).map(|output| output.key.clone().unwrap()).collect();
    assert_eq!(keys, ["user-1", "user-1"]);
}

#[test]
fn many_mis_keyed_first_records_are_a_fault() {
    let mut settings = settings();
    settings.input.mis_keyed_sample_records = 100;
    let mut join = PartitionJoin::new(config(&settings), 0, Start::At(0), Start::At(0));
    let mut effects = Effects::default();
    let records = view_records(&vec![view(1, 100); 10]);
    let taken: Vec<_> = records
        .into_iter()
        .map(|record| join.on_view(InputRecord { key: None, ..record }, &mut effects))
        .collect();
    assert!(taken[..5].iter().all(Result::is_ok), "5 of the first 100 may be");
    let Err(JoinFault::MisKeyed { mis_keyed: 6, records: 6, topic, .. }) = &taken[5] else {
        panic!("{taken:?}")
    };
    assert_eq!(topic, "behavior-log");
}

#[test]
fn an_offset_that_comes_again_is_a_fault() {
    let mut join = PartitionJoin::new(config(&settings()), 0, Start::At(0), Start::At(0));
    let record = &view_records(&[view(1, 100)])[0];
    join.on_view(record.clone(), &mut Effects::default()).unwrap();
    let fault = join.on_view(record.clone(), &mut Effects::default()).unwrap_err();
    assert!(matches!(fault, JoinFault::OutOfOrder { offset: 0, expected: 1, .. }), "{fault}");
}
