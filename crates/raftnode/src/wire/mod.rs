//! What nodes send to each other, and the validator in front of raft-rs.
//!
//! Bytes from peers are decoded by prost and by checked conversions, never by raft-rs's own codec. A Raft message is
//! split into a small head and the data of its entries, which is sent and received without a copy. Which message takes
//! which lane, and which are dropped first when a queue is full, is one table: [`route`].
//!
//! Decoding checks that bytes are well formed; [`validate`] checks that a message makes sense to this node now. raft-rs
//! panics on some messages that do not.

use bytes::Bytes;
use oarlock_transport::{Envelope, Lane, Shed, SnapshotEnvelope};
use prost::Message as _;
use raft::eraftpb::{Message, MessageType};

mod message;

mod forward;
pub use forward::{Forward, ForwardKind, ForwardRefusal, ForwardReply};

mod hello;
pub use hello::Hello;

mod promise;
pub use promise::{promise, set_promise};

mod validate;
pub use validate::{Refused, View, check_conf_state, validate};

/// The most entries in one message, in and out. A frame of the transport holds no more payloads than this.
pub const MAX_ENTRIES: usize = 1 << 16;

/// The most bytes in the head of a message, which is everything but the entries' data. Checked before decoding, so that a
/// short message cannot turn into large objects.
pub const MAX_HEAD: usize = 1 << 20;

/// Why a message cannot be sent, or what arrived is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// This type of message is never sent: it is local to a node, or has a frame of its own.
    #[error("{0} does not travel between nodes")]
    NotForTheWire(&'static str),
    /// A snapshot travels by [`encode_snapshot`], anything else by [`encode`].
    #[error("{0} does not travel on this lane")]
    WrongLane(&'static str),
    /// A number that this version does not know: the peer is newer, or the bytes are not ours.
    #[error("unknown {what} {number}")]
    Unknown {
        /// What it was to be.
        what: &'static str,
        /// The number found.
        number: u64,
    },
    /// The head is not protobuf of this shape.
    #[error("malformed head: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// More than [`MAX_HEAD`] bytes of head, or [`MAX_ENTRIES`] entries.
    #[error("{what} of {size} is beyond the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// Head and payloads do not belong together.
    #[error("head announces {announced} bytes of entries, the payloads hold {found}")]
    Payloads {
        /// By the head.
        announced: u64,
        /// In the payloads.
        found: u64,
    },
    /// Entries whose indexes do not follow one another.
    #[error("entry {found} where {expected} should be")]
    NotContiguous {
        /// The index found.
        found: u64,
        /// The index expected.
        expected: u64,
    },
    /// An entry with a context, which nodes of this crate never write: another kind of node is in the cluster.
    #[error("entry {index} has a context")]
    EntryContext {
        /// Its index.
        index: u64,
    },
}

/// The stream that carries a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One of the transport's two lanes.
    Lane(Lane),
    /// Ahead of a snapshot's content.
    Snapshot,
}

/// How a type of message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which stream carries it.
    pub way: Way,
    /// Its name in metrics.
    pub label: &'static str,
    /// When it gives way in a full queue.
    pub shed: Shed,
}

/// How a type of message is sent; `None` if it is never sent.
///
/// Never sent are local messages, by which a peer could make this node tick, campaign or reset its progress;
/// `MsgPropose`, because raft-rs decodes the conf changes inside it, and forwarded proposals need ids (they are sent as
/// [`Forward`]); and `MsgTransferLeader`, whose `from` is not its sender.
#[must_use]
pub const fn route(kind: MessageType) -> Option<Route> {
    const fn lane(lane: Lane, label: &'static str, shed: Shed) -> Option<Route> {
        Some(Route { way: Way::Lane(lane), label, shed })
    }
    match kind {
        MessageType::MsgAppend => lane(Lane::Append, "append", Shed::Normal),
        MessageType::MsgAppendResponse => lane(Lane::Message, "append_response", Shed::Normal),
        MessageType::MsgHeartbeat => lane(Lane::Message, "heartbeat", Shed::First),
        MessageType::MsgHeartbeatResponse => lane(Lane::Message, "heartbeat_response", Shed::First),
        MessageType::MsgRequestVote => lane(Lane::Message, "vote", Shed::Last),
        MessageType::MsgRequestVoteResponse => lane(Lane::Message, "vote_response", Shed::Last),
        MessageType::MsgRequestPreVote => lane(Lane::Message, "pre_vote", Shed::Last),
        MessageType::MsgRequestPreVoteResponse => {
            lane(Lane::Message, "pre_vote_response", Shed::Last)
        }
        MessageType::MsgTimeoutNow => lane(Lane::Message, "timeout_now", Shed::Last),
        MessageType::MsgReadIndex => lane(Lane::Message, "read_index", Shed::Normal),
        MessageType::MsgReadIndexResp => lane(Lane::Message, "read_index_response", Shed::Normal),
        MessageType::MsgSnapshot => {
            Some(Route { way: Way::Snapshot, label: "snapshot", shed: Shed::Last })
        }
        MessageType::MsgPropose
        | MessageType::MsgTransferLeader
        | MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => None,
    }
}

/// What can arrive on a lane.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Inbound {
    /// A Raft message, to be checked by [`validate`] before it is stepped.
    Raft(Box<Message>),
    /// A follower forwards a proposal.
    Forward(Forward),
    /// The leader answers one.
    ForwardReply(ForwardReply),
}

/// The head of everything that travels on a lane.
#[derive(Clone, PartialEq, prost::Message)]
struct Frame {
    #[prost(oneof = "Body", tags = "1, 2, 3")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(clippy::large_enum_variant, reason = "lives for a moment, and most are of the large kind")]
enum Body {
    #[prost(message, tag = "1")]
    Raft(message::Head),
    #[prost(message, tag = "2")]
    Forward(forward::ForwardHead),
    #[prost(message, tag = "3")]
    ForwardReply(forward::ReplyHead),
}

/// Splits a Raft message into head and payloads.
///
/// # Errors
/// [`WireError::NotForTheWire`], [`WireError::WrongLane`] for a snapshot, and the limits.
pub fn encode(message: &Message) -> Result<Envelope, WireError> {
    let (head, payloads) = message::split(message)?;
    let Some(Route { way: Way::Lane(lane), label, shed }) = route(message.get_msg_type()) else {
        return Err(WireError::WrongLane(message::name(message.get_msg_type())));
    };
    let head = pack(Body::Raft(head))?;
    Ok(Envelope { to: message.to, lane, label, shed, head, payloads })
}

/// Encodes a `MsgSnapshot`, which is followed by `len` bytes of content.
///
/// # Errors
/// [`WireError::WrongLane`] for anything but a snapshot, and the limits.
pub fn encode_snapshot(message: &Message, len: u64) -> Result<SnapshotEnvelope, WireError> {
    if message.get_msg_type() != MessageType::MsgSnapshot {
        return Err(WireError::WrongLane(message::name(message.get_msg_type())));
    }
    let (head, _) = message::split(message)?;
    Ok(SnapshotEnvelope { to: message.to, head: pack(Body::Raft(head))?, len })
}

/// Encodes a proposal that is forwarded to the leader.
///
/// # Errors
/// The limits.
pub fn encode_forward(to: u64, forward: &Forward) -> Result<Envelope, WireError> {
    let (head, data) = forward.split();
    let head = pack(Body::Forward(head))?;
    let payloads = vec![data];
    Ok(Envelope { to, lane: Lane::Append, label: "forward", shed: Shed::Last, head, payloads })
}

/// Encodes the leader's answer to a forwarded proposal.
///
/// # Errors
/// The limits.
pub fn encode_forward_reply(to: u64, reply: &ForwardReply) -> Result<Envelope, WireError> {
    let head = pack(Body::ForwardReply(reply.head()))?;
    let (lane, label) = (Lane::Message, "forward_reply");
    Ok(Envelope { to, lane, label, shed: Shed::Last, head, payloads: Vec::new() })
}

/// Decodes what arrived on a lane. Entries share the payloads' memory, so they keep alive the buffers of which these are
/// slices.
///
/// # Errors
/// The bytes are not what [`encode`] and its siblings write. There is no panic, and no allocation beyond a small
/// multiple of what arrived.
pub fn decode(head: Bytes, payloads: Vec<Bytes>) -> Result<Inbound, WireError> {
    match unpack(head)? {
        Body::Raft(head) => {
            let message = message::join(head, payloads)?;
            match route(message.get_msg_type()) {
                Some(Route { way: Way::Lane(_), .. }) => Ok(Inbound::Raft(Box::new(message))),
                _ => Err(WireError::WrongLane(message::name(message.get_msg_type()))),
            }
        }
        Body::Forward(head) => Forward::join(head, payloads).map(Inbound::Forward),
        Body::ForwardReply(head) => {
            message::expect_payloads(&payloads, 0)?;
            ForwardReply::from_head(head).map(Inbound::ForwardReply)
        }
    }
}

/// Decodes the `MsgSnapshot` in front of a snapshot's content.
///
/// # Errors
/// As for [`decode`].
pub fn decode_snapshot(head: Bytes) -> Result<Message, WireError> {
    match unpack(head)? {
        Body::Raft(head) => {
            let message = message::join(head, Vec::new())?;
            if message.get_msg_type() != MessageType::MsgSnapshot {
                return Err(WireError::WrongLane(message::name(message.get_msg_type())));
            }
            Ok(message)
        }
        _ => Err(WireError::WrongLane("a forwarded proposal")),
    }
}

fn pack(body: Body) -> Result<Bytes, WireError> {
    let head = Frame { body: Some(body) }.encode_to_vec();
    limit("head", head.len(), MAX_HEAD)?;
    Ok(head.into())
}

fn unpack(head: Bytes) -> Result<Body, WireError> {
    limit("head", head.len(), MAX_HEAD)?;
    Frame::decode(head)?.body.ok_or(WireError::Unknown { what: "kind of frame", number: 0 })
}

fn limit(what: &'static str, size: usize, limit: usize) -> Result<(), WireError> {
    if size > limit {
        return Err(WireError::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
