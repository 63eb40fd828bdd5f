//! What a Ready asks for, as data: one [`Effects`] for each, in stages.
//!
//! The stages express the ordering contracts as types. Whoever carries them out, threads or a simulator, has to keep
//! the order that each stage documents, and no other. These structs are deliberately exhaustive: a stage or field that
//! a driver does not know must not be skipped silently.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oarlock_membership::{Cluster, Configuration, ProposalId};
use raft::eraftpb::{ConfState, Entry, HardState, Message};

use crate::storage::SnapshotWish;
use crate::wire::{Forward, ForwardReply};
use crate::{ChangeMembersError, ProposeError, Quarantine, SnapshotMark, Vitals};

/// The work of one Ready. Start `now` first, then `persist`; the other two become due as their documentation says.
#[doc(alias = "Ready")]
#[derive(Debug, Default)]
pub struct Effects {
    /// To be done at once.
    pub now: Now,
    /// To be written to disk, in the order of the stages' numbers.
    pub persist: Persist,
    /// To be done when `persist` is durable and the core knows it: put it into [`Held`](crate::core::Held).
    pub after_persist: AfterPersist,
    /// To be given to the state machine, in order: the next piece, if it is in memory.
    /// [`Core::poll_apply`](crate::core::Core::poll_apply) gives the rest.
    pub apply: ApplyStage,
}

/// What need not wait for anything. The role comes first (O1), the rest in any order.
#[derive(Debug, Default)]
pub struct Now {
    /// Term, role or leader changed.
    pub role: Option<RoleChange>,
    /// The index now known to be committed, if new: that of the last committed entry, or of the snapshot. It is durable here.
    /// Never 0 (O28).
    pub committed: Option<u64>,
    /// Reads whose round was confirmed: they may be served once their index is applied (O2, O24).
    pub reads: Option<ReadsConfirmed>,
    /// Messages of a leader whose own term is durable: they may leave while it writes its disk (O4, O15).
    pub messages: Vec<Message>,
}

/// What is to be written as one atomic unit: install, entries, hard state, in this order (O5).
///
/// If the log cannot take that much at once, the entries may be split, as long as each part leaves a log that boots: the
/// new term goes with the first part, and the commit index is never beyond the entries written so far.
///
/// Report it with [`Core::handle_persisted`](crate::core::Core::handle_persisted) when it, and everything before it, is
/// durable; if `must_sync` is false, when it is written. A stage with nothing to write has to be reported too.
#[derive(Debug, Default)]
pub struct Persist {
    /// raft-rs's number of the Ready; stages are reported by it.
    pub number: u64,
    /// A leader's snapshot, whose file is on disk already (O25). It replaces the whole log.
    pub install: Option<SnapshotMark>,
    /// Entries to append; the first may overwrite an earlier one, and then everything from there on. Shared with the tail
    /// cache.
    pub entries: Arc<Vec<Entry>>,
    /// Term, vote and commit, if they changed.
    pub hard_state: Option<HardState>,
    /// Whether it has to be durable before it is reported. If not, only the commit index changed.
    pub must_sync: bool,
}

impl Persist {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.install.is_none() && self.entries.is_empty() && self.hard_state.is_none()
    }

    /// About how many bytes there are to write.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.data.len() as u64 + 32).sum()
    }
}

/// About how much memory an entry holds.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + 64
}

/// What has to wait until stage `number` is durable *and* the core has been told so (O7, O16).
#[derive(Debug, Default)]
pub struct AfterPersist {
    /// The persist stage that it belongs to.
    pub number: u64,
    /// All messages of a follower or candidate, and those of a leader whose own term is not durable yet (O15).
    pub messages: Vec<Message>,
    /// The index of a conf change that has to be applied as well before the messages leave (O7): they may be votes or
    /// ask for votes, which would otherwise be counted by the configuration that the change replaces.
    pub await_change: Option<u64>,
    /// The snapshot that the state machine is to restore then: its mark is durable (O5).
    pub restore: Option<Restore>,
}

/// A snapshot for the state machine.
#[derive(Debug)]
pub struct Restore {
    /// Which, and the configuration in force there.
    pub mark: SnapshotMark,
    /// The head that came with it.
    pub head: bytes::Bytes,
}

/// Entries that may be applied: committed, and durable here (O3). Apply them in order, after all earlier ones; give
/// each conf change among them to [`Core::handle_change_committed`](crate::core::Core::handle_change_committed) first.
#[derive(Debug, Default)]
pub struct ApplyStage {
    /// Committed entries.
    pub entries: Vec<Entry>,
}

/// Term, role or leader changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// As it is now.
    pub vitals: Vitals,
    /// A leader is known that differs from the last one known.
    pub new_leader: bool,
}

/// The reads of one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadsConfirmed {
    /// As given to [`Core::handle_read`](crate::core::Core::handle_read).
    pub tokens: Vec<u64>,
    /// What must be applied before they are served.
    pub index: u64,
}

/// The result of a committed change of the members, for the apply thread.
#[derive(Clone, Debug)]
pub struct MembersApplied {
    /// The members from here on.
    pub cluster: Arc<Cluster>,
    /// raft's configuration from here on.
    pub conf_state: ConfState,
    /// The births that members have published, by member.
    pub births: BTreeMap<u64, u64>,
    /// Whether anything changed.
    pub changed: bool,
}

impl MembersApplied {
    /// The members that were removed and are in no half of the configuration. After the same entry the answer is the same
    /// on every member.
    pub fn gone(&self) -> impl Iterator<Item = u64> {
        let conf = crate::convert::conf_state_to_record(&self.conf_state);
        let configuration = Configuration::from_conf_state(&conf).unwrap_or_default();
        self.cluster.removed().iter().copied().filter(move |id| !configuration.contains(*id))
    }
}

/// Something that happened beside the effects of a Ready.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A proposal of this node ended without a result.
    Refused {
        /// Whose.
        id: ProposalId,
        /// Why.
        error: ProposeError,
    },
    /// Send this to the leader; once.
    Forward {
        /// The leader.
        to: u64,
        /// The proposal.
        forward: Forward,
    },
    /// Answer a forwarded proposal.
    ForwardReply {
        /// Who forwarded it.
        to: u64,
        /// The answer.
        reply: ForwardReply,
    },
    /// A change of the members that this node proposed is applied, and the next can be proposed (O8).
    Members {
        /// Whose.
        id: ProposalId,
        /// The members after it, or why they are as before.
        result: Result<Arc<Cluster>, ChangeMembersError>,
    },
    /// A voter's promise, in its last answer to this leader, became too short for a lease, or long enough again; lease
    /// reads need a majority that promises enough. Voters that always promised enough are not mentioned.
    Promise {
        /// Who.
        by: u64,
        /// For how long it withholds its vote.
        promise: Duration,
        /// Whether that is enough for a lease: at least [`Config::promise`](crate::Config::promise).
        enough: bool,
    },
    /// All promises of this node's earlier incarnations are over, and this one promises less: nothing beyond `longest`
    /// is owed from now on. Pass it to [`forget_promises`](crate::bootstrap::forget_promises), so that later
    /// incarnations need not wait; leaving that out is safe.
    PromisesKept {
        /// The longest that this life promises; zero for nothing.
        longest: Duration,
    },
    /// The members changed: connect the transport accordingly.
    MembersChanged,
    /// A follower needs a snapshot, and none that is on offer would help it: take one.
    SnapshotWanted(SnapshotWish),
    /// This node's log has lost entries that it had acknowledged: it no longer takes part in the cluster.
    Quarantined(Quarantine),
    /// An applied change removed this node (O19): stop driving it, let its last messages leave, and stop.
    Removed,
    /// The members and raft's configuration differ after this entry: end the node.
    Disagreement {
        /// The entry.
        index: u64,
        /// How they differ.
        reason: String,
    },
}
