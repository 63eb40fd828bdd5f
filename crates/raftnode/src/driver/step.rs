//! The steps of an apply loop.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use oarlock_membership::{Cluster, ProposalId};

use crate::{Committed, SnapshotId};

/// One step for an apply loop to carry out. Exhaustive on purpose: a loop must not skip a kind that it does not know,
/// so a new kind is a breaking change.
pub enum Step {
    /// A committed proposal, to be applied to the state.
    Command(Command),
    /// The members from here on: at the start, after a change, and after a snapshot.
    Members(Arc<Cluster>),
    /// Replace the state by this snapshot, which is always newer than the state (O23). Read the content to its end before
    /// the old state is given up: it is verified as it is read, so an error may come late.
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

/// A committed proposal; give it to [`Apply::answer`](crate::Apply::answer) with its result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// Its place in the log. Grows with every command, with gaps: other kinds of entries lie between.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// What was proposed; see [`Committed::data`] for what it holds on to.
    pub data: Bytes,
    /// The proposal's id; its origin is the member that proposed it.
    pub id: ProposalId,
}

impl Command {
    /// The same, as [`StateMachine::apply`](crate::StateMachine::apply) takes it.
    #[must_use]
    pub const fn committed(&self) -> Committed<'_> {
        Committed { index: self.index, term: self.term, data: &self.data }
    }
}
