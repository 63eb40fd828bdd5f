//! What is on the disk and in the page cache: files, names, and what of them is not synced yet.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub(super) const SECTOR: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u64);

/// The whole state. It changes by [`apply`](State::apply) alone, so a list of changes can be played again.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) dirs: BTreeMap<PathBuf, Dir>,
    pub(super) files: BTreeMap<FileId, Inode>,
    pub(super) made: u64,
    /// The number of changes applied: the time of this world.
    pub(super) now: u64,
}

/// One change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    CreateDir(PathBuf),
    Create {
        dir: PathBuf,
        name: OsString,
    },
    Rename {
        dir: PathBuf,
        from: OsString,
        to: OsString,
    },
    Remove {
        dir: PathBuf,
        name: OsString,
    },
    Write {
        file: FileId,
        offset: usize,
        data: Bytes,
    },
    SetLen {
        file: FileId,
        len: usize,
    },
    /// What was written until `upto` is durable.
    Sync {
        file: FileId,
        upto: u64,
    },
    /// What was written until `upto` may or may not be durable, and no later sync will write it.
    SyncFailed {
        file: FileId,
        upto: u64,
    },
    SyncDir(PathBuf),
}

/// A directory. Its own existence is durable at once, as `Vfs::create_dir_all` promises.
#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    pub(super) live: BTreeMap<OsString, FileId>,
    pub(super) durable: BTreeMap<OsString, FileId>,
    pub(super) pending: Vec<NameChange>,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link(OsString, FileId),
    Unlink(OsString),
    Rename(OsString, OsString, FileId),
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<OsString, FileId>) {
        match self {
            Self::Link(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, id) => {
                // The file's creation may be among what was lost; its new name is not.
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
        }
    }
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What a read sees. Shared until it changes, so that a copy of a disk costs little.
    pub(super) live: Arc<Vec<u8>>,
    /// Whole sectors, whatever the length says.
    pub(super) durable: Arc<Vec<u8>>,
    pub(super) durable_len: usize,
    /// Lengths that were not synced yet, oldest first.
    pub(super) lens: Vec<(u64, usize)>,
    pub(super) dirty: BTreeMap<usize, Dirty>,
}

/// A sector that was written and not synced.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    /// Oldest first, never empty.
    pub(super) versions: Vec<Version>,
    /// A sync of it failed: the kernel believes it clean, so only another write makes it durable.
    forgotten: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Version {
    at: u64,
    pub(super) bytes: Arc<[u8; SECTOR]>,
    /// Which bytes the write touched; a torn write can damage no other.
    pub(super) touched: std::ops::Range<usize>,
}

impl State {
    pub(super) fn apply(&mut self, change: &Change) {
        self.now += 1;
        let now = self.now;
        match change {
            Change::CreateDir(path) => {
                self.dirs.entry(path.clone()).or_default();
            }
            Change::Create { dir, name } => {
                self.made += 1;
                let id = FileId(self.made);
                self.files.insert(id, Inode::default());
                self.rename(dir, NameChange::Link(name.clone(), id));
            }
            Change::Rename { dir, from, to } => {
                if let Some(&id) = self.dirs.get(dir).and_then(|d| d.live.get(from)) {
                    self.rename(dir, NameChange::Rename(from.clone(), to.clone(), id));
                }
            }
            Change::Remove { dir, name } => self.rename(dir, NameChange::Unlink(name.clone())),
            Change::SyncDir(dir) => {
                if let Some(dir) = self.dirs.get_mut(dir) {
                    dir.durable = dir.live.clone();
                    dir.pending.clear();
                }
            }
            Change::Write { file, offset, data } => {
                self.with(*file, |f| f.write(now, *offset, data));
            }
            Change::SetLen { file, len } => self.with(*file, |f| f.set_len(now, *len)),
            Change::Sync { file, upto } => self.with(*file, |f| f.sync(*upto)),
            Change::SyncFailed { file, upto } => self.with(*file, |f| f.forget(*upto)),
        }
    }

    pub(super) fn file(&self, dir: &Path, name: &std::ffi::OsStr) -> Option<FileId> {
        self.dirs.get(dir)?.live.get(name).copied()
    }

    /// Bytes in files that have a name.
    pub(super) fn used(&self) -> usize {
        let named = self.dirs.values().flat_map(|d| d.live.values());
        named.filter_map(|id| self.files.get(id)).map(|f| f.live.len()).sum()
    }

    fn rename(&mut self, dir: &PathBuf, change: NameChange) {
        if let Some(dir) = self.dirs.get_mut(dir) {
            change.apply(&mut dir.live);
            dir.pending.push(change);
        }
    }

    fn with(&mut self, file: FileId, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.files.get_mut(&file) {
            change(inode);
        }
    }
}

impl Inode {
    /// A file whose every byte is durable.
    pub(super) fn settled(bytes: Vec<u8>) -> Self {
        let durable_len = bytes.len();
        let live = Arc::new(bytes);
        let mut durable = live.clone();
        if !durable_len.is_multiple_of(SECTOR) {
            Arc::make_mut(&mut durable).resize(durable_len.next_multiple_of(SECTOR), 0);
        }
        Self { durable_len, durable, live, ..Self::default() }
    }

    fn write(&mut self, now: u64, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if data.is_empty() {
            return; // no byte, so not even a longer file
        }
        let live = Arc::make_mut(&mut self.live);
        if end > live.len() {
            live.resize(end, 0);
            self.lens.push((now, end));
        }
        live[offset..end].copy_from_slice(data);
        self.touch(now, offset..end);
    }

    fn set_len(&mut self, now: u64, len: usize) {
        let before = self.live.len();
        Arc::make_mut(&mut self.live).resize(len, 0);
        self.lens.push((now, len));
        if len < before {
            self.touch(now, len..before); // reads as zeros if the file grows again
        }
    }

    fn sync(&mut self, upto: u64) {
        if let Some(&(_, len)) = self.lens.iter().rfind(|(at, _)| *at <= upto) {
            self.durable_len = len;
        }
        self.lens.retain(|(at, _)| *at > upto);
        let durable = Arc::make_mut(&mut self.durable);
        for (&sector, dirty) in self.dirty.iter_mut().filter(|(_, d)| !d.forgotten) {
            if let Some(version) = dirty.versions.iter().rfind(|v| v.at <= upto) {
                put(durable, sector, &version.bytes[..]);
            }
            dirty.versions.retain(|v| v.at > upto);
        }
        self.dirty.retain(|_, d| !d.versions.is_empty());
    }

    fn forget(&mut self, upto: u64) {
        for dirty in self.dirty.values_mut() {
            dirty.forgotten = dirty.versions.iter().all(|v| v.at <= upto);
        }
    }

    fn touch(&mut self, now: u64, range: std::ops::Range<usize>) {
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        for sector in sectors.filter(|_| !range.is_empty()) {
            let start = sector * SECTOR;
            let mut bytes = [0; SECTOR];
            let live = self.live.get(start..).unwrap_or_default();
            let n = live.len().min(SECTOR);
            bytes[..n].copy_from_slice(&live[..n]);
            let touched = range.start.max(start) - start..range.end.min(start + SECTOR) - start;
            let dirty = self.dirty.entry(sector).or_default();
            dirty.forgotten = false;
            dirty.versions.push(Version { at: now, bytes: Arc::new(bytes), touched });
        }
    }
}

/// Writes a sector into `bytes`, which grows if need be.
pub(super) fn put(bytes: &mut Vec<u8>, sector: usize, new: &[u8]) {
    let range = sector * SECTOR..(sector + 1) * SECTOR;
    if bytes.len() < range.end {
        bytes.resize(range.end, 0);
    }
    bytes[range].copy_from_slice(new);
}

/// A digest of the names that `which` chooses and of their contents, as a read sees them.
pub(super) fn digest(state: &State, which: impl Fn(&Path) -> bool) -> u64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [PRIME, 3, 5, 7];
    for (path, dir) in &state.dirs {
        for (name, id) in dir.live.iter().filter(|(name, _)| which(&path.join(name))) {
            let mut name_hash = std::hash::DefaultHasher::new();
            (path, name).hash(&mut name_hash);
            lanes[0] = (lanes[0] ^ name_hash.finish()).wrapping_mul(PRIME);
            let Some(file) = state.files.get(id) else { continue };
            for chunk in file.live.chunks(32) {
                let mut block = [0; 32];
                block[..chunk.len()].copy_from_slice(chunk);
                for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                    *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME).rotate_left(29);
                }
            }
            lanes[1] ^= file.live.len() as u64;
        }
    }
    lanes.into_iter().fold(0, |all, lane| (all ^ lane).wrapping_mul(PRIME).rotate_left(31))
}
