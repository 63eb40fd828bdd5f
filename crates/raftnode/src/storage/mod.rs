//! The storage seam: what a node needs from a durable log and from a place for snapshots.
//!
//! [`LogStore`] is written by one thread and read through [`LogReader`]s by others. It knows nothing of raft-rs's
//! `Storage` trait, which panics on most errors; [`LogView`] stands between the two.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};
use serde::{Deserialize, Serialize};

mod error;
pub use error::{LogError, SnapshotError};

mod log_view;
pub use log_view::{LogView, SnapshotWish};

mod changes;
pub(crate) use changes::Changes;

mod tail;

mod fetch;
pub use fetch::Fetch;

#[cfg(any(test, feature = "testing"))]
mod mem_store;
#[cfg(any(test, feature = "testing"))]
pub use mem_store::{MemSnapshots, MemStore};

#[cfg(feature = "wal")]
mod wal_reader;
#[cfg(feature = "wal")]
mod wal_store;
#[cfg(feature = "wal")]
pub use wal_store::{WalOptions, WalStore, WalStoreError};
#[cfg(feature = "wal")]
mod wal_view;
#[cfg(feature = "wal")]
pub use wal_view::WalView;

/// Which snapshot: the last log entry that it covers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SnapshotId {
    /// Index of the last entry covered; never 0 for a snapshot that exists.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
}

impl std::fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// The log's record of a snapshot: where it ends, and the configuration in force there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotMark {
    /// Index of the last entry covered.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The configuration as of that entry. The order of the ids in it has no meaning.
    pub conf_state: ConfState,
}

impl SnapshotMark {
    /// The snapshot that this mark stands for.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        SnapshotId { index: self.index, term: self.term }
    }
}

/// The state of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogState {
    /// The owner's opaque record, as last written; empty if none was.
    pub metadata: Bytes,
    /// Term, vote and commit as last written.
    pub hard_state: HardState,
    /// The newest mark, whether it was left by `install` or by `compact`.
    pub snapshot: Option<SnapshotMark>,
    /// Index of the first entry held; `last_index + 1` if none is.
    pub first_index: u64,
    /// Index of the last entry held; the newest installed snapshot's index if none is, 0 for a new log.
    pub last_index: u64,
}

/// A unit of writing: after a crash all of it is there, or nothing. Its parts take effect in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct LogBatch<'a> {
    /// Replaces the owner's record.
    pub metadata: Option<Bytes>,
    /// A snapshot was received: all entries written before are discarded, whatever their index.
    pub install: Option<SnapshotMark>,
    /// Entries, contiguous among themselves and with the log; the first may replace an entry, and with it all after it.
    pub entries: &'a [Entry],
    /// Replaces term, vote and commit.
    pub hard_state: Option<HardState>,
    /// A snapshot of this node's own state is durable: entries up to it need not be kept, but stay readable until
    /// released.
    pub compact: Option<SnapshotMark>,
}

impl LogBatch<'_> {
    /// What an entry costs of [`LogStore::max_batch`].
    #[must_use]
    pub fn cost(entry: &Entry) -> u64 {
        entry.data.len() as u64 + 32
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.metadata.is_none()
            && self.install.is_none()
            && self.entries.is_empty()
            && self.hard_state.is_none()
            && self.compact.is_none()
    }
}

/// A durable log, as its only writer uses it.
///
/// Implement it to keep the log in a store of your own. The suite `testing::log_store` (feature `testing`) tests this
/// contract; `examples/own_store.rs` shows an implementation that runs it.
///
/// * `append` is atomic, and what it wrote is readable at once, through every reader, but not yet durable;
/// * once `sync` returns `Ok`, everything appended before survives power loss (W1);
/// * after a crash the log holds a prefix of the appended batches, at least up to the last sync (W2);
/// * a failed write or sync poisons the log for good: every later `append` and `sync` answers
///   [`LogError::Poisoned`], because what the disk holds is unknown (O13). Reopening finds out.
///
/// Term, vote, commit and marks never go back by themselves (O27); that no lower ones are written is up to the caller.
pub trait LogStore: Send + 'static {
    /// What the log holds now, durable or not.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if a stored configuration does not decode, or an I/O failure.
    fn state(&self) -> Result<LogState, LogError>;

    /// A handle for reading from other threads, valid until the log is closed.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Writes a batch.
    ///
    /// # Errors
    /// [`LogError::Gap`] or [`LogError::TooLarge`] for a batch that breaks the rules, [`LogError::NoSpace`] when there
    /// is no room: these leave the log as it was. [`LogError::Io`] poisons it.
    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError>;

    /// The most that the entries of one batch may come to, counting [the cost](LogBatch::cost) of each. The node splits
    /// larger batches, and refuses to start if the largest request would not fit.
    fn max_batch(&self) -> u64 {
        u64::MAX
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// Any failure poisons the log for good and is never retried (O13).
    fn sync(&mut self) -> Result<(), LogError>;

    /// Allows the log to free the storage of entries below `before`; it may keep more. The caller has made a mark at
    /// `before - 1` or later durable (O6).
    ///
    /// # Errors
    /// As for [`append`](Self::append), and [`LogError::NoMark`] if no durable mark covers what would be freed.
    fn release(&mut self, before: u64) -> Result<(), LogError>;

    /// About how many bytes the log takes.
    fn size(&self) -> u64;

    /// Makes everything durable and closes.
    ///
    /// # Errors
    /// As for [`sync`](Self::sync).
    fn close(self: Box<Self>) -> Result<(), LogError>;
}

/// Reads a log from any thread while its writer goes on.
pub trait LogReader: Send + Sync + 'static {
    /// Entries `[low, high)`, cut off after `max_bytes` of data; at least one if the range holds any.
    ///
    /// # Errors
    /// [`LogError::Compacted`] if `low` is below the first index, [`LogError::Unavailable`] if `high - 1` is above the
    /// last, [`LogError::Corrupt`] if an entry does not read back as it was written.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError>;

    /// The term of an entry, of the newest mark's index, or of the entry before the first if it is known.
    ///
    /// The answer has to come from memory: the node thread asks, and must not wait for a disk (O12). Terms never decrease
    /// along a log, so it is enough to remember where each begins.
    ///
    /// # Errors
    /// As for [`entries`](Self::entries).
    fn term(&self, index: u64) -> Result<u64, LogError>;

    /// Index of the first entry held.
    fn first_index(&self) -> u64;

    /// Index of the last entry held.
    fn last_index(&self) -> u64;
}

/// Where snapshots are kept: each completely or not at all, verified as it is read, streamed both ways.
///
/// The contract is tested by `testing::snapshot_store` (feature `testing`), which any implementation can run.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Starts to write a snapshot, which replaces one of the same id when it is committed. Dropping the sink abandons it.
    ///
    /// # Errors
    /// An I/O failure; nothing is left behind.
    fn create(&self, id: SnapshotId) -> Result<Box<dyn SnapshotSink>, SnapshotError>;

    /// Opens a snapshot for reading. It is not purged before the source is dropped.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Corrupt`] or an I/O failure. Damage further on surfaces as an
    /// `io::Error` of kind `InvalidData` while reading: every byte given out has passed its checksum.
    fn open(&self, id: SnapshotId) -> Result<SnapshotSource, SnapshotError>;

    /// The newest complete snapshot that `vouched` accepts. A damaged one is set aside, and the next older is tried.
    ///
    /// # Errors
    /// An I/O failure. No snapshot at all is `Ok(None)`.
    fn newest(
        &self,
        vouched: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<Option<SnapshotId>, SnapshotError>;

    /// Removes snapshots with an index below `keep_from`, except pinned ones.
    ///
    /// # Errors
    /// An I/O failure; what was removed stays removed.
    fn purge(&self, keep_from: u64) -> Result<(), SnapshotError>;
}

impl<S: SnapshotStore + ?Sized> SnapshotStore for Arc<S> {
    fn create(&self, id: SnapshotId) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        (**self).create(id)
    }

    fn open(&self, id: SnapshotId) -> Result<SnapshotSource, SnapshotError> {
        (**self).open(id)
    }

    fn newest(
        &self,
        vouched: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<Option<SnapshotId>, SnapshotError> {
        (**self).newest(vouched)
    }

    fn purge(&self, keep_from: u64) -> Result<(), SnapshotError> {
        (**self).purge(keep_from)
    }
}

/// A snapshot being written.
pub trait SnapshotSink: Write + Send {
    /// Makes the snapshot durable under its name, and returns how many bytes of content it has.
    ///
    /// # Errors
    /// An I/O failure; then there is no snapshot under this id, or the one that was there before.
    fn commit(self: Box<Self>) -> Result<u64, SnapshotError>;
}

/// A snapshot being read.
pub struct SnapshotSource {
    /// Bytes of content.
    pub len: u64,
    /// The content, verified as it is read.
    pub content: Box<dyn Read + Send>,
}

impl std::fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSource").field("len", &self.len).finish_non_exhaustive()
    }
}
