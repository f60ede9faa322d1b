//! What is published is what followers load, whole or not at all (invariant 8).

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use easq::contract::v1;
use easq::kafka::GroupMetadata;
use easq::kafka::ownership::{Owned, Ownership};
use easq::publish::registry::{PIN, PRODUCTION, Registry};
use easq::publish::{Candidate, files};
use easq::settings::Settings;
use support::model::{DEADLINE, Model, candidate, current_tensors, loaded, pointer, small_pages};
use support::{Kafka, eventually, eventually_some};

#[test]
fn a_follower_loads_exactly_what_was_published_but_for_the_training_state() {
    let mut model = Model::new(&small_pages("exactly"));
    let published = model.publish(candidate(10));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut follower = model.follow(dir.path());
    loaded(&mut follower, 1);
    assert!(follower.is_up_to_date());

    let mut expected = candidate(10).tensors;
    expected.retain(|tensor| !tensor.name.starts_with("training."));
    assert_eq!(current_tensors(dir.path()), expected);
    let written = files::read_manifest(&dir.path().join("current")).expect("a manifest");
    assert_eq!(written, *published.manifest);
    assert_eq!(written.tensors.len(), 4, "the manifest is that of the checkpoint");
}

#[test]
fn a_follower_reads_only_pages_that_changed_and_so_does_a_publish_write() {
    let mut model = Model::new(&small_pages("changed"));
    assert_eq!(model.publish(candidate(10)).pages_written, 6);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut follower = model.follow(dir.path());
    assert_eq!(loaded(&mut follower, 1), 5);

    let second = model.publish(candidate(11));
    assert_eq!(second.pages_written, 2, "the bias, and training.step");
    assert_eq!(loaded(&mut follower, 2), 1, "the bias");
    let pages = || Kafka::shared().read_to_end(&model.page_topic()).len();
    eventually(DEADLINE, "8 pages are visible", || pages() == 8);
    drop(follower);

    // A follower that starts again has the pages of what lies in its folder.
    let mut again = model.follow(dir.path());
    assert_eq!(again.current(), Some(2));
    model.publish(candidate(12));
    assert_eq!(loaded(&mut again, 3), 1);
    assert_eq!(current_tensors(dir.path())[1].data, Bytes::copy_from_slice(&12_u64.to_le_bytes()));
}

#[test]
fn the_pin_is_followed_instead_of_production_and_pinned_versions_are_kept() {
    let mut model = Model::new(&small_pages("pinned"));
    model.publish(candidate(11));
    model.write(&[(PIN.to_owned(), pointer(1))]);
    for step in 12..18 {
        model.publish(candidate(step));
    }
    let kept: BTreeSet<u64> = model.registry().versions.into_keys().collect();
    assert_eq!(kept, BTreeSet::from([1, 6, 7]));
    let dir = tempfile::tempdir().expect("a temporary folder");
    loaded(&mut model.follow(dir.path()), 1);
}

#[test]
fn a_pin_counts_in_the_next_publish_after_it_was_written() {
    let mut model = Model::new(&small_pages("fresh"));
    (11..13).for_each(|step| _ = model.publish(candidate(step)));
    for step in 13..23 {
        // The publish that follows keeps two others: the newest, and its own.
        let versions = &model.publisher.registry().versions;
        let pinned = *versions.keys().rev().nth(1).expect("two versions");
        model.write(&[(PIN.to_owned(), pointer(pinned))]);
        model.publish(candidate(step));
        let kept: Vec<u64> = model.publisher.registry().versions.keys().copied().collect();
        assert_eq!(kept, [pinned, pinned + 1, pinned + 2], "step {step}");
    }
}

#[test]
fn no_reader_sees_a_pointer_before_its_version_is_whole() {
    let mut model = Model::new(&small_pages("atomic"));
    let written: usize = (10..20).map(|step| model.publish(candidate(step)).pages_written).sum();
    model.registry();
    let pages = eventually_some(DEADLINE, "all pages are visible", || {
        let pages = Kafka::shared().read_to_end(&model.page_topic());
        (pages.len() == written).then(|| pages.iter().map(|page| page.offset).collect::<BTreeSet<i64>>())
    });
    let mut registry = Registry::default();
    let mut promoted = 0;
    for record in Kafka::shared().read_to_end(&model.registry_topic()) {
        let key = record.key.expect("a key");
        registry.apply(&model.settings.model.name, &key, record.payload.as_deref());
        if key == PRODUCTION.as_bytes() {
            promoted += 1;
            let manifest = registry.production_manifest().expect("production has its manifest");
            let offsets = manifest.tensors.iter().flat_map(|tensor| &tensor.pages).map(|page| page.offset);
            assert!(offsets.into_iter().all(|offset| pages.contains(&offset)), "all its pages are there");
        }
    }
    assert_eq!(promoted, 10);
}

#[test]
fn an_owner_that_has_lost_the_model_publishes_nothing() {
    // A publisher waits for as long as a session lasts to hear of another membership.
    let line = small_pages("fenced").set("train.session_timeout_ms", 6_000);
    let mut model = Model::new(&line.set("train.heartbeat_interval_ms", 1_000));
    model.publish(candidate(10));
    let lost: GroupMetadata = model.ownership.group_metadata().expect("owned");
    let before = model.registry();
    // Leaving the group and joining it anew begins another generation.
    let settings = model.settings.clone();
    drop(std::mem::replace(&mut model.ownership, own_elsewhere(&settings)));
    eventually(DEADLINE, "another member owns the model", || {
        model.ownership.poll(Duration::from_millis(20)).expect("a membership") == Owned::Yes
    });
    let refused = model.publisher.publish(candidate(11), &|| Some(lost.clone()));
    let refused = refused.expect_err("published with a membership that is over");
    assert!(refused.is_fenced(), "{refused}");
    assert_eq!(model.registry(), before);
    let none = model.publisher.publish(candidate(12), &|| None).expect_err("not the owner");
    assert!(none.is_fenced());
}

/// A membership that waits for its turn.
fn own_elsewhere(settings: &Settings) -> Ownership {
    let group = format!("easq-trainer-{}", settings.model.name);
    let topic = settings.topics.registry(&settings.model.name);
    Ownership::join(settings, &group, &topic).expect("a valid configuration")
}

#[test]
fn version_numbers_go_on_after_a_restart_and_nothing_behind_production_is_promoted() {
    let learned = |offset| {
        let range =
            v1::LearnedRange { topic: "t".to_owned(), next_offset: offset, ..v1::LearnedRange::default() };
        Candidate { inputs: vec![range], ..candidate(11) }
    };
    let line = small_pages("numbers");
    let mut model = Model::new(&line);
    model.publish(candidate(10));
    assert_eq!(model.publish(learned(50)).manifest.parent, Some(1));
    drop(model);

    let mut again = Model::take_over(&line);
    let behind = again.publish(learned(49)).manifest;
    assert_eq!(behind.version, 3);
    assert!(!behind.gate.as_ref().is_some_and(|gate| gate.promoted));
    assert_eq!(again.registry().followed(), Some(2));
    assert_eq!(again.publish(learned(50)).manifest.version, 4);
    assert_eq!(again.registry().followed(), Some(4));
}
