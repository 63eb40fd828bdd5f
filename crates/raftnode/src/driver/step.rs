//! What an apply loop is given to do.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use oarlock_membership::{Cluster, ProposalId};

use crate::{Committed, SnapshotId};

/// One thing to be done by an apply loop. A kind that it does not know could not be left out, so there will be no other
/// without a new major version.
pub enum Step {
    /// Something that was proposed.
    Command(Command),
    /// The members from here on. At the start, after a change, and after a snapshot.
    Members(Arc<Cluster>),
    /// Replace the state by this snapshot. Read the content to its end, and verify it, before anything is swapped: its
    /// chunks are checked as they are read, and an error may come late. Only at the start, or with newer state of a
    /// leader; never backwards (O23).
    Snapshot {
        /// Which: the last entry that it covers.
        id: SnapshotId,
        /// What [`SnapshotView::write_to`](crate::SnapshotView::write_to) wrote, on this or another member.
        content: Box<dyn Read + Send>,
    },
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(command) => f.debug_tuple("Command").field(command).finish(),
            Self::Members(cluster) => f.debug_tuple("Members").field(cluster).finish(),
            Self::Snapshot { id, .. } => {
                f.debug_struct("Snapshot").field("id", id).finish_non_exhaustive()
            }
        }
    }
}

/// A committed proposal, and the ticket of whoever waits for its result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// Its place in the log. Grows with every command, with gaps: other kinds of entries lie between.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// What was proposed; see [`Committed::data`] for what it holds on to.
    pub data: Bytes,
    /// Who proposed it: its origin is a member's id.
    pub id: ProposalId,
}

impl Command {
    /// As a state machine takes it.
    #[must_use]
    pub const fn committed(&self) -> Committed<'_> {
        Committed { index: self.index, term: self.term, data: &self.data }
    }
}
