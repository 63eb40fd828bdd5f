//! Who speaks: our own identity, and what the other side said of itself.

use bytes::Bytes;

/// Who this process is, said in every handshake. It does not change while a transport lives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// Our member id. Never 0.
    pub id: u64,
    /// The cluster we belong to. Peers of another cluster are refused with
    /// [`Refusal::WrongCluster`](crate::Refusal::WrongCluster).
    pub cluster: u64,
    /// Which run of this member speaks; opaque here, judged by [`Handler::admit`](crate::Handler::admit).
    pub incarnation: u64,
    /// Where peers reach us (at most 16), so that a member that has not yet learned of us can answer.
    pub urls: Vec<String>,
}

impl Identity {
    /// Member `id` of `cluster`, with incarnation 0 and no URLs.
    #[must_use]
    pub const fn new(id: u64, cluster: u64) -> Self {
        Self { id, cluster, incarnation: 0, urls: Vec::new() }
    }

    /// Sets which run of the member this is.
    #[must_use]
    pub const fn incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = incarnation;
        self
    }

    /// Sets the URLs under which peers reach us.
    #[must_use]
    pub fn urls(mut self, urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.urls = urls.into_iter().map(Into::into).collect();
        self
    }
}

/// What a peer said of itself in a handshake. Claims, not proofs, for as long as there is no TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its member id.
    pub id: u64,
    /// Its cluster, which is already known to be ours.
    pub cluster: u64,
    /// Which run of it speaks.
    pub incarnation: u64,
    /// Where it can be reached. A handler that does not know the peer yet may pass them to
    /// [`Transport::add_peer`](crate::Transport::add_peer), as etcd does with `AddRemote`: a member that lags behind
    /// the change that added its leader must still be able to answer it.
    pub urls: Vec<String>,
    /// What its [`Handler::hello`](crate::Handler::hello) gave for us: at most 4 KiB, opaque to the transport.
    pub hello: Bytes,
    /// The most that an envelope to it may come to, in bytes; see [`Transport::max_frame`](crate::Transport::max_frame),
    /// which is our own side's. What is larger is dropped whenever it is sent.
    pub max_frame: usize,
}

impl PeerInfo {
    /// A peer with incarnation 0, no URLs, an empty hello and frames of any size; for tests of handlers.
    #[must_use]
    pub const fn new(id: u64, cluster: u64) -> Self {
        Self {
            id,
            cluster,
            incarnation: 0,
            urls: Vec::new(),
            hello: Bytes::new(),
            max_frame: usize::MAX,
        }
    }
}
