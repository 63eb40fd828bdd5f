//! Messages from peers: validated, then given to raft-rs.

use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType};

use super::{Core, Event};
use crate::Quarantine;
use crate::planted::planted;
use crate::wire::{Refused, View, validate};

/// Rounds of reads that a leader may have open for other members. Each asks for one at a time, and again when that takes
/// long; raft-rs keeps all of them until a majority has answered.
const MAX_READ_ROUNDS: usize = 1024;

/// Why a message was not given to raft-rs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The validator refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Too much is unsynced or unapplied: the leader repeats it.
    #[error("too much is waiting; the leader will repeat it")]
    Shed,
    /// The node takes no part in the cluster: it is in quarantine, or was removed.
    #[error("the node takes no part")]
    Inert,
    /// raft-rs did not accept it.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// A snapshot that is not ahead of this log.
    #[error("the snapshot is not ahead of this log")]
    Stale,
    /// A snapshot from before this node was added: raft-rs ignores it.
    #[error("the snapshot's configuration does not name this member")]
    NotNamed,
}

impl Core {
    /// A message from peer `from`, as the transport has authenticated it; not a `MsgSnapshot`, for which see
    /// [`handle_snapshot`](Self::handle_snapshot).
    ///
    /// # Errors
    /// Why it was not given to raft-rs. [`Refused::LogLost`] puts the node into quarantine.
    pub fn handle_message(&mut self, from: u64, message: Message) -> Result<(), StepError> {
        self.check(from, &message)?;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return Err(StepError::Stale); // without its content on disk it must not be stepped (O25)
        }
        if message.get_msg_type() == MessageType::MsgAppend
            && !message.entries.is_empty()
            && self.pressure.is_some()
        {
            return Err(StepError::Shed);
        }
        if message.get_msg_type() == MessageType::MsgReadIndex
            && self.raw.raft.pending_read_count() >= MAX_READ_ROUNDS
            && !planted("read-rounds-without-bound")
        {
            return Err(StepError::Shed);
        }
        self.keep_promise(&message)?;
        self.promise_heard(&message);
        if message.get_msg_type() == MessageType::MsgTimeoutNow && self.would_win_too_early() {
            return Err(Refused::NotNow("the log is not on disk to its end").into());
        }
        self.note_answer(&message);
        self.tell_view();
        if self.answers_earlier(&message) {
            return Ok(());
        }
        Ok(self.raw.step(message)?)
    }

    /// Tells the log view whether raft-rs holds entries that the view has not seen. Call it before anything that may
    /// make raft-rs count unapplied conf changes (campaigning, and votes that carry a commit index): the view answers
    /// that from a list of its own.
    pub(super) fn tell_view(&mut self) {
        let more = !self.raw.raft.raft_log.unstable.entries.is_empty();
        self.raw.mut_store().set_more(more);
    }

    /// A `MsgSnapshot` whose content has been received completely, verified and made durable (O25).
    ///
    /// # Errors
    /// Why it was not accepted; [`StepError::Stale`] if the log already has what it holds.
    pub fn handle_snapshot(&mut self, from: u64, message: Message) -> Result<(), StepError> {
        self.check(from, &message)?;
        self.keep_promise(&message)?;
        let index = message.get_snapshot().get_metadata().index;
        let over = planted("snapshot-over-a-snapshot") && self.installing();
        if index <= self.raw.raft.raft_log.committed || over {
            // raft-rs answers with our commit index, so that the leader goes on from there.
            self.raw.step(message)?;
            return Err(StepError::Stale);
        }
        if self.installing() || self.applied < self.pipeline.handover.committed() {
            // raft-rs adopts the snapshot's configuration at once. Conf changes that are committed and not applied yet
            // would then be applied on top of it. The leader sends the snapshot again (O17).
            return Err(Refused::NotNow("entries before the snapshot are being applied").into());
        }
        self.raw.step(message)?;
        if self.raw.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index) {
            Ok(())
        } else if self.raw.raft.raft_log.committed >= index {
            Err(StepError::Stale) // the log holds its last entry already
        } else {
            Err(StepError::NotNamed)
        }
    }

    fn check(&mut self, from: u64, message: &Message) -> Result<(), StepError> {
        if !self.is_driven() {
            return Err(StepError::Inert);
        }
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let gone = &self.gone;
        let view = View {
            id: raft.id,
            term: raft.term,
            role: raft.state,
            leader: raft.leader_id,
            first_index: log.first_index(),
            last_index: log.last_index(),
            persisted: log.persisted,
            committed: log.committed,
            applied: log.applied,
            is_removed: &|id| gone.contains(&id),
        };
        if let Err(refused) = validate(from, message, &view) {
            if let Refused::LogLost { commit, last } = refused {
                let quarantine = Quarantine { commit, last_index: last };
                self.quarantined = Some(quarantine);
                self.events.push_back(Event::Quarantined(quarantine));
            }
            return Err(refused.into());
        }
        Ok(())
    }

    /// A message to this peer was lost: raft-rs probes until it answers.
    pub fn handle_unreachable(&mut self, peer: u64) {
        if self.is_driven() {
            self.raw.report_unreachable(peer);
        }
    }

    /// Sending a snapshot has ended: `accepted` by the receiver, or not, for whatever reason (O10, O25).
    pub fn handle_snapshot_sent(&mut self, peer: u64, accepted: bool) {
        if self.is_driven() {
            let status = if accepted { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            self.raw.report_snapshot(peer, status);
        }
    }
}
