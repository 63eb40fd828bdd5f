//! Messages between Raft peers: a trait, a TCP implementation, and an in-memory network for tests.
//!
//! A [`Transport`] moves [`Envelope`]s: opaque bytes with a destination, a [`Lane`] and a drop order. It is
//! allowed to lose one, and it never blocks the thread that sends: Raft repeats what matters, but a Raft thread
//! that waits for a socket misses its own heartbeats. What arrives goes to a [`Handler`]. This crate knows
//! nothing of Raft's messages; whoever owns the loop decides which of them takes which lane.
//!
//! # What is promised
//!
//! * Envelopes to one peer on one lane arrive in the order in which they were sent, none twice; some may be
//!   missing. The two lanes are independent, so that a large append never delays a heartbeat.
//! * What cannot be queued is dropped, counted in [`Stats`], and the peer is reported unreachable.
//! * A snapshot's outcome is always reported, exactly once, and success means that the receiver stored and
//!   accepted the whole of it.
//! * Bytes from the network never cause a panic or an allocation beyond a fixed cap; a peer that may not speak to
//!   us is answered with a typed [`Refusal`], which its own side can act on.
//! * Every queue, connection count, deadline and thread is bounded, and `stop` returns within two seconds.
//!
//! # What this crate does not do
//!
//! It does not encrypt: TLS is a later step, and until then peers belong on a trusted network. It does not judge
//! who is a member: [`Handler::admit`] does. It does not retry an envelope, and it keeps nothing on disk.
//!
//! Peer URLs keep etcd's spelling, `http://host:port`, because operators know it. The protocol behind them is this
//! crate's own; an etcd member cannot be a peer.

#![forbid(unsafe_code)]

mod envelope;
pub use envelope::{Envelope, Lane, Shed, SnapshotEnvelope};

mod identity;
pub use identity::{Identity, PeerInfo};

mod transport;
pub use transport::{SnapshotDone, Transport};

mod handler;
pub use handler::{Handler, QUERY_MEMBERS};

mod refusal;
pub use refusal::Refusal;

mod error;
pub use error::{FrameFault, PeerError, SnapshotSendError};

mod stats;
pub use stats::{PeerStats, Stats};

mod codec;
pub use codec::{FrameError, Stranger};

mod tcp;
pub use tcp::{
    QueryError, TcpError, TcpOptions, TcpTransport, check_peer_urls, query, query_members,
};

#[cfg(feature = "testing")]
mod mem;
#[cfg(feature = "testing")]
pub use mem::{Faults, MemNetwork, MemTransport};

mod counters;
mod crew;
mod outcome;
mod planted;
mod reporter;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
