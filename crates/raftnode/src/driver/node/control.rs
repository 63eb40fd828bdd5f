//! Reports of the node's own threads.

use super::Node;
use crate::driver::events::Control;
use crate::driver::writer::Job;
use crate::driver::{apply, handoff, snapshots};
use crate::failpoint::fail_point;
use crate::hex::Hex;
use crate::{NodeEnd, NodeError, SnapshotHead, SnapshotMark};

impl Node {
    pub(super) fn on_control(&mut self, control: Control) -> Result<(), NodeError> {
        match control {
            Control::Persisted { number } => self.persisted(number)?,
            Control::WriteFailed(error) => return Err(error.into()),
            Control::Fetched { fetch, entries } => {
                if fetch.is_to_apply() {
                    self.reading = None;
                }
                self.core.handle_fetched(fetch, entries)?;
            }
            Control::Applied { index, bytes } => {
                self.unapplied = self.unapplied.saturating_sub(bytes);
                self.core.handle_applied(index);
                self.publish();
                self.answer_reads();
            }
            Control::Restored { mark, head, announcement } => {
                self.restored(mark, *head, announcement)?;
            }
            Control::Change { entry, reply } => {
                let members = self.core.handle_change_committed(&entry);
                self.on_events()?; // the transport learns of it before the state machine does
                apply::reply(&reply, members);
                self.release(); // O7
            }
            Control::Attributes { index, id, update, reply } => {
                let members = self.core.handle_attributes_committed(index, id, &update);
                self.on_events()?;
                apply::reply(&reply, members);
            }
            Control::SnapshotTaken { mark, announcement } => {
                // Ignored if a leader's snapshot was installed meanwhile and the log begins later, or if a newer snapshot
                // was marked already: each is reported by a thread of its own, so reports may overtake each other.
                if mark.index >= self.core.log_bounds().0 && mark.index > self.marked {
                    self.marked = mark.index;
                    self.submit(Job::Mark { mark, announcement })?;
                }
            }
            Control::Marked { mark, announcement } => {
                fail_point!("raftAfterMarkSnap", self.shared.id);
                log::info!(id:% = Hex(self.shared.id), index = mark.index; "took a snapshot");
                self.core.handle_snapshot_ready(mark.clone(), announcement); // O9
                self.compact(mark.index)?;
                let _ = self.threads.apply.send(handoff::Job::SnapshotIfDue); // if it has gone, it has said why
            }
            Control::SnapshotSent { to, index, ok } => {
                self.out.sending.ended(index);
                fail_point!("raftBeforeReportSnap", self.shared.id);
                self.core.handle_snapshot_sent(to, ok); // O10
                fail_point!("raftAfterReportSnap", self.shared.id);
            }
            Control::SnapshotArrived { from, message, reply } => {
                fail_point!("raftBeforeStepSnap", self.shared.id);
                let taken = self.core.handle_snapshot(from, *message); // O25
                fail_point!("raftAfterStepSnap", self.shared.id);
                let _ = reply.try_send(taken); // it has room, or the transport waits no more
            }
            Control::Failed(error) => {
                if !matches!(self.ending, Some(NodeEnd::Failed(_))) {
                    self.ending = Some(NodeEnd::Failed(error)); // the first is the reason
                }
            }
            Control::Stop { transfer_until } => self.on_stop(transfer_until),
        }
        Ok(())
    }

    fn restored(
        &mut self,
        mark: SnapshotMark,
        head: SnapshotHead,
        announcement: bytes::Bytes,
    ) -> Result<(), NodeError> {
        let index = mark.index;
        self.restoring = false;
        log::info!(id:% = Hex(self.shared.id), index; "installed a snapshot");
        self.core.handle_restored(mark, head, announcement);
        self.on_events()?;
        self.publish();
        self.answer_reads();
        self.submit(Job::Release(index + 1))?;
        self.purge_snapshots(index);
        Ok(())
    }

    /// Compacts the log behind a snapshot, but keeps entries for followers to catch up with, and everything after the
    /// oldest snapshot that is being sent (O26).
    fn compact(&mut self, snapshot: u64) -> Result<(), NodeError> {
        let index = self.core.superseded(self.out.sending.oldest());
        let (first, _) = self.core.log_bounds();
        if index >= first {
            let compacted = self.core.handle_compact(index)?;
            self.submit(Job::Release(compacted + 1))?;
        }
        self.purge_snapshots(snapshot);
        Ok(())
    }

    fn purge_snapshots(&self, keep_from: u64) {
        let keep_from = self.out.sending.oldest().map_or(keep_from, |oldest| oldest.min(keep_from));
        snapshots::purge(&self.shared, keep_from);
    }
}
