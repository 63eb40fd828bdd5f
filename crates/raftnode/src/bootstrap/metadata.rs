//! The record by which a log knows whose it is.

use std::time::Duration;

use bytes::Bytes;
use oarlock_membership::{Member, record};
use prost::Message;

/// Whose log it is, and which life of its owner wrote it. The latest record counts; each start writes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The member.
    pub id: u64,
    /// Its cluster. A rescue may change it.
    pub cluster_id: u64,
    /// Drawn when the log was made.
    pub birth: u64,
    /// Counts the starts, from 1.
    pub incarnation: u64,
    /// Counts the rescues, from 0.
    pub rescue_epoch: u64,
    /// Whom to connect to until entries or a snapshot tell.
    pub contacts: Vec<Member>,
    /// The longest for which one of its lives may have promised its vote to a leader, unless that is over, in
    /// nanoseconds on disk; see [`Recovered::promise`](super::Recovered::promise). Zero if none did.
    pub promised: Duration,
}

/// Why a metadata record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// Not protobuf of this shape: something else wrote the log.
    #[error("the log's metadata is not a record of this crate: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A newer version wrote it: upgrade this member.
    #[error("version {0} of the log's metadata is not known here")]
    Version(u32),
    /// A number that is never written.
    #[error("the log's metadata names no {0}")]
    Missing(&'static str),
}

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    id: u64,
    #[prost(fixed64, tag = "3")]
    cluster_id: u64,
    #[prost(fixed64, tag = "4")]
    birth: u64,
    #[prost(uint64, tag = "5")]
    incarnation: u64,
    #[prost(uint64, tag = "6")]
    rescue_epoch: u64,
    #[prost(message, repeated, tag = "7")]
    contacts: Vec<record::Member>,
    #[prost(uint64, tag = "8")]
    promised: u64,
}

impl Metadata {
    /// The bytes for the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let record = Record {
            version: VERSION,
            id: self.id,
            cluster_id: self.cluster_id,
            birth: self.birth,
            incarnation: self.incarnation,
            rescue_epoch: self.rescue_epoch,
            contacts: self.contacts.iter().cloned().map(Into::into).collect(),
            promised: u64::try_from(self.promised.as_nanos()).unwrap_or(u64::MAX),
        };
        record.encode_to_vec().into()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// The bytes are not such a record, or a newer version's.
    pub fn decode(bytes: Bytes) -> Result<Self, MetadataError> {
        let record = Record::decode(bytes)?;
        if record.version != VERSION {
            return Err(MetadataError::Version(record.version));
        }
        for (number, what) in [
            (record.id, "member"),
            (record.cluster_id, "cluster"),
            (record.birth, "birth"),
            (record.incarnation, "incarnation"),
        ] {
            if number == 0 {
                return Err(MetadataError::Missing(what));
            }
        }
        Ok(Self {
            id: record.id,
            cluster_id: record.cluster_id,
            birth: record.birth,
            incarnation: record.incarnation,
            rescue_epoch: record.rescue_epoch,
            contacts: record.contacts.into_iter().map(Into::into).collect(),
            promised: Duration::from_nanos(record.promised),
        })
    }
}
