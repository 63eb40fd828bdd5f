//! Why one side will not speak with the other. Travels on the wire, typed on both sides.

/// Why a connection, a snapshot or a query was refused.
///
/// `ours` is always the side that refuses and `theirs` the side that is refused, on whichever side it is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The two belong to different clusters: check the URLs, or the data directory.
    #[error("cluster {ours:x} does not speak with a member of cluster {theirs:x}")]
    WrongCluster {
        /// The cluster of the side that refuses.
        ours: u64,
        /// The cluster of the side that is refused.
        theirs: u64,
    },
    /// Somebody else answers at this address: check the peer's URLs.
    #[error("expected member {expected:x} at this address, found {actual:x}")]
    WrongMember {
        /// The member that the dialling side looked for.
        expected: u64,
        /// The member that is there.
        actual: u64,
    },
    /// The refusing side does not know this member (yet). Worth another try: it may lag behind.
    #[error("not a known member")]
    UnknownMember,
    /// This member was removed from the cluster for good; it should stop (O19).
    #[error("removed from the cluster")]
    Removed,
    /// The two have no protocol version in common: upgrade the older one.
    #[error("protocol version {theirs} is not spoken here, {ours} is")]
    Incompatible {
        /// The version of the side that refuses.
        ours: u16,
        /// The version of the side that is refused.
        theirs: u16,
    },
    /// The owner of the other transport decided so, for this reason.
    #[error("{reason}")]
    Rejected {
        /// What it said; at most 512 bytes of it travel.
        reason: String,
    },
    /// What was sent breaks the protocol or its limits.
    #[error("protocol violation: {reason}")]
    Protocol {
        /// Which rule was broken.
        reason: String,
    },
    /// Too much at once; worth another try later.
    #[error("busy, try again later")]
    Busy,
    /// The refusing side is stopping.
    #[error("stopping")]
    Stopping,
    /// The question is not answered here, or cannot be answered now.
    #[error("no answer to this question")]
    NoAnswer,
}

impl Refusal {
    /// Refuses for a reason in the owner's own words.
    #[must_use]
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected { reason: reason.into() }
    }

    /// A short name for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::WrongMember { .. } => "wrong_member",
            Self::UnknownMember => "unknown_member",
            Self::Removed => "removed",
            Self::Incompatible { .. } => "incompatible",
            Self::Rejected { .. } => "rejected",
            Self::Protocol { .. } => "protocol",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::NoAnswer => "no_answer",
        }
    }
}
