//! The world in time: users' sessions, the ends of their views, and when each record arrives.
//!
//! Sessions begin at a rate that is as good as constant, and are in their steady state from the first moment. A
//! session is a few requests; the views of a request are watched one after the other, and each is
//! drawn when the one before has ended, so memory grows with the users at work, not with the
//! stream. A view's record arrives up to 45 seconds after its end, an answer a second or two after
//! it was given: some answers come before their views, and no record is late by a minute.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use super::coefficients::{MAX_REQUEST_VIEWS, MIN_REQUEST_VIEWS};
use super::questionnaire::{Questioned, Questionnaire};
use super::views::{ViewDraw, draw_mood};
use super::world::{Purpose, RequestIds, ViewIds, World, generator};
use crate::contract::v1::{BehaviorEvent, QuestionnaireResponse};

/// The mean number of requests of a session.
const SESSION_REQUESTS: f64 = 4.0;
const MEAN_REQUEST_VIEWS: f64 = (MIN_REQUEST_VIEWS + MAX_REQUEST_VIEWS) as f64 / 2.0;
/// Between two views, and between two requests.
const SWIPE_MS: std::ops::Range<f64> = 300.0..1000.0;
const REQUEST_PAUSE_MS: std::ops::Range<f64> = 500.0..3000.0;
/// Share of the view records that the app sends in a batch, and how long that takes.
const BATCHED_SHARE: f64 = 0.05;
const BATCHED_MS: std::ops::Range<f64> = 5_000.0..45_000.0;
const MAX_DIRECT_MS: f64 = 20_000.0;

/// A record and when it reaches the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Unix milliseconds; at most 45 seconds after the event time.
    pub arrived_ms: i64,
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    View(Box<SimulatedView>),
    Response(QuestionnaireResponse),
}

#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedView {
    pub view: BehaviorEvent,
    pub truth: ViewTruth,
}

/// What only the world knows about a view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewTruth {
    /// Whether it satisfied: satisfaction above the threshold.
    pub satisfied: bool,
    /// Satisfaction above the threshold, on the world's own scale.
    pub satisfaction: f64,
    /// Watched long enough for a questionnaire.
    pub triggered: bool,
    /// The questionnaire was shown.
    pub exposed: bool,
    /// And the user gave an answer.
    pub answered: bool,
}

struct Session {
    user: usize,
    request: u64,
    request_time_ms: i64,
    scenario: usize,
    videos: Vec<usize>,
    position: usize,
    mood: f64,
    watching: ViewDraw,
}

/// See [`World::events`].
pub struct Stream<'a> {
    world: &'a World,
    sessions_rng: ChaCha8Rng,
    views_rng: ChaCha8Rng,
    delivery_rng: ChaCha8Rng,
    questionnaire: Questionnaire,
    /// Sessions by the end of the view that they watch; the number breaks ties, and finds the
    /// session in `sessions`.
    ends: BinaryHeap<Reverse<(i64, usize)>>,
    /// A slot is reused when its session is over.
    sessions: Vec<Option<Session>>,
    free_slots: Vec<usize>,
    next_session_ms: f64,
    requests: u64,
    remaining_views: u64,
    pending: BinaryHeap<Reverse<Pending>>,
    sequence: u64,
}

/// A record under way, ordered by arrival, then by the order in which it was sent.
struct Pending {
    arrived_ms: i64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Pending {}
impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.arrived_ms, self.sequence).cmp(&(other.arrived_ms, other.sequence))
    }
}

impl<'a> Stream<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let config = world.config();
        let views_per_ms = config.views as f64 / config.span_ms as f64;
        let mut stream = Self {
            world,
            sessions_rng: generator(config.seed, Purpose::Sessions),
            views_rng: generator(config.seed, Purpose::Views),
            delivery_rng: generator(config.seed, Purpose::Delivery),
            questionnaire: Questionnaire::new(world),
            ends: BinaryHeap::new(),
            sessions: Vec::new(),
            free_slots: Vec::new(),
            next_session_ms: config.start_ms as f64,
            requests: 0,
            remaining_views: config.views,
            pending: BinaryHeap::new(),
            sequence: 0,
        };
        let mean_view_ms = world.mean_watched_ms + (SWIPE_MS.start + SWIPE_MS.end) / 2.0;
        stream.begin_in_steady_state((views_per_ms * mean_view_ms).round() as u64, mean_view_ms);
        stream
    }

    /// `count` sessions that are somewhere in a request when the stream begins. How many requests
    /// a session has left does not depend on how many it had, so nothing else is missing.
    fn begin_in_steady_state(&mut self, count: u64, mean_view_ms: f64) {
        let start_ms = self.world.config().start_ms;
        for _ in 0..count {
            let mut session = self.begin_session(start_ms);
            session.position = self.sessions_rng.random_range(0..session.videos.len());
            self.watch(&mut session);
            let elapsed: f64 = self.sessions_rng.random();
            let watched_ms = elapsed * f64::from(session.watching.watched_ms);
            let seen_ms = session.position as f64 * mean_view_ms;
            session.request_time_ms = start_ms - (watched_ms + seen_ms) as i64;
            let left_ms = f64::from(session.watching.watched_ms) - watched_ms;
            self.schedule(start_ms + left_ms as i64, session);
        }
    }

    /// The interval at which the views that are left fill the time that is left. It hardly moves;
    /// without it, chance would end a short stream a tenth of its span too early or too late.
    fn mean_session_interval_ms(&self) -> f64 {
        let config = self.world.config();
        let left_ms = (config.start_ms + config.span_ms) as f64 - self.next_session_ms;
        let left_ms = left_ms.max(0.02 * config.span_ms as f64);
        SESSION_REQUESTS * MEAN_REQUEST_VIEWS * left_ms / self.remaining_views.max(1) as f64
    }

    fn begin_session(&mut self, at_ms: i64) -> Session {
        let user = self.world.latents.by_activity.sample(&mut self.sessions_rng);
        self.begin_request(user, at_ms)
    }

    fn begin_request(&mut self, user: usize, at_ms: i64) -> Session {
        let videos = self.world.moment(self.t(at_ms)).retrieve_request(user, &mut self.views_rng);
        let mood = draw_mood(&mut self.views_rng);
        let scenario = self.sessions_rng.random_range(0..self.world.config().scenarios);
        let request = self.requests;
        self.requests += 1;
        let watching = ViewDraw::default();
        Session { user, request, request_time_ms: at_ms, scenario, videos, position: 0, mood, watching }
    }

    fn t(&self, at_ms: i64) -> f64 {
        let config = self.world.config();
        ((at_ms - config.start_ms) as f64 / config.span_ms as f64).clamp(0.0, 1.0)
    }

    /// Draws the view at the session's position.
    fn watch(&mut self, session: &mut Session) {
        let moment = self.world.moment(self.t(session.request_time_ms));
        let video = session.videos[session.position];
        session.watching =
            moment.view(session.user, video, session.position, session.mood, &mut self.views_rng);
    }

    fn schedule(&mut self, end_ms: i64, session: Session) {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        self.sessions[slot] = Some(session);
        self.ends.push(Reverse((end_ms, slot)));
    }

    fn start_watching(&mut self, mut session: Session, from_ms: f64) {
        self.watch(&mut session);
        self.schedule((from_ms + f64::from(session.watching.watched_ms)) as i64, session);
    }

    /// The time of the next thing that users do; `None` when the stream's views are all sent.
    fn next_action_ms(&self) -> Option<i64> {
        if self.remaining_views == 0 {
            return None;
        }
        let session_ms = self.next_session_ms as i64;
        Some(self.ends.peek().map_or(session_ms, |Reverse((end_ms, _))| session_ms.min(*end_ms)))
    }

    fn act(&mut self) {
        match self.ends.peek() {
            Some(&Reverse((end_ms, slot))) if end_ms <= self.next_session_ms as i64 => {
                self.ends.pop();
                self.free_slots.push(slot);
                if let Some(session) = self.sessions[slot].take() {
                    self.end_view(session, end_ms);
                }
            }
            _ => {
                let begin_ms = self.next_session_ms;
                let interval: f64 = self.sessions_rng.sample(Exp1);
                self.next_session_ms += interval * self.mean_session_interval_ms();
                let session = self.begin_session(begin_ms as i64);
                self.start_watching(session, begin_ms);
            }
        }
    }

    fn end_view(&mut self, mut session: Session, end_ms: i64) {
        self.remaining_views -= 1;
        self.send_view(&session, end_ms);
        session.position += 1;
        if session.position < session.videos.len() {
            let from_ms = end_ms as f64 + self.sessions_rng.random_range(SWIPE_MS);
            self.start_watching(session, from_ms);
        } else if self.sessions_rng.random::<f64>() >= 1.0 / SESSION_REQUESTS {
            let from_ms = end_ms as f64 + self.sessions_rng.random_range(REQUEST_PAUSE_MS);
            let session = self.begin_request(session.user, from_ms as i64);
            self.start_watching(session, from_ms);
        }
    }

    fn send_view(&mut self, session: &Session, end_ms: i64) {
        let draw = &session.watching;
        let config = self.world.config();
        let mut view = self.world.behavior_event(
            draw,
            ViewIds {
                user: session.user,
                video: session.videos[session.position],
                request: RequestIds {
                    name: format!("w{}-{}", config.seed, session.request),
                    scenario: session.scenario,
                    time_ms: session.request_time_ms,
                },
                index: session.position,
                event_time_ms: end_ms,
            },
        );
        let satisfaction = self.world.relative_satisfaction(draw);
        let activity = self.world.latents.users[session.user].activity;
        let asked = self.questionnaire.ask(satisfaction, activity, draw.triggered());
        if config.log_exposure {
            view.questionnaire_exposed = Some(asked.exposed);
        }
        if let Some(answer) = asked.answer {
            self.send_response(&view, answer);
        }
        let truth = ViewTruth {
            satisfied: satisfaction > 0.0,
            satisfaction,
            triggered: draw.triggered(),
            exposed: asked.exposed,
            answered: asked.answer.is_some(),
        };
        let delay_ms = self.delivery_delay_ms();
        self.send(end_ms + delay_ms, Event::View(Box::new(SimulatedView { view, truth })));
    }

    fn send_response(&mut self, view: &BehaviorEvent, answered: Questioned) {
        let event_time_ms = view.event_time_ms + answered.delay_ms;
        let response = QuestionnaireResponse {
            impression_id: view.impression_id.clone(),
            user_id: view.user_id.clone(),
            video_id: view.video_id.clone(),
            scenario: view.scenario.clone(),
            event_time_ms,
            answer: answered.answer.into(),
            questionnaire_id: "satisfaction-v1".to_owned(),
        };
        self.send(event_time_ms + answered.delivery_ms, Event::Response(response));
    }

    fn delivery_delay_ms(&mut self) -> i64 {
        let direct: f64 = self.delivery_rng.sample(Exp1);
        let batched = self.delivery_rng.random_range(BATCHED_MS);
        let is_batched = self.delivery_rng.random::<f64>() < BATCHED_SHARE;
        let delay_ms = if is_batched { batched } else { (1000.0 * direct).min(MAX_DIRECT_MS) };
        delay_ms as i64
    }

    fn send(&mut self, arrived_ms: i64, event: Event) {
        self.sequence += 1;
        self.pending.push(Reverse(Pending { arrived_ms, sequence: self.sequence, event }));
    }
}

impl Iterator for Stream<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        // What users do at a time arrives then or later, so the earliest arrival before the next
        // action is the next of all.
        while let Some(action_ms) = self.next_action_ms() {
            if self.pending.peek().is_some_and(|Reverse(pending)| pending.arrived_ms < action_ms) {
                break;
            }
            self.act();
        }
        self.pending.pop().map(|Reverse(Pending { arrived_ms, event, .. })| Arrival { arrived_ms, event })
    }
}
