//! A log and its snapshots, opened for looking.

use std::io;
use std::path::Path;
use std::sync::Arc;

use oarlock_wal::{ReadOnly, snapshot};

use super::wal_reader::WalReader;
use super::wal_store::{WalSnapshots, state};
use super::{LogBatch, LogError, LogReader, LogState, LogStore, SnapshotStore, WalStoreError};

/// What a [`WalStore`](super::WalStore) would open, for tools that only look: without a lock, a write or a repair, also
/// beside a running node, whose later writes it does not see.
///
/// It is a [`LogStore`] so that [`plan_standalone`](crate::bootstrap::plan_standalone) takes it. Everything that would
/// write fails.
///
/// ```
/// # let tmp = tempfile::tempdir()?;
/// use oarlock_raftnode::{LogStore, WalOptions, WalView};
/// # Box::new(WalOptions::new(tmp.path()).open_or_create()?).close()?;
/// let view = WalView::open(tmp.path())?;
/// assert_eq!(view.state()?.last_index, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WalView {
    log: Arc<ReadOnly>,
    snapshots: WalSnapshots,
}

impl WalView {
    /// Opens the log in `<dir>/wal`, after checking every byte of it, and the snapshots in `<dir>/snap`.
    ///
    /// # Errors
    /// As for [`oarlock_wal::Options::open_read_only`] and [`snapshot::Options::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, WalStoreError> {
        let dir = dir.as_ref();
        let log = oarlock_wal::Options::new().open_read_only(dir.join("wal"))?;
        let snapshots = snapshot::Options::new().read_only(true).open(dir.join("snap"))?;
        Ok(Self { log: Arc::new(log), snapshots: WalSnapshots(snapshots) })
    }

    /// The snapshots beside the log. A damaged one is passed over where it lies.
    #[must_use]
    pub fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        Arc::new(self.snapshots.clone())
    }
}

fn read_only(op: &'static str) -> LogError {
    LogError::Io { op, source: io::ErrorKind::ReadOnlyFilesystem.into() }
}

impl LogStore for WalView {
    fn state(&self) -> Result<LogState, LogError> {
        let log = &self.log;
        let (first, last) = (log.first_index(), log.last_index());
        state(log.metadata(), log.hard_state(), log.snapshot(), first, last)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(WalReader::Viewed(Arc::clone(&self.log)))
    }

    fn append(&mut self, _: &LogBatch<'_>) -> Result<(), LogError> {
        Err(read_only("append to"))
    }

    fn max_batch(&self) -> u64 {
        0
    }

    fn sync(&mut self) -> Result<(), LogError> {
        Err(read_only("sync"))
    }

    fn release(&mut self, _: u64) -> Result<(), LogError> {
        Err(read_only("release"))
    }

    fn size(&self) -> u64 {
        self.log.segments().iter().map(|segment| segment.bytes).sum()
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}
