//! raft-rs's `Storage` trait: what raft-rs asks for, and which answers it can take.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::LogView;
use crate::LogError;
use crate::chain::Chain;
use crate::convert;
use crate::planted::planted;
use crate::storage::fetch::Fetches;

impl Storage for LogView {
    /// The hard state, and the configuration as of the snapshot; the conf changes after it are applied again.
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    /// Without a limit raft-rs asks only in order to count conf changes (`Raft::hup`, `Raft::maybe_commit_by_vote`),
    /// and gets an answer for that purpose: otherwise it would load everything that is not applied yet. With a limit it
    /// asks for what a follower lacks, and can wait for it, or for what is committed, and cannot.
    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        match (max_size.into(), &self.fetches) {
            (None, _) => self.changes_alone(low, high),
            (Some(_), Some(_)) if !context.can_async() => self.committed_to(low, high),
            (Some(max_bytes), Some(fetches)) if !planted("node-thread-reads-for-followers") => {
                return self.read_at_once(fetches, low, high, max_bytes, context);
            }
            (Some(max_bytes), _) => self.read(low, high, max_bytes),
        }
        .map_err(|error| self.translate(error))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).map_err(|error| self.translate(error))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match &self.offer {
            // raft-rs ignores a snapshot whose configuration does not name the receiver, such as one from before it was
            // added.
            Some((mark, head))
                if mark.index >= request_index
                    && mark.index >= self.dummy.0
                    && names(&mark.conf_state, to) =>
            {
                let mut snapshot = Snapshot::default();
                snapshot.set_data(convert::to_raft(head.clone()));
                let metadata = snapshot.mut_metadata();
                metadata.index = mark.index;
                metadata.term = mark.term;
                metadata.set_conf_state(mark.conf_state.clone());
                Ok(snapshot)
            }
            _ => {
                self.wishes.borrow_mut().insert(to, request_index);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

impl LogView {
    /// As [`read`](Self::read), but never waits for a disk: entries that are not in memory are noted to be fetched.
    fn read_at_once(
        &self,
        fetches: &Fetches,
        low: u64,
        high: u64,
        max_bytes: u64,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        self.check_inside(low, high - 1).map_err(|error| self.translate(error))?;
        let from_log = self.only_in_log(low, high);
        let fetched = fetches.here(low);
        if !from_log.is_empty() && fetched.is_empty() {
            let end = from_log.end.min(low + Self::MAX_READ as u64);
            fetches.note(low..end, max_bytes, context);
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        let below = fetched.iter().take_while(|entry| entry.index < high).cloned();
        Ok(self.join(below, low..high, max_bytes))
    }

    /// Whether raft-rs has entries that it has not handed out yet. Set it before raft-rs may campaign, or learn from a
    /// vote what is committed.
    pub(crate) const fn set_more(&mut self, more: bool) {
        self.more = more;
    }

    /// The answer for `[low, high)` when raft-rs counts conf changes. It looks only at the kinds of entries, to find out
    /// whether there is any change, so the answer is made up from the list of changes, without reading the log.
    ///
    /// If there are changes, they alone are the answer. If there are none, an empty answer will do, unless raft-rs has
    /// unstable entries beyond `high`: it looks at those only after an answer of full length (`RaftLog::slice` takes a
    /// shorter one to mean that there is no more). Then the answer consists of normal entries without data. If these
    /// would be too many, a made-up change delays the election until raft-rs has handed out its entries.
    fn changes_alone(&self, low: u64, high: u64) -> Result<Vec<Entry>, LogError> {
        self.check_inside(low, high - 1)?;
        let bare = |kind| move |index| convert::entry(index, 0, kind, Bytes::new());
        let change = bare(EntryType::EntryConfChangeV2);
        let changes: Vec<Entry> = self.changes.within(low, high).map(change).collect();
        if !changes.is_empty() || !self.more {
            return Ok(changes);
        }
        if high - low > Self::MAX_READ as u64 {
            return Ok(vec![change(low)]);
        }
        Ok((low..high).map(bare(EntryType::EntryNormal)).collect())
    }

    /// The answer for `[low, high)` when raft-rs collects committed entries for a Ready: a stand-in for the last one,
    /// without data. raft-rs remembers only its index (`RawNode::gen_light_ready`), and takes an answer that is too
    /// short to mean that there is no more, as in [`changes_alone`](Self::changes_alone). It has the entry's term if
    /// that is in memory, for the assertions about it.
    fn committed_to(&self, low: u64, high: u64) -> Result<Vec<Entry>, LogError> {
        let last = high - 1;
        self.check_inside(low, last)?;
        let term = self.tail.get(last).map_or(0, |entry| entry.term);
        Ok(vec![convert::entry(last, term, EntryType::EntryNormal, Bytes::new())])
    }

    /// The error for raft-rs. One on which it will panic is kept for `take_error`.
    fn translate(&self, error: LogError) -> raft::Error {
        let answer = match &error {
            LogError::Compacted { .. } => return StorageError::Compacted.into(),
            LogError::Unavailable { .. } => return StorageError::Unavailable.into(),
            other => StorageError::Other(other.to_string().into()),
        };
        log::error!(error:% = Chain(&error); "the log cannot be read");
        self.error.set(Some(error));
        answer.into()
    }
}

fn names(conf_state: &ConfState, id: u64) -> bool {
    [
        conf_state.get_voters(),
        conf_state.get_learners(),
        conf_state.get_voters_outgoing(),
        conf_state.get_learners_next(),
    ]
    .iter()
    .any(|ids| ids.contains(&id))
}
