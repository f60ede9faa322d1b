//! The world's promises: reproducible, and near the figures of the model's prototype.

use prost::Message as _;

use super::*;
use crate::contract::v1::QuestionnaireResponse;
use crate::settings::Settings;

fn config(seed: u64, views: u64) -> WorldConfig {
    let simulate = crate::settings::Simulate { seed, ..Settings::default().simulate };
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
    assert_ne!(first, bytes(&world(config(8, 2000))));
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
        views
            .map(|simulated| crate::contract::v1::BehaviorEvent {
                questionnaire_exposed: None,
                ..simulated.view
            })
            .collect()
    };
    assert_eq!(unasked(&few), unasked(&many));
    let (few, many) = (responses(&few), responses(&many));
    assert!(few.len() < many.len() && few.iter().all(|response| many.contains(response)));
}
