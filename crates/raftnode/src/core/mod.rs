//! The core: what a node decides, without threads, clocks, files or sockets.
//!
//! [`Core`] owns raft-rs's `RawNode` and turns what arrives into what is to be done. The threads of this crate drive
//! it, and a simulator can drive the very same one. Given the same calls in the same order, and the same seed, it
//! does the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use oarlock_membership::{Cluster, Configuration};
use raft::eraftpb::ConfState;
use raft::{RawNode, StateRole};

use crate::bootstrap::Recovered;
use crate::planted::planted;
use crate::storage::LogView;
use crate::{Busy, Config, LogError, Quarantine, Role, StartError, TransferError};

mod effects;
pub(crate) use effects::entry_bytes;
pub use effects::{
    AfterPersist, ApplyStage, Effects, Event, MembersApplied, Now, Persist, ReadsConfirmed,
    Restore, RoleChange,
};

mod held;
pub use held::{Held, prune_messages};

mod messages;
pub use messages::StepError;

mod ready;
pub use ready::{must_persist_before_apply, should_wait_wal_sync};

mod apply;
mod compact;
mod conf;
mod earlier;
mod fetch;
mod inflight;
mod lease;
pub(crate) use lease::SLACK as LEASE_SLACK;
mod pipeline;
mod proposals;
mod reads;
#[cfg(oarlock_planted)]
mod sabotage;
mod stall;
mod status;
mod ticks;

/// The deterministic part of a node: raft-rs's `RawNode`, and every decision around it.
///
/// # How to drive it
///
/// 1. Call `handle_*` for everything that has arrived.
/// 2. Call [`poll_apply`](Self::poll_apply) and [`poll_effects`](Self::poll_effects) until both return `None`. Start to carry
///    out each [`Effects`] before the next call, [`now`](Effects::now) first. Report what finishes later:
///    [`handle_persisted`](Self::handle_persisted), [`handle_change_committed`](Self::handle_change_committed),
///    [`handle_applied`](Self::handle_applied), [`handle_restored`](Self::handle_restored).
/// 3. Call [`poll_event`](Self::poll_event) until it returns `None`, and [`poll_fetch`](Self::poll_fetch) likewise; let a
///    thread that may wait for a disk do these reads, or call [`fetch_inline`](Self::fetch_inline) and go back to 2 if it
///    returned true.
/// 4. After `handle_persisted` or `handle_change_committed`, before anything else, release from [`Held`] what has become
///    due (O7, O16).
///
/// Any number of persist stages may be in flight at once. Report them in order, one by one or several at a time. No call
/// blocks. A call panics only if raft-rs does; catch that around the whole loop, and end the node.
///
/// A member alone, driven synchronously:
///
/// ```
/// use oarlock_raftnode::core::{ApplyStage, Core, Effects, Held};
/// use oarlock_raftnode::{Config, LogBatch, LogError, LogStore, MemStore, Role, raft::eraftpb::EntryType};
/// # use oarlock_raftnode::{MemSnapshots, bootstrap::{Boot, boot}, membership::Cluster};
/// fn drive(core: &mut Core, log: &mut MemStore, held: &mut Held) -> Result<(), LogError> {
///     loop {
///         if let Some(stage) = core.poll_apply() {
///             apply(core, stage);
///         } else if let Some(Effects { now: _, persist, after_persist, apply: stage }) = core.poll_effects()? {
///             // Publish the role, send `now.messages`, answer `now.reads` here.
///             let (entries, hard_state) = (&persist.entries[..], persist.hard_state);
///             log.append(&LogBatch { entries, hard_state, ..LogBatch::default() })?;
///             log.sync()?;
///             held.hold(after_persist);
///             core.handle_persisted(persist.number);
///             for _due in held.release(core.acknowledged(), core.change_applied()) {} // send its messages
///             apply(core, stage);
///         } else if !core.fetch_inline()? { // which reads what memory does not hold
///             return Ok(());
///         }
///     }
/// }
/// fn apply(core: &mut Core, stage: ApplyStage) {
///     for entry in &stage.entries {
///         if entry.get_entry_type() != EntryType::EntryNormal {
///             let _members = core.handle_change_committed(entry);
///         } // else it is for the state machine
///         core.handle_applied(entry.index);
///     }
/// }
/// # let cluster = Cluster::from_initial("token", &[("a", ["http://127.0.0.1:2380"])])?;
/// # let id = cluster.member_by_name("a").expect("it is listed").id;
/// # let mut log = MemStore::new();
/// # let recovered = boot(&mut log, &MemSnapshots::new(), &Boot::New { id, cluster })?;
/// let view = recovered.view(log.reader(), 64 << 20)?;
/// let (mut core, mut held) = (Core::new(&Config::new(), &recovered, view)?, Held::default());
/// drive(&mut core, &mut log, &mut held)?; // applies the entry that founded the cluster
/// core.handle_campaign();
/// drive(&mut core, &mut log, &mut held)?; // votes for itself, and commits the first entry of its term
/// assert_eq!((core.vitals().role, core.applied()), (Role::Leader, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Core {
    raw: RawNode<LogView>,
    max_msg_bytes: u64,
    max_request_bytes: usize,
    max_apply_bytes: u64,
    /// Entries that stay when a snapshot covers them (O26).
    catch_up: u64,
    cluster: Arc<Cluster>,
    configuration: Configuration,
    /// Members that were removed and are in no half of the configuration: a joint one needs those whom it removes until
    /// it is left. Nothing is sent to them.
    gone: BTreeSet<u64>,
    /// The births that members have published, by member.
    births: BTreeMap<u64, u64>,
    /// This node is in raft's configuration.
    present: bool,
    removed: bool,
    /// The newest rescue (forced standalone restart) in the log, or 0. Until its entries are applied, a removal of this
    /// member may still be undone by them.
    rescue_epoch: u64,
    quarantined: Option<Quarantine>,

    ticks: ticks::Ticks,
    stall: stall::Stall,
    pipeline: pipeline::Pipeline,
    inflight: inflight::Inflight,
    proposals: proposals::Proposals,
    changes: conf::Changes,
    reads: reads::Reads,
    lease: lease::Lease,

    applied: u64,
    /// The last leader known, even if none is known now.
    last_leader: u64,
    /// Term, role and leader as last published by an effect.
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
    /// A core that continues where the log ends. Everything in `recovered` is durable (O20).
    ///
    /// `view` reads the log and offers followers the snapshot that the log begins with, if there is one.
    ///
    /// # Errors
    /// [`StartError::Config`]; [`StartError::Raft`] if raft-rs refuses what was recovered, which the boot checks should
    /// have found before.
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
            ..raft::Config::default()
        };
        let refused = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
        let configuration =
            Configuration::from_conf_state(&conf_state).map_err(|error| refused(&error))?;
        let logger = crate::raft_logger(slog::o!());
        let raw = RawNode::new(&raft_config, view, &logger).map_err(|error| refused(&error))?;
        // Random for each data directory, and different at each start.
        let drawn = recovered.birth.rotate_left(32) ^ recovered.incarnation;
        let seed = config.seed.unwrap_or(drawn) ^ recovered.id;
        let mut inflight = inflight::Inflight::new(config);
        inflight.follow(recovered.id, &configuration);
        Ok(Self {
            max_msg_bytes: config.max_size_per_msg,
            max_request_bytes: config.max_request_bytes,
            max_apply_bytes: config.max_apply_bytes,
            catch_up: config.snapshot_catchup_entries,
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
            pipeline: pipeline::Pipeline::new(
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

    /// Starts to hand leadership over to `to`. Whether `to` takes over shows in a later change of the leader.
    ///
    /// # Errors
    /// This node does not lead, or `to` is no voter.
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

    /// Whether leadership is being handed over. raft-rs gives up after an election timeout.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    pub(super) fn begin_transfer(&mut self, to: u64) {
        self.lease.transfer_begins(self.raw.raft.term);
        self.raw.transfer_leader(to);
    }

    /// Sets or clears back-pressure. While it is set, a leader refuses proposals for this reason, and a follower drops
    /// appends, which its leader sends again.
    pub const fn set_pressure(&mut self, pressure: Option<Busy>) {
        self.pressure = pressure;
    }

    /// The next thing that happened and is no effect of a Ready; `None` when there is none for now.
    #[must_use = "an event is returned once"]
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(wish) = self.raw.mut_store().take_snapshot_wish() {
            self.events.push_back(Event::SnapshotWanted(wish));
        }
        self.events.pop_front()
    }

    /// The storage error behind a panic of raft-rs, if there was one: ask after a panic was caught.
    pub fn take_storage_error(&mut self) -> Option<LogError> {
        self.raw.mut_store().take_error()
    }

    /// Whether the node takes part in the cluster: it is neither removed nor in quarantine.
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

    /// Members that were removed and are in no half of the configuration: nothing is sent to them any more.
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

    /// Whether the disk is known to take too long (O12).
    #[must_use]
    pub const fn is_disk_stalled(&self) -> bool {
        self.stall.is_stalled()
    }
}
