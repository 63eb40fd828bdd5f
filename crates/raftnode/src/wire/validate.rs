//! Checks whether a message makes sense to this node now.
//!
//! raft-rs trusts its peers, and panics on several kinds of well-formed messages. The most common cause is no attack
//! but a member whose data was wiped: the next heartbeat has a commit index beyond its log (etcd #13509, qdrant #1235).
//! So every message is validated before it is stepped. Members are trusted to vote and replicate honestly, but not with
//! this node's availability.

use std::collections::BTreeSet;

use raft::StateRole;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};

use super::{MAX_ENTRIES, route};
use crate::convert;

/// Indexes stay below this, so that adding to one never overflows.
const MAX_NUMBER: u64 = 1 << 62;

/// Terms stay below this: what a log on disk has room for.
const MAX_TERM: u64 = 1 << 56;

/// How far a message's term may be ahead of this node's: more than elections ever get, and little enough that no member
/// can push the cluster to the end of the number range.
const MAX_TERM_AHEAD: u64 = 1 << 32;

/// The most bytes in the context of a heartbeat, a campaign or a read.
const MAX_CONTEXT: usize = 1024;

/// The state against which a message is checked, as raft-rs has it now.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// This node.
    pub id: u64,
    /// Its term.
    pub term: u64,
    /// Its role.
    pub role: StateRole,
    /// Whom it believes to lead, itself included; 0 if nobody.
    pub leader: u64,
    /// First index of the log, a snapshot in memory included (`raft_log.first_index()`).
    pub first_index: u64,
    /// Last index of the log, a snapshot in memory included (`raft_log.last_index()`).
    pub last_index: u64,
    /// What raft-rs was told is durable (`raft_log.persisted`).
    pub persisted: u64,
    /// Its commit index.
    pub committed: u64,
    /// What raft-rs was told is applied (`raft_log.applied`).
    pub applied: u64,
    /// Whether an id belongs to a removed member. Unknown ids are accepted: a leader may have been added by a change that
    /// this node has not applied yet (Raft thesis, section 4.1).
    pub is_removed: &'a dyn Fn(u64) -> bool,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("id", &self.id)
            .field("term", &self.term)
            .field("role", &self.role)
            .field("leader", &self.leader)
            .field("first_index", &self.first_index)
            .field("last_index", &self.last_index)
            .field("persisted", &self.persisted)
            .field("committed", &self.committed)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

/// Why a message was not stepped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is meant for another member: the sender has a wrong address.
    #[error("a message for member {to:x}")]
    WrongReceiver {
        /// For whom.
        to: u64,
    },
    /// Its sender is not the member at the other end of the connection.
    #[error("a message from member {from:x} on the connection of member {peer:x}")]
    WrongSender {
        /// Who it claims to be from.
        from: u64,
        /// Whose connection it came by.
        peer: u64,
    },
    /// Its sender was removed from the cluster, and should be told so.
    #[error("member {from:x} was removed")]
    Removed {
        /// The sender.
        from: u64,
    },
    /// This type of message is local to a node.
    #[error("a message of a type that does not travel")]
    NotForTheWire,
    /// A number larger than any that can have been reached.
    #[error("{what} {value} is out of range")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// It contradicts itself, or lacks what a message of its type needs.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The leader relies on entries that this log does not have: acknowledged entries, and maybe votes, were lost here.
    ///
    /// This node must not vote or append any more, because others rely on what it has forgotten. Remove it, and add it
    /// again as a new member. To accept the lower index would not help: the leader would still count the lost entries
    /// as replicated here.
    #[error(
        "the leader committed {commit} with our help, our log ends at {last}: acknowledged entries were lost"
    )]
    LogLost {
        /// The index up to which the leader believes the log to be held here.
        commit: u64,
        /// The last index of this log.
        last: u64,
    },
    /// Two leaders in one term: one of the two was restored from an old copy of its data.
    #[error("member {from:x} claims to lead term {term}, which {leader:x} leads")]
    RivalLeader {
        /// Who claims it.
        from: u64,
        /// Who leads as far as we know.
        leader: u64,
        /// The term.
        term: u64,
    },
    /// It has to come from, or go to, the leader, and does not. Happens in healthy clusters around an election.
    #[error("not from or for the leader, which is {leader:x}")]
    NotLeader {
        /// Who leads as far as we know; 0 if nobody.
        leader: u64,
    },
    /// It cannot be handled in the present state. Happens in healthy clusters; it will be repeated.
    #[error("not now: {0}")]
    NotNow(&'static str),
}

impl Refused {
    /// Whether a correct and healthy peer would never have sent it.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::Removed { .. } | Self::LogLost { .. } | Self::NotLeader { .. } | Self::NotNow(_)
        )
    }
}

/// Checks a message that came over the connection of `peer`. One that passes can be stepped without a panic.
///
/// # Errors
/// Why it must not be stepped; [`Refused::is_fault`] tells faulty messages from untimely ones.
pub fn validate(peer: u64, message: &Message, view: &View<'_>) -> Result<(), Refused> {
    let kind = message.get_msg_type();
    if route(kind).is_none() {
        return Err(Refused::NotForTheWire);
    }
    check_address(peer, message, view)?;
    check_numbers(message, view)?;
    check_shape(message)?;
    if message.term != 0 && message.term < view.term {
        // raft-rs ignores it, or answers with its own term, without looking any further.
        return Ok(());
    }
    check_timing(message, view)
}

fn check_address(peer: u64, message: &Message, view: &View<'_>) -> Result<(), Refused> {
    if message.to != view.id {
        return Err(Refused::WrongReceiver { to: message.to });
    }
    if message.from != peer || peer == 0 || peer == view.id {
        return Err(Refused::WrongSender { from: message.from, peer });
    }
    if (view.is_removed)(peer) {
        return Err(Refused::Removed { from: peer });
    }
    Ok(())
}

fn check_numbers(message: &Message, view: &View<'_>) -> Result<(), Refused> {
    let below = |what, value, limit| {
        if value < limit { Ok(()) } else { Err(Refused::OutOfRange { what, value }) }
    };
    below("term", message.term, MAX_TERM.min(view.term.saturating_add(MAX_TERM_AHEAD)))?;
    below("index", message.index, MAX_NUMBER)?;
    below("commit", message.commit, MAX_NUMBER)?;
    below("reject hint", message.reject_hint, MAX_NUMBER)?;
    below("snapshot request", message.request_snapshot, MAX_NUMBER)?;
    below("entries", message.get_entries().len() as u64, MAX_ENTRIES as u64 + 1)?;
    // Nothing in a message can have a later term than the message itself.
    if message.term != 0 {
        below("log term", message.log_term, message.term + 1)?;
        below("commit term", message.commit_term, message.term + 1)?;
    }
    below("context", message.context.len() as u64, MAX_CONTEXT as u64 + 1)?;
    // Only reads come without a term. raft-rs takes other messages of term 0 for local ones, and obeys them.
    if (message.term == 0) != (message.get_msg_type() == MessageType::MsgReadIndex) {
        return Err(Refused::OutOfRange { what: "term", value: message.term });
    }
    Ok(())
}

/// Checks that do not depend on this node's state.
fn check_shape(message: &Message) -> Result<(), Refused> {
    let kind = message.get_msg_type();
    let entries = message.get_entries();
    if message.has_snapshot() != (kind == MessageType::MsgSnapshot) {
        return Err(Refused::Malformed("a snapshot comes with MsgSnapshot, and only with it"));
    }
    match kind {
        MessageType::MsgAppend => check_entries(message),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => match entries {
            [one] if is_read_context(one) => Ok(()),
            _ => Err(Refused::Malformed("a read has one entry, which holds its id")),
        },
        _ if !entries.is_empty() => Err(Refused::Malformed("entries where none belong")),
        MessageType::MsgSnapshot => check_snapshot(message),
        MessageType::MsgAppendResponse if message.reject && message.reject_hint > message.index => {
            Err(Refused::Malformed("a hint beyond what was rejected"))
        }
        _ => Ok(()),
    }
}

fn is_read_context(entry: &Entry) -> bool {
    entry.get_entry_type() == EntryType::EntryNormal
        && entry.context.is_empty()
        && !entry.data.is_empty()
        && entry.data.len() <= MAX_CONTEXT
}

fn check_entries(message: &Message) -> Result<(), Refused> {
    // raft-rs takes the term of an index beyond its log for 0, which would match.
    if (message.log_term == 0) != (message.index == 0) {
        return Err(Refused::Malformed("only the beginning of the log is of term 0"));
    }
    let mut term = message.log_term;
    let mut index = message.index;
    for entry in message.get_entries() {
        index += 1;
        if entry.index != index {
            return Err(Refused::Malformed("entries do not follow one another"));
        }
        if entry.term < term || entry.term == 0 || entry.term > message.term {
            return Err(Refused::Malformed("an entry's term is not between its neighbours'"));
        }
        term = entry.term;
        if !entry.context.is_empty() {
            return Err(Refused::Malformed("an entry has a context"));
        }
        if convert::check_conf_change(entry).is_err() {
            return Err(Refused::Malformed("a conf change does not decode"));
        }
    }
    Ok(())
}

fn check_snapshot(message: &Message) -> Result<(), Refused> {
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 || metadata.index >= MAX_NUMBER {
        return Err(Refused::OutOfRange { what: "snapshot index", value: metadata.index });
    }
    if metadata.term == 0 || metadata.term > message.term {
        return Err(Refused::OutOfRange { what: "snapshot term", value: metadata.term });
    }
    check_conf_state(metadata.get_conf_state()).map_err(Refused::Malformed)
}

/// Checks against this node's state, for messages of its term or a later one, and for reads.
fn check_timing(message: &Message, view: &View<'_>) -> Result<(), Refused> {
    let same_term = message.term == view.term;
    let from_leader = same_term && message.from == view.leader;
    let lead = view.role == StateRole::Leader;
    let not_leader = Err(Refused::NotLeader { leader: view.leader });
    match message.get_msg_type() {
        MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot => {
            if same_term && view.leader != 0 && !from_leader {
                let (from, leader, term) = (message.from, view.leader, view.term);
                return Err(Refused::RivalLeader { from, leader, term });
            }
            if message.get_msg_type() == MessageType::MsgHeartbeat
                && message.commit > view.last_index
            {
                return Err(Refused::LogLost { commit: message.commit, last: view.last_index });
            }
            Ok(())
        }
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse if lead && same_term => {
            for (what, value) in [
                ("acknowledged index", message.index),
                ("acknowledged commit", message.commit),
                ("requested snapshot", message.request_snapshot),
            ] {
                if value > view.last_index {
                    return Err(Refused::OutOfRange { what, value });
                }
            }
            Ok(())
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse
            if view.persisted < view.last_index =>
        {
            // A request for votes leaves only when the log is durable, so nobody can have answered it yet.
            Err(Refused::NotNow("a vote before it was asked for"))
        }
        MessageType::MsgTimeoutNow if !from_leader || view.role != StateRole::Follower => {
            not_leader
        }
        MessageType::MsgTimeoutNow if view.applied + 1 < view.first_index => {
            Err(Refused::NotNow("a snapshot is being installed"))
        }
        MessageType::MsgReadIndex if !lead => not_leader,
        MessageType::MsgReadIndexResp if !from_leader => not_leader,
        _ => Ok(()),
    }
}

/// Whether raft-rs can start from a configuration: it panics, or silently starts from another, if not.
///
/// # Errors
/// What is wrong with it.
pub fn check_conf_state(conf_state: &ConfState) -> Result<(), &'static str> {
    fn set(ids: &[u64]) -> Option<BTreeSet<u64>> {
        let set: BTreeSet<u64> = ids.iter().copied().collect();
        (set.len() == ids.len() && !set.contains(&0)).then_some(set)
    }
    let lists = [
        conf_state.get_voters(),
        conf_state.get_learners(),
        conf_state.get_voters_outgoing(),
        conf_state.get_learners_next(),
    ];
    let [Some(voters), Some(learners), Some(outgoing), Some(next)] = lists.map(set) else {
        return Err("an id is 0 or named twice");
    };
    if voters.is_empty() {
        return Err("there are no voters");
    }
    if !learners.is_disjoint(&voters) || !learners.is_disjoint(&outgoing) {
        return Err("a learner votes");
    }
    if !next.is_subset(&outgoing) || !next.is_disjoint(&voters) {
        return Err("a voter that becomes a learner is not an outgoing one only");
    }
    if conf_state.auto_leave && outgoing.is_empty() {
        return Err("a configuration that is not joint cannot be left");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
