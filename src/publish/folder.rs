//! The folder that a follower keeps.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use crate::contract::v1;
use crate::model::HostTensor;
use crate::telemetry::events::{FolderFaulty, NotRemoved};

use super::error::PublishError;
use super::pages::sha256;
use super::{TRAINING_PREFIX, files, manifest};

const VERSIONS: &str = "versions";
const CURRENT: &str = "current";
/// Held as long as a follower keeps the folder: a second one would remove what the first one writes.
const LOCK: &str = ".lock";
/// Names that begin so are leftovers of a follower that was killed.
const TEMPORARY: &str = ".easq-";
/// A reader that finds its version gone looks again at most this often.
const LOOKS: usize = 10;

/// `current`, and the versions that it points to or pointed to.
///
/// A version's folder never changes once it has its name: a version that is written again gets
/// another one (`12-2`). So a reader that has resolved `current` reads files of one version until
/// that version is removed, which comes when as many others as are kept were put after it.
pub struct Folder {
    dir: PathBuf,
    /// Names below `versions`, in the order in which they were put.
    placed: Vec<String>,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and removes what a killed follower left half done.
    pub fn open(dir: &Path) -> Result<Self, PublishError> {
        let versions = dir.join(VERSIONS);
        fs::create_dir_all(&versions).map_err(PublishError::file(&versions))?;
        let path = dir.join(LOCK);
        let lock = File::create(&path).map_err(PublishError::file(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PublishError::FolderTaken { path: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(PublishError::file(&path)(error)),
        }
        for parent in [dir, &versions] {
            for entry in fs::read_dir(parent).map_err(PublishError::file(parent))?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                    remove(&entry.path());
                }
            }
        }
        let placed = placed(&versions).map_err(PublishError::file(&versions))?;
        Ok(Self { dir: dir.to_owned(), placed, _lock: lock })
    }

    fn versions(&self) -> PathBuf {
        self.dir.join(VERSIONS)
    }

    /// Whether a follower keeps `dir`, and has a version in it.
    pub fn is_followed(dir: &Path) -> bool {
        dir.join(CURRENT).is_symlink()
    }

    /// The folder of the version that `dir` holds: the current one of a follower's folder, else `dir`
    /// itself.
    pub fn version(dir: &Path) -> PathBuf {
        if Self::is_followed(dir) { current(dir).unwrap_or_else(|_| dir.to_owned()) } else { dir.to_owned() }
    }

    /// The current version, if every tensor in it has the digest that its manifest says.
    pub fn whole_current(&self, model: &str) -> Option<(v1::Manifest, Vec<HostTensor>)> {
        if !self.dir.join(CURRENT).is_symlink() {
            return None;
        }
        let read = current(&self.dir).and_then(|path| {
            let whole = read_whole(&path)?;
            manifest::validate(&whole.0, model).map_err(io::Error::other)?;
            Ok(whole)
        });
        match read {
            Ok(version) => Some(version),
            Err(reason) => {
                let reason = reason.to_string();
                FolderFaulty { path: &self.dir.join(CURRENT), reason: &reason }.emit();
                None
            }
        }
    }

    /// Writes a version, and makes it the current one if `check`, which runs meanwhile, lets it.
    pub fn put(
        &mut self,
        manifest: &v1::Manifest,
        tensors: &[HostTensor],
        check: impl FnOnce() -> Result<(), PublishError> + Send,
    ) -> Result<(), PublishError> {
        let versions = self.versions();
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            // Less the umask, as of any folder: rankers may be other users.
            .permissions(fs::Permissions::from_mode(0o777))
            .tempdir_in(&versions)
            .map_err(PublishError::file(&versions))?;
        thread::scope(|scope| {
            let checked = scope.spawn(check);
            let written = files::write(temporary.path(), manifest, tensors);
            checked.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            written.map_err(PublishError::file(temporary.path()))
        })?;
        let name = self.free_name(manifest.version);
        let path = versions.join(&name);
        fs::rename(temporary.path(), &path).map_err(PublishError::file(&path))?;
        self.placed.push(name.clone());
        files::sync_dir(&versions).map_err(PublishError::file(&versions))?;
        self.point_to(&name).map_err(PublishError::file(&self.dir.join(CURRENT)))
    }

    /// The version's number, with a count behind it where a folder of that name is there: of a version
    /// that was found damaged, has moved in the log, or is followed anew after others.
    fn free_name(&self, version: u64) -> String {
        let mut name = version.to_string();
        let mut count = 1;
        while self.versions().join(&name).exists() {
            count += 1;
            name = format!("{version}-{count}");
        }
        name
    }

    /// Replaces `current` in one step: a reader sees the old version or the new one.
    fn point_to(&self, name: &str) -> io::Result<()> {
        let link = self.dir.join(format!("{TEMPORARY}current"));
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink(Path::new(VERSIONS).join(name), &link)?;
        fs::rename(&link, self.dir.join(CURRENT))?;
        files::sync_dir(&self.dir)
    }

    /// Removes versions until `keep` are left: those that were current last.
    pub fn prune(&mut self, keep: usize) {
        let superseded = self.placed.len().saturating_sub(keep.max(1));
        for name in self.placed.drain(..superseded).collect::<Vec<_>>() {
            // In one step too: under its name a version is whole.
            let aside = self.versions().join(format!("{TEMPORARY}removed"));
            remove(&aside);
            match fs::rename(self.versions().join(name), &aside) {
                Ok(()) => remove(&aside),
                Err(error) => NotRemoved { path: &aside, error: &error }.emit(),
            }
        }
    }
}

/// The names below `versions` in the order in which they were put.
fn placed(versions: &Path) -> io::Result<Vec<String>> {
    let mut found: Vec<(SystemTime, u64, String)> = Vec::new();
    for entry in fs::read_dir(versions)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.split('-').next().and_then(|number| number.parse().ok());
        if let (Some(number), Ok(Ok(at))) = (number, entry.metadata().map(|data| data.modified())) {
            found.push((at, number, name));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, _, name)| name).collect())
}

/// The folder of the version in place: what `DIR/current` points to now.
///
/// Resolve it once, then open all files below the path that is returned: one that is opened below
/// `DIR/current` itself may be of the next version. The path stays as it is, whatever the follower
/// puts in place meanwhile, until as many versions as it keeps have come after it.
///
/// # Errors
/// There is none yet, or `dir` is no folder that a follower keeps.
pub fn current(dir: &Path) -> io::Result<PathBuf> {
    let link = dir.join(CURRENT);
    let target = fs::read_link(&link)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", link.display())))?;
    Ok(dir.join(target))
}

/// The version in place, all of it, with every tensor checked against the manifest beside it. For a
/// reader of a folder that a follower keeps, in this process or another.
///
/// # Errors
/// There is none yet, or the files are not what their manifest says.
pub fn read_current(dir: &Path) -> io::Result<(v1::Manifest, Vec<HostTensor>)> {
    for _ in 1..LOOKS {
        let path = current(dir)?;
        match read_whole(&path) {
            // As many versions as are kept have come after it, so there is a newer one to read.
            Err(error) if error.kind() == io::ErrorKind::NotFound && current(dir)? != path => {}
            read => return read,
        }
    }
    read_whole(&current(dir)?)
}

fn read_whole(dir: &Path) -> io::Result<(v1::Manifest, Vec<HostTensor>)> {
    let of =
        |name: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    let found = files::read_manifest(dir).map_err(of(files::MANIFEST))?;
    let tensors = files::read_version_tensors(dir).map_err(of("tensors"))?;
    let described: Vec<_> =
        found.tensors.iter().filter(|tensor| !tensor.name.starts_with(TRAINING_PREFIX)).collect();
    let is_whole = described.len() == tensors.len()
        && described.iter().zip(&tensors).all(|(described, tensor)| {
            described.name == tensor.name && described.sha256[..] == sha256(&tensor.data)[..]
        });
    if is_whole {
        Ok((found, tensors))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "its tensors are not those of its manifest"))
    }
}

/// Removes a file or folder; what cannot be removed only takes space.
fn remove(path: &Path) {
    let removed =
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            NotRemoved { path, error: &error }.emit();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
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

    fn put(folder: &mut Folder, number: u64) {
        let (manifest, tensors) = version(number);
        folder.put(&manifest, &tensors, || Ok(())).expect("put");
    }

    fn names(dir: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(dir.join(VERSIONS)).expect("the versions");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
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
        assert_eq!(folder.whole_current("m").expect("whole"), version(4));
        assert_eq!(read_current(dir.path()).expect("whole"), version(4));
        assert_eq!(names(dir.path()), named(["3", "4"]));
        let mode = |path: &Path| fs::metadata(path).expect("a folder").permissions().mode();
        let place = current(dir.path()).expect("a version");
        assert_eq!(mode(&place), mode(&dir.path().join(VERSIONS)), "open to whom folders are");
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
    fn invariant_8_a_version_that_was_damaged_on_disk_is_not_whole() {
        let (dir, mut folder) = folder();
        put(&mut folder, 1);
        let model = current(dir.path()).expect("a version").join(files::MODEL);
        let mut bytes = fs::read(&model).expect("the model");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(&model, bytes).expect("damaged");
        assert_eq!(folder.whole_current("m"), None);
        let error = read_current(dir.path()).expect_err("damaged");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        put(&mut folder, 1);
        assert!(folder.whole_current("m").is_some());
        assert_eq!(folder.whole_current("another"), None);
    }

    #[test]
    fn what_a_killed_follower_left_is_removed_and_the_current_version_stays() {
        let (dir, mut folder) = folder();
        put(&mut folder, 1);
        let leftover = dir.path().join(VERSIONS).join(".easq-killed");
        fs::create_dir(&leftover).expect("a leftover");
        drop(folder);
        let reopened = Folder::open(dir.path()).expect("opened again");
        assert!(!leftover.exists());
        assert!(reopened.whole_current("m").is_some());
    }

    #[test]
    fn invariant_8_a_version_that_does_not_pass_its_check_is_never_in_place() {
        let (dir, mut folder) = folder();
        put(&mut folder, 1);
        let (manifest, tensors) = version(2);
        let refused =
            folder.put(&manifest, &tensors, || Err(super::super::manifest::ManifestError::Damaged.into()));
        assert!(refused.is_err());
        assert_eq!(read_current(dir.path()).expect("whole"), version(1));
        assert_eq!(names(dir.path()), named(["1"]));
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
                    let now: u64 =
                        now.file_name().expect("a name").to_string_lossy().parse().expect("a number");
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
}
