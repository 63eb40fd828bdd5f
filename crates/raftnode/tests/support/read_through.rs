//! A log in memory that a test looks into as it is read.

use std::sync::Arc;

use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::{LogBatch, LogError, LogReader, LogState, LogStore, MemStore};

/// Reads entries from `low` up to `high`, of so many bytes, of the log underneath.
pub(crate) type Read =
    dyn Fn(&dyn LogReader, (u64, u64, u64)) -> Result<Vec<Entry>, LogError> + Send + Sync;

/// A [`MemStore`] whose entries are read through a function of the test's.
#[derive(Clone)]
pub(crate) struct ReadThrough<S = MemStore> {
    store: S,
    read: Arc<Read>,
}

impl ReadThrough {
    pub(crate) fn new(
        store: MemStore,
        read: impl Fn(&dyn LogReader, (u64, u64, u64)) -> Result<Vec<Entry>, LogError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { store, read: Arc::new(read) }
    }
}

impl LogStore for ReadThrough {
    fn state(&self) -> Result<LogState, LogError> {
        self.store.state()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(ReadThrough { store: self.store.reader(), read: Arc::clone(&self.read) })
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        self.store.append(batch)
    }

    fn max_batch(&self) -> u64 {
        self.store.max_batch()
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.store.sync()
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        self.store.release(before)
    }

    fn size(&self) -> u64 {
        self.store.size()
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Box::new(self.store).close()
    }
}

impl LogReader for ReadThrough<Arc<dyn LogReader>> {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        (self.read)(&*self.store, (low, high, max_bytes))
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.store.term(index)
    }

    fn first_index(&self) -> u64 {
        self.store.first_index()
    }

    fn last_index(&self) -> u64 {
        self.store.last_index()
    }
}
