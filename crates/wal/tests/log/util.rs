//! A plain model of a log, the operations that both understand, and a small log on a simulated disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use oarlock_wal::testing::SimDisk;
use oarlock_wal::{Batch, Entry, Error, HardState, Options, SnapshotMark, Wal};

pub(crate) const DIR: &str = "/data/wal";
pub(crate) const SMALL: u64 = 32 << 10;

pub(crate) fn options(disk: &SimDisk) -> Options {
    Options::new().segment_size(SMALL).log_id(7).vfs(Arc::new(disk.clone()))
}

pub(crate) fn segment(number: u32) -> PathBuf {
    Path::new(DIR).join(format!("{number:08x}.wal"))
}

/// Small entries, told apart by index and term.
pub(crate) fn run(indexes: impl IntoIterator<Item = u64>, term: u64) -> Vec<Entry> {
    let entry =
        |index| Entry::new(index, term, (index % 3) as u8, format!("entry {index} of term {term}"));
    indexes.into_iter().map(entry).collect()
}

/// Entries of `len` bytes each, so that segments fill up.
pub(crate) fn large(indexes: impl IntoIterator<Item = u64>, term: u64, len: usize) -> Vec<Entry> {
    let fill = |index: u64| vec![(index + term) as u8; len];
    indexes.into_iter().map(|index| Entry::new(index, term, 0, fill(index))).collect()
}

pub(crate) fn append(log: &Wal, batch: &Batch<'_>) {
    log.wait(log.append(batch).expect("appends")).expect("syncs");
}

pub(crate) fn all(log: &Wal) -> Vec<Entry> {
    log.entries(log.first_index()..log.last_index() + 1, u64::MAX).expect("reads")
}

/// A batch that owns its entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) metadata: Option<Bytes>,
    pub(crate) install: Option<SnapshotMark>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) compact: Option<SnapshotMark>,
}

impl Spec {
    pub(crate) fn of(entries: Vec<Entry>) -> Self {
        Self { entries, ..Self::default() }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            metadata: self.metadata.clone(),
            install: self.install.clone(),
            entries: &self.entries,
            hard_state: self.hard_state,
            compact: self.compact.clone(),
        }
    }
}

/// What a log must say, kept in a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) metadata: Bytes,
    pub(crate) hard_state: HardState,
    pub(crate) mark: Option<SnapshotMark>,
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) last: u64,
    /// Entries before it may be gone.
    pub(crate) released: u64,
}

impl Model {
    pub(crate) fn apply(&mut self, spec: &Spec) {
        if let Some(metadata) = &spec.metadata {
            self.metadata = metadata.clone();
        }
        if let Some(mark) = &spec.install {
            self.entries.clear();
            self.last = mark.index;
            self.mark = Some(mark.clone());
        }
        if let Some(first) = spec.entries.first() {
            self.entries.split_off(&first.index);
            self.entries.extend(spec.entries.iter().map(|e| (e.index, e.clone())));
            self.last = first.index + spec.entries.len() as u64 - 1;
        }
        if let Some(state) = spec.hard_state {
            self.hard_state = state;
        }
        if let Some(mark) = &spec.compact {
            self.mark = Some(mark.clone());
        }
    }

    /// What differs between the log and this, in words.
    pub(crate) fn difference(&self, log: &Wal) -> Option<String> {
        let (first, last) = (log.first_index(), log.last_index());
        let oldest = self.entries.keys().next().copied().unwrap_or(self.last + 1);
        let differs = |what: &str, log: &dyn std::fmt::Debug, model: &dyn std::fmt::Debug| {
            Some(format!("{what}: log {log:?}, model {model:?}"))
        };
        if last != self.last {
            return differs("last index", &last, &self.last);
        }
        if log.metadata() != self.metadata {
            return differs("metadata", &log.metadata(), &self.metadata);
        }
        if log.hard_state() != self.hard_state {
            return differs("hard state", &log.hard_state(), &self.hard_state);
        }
        if log.snapshot() != self.mark {
            return differs("mark", &log.snapshot(), &self.mark);
        }
        if first < oldest || first > oldest.max(self.released).max(1) {
            return differs("first index", &first, &(oldest, self.released));
        }
        let read = match log.entries(first..last + 1, u64::MAX) {
            Ok(read) => read,
            Err(error) => return differs("reading", &error, &()),
        };
        if !read.iter().eq(self.entries.range(first..).map(|(_, e)| e)) {
            return Some(format!("entries {first}..={last} differ"));
        }
        for entry in &read {
            match log.term(entry.index) {
                Ok(term) if term == entry.term => {}
                other => return differs("term", &other.map_err(|e| e.to_string()), &entry.term),
            }
        }
        let base = self.entries.get(&(first - 1)).map(|e| e.term);
        if let Some(base) = base
            && log.term(first - 1).ok() != Some(base)
        {
            return differs("term before the first", &log.term(first - 1).ok(), &base);
        }
        None
    }
}

/// Opens the log that `disk` holds.
pub(crate) fn reopen(disk: &SimDisk) -> Result<Wal, Error> {
    options(disk).open(DIR)
}
