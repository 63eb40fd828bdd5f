//! The apply thread: committed entries to the state machine, each once, in order (O22, O23).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, EntryType};

use super::events::Control;
use super::shared::Shared;
use super::snapshots;
use super::waiters::{WaiterTable, Waiters};
use crate::core::{MembersApplied, Restore};
use crate::failpoint::fail_point;
#[cfg(feature = "failpoints")]
use crate::failpoint::injected;
use crate::proposal::{Payload, Verdict, Window};
use crate::snapshot_head::SnapshotHead;
use crate::{Applied, Committed, NodeError, ProposeError, SnapshotMark, StateMachine, Unknown};

/// A state below this size is snapshotted whenever the count of entries says so.
const SMALL_STATE: u64 = 64 << 20;

#[derive(Debug)]
pub(super) enum Job {
    Entries(Vec<Entry>),
    Restore(Restore),
    /// A snapshot is wanted, whatever the count of entries says.
    Snapshot,
    /// The last snapshot is written: the next may have become due meanwhile.
    SnapshotIfDue,
}

/// What is applied, and what a snapshot's head says about it.
pub(super) struct Applier<S: StateMachine> {
    pub(super) machine: S,
    pub(super) shared: Arc<Shared>,
    pub(super) waiters: Arc<Waiters<S::Output>>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) applied: (u64, u64),
    /// Entries up to here are in the state machine already.
    pub(super) machine_applied: u64,
    pub(super) window: Window,
    pub(super) members: MembersApplied,
    pub(super) snapshot_index: u64,
    pub(super) bytes_since_snapshot: u64,
    pub(super) writing_snapshot: Arc<AtomicBool>,
    /// The index of the newest snapshot that there is: the last one begun may have failed.
    pub(super) written_snapshot: Arc<AtomicU64>,
}

/// The node is stopping: leave the rest.
struct Stopping;

enum End {
    Stopping,
    Failed(NodeError),
}

impl From<NodeError> for End {
    fn from(error: NodeError) -> Self {
        Self::Failed(error)
    }
}

impl From<Stopping> for End {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

impl<S: StateMachine> Applier<S> {
    /// Works until the queue ends, or something fails.
    pub(super) fn serve(&mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let done = match job {
                Job::Entries(entries) => self.entries(&entries),
                Job::Restore(restore) => self.restore(restore).map_err(End::Failed),
                Job::Snapshot => self.snapshot(true).map_err(End::Failed),
                Job::SnapshotIfDue => self.snapshot(false).map_err(End::Failed),
            };
            match done {
                Ok(()) => {}
                Err(End::Stopping) => return,
                Err(End::Failed(error)) => {
                    return self.shared.inbox.control(Control::Failed(Arc::new(error)));
                }
            }
        }
    }

    fn entries(&mut self, entries: &[Entry]) -> Result<(), End> {
        let mut bytes = 0;
        for entry in entries {
            if self.stop.load(Ordering::Relaxed) {
                return Err(End::Stopping);
            }
            if entry.index <= self.applied.0 {
                continue; // never again (O23)
            }
            if entry.index != self.applied.0 + 1 {
                let reason = format!("it follows entry {}", self.applied.0);
                return Err(NodeError::BadEntry { index: entry.index, reason }.into());
            }
            match entry.get_entry_type() {
                EntryType::EntryNormal => self.normal(entry)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    let (reply, answer) = sync_channel(1);
                    self.change_members(Control::Change { entry: entry.clone(), reply }, &answer)?;
                }
            }
            self.applied = (entry.index, entry.term);
            bytes += super::entry_bytes(entry);
        }
        self.shared.counters.applied.add(entries.len() as u64);
        self.bytes_since_snapshot += bytes;
        self.shared.inbox.control(Control::Applied { index: self.applied.0, bytes });
        self.snapshot(false).map_err(End::Failed)
    }

    fn normal(&mut self, entry: &Entry) -> Result<(), End> {
        let (index, term) = (entry.index, entry.term);
        let bad = |error| NodeError::BadEntry { index, reason: format!("{error}") };
        let payload = Payload::of(entry).map_err(bad)?;
        if let Some(id) = payload.id() {
            match self.window.accept(id) {
                Verdict::First => {}
                Verdict::Duplicate => return Ok(()), // the first has been answered (O22)
                Verdict::Stale => {
                    self.waiters.refuse(id, ProposeError::OutcomeUnknown(Unknown::Stale));
                    return Ok(());
                }
            }
        }
        match payload {
            Payload::Application { .. } if index <= self.machine_applied => {}
            Payload::Application { id, data } => {
                let committed = Committed { index, term, data: &data };
                fail_point!(
                    "beforeApplyOneEntryNormal",
                    self.shared.id,
                    Err(NodeError::Apply { index, source: injected().into() }.into())
                );
                let output = self
                    .machine
                    .apply(&committed)
                    .map_err(|source| NodeError::Apply { index, source })?;
                fail_point!("afterApplyOneEntryNormal", self.shared.id);
                self.waiters.applied(id, Applied { index, term, output });
            }
            Payload::Attributes { id, update } => {
                let (reply, answer) = sync_channel(1);
                self.change_members(Control::Attributes { index, id, update, reply }, &answer)?;
            }
            Payload::Empty => {}
        }
        Ok(())
    }

    /// Asks the node thread, which never waits for this one. It answers at once, unless it has gone.
    fn change_members(
        &mut self,
        question: Control,
        answer: &Receiver<MembersApplied>,
    ) -> Result<(), Stopping> {
        fail_point!("beforeApplyOneConfChange", self.shared.id);
        self.shared.inbox.control(question);
        let members = loop {
            match answer.recv_timeout(Duration::from_millis(50)) {
                Ok(members) => break members,
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Relaxed) => {}
                Err(_) => return Err(Stopping),
            }
        };
        fail_point!("afterApplyOneConfChange", self.shared.id);
        if members.changed {
            self.machine.members_changed(&members.cluster);
        }
        self.members = members;
        Ok(())
    }

    fn restore(&mut self, restore: Restore) -> Result<(), NodeError> {
        let Restore { mark, head: announcement } = restore;
        let index = mark.index;
        if index <= self.applied.0 {
            let reason = format!("entry {} is applied already", self.applied.0);
            return Err(NodeError::BadSnapshot { index, reason }); // never backwards (O23)
        }
        fail_point!(
            "raftBeforeApplySnap",
            self.shared.id,
            Err(NodeError::Restore { index, source: injected().into() })
        );
        let head = snapshots::restore(&*self.shared.snapshots, mark.id(), &mut self.machine)?;
        fail_point!("raftAfterApplySnap", self.shared.id);
        self.applied = (mark.index, mark.term);
        self.window = head.window.clone();
        self.members = MembersApplied {
            cluster: Arc::new(head.cluster.clone()),
            conf_state: mark.conf_state.clone(),
            births: head.births.clone(),
            changed: true,
        };
        self.machine.members_changed(&head.cluster);
        (self.snapshot_index, self.bytes_since_snapshot) = (index, 0);
        self.written_snapshot.store(index, Ordering::Release);
        self.shared.counters.snapshots_installed.add(1);
        self.shared.inbox.control(Control::Restored { mark, head: Box::new(head), announcement });
        Ok(())
    }

    /// Takes a snapshot if one is due: the view here, between two entries, the writing on a thread of its own.
    fn snapshot(&mut self, wanted: bool) -> Result<(), NodeError> {
        let (index, term) = self.applied;
        let entries = index - self.snapshot_index;
        let size = self.machine.size();
        let due = entries >= self.shared.config.snapshot_count
            && (size <= SMALL_STATE || self.bytes_since_snapshot >= size);
        let none_since = index == self.written_snapshot.load(Ordering::Acquire);
        if none_since || !(due || wanted) || !has_voters(&self.members.conf_state) {
            return Ok(());
        }
        if self.writing_snapshot.swap(true, Ordering::AcqRel) {
            return Ok(()); // the last one is still being written
        }
        fail_point!(
            "raftBeforeTakeSnap",
            self.shared.id,
            Err(NodeError::Apply { index, source: injected().into() })
        );
        let view = self.machine.snapshot().map_err(|source| NodeError::Apply { index, source })?;
        let head = SnapshotHead {
            mark: SnapshotMark { index, term, conf_state: self.members.conf_state.clone() },
            cluster: (*self.members.cluster).clone(),
            window: self.window.clone(),
            births: self.members.births.clone(),
        };
        (self.snapshot_index, self.bytes_since_snapshot) = (index, 0);
        fail_point!("raftAfterTakeSnap", self.shared.id);
        let written = Arc::clone(&self.written_snapshot);
        snapshots::write(&self.shared, head, view, &self.writing_snapshot, written);
        Ok(())
    }
}

fn has_voters(conf_state: &ConfState) -> bool {
    !conf_state.get_voters().is_empty()
}

/// The other end of the apply thread's questions.
pub(super) fn reply(to: &SyncSender<MembersApplied>, members: MembersApplied) {
    let _ = to.try_send(members); // it has room for the one answer, or nobody waits any more
}
