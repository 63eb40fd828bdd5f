//! raft-rs's `Storage`: what it asks for, and what it can take for an answer.

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
    /// The hard state, and the configuration as of the snapshot: raft-rs applies the changes after it again.
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    /// Without a limit raft-rs asks only in order to count conf changes (`Raft::hup`, `Raft::maybe_commit_by_vote`), and
    /// gets an answer for that: of a long log it would otherwise have everything in memory that is not applied yet. With a
    /// limit it asks for what followers lack, and can wait, or for what is committed, and cannot.
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
            // raft-rs ignores a snapshot whose configuration does not name the receiver: one from before it was
            // added does not help it.
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
    /// As [`read`](Self::read), but without a disk: what is not in memory is noted to be fetched.
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

    /// Whether raft-rs has entries that it has not handed out yet: to be said before it may hold an election, or learn
    /// from a vote what is committed.
    pub(crate) const fn set_more(&mut self, more: bool) {
        self.more = more;
    }

    /// An answer for `[low, high)` to raft-rs when it counts conf changes, which looks at nothing but the kinds of
    /// entries and asks only whether there are any changes. It is made up from the list of changes, and reads nothing.
    ///
    /// The changes alone are enough, if there are any. If there are none, an empty answer is, unless raft-rs has
    /// unstable entries beyond `high`: those it looks at only after an answer of full length (`RaftLog::slice` takes a
    /// shorter one for all there is). Then normal entries without data fill the answer; and where those would be too
    /// many, one made-up change lets the election wait until raft-rs has handed its entries out.
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

    /// An answer for `[low, high)` to raft-rs when it collects what is committed for a Ready: a stand-in for the last entry,
    /// without data. raft-rs remembers nothing but its index (`RawNode::gen_light_ready`), and takes an answer that is too
    /// short for all there is, as in [`changes_alone`](Self::changes_alone). Its term is the entry's if that is in memory, for
    /// whoever asserts something about it.
    fn committed_to(&self, low: u64, high: u64) -> Result<Vec<Entry>, LogError> {
        let last = high - 1;
        self.check_inside(low, last)?;
        let term = self.tail.get(last).map_or(0, |entry| entry.term);
        Ok(vec![convert::entry(last, term, EntryType::EntryNormal, Bytes::new())])
    }

    /// What raft-rs can take as it is, and what it will panic about: the latter is kept for `take_error`.
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
