//! Everything that can wake the node thread: two closed enums.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use bytes::Bytes;
use oarlock_membership::ProposalId;
use oarlock_transport::Refusal;
use raft::eraftpb::{Entry, Message};

use crate::core::{MembersApplied, StepError};
use crate::proposal::{AttributeUpdate, Proposal};
use crate::snapshot_head::SnapshotHead;
use crate::waiter::Resolver;
use crate::wire::{Forward, ForwardReply};
use crate::{Fetch, LogError, NodeError, ReadError, SnapshotMark, Status, TransferError};

/// What the node's own threads, and the transport's callbacks, report. Never refused.
#[derive(Debug)]
pub(crate) enum Control {
    /// Everything up to this Ready is on disk.
    Persisted { number: u64 },
    /// The log failed (O13).
    WriteFailed(LogError),
    /// What was read for a follower.
    Fetched { fetch: Fetch, entries: Result<Vec<Entry>, LogError> },
    /// The compact mark of an own snapshot is durable (O6).
    Marked { mark: SnapshotMark, announcement: Bytes },
    /// Entries up to `index` are applied; `bytes` of them.
    Applied { index: u64, bytes: u64 },
    /// A snapshot was restored.
    Restored { mark: SnapshotMark, head: Box<SnapshotHead>, announcement: Bytes },
    /// A committed conf change waits for its verdict.
    Change { entry: Entry, reply: SyncSender<MembersApplied> },
    /// A committed entry with a member's attributes waits for its verdict.
    Attributes {
        index: u64,
        id: ProposalId,
        update: AttributeUpdate,
        reply: SyncSender<MembersApplied>,
    },
    /// The apply thread, the snapshot thread, or one that panicked, ends the node.
    Failed(Arc<NodeError>),
    /// An own snapshot is durable.
    SnapshotTaken { mark: SnapshotMark, announcement: Bytes },
    /// Sending a snapshot ended (O10, O25).
    SnapshotSent { to: u64, index: u64, ok: bool },
    /// A leader's snapshot is on disk, whole and verified.
    SnapshotArrived { from: u64, message: Box<Message>, reply: SyncSender<Result<(), StepError>> },
    /// Ask to stop, first handing over leadership until the time given.
    Stop { transfer_until: Option<Instant> },
}

/// What comes from outside. Refused when there is too much of it.
#[derive(Debug)]
pub(crate) enum Data {
    Message {
        from: u64,
        message: Box<Message>,
    },
    /// Something for this peer was lost.
    Unreachable(u64),
    /// A peer refused us.
    Refused {
        peer: u64,
        refusal: Refusal,
    },
    Forward {
        from: u64,
        forward: Forward,
    },
    ForwardReply {
        from: u64,
        reply: ForwardReply,
    },
    Propose {
        proposal: Proposal,
        deadline: Instant,
    },
    Read {
        resolver: Resolver<u64, ReadError>,
        deadline: Instant,
        /// A lease will do.
        lease: bool,
    },
    Transfer {
        to: u64,
        resolver: Resolver<(), TransferError>,
        deadline: Instant,
    },
    Campaign,
    AdvanceTicks(u32),
    Status(SyncSender<Status>),
}

impl Data {
    /// Whether it comes from a caller on this node, and not from a peer.
    pub(crate) const fn is_request(&self) -> bool {
        matches!(
            self,
            Self::Propose { .. }
                | Self::Read { .. }
                | Self::Transfer { .. }
                | Self::Campaign
                | Self::AdvanceTicks(_)
                | Self::Status(_)
        )
    }

    /// How much memory it holds, about.
    pub(crate) fn bytes(&self) -> usize {
        const SMALL: usize = 256;
        match self {
            Self::Message { message, .. } => {
                message
                    .entries
                    .iter()
                    .map(|entry| crate::core::entry_bytes(entry) as usize)
                    .sum::<usize>()
                    + SMALL
            }
            Self::Forward { forward, .. } => forward.data.len() + SMALL,
            Self::Propose { proposal, .. } => proposal.len() + SMALL,
            _ => SMALL,
        }
    }
}
