//! What can go wrong: whose fault it is, and what to do next.

use std::fmt;
use std::sync::Arc;

use oarlock_membership::ChangeError;

use crate::chain::Chain;
use crate::waiter::Abandoned;
use crate::{ApplyError, ConfigError, LogError, RestoreError, SnapshotError, SnapshotId};

/// Why a proposal has no result.
///
/// All but [`OutcomeUnknown`](Self::OutcomeUnknown) are definite: the proposal was never appended to a log and will never
/// take effect, so it is safe to try again ([`is_definite`](Self::is_definite), O29).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// No leader was found before the deadline. Try again; if it stays like that, a majority of the members is down or
    /// cut off.
    #[error("no leader")]
    NoLeader,
    /// The member that was taken for the leader says that it is not.
    #[error("member {asked:x} is not the leader")]
    NotLeader {
        /// The member that was asked.
        asked: u64,
        /// Whom it takes for the leader; 0 if it knows none.
        leader: u64,
    },
    /// A limit was reached. Try again later, with less.
    #[error("busy: {0}")]
    Busy(Busy),
    /// The proposal is larger than [`Config::max_request_bytes`](crate::Config::max_request_bytes).
    #[error("proposal of {bytes} bytes is too large{}", at_most(*.max))]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest that is taken; 0 if it is the leader that refused, which takes less than this node does.
        max: usize,
    },
    /// Leadership is being handed over. Try again in a moment.
    #[error("leadership is being transferred")]
    Transferring,
    /// Another conf change has not been applied yet; there can be only one at a time. Try again when it has.
    #[error("another conf change is pending")]
    ConfChangePending,
    /// This node, or the one that was asked, is not a member any more.
    #[error("not a member of the cluster")]
    NotMember,
    /// This node's log has lost entries, so it takes no part in the cluster: see
    /// [`Status::quarantined`](crate::Status::quarantined).
    #[error("the node is in quarantine: its log has lost entries")]
    Quarantined,
    /// The node has stopped, or was stopping when it saw the proposal.
    #[error("the node has stopped")]
    Stopped,
    /// It may have taken effect, may still do so, or never will. Read before you try again.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(Unknown),
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Busy {
    /// Proposals or reads waiting in this node.
    #[error("too many requests are waiting")]
    Requests,
    /// Bytes appended and not yet committed.
    #[error("too many bytes are uncommitted")]
    Uncommitted,
    /// Bytes committed and not yet applied.
    #[error("the state machine lags behind")]
    ApplyLag,
    /// Bytes written and not yet synced.
    #[error("too many bytes are unsynced")]
    Unsynced,
    /// The oldest write is older than an election timeout (O12).
    #[error("the disk has stalled")]
    DiskStalled,
    /// The leader, which said no more than this.
    #[error("the leader is busy")]
    Leader,
}

/// Why the outcome of a proposal is unknown here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// The deadline passed after it was appended or sent to the leader.
    #[error("the deadline passed after it had been handed on")]
    Deadline,
    /// It was committed behind so many newer proposals of this node that it is no longer known whether it had been
    /// applied before (O22), so this time it was not applied.
    #[error("it was committed behind too many newer ones, and left out")]
    Stale,
    /// A snapshot replaced the part of the log that it was in: it may be in the state, but its result is not known.
    #[error("a snapshot replaced its part of the log")]
    Snapshot,
    /// The node stopped after it was appended or sent.
    #[error("the node stopped after it had been handed on")]
    Stopped,
}

/// The end of the message of [`ProposeError::TooLarge`].
fn at_most(max: usize) -> String {
    match max {
        0 => " for the leader: max_request_bytes is to be the same on every member".to_string(),
        max => format!(": at most {max} are taken"),
    }
}

impl ProposeError {
    /// Whether it is certain that the proposal has no effect, now or later.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown(_))
    }
}

impl Abandoned for ProposeError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown(Unknown::Stopped)
    }

    fn overdue() -> Self {
        Self::OutcomeUnknown(Unknown::Deadline)
    }
}

/// Why a linearizable read got no index. Reads have no effect: try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader was found before the deadline.
    #[error("no leader")]
    NoLeader,
    /// The leader did not confirm the read before the deadline, or this node did not apply entries that far.
    #[error("timed out")]
    TimedOut,
    /// Too many reads are waiting.
    #[error("busy: {0}")]
    Busy(Busy),
    /// The node's log has lost entries: its state may be old for ever.
    #[error("the node is in quarantine: its log has lost entries")]
    Quarantined,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl Abandoned for ReadError {
    fn abandoned() -> Self {
        Self::Stopped
    }

    fn overdue() -> Self {
        Self::TimedOut
    }
}

/// Why the members were not changed, or why that is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeMembersError {
    /// The proposal failed; [`ProposeError::is_definite`] says whether that is certain.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// It was committed, and refused by every member when it was applied.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// It was committed, and raft-rs refused it on every member when it was applied (the last voter cannot be removed,
    /// ...).
    #[error("refused by raft: {0}")]
    RefusedByRaft(String),
}

impl Abandoned for ChangeMembersError {
    fn abandoned() -> Self {
        Self::Propose(ProposeError::abandoned())
    }

    fn overdue() -> Self {
        Self::Propose(ProposeError::overdue())
    }
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This node does not lead. Ask the leader.
    #[error("not the leader: {}", ask(*.leader))]
    NotLeader {
        /// Whom it takes for the leader; 0 if it knows none.
        leader: u64,
    },
    /// Only voters can lead.
    #[error("member {to:x} is not a voter")]
    NotVoter {
        /// Who was to lead.
        to: u64,
    },
    /// The target did not take over in time. The old leader goes on, or another member was elected.
    #[error("leadership was not taken over in time")]
    TimedOut,
    /// No other voter is connected.
    #[error("no other voter is connected")]
    NoTarget,
    /// Too many requests are waiting.
    #[error("busy: {0}")]
    Busy(Busy),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Whom to ask instead.
fn ask(leader: u64) -> String {
    match leader {
        0 => "nobody is known to lead, try again".to_string(),
        leader => format!("ask member {leader:x}"),
    }
}

impl Abandoned for TransferError {
    fn abandoned() -> Self {
        Self::Stopped
    }

    fn overdue() -> Self {
        Self::TimedOut
    }
}

/// Why a node could not be started. Nothing has been written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log could not be read.
    #[error("the log cannot be read")]
    Log(#[from] LogError),
    /// The snapshot that the log begins with could not be opened.
    #[error("the snapshot cannot be opened")]
    Snapshot(#[from] SnapshotError),
    /// The snapshot's head does not decode.
    #[error("the snapshot's head is damaged: {0}")]
    SnapshotHead(String),
    /// The state machine did not accept the snapshot.
    #[error("the state machine refused the snapshot")]
    Restore(#[source] RestoreError),
    /// The state machine holds more than the log: one of them is not from here, or the log lost its end.
    #[error(
        "the state machine has applied {applied}, the log ends at {last_index}: they do not belong together, or the log lost \
         its end; remove this member and add it again"
    )]
    StateMachineAhead {
        /// What the state machine says it has applied.
        applied: u64,
        /// The last index of the log.
        last_index: u64,
    },
    /// What was recovered is not what this log holds: it is another log's, or the log was booted or written since. Boot
    /// the very log that the node is given, once for each start.
    #[error(
        "the node was given another log than was booted, or one that was started since: boot it again"
    )]
    NotRecovered,
    /// The snapshot that the log begins with is not in the store of snapshots that the node was given, or is another one
    /// there: it is not the store that was booted with. Give the node that one.
    #[error(
        "snapshot {needed} is not among the node's snapshots, or is another one there: give it those that it was booted with"
    )]
    OtherSnapshots {
        /// Which.
        needed: SnapshotId,
    },
    /// The store of snapshots that the node was given is of a member of another cluster. Give the node the one that was booted
    /// with.
    #[error(
        "snapshot {found} among the node's snapshots is of cluster {cluster:x}: give it those that it was booted with"
    )]
    ForeignSnapshots {
        /// The newest one there.
        found: SnapshotId,
        /// The cluster that it is of.
        cluster: u64,
    },
    /// raft-rs refused what was recovered.
    #[error("raft refused to start: {0}")]
    Raft(String),
    /// The transport could not be started.
    #[error("the transport cannot be started")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system refused a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// Why a node ended by itself. Nothing acknowledged is lost. Start it again when the cause is removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The log failed. It is poisoned: only opening it again finds out what the disk holds (O13).
    #[error("the log failed")]
    Log(#[from] LogError),
    /// A snapshot that the log depends on could not be read or written.
    #[error("a snapshot failed")]
    Snapshot(#[from] SnapshotError),
    /// The state machine failed. This member stops, because it would diverge from the others.
    #[error("the state machine failed at index {index}")]
    Apply {
        /// The entry that it failed at.
        index: u64,
        /// What it said.
        source: ApplyError,
    },
    /// The state machine did not accept a snapshot.
    #[error("the state machine refused the snapshot at index {index}")]
    Restore {
        /// The snapshot's index.
        index: u64,
        /// What it said.
        source: RestoreError,
    },
    /// The apply loop left something unapplied, or let go of its [`ApplyQueue`](crate::ApplyQueue).
    #[error("the apply loop has left its work")]
    ApplyLoopGone,
    /// A committed entry cannot be read: it was not written by this crate, or by a newer version of it.
    #[error("entry {index} cannot be read: {reason}")]
    BadEntry {
        /// Its index.
        index: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A snapshot's head cannot be read: it was not written by this crate, or by a newer version of it.
    #[error("the head of snapshot {index} cannot be read: {reason}")]
    BadSnapshot {
        /// Its index.
        index: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The members as applied differ from raft-rs's configuration: a bug, in this or another version of the crate.
    #[error("after entry {index} the members and raft's configuration disagree: {reason}")]
    Disagreement {
        /// The change after which they do.
        index: u64,
        /// How they differ.
        reason: String,
    },
    /// A thread panicked: a bug, here, in raft-rs, or in the state machine. The process goes on.
    #[error("{thread} panicked: {message}")]
    Panicked {
        /// The thread's name.
        thread: &'static str,
        /// What it said.
        message: String,
    },
}

/// How a node ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeEnd {
    /// It was asked to.
    Stopped,
    /// It was removed from the cluster. Its data directory is of no further use (O19).
    Removed,
    /// It failed.
    Failed(Arc<NodeError>),
}

impl NodeEnd {
    /// The error, if there was one.
    #[must_use]
    pub fn error(&self) -> Option<&NodeError> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Stopped | Self::Removed => None,
        }
    }
}

/// With the error and what caused it, such as `failed: the log failed: cannot sync the log: input/output error`.
impl fmt::Display for NodeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Removed => f.write_str("removed from the cluster"),
            Self::Failed(error) => write!(f, "failed: {}", Chain(&**error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_reads_as_its_reason() {
        let panicked = NodeError::Panicked { thread: "oarlock-node", message: "no".into() };
        assert_eq!(
            NodeEnd::Failed(Arc::new(panicked)).to_string(),
            "failed: oarlock-node panicked: no"
        );
        assert_eq!(NodeEnd::Stopped.to_string(), "stopped");
        assert_eq!(NodeEnd::Removed.to_string(), "removed from the cluster");
    }

    #[test]
    fn only_an_unknown_outcome_is_not_definite() {
        assert!(ProposeError::NoLeader.is_definite());
        assert!(ProposeError::Busy(Busy::Requests).is_definite());
        assert!(!ProposeError::abandoned().is_definite());
        assert!(!ProposeError::OutcomeUnknown(Unknown::Deadline).is_definite());
    }
}
