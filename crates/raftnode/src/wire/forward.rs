//! Proposals that followers hand to the leader, and its answers.
//!
//! They are not sent as `MsgPropose`: raft-rs would forward one again and decode conf changes inside it, and nobody would
//! learn what became of it. Here each is sent to a leader once, for one term, and answered; to the next leader it
//! goes only when it is certain that nothing came of it (O22).

use bytes::Bytes;
use oarlock_membership::ProposalId;

use super::WireError;
use super::message::expect_payloads;

/// What the leader is asked to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Whose proposal it is. It is inside of `data` as well.
    pub id: ProposalId,
    /// What kind of entry it becomes.
    pub kind: ForwardKind,
    /// The entry's data, complete with its header.
    pub data: Bytes,
    /// The term whose leader is asked: in any other it is refused. So once an entry of a later term is committed, it is
    /// certain whether this one ever will be. 0 until it is handed on.
    pub term: u64,
}

/// The kinds of entries that may be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardKind {
    /// A normal entry: for the state machine, or a member's attributes.
    Normal,
    /// A conf change (V1).
    ConfChange,
    /// A conf change (V2).
    ConfChangeV2,
}

/// What became of a forwarded proposal, as far as the leader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardReply {
    /// Appended at this place; whether it is committed, the log will tell.
    Accepted {
        /// Whose.
        id: ProposalId,
        /// Where.
        index: u64,
        /// In which term: the one for which it was forwarded.
        term: u64,
    },
    /// Not appended.
    Refused {
        /// Whose.
        id: ProposalId,
        /// The term for which it was forwarded: for another one it may be forwarded again, and appended.
        term: u64,
        /// Why.
        reason: ForwardRefusal,
    },
}

/// Why a proposal was not appended. None of these leaves anything behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardRefusal {
    /// The node is not the leader; it believes that `leader` is, or knows none (0).
    NotLeader {
        /// Whom to ask instead.
        leader: u64,
    },
    /// Too much is waiting: try again later.
    Busy,
    /// Larger than the leader accepts.
    TooLarge,
    /// The leader is handing its role to somebody else.
    Transferring,
    /// An earlier conf change has not been applied yet.
    ConfChangePending,
    /// The proposal does not decode, or makes no sense.
    Invalid,
    /// The node is stopping.
    Stopping,
    /// The proposer is not a member.
    NotMember,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ForwardHead {
    #[prost(message, optional, tag = "1")]
    id: Option<Id>,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(uint32, tag = "3")]
    len: u32,
    #[prost(uint64, tag = "4")]
    term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReplyHead {
    #[prost(message, optional, tag = "1")]
    id: Option<Id>,
    /// 0 when refused.
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    /// 0 when accepted.
    #[prost(uint32, tag = "4")]
    refusal: u32,
    #[prost(fixed64, tag = "5")]
    leader: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Id {
    #[prost(fixed64, tag = "1")]
    origin: u64,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
}

impl Id {
    const fn of(id: ProposalId) -> Option<Self> {
        let ProposalId { origin, incarnation, sequence } = id;
        Some(Self { origin, incarnation, sequence })
    }

    fn checked(id: Option<Self>) -> Result<ProposalId, WireError> {
        match id {
            Some(Self { origin, incarnation, sequence }) if origin != 0 => {
                Ok(ProposalId { origin, incarnation, sequence })
            }
            _ => Err(WireError::Unknown { what: "origin of a proposal", number: 0 }),
        }
    }
}

impl Forward {
    pub(super) fn split(&self) -> (ForwardHead, Bytes) {
        let kind = match self.kind {
            ForwardKind::Normal => 1,
            ForwardKind::ConfChange => 2,
            ForwardKind::ConfChangeV2 => 3,
        };
        let len = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        (ForwardHead { id: Id::of(self.id), kind, len, term: self.term }, self.data.clone())
    }

    pub(super) fn join(head: ForwardHead, payloads: Vec<Bytes>) -> Result<Self, WireError> {
        let kind = match head.kind {
            1 => ForwardKind::Normal,
            2 => ForwardKind::ConfChange,
            3 => ForwardKind::ConfChangeV2,
            other => {
                let number = u64::from(other);
                return Err(WireError::Unknown { what: "kind of proposal", number });
            }
        };
        expect_payloads(&payloads, u64::from(head.len))?;
        let mut payloads = payloads.into_iter();
        let data = payloads.next().unwrap_or_default();
        expect_payloads(payloads.as_slice(), 0)?;
        Ok(Self { id: Id::checked(head.id)?, kind, data, term: head.term })
    }
}

impl ForwardReply {
    /// Whose proposal it answers.
    #[must_use]
    pub const fn id(&self) -> ProposalId {
        match self {
            Self::Accepted { id, .. } | Self::Refused { id, .. } => *id,
        }
    }

    /// The term for which that was forwarded.
    #[must_use]
    pub const fn term(&self) -> u64 {
        match self {
            Self::Accepted { term, .. } | Self::Refused { term, .. } => *term,
        }
    }

    pub(super) fn head(&self) -> ReplyHead {
        let head = ReplyHead { id: Id::of(self.id()), term: self.term(), ..ReplyHead::default() };
        match *self {
            Self::Accepted { index, .. } => ReplyHead { index, ..head },
            Self::Refused { reason, .. } => {
                let (refusal, leader) = match reason {
                    ForwardRefusal::NotLeader { leader } => (1, leader),
                    ForwardRefusal::Busy => (2, 0),
                    ForwardRefusal::TooLarge => (3, 0),
                    ForwardRefusal::Transferring => (4, 0),
                    ForwardRefusal::ConfChangePending => (5, 0),
                    ForwardRefusal::Invalid => (6, 0),
                    ForwardRefusal::Stopping => (7, 0),
                    ForwardRefusal::NotMember => (8, 0),
                };
                ReplyHead { refusal, leader, ..head }
            }
        }
    }

    pub(super) fn from_head(head: ReplyHead) -> Result<Self, WireError> {
        let id = Id::checked(head.id)?;
        let reason = match head.refusal {
            0 if head.index == 0 || head.term == 0 => {
                return Err(WireError::Unknown { what: "place of a proposal", number: head.index });
            }
            0 => return Ok(Self::Accepted { id, index: head.index, term: head.term }),
            1 => ForwardRefusal::NotLeader { leader: head.leader },
            2 => ForwardRefusal::Busy,
            3 => ForwardRefusal::TooLarge,
            4 => ForwardRefusal::Transferring,
            5 => ForwardRefusal::ConfChangePending,
            6 => ForwardRefusal::Invalid,
            7 => ForwardRefusal::Stopping,
            8 => ForwardRefusal::NotMember,
            other => {
                let number = u64::from(other);
                return Err(WireError::Unknown { what: "reason of a refusal", number });
            }
        };
        Ok(Self::Refused { id, term: head.term, reason })
    }
}
