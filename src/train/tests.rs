use crate::contract::v1::{
    BehaviorEvent, BehaviorGroup, Engagement, Features, LabelledView, PreferencePair, SparseFeature,
};
use crate::model::{Architecture, DropReason, HostTensor, Scorer};
use crate::settings::{Dpo, Settings, Switch};

use super::arrivals::MAX_PENDING;
use super::readback::READS;
use super::{Offered, PairSource, Trainer, behavior_only_tensors};

pub(crate) fn settings(dpo: Dpo) -> Settings {
    let mut settings = Settings::default();
    settings.train.device = "cpu".into();
    settings.train.dpo = dpo;
    settings.train.price_control = Switch::Off;
    settings.reward.signal = "value".into();
    settings
}

/// Numbers that look random, a function of `index` alone, in -1 … 1.
fn noise(index: u64) -> f32 {
    let hash = xxhash_rust::xxh3::xxh3_64(&index.to_le_bytes());
    (hash % 20_001) as f32 / 10_000.0 - 1.0
}

/// The first two dense features mean something, the rest and the ids nothing.
fn features(index: u64) -> Features {
    let dense = (0..16).map(|i| noise(16 * index + i)).collect();
    let sparse = (1..=4).map(|field| SparseFeature { field, ids: vec![index * u64::from(field) % 50] });
    Features { dense, sparse: sparse.collect(), schema_version: 1 }
}

fn behavior(features: &Features) -> f32 {
    features.dense[0] + features.dense[1]
}

fn satisfaction(features: &Features) -> f32 {
    features.dense[0] - features.dense[1]
}

pub(crate) fn group(index: u64) -> BehaviorGroup {
    let view = |i| {
        let features = features(8 * index + i);
        let mut engagement = Engagement::default();
        engagement.other.insert("value".into(), behavior(&features));
        BehaviorEvent { features: Some(features), engagement: Some(engagement), ..Default::default() }
    };
    BehaviorGroup { views: (0..8).map(view).collect(), ..Default::default() }
}

fn groups(step: u64) -> Vec<BehaviorGroup> {
    (0..16).map(|i| group(16 * step + i)).collect()
}

pub(crate) fn pair(index: u64) -> PreferencePair {
    let mut views = [features(1_000_000 + 2 * index), features(1_000_001 + 2 * index)];
    views.sort_by(|a, b| satisfaction(b).total_cmp(&satisfaction(a)));
    let [chosen, rejected] = views.map(|features| {
        let view = BehaviorEvent { features: Some(features), ..Default::default() };
        Some(LabelledView { view: Some(view), ..Default::default() })
    });
    PreferencePair { chosen, rejected, ..Default::default() }
}

fn source(index: u64) -> PairSource {
    PairSource { partition: 0, offset: index as i64 }
}

fn offer(trainer: &mut Trainer, index: u64) -> Offered {
    trainer.offer_pair(&pair(index), source(index))
}

pub(crate) fn checkpoint(trainer: &Trainer) -> Vec<HostTensor> {
    let mut tensors = trainer.serving_tensors();
    tensors.extend(trainer.training_state());
    tensors
}

/// Everything but the reservoir: what a skipped step must leave alone.
fn learned(trainer: &Trainer) -> Vec<HostTensor> {
    let mut tensors = checkpoint(trainer);
    tensors.retain(|tensor| !tensor.name.starts_with("training.reservoir."));
    tensors
}

/// The model's main head with every gate closed, so that all its scores are 0.
pub(crate) fn with_dead_gates(settings: &Settings) -> Trainer {
    let mut tensors = checkpoint(&Trainer::new(settings).unwrap());
    let bias = tensors.iter_mut().find(|tensor| tensor.name == "main.gate.bias").unwrap();
    *bias = HostTensor::from_f32("main.gate.bias", vec![4], &[-1000.0; 4]);
    Trainer::restore(settings, tensors).unwrap()
}

/// Share of pairs of fresh views that a scorer orders as `value` does.
fn accuracy(settings: &Settings, tensors: Vec<HostTensor>, value: fn(&Features) -> f32) -> f64 {
    let scorer = Scorer::from_tensors(&Architecture::from_settings(settings), tensors).unwrap();
    let views: Vec<_> = (5_000_000..5_002_000).map(features).collect();
    let scores = scorer.score(&views.iter().collect::<Vec<_>>()).unwrap();
    let right = |i: &usize| (scores[*i] > scores[i + 1]) == (value(&views[*i]) > value(&views[i + 1]));
    (0..views.len()).step_by(2).filter(right).count() as f64 / (views.len() / 2) as f64
}

#[test]
fn learning_improves_the_ranking_and_answers_turn_it_towards_satisfaction() {
    let settings = settings(Dpo::Live);
    let mut trainer = Trainer::new(&settings).unwrap();
    for step in 0..250 {
        for index in 0..4 {
            offer(&mut trainer, 4 * step + index);
        }
        trainer.step(&groups(step)).unwrap();
    }
    let tensors = checkpoint(&trainer);
    assert!(tensors.iter().all(HostTensor::is_finite));
    let twin = behavior_only_tensors(&tensors).unwrap();
    let of = |tensors: &[HostTensor], value| accuracy(&settings, tensors.to_vec(), value);
    let (twin_behavior, twin_satisfaction) = (of(&twin, behavior), of(&twin, satisfaction));
    let (model_behavior, model_satisfaction) = (of(&tensors, behavior), of(&tensors, satisfaction));
    assert!(twin_behavior > 0.9, "the twin learns behavior: {twin_behavior}");
    assert!(model_behavior > 0.7, "the model has not unlearned it: {model_behavior}");
    assert!(
        model_satisfaction > twin_satisfaction + 0.1,
        "satisfaction {model_satisfaction} against {twin_satisfaction}"
    );
    let progressive = trainer.progressive();
    assert_eq!(progressive.behavior_pairs, settings.train.progressive_pairs as u64);
    assert_eq!(progressive.preference_pairs, 1000);
    assert!(progressive.preference_win_rate > progressive.behavior_only_preference_win_rate);
    assert!(progressive.behavior_win_rate < progressive.behavior_only_win_rate);
}

#[test]
fn a_full_reservoir_refuses_pairs_until_a_step_has_used_some() {
    let mut settings = settings(Dpo::Live);
    settings.train.reservoir_pairs = 32;
    let mut trainer = Trainer::new(&settings).unwrap();
    assert!((0..32).all(|index| offer(&mut trainer, index) == Offered::Taken));
    let before = checkpoint(&trainer);
    assert!(trainer.is_full());
    assert_eq!(offer(&mut trainer, 32), Offered::Full);
    assert_eq!(before, checkpoint(&trainer), "a refused pair leaves no trace");
    assert_eq!(trainer.step(&[]).unwrap().drawn_new_pairs, 16);
    assert_eq!(offer(&mut trainer, 32), Offered::Taken);
    assert_eq!(trainer.preference_pairs_learned(), 16);
}

#[test]
fn what_is_not_finite_is_dropped_and_counted() {
    let mut trainer = Trainer::new(&settings(Dpo::Live)).unwrap();
    let mut bad_group = group(0);
    bad_group.views[0].features.as_mut().unwrap().dense[3] = f32::NAN;
    bad_group.views[1].features.as_mut().unwrap().schema_version = 2;
    bad_group.views[2].engagement = None;
    let report = trainer.step(&[bad_group]).unwrap();
    assert_eq!(report.views, 5);
    let reasons = [DropReason::NonFiniteFeature, DropReason::SchemaVersion, DropReason::MissingRewardSignal];
    assert_eq!(report.dropped, reasons.map(|reason| (reason, 1)).into());

    let mut bad_pair = pair(0);
    let view = bad_pair.rejected.as_mut().and_then(|labelled| labelled.view.as_mut()).unwrap();
    view.features.as_mut().unwrap().dense[0] = f32::INFINITY;
    assert_eq!(trainer.offer_pair(&bad_pair, source(0)), Offered::Dropped(DropReason::NonFiniteFeature));
    bad_pair.rejected = None;
    assert_eq!(trainer.offer_pair(&bad_pair, source(0)), Offered::Dropped(DropReason::IncompletePair));
    assert_eq!(trainer.progressive().preference_pairs, 0);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_but_what_was_drawn() {
    let mut settings = settings(Dpo::Pairs);
    // The formula as printed: log(ŷ⁺/ŷ⁻) does not exist where both are 0.
    settings.train.dpo_offset = 0.0;
    let mut trainer = with_dead_gates(&settings);
    (0..16).for_each(|index| assert_eq!(offer(&mut trainer, index), Offered::Taken));
    let before = learned(&trainer);
    assert!(before.iter().all(HostTensor::is_finite));
    let (bad, reads) = counting_reads(|| trainer.step(&groups(0)).unwrap_err());
    assert_eq!((bad.what, bad.groups, bad.drawn_pairs, reads), ("L_DPO", 16, 16, 1));
    assert_eq!((bad.lost_pairs, trainer.preference_pairs_learned()), ((0..16).map(source).collect(), 0));
    assert_eq!(
        (trainer.reservoir().never_used, trainer.reservoir().used),
        (0, 0),
        "what is named as lost is not learned later"
    );
    assert_eq!(learned(&trainer), before);
    assert_eq!(trainer.steps(), 0);
    trainer.step(&groups(0)).unwrap();
    assert_ne!(learned(&trainer), before);
}

#[test]
fn the_offset_of_dpo_keeps_dead_gates_harmless_and_living_ones_alive() {
    let settings = settings(Dpo::Pairs);
    let mut dead = with_dead_gates(&settings);
    let mut alive = Trainer::new(&settings).unwrap();
    for index in 0..16 {
        offer(&mut dead, index);
    }
    assert!(dead.step(&groups(0)).unwrap().loss_dpo.unwrap().is_finite());
    for step in 0..200 {
        for index in 0..16 {
            offer(&mut alive, 16 * step + index);
        }
        let report = alive.step(&groups(step)).unwrap();
        assert!(report.all_gates_dead < 0.05, "step {step}: {}", report.all_gates_dead);
        let used = report
            .mean_gates
            .iter()
            .zip(&report.dead_gates)
            .all(|(mean, dead)| (*mean > 0.0) == (*dead < 1.0));
        assert!(used && report.mean_gates.len() == 4, "step {step}: {report:?}");
    }
}

#[test]
fn the_live_form_waits_for_the_first_draw() {
    let mut trainer = Trainer::new(&settings(Dpo::Live)).unwrap();
    assert_eq!(trainer.step(&groups(0)).unwrap().loss_dpo, None);
    (0..16).for_each(|index| assert_eq!(offer(&mut trainer, index), Offered::Taken));
    let report = trainer.step(&groups(1)).unwrap();
    assert!(report.loss_dpo.is_some() && report.satisfaction_mean.is_some());
}

/// What `act` gives, and how often it waited for the device.
fn counting_reads<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = READS.get();
    let result = act();
    (result, READS.get() - before)
}

#[test]
fn a_step_reads_from_the_device_once_and_a_pair_that_comes_not_at_all() {
    for dpo in [Dpo::Live, Dpo::Pairs, Dpo::Off] {
        for price_control in [Switch::On, Switch::Off] {
            let mut settings = settings(dpo);
            settings.train.price_control = price_control;
            let mut trainer = Trainer::new(&settings).unwrap();
            let mut offered = 0;
            // λ2 moves from step 101 on; some steps draw no pairs, some have no groups, or neither.
            for step in 0..110_u64 {
                for _ in 0..[0, 24, 0, 0, 16][step as usize % 5] {
                    let (taken, reads) = counting_reads(|| offer(&mut trainer, offered));
                    assert_eq!((taken, reads), (Offered::Taken, 0), "{dpo:?} {price_control:?} step {step}");
                    offered += 1;
                }
                let groups = if step % 7 < 3 { Vec::new() } else { groups(step)[..2].to_vec() };
                let (report, reads) = counting_reads(|| trainer.step(&groups).unwrap());
                assert_eq!(reads, 1, "{dpo:?} {price_control:?} step {step}");
                let (figures, reads) = counting_reads(|| trainer.progressive());
                assert_eq!((figures.preference_pairs, reads), (offered, 0), "the step has read all");
                let is_fixed = dpo == Dpo::Off || price_control == Switch::Off;
                assert!(is_fixed || step < 105 || report.dpo_weight != 0.3, "{dpo:?}: λ2 has not moved");
            }
        }
    }
}

/// What a window keeps of each pair: 2 for one that is ranked right, four times that for the model's.
fn outcomes(settings: &Settings, trainer: &Trainer, pairs: &[PreferencePair]) -> Vec<u8> {
    let architecture = Architecture::from_settings(settings);
    let tensors = checkpoint(trainer);
    let twin = behavior_only_tensors(&tensors).unwrap();
    let [model, twin] = [tensors, twin].map(|tensors| Scorer::from_tensors(&architecture, tensors).unwrap());
    let is_right = |scorer: &Scorer, pair: &PreferencePair| {
        let views = [&pair.chosen, &pair.rejected]
            .map(|labelled| labelled.as_ref()?.view.as_ref()?.features.as_ref())
            .map(|features| features.expect("a whole pair"));
        let scores = scorer.score(&views).unwrap();
        2 * u8::from(scores[0] > scores[1])
    };
    pairs.iter().map(|pair| 4 * is_right(&model, pair) + is_right(&twin, pair)).collect()
}

#[test]
fn pairs_that_no_step_has_read_are_in_figures_and_checkpoints_and_so_many_wait_at_most() {
    let mut settings = settings(Dpo::Live);
    settings.train.progressive_pairs = 300;
    let mut trainer = Trainer::new(&settings).unwrap();
    for step in 0..20 {
        (0..16).for_each(|index| assert_eq!(offer(&mut trainer, 16 * step + index), Offered::Taken));
        trainer.step(&groups(step)).unwrap();
    }
    let pairs: Vec<_> = (1_000..1_010 + 2 * MAX_PENDING as u64).map(pair).collect();
    let expected = outcomes(&settings, &trainer, &pairs);
    assert!([0, 2, 8, 10].iter().all(|outcome| expected.contains(outcome)), "{expected:?}");
    for (index, pair) in pairs.iter().enumerate() {
        let (_, reads) = counting_reads(|| trainer.offer_pair(pair, source(index as u64)));
        assert_eq!(reads, usize::from((index + 1) % MAX_PENDING == 0), "pair {index}");
    }
    let preference = |trainer: &Trainer| {
        let state = trainer.training_state();
        let saved = state.into_iter().find(|tensor| tensor.name == "training.progressive.preference");
        saved.expect("part of every checkpoint").data
    };
    assert_eq!(preference(&trainer), expected[expected.len() - 300..]);
    let right = expected[expected.len() - 300..].iter().filter(|outcome| **outcome >= 8).count();
    let figures = trainer.progressive();
    assert_eq!((figures.preference_pairs, figures.preference_win_rate), (300, right as f64 / 300.0));
    let restored = Trainer::restore(&settings, checkpoint(&trainer)).unwrap();
    assert_eq!(restored.progressive(), figures);
    trainer.step(&groups(20)).unwrap();
    assert_eq!(preference(&trainer), expected[expected.len() - 300..], "each of them once");
}
