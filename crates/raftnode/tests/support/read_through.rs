//! A log in memory of which a test controls the reads and syncs.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;

use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::{LogBatch, LogError, LogReader, LogState, LogStore, MemStore};

/// Reads entries from `low` up to `high`, of so many bytes, of the log underneath.
pub(crate) type Read =
    dyn Fn(&dyn LogReader, (u64, u64, u64)) -> Result<Vec<Entry>, LogError> + Send + Sync;

/// A [`MemStore`] whose entries are read through a function of the test's, and which calls another before each sync.
#[derive(Clone)]
pub(crate) struct ReadThrough<S = MemStore> {
    store: S,
    read: Arc<Read>,
    before_sync: Arc<dyn Fn() + Send + Sync>,
}

impl ReadThrough {
    pub(crate) fn new(
        store: MemStore,
        read: impl Fn(&dyn LogReader, (u64, u64, u64)) -> Result<Vec<Entry>, LogError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { store, read: Arc::new(read), before_sync: Arc::new(|| {}) }
    }

    /// What to do before the log is synced or closed: to wait, for example.
    pub(crate) fn before_sync(self, before: impl Fn() + Send + Sync + 'static) -> Self {
        Self { before_sync: Arc::new(before), ..self }
    }
}

impl LogStore for ReadThrough {
    fn state(&self) -> Result<LogState, LogError> {
        self.store.state()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        let Self { store, read, before_sync } = self.clone();
        Arc::new(ReadThrough { store: store.reader(), read, before_sync })
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        self.store.append(batch)
    }

    fn max_batch(&self) -> u64 {
        self.store.max_batch()
    }

    fn sync(&mut self) -> Result<(), LogError> {
        (self.before_sync)();
        self.store.sync()
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        self.store.release(before)
    }

    fn size(&self) -> u64 {
        self.store.size()
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        (self.before_sync)();
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
