//! Who is asked, who answers, what, and when.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::coefficients::{Coefficients, UNDECIDED_BAND};
use super::world::{Purpose, World, generator};
use crate::contract::v1::Answer;

/// Answers come after this long in the median, log-normally spread, within these bounds.
const MEDIAN_DELAY_MS: f64 = 15_000.0;
const DELAY_SPREAD: f64 = 1.2;
const DELAY_BOUNDS_MS: (f64, f64) = (1_000.0, 1_200_000.0);
/// An answer is sent at once.
const DELIVERY_MS: std::ops::Range<f64> = 50.0..2000.0;

pub(super) struct Questionnaire {
    rng: ChaCha8Rng,
    exposure: f64,
    answer_rate: f64,
    mean_activity: f64,
    coefficients: Coefficients,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub exposed: bool,
    pub answer: Option<Questioned>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Questioned {
    pub answer: Answer,
    /// From the end of the view to the answer, and from there to the log.
    pub delay_ms: i64,
    pub delivery_ms: i64,
}

impl Questionnaire {
    pub fn new(world: &World) -> Self {
        let config = world.config();
        Self {
            rng: generator(config.seed, Purpose::Questionnaire),
            exposure: config.exposure,
            answer_rate: config.answer_rate,
            mean_activity: world.latents.mean_activity,
            coefficients: Coefficients::of(config.preset),
        }
    }

    /// Draws equally often for every view, so that a higher exposure or answer rate only adds
    /// answers. Strong feelings and active users answer more.
    pub fn ask(&mut self, satisfaction: f64, activity: f64, triggered: bool) -> Asked {
        let c = &self.coefficients;
        let mut happens = |probability: f64| self.rng.random::<f64>() < probability;
        let shown = happens(self.exposure);
        let feeling = 1.0 + c.answer_extreme * (satisfaction.abs() - 1.0);
        let answers = happens(self.answer_rate * (activity / self.mean_activity).sqrt() * feeling);
        let undecided = happens(c.undecided_answers) && satisfaction.abs() < UNDECIDED_BAND;
        let wrong = happens(c.wrong_answers);
        let deviation: f64 = self.rng.sample(StandardNormal);
        let (shortest, longest) = DELAY_BOUNDS_MS;
        let delay_ms = (MEDIAN_DELAY_MS * (DELAY_SPREAD * deviation).exp()).clamp(shortest, longest);
        let delivery_ms = self.rng.random_range(DELIVERY_MS);

        let exposed = triggered && shown;
        let answer = if undecided {
            Answer::Uncertain
        } else if (satisfaction > 0.0) != wrong {
            Answer::Satisfied
        } else {
            Answer::Dissatisfied
        };
        let questioned = Questioned { answer, delay_ms: delay_ms as i64, delivery_ms: delivery_ms as i64 };
        Asked { exposed, answer: (exposed && answers).then_some(questioned) }
    }
}
