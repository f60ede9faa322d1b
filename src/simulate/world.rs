//! The synthetic world: latents, the threshold of satisfaction, and what can be drawn from them.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::Distribution;

use super::coefficients::{Coefficients, DENSE_FEATURES, DISSATISFIED_SHARE, UNDECIDED_BAND};
use super::config::{WorldConfig, WorldError};
use super::latents::Latents;
use super::stream::Stream;
use super::views::{Moment, ViewDraw, draw_mood};
use crate::contract::v1::{BehaviorEvent, Engagement, Features, HeldOutList, SparseFeature};

/// Requests of the probe that finds the threshold of satisfaction and the mean length of a view.
const PROBE_REQUESTS: u32 = 4000;
/// Items of a held-out list that do not satisfy.
pub const HELD_OUT_NEGATIVES: usize = 20;
/// Candidates among which a held-out list is found, and the position they are all logged at.
const HELD_OUT_CANDIDATES: usize = 60;
const HELD_OUT_POSITION: usize = 4;

/// What a stream of random numbers is for. Each has its own stream of the seed, so that more
/// draws for one purpose change nothing of another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Latents = 1,
    Probe = 2,
    Sessions = 3,
    Views = 4,
    Questionnaire = 5,
    Delivery = 6,
    HeldOut = 7,
    Faults = 8,
}

pub(super) fn generator(seed: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(purpose as u64);
    rng
}

/// A world of users and videos. Equal configurations give equal bytes, on every machine.
#[derive(Debug, Clone)]
pub struct World {
    pub(super) config: WorldConfig,
    pub(super) latents: Latents,
    /// Before and after the middle of the stream.
    coefficients: [Coefficients; 2],
    /// A view whose satisfaction is above it satisfies.
    satisfaction_threshold: f64,
    /// Before the middle of the stream.
    pub(super) mean_watched_ms: f64,
}

impl World {
    /// Draws the latents and finds the threshold of satisfaction, the 0.40 quantile of expected
    /// satisfaction among triggered views, from a probe of its own.
    pub fn new(config: WorldConfig) -> Result<Self, WorldError> {
        config.check()?;
        let coefficients = [Coefficients::of(config.preset), Coefficients::after_drift(config.preset)];
        let mut rng = generator(config.seed, Purpose::Latents);
        let latents = Latents::draw(&config, &coefficients[0], &mut rng);
        let mut world =
            Self { config, latents, coefficients, satisfaction_threshold: 0.0, mean_watched_ms: 0.0 };
        world.probe();
        Ok(world)
    }

    /// What it was made from.
    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// The whole stream of both topics in the order of arrival.
    pub(crate) fn events(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// `count` held-out lists: the satisfying view first, then [`HELD_OUT_NEGATIVES`] that do not
    /// satisfy. They are drawn apart from the stream, at its end: nothing is ever trained on them.
    /// The first lists are the same whatever the count.
    pub(crate) fn held_out_lists(&self, count: usize) -> Vec<HeldOutList> {
        let mut rng = generator(self.config.seed, Purpose::HeldOut);
        let mut lists = Vec::with_capacity(count);
        // A world without contrast has no lists: give up rather than search for ever.
        for attempt in 0..20 * count.max(50) {
            if lists.len() == count {
                break;
            }
            lists.extend(self.draw_held_out_list(attempt, &mut rng));
        }
        lists
    }

    fn draw_held_out_list(&self, attempt: usize, rng: &mut ChaCha8Rng) -> Option<HeldOutList> {
        let moment = self.moment(1.0);
        let user = self.latents.by_activity.sample(rng);
        let videos = moment.retrieve_shuffled(user, 2 * HELD_OUT_CANDIDATES, HELD_OUT_CANDIDATES, rng);
        let mood = draw_mood(rng);
        let draws: Vec<(usize, ViewDraw)> = videos
            .into_iter()
            .map(|video| (video, moment.view(user, video, HELD_OUT_POSITION, mood, rng)))
            .collect();
        let satisfying = draws.iter().find(|(_, draw)| self.relative_satisfaction(draw) > UNDECIDED_BAND)?;
        let others = draws.iter().filter(|(_, draw)| self.relative_satisfaction(draw) < 0.0);
        let chosen: Vec<_> = std::iter::once(satisfying).chain(others).take(1 + HELD_OUT_NEGATIVES).collect();
        if chosen.len() <= HELD_OUT_NEGATIVES {
            return None;
        }
        let end_ms = self.config.start_ms + self.config.span_ms;
        let views = chosen.into_iter().enumerate().map(|(index, (video, draw))| {
            self.behavior_event(
                draw,
                ViewIds {
                    user,
                    video: *video,
                    request: RequestIds { name: format!("held-{attempt}"), scenario: 0, time_ms: end_ms },
                    index,
                    event_time_ms: end_ms + i64::from(draw.watched_ms),
                },
            )
        });
        Some(HeldOutList { views: views.collect(), relevant: 0 })
    }

    /// Satisfaction above the threshold: positive means that the view satisfied.
    pub(super) fn relative_satisfaction(&self, draw: &ViewDraw) -> f64 {
        draw.satisfaction - self.satisfaction_threshold
    }

    /// The world at `t` lengths of the stream after its start.
    pub(super) fn moment(&self, t: f64) -> Moment<'_> {
        let era = usize::from(t >= 0.5);
        Moment { latents: &self.latents, coefficients: &self.coefficients[era], era, t }
    }

    fn probe(&mut self) {
        let mut rng = generator(self.config.seed, Purpose::Probe);
        let mut satisfactions = Vec::new();
        let (mut watched_ms, mut views) = (0.0, 0.0);
        for request in 0..PROBE_REQUESTS {
            let moment = self.moment(f64::from(request) / f64::from(PROBE_REQUESTS));
            let user = self.latents.by_activity.sample(&mut rng);
            let mood = draw_mood(&mut rng);
            for (position, video) in moment.retrieve_request(user, &mut rng).into_iter().enumerate() {
                let draw = moment.view(user, video, position, mood, &mut rng);
                if moment.era == 0 {
                    watched_ms += f64::from(draw.watched_ms);
                    views += 1.0;
                }
                if draw.triggered() {
                    satisfactions.push(draw.mean_satisfaction);
                }
            }
        }
        satisfactions.sort_by(f64::total_cmp);
        let index = (satisfactions.len() as f64 * DISSATISFIED_SHARE) as usize;
        self.satisfaction_threshold = satisfactions.get(index).copied().unwrap_or_default();
        self.mean_watched_ms = watched_ms / views;
    }

    /// The logged form of a view, without a word about the questionnaire.
    pub(super) fn behavior_event(&self, draw: &ViewDraw, ids: ViewIds) -> BehaviorEvent {
        let video = &self.latents.videos[ids.video];
        // Ids are dense, so that `id mod rows` never collides in tables as large as the world.
        let sparse = [ids.user, ids.video, video.author, video.topic]
            .into_iter()
            .zip(1..)
            .map(|(id, field)| SparseFeature { field, ids: vec![id as u64] });
        BehaviorEvent {
            impression_id: format!("{}-{}", ids.request.name, ids.index),
            user_id: format!("u{}", ids.user),
            video_id: format!("v{}", ids.video),
            request_id: ids.request.name,
            scenario: SCENARIOS
                .get(ids.request.scenario)
                .map_or_else(|| format!("scenario-{}", ids.request.scenario), ToString::to_string),
            event_time_ms: ids.event_time_ms,
            engagement: Some(Engagement {
                watched_ms: draw.watched_ms,
                duration_ms: draw.duration_ms,
                liked: draw.liked,
                followed: draw.followed,
                commented: draw.commented,
                forwarded: draw.forwarded,
                ..Engagement::default()
            }),
            questionnaire_exposed: None,
            features: Some(Features {
                dense: draw.dense.to_vec(),
                sparse: sparse.collect(),
                schema_version: self.config.schema_version,
            }),
            request_time_ms: ids.request.time_ms,
        }
    }
}

const SCENARIOS: [&str; 3] = ["feed", "following", "search"];
const _: () = assert!(DENSE_FEATURES == 16);

pub(super) struct RequestIds {
    pub name: String,
    pub scenario: usize,
    pub time_ms: i64,
}

pub(super) struct ViewIds {
    pub user: usize,
    pub video: usize,
    pub request: RequestIds,
    /// Within the request.
    pub index: usize,
    pub event_time_ms: i64,
}
