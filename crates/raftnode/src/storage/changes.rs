//! Where in the log the conf changes stand.

use std::collections::BTreeSet;

use raft::eraftpb::{Entry, EntryType};

use super::{LogError, LogReader};

/// How much is read at once to find them, in bytes.
const CHUNK: u64 = 1 << 20;

/// The indexes of the conf changes of a log, which are few, up to an index from which on nothing is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    indexes: BTreeSet<u64>,
    through: u64,
}

impl Changes {
    /// None, up to `index`.
    pub(crate) const fn none_through(index: u64) -> Self {
        Self { indexes: BTreeSet::new(), through: index }
    }

    /// Reads on, piece by piece, to the entry at `last`.
    pub(super) fn read_on(&mut self, reader: &dyn LogReader, last: u64) -> Result<(), LogError> {
        while self.through < last {
            let low = self.through + 1;
            let entries = reader.entries(low, last + 1, CHUNK)?;
            if entries.first().is_none_or(|first| first.index != low) {
                let detail = format!("entry {low} is missing");
                return Err(LogError::Corrupt { detail, place: None });
            }
            self.append(&entries);
        }
        Ok(())
    }

    /// Entries that replace everything from their first on.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        if self.indexes.last().is_some_and(|change| *change >= first.index) {
            self.indexes.split_off(&first.index);
        }
        let change = |entry: &&Entry| entry.get_entry_type() != EntryType::EntryNormal;
        self.indexes.extend(entries.iter().filter(change).map(|entry| entry.index));
        self.through = last.index;
    }

    /// Forgets those up to `index`.
    pub(super) fn drop_through(&mut self, index: u64) {
        while self.indexes.first().is_some_and(|first| *first <= index) {
            self.indexes.pop_first();
        }
    }

    /// Those in `[low, high)`.
    pub(super) fn within(&self, low: u64, high: u64) -> impl DoubleEndedIterator<Item = u64> {
        self.indexes.range(low..high).copied()
    }
}
