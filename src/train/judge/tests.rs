use super::*;
use crate::settings::{Dpo, Settings};
use crate::train::tests::{checkpoint, group, pair, settings};
use crate::train::{Offered, PairSource, Signal};

fn judged_settings() -> Settings {
    let mut settings = settings(Dpo::Live);
    (settings.gate.warmup_steps, settings.gate.stream_window) = (1, 60);
    settings
}

fn groups(step: u64) -> Vec<BehaviorGroup> {
    (0..16).map(|i| group(16 * step + i)).collect()
}

/// The pair of one answer.
fn answer(index: u64) -> PreferencePair {
    named(index, pair(index))
}

fn inverted(index: u64) -> PreferencePair {
    let pair = pair(index);
    named(index, PreferencePair { chosen: pair.rejected, rejected: pair.chosen, ..pair })
}

fn named(index: u64, mut pair: PreferencePair) -> PreferencePair {
    let view = pair.chosen.as_mut().and_then(|labelled| labelled.view.as_mut()).expect("a view");
    view.impression_id = format!("impression-{index}");
    pair.event_time_ms = index.cast_signed();
    pair
}

fn offer(trainer: &mut Trainer, pair: &PreferencePair) -> Offered {
    trainer.offer_pair(pair, PairSource { partition: 0, offset: pair.event_time_ms })
}

/// A trainer whose production has learned something.
fn with_production(settings: &Settings) -> Trainer {
    let mut trainer = Trainer::new(settings).expect("a CPU");
    for step in 0..150 {
        (4 * step..4 * step + 4)
            .for_each(|index| assert_eq!(offer(&mut trainer, &answer(index)), Offered::Taken));
        trainer.step(&groups(step)).expect("finite");
    }
    trainer.set_production(1, trainer.serving_tensors()).expect("its own tensors");
    trainer
}

#[test]
fn answers_that_turn_are_held_out_and_learned_again_once_they_are_back() {
    let mut trainer = with_production(&judged_settings());
    let mut step = 1_000;
    let mut learn = |trainer: &mut Trainer, pair: &PreferencePair| {
        let offered = offer(trainer, pair);
        step += 1;
        if offered == Offered::Taken {
            trainer.step(&groups(step)).expect("finite");
        }
        offered
    };
    let taken = |offered: &Offered| *offered == Offered::Taken;
    let good: Vec<_> = (10_000..10_200).map(|i| learn(&mut trainer, &answer(i))).collect();
    assert!(good.iter().all(taken));
    let bad: Vec<_> = (20_000..20_100).map(|i| learn(&mut trainer, &inverted(i))).collect();
    let watch = trainer.stream_watch();
    let first = bad.iter().position(|offered| *offered == Offered::HeldOut);
    let first = first.unwrap_or_else(|| panic!("it is not noticed: {:?}", watch.win_rates(Signal::Answers)));
    assert!(bad[first..].iter().all(|offered| *offered == Offered::HeldOut), "{bad:?}");
    assert!(first < 80, "after {first} answers");
    let suspicion = trainer.suspicion().expect("suspect");
    assert_eq!(suspicion.reasons[0].0, Signal::Answers);
    assert!(suspicion.since_ms < 20_000 + first as i64, "{suspicion:?}");
    assert!(trainer.examine(&groups(0)), "groups are not learned either");

    let before = trainer.steps();
    let back: Vec<_> = (30_000..30_100).map(|i| learn(&mut trainer, &answer(i))).collect();
    let first = back.iter().position(taken).expect("it is trusted again");
    assert!(back[first..].iter().all(taken) && first < 80, "{back:?}");
    assert_eq!(trainer.steps() - before, (100 - first) as u64);
}

#[test]
fn a_full_reservoir_does_not_keep_a_suspect_stream_from_being_looked_at() {
    let mut settings = judged_settings();
    settings.train.reservoir_pairs = 32;
    let mut trainer = Trainer::new(&settings).expect("a CPU");
    trainer.step(&groups(0)).expect("finite");
    trainer.set_production(1, trainer.serving_tensors()).expect("its own tensors");
    (0..32).for_each(|i| assert_eq!(offer(&mut trainer, &answer(i)), Offered::Taken));
    assert!(trainer.is_full());
    let mut scaled = groups(1);
    for step in 0..63 {
        assert!(!trainer.examine(&groups(step)));
    }
    for view in scaled.iter_mut().flat_map(|group| &mut group.views) {
        view.features.as_mut().expect("features").dense[3] *= 100.0;
    }
    assert!((0..100).any(|_| trainer.examine(&scaled)), "the feature is noticed");
    assert!(!trainer.is_full());
    assert_eq!(offer(&mut trainer, &answer(99)), Offered::HeldOut);
}

#[test]
fn without_a_production_nothing_is_judged() {
    let mut trainer = Trainer::new(&judged_settings()).expect("a CPU");
    trainer.step(&groups(0)).expect("finite");
    let before = checkpoint(&trainer);
    for i in 0..200 {
        let pair = if i < 100 { answer(i) } else { inverted(i) };
        assert_eq!(offer(&mut trainer, &pair), Offered::Taken);
        assert!(!trainer.examine(&groups(i)));
    }
    assert_eq!((trainer.suspicion(), trainer.beside_anchor()), (None, None));
    let stream = |tensors: Vec<HostTensor>| -> Vec<HostTensor> {
        tensors.into_iter().filter(|tensor| tensor.name.starts_with("training.stream.")).collect()
    };
    assert_eq!(stream(checkpoint(&trainer)), stream(before));
}

#[test]
fn a_restart_goes_on_suspecting() {
    let settings = judged_settings();
    let mut trainer = with_production(&settings);
    (10_000..10_200).for_each(|i| _ = offer(&mut trainer, &answer(i)));
    (20_000..20_100).for_each(|i| _ = offer(&mut trainer, &inverted(i)));
    assert!(trainer.suspicion().is_some());
    let mut restored = Trainer::restore(&settings, checkpoint(&trainer)).expect("it fits");
    assert_eq!(restored.suspicion(), None, "there is no production that could have judged");
    restored.set_production(1, trainer.serving_tensors()).expect("its own tensors");
    assert_eq!(restored.suspicion(), trainer.suspicion());
    assert_eq!(offer(&mut restored, &answer(30_000)), Offered::HeldOut);
}

#[test]
fn the_model_is_measured_beside_its_anchor_on_what_neither_has_learned() {
    let settings = judged_settings();
    let mut trainer = with_production(&settings);
    trainer.set_anchors(&[1]);
    for step in 200..210 {
        (100..110).for_each(|index| _ = offer(&mut trainer, &answer(100 * step + index)));
        trainer.step(&groups(step)).expect("finite");
    }
    let evidence = trainer.beside_anchor().expect("an anchor");
    // The last answer is open until the next one comes.
    assert_eq!((evidence.version, evidence.preference.count, evidence.behavior.count), (1, 99, 160));
    assert!(evidence.rank_correlation.mean > 0.9, "ten steps later: {evidence:?}");
    assert!(evidence.behavior.mean.abs() < 0.05 && evidence.preference.mean.abs() < 0.1, "{evidence:?}");
    trainer.set_anchors(&[]);
    assert_eq!(trainer.beside_anchor(), None);
}

#[test]
fn a_model_that_lost_what_it_knew_is_far_below_its_anchor() {
    let settings = judged_settings();
    let good = with_production(&settings);
    let mut fresh = Trainer::new(&settings).expect("a CPU");
    fresh.add_anchor(7, good.serving_tensors()).expect("a version of this model");
    fresh.step(&groups(500)).expect("finite");
    fresh.step(&groups(501)).expect("finite");
    let evidence = fresh.beside_anchor().expect("an anchor");
    let upper = evidence.behavior.mean + 2.0 * evidence.behavior.standard_error;
    assert!(upper < -0.1 && evidence.rank_correlation.mean < 0.5, "{evidence:?}");
}

#[test]
fn a_model_that_goes_back_keeps_what_is_known_about_the_stream_and_the_anchors_from_before() {
    let settings = judged_settings();
    let mut before = with_production(&settings);
    let passed = checkpoint(&before);
    before.set_anchors(&[1]);
    before.set_production(5, before.serving_tensors()).expect("its own tensors");
    before.set_anchors(&[1, 5]);
    before.step(&groups(500)).expect("finite");
    (10_000..10_200).for_each(|i| _ = offer(&mut before, &answer(i)));
    (20_000..20_100).for_each(|i| _ = offer(&mut before, &inverted(i)));
    let suspicion = before.suspicion();
    assert!(suspicion.is_some() && before.beside_anchor().is_some_and(|beside| beside.behavior.count > 0));

    let mut back = Trainer::restore(&settings, passed).expect("it fits");
    back.succeed(before, 3).expect("its own tensors");
    assert_eq!(back.suspicion(), suspicion);
    let evidence = back.beside_anchor().expect("the anchor from before version 3");
    assert_eq!((evidence.version, evidence.behavior.count, evidence.preference.count), (1, 0, 0));
    back.set_anchors(&[1, 5]);
    back.set_anchors(&[5]);
    assert_eq!(back.beside_anchor(), None, "version 5 is of what was given up");
}

#[test]
fn a_model_that_goes_back_to_before_the_warm_up_is_watched_until_the_stream_is_trusted() {
    let mut settings = judged_settings();
    let mut before = with_production(&settings);
    let passed = checkpoint(&before);
    (10_000..10_200).for_each(|i| _ = offer(&mut before, &answer(i)));
    (20_000..20_100).for_each(|i| _ = offer(&mut before, &inverted(i)));
    assert!(before.suspicion().is_some());

    settings.gate.warmup_steps = 1_000;
    let mut back = Trainer::restore(&settings, passed).expect("it fits");
    back.succeed(before, 3).expect("its own tensors");
    assert!(back.steps() < 1_000 && back.examine(&groups(0)), "groups are held out too");
    (30_000..30_100).for_each(|i| assert_eq!(offer(&mut back, &inverted(i)), Offered::HeldOut));
    (40_000..40_100).for_each(|i| _ = offer(&mut back, &answer(i)));
    assert_eq!(back.suspicion(), None, "it ends by itself");
}
