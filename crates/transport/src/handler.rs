//! The receiving side of the seam.

use std::io::Read;

use bytes::Bytes;

use crate::{FrameFault, Lane, PeerInfo, Refusal};

/// The kind of query that asks for the members of a cluster; see [`Handler::members`].
pub const QUERY_MEMBERS: &str = "members";

/// What arrives, and what only the owner of a transport can judge.
///
/// Methods are called on the transport's threads, several at once, with no lock of the transport held: they may call
/// back into it, except for `stop`, which would wait for its own caller. They must not block for long:
/// while `receive` does, that peer's lane stands still. For one peer and lane, calls of `receive` follow one
/// another. A method that panics ends the thread that called it, which is logged: an accepted connection comes again,
/// but a lane whose thread is gone dials no more.
pub trait Handler: Send + Sync + 'static {
    /// Our own opaque hello for this peer, at most 4 KiB; sent in each handshake.
    fn hello(&self, peer: u64) -> Bytes;

    /// Judges a peer at each handshake, whichever side dialled. Protocol version, cluster and ids have been checked.
    ///
    /// # Errors
    /// The refusal travels to the peer, whose [`refused`](Self::refused) is told, and the connection is closed.
    fn admit(&self, peer: &PeerInfo) -> Result<(), Refusal>;

    /// Takes one message from an admitted peer. `payloads` are slices of one buffer, which lives as long as any of
    /// them does: whoever keeps a small slice for long should copy it.
    ///
    /// # Errors
    /// The message is counted as faulty and logged at most once a minute; the third on one connection ends it.
    fn receive(
        &self,
        from: u64,
        lane: Lane,
        head: Bytes,
        payloads: Vec<Bytes>,
    ) -> Result<(), FrameFault>;

    /// Takes a snapshot; returns once it is stored whole and accepted, for `Ok` is told to the sender (O25).
    ///
    /// `content` gives `len` bytes, each chunk of which has passed its checksum, and then `Ok(0)`, which comes only
    /// after the sender has vouched for the end. A read error means that the sender is gone. Returning `Ok` before
    /// the end means that no more is needed. Unlike the others this method may take long; its thread is its own.
    ///
    /// # Errors
    /// The sender is told the refusal.
    fn receive_snapshot(
        &self,
        from: u64,
        head: Bytes,
        len: u64,
        content: &mut dyn Read,
    ) -> Result<(), Refusal>;

    /// Something for this peer was dropped, or it cannot be reached. Repeats are merged, and may come often.
    fn unreachable(&self, peer: u64);

    /// The peer refused us when we dialled it (wrong cluster, removed, ...): the owner acts on it. Repeated at each
    /// new attempt. Only connections that we dialled are believed; nobody can make us stop by dialling us.
    fn refused(&self, peer: u64, refusal: &Refusal);

    /// The answer to "who are the members?", asked by somebody who has no id yet, such as a joiner. `None` if it
    /// cannot be said now.
    fn members(&self) -> Option<Bytes>;

    /// Answers a query of some `kind` from anyone who can reach the port; both sides are opaque here. It has a
    /// thread of its own and may take as long as the asker waits; few run at once. `None` means that this kind is
    /// not answered here. The default knows [`QUERY_MEMBERS`] only.
    fn query(&self, kind: &str, payload: Bytes) -> Option<Bytes> {
        let _ = payload;
        if kind == QUERY_MEMBERS { self.members() } else { None }
    }
}
