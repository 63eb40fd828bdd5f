//! Compaction: which entries the log need not keep any more.

use bytes::Bytes;

use super::Core;
use crate::planted::planted;
use crate::{LogError, SnapshotMark};

impl Core {
    /// A snapshot of this node's own state, and its mark in the log, are durable: it can be sent to followers. `head` is
    /// what travels in the message, see [`SnapshotHead::announce`](crate::SnapshotHead::announce).
    pub fn handle_snapshot_ready(&mut self, mark: SnapshotMark, head: Bytes) {
        assert!(
            mark.index <= self.pipeline.durable_index() || planted("snapshot-before-it-is-durable"),
            "a snapshot of what is not durable (O9)"
        );
        self.raw.mut_store().set_snapshot(mark, head);
    }

    /// The index up to which entries are not needed any more, because the newest snapshot covers them. Kept are
    /// [`Config::snapshot_catchup_entries`](crate::Config::snapshot_catchup_entries) of those that it covers, and
    /// everything after `sent`, the oldest snapshot that is being sent (O26). 0 if all are needed.
    #[must_use]
    pub fn superseded(&self, sent: Option<u64>) -> u64 {
        let catch_up =
            if planted("compaction-leaves-nothing-to-catch-up-with") { 0 } else { self.catch_up };
        let sent = sent.filter(|_| !planted("compaction-forgets-snapshots-under-way"));
        let index = self.marked().saturating_sub(catch_up);
        sent.map_or(index, |sent| index.min(sent))
    }

    /// Compacts raft's view of the log up to `index`, but not beyond what is applied (O18) nor beyond the newest snapshot
    /// whose mark is reported durable (O6). Returns the index that it was compacted to, for the log to release as much.
    ///
    /// # Errors
    /// The log could not be read.
    pub fn handle_compact(&mut self, index: u64) -> Result<u64, LogError> {
        let marked = if planted("compacted-before-its-mark") { u64::MAX } else { self.marked() };
        let applied = self.applied.min(self.raw.raft.raft_log.applied);
        let index = if planted("compacted-beyond-applied") {
            index
        } else {
            index.min(marked).min(applied)
        };
        self.raw.mut_store().compact_to(index)?;
        Ok(index)
    }

    /// The index of the newest snapshot that can be sent to followers.
    fn marked(&self) -> u64 {
        self.raw.raft.store().snapshot_offered().map_or(0, |mark| mark.index)
    }
}
