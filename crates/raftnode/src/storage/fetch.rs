//! Reads of entries that are no longer in the tail cache, for a thread that may wait for a disk.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use super::{LogError, LogReader};
use crate::planted::planted;

/// A read of entries that only the log holds, and that a follower lacks or this node has to apply; to be made by a thread
/// that may wait for a disk.
///
/// [`Core::poll_fetch`](crate::core::Core::poll_fetch) returns it; give it back with the result to
/// [`Core::handle_fetched`](crate::core::Core::handle_fetched).
#[derive(Debug)]
pub struct Fetch {
    /// raft-rs's own note of whom it wants to send them to. `None` if they are to be applied here.
    context: Option<GetEntriesContext>,
    range: Range<u64>,
    max_bytes: u64,
}

impl Fetch {
    pub(crate) const fn to_apply(range: Range<u64>, max_bytes: u64) -> Self {
        Self { context: None, range, max_bytes }
    }

    /// Reads as much as fits into one message, or into one piece for the state machine. This may wait for a disk.
    ///
    /// # Errors
    /// As for [`LogReader::entries`]. Give errors to the core too, which knows whether they matter.
    pub fn read(&self, log: &dyn LogReader) -> Result<Vec<Entry>, LogError> {
        log.entries(self.range.start, self.range.end, self.max_bytes)
    }

    /// The entries to read. All of them were durable when the read was asked for.
    #[must_use]
    pub const fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// Whether they are to be applied by this node; otherwise a follower lacks them.
    #[must_use]
    pub const fn is_to_apply(&self) -> bool {
        self.context.is_none()
    }

    pub(crate) fn into_context(self) -> Option<GetEntriesContext> {
        self.context
    }

    /// Checks that what was read is a part of what was asked for, from its first entry on.
    pub(crate) fn checked(
        &self,
        entries: Result<Vec<Entry>, LogError>,
    ) -> Result<Vec<Entry>, LogError> {
        let (entries, Range { start, end }) = (entries?, self.range.clone());
        let follow = (start..end).zip(&entries).take_while(|(index, entry)| entry.index == *index);
        if entries.is_empty() || follow.count() < entries.len() {
            let detail = format!("entries {start} to {} do not read back in order", end - 1);
            return Err(LogError::Corrupt { detail, place: None });
        }
        Ok(entries)
    }
}

/// The entries that raft-rs asked for and that were not in memory.
///
/// Each read is identified by its first entry, and made once, however often and for whichever follower raft-rs asks, so
/// followers that lack the same entries share one read.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// In a `RefCell` because raft-rs asks through a shared reference.
    asked: RefCell<Asked>,
    /// The result of a read, while raft-rs takes it.
    here: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Asked {
    /// Reads that were not given out yet.
    noted: VecDeque<Fetch>,
    /// Reads without an answer, by their first entry: where each ends, and whether the log is still unchanged there.
    open: BTreeMap<u64, (u64, bool)>,
}

impl Fetches {
    /// The most reads at once. Beyond that raft-rs asks again with the follower's next answer to a heartbeat.
    const MAX: usize = 16;

    /// Notes a read, unless it is noted or in flight already, or too many are.
    pub(super) fn note(&self, range: Range<u64>, max_bytes: u64, context: GetEntriesContext) {
        let Asked { noted, open } = &mut *self.asked.borrow_mut();
        if open.len() < Self::MAX && !open.contains_key(&range.start) {
            open.insert(range.start, (range.end, true));
            noted.push_back(Fetch { context: Some(context), range, max_bytes });
        }
    }

    /// The next read to make.
    pub(super) fn take(&mut self) -> Option<Fetch> {
        self.asked.get_mut().noted.pop_front()
    }

    /// Entries from `index` on were overwritten. A read in flight may have found the old or the new ones.
    pub(super) fn overwritten_from(&mut self, index: u64) {
        if !planted("fetched-though-overwritten") {
            self.asked.get_mut().open.values_mut().for_each(|(end, valid)| *valid &= *end <= index);
        }
    }

    /// Entries up to `index` were compacted, so a read in flight may fail to find them.
    pub(super) fn compacted_to(&mut self, index: u64) {
        if !planted("compaction-fails-a-fetch") {
            let gone = self.asked.get_mut().open.range_mut(..=index);
            gone.for_each(|(_, (_, valid))| *valid = false);
        }
    }

    /// Takes the result of a read, for [`here`](Self::here), unless the log has changed there since.
    pub(super) fn put(
        &mut self,
        fetch: &Fetch,
        entries: Result<Vec<Entry>, LogError>,
    ) -> Result<(), LogError> {
        let asked = self.asked.get_mut().open.remove(&fetch.range.start);
        if !asked.is_some_and(|(_, valid)| valid) {
            return Ok(()); // raft-rs asks again if it still needs them
        }
        self.here = fetch.checked(entries)?;
        Ok(())
    }

    /// The result of the last read from `low` on; empty if `low` is not in it.
    pub(super) fn here(&self, low: u64) -> &[Entry] {
        let skip = self.here.first().and_then(|first| low.checked_sub(first.index));
        let skip = skip.and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.here.get(skip..)).unwrap_or_default()
    }

    /// Forgets the result of the last read.
    pub(super) fn forget(&mut self) {
        if !planted("fetched-entries-stay") {
            self.here = Vec::new();
        }
    }
}
