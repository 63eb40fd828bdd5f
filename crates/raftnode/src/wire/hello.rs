//! What a node says about itself when it meets a peer.

use bytes::Bytes;
use prost::Message;

use super::WireError;

/// Exchanged at every handshake, opaque to the transport; at most 4 KiB. Fields may be added: unknown ones are skipped.
///
/// ```
/// use oarlock_raftnode::wire::Hello;
/// let hello = Hello { birth: 7, last_index: 100, ..Hello::default() };
/// assert_eq!(Hello::decode(hello.encode())?, hello);
/// # Ok::<(), oarlock_raftnode::wire::WireError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// Drawn when the data directory was made. Another number under the same member id is another directory: the
    /// member was wiped, and with it went votes and acknowledged entries (etcd #13509).
    #[prost(fixed64, tag = "1")]
    pub birth: u64,
    /// Last entry that the node's log durably holds. Lower than what it once acknowledged: the log was rolled back.
    #[prost(uint64, tag = "2")]
    pub last_index: u64,
    /// Its term.
    #[prost(uint64, tag = "3")]
    pub term: u64,
    /// Where it can be reached, as far as it knows.
    #[prost(string, repeated, tag = "4")]
    pub peer_urls: Vec<String>,
}

impl Hello {
    /// Bytes that a transport carries at most.
    pub const MAX: usize = 4096;

    /// Encodes, leaving the URLs out if they would make it too long.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        if self.encoded_len() > Self::MAX {
            let short = Self { peer_urls: Vec::new(), ..self.clone() };
            return short.encode_to_vec().into();
        }
        self.encode_to_vec().into()
    }

    /// Decodes; no bytes at all are a hello that says nothing.
    ///
    /// # Errors
    /// [`WireError::Malformed`] and [`WireError::TooLarge`].
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        super::limit("hello", bytes.len(), Self::MAX)?;
        Ok(<Self as Message>::decode(bytes)?)
    }
}
