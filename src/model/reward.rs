//! What a view was worth, as far as behavior tells.

use crate::contract::v1::Engagement;
use crate::settings;

use super::DropReason;

/// The reward of one view: the signal that `reward.signal` names, else the weighted sum of what
/// the viewer did. The watch ratio counts 0 when the duration is 0.
///
/// # Errors
/// The named signal is absent, or the result is not finite.
pub fn reward(settings: &settings::Reward, engagement: &Engagement) -> Result<f64, DropReason> {
    let reward = if settings.signal.is_empty() {
        weighted_sum(settings, engagement)
    } else {
        f64::from(*engagement.other.get(&settings.signal).ok_or(DropReason::MissingRewardSignal)?)
    };
    if reward.is_finite() { Ok(reward) } else { Err(DropReason::NonFiniteReward) }
}

fn weighted_sum(settings: &settings::Reward, engagement: &Engagement) -> f64 {
    let signals = [
        (is_long_view(settings, engagement), settings.long_view),
        (engagement.liked, settings.liked),
        (engagement.followed, settings.followed),
        (engagement.commented, settings.commented),
        (engagement.forwarded, settings.forwarded),
        (engagement.disliked, settings.disliked),
    ];
    let actions: f64 = signals.iter().filter(|(given, _)| *given).map(|(_, weight)| weight).sum();
    let other = |(name, weight): (&String, &f64)| {
        weight * f64::from(engagement.other.get(name).copied().unwrap_or(0.0))
    };
    let other: f64 = settings.other.iter().map(other).sum();
    settings.watch_ratio * watch_ratio(engagement).min(settings.watch_ratio_cap) + actions + other
}

fn watch_ratio(engagement: &Engagement) -> f64 {
    match engagement.duration_ms {
        0 => 0.0,
        duration_ms => f64::from(engagement.watched_ms) / f64::from(duration_ms),
    }
}

/// A watch of at least `long_view_ms`, or of the whole video if it is shorter.
fn is_long_view(settings: &settings::Reward, engagement: &Engagement) -> bool {
    let needed_ms = match engagement.duration_ms {
        0 => settings.long_view_ms,
        duration_ms => duration_ms.min(settings.long_view_ms),
    };
    engagement.watched_ms >= needed_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn watched(watched_ms: u32, duration_ms: u32) -> Engagement {
        Engagement { watched_ms, duration_ms, ..Default::default() }
    }

    #[test]
    fn a_reward_is_the_weighted_sum_of_what_the_viewer_did() {
        let settings = Settings::default().reward;
        let all = Engagement {
            liked: true,
            followed: true,
            commented: true,
            forwarded: true,
            disliked: true,
            ..watched(15_000, 60_000)
        };
        // 0.5 · 0.25, no long view, 2 + 4 + 2 + 3 − 3
        assert_eq!(reward(&settings, &all), Ok(8.125));
        assert_eq!(reward(&settings, &watched(90_000, 20_000)), Ok(0.5 * 2.0 + 1.0));
    }

    #[test]
    fn a_short_video_watched_whole_is_a_long_view_and_an_unknown_duration_gives_no_ratio() {
        let settings = Settings::default().reward;
        assert_eq!(reward(&settings, &watched(5_999, 6_000)), Ok(0.5 * 5_999.0 / 6_000.0));
        assert_eq!(reward(&settings, &watched(6_000, 6_000)), Ok(1.5));
        assert_eq!(reward(&settings, &watched(17_999, 0)), Ok(0.0));
        assert_eq!(reward(&settings, &watched(18_000, 0)), Ok(1.0));
    }

    #[test]
    fn signals_of_the_log_are_weighted_by_name_or_are_the_reward_itself() {
        let mut settings = Settings::default().reward;
        let mut engagement = watched(0, 60_000);
        engagement.other.insert("shared_outside".into(), 2.0);
        assert_eq!(reward(&settings, &engagement), Ok(0.0));
        settings.other.insert("shared_outside".into(), 1.5);
        assert_eq!(reward(&settings, &engagement), Ok(3.0));
        settings.signal = "value".into();
        assert_eq!(reward(&settings, &engagement), Err(DropReason::MissingRewardSignal));
        engagement.other.insert("value".into(), -0.25);
        assert_eq!(reward(&settings, &engagement), Ok(-0.25));
        engagement.other.insert("value".into(), f32::NAN);
        assert_eq!(reward(&settings, &engagement), Err(DropReason::NonFiniteReward));
    }
}
