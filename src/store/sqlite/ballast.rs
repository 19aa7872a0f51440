//! Space on the disk that is held for the time when the disk is full.

use std::fs::{File, OpenOptions};
use std::io::{Error, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::connections;

/// Room on the disk that is held for bad times: a file beside the database, given up when the disk is full, so that what
/// ends reservations and a clean end can still be written.
pub(super) struct Ballast {
    file: PathBuf,
    is_there: bool,
    /// Whether it is to be made where it is missing.
    wanted: bool,
    not_before: Instant,
}

impl Ballast {
    /// Bytes held. A refund alone in its commit is some 30 KiB of log, so that a hundred chats end in it.
    pub(super) const SIZE: u64 = 4 << 20;
    /// Between attempts to make it while the database can be written all the same.
    const PAUSE: Duration = Duration::from_secs(60);

    /// The ballast of `database`; made where it is missing and `wanted` says so. Without room for it the database works
    /// all the same.
    pub(super) fn open(database: &Path, wanted: bool) -> Self {
        let mut ballast = Self {
            file: database.with_added_extension("ballast"),
            is_there: false,
            wanted,
            not_before: Instant::now(),
        };
        ballast.is_there = ballast.is_whole();
        ballast.keep();
        ballast
    }

    /// Makes it where it is missing, if it was not tried just now.
    pub(super) fn keep(&mut self) {
        if self.is_there || !self.wanted || Instant::now() < self.not_before {
            return;
        }
        self.not_before = Instant::now() + Self::PAUSE;
        match self.make(Self::SIZE) {
            Ok(()) => self.is_there = true,
            Err(error) => log::warn!(
                "{} was not made, so no room is held for the time when the disk is full: {error}",
                self.file.display()
            ),
        }
    }

    /// Makes it again if there is as much room besides, so that it does not come and go with every write; whether there
    /// is room.
    pub(super) fn regain(&mut self) -> bool {
        if self.is_there || !self.wanted {
            return true;
        }
        let made = self
            .make(2 * Self::SIZE)
            .and_then(|()| OpenOptions::new().write(true).open(&self.file))
            .and_then(|file| file.set_len(Self::SIZE));
        self.is_there = made.is_ok();
        self.is_there
    }

    /// Gives its room back; whether there was any.
    pub(super) fn give_up(&mut self) -> bool {
        self.is_there = false;
        std::fs::remove_file(&self.file).is_ok()
    }

    /// Whether there is no room to speak of beside it.
    pub(super) fn disk_is_full(&self) -> bool {
        super::disk_free(&self.file).is_some_and(|free| free < Self::SIZE / 64)
    }

    /// Whether it is there with all its room.
    fn is_whole(&self) -> bool {
        let whole = |about: std::fs::Metadata| {
            about.len() == Self::SIZE && about.blocks() * 512 >= Self::SIZE
        };
        std::fs::symlink_metadata(&self.file).is_ok_and(whole)
    }

    fn make(&self, size: u64) -> Result<(), Error> {
        // What a crash left of an earlier attempt.
        let _ = std::fs::remove_file(&self.file);
        let file = connections::create_empty(&self.file)?;
        allocate(&file, size).inspect_err(|_| {
            let _ = std::fs::remove_file(&self.file);
        })
    }
}

/// Takes room for a file that is empty.
fn allocate(file: &File, size: u64) -> Result<(), Error> {
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(file, size),
        done => done.map_err(Error::from),
    }
}

/// The same where room cannot be asked for.
fn fill(mut file: &File, size: u64) -> Result<(), Error> {
    let piece = vec![0; 1 << 20];
    for _ in 0..size.div_ceil(piece.len() as u64) {
        file.write_all(&piece)?;
    }
    // Some file systems know only then whether there is room.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballast_takes_real_room_that_only_its_owner_reads_and_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("edge.db");
        let mut ballast = Ballast::open(&database, true);
        let file = folder.path().join("edge.db.ballast");
        let about = std::fs::metadata(&file).unwrap();
        assert_eq!((about.len(), about.mode() & 0o777), (Ballast::SIZE, 0o600));
        assert!(about.blocks() * 512 >= Ballast::SIZE);
        assert!(ballast.give_up());
        assert!(!file.exists() && !ballast.give_up());
        assert!(ballast.regain());
        assert!(ballast.is_whole());
    }

    #[test]
    fn one_without_its_room_is_made_anew_and_a_command_makes_none() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("edge.db");
        let file = folder.path().join("edge.db.ballast");
        drop(Ballast::open(&database, false));
        assert!(!file.exists());
        File::create(&file).unwrap().set_len(Ballast::SIZE).unwrap();
        let ballast = Ballast::open(&database, true);
        assert!(ballast.is_whole());
    }

    #[test]
    fn where_room_cannot_be_asked_for_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ballast");
        fill(&File::create(&path).unwrap(), Ballast::SIZE).unwrap();
        let about = std::fs::metadata(&path).unwrap();
        assert_eq!(about.len(), Ballast::SIZE);
        assert!(about.blocks() * 512 >= Ballast::SIZE);
    }
}
