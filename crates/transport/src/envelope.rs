//! What is sent: opaque bytes with an address, a lane and a drop order.

use bytes::Bytes;

/// Which of a peer's two independent streams carries an envelope.
///
/// Within a lane order is kept; between lanes there is none. Snapshots travel apart from both, by
/// [`Transport::send_snapshot`](crate::Transport::send_snapshot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small and urgent: heartbeats, votes, acknowledgements, forwarded proposals.
    Message,
    /// Log entries, which may be large and must not delay what is urgent (etcd's `msgapp` stream).
    Append,
}

impl Lane {
    /// Both lanes.
    pub const ALL: [Self; 2] = [Self::Message, Self::Append];

    /// A short name for metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Append => "append",
        }
    }
}

/// What gives way when a queue is full, in this order.
///
/// A full queue first drops the oldest `First` it holds; then, if the newcomer is `Last`, the newest `Normal`; else
/// the newcomer itself. What stays of the appends is a prefix that the peer can use, whereas a hole at its front would
/// make the peer reject everything behind it; of heartbeats the stalest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shed {
    /// Soon repeated with newer content, so the oldest goes first: heartbeats and their answers.
    First,
    /// Repeated by Raft when missed: appends, append answers, read-index rounds.
    Normal,
    /// Costs an election or a client's timeout when lost: votes, transfer of leadership, forwarded proposals.
    Last,
}

/// One message for one peer. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The member that shall receive it.
    pub to: u64,
    /// The stream that carries it.
    pub lane: Lane,
    /// A name for metrics and traces, such as the message's type. It does not travel.
    pub label: &'static str,
    /// When it gives way in a full queue. It does not travel.
    pub shed: Shed,
    /// The message without its bulk.
    pub head: Bytes,
    /// The bulk, such as the data of log entries: written to the socket without being copied.
    pub payloads: Vec<Bytes>,
}

impl Envelope {
    /// The bytes of head and payloads, in bytes.
    #[must_use]
    pub fn content_len(&self) -> usize {
        self.payloads.iter().fold(self.head.len(), |sum, payload| sum.saturating_add(payload.len()))
    }
}

/// What goes ahead of a snapshot's content.
#[derive(Clone, Debug)]
pub struct SnapshotEnvelope {
    /// The member that shall receive it.
    pub to: u64,
    /// Opaque to the transport; at most 1 MiB.
    pub head: Bytes,
    /// How many bytes of content follow, exactly.
    pub len: u64,
}
