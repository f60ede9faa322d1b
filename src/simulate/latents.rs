//! What nobody is shown: topics, authors, videos and users as they truly are.

use rand::Rng;
use rand::distr::weighted::WeightedIndex;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Pareto, StandardNormal};

use super::coefficients::{Coefficients, DRIFTED_TASTE, TASTE_DIM};
use super::config::WorldConfig;
use crate::settings::Preset;

pub type Taste = [f64; TASTE_DIM];

#[derive(Debug, Clone)]
pub struct Video {
    pub author: usize,
    pub topic: usize,
    /// Unit length.
    pub content: Taste,
    pub quality: f64,
    pub clickbait: f64,
    pub duration_seconds: f64,
    /// In lengths of the stream, 0 at its start; below 0 for videos that exist when it begins.
    pub birth: f64,
}

#[derive(Debug, Clone)]
pub struct User {
    /// Length √[`TASTE_DIM`]; the second is the taste after the drift.
    pub taste: [Taste; 2],
    pub activity: f64,
    /// Readiness to like, on the logit scale.
    pub liking: f64,
    pub susceptibility: f64,
    pub generosity: f64,
}

/// All latents, drawn once.
#[derive(Debug, Clone)]
pub struct Latents {
    pub videos: Vec<Video>,
    /// Videos by birth, so that those alive at a time are a prefix.
    pub by_birth: Vec<usize>,
    pub author_fans: Vec<f64>,
    pub users: Vec<User>,
    pub mean_activity: f64,
    /// Draws users by activity.
    pub by_activity: WeightedIndex<f64>,
}

pub fn dot(a: &Taste, b: &Taste) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    rng.sample(StandardNormal)
}

fn normal_vector(rng: &mut ChaCha8Rng) -> Taste {
    std::array::from_fn(|_| normal(rng))
}

fn of_length(vector: Taste, length: f64) -> Taste {
    let norm = dot(&vector, &vector).sqrt();
    vector.map(|x| x / norm * length)
}

impl Latents {
    /// Draws everything from `rng`. The configuration has been checked: no count is 0.
    pub fn draw(config: &WorldConfig, coefficients: &Coefficients, rng: &mut ChaCha8Rng) -> Self {
        let topics: Vec<Taste> = (0..config.topics).map(|_| normal_vector(rng)).collect();
        let authors = Authors::draw(config, rng);
        let videos: Vec<Video> =
            (0..config.videos).map(|_| draw_video(&topics, &authors, coefficients, rng)).collect();
        let author_fans = authors.draw_fans(rng);
        let users: Vec<User> = (0..config.users).map(|_| draw_user(config, coefficients, rng)).collect();
        let mut by_birth: Vec<usize> = (0..videos.len()).collect();
        by_birth.sort_by(|&a, &b| videos[a].birth.total_cmp(&videos[b].birth));
        let by_activity = WeightedIndex::new(users.iter().map(|user| user.activity))
            .expect("there is a user, and an activity is exp of a normal draw");
        let mean_activity = users.iter().map(|user| user.activity).sum::<f64>() / users.len() as f64;
        Self { videos, by_birth, author_fans, users, mean_activity, by_activity }
    }

    /// The videos that exist at time `t`, in lengths of the stream; the oldest always does.
    pub fn alive(&self, t: f64) -> &[usize] {
        let count = self.by_birth.partition_point(|&video| self.videos[video].birth < t);
        &self.by_birth[..count.max(1)]
    }
}

struct Authors {
    popularity: Vec<f64>,
    topic: Vec<usize>,
    quality: Vec<f64>,
    clickbait: Vec<f64>,
    by_popularity: WeightedIndex<f64>,
}

impl Authors {
    fn draw(config: &WorldConfig, rng: &mut ChaCha8Rng) -> Self {
        let pareto = Pareto::new(1.0, 1.5).expect("the constants are positive");
        let count = config.authors;
        let topic = (0..count).map(|_| rng.random_range(0..config.topics)).collect();
        let quality = (0..count).map(|_| 0.6 * normal(rng)).collect();
        let clickbait = (0..count).map(|_| 0.6 * normal(rng)).collect();
        let popularity: Vec<f64> = (0..count).map(|_| pareto.sample(rng) - 1.0 + 0.2).collect();
        let by_popularity =
            WeightedIndex::new(&popularity).expect("there is an author, and each popularity is positive");
        Self { popularity, topic, quality, clickbait, by_popularity }
    }

    fn draw_fans(&self, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let authors = self.popularity.iter().zip(self.quality.iter().zip(&self.clickbait));
        authors
            .map(|(popularity, (quality, clickbait))| {
                popularity.ln() + 0.3 * quality + 0.4 * clickbait + 0.3 * normal(rng)
            })
            .collect()
    }
}

fn draw_video(topics: &[Taste], authors: &Authors, c: &Coefficients, rng: &mut ChaCha8Rng) -> Video {
    let author = authors.by_popularity.sample(rng);
    let any_topic = rng.random_range(0..topics.len());
    let topic = if rng.random_bool(0.7) { authors.topic[author] } else { any_topic };
    let off_topic = normal_vector(rng);
    let content = of_length(std::array::from_fn(|i| topics[topic][i] + 0.6 * off_topic[i]), 1.0);
    let (e1, e2) = (normal(rng), normal(rng));
    let own_clickbait = c.quality_clickbait * e1 + (1.0 - c.quality_clickbait.powi(2)).sqrt() * e2;
    let duration_seconds = (3.2 + 0.8 * normal(rng)).exp().clamp(5.0, 240.0);
    let old = rng.random_bool(0.5);
    let u: f64 = rng.random();
    Video {
        author,
        topic,
        content,
        quality: authors.quality[author] + 0.8 * e1,
        clickbait: authors.clickbait[author] + 0.8 * own_clickbait,
        duration_seconds,
        birth: if old { -0.5 * u } else { 0.9 * u },
    }
}

fn draw_user(config: &WorldConfig, c: &Coefficients, rng: &mut ChaCha8Rng) -> User {
    let length = (TASTE_DIM as f64).sqrt();
    let taste = of_length(normal_vector(rng), length);
    let fresh = of_length(normal_vector(rng), length);
    let moved = of_length(
        std::array::from_fn(|i| (1.0 - DRIFTED_TASTE) * taste[i] + DRIFTED_TASTE * fresh[i]),
        length,
    );
    User {
        taste: [taste, if config.preset == Preset::Drift { moved } else { taste }],
        activity: (0.7 * normal(rng)).exp(),
        liking: 0.6 * normal(rng),
        susceptibility: 1.0 + c.susceptibility * normal(rng),
        generosity: c.generosity * normal(rng),
    }
}
