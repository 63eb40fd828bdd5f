//! Logs that break one promise each.

use std::sync::Arc;

use oarlock_raftnode::raft::eraftpb::{Entry, EntryType};
use oarlock_raftnode::testing::{LogFixture, log_store_checks};
use oarlock_raftnode::{LogBatch, LogError, LogReader, LogState, LogStore, MemStore};

use crate::each_check_catches_its_bug;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    BeginsAtZero,
    ShowsWhenSynced,
    NeverSyncs,
    TearsBatches,
    KeepsTheTail,
    BridgesGaps,
    KeepsWhatASnapshotReplaces,
    ReleasesAtOnce,
    ReleasesWithoutMark,
    ReadsWithoutBound,
    ForgetsKinds,
    HasNoSize,
    ClosesWithoutSync,
    SyncsAgain,
    LosesMetadata,
}

const BUGS: [(&str, Bug); 15] = [
    ("a new log is empty", Bug::BeginsAtZero),
    ("what is appended is readable at once", Bug::ShowsWhenSynced),
    ("what is synced survives", Bug::NeverSyncs),
    ("a crash keeps whole batches from the front", Bug::TearsBatches),
    ("an overwrite replaces the tail", Bug::KeepsTheTail),
    ("entries that do not fit are refused", Bug::BridgesGaps),
    ("an installed snapshot replaces the log", Bug::KeepsWhatASnapshotReplaces),
    ("a compaction keeps entries readable", Bug::ReleasesAtOnce),
    ("a release needs a mark", Bug::ReleasesWithoutMark),
    ("reads are bounded", Bug::ReadsWithoutBound),
    ("kinds and empty data are kept", Bug::ForgetsKinds),
    ("readers work on any thread", Bug::HasNoSize),
    ("closing makes durable", Bug::ClosesWithoutSync),
    ("a failed sync poisons for good", Bug::SyncsAgain),
    ("any history reads back", Bug::LosesMetadata),
];

struct Buggy {
    inner: MemStore,
    bug: Option<Bug>,
    /// Entries that do not show yet.
    hidden: Vec<Entry>,
}

impl Buggy {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn all(&self) -> Vec<Entry> {
        let reader = self.inner.reader();
        let (first, last) = (reader.first_index(), reader.last_index());
        reader.entries(first, last + 1, u64::MAX).expect("they are there")
    }

    fn with(inner: MemStore, bug: Option<Bug>) -> Self {
        Self { inner, bug, hidden: Vec::new() }
    }
}

impl LogStore for Buggy {
    fn state(&self) -> Result<LogState, LogError> {
        let mut state = self.inner.state()?;
        if self.has(Bug::BeginsAtZero) && state.last_index == 0 {
            state.first_index = 0;
        }
        Ok(state)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        let inner = self.inner.reader();
        if self.has(Bug::ReadsWithoutBound) { Arc::new(Unbounded(inner)) } else { inner }
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        let mut batch = batch.clone();
        let mut entries = batch.entries.to_vec();
        let old = self.all();
        match self.bug {
            Some(Bug::ShowsWhenSynced) => self.hidden.append(&mut entries),
            Some(Bug::TearsBatches) => {
                let metadata = batch.metadata.take();
                self.inner.append(&LogBatch { metadata, ..LogBatch::default() })?;
            }
            Some(Bug::KeepsTheTail) => {
                if let Some(last) = entries.last().map(|entry| entry.index) {
                    entries.extend(old.into_iter().filter(|entry| entry.index > last));
                }
            }
            Some(Bug::KeepsWhatASnapshotReplaces) => {
                if let Some(mark) = batch.install.as_ref().filter(|_| entries.is_empty()) {
                    entries = old.into_iter().filter(|entry| entry.index > mark.index).collect();
                }
            }
            Some(Bug::ForgetsKinds) => {
                entries.iter_mut().for_each(|entry| entry.set_entry_type(EntryType::EntryNormal));
            }
            Some(Bug::LosesMetadata) if batch.install.is_some() => batch.metadata = None,
            _ => {}
        }
        let appended = self.inner.append(&LogBatch { entries: &entries, ..batch.clone() });
        if self.has(Bug::BridgesGaps) && matches!(appended, Err(LogError::Gap { .. })) {
            return Ok(());
        }
        appended?;
        if let (true, Some(mark)) = (self.has(Bug::ReleasesAtOnce), &batch.compact) {
            self.inner.sync()?;
            self.inner.release(mark.index + 1)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let entries = std::mem::take(&mut self.hidden);
        self.inner.append(&LogBatch { entries: &entries, ..LogBatch::default() })?;
        if self.has(Bug::NeverSyncs) {
            return Ok(());
        }
        let synced = self.inner.sync();
        if synced.is_err() && self.has(Bug::SyncsAgain) {
            self.inner = self.inner.crash_keeping(usize::MAX);
        }
        synced
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        match self.inner.release(before) {
            Err(LogError::NoMark { .. }) if self.has(Bug::ReleasesWithoutMark) => Ok(()),
            released => released,
        }
    }

    fn size(&self) -> u64 {
        if self.has(Bug::HasNoSize) { u64::MAX } else { self.inner.size() }
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        if self.has(Bug::ClosesWithoutSync) { Ok(()) } else { Box::new(self.inner).close() }
    }
}

struct Unbounded(Arc<dyn LogReader>);

impl LogReader for Unbounded {
    fn entries(&self, low: u64, high: u64, _: u64) -> Result<Vec<Entry>, LogError> {
        self.0.entries(low, high, u64::MAX)
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.0.term(index)
    }

    fn first_index(&self) -> u64 {
        self.0.first_index()
    }

    fn last_index(&self) -> u64 {
        self.0.last_index()
    }
}

struct Fixture(Option<Bug>);

impl LogFixture for Fixture {
    type Store = Buggy;

    fn create(&mut self) -> Buggy {
        Buggy::with(MemStore::new(), self.0)
    }

    fn crash(&mut self, store: Buggy) -> Buggy {
        Buggy::with(store.inner.crash_keeping(1), self.0)
    }

    fn reopen(&mut self, store: Buggy) -> Option<Buggy> {
        let disk = store.inner.clone();
        Box::new(store).close().expect("no fault");
        Some(Buggy::with(disk.crash(), self.0))
    }

    fn fail_next_sync(&mut self, store: &mut Buggy) -> bool {
        store.inner.fail_next_sync();
        true
    }
}

#[test]
fn each_check_of_a_log_catches_what_breaks_its_promise() {
    each_check_catches_its_bug(&log_store_checks(), &BUGS, Fixture);
}
