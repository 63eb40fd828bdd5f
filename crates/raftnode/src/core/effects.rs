//! What is to be done, as data: one [`Effects`] for each Ready, in stages.
//!
//! The stages are the contracts seen as types. Whoever carries them out, threads or a simulator, has to keep what the
//! stage's documentation says must precede it, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oarlock_membership::{Cluster, Configuration, ProposalId};
use raft::eraftpb::{ConfState, Entry, HardState, Message};

use crate::storage::SnapshotWish;
use crate::wire::{Forward, ForwardReply};
use crate::{ChangeMembersError, ProposeError, Quarantine, SnapshotMark, Vitals};

/// The work of one Ready. Take the stages in this order: `now`, `persist`, then both others as they become due.
#[doc(alias = "Ready")]
#[derive(Debug, Default)]
pub struct Effects {
    /// At once.
    pub now: Now,
    /// To disk, in the order of their numbers.
    pub persist: Persist,
    /// Once `persist` is durable and acknowledged: give it to [`Held`](crate::core::Held).
    pub after_persist: AfterPersist,
    /// To the state machine, in order.
    pub apply: ApplyStage,
}

/// What nothing has to precede. The role first (O1), the rest in any order.
#[derive(Debug, Default)]
pub struct Now {
    /// Term, role or leader changed.
    pub role: Option<RoleChange>,
    /// The index now known to be committed: the last of the entries to apply, or the snapshot. Never 0 (O28).
    pub committed: Option<u64>,
    /// Reads whose round was confirmed: they may be served once their index is applied (O2, O24).
    pub reads: Option<ReadsConfirmed>,
    /// Messages of a leader whose own term is durable: they may leave while it writes its disk (O4, O15).
    pub messages: Vec<Message>,
}

/// What is to be written, in this order: install, entries, hard state (O5), as one atomic unit.
///
/// If that is more than the log takes at once, the entries may be split, so that each part leaves a log that boots: the
/// term with the first part, the commit index never beyond what is there.
///
/// Report it with [`Core::handle_persisted`](crate::core::Core::handle_persisted) when it is durable, and everything
/// before it; if `must_sync` is false, when it is written. A stage with nothing to write still has to be reported.
#[derive(Debug, Default)]
pub struct Persist {
    /// Its place among all.
    pub number: u64,
    /// A snapshot that is on disk already (O25): nothing of the log before it remains.
    pub install: Option<SnapshotMark>,
    /// Entries; the first may overwrite. The core serves them to raft-rs from the same memory.
    pub entries: Arc<Vec<Entry>>,
    /// Term, vote and commit.
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

/// What must wait until `number` is durable, *and* the core has been told so (O7, O16).
#[derive(Debug, Default)]
pub struct AfterPersist {
    /// The persist stage that it belongs to.
    pub number: u64,
    /// Everything that a follower or candidate says, and what a leader says whose term is not yet durable (O15).
    pub messages: Vec<Message>,
    /// The messages also wait until this conf change has been applied (O7). They may be votes, or ask for votes, and a member
    /// that is slow to apply would count by the configuration that the change replaced.
    pub await_change: Option<u64>,
    /// The state machine may begin to restore this snapshot: its mark is durable (O5).
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

/// What may be applied: committed, and durable here (O3). In order, after everything handed over before; a conf change
/// among it goes through [`Core::handle_change_committed`](crate::core::Core::handle_change_committed).
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

/// What a change of the members came to, for the apply thread.
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
    /// Who was removed, and is in no half of the configuration: on every member the same, at the same entry.
    pub fn gone(&self) -> impl Iterator<Item = u64> {
        let conf = crate::convert::conf_state_to_record(&self.conf_state);
        let configuration = Configuration::from_conf_state(&conf).unwrap_or_default();
        self.cluster.removed().iter().copied().filter(move |id| !configuration.contains(*id))
    }
}

/// What happened that is no effect of a Ready.
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
    /// A voter promised less than a lease takes, or as much as that again, when it last answered this leader; reads by
    /// lease need a majority that does. Said when it changes, and not of those who always did.
    Promise {
        /// Who.
        by: u64,
        /// For how long it withholds its vote.
        promise: Duration,
        /// Whether that is as long as a lease takes, which is [`Config::promise`](crate::Config::promise).
        enough: bool,
    },
    /// The members changed; the transport has to follow.
    MembersChanged,
    /// A follower needs a snapshot, and there is none that helps it.
    SnapshotWanted(SnapshotWish),
    /// This node's log lost entries: it takes no part any more.
    Quarantined(Quarantine),
    /// An applied change removed this node (O19): drive it no more, let its messages leave, stop.
    Removed,
    /// The members and raft's configuration differ after this entry: end the node.
    Disagreement {
        /// The entry.
        index: u64,
        /// How they differ.
        reason: String,
    },
}
