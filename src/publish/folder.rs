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
use crate::supervise::failpoint;
use crate::telemetry::events::{FolderFaulty, NotRemoved};

use super::disk::{self, Disk};
use super::error::PublishError;
use super::paged::PagedTensor;
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
    /// Versions that were moved out of the way to be removed.
    removed: u64,
    disk: Disk,
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
                    disk::remove(&entry.path());
                }
            }
        }
        let placed = placed(&versions).map_err(PublishError::file(&versions))?;
        let disk = Disk::new().map_err(PublishError::file(dir))?;
        Ok(Self { dir: dir.to_owned(), placed, removed: 0, disk, _lock: lock })
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

    /// The version that the folder holds for `model`: the current one, if every tensor in it has the
    /// digest that its manifest says, else the newest that does, which is current from now on. Newer
    /// ones that are known to be damaged are not offered to readers any more.
    pub fn take_up(&mut self, model: &str) -> Option<(v1::Manifest, Vec<HostTensor>)> {
        let pointed = current(&self.dir).ok()?;
        let error = match read_of(&pointed, model) {
            Ok(version) => return Some(version),
            Err(error) => error,
        };
        FolderFaulty { path: &pointed, reason: &error.to_string() }.emit();
        if !is_damage(&error) {
            return None;
        }
        let mut damaged = Vec::new();
        let mut whole = None;
        for name in self.placed.iter().rev() {
            match read_of(&self.versions().join(name), model) {
                Ok(version) => {
                    whole = Some((name.clone(), version));
                    break;
                }
                Err(error) if is_damage(&error) => damaged.push(name.clone()),
                Err(_) => {}
            }
        }
        let link = self.dir.join(CURRENT);
        let pointed = match &whole {
            Some((name, _)) => self.point_to(name),
            None => fs::remove_file(&link),
        };
        if let Err(error) = pointed {
            NotRemoved { path: &link, error: &error }.emit();
        }
        self.placed.retain(|name| !damaged.contains(name));
        damaged.iter().for_each(|name| self.discard(name));
        let (name, version) = whole?;
        // It stays for as long as any version that was current.
        self.placed.retain(|placed| *placed != name);
        self.placed.push(name);
        Some(version)
    }

    /// Writes a version, and makes it the current one if `check`, which runs meanwhile, lets it; gives
    /// what that gives.
    pub fn put<T: Send>(
        &mut self,
        manifest: &v1::Manifest,
        tensors: &[PagedTensor],
        check: impl FnOnce() -> Result<T, PublishError> + Send,
    ) -> Result<T, PublishError> {
        let versions = self.versions();
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            // Less the umask, as of any folder: rankers may be other users.
            .permissions(fs::Permissions::from_mode(0o777))
            .tempdir_in(&versions)
            .map_err(PublishError::file(&versions))?;
        let checked = thread::scope(|scope| {
            let checked = scope.spawn(check);
            let written = files::write_paged(temporary.path(), manifest, tensors);
            let checked = checked.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            written.map_err(PublishError::file(temporary.path()))?;
            Ok::<T, PublishError>(checked)
        })?;
        failpoint("follow-before-name");
        let name = self.free_name(manifest.version);
        let path = versions.join(&name);
        fs::rename(temporary.path(), &path).map_err(PublishError::file(&path))?;
        // Its name is gone: there is nothing to remove any more.
        let _ = temporary.keep();
        failpoint("follow-before-current");
        if let Err(error) = self.point_to(&name) {
            self.discard(&name);
            return Err(PublishError::file(&self.dir.join(CURRENT))(error));
        }
        self.placed.push(name);
        failpoint("follow-after-current");
        self.disk.sync(vec![path, versions, self.dir.clone()]);
        Ok(checked)
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
        fs::rename(&link, self.dir.join(CURRENT))
    }

    /// Removes versions until `keep` are left: those that were current last.
    pub fn prune(&mut self, keep: usize) {
        let superseded = self.placed.len().saturating_sub(keep.max(1));
        for name in self.placed.drain(..superseded).collect::<Vec<_>>() {
            self.discard(&name);
        }
    }

    /// Takes a version away in one step, since under its name it is whole, and has it removed.
    fn discard(&mut self, name: &str) {
        self.removed += 1;
        let aside = self.versions().join(format!("{TEMPORARY}removed-{}", self.removed));
        match fs::rename(self.versions().join(name), &aside) {
            Ok(()) => self.disk.remove(aside),
            Err(error) => NotRemoved { path: &aside, error: &error }.emit(),
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

/// A whole version, if it is one of `model`.
fn read_of(dir: &Path, model: &str) -> io::Result<(v1::Manifest, Vec<HostTensor>)> {
    let whole = read_whole(dir)?;
    manifest::validate(&whole.0, model).map_err(io::Error::other)?;
    Ok(whole)
}

/// Whether a version that gave this error is not whole; else it could not be read, or is no version
/// for this program.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
    )
}

#[cfg(test)]
mod tests;
