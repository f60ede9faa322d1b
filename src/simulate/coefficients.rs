//! The constants of the synthetic world, in one place.

use crate::settings::Preset;

/// Length of taste and content vectors.
pub const TASTE_DIM: usize = 6;
/// Retrieval looks at this many random living videos per request…
pub const RETRIEVED: usize = 25;
/// … and a request shows at least and at most this many of them.
pub const MIN_REQUEST_VIEWS: usize = 6;
pub const MAX_REQUEST_VIEWS: usize = 10;
/// Logged dense features of a view.
pub const DENSE_FEATURES: usize = 16;
/// Share of the triggered views that satisfy less than the threshold of satisfaction.
pub const DISSATISFIED_SHARE: f64 = 0.40;
/// A satisfaction this close to the threshold makes an undecided viewer.
pub const UNDECIDED_BAND: f64 = 0.35;

/// What attracts, what satisfies, and how loudly it is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coefficients {
    /// Attractiveness: taste, clickbait (times the viewer's susceptibility), quality.
    pub attraction_taste: f64,
    pub attraction_clickbait: f64,
    pub attraction_quality: f64,
    /// Satisfaction: taste, quality, clickbait, and the deviation of its noise.
    pub satisfaction_taste: f64,
    pub satisfaction_quality: f64,
    pub satisfaction_clickbait: f64,
    pub satisfaction_noise: f64,
    /// Correlation of quality and clickbait within a video.
    pub quality_clickbait: f64,
    /// Deviation of the viewers' generosity and of their susceptibility to clickbait.
    pub generosity: f64,
    pub susceptibility: f64,
    /// Deviation of the upstream predictions on the logit scale, and of the two content scores.
    pub prediction_noise: f64,
    pub content_noise: f64,
    /// Share of wrong answers; share of the undecided that say so.
    pub wrong_answers: f64,
    pub undecided_answers: f64,
    /// How much more often strong feelings answer.
    pub answer_extreme: f64,
}

impl Coefficients {
    /// Before the middle of the stream.
    pub fn of(preset: Preset) -> Self {
        let dense = Self {
            attraction_taste: 0.9,
            attraction_clickbait: 0.6,
            attraction_quality: 0.3,
            satisfaction_taste: 0.8,
            satisfaction_quality: 0.7,
            satisfaction_clickbait: -0.6,
            satisfaction_noise: 0.7,
            quality_clickbait: -0.2,
            generosity: 0.4,
            susceptibility: 0.3,
            prediction_noise: 0.6,
            content_noise: 1.0,
            wrong_answers: 0.07,
            undecided_answers: 0.5,
            answer_extreme: 0.3,
        };
        match preset {
            Preset::Dense | Preset::Sparse | Preset::Drift => dense,
            Preset::Mild => Self { attraction_clickbait: 0.3, satisfaction_clickbait: -0.2, ..dense },
        }
    }

    /// From the middle of the stream on: with `drift`, clickbait pulls twice as hard.
    pub fn after_drift(preset: Preset) -> Self {
        let before = Self::of(preset);
        match preset {
            Preset::Drift => Self { attraction_clickbait: 2.0 * before.attraction_clickbait, ..before },
            Preset::Dense | Preset::Sparse | Preset::Mild => before,
        }
    }
}

/// How much of a viewer's taste is new after the drift.
pub const DRIFTED_TASTE: f64 = 0.7;

/// Default (exposure, answer rate) of triggered views and of exposed ones.
pub fn questionnaire_rates(preset: Preset) -> (f64, f64) {
    match preset {
        Preset::Dense | Preset::Mild | Preset::Drift => (0.05, 0.20),
        Preset::Sparse => (0.005, 0.02),
    }
}
