//! What a node says of itself.

use std::fmt;

use serde::Serialize;

use crate::hex::{self, Hex, HexList};

/// What this node is in its current term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It follows, whether or not it knows a leader.
    #[default]
    Follower,
    /// It asks whether it could win an election.
    PreCandidate,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
}

impl From<raft::StateRole> for Role {
    fn from(role: raft::StateRole) -> Self {
        match role {
            raft::StateRole::Follower => Self::Follower,
            raft::StateRole::PreCandidate => Self::PreCandidate,
            raft::StateRole::Candidate => Self::Candidate,
            raft::StateRole::Leader => Self::Leader,
        }
    }
}

/// The few numbers that are always at hand, without asking the node thread.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Vitals {
    /// The current term.
    pub term: u64,
    /// What this node is.
    pub role: Role,
    /// Whom it takes for the leader; 0 for nobody.
    #[serde(serialize_with = "hex::one")]
    pub leader: u64,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The highest index applied.
    pub applied: u64,
}

/// What a leader knows of a member. Empty on others.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The member.
    #[serde(serialize_with = "hex::one")]
    pub id: u64,
    /// The highest index known to be durable there.
    pub matched: u64,
    /// The next index to be sent.
    pub next: u64,
    /// How entries are sent to it.
    pub state: PeerState,
    /// Whether it was heard of within the last election timeout.
    pub recently_active: bool,
    /// Append messages with entries that were sent and not answered. Bounded; see
    /// [`Config::max_inflight_msgs`](crate::Config::max_inflight_msgs).
    pub inflight: usize,
    /// Bytes of these entries, with 64 more for each. Bounded; see
    /// [`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes).
    pub inflight_bytes: u64,
    /// The index of the snapshot that is being sent; 0 for none.
    pub snapshot: u64,
    /// For how many milliseconds it withholds its vote after it has heard of this leader, as its last answer said; see
    /// [`Status::promise_ms`]. 0 also if this leader has no [lease reads](crate::Config::lease_reads) itself.
    pub promise_ms: u64,
}

/// How this node is connected to a peer.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LinkStatus {
    /// The peer.
    #[serde(serialize_with = "hex::one")]
    pub id: u64,
    /// For how many milliseconds messages have found their way to it without a break; `None` while they do not.
    pub connected_ms: Option<u64>,
    /// The last refusal of a connection, by either side, unless one was made since: the reason why a member hears
    /// nobody.
    pub refused: Option<RefusalStatus>,
    /// Bytes of the largest frame that the peer reads, as it said when it was last connected; 0 if it never was. What
    /// is larger never arrives there; the log warns if this member may send such messages.
    pub max_frame: u64,
}

/// Why two members are not connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RefusalStatus {
    /// Whether the peer refused this node, and not this node the peer.
    pub by_peer: bool,
    /// Its kind, in a word: [`Refusal::label`](oarlock_transport::Refusal::label).
    pub kind: &'static str,
    /// The reason, in the words of the side that refused; they say what to do, if there is something to be done.
    pub reason: String,
    /// How many milliseconds ago it was said first, with nothing else and no connection since.
    pub since_ms: u64,
    /// How many milliseconds ago it was said last. It is repeated with every attempt to connect.
    pub last_ms: u64,
}

/// How a leader sends entries to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// One message at a time, until its log is known.
    Probe,
    /// As fast as it can take them.
    Replicate,
    /// Not at all: it needs a snapshot first.
    Snapshot,
}

/// A log that is shorter than what it acknowledged: the disk was lost, replaced or rolled back.
///
/// Such a node must not vote or append again, for it does not know what it promised. Remove it from the cluster and
/// add it as a new member with an empty data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Quarantine {
    /// What the leader knows to be committed here.
    pub commit: u64,
    /// Where this log ends.
    pub last_index: u64,
}

/// A snapshot of everything a node knows about itself, owned.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The cluster.
    #[serde(serialize_with = "hex::one")]
    pub cluster_id: u64,
    /// This member.
    #[serde(serialize_with = "hex::one")]
    pub id: u64,
    /// The current term.
    pub term: u64,
    /// For whom it voted in this term; 0 for nobody.
    #[serde(serialize_with = "hex::one")]
    pub vote: u64,
    /// What this node is.
    pub role: Role,
    /// Whom it takes for the leader; 0 for nobody.
    #[serde(serialize_with = "hex::one")]
    pub leader: u64,
    /// To whom leadership is being handed over; 0 for nobody.
    #[serde(serialize_with = "hex::one")]
    pub transferee: u64,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The highest index applied.
    pub applied: u64,
    /// The highest index that is durable here.
    pub durable: u64,
    /// The first index of the log.
    pub first_index: u64,
    /// The last index of the log.
    pub last_index: u64,
    /// The index of the newest own or installed snapshot; 0 for none.
    pub snapshot_index: u64,
    /// Bytes of the log, about.
    pub log_bytes: u64,
    /// Bytes of committed entries that wait to be applied, in memory. Bounded; see
    /// [`Config::max_apply_backlog`](crate::Config::max_apply_backlog).
    pub apply_backlog: u64,
    /// Who votes, ascending.
    #[serde(serialize_with = "hex::many")]
    pub voters: Vec<u64>,
    /// Who votes in the configuration that is being left, ascending; empty unless a joint change is under way.
    #[serde(serialize_with = "hex::many")]
    pub voters_outgoing: Vec<u64>,
    /// Who learns, ascending.
    #[serde(serialize_with = "hex::many")]
    pub learners: Vec<u64>,
    /// What a leader knows of each member, ascending by id.
    pub peers: Vec<PeerStatus>,
    /// How this node is connected to each peer that it knows of, ascending by id.
    pub links: Vec<LinkStatus>,
    /// For how many milliseconds this member withholds its vote after it has heard of its leader
    /// ([`Config::promise`](crate::Config::promise)); 0 without lease reads. As a leader it has leases only while a
    /// majority of the voters, itself included, promises as much: see `promise_ms` of each of the
    /// [`peers`](Self::peers).
    pub promise_ms: u64,
    /// As a leader: it answers lease reads alone at present.
    pub leased: bool,
    /// The log lost entries: this node takes no part any more.
    pub quarantined: Option<Quarantine>,
    /// The oldest write, or the read of what is to be applied, is older than an election timeout (O12).
    pub disk_stalled: bool,
    /// What has been counted so far.
    pub stats: crate::Stats,
}

/// `Debug` with ids as everybody else writes them: in hexadecimal.
macro_rules! debug {
    ($type:ident { ids $($id:ident)*; lists $($list:ident)*; rest $($rest:ident)* }) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut fields = f.debug_struct(stringify!($type));
                $(fields.field(stringify!($id), &Hex(self.$id));)*
                $(fields.field(stringify!($list), &HexList(&self.$list));)*
                $(fields.field(stringify!($rest), &self.$rest);)*
                fields.finish()
            }
        }
    };
}

debug!(Vitals { ids leader; lists; rest term role commit applied });
debug!(PeerStatus { ids id; lists; rest matched next state recently_active inflight inflight_bytes snapshot promise_ms });
debug!(LinkStatus { ids id; lists; rest connected_ms refused max_frame });
debug!(Status {
    ids cluster_id id vote leader transferee;
    lists voters voters_outgoing learners;
    rest term role commit applied durable first_index last_index snapshot_index log_bytes apply_backlog peers links promise_ms
        leased quarantined disk_stalled stats
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_for_people_and_for_programs() {
        let peer = PeerStatus {
            id: 0xab,
            matched: 7,
            next: 8,
            state: PeerState::Replicate,
            recently_active: true,
            inflight: 1,
            inflight_bytes: 70,
            snapshot: 0,
            promise_ms: 0,
        };
        let refused = RefusalStatus {
            by_peer: true,
            kind: "removed",
            reason: "removed from the cluster".into(),
            since_ms: 9,
            last_ms: 2,
        };
        let link =
            LinkStatus { id: 0xab, connected_ms: None, refused: Some(refused), max_frame: 7 };
        let status = Status {
            links: vec![link],
            id: 0x8e9e_05c5_2164_694d,
            leader: 0xab,
            voters: vec![0xab, 0x8e9e_05c5_2164_694d],
            peers: vec![peer],
            ..Status::default()
        };
        let text = format!("{status:?}");
        assert!(text.contains("id: 8e9e05c52164694d, vote: 0, leader: ab,"), "{text}");
        assert!(text.contains("voters: [ab, 8e9e05c52164694d]"), "{text}");
        let json = serde_json::to_value(&status).expect("plain data");
        assert_eq!(json["id"], "8e9e05c52164694d");
        assert_eq!(json["voters"][0], "ab");
        let peer = &json["peers"][0];
        let shown = (&peer["id"], &peer["matched"], &peer["next"], &peer["state"]);
        assert_eq!(
            format!("{shown:?}"),
            r#"(String("ab"), Number(7), Number(8), String("replicate"))"#
        );
        assert_eq!(format!("{} {}", peer["recently_active"], peer["inflight"]), "true 1");
        assert_eq!(json["stats"]["disk_stalls"], 0);
        let link = &json["links"][0];
        assert_eq!((&link["id"], &link["connected_ms"]), (&"ab".into(), &serde_json::Value::Null));
        assert_eq!(link["refused"]["reason"], "removed from the cluster");
    }
}
