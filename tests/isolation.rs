//! Invariant 6: what each loss teaches, bit by bit.

mod learning;

use easq::contract::v1::{BehaviorGroup, PreferencePair};
use easq::model::HostTensor;
use easq::settings::{Dpo, Settings, Switch};
use easq::train::{Loss, Offered, Trainer};
use learning::{Samples, checkpoint, differences, settings, source};

/// Where a loss may reach: backbone with main head, or LoRA with satisfaction head.
fn may_reach(loss: Loss, parameter: &str) -> bool {
    let satisfaction_side = parameter.starts_with("satisfaction.") || parameter.contains(".lora_");
    satisfaction_side == (loss == Loss::Satisfaction)
}

fn offer(trainer: &mut Trainer, pairs: &[PreferencePair]) {
    for (index, pair) in pairs.iter().enumerate() {
        assert_eq!(trainer.offer_pair(pair, source(index)), Offered::Taken);
    }
}

fn train(settings: &Settings, batches: &[Vec<BehaviorGroup>], pairs: &[PreferencePair]) -> Trainer {
    let mut trainer = Trainer::new(settings).unwrap();
    offer(&mut trainer, pairs);
    for groups in batches {
        trainer.step(groups).unwrap();
    }
    trainer
}

/// Every setting that has a say in what is learned from what.
fn combinations() -> impl Iterator<Item = Settings> {
    let forms = [(Dpo::Live, "auto"), (Dpo::Live, "1"), (Dpo::Pairs, "1"), (Dpo::Off, "4")];
    let switches = [(true, Switch::On), (true, Switch::Off), (false, Switch::On), (false, Switch::Off)];
    forms.into_iter().flat_map(move |(dpo, reuse)| {
        switches.map(|(inject_lora, price_control)| {
            let mut settings = settings(dpo);
            settings.train.reservoir_reuse = reuse.to_owned();
            settings.train.price_control = price_control;
            settings.train.satisfaction_weight = 0.7;
            settings.model.inject_lora = inject_lora;
            settings
        })
    })
}

#[test]
fn the_gradient_of_each_loss_is_exactly_zero_outside_its_own_parameters() {
    for settings in combinations() {
        let mut samples = Samples::new(6);
        // Two steps first: while LoRA's B is zero, its A has no gradient from any loss.
        let batches = [samples.groups(16), samples.groups(16)];
        let trainer = train(&settings, &batches, &samples.pairs(64));
        let (groups, pairs) = (samples.groups(16), samples.pairs(16));
        let losses = [Loss::Main, Loss::Satisfaction, Loss::Dpo];
        let present = if settings.train.dpo == Dpo::Off { &losses[..2] } else { &losses };
        for &loss in present {
            let what = format!("{:?} inject {}", settings.train.dpo, settings.model.inject_lora);
            let (value, gradients) =
                trainer.gradients_of(loss, &groups, &pairs).expect("pairs of both kinds");
            assert!(value > 0.0);
            assert_eq!(gradients.len(), 4 + 2 + 2 + 6 + 6, "embeddings, projection, LoRA, heads");
            for gradient in gradients {
                let reached = gradient.to_f64().unwrap().iter().any(|element| *element != 0.0);
                assert_eq!(reached, may_reach(loss, &gradient.name), "{what} {loss:?} {}", gradient.name);
            }
        }
    }
}

/// With injection the main path's score does see LoRA, so that two runs part; from equal parameters
/// they take the same step.
#[test]
fn from_equal_parameters_answers_without_alignment_change_no_bit_of_the_main_step() {
    let mut settings = settings(Dpo::Live);
    settings.train.dpo_weight = 0.0;
    let mut samples = Samples::new(65);
    let batches: Vec<_> = (0..5).map(|_| samples.groups(16)).collect();
    let saved = checkpoint(&train(&settings, &batches, &samples.pairs(200)));
    let groups = samples.groups(16);
    let step = |settings: &Settings| {
        let mut trainer = Trainer::restore(settings, saved.clone()).unwrap();
        (trainer.step(&groups).unwrap().drawn_pairs, checkpoint(&trainer))
    };
    let mut unanswered = settings.clone();
    // Never as many as a batch needs.
    unanswered.train.reservoir_batch_pairs = 1_000;
    let ((drawn, with), (none, without)) = (step(&settings), step(&unanswered));
    assert_eq!((drawn > 0, none), (true, 0));
    let is_of_main = |tensor: &&HostTensor| {
        let name = &tensor.name;
        let is_parameter = !name.starts_with("training.") && may_reach(Loss::Main, name);
        is_parameter || name.starts_with("training.main.")
    };
    let of_main = |tensors: &[HostTensor]| tensors.iter().filter(is_of_main).cloned().collect::<Vec<_>>();
    assert!(of_main(&with).len() > 15 && of_main(&with) != of_main(&saved));
    assert_eq!(differences(&of_main(&with), &of_main(&without)), Vec::<String>::new());
}

#[test]
fn without_alignment_answers_change_no_byte_of_the_backbone() {
    let mut settings = settings(Dpo::Live);
    settings.train.dpo_weight = 0.0;
    settings.model.inject_lora = false;
    let mut samples = Samples::new(61);
    let batches: Vec<_> = (0..20).map(|_| samples.groups(16)).collect();
    let answered = train(&settings, &batches, &samples.pairs(200));
    let unanswered = train(&settings, &batches, &[]);
    assert!(answered.preference_pairs_learned() >= 200);
    let different = differences(&answered.serving_tensors(), &unanswered.serving_tensors());
    assert!(!different.is_empty(), "the satisfaction path has learned");
    assert!(different.iter().all(|name| may_reach(Loss::Satisfaction, name)), "{different:?}");
}

#[test]
fn without_alignment_the_model_is_its_twin_byte_for_byte() {
    let mut settings = settings(Dpo::Off);
    settings.model.inject_lora = false;
    let mut samples = Samples::new(62);
    let batches: Vec<_> = (0..20).map(|_| samples.groups(16)).collect();
    let trainer = train(&settings, &batches, &samples.pairs(200));
    let tensors = checkpoint(&trainer);
    let twins: Vec<_> = tensors.iter().filter(|tensor| tensor.name.starts_with("training.twin.")).collect();
    assert!(twins.len() > 12);
    for twin in twins {
        let own = match twin.name.strip_prefix("training.twin.main.ad") {
            Some(optimizer) => format!("training.main.ad{optimizer}"),
            None => twin.name["training.twin.".len()..].to_owned(),
        };
        assert_eq!(learning::tensor(&tensors, &own).data, twin.data, "{own}");
    }
}

#[test]
fn preference_pairs_change_no_byte_of_the_twin() {
    for dpo in [Dpo::Live, Dpo::Pairs] {
        let mut samples = Samples::new(63);
        let batches: Vec<_> = (0..20).map(|_| samples.groups(16)).collect();
        let pairs = samples.pairs(200);
        let twin = |pairs: &[PreferencePair]| -> Vec<HostTensor> {
            let state = train(&settings(dpo), &batches, pairs).training_state();
            state.into_iter().filter(|tensor| tensor.name.starts_with("training.twin.")).collect()
        };
        assert_eq!(differences(&twin(&pairs), &twin(&[])), Vec::<String>::new(), "{dpo:?}");
    }
}

#[test]
fn a_step_without_groups_teaches_the_satisfaction_path_alone() {
    let mut samples = Samples::new(64);
    let mut trainer = train(&settings(Dpo::Live), &[samples.groups(16)], &samples.pairs(64));
    let before = checkpoint(&trainer);
    let report = trainer.step(&[]).unwrap();
    assert!(report.drawn_pairs > 0 && report.loss_main.is_none() && report.loss_dpo.is_none());
    let changed = differences(&before, &checkpoint(&trainer));
    let bookkeeping = ["training.counts", "training.progressive.losses"];
    for name in changed {
        let expected = may_reach(Loss::Satisfaction, &name)
            || name.starts_with("training.satisfaction.")
            || name.starts_with("training.reservoir.")
            || bookkeeping.contains(&name.as_str());
        assert!(expected, "{name} changed");
    }
}
