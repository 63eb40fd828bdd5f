//! Where in the log the conf changes stand.

use std::collections::BTreeSet;

use raft::eraftpb::{Entry, EntryType};

use super::{LogError, LogReader};

/// How much is read at once to find them, in bytes.
const CHUNK: u64 = 1 << 20;

/// The indexes of the conf changes of a log, which are few.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeSet<u64>);

impl Changes {
    /// Those of entries `[low, high)`, which are read piece by piece.
    pub(super) fn find(reader: &dyn LogReader, mut low: u64, high: u64) -> Result<Self, LogError> {
        let mut changes = Self::default();
        while low < high {
            let entries = reader.entries(low, high, CHUNK)?;
            let Some(last) = entries.last().filter(|last| last.index >= low) else {
                let detail = format!("entry {low} is missing");
                return Err(LogError::Corrupt { detail, place: None });
            };
            low = last.index + 1;
            changes.add(&entries);
        }
        Ok(changes)
    }

    /// Entries that replace everything from their first on.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        if let (Some(first), Some(last)) = (entries.first(), self.0.last())
            && *last >= first.index
        {
            self.0.split_off(&first.index);
        }
        self.add(entries);
    }

    fn add(&mut self, entries: &[Entry]) {
        let change = |entry: &&Entry| entry.get_entry_type() != EntryType::EntryNormal;
        self.0.extend(entries.iter().filter(change).map(|entry| entry.index));
    }

    /// Forgets those up to `index`.
    pub(super) fn drop_through(&mut self, index: u64) {
        while self.0.first().is_some_and(|first| *first <= index) {
            self.0.pop_first();
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Those in `[low, high)`.
    pub(super) fn within(&self, low: u64, high: u64) -> impl Iterator<Item = u64> {
        self.0.range(low..high).copied()
    }
}
