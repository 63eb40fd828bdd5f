//! What can go wrong on this side, and whose fault it is.

use std::io;

use crate::Refusal;

/// What is wrong with a message that arrived intact: the sender's fault, found by
/// [`Handler::receive`](crate::Handler::receive).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// The bytes are not of the expected schema.
    #[error("cannot be decoded: {reason}")]
    Undecodable {
        /// What the decoder said.
        reason: String,
    },
    /// The bytes decode, but say what no correct peer would say.
    #[error("impossible message: {reason}")]
    Impossible {
        /// Which rule was broken.
        reason: String,
    },
    /// The message names a sender other than the connection's peer.
    #[error("claims to come from member {claimed:x}")]
    WrongSender {
        /// Who the message says has sent it.
        claimed: u64,
    },
    /// The message is addressed to somebody else (etcd #17078).
    #[error("addressed to member {to:x}")]
    WrongReceiver {
        /// Who should have received it.
        to: u64,
    },
}

impl FrameFault {
    /// A short name for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Undecodable { .. } => "undecodable",
            Self::Impossible { .. } => "impossible",
            Self::WrongSender { .. } => "wrong_sender",
            Self::WrongReceiver { .. } => "wrong_receiver",
        }
    }
}

/// Why a peer could not be added or updated. The caller's configuration is at fault; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Ids of members are never 0.
    #[error("member id 0 cannot be a peer")]
    ZeroId,
    /// A member is not its own peer.
    #[error("member {id:x} is this member itself")]
    OwnId {
        /// Our own id.
        id: u64,
    },
    /// The peer to be updated is not there: add it.
    #[error("member {id:x} is not a known peer")]
    Unknown {
        /// The id that was asked for.
        id: u64,
    },
    /// A peer needs at least one URL.
    #[error("member {id:x} has no peer url")]
    NoUrl {
        /// The peer without URLs.
        id: u64,
    },
    /// A URL is not of the form `http://host:port`.
    #[error("peer url {url:?}: {reason}")]
    BadUrl {
        /// The URL as it was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The transport has stopped, or is stopping.
    #[error("the transport has stopped")]
    Stopped,
}

/// How sending a snapshot failed. In each case the receiver has not been told that the snapshot is whole, except
/// that after [`Lost`](Self::Lost) and [`NoAnswer`](Self::NoAnswer) it may have accepted it without our learning so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotSendError {
    /// No such peer: nothing was sent.
    #[error("member {id:x} is not a known peer")]
    UnknownPeer {
        /// The id that was asked for.
        id: u64,
    },
    /// One snapshot is already on its way to this peer, or too many are altogether; try again when one has ended.
    #[error("too many snapshots are on their way")]
    Busy,
    /// The peer could not be connected to.
    #[error("member {id:x} cannot be reached")]
    Unreachable {
        /// The peer.
        id: u64,
        /// What the last attempt said.
        source: io::Error,
    },
    /// Reading our own content failed: look at the local disk.
    #[error("cannot read the snapshot's content")]
    Content(#[source] io::Error),
    /// Our own content is not as long as declared: the caller's fault.
    #[error("the content is not {declared} bytes long: it {}", if *.read < *.declared { "ends early" } else { "goes on" })]
    WrongLength {
        /// What the envelope said.
        declared: u64,
        /// How much was read until this was noticed.
        read: u64,
    },
    /// The head is larger than a frame may be: the caller's fault.
    #[error("a snapshot head of {len} bytes is too large, {limit} are allowed")]
    HeadTooLarge {
        /// The head's length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The receiver refused, and said why.
    #[error("refused: {0}")]
    Refused(#[source] Refusal),
    /// The connection broke on the way.
    #[error("the connection broke")]
    Lost(#[source] io::Error),
    /// All was sent, but the receiver did not say in time what became of it.
    #[error("no answer from the receiver in time")]
    NoAnswer,
    /// The peer was removed meanwhile.
    #[error("the peer was removed")]
    PeerRemoved,
    /// The transport is paused.
    #[error("the transport is paused")]
    Paused,
    /// The transport stopped, or the thread that sent ended abnormally.
    #[error("the transport stopped")]
    Stopped,
}
