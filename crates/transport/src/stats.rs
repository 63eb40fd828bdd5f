//! What a transport has done since it was started.

use std::collections::BTreeMap;

use serde::Serialize;

/// A copy of a transport's counters. Counters only grow; those of a removed peer are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Per peer, by member id: every added peer, and the first thousand or so of whoever else was admitted.
    pub peers: BTreeMap<u64, PeerStats>,
    /// Handshakes, snapshots and queries that we refused, by [`Refusal::label`](crate::Refusal::label).
    pub refused: BTreeMap<&'static str, u64>,
    /// Connections ended because of what they sent: `http`, `tls` or `garbage` instead of our protocol, frames that
    /// are `oversize`, `malformed`, `truncated` or fail their `checksum`, and `timeout` for those too slow.
    pub faults: BTreeMap<&'static str, u64>,
    /// Envelopes dropped because their destination is not a known peer.
    pub dropped_unknown: u64,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections now between accept and the end of their handshake.
    pub half_open: u64,
    /// Connections from peers that are admitted and open now: lanes and snapshots.
    pub admitted: u64,
    /// Queries answered.
    pub queries: u64,
}

/// One peer's counters. Frames and bytes are of envelopes, head and payloads; bytes do not count framing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerStats {
    /// Envelopes handed to the network.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Envelopes received and handed over.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Envelopes dropped before they reached the network (full queue, no connection, too large, paused), and those in
    /// hand when a connection broke, of which some may have arrived.
    pub dropped: u64,
    /// Of these, envelopes larger than a frame may be, of ours or of the peer's. Any at all means that what they carry
    /// cannot reach it: give both sides frames that hold it.
    pub too_large: u64,
    /// Envelopes dropped on arrival, because we are paused.
    pub dropped_received: u64,
    /// Messages that [`Handler::receive`](crate::Handler::receive) found faulty.
    pub faults: u64,
    /// Times that a lane was connected.
    pub connects: u64,
    /// Times that connecting failed.
    pub connect_failures: u64,
    /// Times that the peer refused us, by [`Refusal::label`](crate::Refusal::label).
    pub refused_us: BTreeMap<&'static str, u64>,
    /// Snapshots that the peer accepted.
    pub snapshots_sent: u64,
    /// Snapshots to the peer that failed.
    pub snapshots_failed: u64,
    /// Snapshots from the peer that we accepted.
    pub snapshots_received: u64,
    /// Snapshots from the peer that we refused, or that broke off.
    pub snapshots_refused: u64,
}
