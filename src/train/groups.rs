//! From behavior groups to views and pairs of views.

use std::collections::BTreeMap;

use crate::contract::v1::{BehaviorEvent, BehaviorGroup, Features};
use crate::model::{Architecture, DropReason, check_features, reward};
use crate::settings;

/// The usable views of a main batch, and all pairs i < j of views of one group.
#[derive(Debug, Default)]
pub(super) struct MainBatch<'a> {
    pub(super) groups: usize,
    pub(super) views: Vec<&'a Features>,
    /// Positions in `views`, per pair.
    pub(super) left: Vec<i64>,
    pub(super) right: Vec<i64>,
    /// Views of each group.
    pub(super) sizes: Vec<usize>,
    /// Which of the two behavior prefers: 1 left, -1 right, 0 neither by more than the margin.
    pub(super) preferred: Vec<i8>,
    /// What each of `views` was worth.
    #[cfg(feature = "research")]
    pub(super) rewards: Vec<f64>,
    pub(super) dropped: BTreeMap<DropReason, usize>,
    /// Positions among the given groups of those that have nothing to compare.
    pub(super) too_small: Vec<usize>,
}

impl<'a> MainBatch<'a> {
    pub(super) fn new(
        architecture: &Architecture,
        reward: &settings::Reward,
        groups: &'a [BehaviorGroup],
    ) -> MainBatch<'a> {
        let mut batch = MainBatch::default();
        for (position, group) in groups.iter().enumerate() {
            if !batch.add(architecture, reward, group) {
                *batch.dropped.entry(DropReason::GroupTooSmall).or_default() += 1;
                batch.too_small.push(position);
            }
        }
        batch
    }

    /// False when fewer than two of the group's views are usable.
    fn add(
        &mut self,
        architecture: &Architecture,
        settings: &settings::Reward,
        group: &'a BehaviorGroup,
    ) -> bool {
        let mut usable = Vec::with_capacity(group.views.len());
        for view in &group.views {
            match usable_view(architecture, settings, view) {
                Ok(view) => usable.push(view),
                Err(reason) => *self.dropped.entry(reason).or_default() += 1,
            }
        }
        if usable.len() < 2 {
            return false;
        }
        let first = self.views.len();
        self.groups += 1;
        self.sizes.push(usable.len());
        self.views.extend(usable.iter().map(|(features, _)| *features));
        #[cfg(feature = "research")]
        self.rewards.extend(usable.iter().map(|(_, reward)| *reward));
        for (i, (_, left)) in usable.iter().enumerate() {
            for (j, (_, right)) in usable.iter().enumerate().skip(i + 1) {
                self.left.push((first + i) as i64);
                self.right.push((first + j) as i64);
                self.preferred.push(preferred(left - right, settings.margin));
            }
        }
        true
    }

    /// Says anew which view of each pair is preferred: by `rewards`, one per view.
    #[cfg(feature = "research")]
    pub(super) fn prefer_by(&mut self, rewards: &[f64], margin: f64) {
        let pairs = self.left.iter().zip(&self.right);
        let of_pair = |(&left, &right): (&i64, &i64)| {
            preferred(rewards[left as usize] - rewards[right as usize], margin)
        };
        self.preferred = pairs.map(of_pair).collect();
    }

    pub(super) fn behavior_pairs(&self) -> usize {
        self.preferred.iter().filter(|preferred| **preferred != 0).count()
    }
}

fn usable_view<'a>(
    architecture: &Architecture,
    settings: &settings::Reward,
    view: &'a BehaviorEvent,
) -> Result<(&'a Features, f64), DropReason> {
    let features = check_features(architecture, view.features.as_ref())?;
    let engagement = view.engagement.clone().unwrap_or_default();
    Ok((features, reward(settings, &engagement)?))
}

fn preferred(difference: f64, margin: f64) -> i8 {
    if difference > margin {
        1
    } else if -difference > margin {
        -1
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::v1::Engagement;
    use crate::settings::Settings;

    fn view(dense: Vec<f32>, watched_ms: u32) -> BehaviorEvent {
        BehaviorEvent {
            engagement: Some(Engagement { watched_ms, duration_ms: 60_000, ..Default::default() }),
            features: Some(Features { dense, schema_version: 1, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn views_are_compared_within_their_group_where_rewards_differ_by_more_than_the_margin() {
        let settings = Settings::default();
        let architecture = Architecture::from_settings(&settings);
        let good = || vec![0.5; 16];
        let first = BehaviorGroup {
            views: vec![view(good(), 60_000), view(good(), 1_000), view(good(), 2_000)],
            ..Default::default()
        };
        let second =
            BehaviorGroup { views: vec![view(good(), 0), view(good(), 60_000)], ..Default::default() };
        let groups = [first, second];
        let batch = MainBatch::new(&architecture, &settings.reward, &groups);
        assert_eq!((batch.groups, batch.views.len(), batch.behavior_pairs()), (2, 5, 3));
        assert_eq!(batch.left, [0, 0, 1, 3]);
        assert_eq!(batch.right, [1, 2, 2, 4]);
        assert_eq!(batch.preferred, [1, 1, 0, -1]);
    }

    #[test]
    fn an_unusable_view_leaves_its_group_and_a_group_of_one_is_dropped() {
        let settings = Settings::default();
        let architecture = Architecture::from_settings(&settings);
        let mut infinite = vec![0.5; 16];
        infinite[3] = f32::INFINITY;
        let views = vec![view(vec![0.5; 16], 0), view(infinite, 0), view(vec![0.5; 15], 0)];
        let good = BehaviorGroup { views: vec![view(vec![0.5; 16], 0); 2], ..Default::default() };
        let groups = [good, BehaviorGroup { views, ..Default::default() }];
        let batch = MainBatch::new(&architecture, &settings.reward, &groups);
        assert_eq!((batch.groups, batch.views.len(), batch.too_small), (1, 2, vec![1]));
        let expected = [DropReason::DenseLength, DropReason::NonFiniteFeature, DropReason::GroupTooSmall]
            .map(|r| (r, 1));
        assert_eq!(batch.dropped, BTreeMap::from(expected));
    }
}
