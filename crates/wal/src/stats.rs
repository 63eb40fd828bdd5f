//! What the log has done, and who is told while it does it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the log has done since it was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Batches appended.
    pub appends: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes written for them, headers and padding included.
    pub bytes: u64,
    /// Syncs that callers waited for; far fewer than appends means that group commit works.
    pub syncs: u64,
    /// Segments begun.
    pub rolls: u64,
    /// Of those, the ones that nobody had prepared: an append had to write the zeros itself.
    pub foreground_rolls: u64,
    /// Segments made of released ones, with nothing to be written but the head.
    pub recycled: u64,
    /// Mark slots written.
    pub marks: u64,
    /// Segments released.
    pub released: u64,
    /// Segments on disk, the ones prepared ahead included.
    pub segments: u64,
    /// Released segments that are kept to be made segments again, besides: four of the full size at most.
    pub spares: u64,
    /// Bytes of heap that the index takes.
    pub index_bytes: u64,
}

/// Told about what takes time. Called on the thread that does it; keep it short. Every method
/// defaults to doing nothing.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A sync that a caller waited for has succeeded.
    fn fsync(&self, took: Duration) {
        let _ = took;
    }

    /// A batch has been encoded and written, but not synced. Called with the append lock held.
    fn append(&self, bytes: u64, took: Duration) {
        let _ = (bytes, took);
    }

    /// A segment has been begun. `prepared` says that it was ready; if not, an append has just waited for it.
    ///
    /// Called with the append lock held, so do nothing with the log here. Where no [`Maintainer`](crate::Maintainer)
    /// looks after it, this is the moment to wake the thread that does, for [`Wal::prepare`](crate::Wal::prepare): at
    /// full speed a segment lasts for tens of milliseconds only.
    fn roll(&self, prepared: bool) {
        let _ = prepared;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) appends: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) rolls: AtomicU64,
    pub(crate) foreground_rolls: AtomicU64,
    pub(crate) marks: AtomicU64,
    pub(crate) released: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            appends: get(&self.appends),
            entries: get(&self.entries),
            bytes: get(&self.bytes),
            syncs: get(&self.syncs),
            rolls: get(&self.rolls),
            foreground_rolls: get(&self.foreground_rolls),
            recycled: 0,
            marks: get(&self.marks),
            released: get(&self.released),
            segments: 0,
            spares: 0,
            index_bytes: 0,
        }
    }
}
