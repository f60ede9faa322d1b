//! The folder that a follower keeps.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::contract::v1;
use crate::model::HostTensor;
use crate::telemetry::events::{FolderFaulty, NotRemoved};

use super::error::PublishError;
use super::pages::sha256;
use super::{TRAINING_PREFIX, files, manifest};

const VERSIONS: &str = "versions";
const CURRENT: &str = "current";
/// Names that begin so are leftovers of a follower that was killed.
const TEMPORARY: &str = ".easq-";

/// `current`, and the versions that it points to or pointed to.
pub struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Makes the folder if it is not there, and removes what a killed follower left half done.
    pub fn open(dir: &Path) -> Result<Self, PublishError> {
        let folder = Self { dir: dir.to_owned() };
        let versions = folder.versions();
        fs::create_dir_all(&versions).map_err(PublishError::file(&versions))?;
        for parent in [&folder.dir, &versions] {
            for entry in fs::read_dir(parent).map_err(PublishError::file(parent))?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                    remove(&entry.path());
                }
            }
        }
        Ok(folder)
    }

    fn versions(&self) -> PathBuf {
        self.dir.join(VERSIONS)
    }

    /// The folder of the version that readers open.
    pub fn current(dir: &Path) -> PathBuf {
        dir.join(CURRENT)
    }

    /// The folder of the version that `dir` holds: the current one of a follower's folder, else `dir`
    /// itself.
    pub fn version(dir: &Path) -> PathBuf {
        let current = Self::current(dir);
        if current.exists() { current } else { dir.to_owned() }
    }

    /// The current version, if every tensor in it has the digest that its manifest says.
    pub fn whole_current(&self, model: &str) -> Option<(v1::Manifest, Vec<HostTensor>)> {
        let current = Self::current(&self.dir);
        if !current.exists() {
            return None;
        }
        match read_whole(&current, model) {
            Ok(version) => Some(version),
            Err(reason) => {
                FolderFaulty { path: &current, reason: &reason }.emit();
                None
            }
        }
    }

    /// Writes a version and makes it the current one.
    pub fn put(&self, manifest: &v1::Manifest, tensors: &[HostTensor]) -> Result<(), PublishError> {
        let versions = self.versions();
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(&versions)
            .map_err(PublishError::file(&versions))?;
        files::write(temporary.path(), manifest, tensors).map_err(PublishError::file(temporary.path()))?;
        let path = versions.join(manifest.version.to_string());
        // Only a version that was found damaged, or that has moved in the log, is there already.
        if path.exists() {
            let aside = versions.join(format!("{TEMPORARY}replaced"));
            remove(&aside);
            fs::rename(&path, &aside).map_err(PublishError::file(&path))?;
        }
        fs::rename(temporary.path(), &path).map_err(PublishError::file(&path))?;
        files::sync_dir(&versions).map_err(PublishError::file(&versions))?;
        self.point_to(manifest.version).map_err(PublishError::file(&Self::current(&self.dir)))
    }

    /// Replaces `current` in one step: a reader sees the old version or the new one.
    fn point_to(&self, version: u64) -> io::Result<()> {
        let link = self.dir.join(format!("{TEMPORARY}current"));
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink(Path::new(VERSIONS).join(version.to_string()), &link)?;
        fs::rename(&link, Self::current(&self.dir))?;
        files::sync_dir(&self.dir)
    }

    /// Removes versions until `keep` are left: `current` and the highest others.
    pub fn prune(&self, current: u64, keep: usize) {
        let entries = fs::read_dir(self.versions()).into_iter().flatten().flatten();
        let on_disk = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect();
        for version in superseded(on_disk, current, keep) {
            remove(&self.versions().join(version.to_string()));
        }
        remove(&self.versions().join(format!("{TEMPORARY}replaced")));
    }
}

/// The versions to remove so that `keep` are left: `current` and the highest others.
fn superseded(mut on_disk: Vec<u64>, current: u64, keep: usize) -> Vec<u64> {
    on_disk.retain(|version| *version != current);
    on_disk.sort_unstable_by(|a, b| b.cmp(a));
    on_disk.split_off(on_disk.len().min(keep.saturating_sub(1)))
}

fn read_whole(dir: &Path, model: &str) -> Result<(v1::Manifest, Vec<HostTensor>), String> {
    let found = files::read_manifest(dir).map_err(|error| format!("{}: {error}", files::MANIFEST))?;
    manifest::validate(&found, model).map_err(|error| error.to_string())?;
    let mut tensors =
        files::read_tensors(&dir.join(files::MODEL)).map_err(|error| format!("{}: {error}", files::MODEL))?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let described: Vec<_> =
        found.tensors.iter().filter(|tensor| !tensor.name.starts_with(TRAINING_PREFIX)).collect();
    let is_whole = described.len() == tensors.len()
        && described.iter().zip(&tensors).all(|(described, tensor)| {
            described.name == tensor.name && described.sha256[..] == sha256(&tensor.data)[..]
        });
    if is_whole { Ok((found, tensors)) } else { Err("its tensors are not those of its manifest".to_owned()) }
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

    fn version(number: u64, value: f64) -> (v1::Manifest, Vec<HostTensor>) {
        let tensors = vec![HostTensor::from_f64("projection.weight", vec![1, 1], &[value])];
        let mut manifest = super::super::registry::tests::manifest(number, v1::VersionKind::Serving);
        let plan = super::super::pages::PagePlan::new(&tensors, 4, &Default::default());
        manifest.tensors = plan.placed(&(0..plan.writes.len() as i64).collect::<Vec<_>>());
        (manifest, tensors)
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(dir.path()).expect("opened");
        (dir, folder)
    }

    #[test]
    fn current_points_to_the_version_put_last_and_older_ones_go() {
        let (dir, folder) = folder();
        for number in 1..=4 {
            let (manifest, tensors) = version(number, number as f64);
            folder.put(&manifest, &tensors).expect("put");
            folder.prune(number, 2);
        }
        let (manifest, tensors) = folder.whole_current("m").expect("whole");
        assert_eq!((manifest, tensors), version(4, 4.0));
        let mut names: Vec<_> = fs::read_dir(dir.path().join(VERSIONS))
            .expect("the versions")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["3", "4"]);
    }

    #[test]
    fn invariant_8_a_version_that_was_damaged_on_disk_is_not_whole() {
        let (dir, folder) = folder();
        let (manifest, tensors) = version(1, 1.0);
        folder.put(&manifest, &tensors).expect("put");
        let model = dir.path().join(CURRENT).join(files::MODEL);
        let mut bytes = fs::read(&model).expect("the model");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(&model, bytes).expect("damaged");
        assert_eq!(folder.whole_current("m"), None);
        folder.put(&manifest, &tensors).expect("put again");
        assert!(folder.whole_current("m").is_some());
    }

    #[test]
    fn what_a_killed_follower_left_is_removed_and_the_current_version_stays() {
        let (dir, folder) = folder();
        let (manifest, tensors) = version(1, 1.0);
        folder.put(&manifest, &tensors).expect("put");
        let leftover = dir.path().join(VERSIONS).join(".easq-killed");
        fs::create_dir(&leftover).expect("a leftover");
        let reopened = Folder::open(dir.path()).expect("opened again");
        assert!(!leftover.exists());
        assert!(reopened.whole_current("m").is_some());
    }

    #[test]
    fn the_current_version_is_never_removed() {
        assert_eq!(superseded(vec![1, 2, 3, 4], 1, 2), [3, 2]);
        assert_eq!(superseded(vec![1, 2, 3, 4], 4, 1), [3, 2, 1]);
        assert_eq!(superseded(vec![4], 4, 0), Vec::<u64>::new());
    }
}
