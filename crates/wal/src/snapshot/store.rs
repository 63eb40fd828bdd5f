//! The directory of snapshot files: which there are, which are in use.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::name::{self, Kind};
use super::{Error, SnapshotFile, SnapshotId, SnapshotReader, SnapshotWriter};
use crate::vfs::{RealVfs, Vfs};

/// How a [`SnapshotStore`] is opened.
#[derive(Clone, Debug)]
pub struct Options {
    vfs: Arc<dyn Vfs>,
    sync: bool,
    read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { vfs: Arc::new(RealVfs), sync: true, read_only: false }
    }
}

impl Options {
    /// The operating system's files, and every sync that durability needs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The file system to use. Defaults to [`RealVfs`].
    #[must_use]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Self {
        self.vfs = vfs;
        self
    }

    /// Leaves out every fsync. A power cut may then lose or tear snapshots that were committed; for tests and
    /// throw-away clusters. Defaults to false.
    #[must_use]
    pub fn unsafe_no_fsync(mut self, unsafe_no_fsync: bool) -> Self {
        self.sync = !unsafe_no_fsync;
        self
    }

    /// Changes nothing on the disk, for tools, beside a running node too: no directory is made, no file removed or set
    /// aside; writing and purging fail with [`Error::Io`]. Defaults to false.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Opens the store in `dir`, which is created if missing. Temporary files that an earlier run left are removed;
    /// names that no store gives are left alone, logged, and listed by [`SnapshotStore::unknown`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(self, dir: impl Into<PathBuf>) -> Result<SnapshotStore, Error> {
        let (Self { vfs, sync, read_only }, dir) = (self, dir.into());
        if !sync && !read_only {
            log::warn!(dir:?; "snapshots are written without fsync: a power cut can lose them");
        }
        if !read_only {
            vfs.create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        }
        let mut state = State::default();
        let mut unknown = Vec::new();
        let names = match vfs.list(&dir) {
            Err(error) if read_only && error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(Error::io("list", &dir))?,
        };
        for file in names {
            match name::parse(&file) {
                Some((id, Kind::Whole)) => {
                    state.files.insert(id);
                }
                Some((_, Kind::Temporary)) if read_only => {}
                Some((_, Kind::Temporary)) => {
                    let path = dir.join(&file);
                    vfs.remove(&path).map_err(Error::io("remove", &path))?;
                    log::info!(path:?; "removed an unfinished snapshot file");
                }
                Some((_, Kind::Broken)) => {}
                None => {
                    log::warn!(path:? = dir.join(&file); "not a snapshot file, left alone");
                    unknown.push(file);
                }
            }
        }
        let shared = Shared { vfs, sync, read_only, dir, unknown, state: Mutex::new(state) };
        if !read_only {
            // A file that the last run renamed and did not live to sync becomes durable before anybody builds on it.
            shared.sync_dir()?;
        }
        Ok(SnapshotStore { shared: Arc::new(shared) })
    }
}

/// The snapshot files of one node, in a directory of their own. A clone is the same store.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    vfs: Arc<dyn Vfs>,
    sync: bool,
    read_only: bool,
    dir: PathBuf,
    unknown: Vec<OsString>,
    /// Never held while the disk works.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeSet<SnapshotId>,
    /// Readers of each file, where there are any.
    pins: BTreeMap<SnapshotId, usize>,
    /// Being written or being removed.
    busy: BTreeSet<SnapshotId>,
    poisoned: bool,
}

impl SnapshotStore {
    /// Opens the store in `dir` with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        Options::new().open(dir)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Names found at opening that no store gives.
    #[must_use]
    pub fn unknown(&self) -> &[OsString] {
        &self.shared.unknown
    }

    /// Begins a snapshot that replaces the log up to the entry with this index and term.
    ///
    /// # Errors
    /// [`Error::Busy`] while another one of the same index and term is being written or purged; [`Error::Io`];
    /// [`Error::Poisoned`].
    pub fn create(&self, index: u64, term: u64) -> Result<SnapshotWriter, Error> {
        let id = SnapshotId { index, term };
        self.shared.check_writable()?;
        {
            let mut state = self.shared.state.lock();
            if state.poisoned {
                return Err(Error::Poisoned);
            }
            if !state.busy.insert(id) {
                return Err(Error::Busy { id });
            }
        }
        SnapshotWriter::new(Claim { shared: self.shared.clone(), id })
    }

    /// Opens a snapshot for reading, and keeps it from being purged until the reader is dropped.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Corrupt`], [`Error::UnknownVersion`], [`Error::Io`].
    pub fn open_file(&self, index: u64, term: u64) -> Result<SnapshotReader, Error> {
        let id = SnapshotId { index, term };
        let pin = {
            let mut state = self.shared.state.lock();
            if !state.files.contains(&id) {
                return Err(Error::NotFound { id });
            }
            *state.pins.entry(id).or_default() += 1;
            Pin { shared: self.shared.clone(), id }
        };
        SnapshotReader::pinned(&*self.shared.vfs, &self.shared.path(id, Kind::Whole), pin)
    }

    /// The snapshots there are, newest first. They have their names; whether they are intact only reading tells.
    #[must_use]
    pub fn list(&self) -> Vec<SnapshotId> {
        self.shared.state.lock().files.iter().rev().copied().collect()
    }

    /// The newest snapshot that the log vouches for (`vouched` is asked with index and term) and that is intact to its
    /// last byte. Damaged ones that are newer are set aside under a name ending in `.broken`, and logged; ones that the
    /// log does not know (their mark was never written) are passed over and stay.
    ///
    /// The caller decides whether the log still continues an older one.
    ///
    /// # Errors
    /// [`Error::UnknownVersion`] if a vouched one was written by a newer program, and [`Error::Io`] if one cannot be
    /// read at all: neither is proof of damage, so nothing is set aside.
    pub fn newest(&self, vouched: impl Fn(u64, u64) -> bool) -> Result<Option<SnapshotId>, Error> {
        for id in self.list() {
            if !vouched(id.index, id.term) {
                log::info!(index = id.index, term = id.term; "the log does not know this snapshot, passed over");
                continue;
            }
            match self.open_file(id.index, id.term).and_then(SnapshotReader::verify) {
                Ok(SnapshotFile { id, .. }) => return Ok(Some(id)),
                Err(Error::NotFound { .. }) => {} // purged meanwhile
                Err(damage @ Error::Corrupt { .. }) if self.shared.read_only => {
                    log::error!(index = id.index, term = id.term, damage:%; "snapshot is damaged, passed over");
                }
                Err(damage @ Error::Corrupt { .. }) => {
                    log::error!(index = id.index, term = id.term, damage:%; "snapshot is damaged, set aside");
                    self.set_aside(id)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Removes the snapshots of indexes below `keep_from`, except the newest of all and those that are being read;
    /// says how many are gone. Call it after the mark of a newer one is durable.
    ///
    /// # Errors
    /// [`Error::Io`]; what could not be removed stays listed.
    pub fn purge(&self, keep_from: u64) -> Result<usize, Error> {
        self.shared.check_writable()?;
        let old: Vec<SnapshotId> = {
            let State { files, pins, busy, .. } = &mut *self.shared.state.lock();
            let newest = files.last().copied();
            let old = files.iter().filter(|id| id.index < keep_from && Some(**id) != newest);
            let old: Vec<_> =
                old.filter(|id| !pins.contains_key(id) && !busy.contains(id)).copied().collect();
            // From here on they are neither opened nor created.
            files.retain(|id| !old.contains(id));
            busy.extend(&old);
            old
        };
        let mut result = Ok(());
        let mut removed = 0;
        for &id in &old {
            let path = self.shared.path(id, Kind::Whole);
            let gone = match self.shared.vfs.remove(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done.map_err(Error::io("remove", &path)),
            };
            let mut state = self.shared.state.lock();
            state.busy.remove(&id);
            match gone {
                Ok(()) => removed += 1,
                Err(error) => {
                    state.files.insert(id);
                    result = Err(error);
                }
            }
        }
        if removed > 0 {
            self.shared.sync_dir()?;
        }
        result.map(|()| removed)
    }

    fn set_aside(&self, id: SnapshotId) -> Result<(), Error> {
        self.shared.state.lock().files.remove(&id);
        let (from, to) = (self.shared.path(id, Kind::Whole), self.shared.path(id, Kind::Broken));
        self.shared.vfs.rename(&from, &to).map_err(Error::io("set aside", &from))?;
        self.shared.sync_dir()
    }
}

impl Shared {
    fn path(&self, id: SnapshotId, kind: Kind) -> PathBuf {
        self.dir.join(name::format(id, kind))
    }

    fn check_writable(&self) -> Result<(), Error> {
        let refused = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        if self.read_only { Err(Error::io("write to", &self.dir)(refused)) } else { Ok(()) }
    }

    /// After a failure the names in the directory are not known to be durable, and no later sync would tell (O13).
    fn sync_dir(&self) -> Result<(), Error> {
        if !self.sync {
            return Ok(());
        }
        self.vfs.sync_dir(&self.dir).map_err(|source| {
            self.state.lock().poisoned = true;
            Error::io("sync", &self.dir)(source)
        })
    }
}

/// The right to write one snapshot: nobody else writes or purges it meanwhile.
#[derive(Debug)]
pub(super) struct Claim {
    shared: Arc<Shared>,
    id: SnapshotId,
}

impl Claim {
    pub(super) fn id(&self) -> SnapshotId {
        self.id
    }

    pub(super) fn vfs(&self) -> &dyn Vfs {
        &*self.shared.vfs
    }

    pub(super) fn syncs(&self) -> bool {
        self.shared.sync
    }

    pub(super) fn temporary_path(&self) -> PathBuf {
        self.shared.path(self.id, Kind::Temporary)
    }

    /// Fails if the store was poisoned since.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.shared.state.lock().poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Gives the whole and synced file its name.
    pub(super) fn rename(&self, temporary: &Path) -> Result<(), Error> {
        let path = self.shared.path(self.id, Kind::Whole);
        self.shared.vfs.rename(temporary, &path).map_err(Error::io("rename", temporary))
    }

    /// Makes the name durable, and the snapshot known.
    pub(super) fn publish(&self) -> Result<(), Error> {
        self.shared.sync_dir()?;
        self.shared.state.lock().files.insert(self.id);
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.state.lock().busy.remove(&self.id);
    }
}

/// Keeps a snapshot from being purged.
#[derive(Debug)]
pub(super) struct Pin {
    shared: Arc<Shared>,
    id: SnapshotId,
}

impl Pin {
    pub(super) fn id(&self) -> SnapshotId {
        self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if let Some(count) = state.pins.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.id);
            }
        }
    }
}
