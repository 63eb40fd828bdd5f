//! The sending side of the seam.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use crate::{Envelope, PeerError, SnapshotEnvelope, SnapshotSendError, Stats};

/// Told once how sending a snapshot ended. `Ok` means that the receiver stored and accepted all of it.
pub type SnapshotDone = Box<dyn FnOnce(Result<(), SnapshotSendError>) + Send>;

/// Moves envelopes to peers.
///
/// Every method may be called from any thread, also from within a [`Handler`](crate::Handler)'s methods, and none
/// waits for the network; `stop` alone waits, for at most two seconds. No handler method runs inside a call of
/// these; the `done` of a snapshot may.
pub trait Transport: Send + Sync + 'static {
    /// Queues envelopes, keeping their order per peer and lane. Never blocks.
    ///
    /// What cannot be queued (unknown peer, full queue, larger than a frame, stopped) is dropped and counted; a known
    /// peer is then reported to [`Handler::unreachable`](crate::Handler::unreachable), from another thread. Envelopes
    /// to ourselves or to id 0 are dropped.
    fn send(&self, envelopes: Vec<Envelope>);

    /// Streams a snapshot: `envelope.len` bytes of `content`, read on a thread of the transport.
    ///
    /// `done` is called exactly once, whatever happens (O10, O25), also when the peer is removed, the transport stops
    /// or the reader panics. It may run on the calling thread before this returns, when sending cannot even start;
    /// it must not block.
    fn send_snapshot(
        &self,
        envelope: SnapshotEnvelope,
        content: Box<dyn Read + Send>,
        done: SnapshotDone,
    );

    /// Makes a peer known and starts to connect to it. Adding a known peer updates its URLs.
    ///
    /// # Errors
    /// The id or a URL cannot be used, or the transport has stopped; nothing has changed then.
    fn add_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError>;

    /// Replaces a known peer's URLs. Takes effect with the next connection; if the URL in use is gone, at once.
    ///
    /// # Errors
    /// As for [`add_peer`](Self::add_peer), and [`PeerError::Unknown`] for a peer that is not there.
    fn update_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError>;

    /// Forgets a peer; unknown ids are ignored. What is already queued for it gets up to a second to leave, so
    /// that it can learn of its own removal; what it sends is no longer received, and its snapshots end with
    /// [`SnapshotSendError::PeerRemoved`].
    fn remove_peer(&self, id: u64);

    /// The most that one envelope may come to, in bytes: its content, 4 bytes for each payload, and a few hundred that frame
    /// them. A larger one is dropped whenever it is sent, so whoever makes envelopes has to stay below. Defaults to no bound.
    fn max_frame(&self) -> usize {
        usize::MAX
    }

    /// Since when we have been connected to the peer without a break; `None` while we are not.
    fn active_since(&self, id: u64) -> Option<Instant>;

    /// Drops everything sent and received until [`resume`](Self::resume), as a cable pulled out would. For tests
    /// and drills; connections stay up and nobody is reported unreachable.
    fn pause(&self);

    /// Ends [`pause`](Self::pause).
    fn resume(&self);

    /// Stops: closes connections, resolves snapshots, joins threads. Idempotent, and bounded by two seconds (O14).
    /// After it returns no handler method is called, except by a call that was still running when the two seconds
    /// ended.
    fn stop(&self);

    /// What has been sent, received, dropped and refused so far.
    fn stats(&self) -> Stats;
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn send(&self, envelopes: Vec<Envelope>) {
        (**self).send(envelopes);
    }

    fn send_snapshot(
        &self,
        envelope: SnapshotEnvelope,
        content: Box<dyn Read + Send>,
        done: SnapshotDone,
    ) {
        (**self).send_snapshot(envelope, content, done);
    }

    fn add_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        (**self).add_peer(id, urls)
    }

    fn update_peer(&self, id: u64, urls: &[String]) -> Result<(), PeerError> {
        (**self).update_peer(id, urls)
    }

    fn remove_peer(&self, id: u64) {
        (**self).remove_peer(id);
    }

    fn max_frame(&self) -> usize {
        (**self).max_frame()
    }

    fn active_since(&self, id: u64) -> Option<Instant> {
        (**self).active_since(id)
    }

    fn pause(&self) {
        (**self).pause();
    }

    fn resume(&self) {
        (**self).resume();
    }

    fn stop(&self) {
        (**self).stop();
    }

    fn stats(&self) -> Stats {
        (**self).stats()
    }
}
