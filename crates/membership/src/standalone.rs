use std::collections::BTreeSet;

use serde::Serialize;

use crate::change::raft_change;
use crate::planted::planted;
use crate::record::ConfState;
use crate::{
    Change, ChangeEntry, Cluster, Configuration, ConfigurationError, Disagreement, EntryKind,
    EntryView, Member, PlannedEntry, UnreadableChange, rescued_cluster_id,
};

/// Raft's hard state: what a member must remember before it answers anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HardState {
    /// The newest term it knows of.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// Up to where it knows the log to be committed.
    pub commit: u64,
}

/// What to do with entries above the commit index. There is no default: each choice can be wrong.
///
/// A member learns late what is committed, so entries above its commit index may have been acknowledged to clients by
/// a leader that is lost now. They may as well never have been committed, or even be known by others to have been
/// replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UncommittedTail {
    /// Commit them. No acknowledged write that the log holds is lost; writes whose clients were told nothing, or were
    /// told of a failure with unknown outcome, may appear.
    Keep,
    /// Drop them, as etcd does. Acknowledged writes may be lost: the last one usually is.
    Discard,
}

/// What is known of the one member that a cluster is rescued from.
#[derive(Clone, Debug)]
pub struct Survivor<'a> {
    /// The member itself. Its URLs are used if the cluster does not know it any more.
    pub member: &'a Member,
    /// The cluster's id, as the member's log has it.
    pub cluster_id: u64,
    /// The applied membership in the snapshot's head; [`Cluster::new`] if there is no snapshot.
    ///
    /// With it, conf changes that the apply loop refused are told from those that took effect. `None` for a log whose
    /// apply loop is not built on [`Cluster`]: raft's own rules alone decide then, as in etcd.
    pub cluster: Option<&'a Cluster>,
    /// Raft's configuration at the snapshot; empty if there is none.
    pub conf: &'a ConfState,
    /// The snapshot's index; 0 if there is none.
    pub snapshot_index: u64,
    /// The snapshot's term; 0 if there is none.
    pub snapshot_term: u64,
    /// The hard state as read from the log.
    pub hard_state: HardState,
}

/// A stretch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LogSpan {
    /// Its first index.
    pub first: u64,
    /// Its last index.
    pub last: u64,
    /// The term of its last entry.
    pub last_term: u64,
    /// How many of its entries are conf changes.
    pub conf_changes: u64,
}

/// How to restart one member of a cluster as a cluster of its own, when the majority is lost for good.
///
/// It does by hand what an election and a series of conf changes would do if the others could still vote: at a new
/// term, with its own vote, it appends a leave of the joint configuration if there is one, adds itself unless it is a
/// voter, removes everybody else, and commits all of it. Nothing has happened when the plan is made: look at it (as text
/// with `Display`, as JSON with serde), then write `appended`, `hard_state`, `cluster_id` and `epoch` in *one* synced
/// batch, so that a crash leaves either the old member or the rescued one. The first of `appended` replaces what is
/// discarded. If several members survive, take the one with the highest `last_term`, then `last_index`.
///
/// This is etcd's `--force-new-cluster` (`createConfigChangeEnts` in `server/etcdserver/raft.go`, now in
/// `server/storage/util.go`), and differs from it: the commit index is raised durably and not in memory only; the term
/// rises, so that entries of the lost majority cannot collide with the new ones; learners and joint configurations are
/// left behind, too; a survivor that is a learner (etcd #13213) or was removed (etcd #13848) becomes a voter; and the
/// cluster gets a new id, so that old members cannot talk to it (etcd #8169).
///
/// ```
/// use oarlock_membership::record::ConfState;
/// use oarlock_membership::{HardState, Member, StandalonePlan, Survivor, UncommittedTail};
///
/// let survivor = Survivor {
///     member: &Member { id: 1, ..Member::default() },
///     cluster_id: 0xcdf818194e3a8c32,
///     cluster: None,
///     conf: &ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
///     snapshot_index: 7,
///     snapshot_term: 2,
///     hard_state: HardState { term: 2, vote: 3, commit: 7 },
/// };
/// let plan = StandalonePlan::new(&survivor, [], UncommittedTail::Keep, 1, |_, _| ())?;
/// assert_eq!(plan.removed, [2, 3]);
/// assert_eq!(plan.hard_state, HardState { term: 3, vote: 1, commit: 9 });
/// println!("{plan}");
/// # Ok::<(), oarlock_membership::PlanError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StandalonePlan {
    /// The member that stays.
    pub id: u64,
    /// The number of this rescue. The log must remember it, so that the same rescue is not done twice.
    pub epoch: u64,
    /// The cluster's id until now.
    pub previous_cluster_id: u64,
    /// The cluster's id from now on; see [`StandalonePlan::keep_cluster_id`].
    pub cluster_id: u64,
    /// The last index of the log before the rescue.
    pub last_index: u64,
    /// The term of that entry.
    pub last_term: u64,
    /// What was asked to happen to entries above the commit index.
    pub uncommitted_tail: UncommittedTail,
    /// Entries after the snapshot that stay.
    pub kept: Option<LogSpan>,
    /// How many of the kept entries were above the commit index, and are committed by this plan.
    pub kept_uncommitted: u64,
    /// Entries that are dropped.
    pub discarded: Option<LogSpan>,
    /// Indices of kept conf changes that were refused when they were applied, and so have no effect.
    pub refused: Vec<u64>,
    /// Raft's configuration after what is kept, before the rescue.
    pub configuration: Configuration,
    /// Members that are removed.
    pub removed: Vec<u64>,
    /// Entries to append after what is kept.
    pub appended: Vec<PlannedEntry>,
    /// The hard state until now.
    pub previous_hard_state: HardState,
    /// The hard state from now on.
    pub hard_state: HardState,
}

/// Why there is no plan. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The surviving member has no id.
    #[error("0 is nobody's id")]
    ZeroId,
    /// The log has seen this rescue already. To do it again on purpose, take a higher number.
    #[error("rescue {epoch} is not newer than rescue {newest}, which the log holds already")]
    NotNewer {
        /// The number that was asked for.
        epoch: u64,
        /// The newest in the log; 0 if there is none.
        newest: u64,
    },
    /// The log has a hole, or does not reach back to the snapshot. Repair it, or take another survivor.
    #[error("expected entry {expected} and found {found}")]
    Gap {
        /// The index that should come next.
        expected: u64,
        /// The index that did.
        found: u64,
    },
    /// Terms fall along the log, which raft never writes.
    #[error("entry {index} has term {term}, after term {before}")]
    TermFalls {
        /// The entry.
        index: u64,
        /// Its term.
        term: u64,
        /// The term of the one before it.
        before: u64,
    },
    /// Committed entries are missing at the end: the log lost what was synced. Take another survivor if there is one.
    #[error("the log ends at {last}, but was committed up to {commit}")]
    CommitBeyondLog {
        /// The commit index.
        commit: u64,
        /// The last index.
        last: u64,
    },
    /// The snapshot's configuration breaks raft's rules.
    #[error("configuration of the snapshot: {0}")]
    Configuration(#[from] ConfigurationError),
    /// Members and configuration of the snapshot are not of the same cluster.
    #[error("snapshot: {0}")]
    Disagreement(#[from] Disagreement),
    /// A conf change cannot be understood, and guessing at membership is no rescue.
    #[error(transparent)]
    Change(#[from] UnreadableChange),
    /// No term or index is left above those in the log: its numbers are not real ones.
    #[error("no {what} is left above {highest}")]
    Exhausted {
        /// Term or index.
        what: &'static str,
        /// The highest one in the log.
        highest: u64,
    },
}

impl StandalonePlan {
    /// Plans the rescue number `epoch` (counted from 1) of a survivor with these entries after its snapshot.
    ///
    /// Entries up to the snapshot's index are passed over. `on_normal` is called for every kept entry that is no conf
    /// change and should do to the membership what the apply loop did ([`Cluster::update_attributes`],
    /// [`Cluster::update_peer_urls`]), because URLs decide which conf changes were refused; it may do nothing if the
    /// log has no such entries. It is not called when `survivor.cluster` is `None`.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new<'e>(
        survivor: &Survivor<'_>,
        entries: impl IntoIterator<Item = EntryView<'e>>,
        uncommitted_tail: UncommittedTail,
        epoch: u64,
        mut on_normal: impl FnMut(&mut Cluster, &EntryView<'e>),
    ) -> Result<Self, PlanError> {
        let id = survivor.member.id;
        if id == 0 {
            return Err(PlanError::ZeroId);
        }
        let before = survivor.hard_state;
        let proven = before.commit.max(survivor.snapshot_index);
        let mut log = Replay::start(survivor)?;
        let (mut kept, mut discarded) = (None, None);
        let (mut last_index, mut last_term) = (survivor.snapshot_index, survivor.snapshot_term);
        for entry in entries {
            if entry.index <= survivor.snapshot_index {
                continue;
            }
            let expected =
                last_index.checked_add(1).ok_or_else(|| exhausted("index", last_index))?;
            if entry.index != expected {
                return Err(PlanError::Gap { expected, found: entry.index });
            }
            if entry.term < last_term {
                return Err(PlanError::TermFalls {
                    index: entry.index,
                    term: entry.term,
                    before: last_term,
                });
            }
            (last_index, last_term) = (entry.index, entry.term);
            if uncommitted_tail == UncommittedTail::Discard && entry.index > proven {
                extend(&mut discarded, &entry);
            } else {
                extend(&mut kept, &entry);
                log.take(&entry, &mut on_normal)?;
            }
        }
        if before.commit > last_index {
            return Err(PlanError::CommitBeyondLog { commit: before.commit, last: last_index });
        }
        if epoch <= log.newest_epoch && !planted("a-rescue-happens-again") {
            return Err(PlanError::NotNewer { epoch, newest: log.newest_epoch });
        }

        let kept_to = kept.map_or(survivor.snapshot_index, |span| span.last);
        let votes = if planted("votes-have-no-term") { 0 } else { before.term };
        let highest_term = votes.max(last_term);
        let term = highest_term.checked_add(1).ok_or_else(|| exhausted("term", highest_term))?;
        let (orders, removed) = orders(&log.configuration, survivor.member);
        let mut appended = Vec::with_capacity(orders.len());
        let mut index = kept_to;
        for order in orders {
            index = index.checked_add(1).ok_or_else(|| exhausted("index", index))?;
            let (kind, data) = order.ordered_by_rescue(epoch).encode();
            appended.push(PlannedEntry { index, term, kind, data });
        }
        Ok(Self {
            id,
            epoch,
            previous_cluster_id: survivor.cluster_id,
            cluster_id: rescued_cluster_id(survivor.cluster_id, epoch),
            last_index,
            last_term,
            uncommitted_tail,
            kept,
            kept_uncommitted: kept_to.saturating_sub(proven),
            discarded,
            refused: log.refused,
            configuration: log.configuration,
            removed,
            appended,
            previous_hard_state: before,
            hard_state: HardState {
                term,
                vote: id,
                commit: if planted("rescued-in-memory-only") { before.commit } else { index },
            },
        })
    }

    /// The same plan under the old cluster id: for those who know that no old member will ever come back, and whose
    /// clients or tools are bound to the id.
    #[must_use]
    pub fn keep_cluster_id(self) -> Self {
        Self { cluster_id: self.previous_cluster_id, ..self }
    }
}

fn exhausted(what: &'static str, highest: u64) -> PlanError {
    PlanError::Exhausted { what, highest }
}

fn extend(span: &mut Option<LogSpan>, entry: &EntryView<'_>) {
    let span = span.get_or_insert(LogSpan {
        first: entry.index,
        last: entry.index,
        last_term: entry.term,
        conf_changes: 0,
    });
    (span.last, span.last_term) = (entry.index, entry.term);
    span.conf_changes += u64::from(entry.kind != EntryKind::Normal);
}

/// The orders that leave `member` alone, and whom they remove.
fn orders(configuration: &Configuration, member: &Member) -> (Vec<ChangeEntry>, Vec<u64>) {
    let id = member.id;
    let mut orders = Vec::new();
    if configuration.is_joint() && !planted("a-rescue-stays-joint") {
        // Raft refuses every other change until then.
        orders.push(ChangeEntry::leave_joint());
    }
    // Learners-to-be are learners once the joint configuration is left; outgoing voters are nothing.
    let learners = configuration.learners() | configuration.learners_next();
    // First in, then the others out: raft never lets the last voter go.
    if learners.contains(&id) {
        orders.push(ChangeEntry::new(Change::Promote(id)));
    } else if !configuration.voters().contains(&id) {
        orders.push(ChangeEntry::new(Change::AddVoter(member.clone())));
    }
    let everybody: BTreeSet<u64> = match planted("learners-survive-a-rescue") {
        true => configuration.voters().clone(),
        false => configuration.voters() | &learners,
    };
    let removed: Vec<u64> = everybody.into_iter().filter(|&other| other != id).collect();
    orders.extend(removed.iter().map(|&other| ChangeEntry::new(Change::Remove(other))));
    (orders, removed)
}

/// The membership as the apply loop has it, or will have it, after what is kept.
struct Replay {
    cluster: Option<Cluster>,
    configuration: Configuration,
    refused: Vec<u64>,
    newest_epoch: u64,
}

impl Replay {
    fn start(survivor: &Survivor<'_>) -> Result<Self, PlanError> {
        let configuration = Configuration::from_conf_state(survivor.conf)?;
        if let Some(cluster) = survivor.cluster {
            cluster.agrees_with(survivor.conf)?;
        }
        let newest_epoch = survivor.cluster.map_or(0, Cluster::epoch);
        Ok(Self {
            cluster: survivor.cluster.cloned(),
            configuration,
            refused: Vec::new(),
            newest_epoch,
        })
    }

    fn take<'e>(
        &mut self,
        entry: &EntryView<'e>,
        on_normal: &mut impl FnMut(&mut Cluster, &EntryView<'e>),
    ) -> Result<(), PlanError> {
        let next = match &mut self.cluster {
            Some(cluster) if !planted("refused-changes-are-believed") => {
                match ChangeEntry::read(entry)? {
                    None => {
                        on_normal(cluster, entry);
                        return Ok(());
                    }
                    Some(change) => {
                        self.newest_epoch = self.newest_epoch.max(change.rescue.unwrap_or(0));
                        cluster
                            .apply_entry(&self.configuration, &change)
                            .ok()
                            .map(|applied| applied.configuration)
                    }
                }
            }
            _ => {
                let index = entry.index;
                let change = raft_change(entry)
                    .map_err(|error| UnreadableChange { index, fault: error.into() })?;
                let Some(change) = change else { return Ok(()) };
                self.configuration.changed(&change).ok()
            }
        };
        match next {
            Some(next) => self.configuration = next,
            None => self.refused.push(entry.index),
        }
        Ok(())
    }
}
