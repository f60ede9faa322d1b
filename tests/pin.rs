//! What people say about versions: `easq model promote|rollback|unpin` on a model whose trainer goes on.

mod support;

use std::path::Path;
use std::time::Duration;

use easq::publish::{FollowEvent, Follower};
use easq::supervise::StopToken;
use support::lineage::registry;
use support::trainers::{PARTITIONS, SOON, Trainer, line, production_learns_all};
use support::{Easq, Line, Samples, eventually, eventually_some};

fn model(line: &Line, words: &[&str]) -> (Option<i32>, String) {
    let command: Vec<&str> = ["model"].into_iter().chain(words.iter().copied()).collect();
    let (status, output) = Easq::run(line.arguments(&command), SOON);
    (status.code(), output)
}

/// Polls until the follower has taken this version.
#[track_caller]
fn follows(follower: &mut Follower, version: u64) {
    eventually(SOON, &format!("the follower takes version {version}"), || {
        match follower.poll(Duration::from_millis(20)).expect("a registry that can be read") {
            Some(FollowEvent::Kept { reason, .. }) => panic!("{reason}"),
            _ => follower.is_up_to_date() && follower.current() == Some(version),
        }
    });
}

/// What a follower takes that begins now: it reads the whole registry first.
#[track_caller]
fn followed(line: &Line) -> u64 {
    let dir = tempfile::tempdir().expect("a folder");
    let mut follower = follower(line, dir.path());
    eventually_some(SOON, "a new follower has a version", || {
        follower.poll(Duration::from_millis(20)).expect("a registry that can be read");
        follower.current()
    })
}

fn follower(line: &Line, dir: &Path) -> Follower {
    Follower::new(&line.settings(), dir, 2, &StopToken::new()).expect("a follower")
}

fn production(line: &Line) -> u64 {
    registry(&line.settings()).production.expect("production").version
}

#[test]
fn people_roll_back_promote_and_let_go_while_the_trainer_goes_on() {
    let line = line("people").set("publish.keep_versions", 500);
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    let trainer = Trainer::start(&line);
    let dir = tempfile::tempdir().expect("a folder");
    let learn = |samples: &mut Samples| {
        samples.write(50);
        production_learns_all(&line);
    };
    learn(&mut samples);
    let mut follower = follower(&line, dir.path());
    let old = eventually_some(SOON, "the follower has a version", || {
        follower.poll(Duration::from_millis(20)).expect("a registry that can be read");
        follower.current()
    });
    learn(&mut samples);
    eventually(SOON, "production has moved", || production(&line) > old);

    let (code, output) = model(&line, &["rollback", &old.to_string(), "--reason", "worse in the experiment"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains(&format!("readers follow version {old} (pinned; production is ")), "{output}");
    let pin = registry(&settings).pin.expect("a pin");
    assert_eq!((pin.version, pin.reason.as_str()), (old, "worse in the experiment"));
    assert!(pin.written_at_ms > 1_700_000_000_000);
    follows(&mut follower, old);

    // The trainer goes on, the gate goes on moving production, and readers stay.
    let before = production(&line);
    learn(&mut samples);
    eventually(SOON, "production moves on under the pin", || production(&line) > before);
    assert_eq!(followed(&line), old);

    let newer = production(&line);
    let (code, output) = model(&line, &["promote", &newer.to_string(), "--reason", "better after all"]);
    assert_eq!(code, Some(0), "{output}");
    follows(&mut follower, newer);

    let (code, output) = model(&line, &["unpin"]);
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.contains(&format!("version {newer} is pinned no more: readers follow version ")),
        "{output}"
    );
    assert_eq!(registry(&settings).pin, None);
    learn(&mut samples);
    eventually(SOON, "readers follow production again", || followed(&line) == production(&line));
    let (code, output) = model(&line, &["unpin"]);
    assert_eq!((code, output.contains("nothing is pinned")), (Some(0), true), "{output}");
    trainer.stop();
}

#[test]
fn a_pin_that_makes_no_sense_is_refused_with_the_remedy_and_changes_nothing() {
    let line = line("refused").set("publish.keep_versions", 500);
    let settings = line.settings();
    let mut samples = Samples::new(&settings, PARTITIONS);
    let trainer = Trainer::start(&line);
    samples.write(50);
    production_learns_all(&line);
    let older = production(&line);
    eventually(SOON, "production has moved", || {
        samples.write(50);
        production(&line) > older
    });
    trainer.stop();
    let followed = production(&line);
    let older = older.to_string();
    let missing = (followed + 1_000).to_string();
    let followed = followed.to_string();
    for (words, remedy) in [
        (["promote", &missing, "--reason", "a typing error"], "easq model list"),
        (["rollback", &missing, "--reason", "a typing error"], "easq model list"),
        (["rollback", &followed, "--reason", "no older one"], "easq model promote"),
    ] {
        let (code, output) = model(&line, &words);
        assert_eq!((code, output.contains(remedy)), (Some(1), true), "{words:?}: {output}");
    }
    let (code, output) = model(&line, &["promote", &followed]);
    assert_eq!((code, output.contains("--reason")), (Some(2), true), "{output}");
    let (code, output) = model(&line, &["promote", &followed, "--reason", ""]);
    assert_eq!(code, Some(2), "{output}");
    assert_eq!(registry(&settings).pin, None);
    // To stay with what is followed now is a pin that makes sense.
    let (code, output) = model(&line, &["promote", &followed, "--reason", "stay"]);
    assert_eq!(code, Some(0), "{output}");
    let (code, output) = model(&line, &["promote", &older, "--reason", "backwards"]);
    assert_eq!((code, output.contains("easq model rollback")), (Some(1), true), "{output}");
}
