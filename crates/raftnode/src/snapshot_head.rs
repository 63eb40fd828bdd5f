//! What this crate puts in front of the state machine's bytes in a snapshot.
//!
//! ```text
//! content   magic "OARSNAP1" | head length: u32 LE | crc32 of the head: u32 LE | head | the state machine's bytes
//! announce  content length: u64 LE | head                        (the data of a MsgSnapshot)
//! ```
//!
//! The head is protobuf: version, place, configuration, members, the window of applied proposals, birth ids.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use oarlock_membership::{Cluster, record};
use prost::Message;

use crate::convert;
use crate::proposal::{Window, WindowError};
use crate::storage::{SnapshotId, SnapshotMark};
use crate::wire;

const MAGIC: [u8; 8] = *b"OARSNAP1";
const VERSION: u32 = 1;

/// Everything that a node needs to continue after a snapshot, except the state machine's own bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotHead {
    /// Where the snapshot ends, and the configuration there.
    pub mark: SnapshotMark,
    /// The members there, and those that were removed.
    pub cluster: Cluster,
    /// The proposals applied up to there (O22).
    pub window: Window,
    /// The birth ids that members have published, by member.
    pub births: BTreeMap<u64, u64>,
}

/// Why the head of a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotHeadError {
    /// It could not be read: damaged, cut off, or the sender is gone.
    #[error("cannot read the head of a snapshot")]
    Io(#[from] io::Error),
    /// The content does not begin as a snapshot of this crate does.
    #[error("not a snapshot of this kind")]
    Magic,
    /// A head longer than any that is written.
    #[error("a head of {len} bytes is beyond the limit of {}", SnapshotHead::MAX)]
    TooLarge {
        /// Its length.
        len: u64,
    },
    /// The head does not match its checksum.
    #[error("the head of the snapshot is damaged")]
    Checksum,
    /// A newer version wrote it: upgrade this member first.
    #[error("version {0} of the snapshot's head is not known here")]
    Version(u32),
    /// Not protobuf of this shape, or a part of it does not decode.
    #[error("malformed head: {0}")]
    Malformed(String),
    /// Parts that contradict each other.
    #[error("inconsistent head: {0}")]
    Inconsistent(String),
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(message, optional, tag = "4")]
    conf_state: Option<record::ConfState>,
    #[prost(bytes = "bytes", tag = "5")]
    cluster: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    window: Bytes,
    #[prost(message, repeated, tag = "7")]
    births: Vec<Birth>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Birth {
    #[prost(fixed64, tag = "1")]
    member: u64,
    #[prost(fixed64, tag = "2")]
    birth: u64,
}

impl SnapshotHead {
    /// The most bytes of an encoded head, so that it fits into the head of a message.
    pub const MAX: usize = wire::MAX_HEAD - 4096;

    /// The snapshot that it belongs to.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        self.mark.id()
    }

    /// The head alone.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let births = self.births.iter().map(|(&member, &birth)| Birth { member, birth });
        let record = Record {
            version: VERSION,
            index: self.mark.index,
            term: self.mark.term,
            conf_state: Some(convert::conf_state_to_record(&self.mark.conf_state)),
            cluster: self.cluster.encode().into(),
            window: self.window.encode().into(),
            births: births.collect(),
        };
        record.encode_to_vec().into()
    }

    /// Decodes a head alone.
    ///
    /// # Errors
    /// It is not what [`encode`](Self::encode) writes, or contradicts itself.
    pub fn decode(bytes: Bytes) -> Result<Self, SnapshotHeadError> {
        let malformed = |error: prost::DecodeError| SnapshotHeadError::Malformed(error.to_string());
        if bytes.len() > Self::MAX {
            return Err(SnapshotHeadError::TooLarge { len: bytes.len() as u64 });
        }
        let record = Record::decode(bytes).map_err(malformed)?;
        if record.version != VERSION {
            return Err(SnapshotHeadError::Version(record.version));
        }
        if record.index == 0 || record.term == 0 {
            return Err(SnapshotHeadError::Inconsistent("it ends nowhere".into()));
        }
        let conf_record = record.conf_state.unwrap_or_default();
        let cluster = Cluster::decode(&record.cluster)
            .map_err(|error| SnapshotHeadError::Malformed(error.to_string()))?;
        cluster
            .agrees_with(&conf_record)
            .map_err(|error| SnapshotHeadError::Inconsistent(error.to_string()))?;
        let conf_state = convert::conf_state_from_record(conf_record);
        wire::check_conf_state(&conf_state)
            .map_err(|error| SnapshotHeadError::Inconsistent(error.into()))?;
        let window = Window::decode(&record.window)
            .map_err(|error: WindowError| SnapshotHeadError::Malformed(error.to_string()))?;
        let births = record.births.iter().map(|birth| (birth.member, birth.birth)).collect();
        let mark = SnapshotMark { index: record.index, term: record.term, conf_state };
        Ok(Self { mark, cluster, window, births })
    }

    /// Writes the head where a snapshot's content begins; the state machine's bytes follow.
    ///
    /// # Errors
    /// Those of `to`, and `InvalidInput` for a head beyond [`MAX`](Self::MAX).
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        let head = self.encode();
        let len = u32::try_from(head.len()).ok().filter(|_| head.len() <= Self::MAX);
        let len = len.ok_or_else(|| {
            let error = SnapshotHeadError::TooLarge { len: head.len() as u64 };
            io::Error::new(io::ErrorKind::InvalidInput, error)
        })?;
        to.write_all(&MAGIC)?;
        to.write_all(&len.to_le_bytes())?;
        to.write_all(&crc32fast::hash(&head).to_le_bytes())?;
        to.write_all(&head)
    }

    /// Reads the head and leaves `content` at the state machine's first byte.
    ///
    /// # Errors
    /// The content does not begin with a head. No more than [`MAX`](Self::MAX) bytes are allocated.
    pub fn read_from(content: &mut dyn Read) -> Result<Self, SnapshotHeadError> {
        let mut fixed = [0; 16];
        content.read_exact(&mut fixed)?;
        let mut fixed = fixed.as_slice();
        if fixed.copy_to_bytes(8) != MAGIC[..] {
            return Err(SnapshotHeadError::Magic);
        }
        let (len, crc) = (fixed.get_u32_le(), fixed.get_u32_le());
        if len as usize > Self::MAX {
            return Err(SnapshotHeadError::TooLarge { len: u64::from(len) });
        }
        let mut head = vec![0; len as usize];
        content.read_exact(&mut head)?;
        if crc32fast::hash(&head) != crc {
            return Err(SnapshotHeadError::Checksum);
        }
        Self::decode(head.into())
    }

    /// The data of a `MsgSnapshot`: the head, and the length of the content that is sent with it.
    #[must_use]
    pub fn announce(&self, content_len: u64) -> Bytes {
        [content_len.to_le_bytes().as_slice(), &self.encode()].concat().into()
    }

    /// The content's length, as [`announce`](Self::announce) wrote it, without decoding the head.
    pub(crate) fn announced_len(data: impl Into<Bytes>) -> Result<u64, SnapshotHeadError> {
        let len = data.into().try_get_u64_le();
        len.map_err(|_| SnapshotHeadError::Malformed("cut off".into()))
    }

    /// Reads what [`announce`](Self::announce) wrote: the head and the content's length.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub fn parse_announcement(data: impl Into<Bytes>) -> Result<(Self, u64), SnapshotHeadError> {
        let mut data = data.into();
        let len = Self::announced_len(data.clone())?;
        data.advance(size_of::<u64>());
        Ok((Self::decode(data)?, len))
    }
}

#[cfg(test)]
pub(crate) mod tests;
