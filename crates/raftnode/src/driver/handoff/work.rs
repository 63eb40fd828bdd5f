//! From the entries and snapshots handed over to the steps of an apply loop: in order, each once, without a gap (O22,
//! O23).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

use super::ApplyQueue;
use crate::core::{MembersApplied, Restore};
use crate::driver::events::Control;
use crate::driver::snapshots;
use crate::driver::step::{Command, Step};
use crate::driver::waiters::WaiterTable;
use crate::failpoint::fail_point;
#[cfg(feature = "failpoints")]
use crate::failpoint::injected;
use crate::planted::planted;
use crate::proposal::{Payload, Verdict};
use crate::snapshot_head::SnapshotHead;
use crate::{NodeError, ProposeError, SnapshotMark, Unknown};

/// How often a thread that waits for the node thread's answer checks whether the node is stopping.
const STOP_POLL: Duration = Duration::from_millis(50);

/// What the current [`Apply`] consists of.
#[derive(Debug)]
pub(super) enum Work {
    Nothing,
    Entries { rest: std::vec::IntoIter<Entry>, bytes: u64, count: u64 },
    Restore(Restore),
    Restored { mark: SnapshotMark, head: Box<SnapshotHead>, announcement: Bytes },
}

/// Why no more steps can be pulled.
pub(super) enum End {
    Stopping,
    Failed(NodeError),
}

impl From<NodeError> for End {
    fn from(error: NodeError) -> Self {
        Self::Failed(error)
    }
}

impl<R: Send + 'static> ApplyQueue<R> {
    pub(super) fn step(&mut self) -> Result<Option<Step>, End> {
        self.shared.apply_steps.fetch_add(1, Ordering::Relaxed);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(End::Stopping);
            }
            if let Some(step) = self.upcoming.pop_front() {
                return Ok(Some(step));
            }
            match &mut self.work {
                Work::Nothing | Work::Restored { .. } => return Ok(None),
                Work::Entries { rest, .. } => {
                    let Some(entry) = rest.next() else { return Ok(None) };
                    if let Some(step) = self.entry(entry)? {
                        return Ok(Some(step));
                    }
                }
                Work::Restore(_) => {
                    if let Work::Restore(restore) = std::mem::replace(&mut self.work, Work::Nothing)
                    {
                        self.restore(restore)?;
                    }
                }
            }
        }
    }

    fn entry(&mut self, entry: Entry) -> Result<Option<Step>, End> {
        if entry.index <= self.applied.0 {
            return Ok(None); // never again (O23)
        }
        if entry.index != self.applied.0 + 1 {
            let reason = format!("it follows entry {}", self.applied.0);
            return Err(NodeError::BadEntry { index: entry.index, reason }.into());
        }
        let applied = (entry.index, entry.term);
        let step = match entry.get_entry_type() {
            EntryType::EntryNormal => self.normal(entry)?,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.members(|reply| Control::Change { entry, reply })?
            }
        };
        self.applied = applied;
        Ok(step)
    }

    fn normal(&mut self, entry: Entry) -> Result<Option<Step>, End> {
        let (index, term) = (entry.index, entry.term);
        let bad = |error| NodeError::BadEntry { index, reason: format!("{error}") };
        let payload = Payload::from_entry(entry).map_err(bad)?;
        if let Some(id) = payload.id() {
            match self.window.accept(id) {
                Verdict::First => {}
                Verdict::Duplicate => return Ok(None), // the first has been answered (O22)
                Verdict::Stale => {
                    self.waiters.refuse(id, ProposeError::OutcomeUnknown(Unknown::Stale));
                    return Ok(None);
                }
            }
        }
        match payload {
            Payload::Application { .. } if index <= self.state_applied => Ok(None),
            Payload::Application { id, data } => {
                fail_point!(
                    "beforeApplyOneEntryNormal",
                    self.shared.id,
                    Err(NodeError::Apply { index, source: injected().into() }.into())
                );
                let command = Command { index, term, data, id };
                if planted("applied-twice") {
                    self.upcoming.push_back(Step::Command(command.clone()));
                }
                Ok(Some(Step::Command(command)))
            }
            Payload::Attributes { id, update } => {
                self.members(|reply| Control::Attributes { index, id, update, reply })
            }
            Payload::Empty => Ok(None),
        }
    }

    /// Has the node thread apply a change of the members. It answers at once, unless it has ended: it never waits for
    /// this thread.
    fn members(
        &mut self,
        question: impl FnOnce(SyncSender<MembersApplied>) -> Control,
    ) -> Result<Option<Step>, End> {
        fail_point!("beforeApplyOneConfChange", self.shared.id);
        let (reply, answer) = sync_channel(1);
        self.shared.inbox.control(question(reply));
        self.members = loop {
            match answer.recv_timeout(STOP_POLL) {
                Ok(members) => break members,
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Relaxed) => {}
                Err(_) => return Err(End::Stopping),
            }
        };
        fail_point!("afterApplyOneConfChange", self.shared.id);
        // Proposals that a removed member still had in flight take no effect, so their ids need not be remembered (O22).
        for origin in self.members.gone() {
            self.window.close(origin);
        }
        let changed = self.members.changed;
        Ok(changed.then(|| Step::Members(Arc::clone(&self.members.cluster))))
    }

    fn restore(&mut self, restore: Restore) -> Result<(), NodeError> {
        let Restore { mark, head: announcement } = restore;
        let (index, id) = (mark.index, mark.id());
        if index <= self.applied.0 {
            let reason = format!("entry {} is applied already", self.applied.0);
            return Err(NodeError::BadSnapshot { index, reason }); // never backwards (O23)
        }
        fail_point!(
            "raftBeforeApplySnap",
            self.shared.id,
            Err(NodeError::Restore { index, source: injected().into() })
        );
        let (head, content) = snapshots::open(&*self.shared.snapshots, id)?;
        let cluster = Arc::new(head.cluster.clone());
        self.upcoming.push_back(Step::Snapshot { id, content });
        self.upcoming.push_back(Step::Members(cluster));
        self.work = Work::Restored { mark, head: Box::new(head), announcement };
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), NodeError> {
        self.open = false;
        let work = std::mem::replace(&mut self.work, Work::Nothing);
        if self.ended {
            return Ok(());
        }
        match work {
            Work::Entries { rest, bytes, count } if rest.len() == 0 => {
                self.shared.counters.applied.add(count);
                self.bytes_since_snapshot += bytes;
                let index = self.applied.0;
                self.shared.inbox.control(Control::Applied { index, bytes });
                Ok(())
            }
            Work::Restored { mark, head, announcement } if self.upcoming.is_empty() => {
                fail_point!("raftAfterApplySnap", self.shared.id);
                let index = mark.index;
                self.applied = (index, mark.term);
                self.window = head.window.clone();
                self.members = MembersApplied {
                    cluster: Arc::new(head.cluster.clone()),
                    conf_state: mark.conf_state.clone(),
                    births: head.births.clone(),
                    changed: true,
                };
                (self.snapshot_index, self.bytes_since_snapshot) = (index, 0);
                self.written_snapshot.store(index, Ordering::Release);
                self.shared.counters.snapshots_installed.add(1);
                self.shared.inbox.control(Control::Restored { mark, head, announcement });
                Ok(())
            }
            Work::Nothing if self.upcoming.is_empty() => {
                if self.shared.begins_with_restore.swap(false, Ordering::Release) {
                    let index = self.applied.0; // reads wait for it (O24)
                    self.shared.inbox.control(Control::Applied { index, bytes: 0 });
                }
                Ok(())
            }
            _ => Err(NodeError::ApplyLoopGone),
        }
    }
}
