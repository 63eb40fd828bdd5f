//! What memory does not hold is read by somebody else, for the tick never waits for a disk (O12).
//!
//! What is to be applied the core itself asks for (`core/apply.rs`). What followers lack raft-rs asks for, when it wants to send
//! it; if only the log has it, raft-rs is told to wait, and goes on with everything else. Once it was read, raft-rs is told to
//! ask again, and finds it ([`GetEntriesContext`](raft::GetEntriesContext); TiKV's `EntryStorage` does the same). raft-rs
//! sends it as it would have, or has no more use for it: it no longer leads, not in that term, or the follower was removed,
//! or answered meanwhile.

use std::collections::BTreeSet;

use raft::StateRole;
use raft::eraftpb::Entry;

use super::Core;
use crate::planted::planted;
use crate::{Fetch, LogError};

impl Core {
    /// The next read that is to be made; `None` when there is none for now. At most 16 are under way for followers, none of
    /// which gives more than a message takes ([`Config::max_size_per_msg`](crate::Config::max_size_per_msg)), and one for what is
    /// to be applied ([`Config::max_apply_bytes`](crate::Config::max_apply_bytes)); each of at least one entry. In which order they
    /// are made, and answered, does not matter.
    ///
    /// Each must be answered, or the follower is not served, and nothing more is applied: see
    /// [`handle_fetched`](Self::handle_fetched). They go on with what they get then, a message or a piece at a time.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        if let Some(fetch) = self.fetch_to_apply() {
            return Some(fetch);
        }
        if !self.is_driven() {
            return None;
        }
        self.raw.mut_store().take_fetch()
    }

    /// What [`Fetch::read`] has found: something to send, or the next piece for [`poll_apply`](Self::poll_apply).
    ///
    /// If the log has changed there since it was asked for, that says nothing, be it entries or an error: overwritten by
    /// another leader, compacted, or replaced by a snapshot.
    ///
    /// # Errors
    /// That of the read, or [`LogError::Corrupt`] if it is not what was asked for: end the node.
    pub fn handle_fetched(
        &mut self,
        fetch: Fetch,
        entries: Result<Vec<Entry>, LogError>,
    ) -> Result<(), LogError> {
        if fetch.is_to_apply() {
            return self.fetched_to_apply(&fetch, entries);
        }
        let low = fetch.range().start;
        self.raw.mut_store().put_fetched(&fetch, entries)?;
        if self.is_driven()
            && let Some(context) = fetch.into_context()
        {
            self.raw.on_entries_fetched(context);
            self.serve_others(low);
            self.pace(); // whoever replicates, and has room
        }
        self.raw.mut_store().forget_fetched(); // they were the log's as of now
        Ok(())
    }

    /// Those for whom nothing was read because it was being read already: for another one, or in an earlier term.
    fn serve_others(&mut self, low: u64) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader || planted("fetched-for-one-alone") {
            return;
        }
        let waits = raft.prs().iter().filter(|(_, progress)| progress.next_idx == low);
        let waiting: BTreeSet<u64> = waits.map(|(id, _)| *id).filter(|id| *id != raft.id).collect();
        for id in waiting {
            raft.send_append(id);
        }
    }

    /// Makes the reads that are to be made, here and now: for simulators, and loops that may wait for a disk. Returns whether
    /// there were any; then there is something to poll for: [effects](Self::poll_effects), or what is
    /// [to be applied](Self::poll_apply).
    ///
    /// # Errors
    /// As for [`handle_fetched`](Self::handle_fetched).
    pub fn fetch_inline(&mut self) -> Result<bool, LogError> {
        let mut any = false;
        while let Some(fetch) = self.poll_fetch() {
            let entries = fetch.read(&*self.raw.store().reader());
            self.handle_fetched(fetch, entries)?;
            any = true;
        }
        Ok(any)
    }
}
