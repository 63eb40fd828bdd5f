//! How a [`TcpTransport`](super::TcpTransport) is bounded.

use std::time::Duration;

use crate::codec::Limits;

/// Limits and deadlines, each with a default that suits a cluster in one region.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    pub(super) dial_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) snapshot_timeout: Duration,
    pub(super) backoff: (Duration, Duration),
    pub(super) max_frame: usize,
    pub(super) max_payloads: usize,
    pub(super) queue_envelopes: usize,
    pub(super) queue_bytes: usize,
    pub(super) max_half_open: usize,
    pub(super) max_admitted: usize,
    pub(super) max_queries: usize,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            snapshot_timeout: Duration::from_secs(120),
            backoff: (Duration::from_millis(100), Duration::from_secs(1)),
            max_frame: 16 << 20,
            max_payloads: 1 << 16,
            queue_envelopes: 4096,
            queue_bytes: 64 << 20,
            max_half_open: 64,
            max_admitted: 1024,
            max_queries: 16,
        }
    }
}

impl TcpOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long connecting to one address may take. Defaults to 1 s, and is never more: `stop` waits for it.
    #[must_use]
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout.clamp(Duration::from_millis(1), Duration::from_secs(1));
        self
    }

    /// How long a handshake may take, on either side. Defaults to 5 s: enough for a slow link, too short for
    /// holding many connections half open.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// After how long without a sign of life a connection is given up, on either side. Defaults to 5 s, as etcd's
    /// `ConnReadTimeout`; signs of life are sent three times as often.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.max(Duration::from_millis(10));
        self
    }

    /// After how long without any progress a write gives up its connection. Defaults to 5 s, as etcd's
    /// `ConnWriteTimeout`.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// How long the receiver of a snapshot may take to store and accept it after its last byte, and how long content
    /// may pause on the way, because the disk of either side is slow. Defaults to 120 s: a large file has to reach a
    /// slow disk. That the other side is there at all is known by its signs of life, after [`idle_timeout`] at most.
    ///
    /// [`idle_timeout`]: Self::idle_timeout
    #[must_use]
    pub fn snapshot_timeout(mut self, timeout: Duration) -> Self {
        self.snapshot_timeout = timeout.max(Duration::from_millis(10));
        self
    }

    /// The first and the longest pause between attempts to connect; they double in between. Defaults to 100 ms, as
    /// etcd's dial limiter, and 1 s, so that a peer that comes back is found within an election timeout or so.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        self.backoff = (first, longest.max(first));
        self
    }

    /// The largest frame, in bytes, that is sent or received; a peer may set it lower for itself. Defaults to 16 MiB:
    /// Raft's messages are bounded by 1 MiB plus one entry. At least 64 KiB, at most 1 GiB.
    #[must_use]
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes.clamp(64 << 10, 1 << 30);
        self
    }

    /// The largest number of payloads in a frame. Defaults to 65,536: empty ones cost the receiver memory too.
    #[must_use]
    pub fn max_payloads(mut self, count: usize) -> Self {
        self.max_payloads = count.clamp(1, 1 << 20);
        self
    }

    /// How much may wait for one lane of one peer. Defaults to 4096 envelopes, as etcd's stream buffer, and 64 MiB.
    /// The bytes are never less than a frame.
    #[must_use]
    pub fn queue(mut self, envelopes: usize, bytes: usize) -> Self {
        self.queue_envelopes = envelopes.max(1);
        self.queue_bytes = bytes;
        self
    }

    /// How many accepted connections may be in their handshake. Defaults to 64; more are told that we are busy.
    #[must_use]
    pub fn max_half_open(mut self, count: usize) -> Self {
        self.max_half_open = count.max(1);
        self
    }

    /// How many connections from admitted peers may be open: for each member that sends to us two, and one for a
    /// snapshot. Defaults to 1024, for ids are claims as long as there is no TLS; more are told that we are busy.
    #[must_use]
    pub fn max_admitted(mut self, count: usize) -> Self {
        self.max_admitted = count.max(1);
        self
    }

    /// How many queries may be answered at once. Defaults to 16; more are told that we are busy.
    #[must_use]
    pub fn max_queries(mut self, count: usize) -> Self {
        self.max_queries = count.max(1);
        self
    }

    pub(super) const fn limits(&self) -> Limits {
        Limits { body: self.max_frame, payloads: self.max_payloads }
    }

    /// How often a sign of life is sent.
    pub(super) fn keepalive(&self) -> Duration {
        self.idle_timeout / 3
    }
}
