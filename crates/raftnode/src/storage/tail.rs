//! The tail cache: the newest entries, in memory, within a budget of bytes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use raft::eraftpb::Entry;

/// A contiguous run of entries at the end of the log, possibly empty. When it holds more than its budget, entries are
/// dropped from the front, but none above an index that the caller gives.
///
/// Entries that were appended together are shared with the writer, and dropped together.
#[derive(Debug)]
pub(super) struct Tail {
    batches: VecDeque<Batch>,
    bytes: u64,
    budget: u64,
}

/// Entries that were appended together, of which at least one is still held.
#[derive(Debug)]
struct Batch {
    entries: Arc<Vec<Entry>>,
    /// Index of the first of them, held or not.
    origin: u64,
    /// The indexes that are still held: those before were compacted, those after were replaced.
    held: Range<u64>,
    bytes: u64,
}

impl Batch {
    fn new(entries: &Arc<Vec<Entry>>) -> Option<Self> {
        let (origin, last) = (entries.first()?.index, entries.last()?.index);
        let (entries, bytes) = (Arc::clone(entries), memory(entries));
        Some(Self { entries, origin, held: origin..last + 1, bytes })
    }

    /// The held entries in `[low, high)`.
    fn within(&self, low: u64, high: u64) -> &[Entry] {
        let (low, high) = (low.max(self.held.start), high.min(self.held.end));
        let place = |index: u64| usize::try_from(index - self.origin).unwrap_or(usize::MAX);
        if low < high { self.entries.get(place(low)..place(high)).unwrap_or_default() } else { &[] }
    }
}

impl Tail {
    pub(super) const fn new(budget: u64) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, budget }
    }

    /// Index of the first entry held.
    pub(super) fn first(&self) -> Option<u64> {
        self.batches.front().map(|batch| batch.held.start)
    }

    /// Bytes of memory held.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends entries, which replace everything from their first index on. They must continue what is before it.
    pub(super) fn append(&mut self, entries: &Arc<Vec<Entry>>) {
        let Some(batch) = Batch::new(entries) else { return };
        self.truncate_from(batch.origin);
        self.bytes += batch.bytes;
        self.batches.push_back(batch);
    }

    fn truncate_from(&mut self, index: u64) {
        while let Some(last) = self.batches.back_mut()
            && last.held.end > index
        {
            if last.held.start < index {
                last.held.end = index;
                return;
            }
            self.bytes -= last.bytes;
            self.batches.pop_back();
        }
    }

    /// Drops everything up to `index`.
    pub(super) fn drop_through(&mut self, index: u64) {
        while self.drop_front(index) {}
        if let Some(first) = self.batches.front_mut() {
            first.held.start = first.held.start.max(index + 1);
        }
    }

    /// Drops from the front until the budget holds, but nothing above `pinned_above`.
    pub(super) fn shrink(&mut self, pinned_above: u64) {
        while self.bytes > self.budget && self.drop_front(pinned_above) {}
        // Give back the memory that a burst has left unused.
        if self.batches.capacity() > 1024 && self.batches.len() < self.batches.capacity() / 4 {
            self.batches.shrink_to(self.batches.len() * 2);
        }
    }

    /// Drops the first batch, unless it has an entry above `index`. Returns whether it did.
    fn drop_front(&mut self, index: u64) -> bool {
        let Some(first) = self.batches.front().filter(|first| first.held.end <= index + 1) else {
            return false;
        };
        self.bytes -= first.bytes;
        self.batches.pop_front().is_some()
    }

    pub(super) fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }

    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        self.range(index, index + 1).next()
    }

    /// The held entries in `[low, high)`.
    pub(super) fn range(&self, low: u64, high: u64) -> impl Iterator<Item = &Entry> {
        let from = self.batches.partition_point(|batch| batch.held.end <= low);
        let batches = self.batches.range(from..).take_while(move |batch| batch.held.start < high);
        batches.flat_map(move |batch| batch.within(low, high))
    }
}

/// About how much memory a batch takes: the entries, their data, and the overhead of the allocator and of `Bytes`.
fn memory(entries: &Arc<Vec<Entry>>) -> u64 {
    const BESIDE_BATCH: usize = 2 * size_of::<Batch>() + 64;
    const BESIDE_ENTRY: usize = 64;
    let places = entries.capacity() * size_of::<Entry>();
    let data = |entry: &Entry| BESIDE_ENTRY + entry.data.len() + entry.context.len();
    (BESIDE_BATCH + places + entries.iter().map(data).sum::<usize>()) as u64
}

/// About how many bytes an entry takes in a message.
pub(super) fn cost(entry: &Entry) -> u64 {
    // The rest of an encoded entry: kind, term, index and lengths.
    const OVERHEAD: u64 = 24;
    entry.data.len() as u64 + entry.context.len() as u64 + OVERHEAD
}
