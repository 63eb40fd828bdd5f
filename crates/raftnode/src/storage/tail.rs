//! The newest entries, in memory, within a budget of bytes.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

/// A contiguous run of entries that ends the log, possibly empty. Drops from the front when it holds more than its
/// budget, but never an entry above the index that the caller pins from.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: u64,
    budget: u64,
}

impl Tail {
    pub(super) const fn new(budget: u64) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, budget }
    }

    /// Index of the first entry held.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Bytes held, as [`cost`] counts them.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces everything from the first of `entries` on. They must continue what is below.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.truncate_from(first.index);
        self.bytes += entries.iter().map(cost).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
    }

    fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|last| last.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= cost(&entry);
            }
        }
    }

    /// Drops everything up to `index`.
    pub(super) fn drop_through(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    /// Drops from the front until the budget holds, but nothing above `pinned_above`.
    pub(super) fn shrink(&mut self, pinned_above: u64) {
        while self.bytes > self.budget && self.first().is_some_and(|first| first <= pinned_above) {
            self.pop_front();
        }
        // A burst leaves a large empty buffer behind; give it back.
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= cost(&entry);
        }
    }

    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.first()?)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Entries from `low` to below `high`, as far as they are held.
    pub(super) fn range(&self, low: u64, high: u64) -> impl Iterator<Item = &Entry> {
        let first = self.first().unwrap_or(high);
        let skip = usize::try_from(low.saturating_sub(first)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).take_while(move |entry| entry.index < high)
    }
}

/// What an entry costs in memory and, within a few bytes, in a message.
pub(super) fn cost(entry: &Entry) -> u64 {
    // The rest of an encoded entry: kind, term, index and lengths.
    const OVERHEAD: u64 = 24;
    entry.data.len() as u64 + entry.context.len() as u64 + OVERHEAD
}
