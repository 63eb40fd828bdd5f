//! The header in front of an entry's data.
//!
//! ```text
//! application  01 | origin: 8 bytes LE | incarnation: varint | sequence: varint | data
//! attributes   02 | origin: 8 bytes LE | incarnation: varint | sequence: varint | protobuf
//! ```
//!
//! An entry without data is what a new leader appends to commit something in its term, and what raft-rs makes of a conf
//! change that it refuses. `Entry.context` is never used: raft-rs gives it a meaning of its own in messages, and does
//! not preserve it everywhere.

use bytes::{Buf, Bytes};
use oarlock_membership::{ChangeError, Cluster, ProposalId};
use prost::Message as _;
use raft::eraftpb::Entry;

use crate::convert;

pub(super) const APPLICATION: u8 = 1;
const ATTRIBUTES: u8 = 2;

/// Kind and origin take nine bytes, the two varints at most ten each.
const MAX_HEADER: usize = 1 + 8 + 10 + 10;

/// The meaning of a normal entry's data.
///
/// ```
/// use bytes::Bytes;
/// use oarlock_raftnode::{Payload, membership::ProposalId};
/// let id = ProposalId { origin: 1, incarnation: 2, sequence: 3 };
/// let data = Payload::Application { id, data: Bytes::from("set x=1") }.encode();
/// assert_eq!(Payload::decode(&data)?, Payload::Application { id, data: Bytes::from("set x=1") });
/// # Ok::<(), oarlock_raftnode::HeaderError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Payload {
    /// Nothing: the first entry of a term, or a conf change that raft-rs replaced.
    Empty,
    /// For the state machine.
    Application {
        /// Whose proposal it is.
        id: ProposalId,
        /// What was proposed; shares the entry's buffer.
        data: Bytes,
    },
    /// For the applied cluster: what raft-rs has no conf change for.
    Attributes {
        /// Whose proposal it is.
        id: ProposalId,
        /// What to change.
        update: AttributeUpdate,
    },
}

/// A change of a member's attributes, for which raft has no conf change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeUpdate {
    /// A member publishes its name, client URLs and birth id after it has started.
    Publish {
        /// The member.
        member: u64,
        /// Its name.
        name: String,
        /// Where clients reach it.
        client_urls: Vec<String>,
        /// Its data directory's birth id (see [`Recovered::birth`](crate::bootstrap::Recovered::birth)), by which a
        /// wiped member is recognised. 0 if unknown.
        birth: u64,
    },
    /// A member has moved.
    PeerUrls {
        /// The member.
        member: u64,
        /// Where peers reach it from now on.
        peer_urls: Vec<String>,
    },
}

/// Why an entry's data cannot be read. A newer version wrote it, or something else than this crate did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The first byte is no kind that this version knows.
    #[error("unknown kind of payload {0}")]
    UnknownKind(u8),
    /// The data ends within the header, or a number in it is too large.
    #[error("the payload's header is cut off or malformed")]
    Malformed,
    /// The proposer's id is 0.
    #[error("the payload names no proposer")]
    NoOrigin,
    /// The attributes do not decode.
    #[error("attributes do not decode: {0}")]
    Attributes(String),
    /// The entry has a context, which this crate's nodes never write.
    #[error("the entry has a context")]
    Context,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attributes {
    #[prost(oneof = "Update", tags = "1, 2")]
    update: Option<Update>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Update {
    #[prost(message, tag = "1")]
    Publish(Publish),
    #[prost(message, tag = "2")]
    PeerUrls(PeerUrls),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Publish {
    #[prost(fixed64, tag = "1")]
    member: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    client_urls: Vec<String>,
    #[prost(fixed64, tag = "4")]
    birth: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PeerUrls {
    #[prost(fixed64, tag = "1")]
    member: u64,
    #[prost(string, repeated, tag = "2")]
    peer_urls: Vec<String>,
}

impl Payload {
    /// The most bytes that a header adds to application data.
    pub const MAX_OVERHEAD: usize = MAX_HEADER;

    /// An entry's data.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::Application { id, data } => framed(APPLICATION, *id, data),
            Self::Attributes { id, update } => {
                framed(ATTRIBUTES, *id, &Attributes::from(update).encode_to_vec())
            }
        }
    }

    /// Reads a normal entry.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode), and [`HeaderError::Context`].
    pub fn of(entry: &Entry) -> Result<Self, HeaderError> {
        if !entry.context.is_empty() {
            return Err(HeaderError::Context);
        }
        Self::read(convert::from_raft(entry.data.clone()))
    }

    /// Reads a normal entry, and consumes it.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub fn from_entry(mut entry: Entry) -> Result<Self, HeaderError> {
        if !entry.context.is_empty() {
            return Err(HeaderError::Context);
        }
        Self::read(convert::from_raft(std::mem::take(&mut entry.data)))
    }

    /// Reads an entry's data without copying what was proposed.
    ///
    /// # Errors
    /// The data was not written by [`encode`](Self::encode) of this version or an older one.
    pub fn decode(data: &Bytes) -> Result<Self, HeaderError> {
        Self::read(data.clone())
    }

    fn read(mut data: Bytes) -> Result<Self, HeaderError> {
        let Some((&kind, rest)) = data.split_first() else { return Ok(Self::Empty) };
        if kind != APPLICATION && kind != ATTRIBUTES {
            return Err(HeaderError::UnknownKind(kind));
        }
        let (origin, rest) = rest.split_first_chunk().ok_or(HeaderError::Malformed)?;
        let origin = u64::from_le_bytes(*origin);
        if origin == 0 {
            return Err(HeaderError::NoOrigin);
        }
        let (incarnation, rest) = varint(rest).ok_or(HeaderError::Malformed)?;
        let (sequence, rest) = varint(rest).ok_or(HeaderError::Malformed)?;
        let id = ProposalId { origin, incarnation, sequence };
        data.advance(data.len() - rest.len());
        if kind == APPLICATION {
            return Ok(Self::Application { id, data });
        }
        let update = Attributes::decode(data)
            .map_err(|error| HeaderError::Attributes(error.to_string()))?
            .try_into()?;
        Ok(Self::Attributes { id, update })
    }

    /// Reads an entry's data from a borrowed slice, which it copies.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub fn decode_slice(data: &[u8]) -> Result<Self, HeaderError> {
        Self::decode(&Bytes::copy_from_slice(data))
    }

    /// Whose proposal it is.
    #[must_use]
    pub const fn id(&self) -> Option<ProposalId> {
        match self {
            Self::Empty => None,
            Self::Application { id, .. } | Self::Attributes { id, .. } => Some(*id),
        }
    }
}

impl AttributeUpdate {
    /// Applies this update to the cluster. Birth ids are not part of it, but kept beside it: see
    /// [`SnapshotHead::births`](crate::SnapshotHead::births).
    ///
    /// # Errors
    /// Why the cluster refuses it, which is the same on every member.
    pub fn apply_to(&self, cluster: &mut Cluster) -> Result<(), ChangeError> {
        match self {
            Self::Publish { member, name, client_urls, .. } => {
                cluster.update_attributes(*member, name, client_urls)
            }
            Self::PeerUrls { member, peer_urls } => cluster.update_peer_urls(*member, peer_urls),
        }
    }
}

fn framed(kind: u8, id: ProposalId, body: &[u8]) -> Bytes {
    let mut data = Vec::with_capacity(framed_len(id, body));
    put_framed(&mut data, kind, id, body);
    data.into()
}

/// Bytes of `body` with its header.
pub(super) const fn framed_len(id: ProposalId, body: &[u8]) -> usize {
    1 + size_of::<u64>() + varint_len(id.incarnation) + varint_len(id.sequence) + body.len()
}

/// Appends `body` with its header.
pub(super) fn put_framed(data: &mut Vec<u8>, kind: u8, id: ProposalId, body: &[u8]) {
    data.push(kind);
    data.extend_from_slice(&id.origin.to_le_bytes());
    put_varint(data, id.incarnation);
    put_varint(data, id.sequence);
    data.extend_from_slice(body);
}

/// LEB128, as protobuf has it.
fn put_varint(data: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        data.push(value as u8 | 0x80);
        value >>= 7;
    }
    data.push(value as u8);
}

const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Accepts only the shortest form, so that each id has one encoding.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if place == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * place);
        if byte & 0x80 == 0 {
            return (byte != 0 || place == 0).then(|| (value, &bytes[place + 1..]));
        }
    }
    None
}

impl From<&AttributeUpdate> for Attributes {
    fn from(update: &AttributeUpdate) -> Self {
        let update = match update.clone() {
            AttributeUpdate::Publish { member, name, client_urls, birth } => {
                Update::Publish(Publish { member, name, client_urls, birth })
            }
            AttributeUpdate::PeerUrls { member, peer_urls } => {
                Update::PeerUrls(PeerUrls { member, peer_urls })
            }
        };
        Self { update: Some(update) }
    }
}

impl TryFrom<Attributes> for AttributeUpdate {
    type Error = HeaderError;

    fn try_from(attributes: Attributes) -> Result<Self, HeaderError> {
        match attributes.update {
            Some(Update::Publish(Publish { member, name, client_urls, birth })) => {
                Ok(Self::Publish { member, name, client_urls, birth })
            }
            Some(Update::PeerUrls(PeerUrls { member, peer_urls })) => {
                Ok(Self::PeerUrls { member, peer_urls })
            }
            None => {
                Err(HeaderError::Attributes("an update that this version does not know".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
