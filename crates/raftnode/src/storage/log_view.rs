//! The log as raft-rs sees it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};

use super::changes::Changes;
use super::fetch::{Fetch, Fetches};
use super::tail::{Tail, cost};
use super::{LogError, LogReader, SnapshotMark};

/// A follower needs a snapshot that does not exist yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWish {
    /// Who needs it.
    pub to: u64,
    /// The lowest index that will do; 0 if any will.
    pub request_index: u64,
}

/// raft-rs's `Storage` over a [`LogReader`], with the newest entries in memory.
///
/// raft-rs panics on nearly every storage error, expects entries to be readable before they are written, and needs the
/// term of the entry before the first. So this view keeps track of the log's bounds itself:
///
/// * what was appended is readable at once and stays in memory until [`persisted`](Self::persisted) says that the log
///   holds it; beyond that the memory is bounded by a budget of bytes, however far a follower lags;
/// * what is not in memory is read by the caller, or, under a [`Core`](crate::core::Core), by somebody who may wait for a
///   disk (O12): see [`Fetch`]. There raft-rs is not given what is committed, but only told how far that goes;
/// * whether there are conf changes among entries is known without reading them: before each election raft-rs asks for
///   everything that is committed and not applied, at once, only to count them;
/// * the entry before the first is always known by its term (the *dummy* of etcd's `MemoryStorage`);
/// * a snapshot is offered only when there is one that helps; else the wish is noted for
///   [`take_snapshot_wish`](Self::take_snapshot_wish).
///
/// It belongs to the thread that owns the `RawNode`. An error on which raft-rs panics is kept for
/// [`take_error`](Self::take_error), so that whoever catches the panic can report the cause.
pub struct LogView {
    reader: Arc<dyn LogReader>,
    tail: Tail,
    /// The conf changes after the snapshot that this view began with.
    changes: Changes,
    /// What is read elsewhere; `None` if nothing is.
    fetches: Option<Fetches>,
    /// raft-rs holds further entries that it has not handed out with a Ready yet.
    more: bool,
    dummy: (u64, u64),
    last: (u64, u64),
    /// Entries up to here may be read back through `reader`; those above are in `tail`.
    durable: u64,
    hard_state: HardState,
    conf_state: ConfState,
    offer: Option<(SnapshotMark, Bytes)>,
    wishes: RefCell<BTreeMap<u64, u64>>,
    error: Cell<Option<LogError>>,
}

impl LogView {
    /// How much of the log is kept in memory by default: 64 MiB, which lets a follower lag for a while without a disk
    /// read.
    pub const DEFAULT_BUDGET: u64 = 64 << 20;

    /// Entries returned by one read at most, so that a message never holds more than a frame may
    /// (see [`wire::MAX_ENTRIES`](crate::wire::MAX_ENTRIES)).
    const MAX_READ: usize = 1 << 15;

    /// The most entries for which a read reserves memory in advance.
    const READ_AT_ONCE: usize = 1 << 10;

    /// A view of a log that was just opened, all of which is durable (O20). Everything after `start` is read once, a
    /// mebibyte at a time, for the conf changes in it; [`Recovered::view`](crate::bootstrap::Recovered::view) knows them
    /// already.
    ///
    /// `start` is the snapshot that the state machine was restored from; its configuration is what raft-rs starts
    /// with. `budget` is in bytes.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if the log does not reach back to `start`, or an error of the reader.
    pub fn new(
        reader: Arc<dyn LogReader>,
        start: Option<SnapshotMark>,
        hard_state: HardState,
        budget: u64,
    ) -> Result<Self, LogError> {
        let changes = Changes::none_through(start.as_ref().map_or(0, |mark| mark.index));
        Self::with_changes(reader, start, hard_state, budget, changes)
    }

    /// The same, but only what is beyond the `changes` is read.
    pub(crate) fn with_changes(
        reader: Arc<dyn LogReader>,
        start: Option<SnapshotMark>,
        hard_state: HardState,
        budget: u64,
        mut changes: Changes,
    ) -> Result<Self, LogError> {
        let start = start.unwrap_or_default();
        let (first, last) = (reader.first_index(), reader.last_index());
        if first > start.index + 1 || last < start.index {
            let detail = format!("entries {first} to {last} do not continue index {}", start.index);
            return Err(LogError::Corrupt { detail, place: None });
        }
        // The term before the first entry is known at the snapshot and at 0; else the first entry gives its own.
        let dummy = if first == start.index + 1 {
            (start.index, start.term)
        } else if first <= 1 {
            (0, 0)
        } else {
            (first, reader.term(first)?)
        };
        let last = if last == dummy.0 { dummy } else { (last, reader.term(last)?) };
        changes.read_on(reader.as_ref(), last.0)?;
        Ok(Self {
            reader,
            tail: Tail::new(budget),
            changes,
            fetches: None,
            more: false,
            dummy,
            last,
            durable: last.0,
            hard_state,
            conf_state: start.conf_state,
            offer: None,
            wishes: RefCell::default(),
            error: Cell::default(),
        })
    }

    /// Makes entries readable. Call it before `advance_append_async`, or raft-rs stalls silently.
    ///
    /// The first may overwrite an earlier entry, and then everything from there on is replaced.
    ///
    /// # Errors
    /// [`LogError::Gap`] or [`LogError::Compacted`] for entries that do not fit; nothing is changed then.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        self.append_shared(&Arc::new(entries.to_vec()))
    }

    /// As [`append`](Self::append), without a copy: the entries are shared with whoever writes them.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_shared(&mut self, entries: &Arc<Vec<Entry>>) -> Result<(), LogError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        if first.index > self.last.0 + 1 {
            return Err(LogError::Gap { found: first.index, expected: self.last.0 + 1 });
        }
        if first.index <= self.dummy.0 {
            return Err(LogError::Compacted { index: first.index, first: self.dummy.0 + 1 });
        }
        if let Some((expected, entry)) =
            (first.index..).zip(&**entries).find(|(expected, entry)| entry.index != *expected)
        {
            return Err(LogError::Gap { found: entry.index, expected });
        }
        self.tail.append(entries);
        self.changes.append(entries);
        if let Some(fetches) = &mut self.fetches {
            fetches.overwritten_from(first.index);
        }
        self.last = (last.index, last.term);
        self.durable = self.durable.min(first.index - 1);
        self.tail.shrink(self.durable);
        Ok(())
    }

    /// A received snapshot replaces the whole log, including entries after it.
    pub fn install(&mut self, mark: SnapshotMark) {
        self.tail.clear();
        self.changes = Changes::none_through(mark.index);
        if let Some(fetches) = &mut self.fetches {
            fetches.overwritten_from(0);
        }
        self.dummy = (mark.index, mark.term);
        self.last = self.dummy;
        self.durable = mark.index;
        self.conf_state = mark.conf_state;
        // An older offer would end before the log begins.
        self.offer = None;
    }

    /// Entries up to `index`, which has this `term`, are durable in the log and need not stay in memory.
    ///
    /// A report about entries that were overwritten meanwhile has another term, and is ignored.
    pub fn persisted(&mut self, index: u64, term: u64) {
        if index > self.durable && self.tail.get(index).is_some_and(|entry| entry.term == term) {
            self.durable = index;
            self.tail.shrink(self.durable);
        }
    }

    /// Forgets entries up to `index`, which a durable snapshot covers. Does nothing if they are gone already.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if `index` is not durable yet, or an error of the reader.
    pub fn compact_to(&mut self, index: u64) -> Result<(), LogError> {
        if index <= self.dummy.0 {
            return Ok(());
        }
        if index > self.durable {
            return Err(LogError::Unavailable { index, last: self.durable });
        }
        self.dummy = (index, self.term_at(index)?);
        self.tail.drop_through(index);
        self.changes.drop_through(index);
        if let Some(fetches) = &mut self.fetches {
            fetches.compacted_to(index);
        }
        Ok(())
    }

    /// Replaces term, vote and commit.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Offers a durable snapshot to followers: `head` travels as the snapshot's data (see
    /// [`SnapshotHead::announce`](crate::SnapshotHead::announce)). An older one than what is offered is ignored.
    pub fn set_snapshot(&mut self, mark: SnapshotMark, head: Bytes) {
        if self.offer.as_ref().is_none_or(|(offered, _)| offered.index <= mark.index) {
            self.offer = Some((mark, head));
        }
    }

    /// Returns one of the followers that needed a snapshot and got none since the last call.
    pub fn take_snapshot_wish(&mut self) -> Option<SnapshotWish> {
        let wish = self.wishes.get_mut().pop_first();
        wish.map(|(to, request_index)| SnapshotWish { to, request_index })
    }

    /// The error that made raft-rs panic, if storage was the reason.
    pub fn take_error(&mut self) -> Option<LogError> {
        self.error.take()
    }

    /// Index of the first entry that can be read; the one before it is known by its term only.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.dummy.0 + 1
    }

    /// Index of the last entry, durable or not.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last.0
    }

    /// Index up to which the log is known to be durable. It falls back when entries are overwritten.
    #[must_use]
    pub const fn durable(&self) -> u64 {
        self.durable
    }

    /// Term, vote and commit as last set.
    #[must_use]
    pub const fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// The snapshot on offer.
    #[must_use]
    pub fn snapshot_offered(&self) -> Option<&SnapshotMark> {
        self.offer.as_ref().map(|(mark, _)| mark)
    }

    /// Bytes of entries in memory.
    #[must_use]
    pub const fn cached_bytes(&self) -> u64 {
        self.tail.bytes()
    }

    /// The term of an entry, or of the one before the first.
    ///
    /// # Errors
    /// [`LogError::Compacted`] and [`LogError::Unavailable`] outside of the log, or an error of the reader.
    pub fn term_at(&self, index: u64) -> Result<u64, LogError> {
        if index == self.dummy.0 {
            return Ok(self.dummy.1);
        }
        if index == self.last.0 {
            return Ok(self.last.1);
        }
        self.check_inside(index, index)?;
        match self.tail.get(index) {
            Some(entry) => Ok(entry.term),
            None => self.reader.term(index),
        }
    }

    /// Entries `[low, high)`, cut off after `max_bytes` or 32,768 of them; at least one.
    ///
    /// # Errors
    /// [`LogError::Compacted`] and [`LogError::Unavailable`] outside of the log, or an error of the reader.
    pub fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        if low >= high {
            return Ok(Vec::new());
        }
        self.check_inside(low, high - 1)?;
        let from_log = self.only_in_log(low, high);
        let below = if from_log.is_empty() {
            Vec::new()
        } else {
            self.reader.entries(from_log.start, from_log.end, max_bytes)?
        };
        Ok(self.join(below, low..high, max_bytes))
    }

    /// What of `[low, high)` only the log has.
    fn only_in_log(&self, low: u64, high: u64) -> Range<u64> {
        low..self.tail.first().unwrap_or(u64::MAX).min(high)
    }

    /// What was read from the log, and what follows it in memory.
    fn join(
        &self,
        below: impl IntoIterator<Item = Entry>,
        range: Range<u64>,
        max_bytes: u64,
    ) -> Vec<Entry> {
        let mut budget = max_bytes;
        let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut entries = Vec::with_capacity(count.min(Self::READ_AT_ONCE));
        for entry in below {
            if !take(entry, &mut entries, &mut budget) {
                return entries;
            }
        }
        let next = range.start + entries.len() as u64;
        // The log may stop earlier than asked; a hole must not follow.
        if self.tail.first().is_some_and(|first| first <= next) {
            for entry in self.tail.range(next, range.end) {
                if !take(entry.clone(), &mut entries, &mut budget) {
                    break;
                }
            }
        }
        entries
    }

    /// From now on other threads make the reads (O12): for followers see [`take_fetch`](Self::take_fetch), for the state
    /// machine [`fetch_to_apply`](Self::fetch_to_apply).
    pub(crate) fn fetch_elsewhere(&mut self) {
        self.fetches = Some(Fetches::default());
    }

    /// What is to be read elsewhere, a message's worth.
    pub(crate) fn take_fetch(&mut self) -> Option<Fetch> {
        self.fetches.as_mut()?.take()
    }

    /// What was read is here until [`forget_fetched`](Self::forget_fetched).
    pub(crate) fn put_fetched(
        &mut self,
        fetch: &Fetch,
        entries: Result<Vec<Entry>, LogError>,
    ) -> Result<(), LogError> {
        self.fetches.as_mut().map_or(Ok(()), |fetches| fetches.put(fetch, entries))
    }

    pub(crate) fn forget_fetched(&mut self) {
        if let Some(fetches) = &mut self.fetches {
            fetches.forget();
        }
    }

    /// The read for entries from `range.start` on, if only the log has them.
    pub(crate) fn fetch_to_apply(&self, range: Range<u64>, max_bytes: u64) -> Option<Fetch> {
        let Range { start, end } = self.only_in_log(range.start, range.end);
        let end = end.min(start + Self::MAX_READ as u64);
        (start < end).then(|| Fetch::to_apply(start..end, max_bytes))
    }

    /// The entries of `range` that are in memory, limited as by [`read`](Self::read); none if the first is not.
    pub(crate) fn in_memory(&self, range: Range<u64>, max_bytes: u64) -> Vec<Entry> {
        self.join(None, range, max_bytes)
    }

    /// The last conf change in `range`.
    pub(crate) fn last_change(&self, range: Range<u64>) -> Option<u64> {
        self.changes.within(range.start, range.end).next_back()
    }

    /// The log, for reads that may wait for a disk.
    pub(crate) fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.reader)
    }

    fn check_inside(&self, low: u64, high: u64) -> Result<(), LogError> {
        if low <= self.dummy.0 {
            return Err(LogError::Compacted { index: low, first: self.first() });
        }
        if high > self.last.0 {
            return Err(LogError::Unavailable { index: high, last: self.last.0 });
        }
        Ok(())
    }
}

/// Adds an entry unless the budget is used up; the first is always added.
fn take(entry: Entry, entries: &mut Vec<Entry>, budget: &mut u64) -> bool {
    let cost = cost(&entry);
    if !entries.is_empty() && (cost > *budget || entries.len() >= LogView::MAX_READ) {
        return false;
    }
    *budget = budget.saturating_sub(cost);
    entries.push(entry);
    true
}

impl std::fmt::Debug for LogView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogView")
            .field("first", &self.first())
            .field("last", &self.last)
            .field("durable", &self.durable)
            .field("cached_bytes", &self.tail.bytes())
            .finish_non_exhaustive()
    }
}

mod for_raft;

#[cfg(test)]
mod tests;
