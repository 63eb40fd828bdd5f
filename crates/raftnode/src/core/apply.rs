//! Hands committed entries to the apply loop: in order, each once (O23), and without making a tick wait for a disk (O12).
//!
//! For each Ready raft-rs would read the committed entries on the calling thread, and it cannot be told to wait. So
//! raft-rs is only told where they end (see [`LogView`](crate::storage::LogView)), and the core hands the entries over
//! itself, a piece at a time: from the tail cache, or by a [`Fetch`] if they are not in it. At most one of these is in
//! flight, and later entries wait for it.
//!
//! A piece cannot change while it is read: its entries are committed, so nothing overwrites them; a snapshot is
//! installed only when everything committed is applied (O17); and only what is applied is compacted (O18).

use std::ops::Range;

use raft::eraftpb::Entry;

use super::{ApplyStage, Core, must_persist_before_apply};
use crate::planted::planted;
use crate::{Fetch, LogError};

/// How far committed entries have been handed over.
#[derive(Debug)]
pub(super) struct Handover {
    /// The last index handed over.
    handed: u64,
    /// The last index that raft-rs gave out as committed.
    committed: u64,
    /// Hand over nothing for now.
    hold: bool,
    next: Next,
}

/// The piece that follows what was handed over.
#[derive(Debug)]
enum Next {
    /// Not asked for; it may be in the tail cache.
    Unread,
    /// Being read, from this index on.
    Asked(u64),
    /// Read, and not handed over yet.
    Here(Vec<Entry>),
}

impl Handover {
    pub(super) const fn new(applied: u64) -> Self {
        Self { handed: applied, committed: applied, hold: false, next: Next::Unread }
    }

    pub(super) const fn handed(&self) -> u64 {
        self.handed
    }

    pub(super) const fn committed(&self) -> u64 {
        self.committed
    }

    /// Entries up to `index` are committed, and durable here. Returns the range of those that were not before.
    pub(super) fn commit(&mut self, index: Option<u64>) -> Range<u64> {
        let known = self.committed;
        self.committed = index.unwrap_or(known);
        known + 1..self.committed + 1
    }

    /// A snapshot replaces everything up to `index`.
    pub(super) fn install(&mut self, index: u64) {
        (self.handed, self.committed) = (index, index);
        if !planted("stale-piece-after-an-install") {
            self.next = Next::Unread;
        }
    }

    /// The entries to be handed over next, if there are any and they need not be held back.
    fn due(&self) -> Option<Range<u64>> {
        let range = self.handed + 1..self.committed + 1;
        (!self.hold && !range.is_empty()).then_some(range)
    }

    /// A piece was read. It is ignored unless it is the one that was last asked for.
    fn read(
        &mut self,
        fetch: &Fetch,
        entries: Result<Vec<Entry>, LogError>,
    ) -> Result<(), LogError> {
        if matches!(self.next, Next::Asked(low) if low == fetch.range().start) {
            let mut entries = fetch.checked(entries)?;
            if planted("piece-handed-over-twice") {
                entries.extend_from_within(..);
            }
            self.next = Next::Here(entries);
        }
        Ok(())
    }

    /// Returns the next piece, as it was read or from memory; empty if there is none for now.
    fn take(&mut self, in_memory: impl FnOnce(Range<u64>) -> Vec<Entry>) -> Vec<Entry> {
        let Some(due) = self.due() else { return Vec::new() };
        let entries = match std::mem::replace(&mut self.next, Next::Unread) {
            Next::Unread => in_memory(due),
            Next::Here(entries) => entries,
            asked @ Next::Asked(_) => {
                self.next = asked;
                return Vec::new();
            }
        };
        self.handed = entries.last().map_or(self.handed, |last| last.index);
        entries
    }
}

impl Core {
    /// Whether to hold back committed entries, because enough of them wait to be applied. They stay in the log, and the
    /// core remembers only where they end, so a member that starts with a long log never has all of it in memory.
    pub const fn hold_apply(&mut self, hold: bool) {
        self.pipeline.handover.hold = hold;
    }

    /// The next committed entries to apply: up to [`Config::max_apply_bytes`](crate::Config::max_apply_bytes), at least
    /// one. `None` if there are none, or if they are [held back](Self::hold_apply) or have to be
    /// [read](Self::poll_fetch) first. They are durable here (O3), and follow those returned before, by this method or
    /// in [`Effects::apply`](super::Effects::apply).
    pub fn poll_apply(&mut self) -> Option<ApplyStage> {
        let entries = self.next_to_apply();
        (!entries.is_empty()).then_some(ApplyStage { entries })
    }

    pub(super) fn next_to_apply(&mut self) -> Vec<Entry> {
        if self.removed {
            return Vec::new();
        }
        let (view, max_bytes) = (self.raw.store(), self.max_apply_bytes);
        let entries = self.pipeline.handover.take(|due| {
            if planted("node-thread-reads-to-apply") {
                return view.read(due.start, due.end, max_bytes).unwrap_or_default();
            }
            view.in_memory(due, max_bytes)
        });
        assert!(!must_persist_before_apply(&entries, self.pipeline.durable_index())); // O3
        self.raw.raft.reduce_uncommitted_size(&entries); // raft-rs saw a stand-in without data
        self.resolve_places(&entries);
        entries
    }

    /// The read for the next piece, if it needs one that is not in flight already.
    pub(super) fn fetch_to_apply(&mut self) -> Option<Fetch> {
        let handover = &mut self.pipeline.handover;
        let due = handover.due().filter(|_| matches!(handover.next, Next::Unread))?;
        if self.removed {
            return None;
        }
        let fetch = self.raw.store().fetch_to_apply(due, self.max_apply_bytes)?;
        handover.next = Next::Asked(fetch.range().start);
        Some(fetch)
    }

    pub(super) fn fetched_to_apply(
        &mut self,
        fetch: &Fetch,
        entries: Result<Vec<Entry>, LogError>,
    ) -> Result<(), LogError> {
        if self.removed { Ok(()) } else { self.pipeline.handover.read(fetch, entries) }
    }

    /// Everything up to `index` has been applied. It must have been handed over before (O18).
    pub fn handle_applied(&mut self, index: u64) {
        assert!(index <= self.pipeline.handover.handed(), "applied what was not handed over (O18)");
        if index <= self.applied {
            return;
        }
        self.applied = index;
        if !self.removed {
            let before = self.raw.raft.raft_log.last_index();
            self.raw.advance_apply_to(index);
            if self.raw.raft.raft_log.last_index() > before {
                // raft-rs has appended the change that leaves a joint configuration, and would send it only with the next
                // heartbeat.
                self.raw.raft.bcast_append();
            }
        }
        self.answer_changes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: Range<u64>) -> Vec<Entry> {
        range.map(|index| Entry { index, ..Entry::default() }).collect()
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.index).collect()
    }

    /// Asks for what is due, as the core does.
    fn ask(handover: &mut Handover) -> Fetch {
        let due = handover.due().expect("something is due");
        handover.next = Next::Asked(due.start);
        Fetch::to_apply(due, 1 << 20)
    }

    fn not_in_memory(_: Range<u64>) -> Vec<Entry> {
        Vec::new()
    }

    #[test]
    fn what_is_read_comes_in_its_place_and_what_follows_waits_for_it() {
        let mut handover = Handover::new(4);
        assert!(handover.due().is_none());
        assert_eq!(handover.commit(Some(9)), 5..10);
        assert_eq!(handover.commit(None), 10..10);
        let fetch = ask(&mut handover);
        assert_eq!(*fetch.range(), 5..10);
        handover.commit(Some(12));
        assert!(handover.take(entries).is_empty(), "5 is still to come");
        handover.read(&fetch, Ok(entries(5..8))).expect("in order"); // as much as fits
        assert_eq!(indexes(&handover.take(not_in_memory)), [5, 6, 7]);
        assert_eq!(indexes(&handover.take(entries)), [8, 9, 10, 11, 12]);
        assert!(handover.take(entries).is_empty());
        assert_eq!(handover.handed(), 12);
    }

    #[test]
    fn what_is_held_is_neither_handed_over_nor_asked_for() {
        let mut handover = Handover::new(0);
        handover.commit(Some(3));
        let fetch = ask(&mut handover);
        handover.hold = true;
        handover.read(&fetch, Ok(entries(1..3))).expect("in order");
        assert!(handover.due().is_none());
        assert!(handover.take(entries).is_empty());
        handover.hold = false;
        assert_eq!(indexes(&handover.take(not_in_memory)), [1, 2]);
    }

    #[test]
    fn what_was_asked_for_before_an_install_is_of_no_use() {
        for here in [false, true] {
            let mut handover = Handover::new(0);
            handover.commit(Some(3));
            let fetch = ask(&mut handover);
            if here {
                handover.read(&fetch, Ok(entries(1..4))).expect("in order");
            }
            handover.install(7);
            handover.read(&fetch, Err(LogError::Poisoned { cause: None })).expect("of no interest");
            handover.read(&fetch, Ok(entries(1..4))).expect("of no interest");
            handover.commit(Some(9));
            assert_eq!(indexes(&handover.take(entries)), [8, 9], "stale");
        }
    }

    #[test]
    fn a_read_that_fails_or_brings_something_else_is_an_error() {
        for wrong in [vec![], entries(2..4), entries(1..6), [entries(1..2), entries(3..4)].concat()]
        {
            let mut handover = Handover::new(0);
            handover.commit(Some(4));
            let fetch = ask(&mut handover);
            let read = handover.read(&fetch, Ok(wrong));
            assert!(matches!(read, Err(LogError::Corrupt { .. })), "{read:?}");
        }
        let mut handover = Handover::new(0);
        handover.commit(Some(4));
        let fetch = ask(&mut handover);
        assert!(matches!(
            handover.read(&fetch, Err(LogError::Poisoned { cause: None })),
            Err(LogError::Poisoned { .. })
        ));
    }
}
