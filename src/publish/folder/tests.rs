use super::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A version all of whose tensors are made of its number, one of them LoRA: in a file of its own.
fn version(number: u64) -> (v1::Manifest, Vec<HostTensor>) {
    let values = vec![number as f64; 64];
    let tensors = ["projection.lora_A.weight", "projection.weight"]
        .map(|name| HostTensor::from_f64(name, vec![8, 8], &values))
        .to_vec();
    let mut manifest = super::super::registry::tests::manifest(number, v1::VersionKind::Serving);
    let plan = super::super::pages::PagePlan::new(&tensors, 256, &Default::default());
    manifest.tensors = plan.placed(&(0..plan.writes.len() as i64).collect::<Vec<_>>());
    (manifest, tensors)
}

fn folder() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::open(dir.path()).expect("opened");
    (dir, folder)
}

fn paged(tensors: &[HostTensor]) -> Vec<PagedTensor> {
    tensors.iter().map(PagedTensor::from).collect()
}

fn put(folder: &mut Folder, number: u64) {
    let (manifest, tensors) = version(number);
    folder.put(&manifest, &paged(&tensors), || Ok(())).expect("put");
}

/// What lies below `versions`, but for what is just being removed.
fn names(dir: &Path) -> BTreeSet<String> {
    let mut names = all_names(dir);
    names.retain(|name| !name.starts_with(TEMPORARY));
    names
}

fn all_names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir.join(VERSIONS)).expect("the versions");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Flips a bit in the last byte of a version's model.
fn damage(dir: &Path, name: &str) {
    let model = dir.join(VERSIONS).join(name).join(files::MODEL);
    let mut bytes = fs::read(&model).expect("the model");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&model, bytes).expect("damaged");
}

fn named<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn current_points_to_the_version_put_last_and_older_ones_go() {
    let (dir, mut folder) = folder();
    for number in 1..=4 {
        put(&mut folder, number);
        folder.prune(2);
    }
    assert_eq!(folder.take_up("m").expect("whole"), version(4));
    assert_eq!(read_current(dir.path()).expect("whole"), version(4));
    assert_eq!(names(dir.path()), named(["3", "4"]));
    drop(folder);
    assert_eq!(all_names(dir.path()), named(["3", "4"]), "nothing is left of those that went");
}

#[test]
fn a_version_is_open_to_whom_folders_and_files_are() {
    let (dir, mut folder) = folder();
    put(&mut folder, 1);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode();
    let place = current(dir.path()).expect("a version");
    assert_eq!(mode(&place), mode(&dir.path().join(VERSIONS)));
    for name in [files::MODEL, files::ADAPTER, files::ADAPTER_CONFIG, files::MANIFEST] {
        assert_eq!(mode(&place.join(name)), mode(&dir.path().join(LOCK)), "{name}");
    }
}

#[test]
fn the_version_that_readers_may_still_hold_stays_also_where_a_pin_leads_back() {
    let (dir, mut folder) = folder();
    for number in [7, 8, 9, 2, 1] {
        put(&mut folder, number);
        folder.prune(2);
    }
    assert_eq!(names(dir.path()), named(["1", "2"]));
    put(&mut folder, 2);
    folder.prune(2);
    assert_eq!(names(dir.path()), named(["1", "2-2"]));
    assert_eq!(read_current(dir.path()).expect("whole"), version(2));
    drop(folder);
    let mut again = Folder::open(dir.path()).expect("opened again");
    put(&mut again, 3);
    again.prune(2);
    assert_eq!(names(dir.path()), named(["2-2", "3"]));
}

#[test]
fn invariant_8_a_version_that_was_damaged_on_disk_is_not_whole_and_not_offered() {
    let (dir, mut folder) = folder();
    put(&mut folder, 1);
    damage(dir.path(), "1");
    let error = read_current(dir.path()).expect_err("damaged");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(folder.take_up("m"), None);
    let error = read_current(dir.path()).expect_err("there is none");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    put(&mut folder, 1);
    assert!(folder.take_up("m").is_some());
}

/// As a power failure leaves them: what was written last had not reached the disk.
#[test]
fn invariant_8_where_the_newest_versions_are_torn_the_newest_whole_one_is_current_again() {
    let (dir, mut folder) = folder();
    (1..=5).for_each(|number| put(&mut folder, number));
    let file = |version: &str, name| dir.path().join(VERSIONS).join(version).join(name);
    fs::write(file("5", files::MODEL), []).expect("no byte of it is there");
    fs::write(file("4", files::MANIFEST), [0; 200]).expect("its length is all there is");
    damage(dir.path(), "3");
    drop(folder);
    let mut again = Folder::open(dir.path()).expect("opened again");
    assert_eq!(again.take_up("m").expect("whole"), version(2));
    assert_eq!(read_current(dir.path()).expect("whole"), version(2));
    assert_eq!(names(dir.path()), named(["1", "2"]), "nothing torn has a name");
    put(&mut again, 5);
    again.prune(2);
    assert_eq!(read_current(dir.path()).expect("whole"), version(5));
    assert_eq!(names(dir.path()), named(["2", "5"]));
}

#[test]
fn a_version_that_became_current_again_stays_as_long_as_any_other() {
    let (dir, mut folder) = folder();
    (1..=3).for_each(|number| put(&mut folder, number));
    drop(folder);
    // The newest is whole, and of a model that is not asked for.
    let manifest = dir.path().join(VERSIONS).join("3").join(files::MANIFEST);
    let text = fs::read_to_string(&manifest).expect("a manifest").replace("\"m\"", "\"other\"");
    fs::write(&manifest, text).expect("written");
    damage(dir.path(), "2");
    let mut again = Folder::open(dir.path()).expect("opened again");
    again.point_to("2").expect("pointed");
    assert_eq!(again.take_up("m").expect("whole"), version(1));
    put(&mut again, 4);
    again.prune(2);
    assert_eq!(names(dir.path()), named(["1", "4"]));
}

#[test]
fn a_version_that_cannot_become_current_leaves_nothing_behind() {
    let (dir, mut folder) = folder();
    put(&mut folder, 1);
    // In the way of the link that is to be renamed.
    fs::create_dir(dir.path().join(format!("{TEMPORARY}current"))).expect("made");
    let (manifest, tensors) = version(2);
    assert!(folder.put(&manifest, &paged(&tensors), || Ok(())).is_err());
    drop(folder);
    assert_eq!(all_names(dir.path()), named(["1"]));
    assert_eq!(read_current(dir.path()).expect("whole"), version(1));
}

#[test]
fn another_model_in_the_folder_stays_until_there_is_a_version_to_replace_it() {
    let (dir, mut folder) = folder();
    put(&mut folder, 1);
    assert_eq!(folder.take_up("another"), None);
    assert_eq!(read_current(dir.path()).expect("whole"), version(1));
}

#[test]
fn what_a_killed_follower_left_is_removed_and_the_current_version_stays() {
    let (dir, mut folder) = folder();
    put(&mut folder, 1);
    let leftover = dir.path().join(VERSIONS).join(".easq-killed");
    fs::create_dir(&leftover).expect("a leftover");
    drop(folder);
    let mut reopened = Folder::open(dir.path()).expect("opened again");
    assert!(!leftover.exists());
    assert!(reopened.take_up("m").is_some());
}

#[test]
fn invariant_8_a_version_that_does_not_pass_its_check_is_never_in_place() {
    let (dir, mut folder) = folder();
    put(&mut folder, 1);
    let (manifest, tensors) = version(2);
    let damaged = || Err::<(), _>(super::super::manifest::ManifestError::Damaged.into());
    assert!(folder.put(&manifest, &paged(&tensors), damaged).is_err());
    assert_eq!(read_current(dir.path()).expect("whole"), version(1));
    assert_eq!(all_names(dir.path()), named(["1"]));
}

#[test]
fn one_follower_keeps_a_folder() {
    let (dir, folder) = folder();
    let refused = Folder::open(dir.path()).err().expect("it is taken");
    assert!(refused.to_string().contains("another follower"), "{refused}");
    drop(folder);
    Folder::open(dir.path()).expect("it is free again");
}

/// What readers of [`race`] have found.
#[derive(Default)]
struct Seen {
    whole: AtomicU64,
    /// Reads that ended since the version was gone.
    overtaken: AtomicU64,
    is_over: AtomicBool,
}

const KEPT: u64 = 3;

/// Opens what `current` points to, then reads file after file of it, as rankers do.
fn race(dir: &Path, seen: &Seen) {
    let mut newest = 0;
    while !seen.is_over.load(Ordering::Relaxed) {
        let path = current(dir).expect("`current` is never absent");
        let number: u64 = path.file_name().expect("a name").to_string_lossy().parse().expect("a number");
        assert!(number >= newest, "version {number} after {newest}");
        newest = number;
        match read_whole(&path) {
            Ok(read) => {
                assert_eq!(read, version(number), "all files are of version {number}");
                seen.whole.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound, "version {number}: {error}");
                let now = current(dir).expect("`current` is never absent");
                let now: u64 = now.file_name().expect("a name").to_string_lossy().parse().expect("a number");
                assert!(now >= number + KEPT, "version {number} is gone, {now} is current");
                seen.overtaken.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn invariant_8_readers_that_race_with_a_thousand_swaps_see_one_whole_version_each_time() {
    let (dir, mut folder) = folder();
    put(&mut folder, 1);
    let seen = Seen::default();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| race(dir.path(), &seen))).collect();
        for number in 2..=1_001 {
            put(&mut folder, number);
            folder.prune(KEPT as usize);
            if readers.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        seen.is_over.store(true, Ordering::Relaxed);
    });
    let (whole, overtaken) = (seen.whole.into_inner(), seen.overtaken.into_inner());
    println!("{whole} whole versions read, {overtaken} reads overtaken by {KEPT} swaps");
    assert!(whole > 1_000, "{whole} reads say little");
    assert_eq!(read_current(dir.path()).expect("whole"), version(1_001));
    assert_eq!(names(dir.path()), named(["999", "1000", "1001"]));
}
