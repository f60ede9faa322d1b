//! Samples in memory: views whose reward and satisfaction follow different features.
#![allow(dead_code, reason = "each test program uses some of it")]

use easq::contract::v1::{
    BehaviorEvent, BehaviorGroup, Engagement, Features, LabelledView, PreferencePair, SparseFeature,
};
use easq::model::HostTensor;
use easq::settings::{Dpo, Settings, Switch};
use easq::train::{PairSource, Trainer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The defaults on the CPU, or on the device that the variable EASQ_TEST_DEVICE names (cuda:0), with a
/// reward that the log carries and a fixed weight of L_DPO.
pub fn settings(dpo: Dpo) -> Settings {
    let mut settings = Settings::default();
    settings.train.device = std::env::var("EASQ_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    settings.train.dpo = dpo;
    settings.train.price_control = Switch::Off;
    settings.reward.signal = "value".into();
    settings
}

/// Behavior follows the first dense feature and the second; satisfaction the first, and the second
/// not at all but in the other direction. The rest is noise.
pub struct Samples {
    rng: ChaCha8Rng,
}

impl Samples {
    pub fn new(seed: u64) -> Samples {
        println!("samples of seed {seed}");
        Samples { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    pub fn features(&mut self) -> Features {
        let dense = (0..16).map(|_| self.rng.random_range(-2.0..2.0)).collect();
        let mut sparse = Vec::new();
        for field in 1..=4 {
            // Field 4 is absent now and then.
            if field != 4 || self.rng.random_bool(0.7) {
                let count = self.rng.random_range(1..3);
                let ids = (0..count).map(|_| self.rng.random_range(0..300)).collect();
                sparse.push(SparseFeature { field, ids });
            }
        }
        Features { dense, sparse, schema_version: 1 }
    }

    pub fn view(&mut self) -> BehaviorEvent {
        let features = self.features();
        let mut engagement = Engagement::default();
        engagement.other.insert("value".into(), behavior(&features));
        BehaviorEvent { features: Some(features), engagement: Some(engagement), ..Default::default() }
    }

    pub fn group(&mut self, views: usize) -> BehaviorGroup {
        BehaviorGroup { views: (0..views).map(|_| self.view()).collect(), ..Default::default() }
    }

    pub fn groups(&mut self, groups: usize) -> Vec<BehaviorGroup> {
        (0..groups).map(|_| self.group(8)).collect()
    }

    pub fn pair(&mut self) -> PreferencePair {
        let (a, b) = (self.features(), self.features());
        if satisfaction(&a) > satisfaction(&b) { pair(a, b) } else { pair(b, a) }
    }

    pub fn pairs(&mut self, pairs: usize) -> Vec<PreferencePair> {
        (0..pairs).map(|_| self.pair()).collect()
    }
}

pub fn behavior(features: &Features) -> f32 {
    features.dense[0] + features.dense[1]
}

pub fn satisfaction(features: &Features) -> f32 {
    features.dense[0] - features.dense[1]
}

pub fn pair(chosen: Features, rejected: Features) -> PreferencePair {
    let labelled = |features| {
        let view = BehaviorEvent { features: Some(features), ..Default::default() };
        Some(LabelledView { view: Some(view), ..Default::default() })
    };
    PreferencePair { chosen: labelled(chosen), rejected: labelled(rejected), ..Default::default() }
}

/// Where the pair that is offered as number `index` lies, as far as a trainer knows.
pub fn source(index: usize) -> PairSource {
    PairSource { partition: 0, offset: index as i64 }
}

/// All tensors of a checkpoint.
pub fn checkpoint(trainer: &Trainer) -> Vec<HostTensor> {
    let mut tensors = trainer.serving_tensors();
    tensors.extend(trainer.training_state());
    tensors
}

pub fn tensor<'a>(tensors: &'a [HostTensor], name: &str) -> &'a HostTensor {
    tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
}

/// Names of tensors that differ in any byte, or that only one of the two has.
pub fn differences(left: &[HostTensor], right: &[HostTensor]) -> Vec<String> {
    let only = |a: &[HostTensor], b: &[HostTensor]| {
        a.iter().filter(|tensor| !b.contains(tensor)).map(|tensor| tensor.name.clone()).collect::<Vec<_>>()
    };
    let mut names = [only(left, right), only(right, left)].concat();
    names.sort();
    names.dedup();
    names
}
