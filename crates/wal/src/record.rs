//! What is written: entries, hard state, snapshot marks, and the batch that makes several of them one.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;

/// One log entry. The log stores it and never looks into `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place: entries of a log are numbered without a gap, from 1.
    pub index: u64,
    /// The term it was proposed in; below 2^56.
    pub term: u64,
    /// The owner's own kind (raft-rs: normal or one of two configuration changes).
    pub kind: u8,
    /// The payload. Read back, it is a slice of the segment's map and keeps that alive.
    pub data: Bytes,
}

impl Entry {
    /// An entry of these parts.
    #[must_use]
    pub fn new(index: u64, term: u64, kind: u8, data: impl Into<Bytes>) -> Self {
        Self { index, term, kind, data: data.into() }
    }

    /// Its term and index, which name it across the cluster.
    #[must_use]
    pub const fn id(&self) -> EntryId {
        EntryId { term: self.term, index: self.index }
    }
}

/// An entry as [`Wal::visit`](crate::Wal::visit) shows it, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// As in [`Entry`].
    pub index: u64,
    /// As in [`Entry`].
    pub term: u64,
    /// As in [`Entry`].
    pub kind: u8,
    /// The payload, in the segment's map.
    pub data: &'a [u8],
}

/// What names an entry across a cluster: two logs that agree on it agree on everything before (Raft thesis, 3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EntryId {
    /// The term it was proposed in.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {} of term {}", self.index, self.term)
    }
}

/// What a Raft node must remember besides its entries. The latest one written wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HardState {
    /// The highest term seen.
    pub term: u64,
    /// Who got this node's vote in that term; 0 is nobody.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

/// The vote in hexadecimal, as ids are written everywhere.
impl fmt::Display for HardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { term, vote, commit } = self;
        write!(f, "term {term} vote {vote:x} commit {commit}")
    }
}

/// Vouches for a snapshot of everything up to `index`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotMark {
    /// The last entry that the snapshot covers.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The configuration at that entry, in the owner's encoding. Serializes in hexadecimal.
    #[serde(serialize_with = "crate::dump::hex")]
    pub conf: Bytes,
}

impl SnapshotMark {
    /// A mark of these parts.
    #[must_use]
    pub fn new(index: u64, term: u64, conf: impl Into<Bytes>) -> Self {
        Self { index, term, conf: conf.into() }
    }

    /// The last entry that the snapshot covers.
    #[must_use]
    pub const fn id(&self) -> EntryId {
        EntryId { term: self.term, index: self.index }
    }
}

/// One atomic unit: after a crash it is there whole, or not at all (W2).
///
/// In the log its parts stand in the order of the fields, and are read back in that order.
///
/// ```
/// use oarlock_wal::{Batch, Entry, HardState};
///
/// let entries = [Entry::new(1, 1, 0, "set x=1")];
/// let state = HardState { term: 1, vote: 1, commit: 0 };
/// let batch = Batch { hard_state: Some(state), ..Batch::of(&entries) };
/// assert!(!batch.is_empty());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// The owner's own record, opaque; the latest wins.
    pub metadata: Option<Bytes>,
    /// A snapshot that replaces the log: every entry before it in the stream is gone, whatever its index, so that an
    /// installed snapshot cannot let a stale tail come back. The next entry is `index + 1`.
    pub install: Option<SnapshotMark>,
    /// Entries in order. The first may overwrite: it and everything after it in the log give way.
    pub entries: &'a [Entry],
    /// Term, vote and commit.
    pub hard_state: Option<HardState>,
    /// A snapshot of what the log holds: entries after it stay, entries up to it may be released.
    pub compact: Option<SnapshotMark>,
}

impl<'a> Batch<'a> {
    /// Entries alone.
    #[must_use]
    pub fn of(entries: &'a [Entry]) -> Self {
        Self { entries, ..Self::default() }
    }

    /// A hard state alone.
    #[must_use]
    pub fn hard_state(state: HardState) -> Self {
        Self { hard_state: Some(state), ..Self::default() }
    }

    /// A mark for a snapshot that was taken here.
    #[must_use]
    pub fn compact(mark: SnapshotMark) -> Self {
        Self { compact: Some(mark), ..Self::default() }
    }

    /// A mark for a snapshot that came from elsewhere and replaces the log.
    #[must_use]
    pub fn install(mark: SnapshotMark) -> Self {
        Self { install: Some(mark), ..Self::default() }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records() == 0
    }

    /// How many frames it takes.
    pub(crate) fn records(&self) -> usize {
        usize::from(self.metadata.is_some())
            + usize::from(self.install.is_some())
            + usize::from(!self.entries.is_empty())
            + usize::from(self.hard_state.is_some())
            + usize::from(self.compact.is_some())
    }
}
