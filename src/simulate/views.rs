//! What a user does with a video, and what is logged about it.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gumbel, StandardNormal};

use super::coefficients::{
    Coefficients, DENSE_FEATURES, MAX_REQUEST_VIEWS, MIN_REQUEST_VIEWS, RETRIEVED, TASTE_DIM,
};
use super::latents::{Latents, Taste, User, Video, dot};

/// One view as it truly happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ViewDraw {
    pub watched_ms: u32,
    pub duration_ms: u32,
    pub liked: bool,
    pub followed: bool,
    pub commented: bool,
    pub forwarded: bool,
    /// Satisfaction before and after its noise, on a scale of its own.
    pub mean_satisfaction: f64,
    pub satisfaction: f64,
    pub dense: [f32; DENSE_FEATURES],
}

impl ViewDraw {
    /// Whether the view was long enough for a questionnaire: 7 seconds or half of the video.
    pub fn triggered(&self) -> bool {
        self.watched_ms >= 7000 || 2 * u64::from(self.watched_ms) >= u64::from(self.duration_ms)
    }
}

/// The state of the world at one moment: tastes and coefficients before or after a drift.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    pub latents: &'a Latents,
    pub coefficients: &'a Coefficients,
    /// 0 before the middle of the stream, 1 after it.
    pub era: usize,
    /// In lengths of the stream, 0 at its start.
    pub t: f64,
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The mood of a request, on the scale of the engagement logits.
pub fn draw_mood(rng: &mut ChaCha8Rng) -> f64 {
    0.3 * normal(rng)
}

impl<'a> Moment<'a> {
    fn taste(&self, user: usize) -> &'a Taste {
        &self.latents.users[user].taste[self.era]
    }

    /// The best `keep` of `pool` random living videos by taste and chance, then ordered by an old
    /// ranker that likes what attracts.
    pub fn retrieve(&self, user: usize, pool: usize, keep: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let alive = self.latents.alive(self.t);
        let gumbel = Gumbel::new(0.0, 1.0).expect("the constants are valid");
        let taste = self.taste(user);
        let mut scored: Vec<(f64, usize)> = (0..pool)
            .map(|_| {
                let video = alive[rng.random_range(0..alive.len())];
                let preference = dot(taste, &self.latents.videos[video].content);
                (0.8 * preference + gumbel.sample(rng), video)
            })
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.truncate(keep);
        let c = self.coefficients;
        for (score, video) in &mut scored {
            let video = &self.latents.videos[*video];
            *score = c.attraction_taste * dot(taste, &video.content)
                + c.attraction_clickbait * video.clickbait
                + c.attraction_quality * video.quality
                + 1.2 * normal(rng);
        }
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().map(|(_, video)| video).collect()
    }

    /// The videos of one request, in the order of their positions.
    pub fn retrieve_request(&self, user: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut videos = self.retrieve(user, RETRIEVED, MAX_REQUEST_VIEWS, rng);
        videos.truncate(rng.random_range(MIN_REQUEST_VIEWS..=MAX_REQUEST_VIEWS));
        videos
    }

    /// As [`Moment::retrieve`], in random order.
    pub fn retrieve_shuffled(
        &self,
        user: usize,
        pool: usize,
        keep: usize,
        rng: &mut ChaCha8Rng,
    ) -> Vec<usize> {
        let mut videos = self.retrieve(user, pool, keep, rng);
        videos.shuffle(rng);
        videos
    }

    /// One view of `video` by `user` at a position of the request.
    pub fn view(
        &self,
        user: usize,
        video: usize,
        position: usize,
        mood: f64,
        rng: &mut ChaCha8Rng,
    ) -> ViewDraw {
        let c = self.coefficients;
        let viewer = &self.latents.users[user];
        let video = &self.latents.videos[video];
        let preference = dot(self.taste(user), &video.content);
        let expected = Expected::of(preference, viewer, video, c);
        // Attention fades along the request.
        let faded = mood - 0.06 * position as f64;

        let ratio = (expected.log_watch_ratio + faded + 0.5 * normal(rng)).exp().clamp(0.01, 3.0);
        let mut happens = |logit: f64| rng.random::<f64>() < sigmoid(logit + faded);
        let [liked, followed, commented, forwarded] = expected.engagement.map(&mut happens);
        let mean_satisfaction = c.satisfaction_taste * preference
            + c.satisfaction_quality * video.quality
            + c.satisfaction_clickbait * video.clickbait
            + viewer.generosity;
        let satisfaction = mean_satisfaction + 0.2 * mood + c.satisfaction_noise * normal(rng);
        let duration_ms = (video.duration_seconds * 1000.0).round();
        ViewDraw {
            watched_ms: (ratio * duration_ms).round() as u32,
            duration_ms: duration_ms as u32,
            liked,
            followed,
            commented,
            forwarded,
            mean_satisfaction,
            satisfaction,
            dense: self.log_features(&expected, viewer, video, position, rng),
        }
    }

    /// The features in the order of `features.dense`: eight noisy upstream predictions, metadata,
    /// two weak content scores, topic affinity.
    fn log_features(
        &self,
        expected: &Expected,
        viewer: &User,
        video: &Video,
        position: usize,
        rng: &mut ChaCha8Rng,
    ) -> [f32; DENSE_FEATURES] {
        let c = self.coefficients;
        let [like, follow, comment, forward] = expected.engagement;
        let preference = expected.preference;
        let mut noisy = |value: f64, deviation: f64| value + deviation * normal(rng);
        [
            noisy(expected.attraction, c.prediction_noise),
            noisy(expected.long_view, c.prediction_noise),
            noisy(2.0 * expected.log_watch_ratio, c.prediction_noise),
            noisy(like - LIKE_BIAS, c.prediction_noise),
            noisy(follow - FOLLOW_BIAS, c.prediction_noise),
            noisy(comment - COMMENT_BIAS, c.prediction_noise),
            noisy(forward - FORWARD_BIAS, c.prediction_noise),
            noisy(0.5 * video.clickbait - 0.4 * video.quality - 0.4 * preference, 1.2),
            video.log_duration(),
            (20.0 * (self.t - video.birth).max(0.0)).ln_1p() - 1.8,
            (position as f64 - 4.0) / 3.0,
            viewer.activity.ln(),
            self.latents.author_fans[video.author],
            noisy(video.quality, c.content_noise),
            noisy(video.clickbait, c.content_noise),
            noisy(preference, 0.8),
        ]
        .map(|value| value as f32)
    }
}

const LIKE_BIAS: f64 = -2.8;
const FOLLOW_BIAS: f64 = -4.6;
const COMMENT_BIAS: f64 = -3.9;
const FORWARD_BIAS: f64 = -4.1;

/// Expected signals of a view, on the log or logit scale, before mood and position.
struct Expected {
    preference: f64,
    attraction: f64,
    log_watch_ratio: f64,
    long_view: f64,
    /// Like, follow, comment, forward.
    engagement: [f64; 4],
}

impl Expected {
    fn of(preference: f64, viewer: &User, video: &Video, c: &Coefficients) -> Self {
        let (quality, clickbait) = (video.quality, video.clickbait);
        let attraction = c.attraction_taste * preference
            + c.attraction_clickbait * viewer.susceptibility * clickbait
            + c.attraction_quality * quality;
        // Long videos are watched to a smaller share, but sooner for a long time.
        let log_watch_ratio = 0.45 * attraction - 0.35 * video.log_duration() - 0.6;
        let long_view = 1.1 * attraction + 0.35 * video.log_duration() - 0.3;
        let engagement = [
            LIKE_BIAS + 0.8 * preference + 0.4 * clickbait + 0.45 * quality + viewer.liking,
            FOLLOW_BIAS + 0.7 * preference + 0.3 * clickbait + 0.5 * quality,
            COMMENT_BIAS + 0.4 * preference + 0.8 * clickbait,
            FORWARD_BIAS + 0.5 * preference + 0.2 * clickbait + 0.6 * quality,
        ];
        Self { preference, attraction, log_watch_ratio, long_view, engagement }
    }
}

impl Video {
    /// Centered logarithm of the duration.
    fn log_duration(&self) -> f64 {
        self.duration_seconds.ln() - 3.2
    }
}

const _: () = assert!(MAX_REQUEST_VIEWS <= RETRIEVED && TASTE_DIM > 0);
