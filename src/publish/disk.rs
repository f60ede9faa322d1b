//! What the disk is asked for behind a version that is in place, without a reader waiting for it: all
//! of a version can be had from Kafka again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use crate::telemetry::events::{NotOnDisk, NotRemoved};

use super::files;

/// Where so many chores wait already, the next one is waited for.
const WAITING: usize = 16;

enum Chore {
    Sync(Vec<PathBuf>),
    Remove(PathBuf),
}

/// A thread that does one chore after the other; the last of them is done when this is dropped.
pub struct Disk {
    chores: Option<SyncSender<Chore>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    pub fn new() -> io::Result<Self> {
        let (chores, waiting) = mpsc::sync_channel(WAITING);
        let thread = thread::Builder::new().name("follower-disk".to_owned());
        let thread = thread.spawn(move || work(&waiting))?;
        Ok(Self { chores: Some(chores), thread: Some(thread) })
    }

    /// Has the files of these folders, and their names, written to the disk, folder after folder.
    pub fn sync(&self, folders: Vec<PathBuf>) {
        self.ask(Chore::Sync(folders));
    }

    /// Has a file or folder removed.
    pub fn remove(&self, path: PathBuf) {
        self.ask(Chore::Remove(path));
    }

    fn ask(&self, chore: Chore) {
        let chores = self.chores.as_ref().expect("it is not being dropped");
        chores.send(chore).expect("the thread ends after its sender");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.chores.take());
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        if let Err(panic) = ended
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn work(waiting: &Receiver<Chore>) {
    for chore in waiting {
        match chore {
            Chore::Remove(path) => remove(&path),
            Chore::Sync(folders) => {
                for folder in folders {
                    match files::sync(&folder) {
                        // It was removed meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => NotOnDisk { path: &folder, error: &error }.emit(),
                        Ok(()) => {}
                    }
                }
            }
        }
    }
}

/// Removes a file or folder; what cannot be removed only takes space.
pub fn remove(path: &Path) {
    let removed =
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            NotRemoved { path, error: &error }.emit();
        }
        _ => {}
    }
}
