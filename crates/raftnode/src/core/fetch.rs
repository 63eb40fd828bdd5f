//! Reads of entries that are not in memory, which another thread makes, because ticks must not wait for a disk (O12).
//!
//! For entries to be applied the core itself asks (`core/apply.rs`). For entries to be sent to a follower raft-rs asks
//! its storage. If only the log has them, raft-rs is told that they are temporarily unavailable, and goes on with
//! everything else; once they have been read, it is told to ask again, and finds them
//! ([`GetEntriesContext`](raft::GetEntriesContext); TiKV's `EntryStorage` does the same). It then sends them, unless it
//! has no use for them any more: it lost its leadership, the term is over, or the follower was removed or has answered
//! meanwhile.

use std::collections::BTreeSet;

use raft::StateRole;
use raft::eraftpb::Entry;

use super::Core;
use crate::planted::planted;
use crate::{Fetch, LogError};

impl Core {
    /// The next read to make; `None` when there is none for now. At most 16 are in flight for followers, each of as
    /// much as a message holds ([`Config::max_size_per_msg`](crate::Config::max_size_per_msg)), and one for entries to
    /// be applied ([`Config::max_apply_bytes`](crate::Config::max_apply_bytes)); each reads at least one entry. They
    /// may be made and answered in any order.
    ///
    /// Give each result to [`handle_fetched`](Self::handle_fetched): until then its follower is sent nothing, or
    /// nothing more is applied.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        if let Some(fetch) = self.fetch_to_apply() {
            return Some(fetch);
        }
        if !self.is_driven() {
            return None;
        }
        self.raw.mut_store().take_fetch()
    }

    /// The result of [`Fetch::read`]: entries to send, or the next ones for [`poll_apply`](Self::poll_apply).
    ///
    /// The result, be it entries or an error, is ignored if the log has changed there since: entries were overwritten
    /// by another leader, compacted, or replaced by a snapshot.
    ///
    /// # Errors
    /// That of the read, or [`LogError::Corrupt`] if the entries are not those asked for: end the node.
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
        self.raw.mut_store().forget_fetched(); // from now on the log may change there
        Ok(())
    }

    /// Sends to the other followers that wait for the same entries. For them no read was started, because one was in
    /// flight already: for another follower, or since an earlier term.
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

    /// Makes all pending reads on the calling thread: for simulators, and for loops that may wait for a disk. Returns
    /// whether there were any; then poll for [effects](Self::poll_effects) and for [entries to apply](Self::poll_apply)
    /// again.
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
