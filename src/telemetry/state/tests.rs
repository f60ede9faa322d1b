use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn of(roles: &[Role]) -> State {
    let state = State::default();
    let (command, model) = ("run", "main".to_owned());
    let purpose =
        Purpose { command, roles: roles.to_vec(), joiner_instances: 2, model, unready_after: PATIENCE };
    state.begin(purpose);
    state
}

fn not_ready(state: &State) -> String {
    state.known().not_ready(Instant::now()).join("; ")
}

fn not_ready_later(state: &State) -> String {
    state.known().not_ready(Instant::now() + PATIENCE + Duration::from_secs(1)).join("; ")
}

#[test]
fn a_joiner_is_ready_once_every_instance_has_its_partitions_and_their_states() {
    let state = of(&[Role::Joiner]);
    assert!(not_ready(&state).contains("joiner: instance 0 waits for its partitions"));
    state.instance_is(0, InstanceState::Working);
    assert!(not_ready(&state).starts_with("joiner: instance 1 waits"));
    state.instance_is(1, InstanceState::Waiting);
    assert!(not_ready(&state).contains("waits for the brokers"));
    state.instance_is(1, InstanceState::Recovering { partitions: 3 });
    assert_eq!(not_ready(&state), "joiner: instance 1 is recovering 3 partitions");
    state.instance_is(1, InstanceState::Working);
    assert_eq!(not_ready(&state), "");
}

#[test]
fn a_trainer_is_ready_when_it_stands_by_and_when_it_trains() {
    let state = of(&[Role::Trainer]);
    assert!(not_ready(&state).contains("who owns the model"));
    state.trainer_is(TrainerState::StandingBy);
    assert_eq!(not_ready(&state), "");
    let state = of(&[Role::Trainer]);
    state.trainer_is(TrainerState::Loading { waits_for: Some("no answer".to_owned()) });
    assert_eq!(not_ready(&state), "trainer: waits for the brokers: no answer");
    state.trainer_is(TrainerState::Training);
    assert_eq!(not_ready(&state), "");
}

#[test]
fn a_process_is_ready_when_all_of_its_roles_are() {
    let state = of(&[Role::Joiner, Role::Trainer]);
    state.trainer_is(TrainerState::Training);
    (0..2).for_each(|instance| state.instance_is(instance, InstanceState::Joining));
    assert_eq!(state.known().ready(Instant::now()), [("joiner", false), ("trainer", true)]);
    assert!(!not_ready(&state).contains("trainer:"), "one that is well is no reason");
    (0..2).for_each(|instance| state.instance_is(instance, InstanceState::Working));
    assert_eq!(not_ready(&state), "");
}

#[test]
fn an_outage_holds_a_new_process_back_at_once_and_one_that_was_ready_after_a_while() {
    let state = of(&[Role::Trainer]);
    state.client_is_away("trainer groups", "connection refused");
    state.trainer_is(TrainerState::Training);
    assert_eq!(not_ready(&state), "trainer: no broker answers trainer groups: connection refused");
    assert!(state.client_is_back("trainer groups"));
    assert_eq!(not_ready(&state), "");

    state.client_is_away("trainer groups", "connection refused");
    assert_eq!(not_ready(&state), "", "it may pass");
    assert!(not_ready_later(&state).contains("connection refused"));
    // More trouble while there is some does not begin the time anew.
    let since = state.known().troubles[&Role::Trainer].since;
    state.trainer_is(TrainerState::Joining);
    assert_eq!(state.known().troubles[&Role::Trainer].since, since);
    state.trainer_is(TrainerState::Training);
    state.client_is_back("trainer groups");
    assert_eq!(not_ready_later(&state), "");
}

#[test]
fn of_clients_of_one_name_the_last_one_decides() {
    let state = of(&[Role::Joiner]);
    state.client_is_away("joiner member", "first");
    state.client_is_away("joiner member", "second");
    assert!(!state.client_is_back("joiner member"));
    assert!(not_ready(&state).contains("second"));
    assert!(state.client_is_back("joiner member"));
    assert!(state.client_is_back("joiner member"), "one that was never away");
    assert!(state.known().away.is_empty());
}

#[test]
fn a_follower_is_ready_with_its_first_version_whatever_the_brokers_do() {
    let state = of(&[Role::Follower]);
    assert_eq!(not_ready(&state), "follower: no version is in place yet");
    state.version_is_in_place();
    state.client_is_away("follower registry", "connection refused");
    assert_eq!(not_ready_later(&state), "");
}

#[test]
fn a_joiner_whose_input_is_gone_is_not_ready_until_it_is_back() {
    let state = of(&[Role::Joiner, Role::Trainer]);
    (0..2).for_each(|instance| state.instance_is(instance, InstanceState::Working));
    state.trainer_is(TrainerState::Training);
    state.input_is_missing("views");
    assert_eq!(not_ready(&state), "", "it may be back soon");
    assert_eq!(not_ready_later(&state), "joiner: input topic 'views' is not there any more");
    state.input_is_there("views");
    assert_eq!(not_ready_later(&state), "");
}
