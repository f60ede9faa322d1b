//! The world's promises: reproducible, near the figures of the model's prototype, with exactly the
//! faults that its truth tells of.

mod faults;
mod figures;

use prost::Message as _;

use super::stream::{Event, SimulatedView};
use super::world::HELD_OUT_NEGATIVES;
use super::*;
use crate::contract::v1::{BehaviorEvent, QuestionnaireResponse};
use crate::settings::{Settings, Simulate};

fn config(seed: u64, views: u64) -> WorldConfig {
    let simulate = Simulate { seed, ..Settings::default().simulate };
    WorldConfig { views, ..WorldConfig::new(&simulate, 1) }
}

fn world(config: WorldConfig) -> World {
    World::new(config).expect("the configuration is valid")
}

fn bytes(world: &World) -> Vec<u8> {
    let mut bytes = Vec::new();
    for arrival in world.events() {
        bytes.extend_from_slice(&arrival.arrived_ms.to_le_bytes());
        match arrival.event {
            Event::View(simulated) => bytes.extend(simulated.view.encode_to_vec()),
            Event::Response(response) => bytes.extend(response.encode_to_vec()),
        }
    }
    bytes
}

fn views(world: &World) -> Vec<SimulatedView> {
    let views = world.events().filter_map(|arrival| match arrival.event {
        Event::View(view) => Some(*view),
        Event::Response(_) => None,
    });
    views.collect()
}

fn responses(world: &World) -> Vec<QuestionnaireResponse> {
    let responses = world.events().filter_map(|arrival| match arrival.event {
        Event::View(_) => None,
        Event::Response(response) => Some(response),
    });
    responses.collect()
}

#[test]
fn equal_seeds_give_equal_bytes_and_unlike_seeds_do_not() {
    let first = bytes(&world(config(7, 2000)));
    assert_eq!(first, bytes(&world(config(7, 2000))));
    // Names hold the seed; what people do must differ as well.
    let engagement = |seed| -> Vec<_> {
        views(&world(config(seed, 2000))).into_iter().map(|simulated| simulated.view.engagement).collect()
    };
    assert_ne!(engagement(7), engagement(8));
}

#[test]
fn the_number_of_views_is_exact() {
    for count in [0, 1, 999, 5000] {
        assert_eq!(views(&world(config(1, count))).len() as u64, count);
    }
}

#[test]
fn more_exposure_only_adds_answers_to_the_same_views() {
    let few = world(WorldConfig { exposure: 0.2, ..config(3, 5000) });
    let many = world(WorldConfig { exposure: 0.8, ..config(3, 5000) });
    let unasked = |world: &World| -> Vec<_> {
        let views = views(world).into_iter();
        views.map(|simulated| BehaviorEvent { questionnaire_exposed: None, ..simulated.view }).collect()
    };
    assert_eq!(unasked(&few), unasked(&many));
    let (few, many) = (responses(&few), responses(&many));
    assert!(few.len() < many.len() && few.iter().all(|response| many.contains(response)));
}

#[test]
fn the_stream_takes_its_span_from_the_first_view_on() {
    let world = world(config(2, 20_000));
    let (start_ms, span_ms) = (world.config().start_ms, world.config().span_ms);
    let ends: Vec<i64> = views(&world).iter().map(|simulated| simulated.view.event_time_ms).collect();
    let quarter = |n: i64| {
        let from_ms = start_ms + n * span_ms / 4;
        ends.iter().filter(|end| (from_ms..from_ms + span_ms / 4).contains(*end)).count()
    };
    // Steady from the first moment; sessions come in their number and length by chance.
    let quarters = [0, 1, 2, 3].map(quarter);
    assert!(quarters.iter().all(|views| (3500..6500).contains(views)), "{quarters:?}");
    let last_ms = ends.iter().max().expect("there are views") - start_ms;
    assert!((span_ms * 24 / 25..span_ms * 26 / 25).contains(&last_ms), "{last_ms} of {span_ms}");
}

#[test]
fn a_stream_is_in_its_steady_state_from_the_first_minute_on() {
    let world = world(WorldConfig { span_ms: 3_600_000, ..config(2, 20_000) });
    let (start_ms, span_ms) = (world.config().start_ms, world.config().span_ms);
    let early = |simulated: &&SimulatedView| simulated.view.event_time_ms < start_ms + span_ms / 60;
    let count = views(&world).iter().filter(early).count();
    assert!((200..500).contains(&count), "{count} views in the first minute, expected 333");
}

#[test]
fn records_arrive_in_order_at_most_45_seconds_after_they_happened() {
    let mut last_ms = i64::MIN;
    for arrival in world(WorldConfig { exposure: 1.0, ..config(4, 20_000) }).events() {
        let event_time_ms = match &arrival.event {
            Event::View(simulated) => simulated.view.event_time_ms,
            Event::Response(response) => response.event_time_ms,
        };
        assert!(arrival.arrived_ms >= last_ms);
        assert!((0..=45_000).contains(&(arrival.arrived_ms - event_time_ms)));
        last_ms = arrival.arrived_ms;
    }
}

#[test]
fn some_answers_arrive_before_their_views() {
    let world = world(WorldConfig { exposure: 1.0, answer_rate: 1.0, ..config(5, 5000) });
    let mut viewed = std::collections::HashSet::new();
    let (mut before, mut after) = (0, 0);
    for arrival in world.events() {
        match arrival.event {
            Event::View(simulated) => {
                viewed.insert(simulated.view.impression_id);
            }
            Event::Response(response) if viewed.contains(&response.impression_id) => after += 1,
            Event::Response(_) => before += 1,
        }
    }
    assert!(before > 20 && after > 20 * before, "{before} before, {after} after");
}

#[test]
fn a_world_that_cannot_be_is_refused_by_name() {
    let refused = |config: WorldConfig| World::new(config).expect_err("out of range").key;
    assert_eq!(refused(WorldConfig { users: 0, ..config(1, 1) }), "users");
    assert_eq!(refused(WorldConfig { exposure: 1.5, ..config(1, 1) }), "exposure");
    assert_eq!(refused(WorldConfig { answer_rate: f64::NAN, ..config(1, 1) }), "answer_rate");
    assert_eq!(refused(WorldConfig { span_ms: 0, ..config(1, 1) }), "span_ms");
    assert_eq!(refused(WorldConfig { start_ms: 0, ..config(1, 1) }), "start_ms");
}

#[test]
fn held_out_lists_are_the_same_whatever_their_number_and_apart_from_the_stream() {
    let world = world(config(6, 1000));
    let lists = world.held_out_lists(30);
    assert_eq!(lists.len(), 30);
    assert_eq!(lists[..10], world.held_out_lists(10)[..]);
    let streamed: std::collections::HashSet<_> =
        views(&world).into_iter().map(|simulated| simulated.view.impression_id).collect();
    for list in &lists {
        assert_eq!(list.views.len(), 1 + HELD_OUT_NEGATIVES);
        assert!(list.views.iter().all(|view| view.user_id == list.views[0].user_id));
        assert!(list.views.iter().all(|view| !streamed.contains(&view.impression_id)));
    }
}
