use super::*;
use crate::settings::Settings;

const WINDOW: usize = 20;

fn watch() -> StreamWatch {
    let mut gate = Settings::default().gate;
    (gate.stream_window, gate.stream_drop_points, gate.feature_band) = (WINDOW, 10.0, 1.0);
    StreamWatch::new(&gate, &["first".to_owned(), "second".to_owned()])
}

/// `n` answers of one pair each, of which production ranks every `every`-th wrong.
fn answers(watch: &mut StreamWatch, from: u64, n: u64, every: u64) {
    for answer in from..from + n {
        let difference = if answer.is_multiple_of(every) { -1.0 } else { 1.0 };
        watch.observe_pair(answer, answer.cast_signed(), Outcome::new(difference));
    }
}

fn features(watch: &mut StreamWatch, n: u64, second: f32) {
    let scaling = Scaling { mean: vec![0.0; 2], std: vec![1.0; 2] };
    for group in 0..n {
        // -1 and 1 in turn: mean 0, and a spread of 1.
        let view = |sign: f32| Features { dense: vec![sign, second * sign], ..Features::default() };
        let (up, down) = (view(1.0), view(-1.0));
        watch.observe_features(group.cast_signed(), &scaling, &[&up, &down]);
    }
}

fn signals(watch: &StreamWatch) -> Vec<Signal> {
    watch
        .suspicion()
        .map_or(Vec::new(), |suspicion| suspicion.reasons.iter().map(|(signal, _)| *signal).collect())
}

#[test]
fn a_clearly_lower_win_rate_is_suspect_until_it_is_back() {
    let mut watch = watch();
    answers(&mut watch, 1, 200, 5);
    assert_eq!(signals(&watch), []);
    // The last one is open until the next comes.
    answers(&mut watch, 1_000, 21, 2);
    assert_eq!(signals(&watch), [Signal::Answers], "0.5 after 0.8, ten points are allowed");
    let suspicion = watch.suspicion().expect("suspect");
    let since_ms = suspicion.since_ms;
    assert!((182..1_000).contains(&since_ms), "half of the window was enough: {since_ms}");
    for part in ["50.0 %", "last 20 answers", "in the long run 80.", "10.0 points"] {
        assert!(suspicion.reasons[0].1.contains(part), "{part}: {}", suspicion.reasons[0].1);
    }
    answers(&mut watch, 1_500, 40, 2);
    assert_eq!(watch.suspicion().expect("suspect").since_ms, since_ms, "it stays when it began");
    // It has to come back for good: nothing is gained by half of it.
    answers(&mut watch, 2_001, 4, 5);
    assert_eq!(signals(&watch), [Signal::Answers]);
    answers(&mut watch, 2_005, 30, 5);
    assert_eq!(signals(&watch), []);
}

#[test]
fn a_difference_within_what_is_allowed_or_within_chance_is_not_suspect() {
    let mut watch = watch();
    answers(&mut watch, 1, 200, 5);
    answers(&mut watch, 1_000, 200, 4);
    assert_eq!(signals(&watch), [], "0.75 after 0.8");
    let mut few = super::tests::watch();
    answers(&mut few, 1, 15, 5);
    answers(&mut few, 1_000, 20, 1);
    assert_eq!(signals(&few), [], "the long run is not known yet");
}

#[test]
fn the_long_run_does_not_get_used_to_what_is_suspect() {
    let mut watch = watch();
    answers(&mut watch, 1, 200, 5);
    let (_, before) = watch.win_rates(Signal::Answers).expect("known");
    answers(&mut watch, 1_000, 2_000, 1);
    let (recent, after) = watch.win_rates(Signal::Answers).expect("known");
    assert_eq!((recent, signals(&watch)), (0.0, vec![Signal::Answers]));
    assert!((before - after).abs() < 0.1, "{before} {after}");
}

#[test]
fn the_pairs_of_one_answer_are_one_value() {
    let mut watch = watch();
    for _ in 0..100 {
        watch.observe_pair(1, 1, Outcome::new(-1.0));
    }
    watch.observe_pair(2, 2, Outcome::new(1.0));
    assert_eq!(watch.answers.recent, [(1, 0.0)]);
    watch.observe_pair(2, 2, Outcome::new(-1.0));
    watch.observe_pair(3, 3, Outcome::new(1.0));
    assert_eq!(watch.answers.recent, [(1, 0.0), (2, 0.5)]);
}

#[test]
fn behavior_is_watched_in_the_same_way() {
    let mut watch = watch();
    (0..200).for_each(|group| watch.observe_behavior(group, 0.7));
    assert_eq!(signals(&watch), []);
    (200..220).for_each(|group| watch.observe_behavior(group, 0.5));
    assert_eq!(signals(&watch), [Signal::Behavior]);
}

#[test]
fn a_feature_that_is_a_hundred_times_what_it_was_is_noticed_within_one_main_batch() {
    let mut watch = watch();
    features(&mut watch, 1_000, 1.0);
    assert_eq!(signals(&watch), []);
    assert!(watch.feature_shift() < 1e-9);
    features(&mut watch, 16, 100.0);
    assert_eq!(signals(&watch), [Signal::Features]);
    let reason = &watch.suspicion().expect("suspect").reasons[0].1;
    assert!(reason.contains("'second'"), "{reason}");
    features(&mut watch, 1_000, 1.0);
    assert_eq!(signals(&watch), []);

    // At the edge of its band it does not come and go.
    features(&mut watch, 200, 1.9);
    assert_eq!(signals(&watch), []);
    features(&mut watch, 200, 2.4);
    assert_eq!(signals(&watch), [Signal::Features]);
    features(&mut watch, 200, 2.0);
    assert_eq!(signals(&watch), [Signal::Features], "within its band, but barely");
    features(&mut watch, 200, 1.8);
    assert_eq!(signals(&watch), []);
}

#[test]
fn a_feature_is_not_judged_before_its_long_run_is_known() {
    let mut watch = watch();
    features(&mut watch, 100, 1.0);
    features(&mut watch, 100, 100.0);
    assert_eq!(signals(&watch), []);
}

#[test]
fn what_is_accepted_becomes_the_long_run_once() {
    let mut watch = watch();
    answers(&mut watch, 1, 200, 5);
    answers(&mut watch, 1_000, 100, 1);
    features(&mut watch, 1_000, 1.0);
    features(&mut watch, 500, 100.0);
    assert_eq!(signals(&watch), [Signal::Answers, Signal::Features]);
    assert!(watch.accept(77));
    assert_eq!(signals(&watch), []);
    answers(&mut watch, 2_000, 100, 1);
    features(&mut watch, 100, 100.0);
    assert_eq!(signals(&watch), [], "it is as it was when it was accepted");
    assert!(!watch.accept(77), "the same word is heard once");
    assert!(watch.clone().accept(76), "another one is heard, also by a clock that is behind");
    answers(&mut watch, 3_001, 200, 5);
    answers(&mut watch, 4_000, 20, 1);
    assert_eq!(signals(&watch), [Signal::Answers], "and from there on it is watched again");
}

#[test]
fn a_checkpoint_keeps_all_of_it_and_one_from_before_is_begun_anew() {
    let mut before = watch();
    answers(&mut before, 1, 200, 5);
    answers(&mut before, 1_000, 30, 1);
    (0..200).for_each(|group| before.observe_behavior(group, 0.7));
    features(&mut before, 1_100, 1.5);
    before.accept(5);
    answers(&mut before, 2_000, 7, 3);
    let mut tensors = TensorMap::new(before.save());
    assert_eq!(watch().load(&mut tensors), Some(before));
    tensors.finish().expect("all was taken");
    assert_eq!(watch().load(&mut TensorMap::new([])), Some(watch()));
}
