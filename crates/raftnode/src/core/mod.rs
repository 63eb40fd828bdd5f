//! The core: what a node decides, without threads, clocks, files or sockets.
//!
//! [`Core`] owns raft-rs's `RawNode` and turns what arrives into what is to be done. The threads of this crate drive
//! it, and a simulator can drive the very same one. Given the same calls in the same order, and the same seed, it
//! does the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use oarlock_membership::{Cluster, Configuration};
use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

use crate::bootstrap::Recovered;
use crate::planted::planted;
use crate::storage::LogView;
use crate::wire::{Refused, View, validate};
use crate::{
    Busy, Config, LogError, PeerState, PeerStatus, Quarantine, Role, SnapshotMark, StartError,
    Status, TransferError, Vitals,
};

mod effects;
pub(crate) use effects::entry_bytes;
pub use effects::{
    AfterPersist, ApplyStage, Effects, Event, MembersApplied, Now, Persist, ReadsConfirmed,
    Restore, RoleChange,
};

mod held;
pub use held::{Held, tidy};

mod ready;
pub use ready::{must_persist_before_apply, should_wait_wal_sync};

mod conf;
mod fetch;
mod inflight;
mod lease;
pub(crate) use lease::SLACK as LEASE_SLACK;
mod places;
mod proposals;
mod reads;
#[cfg(oarlock_planted)]
mod sabotage;
mod stall;
mod ticks;

/// Rounds of reads that raft-rs remembers for others until a majority has answered. A member asks for one at a time, and
/// again when it takes long.
const MAX_READ_ROUNDS: usize = 1024;

/// Why a message was not given to raft-rs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The validator refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Too much is unsynced or unapplied: the leader repeats it.
    #[error("too much is waiting; the leader will repeat it")]
    Shed,
    /// The node takes no part: it is in quarantine, or was removed.
    #[error("the node takes no part")]
    Inert,
    /// raft-rs had no use for it.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// A snapshot that brings nothing new, or that cannot be taken now.
    #[error("the snapshot is not ahead of this log")]
    Stale,
    /// A snapshot from before this node was added: raft-rs ignores it.
    #[error("the snapshot's configuration does not name this member")]
    NotNamed,
}

/// What a node decides.
///
/// # How to drive it
///
/// 1. Call `handle_*` for whatever arrived, in any number.
/// 2. Call [`poll_effects`](Self::poll_effects) until it gives `None`, and begin to carry out each [`Effects`] before
///    the next call: [`now`](Effects::now) first. What is not finished is reported later:
///    [`handle_persisted`](Self::handle_persisted), [`handle_change_committed`](Self::handle_change_committed),
///    [`handle_applied`](Self::handle_applied), [`handle_restored`](Self::handle_restored).
/// 3. Call [`poll_event`](Self::poll_event) and [`poll_fetch`](Self::poll_fetch) until they give `None`, and have read what
///    the latter asks for by somebody who may wait for a disk; or call [`fetch_inline`](Self::fetch_inline), and go back to 2 if that did anything. If [`hold_apply`](Self::hold_apply) was on and is off
///    again, call [`poll_apply`](Self::poll_apply) until it gives `None`.
/// 4. After `handle_persisted` or `handle_change_committed`, and before anything else, release from [`Held`] what has
///    become due (O7, O16).
///
/// Any number of persist stages may be under way at once. They are reported in order, several at a time as one
/// pleases. No call blocks, and none panics unless raft-rs does: that ends the node, not the process.
pub struct Core {
    raw: RawNode<LogView>,
    max_msg_bytes: u64,
    max_request_bytes: usize,
    max_apply_bytes: u64,
    cluster: Arc<Cluster>,
    configuration: Configuration,
    /// Removed for good, and not needed any more: a joint configuration needs those whom it removes until it is left.
    gone: BTreeSet<u64>,
    /// The births that members have published, by member.
    births: BTreeMap<u64, u64>,
    /// This node is in raft's configuration.
    present: bool,
    removed: bool,
    /// The rescue that the log holds. Until its orders are applied, a removal is not the last word.
    rescue_epoch: u64,
    quarantined: Option<Quarantine>,

    ticks: ticks::Ticks,
    stall: stall::Stall,
    flight: ready::Flight,
    inflight: inflight::Inflight,
    proposals: proposals::Proposals,
    changes: conf::Changes,
    reads: reads::Reads,
    lease: lease::Lease,

    applied: u64,
    /// The last leader known, whoever leads now.
    last_leader: u64,
    /// Term, role and leader as last said in an effect.
    last_role: (u64, Role, u64),
    pressure: Option<Busy>,
    events: VecDeque<Event>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("vitals", &self.vitals()).finish_non_exhaustive()
    }
}

impl Core {
    /// A core that goes on where the log ends. All of what `recovered` says is durable (O20).
    ///
    /// `view` reads the log, and offers the snapshot that the log begins with, if there is one.
    ///
    /// # Errors
    /// [`StartError::Config`], and [`StartError::Raft`] if raft-rs refuses what was recovered; the boot checks should
    /// have found that before.
    pub fn new(
        config: &Config,
        recovered: &Recovered,
        mut view: LogView,
    ) -> Result<Self, StartError> {
        config.validate()?;
        view.fetch_elsewhere();
        let applied = recovered.applied();
        let conf_state = recovered.snapshot.as_ref().map(|mark| &mark.conf_state);
        let conf_state = conf_state.map(crate::convert::conf_state_to_record).unwrap_or_default();
        let raft_config = raft::Config {
            id: recovered.id,
            election_tick: config.election_ticks as usize,
            heartbeat_tick: 1,
            applied,
            max_size_per_msg: config.max_size_per_msg,
            max_inflight_msgs: config.max_inflight_msgs,
            check_quorum: config.check_quorum,
            pre_vote: config.pre_vote,
            batch_append: planted("batch-append"), // O21
            max_uncommitted_size: config.max_uncommitted_bytes,
            max_committed_size_per_ready: config.max_apply_bytes,
            ..raft::Config::default()
        };
        let refused = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
        let configuration =
            Configuration::from_conf_state(&conf_state).map_err(|error| refused(&error))?;
        let logger = crate::raft_logger(slog::o!());
        let raw = RawNode::new(&raft_config, view, &logger).map_err(|error| refused(&error))?;
        // The birth is random; the incarnation makes every start another.
        let drawn = recovered.birth.rotate_left(32) ^ recovered.incarnation;
        let seed = config.seed.unwrap_or(drawn) ^ recovered.id;
        let mut inflight = inflight::Inflight::new(config);
        inflight.follow(recovered.id, &configuration);
        Ok(Self {
            max_msg_bytes: config.max_size_per_msg,
            max_request_bytes: config.max_request_bytes,
            max_apply_bytes: config.max_apply_bytes,
            cluster: Arc::new(recovered.cluster.clone()),
            present: configuration.contains(recovered.id),
            gone: conf::gone(recovered.id, &recovered.cluster, &configuration),
            configuration,
            births: recovered.births.clone(),
            removed: false,
            rescue_epoch: recovered.rescue_epoch,
            quarantined: None,
            ticks: ticks::Ticks::new(seed, config.election_ticks),
            stall: stall::Stall::default(),
            flight: ready::Flight::new(
                raw.raft.raft_log.last_index(),
                recovered.hard_state.term,
                applied,
            ),
            inflight,
            proposals: proposals::Proposals::new(config.max_waiting_proposals),
            changes: conf::Changes::default(),
            reads: reads::Reads::new(recovered.id, recovered.incarnation, config.election_ticks),
            lease: lease::Lease::new(config, recovered),
            applied,
            last_leader: 0,
            last_role: (recovered.hard_state.term, Role::Follower, 0),
            pressure: None,
            events: VecDeque::new(),
            raw,
        })
    }

    /// A message from a peer, which the transport says it is. Never a snapshot: see
    /// [`handle_snapshot`](Self::handle_snapshot).
    ///
    /// # Errors
    /// Why raft-rs did not get it. [`Refused::LogLost`] puts the node into quarantine.
    pub fn handle_message(&mut self, from: u64, message: Message) -> Result<(), StepError> {
        self.check(from, &message)?;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return Err(StepError::Stale); // its content is not on our disk (O25)
        }
        if message.get_msg_type() == MessageType::MsgAppend
            && !message.entries.is_empty()
            && self.pressure.is_some()
        {
            return Err(StepError::Shed);
        }
        if message.get_msg_type() == MessageType::MsgReadIndex
            && self.raw.raft.pending_read_count() >= MAX_READ_ROUNDS
            && !planted("read-rounds-without-bound")
        {
            return Err(StepError::Shed);
        }
        self.keep_promise(&message)?;
        self.promise_heard(&message);
        if message.get_msg_type() == MessageType::MsgTimeoutNow && self.would_win_too_early() {
            return Err(Refused::NotNow("the log is not on disk to its end").into());
        }
        self.note_answer(&message);
        self.tell_view();
        Ok(self.raw.step(message)?)
    }

    /// To be called before anything that may make raft-rs count the conf changes still to be applied, which it does when it
    /// campaigns and when a vote tells it of a commit. The view answers from a list of its own, and has to know whether raft-rs
    /// holds entries beyond it.
    fn tell_view(&mut self) {
        let more = !self.raw.raft.raft_log.unstable.entries.is_empty();
        self.raw.mut_store().set_more(more);
    }

    /// A leader's snapshot whose file is whole, verified and durable (O25).
    ///
    /// # Errors
    /// Why it was not taken; [`StepError::Stale`] if the log is that far already.
    pub fn handle_snapshot(&mut self, from: u64, message: Message) -> Result<(), StepError> {
        self.check(from, &message)?;
        self.keep_promise(&message)?;
        let index = message.get_snapshot().get_metadata().index;
        let over = planted("snapshot-over-a-snapshot") && self.installing();
        if index <= self.raw.raft.raft_log.committed || over {
            // raft-rs answers with our commit index, so that the leader goes on from there.
            self.raw.step(message)?;
            return Err(StepError::Stale);
        }
        if self.installing() || self.applied < self.flight.committed {
            // raft-rs takes the snapshot's configuration over at once; conf changes that are still to be applied, behind an
            // earlier snapshot perhaps, would then be made to it. The leader sends another one (O17).
            return Err(Refused::NotNow("entries before the snapshot are being applied").into());
        }
        self.raw.step(message)?;
        if self.raw.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index) {
            Ok(())
        } else if self.raw.raft.raft_log.committed >= index {
            Err(StepError::Stale) // the log holds its last entry already
        } else {
            Err(StepError::NotNamed)
        }
    }

    fn check(&mut self, from: u64, message: &Message) -> Result<(), StepError> {
        if !self.is_driven() {
            return Err(StepError::Inert);
        }
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let gone = &self.gone;
        let view = View {
            id: raft.id,
            term: raft.term,
            role: raft.state,
            leader: raft.leader_id,
            first_index: log.first_index(),
            last_index: log.last_index(),
            persisted: log.persisted,
            committed: log.committed,
            applied: log.applied,
            is_removed: &|id| gone.contains(&id),
        };
        if let Err(refused) = validate(from, message, &view) {
            if let Refused::LogLost { commit, last } = refused {
                let quarantine = Quarantine { commit, last_index: last };
                self.quarantined = Some(quarantine);
                self.events.push_back(Event::Quarantined(quarantine));
            }
            return Err(refused.into());
        }
        Ok(())
    }

    /// Something for this peer was lost: go slower until it answers.
    pub fn handle_unreachable(&mut self, peer: u64) {
        if self.is_driven() {
            self.raw.report_unreachable(peer);
        }
    }

    /// Sending a snapshot ended: it was accepted, or it was not, or never left (O10, O25).
    pub fn handle_snapshot_sent(&mut self, peer: u64, accepted: bool) {
        if self.is_driven() {
            let status = if accepted { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            self.raw.report_snapshot(peer, status);
        }
    }

    /// An own snapshot and its mark are durable: followers can have it. `head` travels with it.
    pub fn handle_snapshot_ready(&mut self, mark: SnapshotMark, head: bytes::Bytes) {
        assert!(
            mark.index <= self.flight.durable_index() || planted("snapshot-before-it-is-durable"),
            "a snapshot of what is not durable (O9)"
        );
        self.raw.mut_store().set_snapshot(mark, head);
    }

    /// Entries up to `index` are not needed any more. Never beyond what is applied (O18); returns the index that was
    /// taken, so that the log itself can release what lies before the next.
    ///
    /// # Errors
    /// The log could not be read.
    pub fn handle_compact(&mut self, index: u64) -> Result<u64, LogError> {
        let index = if planted("compacted-beyond-applied") {
            index
        } else {
            index.min(self.applied).min(self.raw.raft.raft_log.applied)
        };
        self.raw.mut_store().compact_to(index)?;
        Ok(index)
    }

    /// Hands leadership over to `to`.
    ///
    /// # Errors
    /// This node does not lead, or `to` cannot. Whether `to` takes over shows in the role later.
    pub fn handle_transfer(&mut self, to: u64) -> Result<(), TransferError> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || !self.is_driven() {
            return Err(TransferError::NotLeader { leader: raft.leader_id });
        }
        if !self.configuration.voters().contains(&to) {
            return Err(TransferError::NotVoter { to });
        }
        if to != raft.id {
            self.begin_transfer(to);
        }
        Ok(())
    }

    pub(super) fn begin_transfer(&mut self, to: u64) {
        self.lease.transfer_begins(self.raw.raft.term);
        self.raw.transfer_leader(to);
    }

    /// Too much is under way: as a leader refuse proposals for this reason, as a follower leave appends to be
    /// repeated. `None` when it is no longer so.
    pub const fn set_pressure(&mut self, pressure: Option<Busy>) {
        self.pressure = pressure;
    }

    /// What happened beside the effects.
    #[must_use = "what it says does not come again"]
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(wish) = self.raw.mut_store().take_snapshot_wish() {
            self.events.push_back(Event::SnapshotWanted(wish));
        }
        self.events.pop_front()
    }

    /// The error that made raft-rs panic, if storage was the reason.
    pub fn take_storage_error(&mut self) -> Option<LogError> {
        self.raw.mut_store().take_error()
    }

    /// Whether the node takes part: neither removed nor in quarantine.
    #[must_use]
    pub const fn is_driven(&self) -> bool {
        !self.removed && self.quarantined.is_none()
    }

    /// Whether an applied change removed this node (O19).
    #[must_use]
    pub const fn is_removed(&self) -> bool {
        self.removed
    }

    /// The members as applied.
    #[must_use]
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Those with whom nothing is spoken any more: removed, and in no half of the configuration.
    #[must_use]
    pub const fn gone(&self) -> &BTreeSet<u64> {
        &self.gone
    }

    /// raft's configuration as applied.
    #[must_use]
    pub const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The configuration as raft-rs has it, ids ascending.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        crate::convert::conf_state_from_record(self.configuration.to_conf_state())
    }

    /// Whether this node alone makes the cluster: it votes, nobody else does, and nobody learns.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.is_sole_voter() && self.configuration.ids().len() == 1
    }

    /// Whether this node is the only voter.
    #[must_use]
    pub fn is_sole_voter(&self) -> bool {
        let voters = self.configuration.voters();
        let outgoing = self.configuration.voters_outgoing();
        voters.len() == 1
            && voters.contains(&self.raw.raft.id)
            && (outgoing.is_empty() || outgoing == voters)
    }

    /// The highest index applied.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// The first and the last index of the log.
    #[must_use]
    pub fn log_bounds(&self) -> (u64, u64) {
        (self.raw.raft.raft_log.first_index(), self.raw.raft.raft_log.last_index())
    }

    /// What a leader knows to be durable on its peers; empty on others.
    #[must_use]
    pub fn matched_peers(&self) -> BTreeMap<u64, u64> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return BTreeMap::new();
        }
        let peers = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        peers.map(|(id, progress)| (*id, progress.matched)).collect()
    }

    /// The births that members have published, by member.
    #[must_use]
    pub const fn births(&self) -> &BTreeMap<u64, u64> {
        &self.births
    }

    /// Whether the oldest write is known to be too old (O12).
    #[must_use]
    pub const fn is_write_stalled(&self) -> bool {
        self.stall.is_stalled()
    }

    /// Term, role, leader, commit and applied index.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let raft = &self.raw.raft;
        Vitals {
            term: raft.term,
            role: raft.state.into(),
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            applied: self.applied,
        }
    }

    /// Everything but what only the driver knows: the log's size and the counters.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let Vitals { term, role, leader, commit, applied } = self.vitals();
        let ids = |ids: &std::collections::BTreeSet<u64>| ids.iter().copied().collect();
        let mut peers: Vec<PeerStatus> = Vec::new();
        if role == Role::Leader {
            peers.extend(raft.prs().iter().map(|(id, progress)| {
                let (inflight, inflight_bytes) = self.inflight.of(*id);
                PeerStatus {
                    id: *id,
                    matched: progress.matched,
                    next: progress.next_idx,
                    state: match progress.state {
                        raft::ProgressState::Probe => PeerState::Probe,
                        raft::ProgressState::Replicate => PeerState::Replicate,
                        raft::ProgressState::Snapshot => PeerState::Snapshot,
                    },
                    recently_active: progress.recent_active || *id == raft.id,
                    inflight,
                    inflight_bytes,
                    snapshot: progress.pending_snapshot,
                    promise_ms: self.lease.promise_of(*id),
                }
            }));
            peers.sort_unstable_by_key(|peer| peer.id);
        }
        let (first_index, last_index) = self.log_bounds();
        Status {
            cluster_id: self.cluster.id(),
            id: raft.id,
            term,
            vote: raft.vote,
            role,
            leader,
            transferee: raft.lead_transferee.unwrap_or(0),
            commit,
            applied,
            durable: self.flight.durable_index(),
            first_index,
            last_index,
            snapshot_index: raft.store().snapshot_offered().map_or(0, |mark| mark.index),
            voters: ids(self.configuration.voters()),
            voters_outgoing: ids(self.configuration.voters_outgoing()),
            learners: ids(&(self.configuration.learners() | self.configuration.learners_next())),
            peers,
            quarantined: self.quarantined,
            promise_ms: self.lease.promise_of(raft.id),
            leased: self.is_leased(),
            disk_stalled: self.stall.is_stalled(),
            ..Status::default()
        }
    }
}
