//! Who is compared.

use serde::Serialize;

use crate::settings::{Dpo, Settings, Switch};
use crate::train::research::Method;

/// What a contender belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Behavior alone: what the price of the others is measured against.
    BehaviorOnly,
    /// The method.
    Easq,
    /// L_DPO as printed.
    Printed,
    Baseline,
    /// The method without one of its parts.
    Ablation,
}

/// How it learns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Baseline(Method),
    Trainer,
    WithoutMixture,
}

/// One that learns, with what is special about its settings.
#[derive(Clone)]
pub struct Contender {
    pub name: String,
    pub family: Family,
    pub kind: Kind,
    change: fn(&mut Settings, f64),
    value: f64,
}

impl Contender {
    /// The settings that it learns with.
    pub fn settings(&self, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        settings.train.price_control = Switch::Off;
        settings.train.dpo = Dpo::Live;
        settings.train.reservoir_reuse = "auto".to_owned();
        (self.change)(&mut settings, self.value);
        settings
    }

    pub fn is_behavior_only(&self) -> bool {
        self.family == Family::BehaviorOnly
    }
}

/// All of them; with `quick` one of each sort.
pub fn contenders(quick: bool) -> Vec<Contender> {
    let mut all = Vec::new();
    let mut add = |family, kind: fn(f64) -> Kind, name: &str, change, values: &[f64]| {
        let values = if quick { &values[..1] } else { values };
        all.extend(values.iter().map(|&value| Contender {
            name: if value.is_nan() { name.to_owned() } else { format!("{name} {value}") },
            family,
            kind: kind(value),
            change,
            value,
        }));
    };
    let trainer: fn(f64) -> Kind = |_| Kind::Trainer;
    let none = &[f64::NAN];
    let once: fn(&mut Settings, f64) = |settings, _| settings.train.reservoir_reuse = "1".to_owned();
    let again: fn(&mut Settings, f64) = |_, _| {};
    let baseline = Family::Baseline;
    add(Family::BehaviorOnly, |_| Kind::Baseline(Method::BehaviorOnly), "behavior-only", again, none);
    add(Family::Easq, trainer, "easq, budget", budget, &[1.0, 0.5, 2.0]);
    add(Family::Easq, trainer, "easq, fixed weight", fixed, &[0.5, 0.25, 1.0, 2.0]);
    add(Family::Printed, trainer, "easq as printed, weight", printed, &[2.0, 1.0, 3.0]);
    let pairs: fn(f64) -> Kind = |weight| Kind::Baseline(Method::SamePathPairs { weight });
    add(baseline, pairs, "same-path-pairs, weight", once, &[2.0, 4.0]);
    add(baseline, pairs, "same-path-pairs with reuse, weight", again, &[1.0, 0.5]);
    let reward: fn(f64) -> Kind = |weight| Kind::Baseline(Method::SamePathReward { weight });
    add(baseline, reward, "same-path-reward with reuse, weight", again, &[4.0]);
    let imputation: fn(f64) -> Kind = |weight| Kind::Baseline(Method::Imputation { weight });
    add(baseline, imputation, "imputation, weight", once, &[2.0, 1.0]);
    add(baseline, imputation, "imputation with reuse, weight", again, &[0.5, 0.25, 1.0]);
    let no_lora: fn(f64) -> Kind = |dpo_weight| Kind::Baseline(Method::NoLora { dpo_weight });
    add(Family::Ablation, no_lora, "no-lora, fixed weight", again, &[0.5]);
    add(Family::Ablation, |_| Kind::WithoutMixture, "no-moe, fixed weight", fixed, &[0.5]);
    add(Family::Ablation, |_| Kind::WithoutMixture, "no-moe as printed, weight", printed, &[2.0]);
    add(Family::Ablation, trainer, "no-injection, fixed weight", no_injection, &[0.5]);
    add(Family::Ablation, trainer, "no-dpo", no_dpo, none);
    all
}

fn budget(settings: &mut Settings, points: f64) {
    settings.train.price_control = Switch::On;
    settings.train.behavior_budget_points = points;
}

fn fixed(settings: &mut Settings, weight: f64) {
    settings.train.dpo_weight = weight;
}

fn printed(settings: &mut Settings, weight: f64) {
    settings.train.dpo = Dpo::Pairs;
    settings.train.reservoir_reuse = "1".to_owned();
    settings.train.dpo_weight = weight;
}

fn no_injection(settings: &mut Settings, weight: f64) {
    settings.model.inject_lora = false;
    settings.train.dpo_weight = weight;
}

fn no_dpo(settings: &mut Settings, _: f64) {
    settings.train.dpo = Dpo::Off;
}
