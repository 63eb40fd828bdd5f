//! What is replicated: the one trait that a user of this crate implements.

use std::io;

use bytes::Bytes;
use oarlock_membership::Cluster;

use crate::SnapshotId;

/// One committed application entry.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// Its place in the log. Grows with every call, with gaps: other kinds of entries lie between.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// What was proposed. It may be a piece of something larger, which lives as long as it does: small proposals share a
    /// buffer of 16 KiB, those from a leader its message, those read back a segment of the log. Copy what is to be kept.
    pub data: &'a Bytes,
}

/// The entry's answer, and where in the log it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<R> {
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
    /// What [`StateMachine::apply`] returned for it on this node.
    pub output: R,
}

/// Any error of a state machine. It ends the node: members must not diverge.
pub type ApplyError = Box<dyn std::error::Error + Send + Sync>;

/// Any error while a snapshot is read back. The state must be as before.
pub type RestoreError = Box<dyn std::error::Error + Send + Sync>;

/// The replicated state.
///
/// What is promised here is tested by `testing::state_machine` (feature `testing`), which any implementation can run.
///
/// All methods are called on one thread, `oarlock-apply`, except for the first restore, which happens on the thread
/// that starts the node. Given the same entries every member must reach the same state: no clock, no randomness, no
/// iteration in hash order that shows.
///
/// Nothing in it may wait for the node, by [`Pending::wait`](crate::Pending::wait) for example: what is waited for would have
/// to be applied by the very thread that waits.
///
/// The node takes it over. Whoever reads the state from outside shares it by an `Arc` inside, and asks
/// [`NodeHandle::read_index`](crate::NodeHandle::read_index) first if the read is to be linearizable.
pub trait StateMachine: Send + 'static {
    /// What an entry answers to whoever proposed it on this node.
    type Output: Send + 'static;

    /// Applies one entry: application entries only, each once, in the order of the log (O22, O23).
    ///
    /// A request that makes no sense is not an error here: answer it with an `Output` that says so, for the entry is
    /// in the log of every member.
    ///
    /// # Errors
    /// The state can no longer be trusted. The node ends with [`NodeError::Apply`](crate::NodeError::Apply).
    fn apply(&mut self, entry: &Committed<'_>) -> Result<Self::Output, ApplyError>;

    /// A view of the state as it is now; cheap, because nothing is applied meanwhile. Another thread writes it out
    /// while entries go on being applied, so it must not change with them: share structure or copy.
    ///
    /// # Errors
    /// The node ends with [`NodeError::Apply`](crate::NodeError::Apply).
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError>;

    /// Replaces the state by what [`SnapshotView::write_to`] wrote on this or another member.
    ///
    /// Read `content` to its end and verify it before anything is swapped: its chunks are checked as they are read,
    /// and an error may come late.
    ///
    /// # Errors
    /// Damage ends the node with [`NodeError::Restore`](crate::NodeError::Restore).
    fn restore(&mut self, at: SnapshotId, content: &mut dyn io::Read) -> Result<(), RestoreError>;

    /// For state machines with storage of their own: the index up to which it holds everything durably. Entries up to
    /// it are not applied again. Asked once, at start. Defaults to 0: everything after the snapshot is applied.
    fn applied_index(&self) -> u64 {
        0
    }

    /// About how many bytes a snapshot would take. Large states are snapshotted less often; see
    /// [`Config::snapshot_count`](crate::Config::snapshot_count).
    fn size(&self) -> u64 {
        0
    }

    /// The members changed: a conf change or an update of attributes was applied, or a snapshot restored.
    fn members_changed(&mut self, cluster: &Cluster) {
        let _ = cluster;
    }
}

/// The state at one instant, to be written out by another thread.
pub trait SnapshotView: Send {
    /// Writes all of it.
    ///
    /// # Errors
    /// Those of the writer; the snapshot is then given up, and tried again later.
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()>;
}
