//! A log and a place for snapshots in memory, which crash when told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Cursor, Write};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};

use super::{
    LogBatch, LogError, LogReader, LogState, LogStore, SnapshotError, SnapshotId, SnapshotMark,
    SnapshotSink, SnapshotSource, SnapshotStore,
};

/// A [`LogStore`] in memory that loses what was not synced when it [`crash`](Self::crash)es.
///
/// Clones share one log, so that a test can crash what a node owns.
///
/// ```
/// # use oarlock_raftnode::{LogBatch, LogStore, MemStore};
/// let mut log = MemStore::new();
/// log.append(&LogBatch { metadata: Some("durable".into()), ..LogBatch::default() })?;
/// log.sync()?;
/// log.append(&LogBatch { metadata: Some("in flight".into()), ..LogBatch::default() })?;
/// let after_power_loss = log.crash();
/// assert_eq!(after_power_loss.state()?.metadata, "durable");
/// assert!(log.sync().is_err(), "the crashed one is dead");
/// # Ok::<(), oarlock_raftnode::LogError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    durable: Log,
    /// As seen by readers.
    current: Log,
    /// Appended since the last sync.
    pending: Vec<OwnedBatch>,
    /// What failed first, once something has.
    poisoned: Option<&'static str>,
    faults: Faults,
    syncs: u64,
}

#[derive(Debug, Default)]
struct Faults {
    append: bool,
    sync: bool,
    full: bool,
}

#[derive(Clone, Debug, Default)]
struct Log {
    metadata: Bytes,
    hard_state: HardState,
    snapshot: Option<SnapshotMark>,
    entries: VecDeque<Entry>,
    /// Index and term of the entry before the first.
    before: u64,
    before_term: u64,
}

#[derive(Clone, Debug)]
struct OwnedBatch {
    metadata: Option<Bytes>,
    install: Option<SnapshotMark>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    compact: Option<SnapshotMark>,
}

impl Log {
    fn last(&self) -> u64 {
        self.before + self.entries.len() as u64
    }

    fn check(&self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        let (mut low, mut next) = match &batch.install {
            Some(mark) => (mark.index + 1, mark.index + 1),
            None => (self.before + 1, self.last() + 1),
        };
        for entry in batch.entries {
            if entry.index < low || entry.index > next {
                return Err(LogError::Gap { found: entry.index, expected: next });
            }
            low = entry.index + 1;
            next = low;
        }
        match &batch.compact {
            Some(mark) if mark.index >= next => {
                Err(LogError::Unavailable { index: mark.index, last: next - 1 })
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, batch: &OwnedBatch) {
        if let Some(metadata) = &batch.metadata {
            self.metadata = metadata.clone();
        }
        if let Some(mark) = &batch.install {
            self.entries.clear();
            (self.before, self.before_term) = (mark.index, mark.term);
            self.snapshot = Some(mark.clone());
        }
        if let Some(first) = batch.entries.first() {
            self.entries.truncate((first.index - self.before - 1) as usize);
            self.entries.extend(batch.entries.iter().cloned());
        }
        if let Some(hard_state) = &batch.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(mark) = &batch.compact
            && self.snapshot.as_ref().is_none_or(|newest| newest.index <= mark.index)
        {
            self.snapshot = Some(mark.clone());
        }
    }

    fn release(&mut self, before: u64) {
        while self.before + 1 < before
            && let Some(entry) = self.entries.pop_front()
        {
            (self.before, self.before_term) = (entry.index, entry.term);
        }
    }
}

impl OwnedBatch {
    fn new(batch: &LogBatch<'_>) -> Self {
        Self {
            metadata: batch.metadata.clone(),
            install: batch.install.clone(),
            entries: batch.entries.to_vec(),
            hard_state: batch.hard_state.clone(),
            compact: batch.compact.clone(),
        }
    }
}

impl MemStore {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Power loss: what was not synced is gone. Returns what a reopened log would hold; this one and its clones are
    /// poisoned.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_keeping(0)
    }

    /// Power loss after which the first `kept` unsynced batches turn out to have reached the disk all the same.
    #[must_use]
    pub fn crash_keeping(&self, kept: usize) -> Self {
        let mut inner = self.inner.lock();
        inner.poisoned = Some("write");
        let mut durable = inner.durable.clone();
        for batch in inner.pending.iter().take(kept) {
            durable.apply(batch);
        }
        let fresh = Inner { current: durable.clone(), durable, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(fresh)) }
    }

    /// How many batches a crash would lose now.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.inner.lock().pending.len()
    }

    /// How many syncs have succeeded.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// Lets the next append fail and so poison the log.
    pub fn fail_next_append(&self) {
        self.inner.lock().faults.append = true;
    }

    /// Lets the next sync fail and so poison the log.
    pub fn fail_next_sync(&self) {
        self.inner.lock().faults.sync = true;
    }

    /// Whether the disk is full: appends are refused then, and leave the log as it was.
    pub fn set_full(&self, full: bool) {
        self.inner.lock().faults.full = full;
    }
}

impl Inner {
    fn check(&self) -> Result<(), LogError> {
        match self.poisoned {
            Some(op) => Err(LogError::Poisoned { cause: Some(Box::new(injected(op))) }),
            None => Ok(()),
        }
    }
}

fn injected(op: &'static str) -> LogError {
    LogError::Io { op, source: io::Error::other("injected fault") }
}

impl LogStore for MemStore {
    fn state(&self) -> Result<LogState, LogError> {
        let inner = self.inner.lock();
        let log = &inner.current;
        Ok(LogState {
            metadata: log.metadata.clone(),
            hard_state: log.hard_state.clone(),
            snapshot: log.snapshot.clone(),
            first_index: log.before + 1,
            last_index: log.last(),
        })
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.clone())
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        let mut inner = self.inner.lock();
        inner.check()?;
        inner.current.check(batch)?;
        if inner.faults.full {
            return Err(LogError::NoSpace { source: io::ErrorKind::StorageFull.into() });
        }
        if std::mem::take(&mut inner.faults.append) {
            inner.poisoned = Some("write");
            return Err(injected("write"));
        }
        let batch = OwnedBatch::new(batch);
        inner.current.apply(&batch);
        inner.pending.push(batch);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let mut inner = self.inner.lock();
        inner.check()?;
        if std::mem::take(&mut inner.faults.sync) {
            inner.poisoned = Some("sync");
            return Err(injected("sync"));
        }
        let Inner { durable, pending, .. } = &mut *inner;
        for batch in pending.drain(..) {
            durable.apply(&batch);
        }
        inner.syncs += 1;
        Ok(())
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        let mut inner = self.inner.lock();
        inner.check()?;
        let covered = inner.durable.snapshot.as_ref().map_or(0, |mark| mark.index);
        if before > covered + 1 {
            return Err(LogError::NoMark { before });
        }
        inner.current.release(before);
        inner.durable.release(before);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.inner.lock().current.entries.iter().map(super::tail::cost).sum()
    }

    fn close(mut self: Box<Self>) -> Result<(), LogError> {
        self.sync()
    }
}

impl LogReader for MemStore {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let inner = self.inner.lock();
        let log = &inner.current;
        if low >= high {
            return Ok(Vec::new());
        }
        if low <= log.before {
            return Err(LogError::Compacted { index: low, first: log.before + 1 });
        }
        if high > log.last() + 1 {
            return Err(LogError::Unavailable { index: high - 1, last: log.last() });
        }
        let range = (low - log.before - 1) as usize..(high - log.before - 1) as usize;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in log.entries.range(range) {
            bytes += entry.data.len() as u64;
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        let inner = self.inner.lock();
        let log = &inner.current;
        if let Some(mark) = log.snapshot.as_ref().filter(|mark| mark.index == index) {
            return Ok(mark.term);
        }
        if index == log.before {
            return Ok(log.before_term);
        }
        if index < log.before {
            return Err(LogError::Compacted { index, first: log.before + 1 });
        }
        match log.entries.get((index - log.before - 1) as usize) {
            Some(entry) => Ok(entry.term),
            None => Err(LogError::Unavailable { index, last: log.last() }),
        }
    }

    fn first_index(&self) -> u64 {
        self.inner.lock().current.before + 1
    }

    fn last_index(&self) -> u64 {
        self.inner.lock().current.last()
    }
}

/// A [`SnapshotStore`] in memory. Clones share the snapshots; what was committed survives any crash.
#[derive(Clone, Debug, Default)]
pub struct MemSnapshots {
    inner: Arc<Mutex<Snapshots>>,
}

#[derive(Debug, Default)]
struct Snapshots {
    whole: BTreeMap<SnapshotId, Bytes>,
    fail_commit: bool,
}

struct MemSink {
    id: SnapshotId,
    bytes: Vec<u8>,
    store: MemSnapshots,
}

impl MemSnapshots {
    /// No snapshots.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The ids held, oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<SnapshotId> {
        self.inner.lock().whole.keys().copied().collect()
    }

    /// Takes a snapshot away, as a careless operator would.
    pub fn lose(&self, id: SnapshotId) {
        self.inner.lock().whole.remove(&id);
    }

    /// Lets the next commit fail.
    pub fn fail_next_commit(&self) {
        self.inner.lock().fail_commit = true;
    }
}

impl SnapshotStore for MemSnapshots {
    fn create(&self, id: SnapshotId) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        Ok(Box::new(MemSink { id, bytes: Vec::new(), store: self.clone() }))
    }

    fn open(&self, id: SnapshotId) -> Result<SnapshotSource, SnapshotError> {
        let content = self.inner.lock().whole.get(&id).cloned();
        let content = content.ok_or(SnapshotError::NotFound(id))?;
        Ok(SnapshotSource { len: content.len() as u64, content: Box::new(Cursor::new(content)) })
    }

    fn newest(
        &self,
        vouched: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<Option<SnapshotId>, SnapshotError> {
        Ok(self.inner.lock().whole.keys().rev().copied().find(|id| vouched(*id)))
    }

    fn purge(&self, keep_from: u64) -> Result<(), SnapshotError> {
        self.inner.lock().whole.retain(|id, _| id.index >= keep_from);
        Ok(())
    }
}

impl Write for MemSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for MemSink {
    fn commit(self: Box<Self>) -> Result<u64, SnapshotError> {
        let mut store = self.store.inner.lock();
        if std::mem::take(&mut store.fail_commit) {
            let source = io::Error::other("injected fault");
            return Err(SnapshotError::Io { op: "sync", source });
        }
        let len = self.bytes.len() as u64;
        store.whole.insert(self.id, self.bytes.into());
        Ok(len)
    }
}
