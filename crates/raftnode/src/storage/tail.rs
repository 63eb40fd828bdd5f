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

    /// Bytes of memory held.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces everything from the first of `entries` on. They must continue what is below.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.truncate_from(first.index);
        self.bytes += entries.iter().map(memory).sum::<u64>();
        let room = self.entries.capacity();
        if room < self.entries.len() + entries.len() {
            // A quarter at a time: doubling would hold more than the budget knows of.
            self.entries.reserve_exact(entries.len().max(room / SPARE));
        }
        self.entries.extend(entries.iter().cloned());
    }

    fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|last| last.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= memory(&entry);
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
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 2 {
            self.entries.shrink_to(self.entries.len() + self.entries.len() / SPARE);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= memory(&entry);
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

/// How much of its own length the run of entries has to spare at most: one in so many.
const SPARE: usize = 4;

/// What an entry takes of the heap: its place in the run, its data, and what the allocator and `Bytes` keep beside those.
fn memory(entry: &Entry) -> u64 {
    const PLACE: usize = size_of::<Entry>() + size_of::<Entry>() / SPARE;
    const BESIDE: usize = 64;
    (PLACE + BESIDE + entry.data.len() + entry.context.len()) as u64
}

/// What an entry comes to in a message, within a few bytes.
pub(super) fn cost(entry: &Entry) -> u64 {
    // The rest of an encoded entry: kind, term, index and lengths.
    const OVERHEAD: u64 = 24;
    entry.data.len() as u64 + entry.context.len() as u64 + OVERHEAD
}
