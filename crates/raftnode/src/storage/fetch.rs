//! Entries below the cache, read by somebody who may wait for a disk.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use raft::GetEntriesContext;
use raft::eraftpb::Entry;

use super::{LogError, LogReader};
use crate::planted::planted;

/// Entries that only the log holds, and that a follower lacks or this node has to apply: one read, for whoever may wait for
/// a disk.
///
/// From [`Core::poll_fetch`](crate::core::Core::poll_fetch), and to be given back, with what was read, to
/// [`Core::handle_fetched`](crate::core::Core::handle_fetched).
#[derive(Debug)]
pub struct Fetch {
    /// Whom raft-rs wants to send them to; only raft-rs can say. `None` if they are to be applied here.
    context: Option<GetEntriesContext>,
    range: Range<u64>,
    max_bytes: u64,
}

impl Fetch {
    pub(crate) const fn to_apply(range: Range<u64>, max_bytes: u64) -> Self {
        Self { context: None, range, max_bytes }
    }

    /// Reads what fits into one message, or into one piece for the state machine; may take as long as a disk takes.
    ///
    /// # Errors
    /// As for [`LogReader::entries`]. Give them to the core too: it knows whether they matter.
    pub fn read(&self, log: &dyn LogReader) -> Result<Vec<Entry>, LogError> {
        log.entries(self.range.start, self.range.end, self.max_bytes)
    }

    /// What is to be read: all of it durable, as of when it was asked for.
    #[must_use]
    pub const fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// Whether this node applies them; if not, a follower lacks them.
    #[must_use]
    pub const fn is_to_apply(&self) -> bool {
        self.context.is_none()
    }

    pub(crate) fn into_context(self) -> Option<GetEntriesContext> {
        self.context
    }

    /// What was read, if it is some of what was asked for, from the first on.
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

/// What raft-rs could not have at once.
///
/// By the first entry, and each once, however often and for whomever raft-rs asks: followers that lack the same are
/// served with one read.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// raft-rs asks by a shared reference.
    asked: RefCell<Asked>,
    /// What was read, for as long as raft-rs takes it.
    here: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Asked {
    /// Not given out yet.
    noted: VecDeque<Fetch>,
    /// Not answered yet, by the first entry: where it ends, and whether the log still has it as it was.
    open: BTreeMap<u64, (u64, bool)>,
}

impl Fetches {
    /// So many at once: beyond that a follower's next answer to a heartbeat asks again.
    const MAX: usize = 16;

    /// Notes what is asked for, unless it is noted or under way already, or there is too much of it.
    pub(super) fn note(&self, range: Range<u64>, max_bytes: u64, context: GetEntriesContext) {
        let Asked { noted, open } = &mut *self.asked.borrow_mut();
        if open.len() < Self::MAX && !open.contains_key(&range.start) {
            open.insert(range.start, (range.end, true));
            noted.push_back(Fetch { context: Some(context), range, max_bytes });
        }
    }

    /// The next to be read.
    pub(super) fn take(&mut self) -> Option<Fetch> {
        self.asked.get_mut().noted.pop_front()
    }

    /// Entries from `index` on are not what they were. A read that is under way may have found either.
    pub(super) fn overwritten_from(&mut self, index: u64) {
        if !planted("fetched-though-overwritten") {
            self.asked.get_mut().open.values_mut().for_each(|(end, valid)| *valid &= *end <= index);
        }
    }

    /// Entries up to `index` are gone, and may not be found.
    pub(super) fn compacted_to(&mut self, index: u64) {
        if !planted("compaction-fails-a-fetch") {
            let gone = self.asked.get_mut().open.range_mut(..=index);
            gone.for_each(|(_, (_, valid))| *valid = false);
        }
    }

    /// Takes what was read, for [`here`](Self::here); nothing, if the log has changed there since it was asked for.
    pub(super) fn put(
        &mut self,
        fetch: &Fetch,
        entries: Result<Vec<Entry>, LogError>,
    ) -> Result<(), LogError> {
        let asked = self.asked.get_mut().open.remove(&fetch.range.start);
        if !asked.is_some_and(|(_, valid)| valid) {
            return Ok(()); // whoever still wants to know asks again
        }
        self.here = fetch.checked(entries)?;
        Ok(())
    }

    /// What was read, from `low` on; nothing if that is not among it.
    pub(super) fn here(&self, low: u64) -> &[Entry] {
        let skip = self.here.first().and_then(|first| low.checked_sub(first.index));
        let skip = skip.and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.here.get(skip..)).unwrap_or_default()
    }

    /// Forgets what was read.
    pub(super) fn forget(&mut self) {
        if !planted("fetched-entries-stay") {
            self.here = Vec::new();
        }
    }
}
