//! From what is on disk to a node that can start, without a panic on the way.
//!
//! [`boot`] is called once, before raft-rs sees anything. It writes what a new beginning needs in one synced batch, so
//! that a crash at any instant leaves a log that boots, and it checks whatever raft-rs would panic about, and more:
//! each fault is a [`BootError`] that says what to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oarlock_membership::{Cluster, Member, StandalonePlan};
use oarlock_transport::Identity;
use raft::eraftpb::HardState;

use crate::planted::planted;
use crate::storage::{
    Changes, LogBatch, LogError, LogReader, LogState, LogStore, LogView, SnapshotId, SnapshotMark,
    SnapshotStore,
};
use crate::{Config, SnapshotHead, Window};

mod error;
pub use error::BootError;

mod metadata;
pub use metadata::{Metadata, MetadataError};

mod welcome;
pub use welcome::{Place, Unwelcome, ask_members, check_not_bootstrapped, check_welcome};

mod checks;

mod start;

mod standalone;
pub use standalone::{Standalone, plan_standalone};

/// How a node begins.
#[doc(alias("startNode", "restartNode"))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Boot {
    /// Found a cluster together with the others, all of which must be given the same list.
    ///
    /// A founder that lost its log must not do so again: ask the others first ([`check_not_bootstrapped`]).
    New {
        /// This member's id, one of `members`.
        id: u64,
        /// The founding members and the cluster's id.
        cluster: Cluster,
    },
    /// Join a cluster that has already added this member (`NodeHandle::change_members`).
    ///
    /// Any member says who the members are, to whoever asks; one that has published a name has run before, and must not be
    /// joined with an empty log: it would vote again where it has voted.
    ///
    /// ```no_run
    /// use oarlock_raftnode::{bootstrap::Boot, membership::Cluster, transport::query_members};
    /// # use std::time::Duration;
    /// let theirs = ["http://10.0.0.1:2380".to_string()];
    /// let cluster = Cluster::decode(&query_members(&theirs, Duration::from_secs(5))?)?;
    /// let own = cluster.member_by_peer_url("http://10.0.0.4:2380").filter(|own| !own.is_started());
    /// let how = Boot::Join { id: own.ok_or("add this member first, as a new one")?.id, cluster };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    Join {
        /// This member's id.
        id: u64,
        /// The cluster as a member reports it: whom to connect to until the log tells.
        cluster: Cluster,
    },
    /// Go on from what the log holds.
    Restart,
    /// Go on alone from what the log holds: the others are lost for good. Once; a log that was rescued before restarts
    /// as it is.
    Standalone(Standalone),
}

/// What a node starts from. All of it is durable.
///
/// It is good for one start, of the log that was booted: it holds the vote and the incarnation as of then. So it cannot be
/// cloned, and a node is not started from an old one ([`StartError::NotRecovered`](crate::StartError::NotRecovered)).
#[derive(Debug)]
pub struct Recovered {
    /// This member's id.
    pub id: u64,
    /// The cluster as of the snapshot; without one it is empty but for its id, and the log's entries fill it.
    pub cluster: Cluster,
    /// Whom to connect to until applied entries tell: the founders, or the members that a peer reported.
    pub contacts: Vec<Member>,
    /// The snapshot to restore the state machine from, with its configuration; entries after it are applied again.
    pub snapshot: Option<SnapshotMark>,
    /// That snapshot's head.
    pub head: Option<SnapshotHead>,
    /// Bytes of that snapshot's content; 0 without one.
    pub snapshot_len: u64,
    /// Term, vote and commit; the commit is at least the snapshot's index.
    pub hard_state: HardState,
    /// Index of the first entry that the log holds.
    pub first_index: u64,
    /// Index of the last one.
    pub last_index: u64,
    /// Which life of this member begins, from 1; part of its proposals' ids.
    pub incarnation: u64,
    /// Drawn when the data directory was made. A peer that remembers another one for this member refuses it: votes and
    /// acknowledgements were lost with the old directory.
    pub birth: u64,
    /// The birth ids that other members have published, as of the snapshot.
    pub births: BTreeMap<u64, u64>,
    /// The proposals applied up to the snapshot.
    pub window: Window,
    /// How often this member was rescued by a forced standalone restart.
    pub rescue_epoch: u64,
    /// What a rescue has just done, for whoever wants to tell.
    pub rescued: Option<StandalonePlan>,
    /// The longest for which this member may have promised its vote to a leader, in any of its lives whose promises may still
    /// be in force. It keeps that promise after it has started, whatever it is configured for now.
    pub promised: Duration,
    /// The conf changes after the snapshot, noted while the log was checked, so that it need not be read again.
    pub(crate) changes: Changes,
}

impl Recovered {
    /// What raft-rs is told is applied at the start: the snapshot's index, however many earlier entries the log keeps
    /// for followers. Never derived from the commit index (O18).
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |mark| mark.index)
    }

    /// Who this member is to its peers, for a transport: its id and cluster, which of its lives this is, and the peer URLs
    /// that the founders, the member that it joined by, or the snapshot gave it. If it has moved since, say so with
    /// [`Identity::urls`].
    #[must_use]
    pub fn identity(&self) -> Identity {
        let contact = || self.contacts.iter().find(|member| member.id == self.id);
        let own = self.cluster.member(self.id).or_else(contact);
        Identity::new(self.id, self.cluster.id())
            .incarnation(self.incarnation)
            .urls(own.into_iter().flat_map(|own| &own.peer_urls))
    }

    /// The snapshot to restore the state machine from.
    #[must_use]
    pub fn snapshot_id(&self) -> Option<SnapshotId> {
        self.snapshot.as_ref().map(SnapshotMark::id)
    }

    /// Whether this is what booting the log that is in this state came to.
    pub(crate) fn is_of(&self, state: &LogState) -> bool {
        Metadata::decode(state.metadata.clone()).is_ok_and(|metadata| {
            (metadata.id, metadata.cluster_id) == (self.id, self.cluster.id())
                && (metadata.birth, metadata.incarnation) == (self.birth, self.incarnation)
        }) && (state.hard_state.term, state.hard_state.vote)
            == (self.hard_state.term, self.hard_state.vote)
            && state.last_index == self.last_index
    }

    /// Makes durable what this configuration [promises](Config::promise), before the first leader is told of it: after a
    /// crash the next life keeps the promise, whatever *it* is configured for. The core promises no more than this, so
    /// without this call it promises nothing. [`NodeBuilder`](crate::NodeBuilder) makes it; call it yourself where you make
    /// the [`Core`](crate::core::Core).
    ///
    /// Writes, and syncs, only what is longer than any promise before; it becomes shorter by [`forget_promises`] alone.
    ///
    /// # Errors
    /// The log could not be written: it is poisoned, and the member must not start.
    pub fn promise(&mut self, store: &mut dyn LogStore, config: &Config) -> Result<(), LogError> {
        let promised = config.promise();
        // What the log says, for this may be a copy from before an earlier call.
        let Ok(metadata) = Metadata::decode(store.state()?.metadata) else { return Ok(()) };
        self.promised = self.promised.max(metadata.promised);
        if promised > self.promised {
            let metadata = Metadata { promised, ..metadata }.encode();
            store.append(&LogBatch { metadata: Some(metadata), ..LogBatch::default() })?;
            store.sync()?;
            self.promised = promised;
        }
        Ok(())
    }

    /// The log as raft-rs shall see it, with `budget` bytes of entries in memory and the snapshot on offer.
    ///
    /// # Errors
    /// As for [`LogView::new`].
    pub fn view(&self, reader: Arc<dyn LogReader>, budget: u64) -> Result<LogView, LogError> {
        let (start, hard_state) = (self.snapshot.clone(), self.hard_state.clone());
        let mut changes = self.changes.clone();
        if planted("log-read-once-more") {
            changes = Changes::none_through(self.applied());
        }
        let mut view = LogView::with_changes(reader, start, hard_state, budget, changes)?;
        if let Some(head) = &self.head {
            view.set_snapshot(head.mark.clone(), head.announce(self.snapshot_len));
        }
        Ok(view)
    }
}

/// Writes down that nothing can be owed any more that was promised for longer than `longest`, so that later starts need not
/// wait for it. Only when the core says so ([`Event::PromisesKept`](crate::core::Event::PromisesKept)), and never beside a
/// promise that is being made longer.
///
/// It is not synced: if a crash undoes it, the next life waits once more.
///
/// # Errors
/// The log could not be read or written; in the latter case it is poisoned.
pub fn forget_promises(store: &mut dyn LogStore, longest: Duration) -> Result<(), LogError> {
    let Ok(metadata) = Metadata::decode(store.state()?.metadata) else { return Ok(()) };
    if metadata.promised > longest {
        let metadata = Metadata { promised: longest, ..metadata }.encode();
        store.append(&LogBatch { metadata: Some(metadata), ..LogBatch::default() })?;
    }
    Ok(())
}

/// Whether a log belongs to a member already: then it is restarted, whatever flags say about a new cluster.
///
/// This is the question to ask before [`boot`], and not whether there is a log: a crash between making a log and its first
/// boot leaves one without an owner, which [`Boot::Restart`] refuses and [`Boot::New`] takes.
///
/// # Errors
/// Those of [`LogStore::state`].
pub fn is_initialised(store: &dyn LogStore) -> Result<bool, LogError> {
    Ok(!store.state()?.metadata.is_empty())
}

/// Brings a log to where a node can start from it.
///
/// Everything it writes is one batch, synced before it returns. After a crash the log is as before, and the same call is
/// made again, or as after, and is restarted: [`is_initialised`] tells.
///
/// # Errors
/// [`BootError`], with nothing written, except when the log itself fails.
///
/// ```
/// # use oarlock_raftnode::{MemSnapshots, MemStore, bootstrap::{Boot, boot}, membership::Cluster};
/// let mut log = MemStore::new();
/// let cluster = Cluster::from_initial("token", &[("a", ["http://127.0.0.1:2380"])])?;
/// let id = cluster.member_by_name("a").expect("listed").id;
/// let first = boot(&mut log, &MemSnapshots::new(), &Boot::New { id, cluster })?;
/// assert_eq!((first.last_index, first.incarnation), (1, 1));
/// let again = boot(&mut log.crash(), &MemSnapshots::new(), &Boot::Restart)?;
/// assert_eq!((again.id, again.incarnation), (id, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("bootstrap", "readWAL"))]
pub fn boot(
    store: &mut dyn LogStore,
    snapshots: &dyn SnapshotStore,
    boot: &Boot,
) -> Result<Recovered, BootError> {
    match boot {
        Boot::New { id, cluster } => start::found(store, *id, cluster),
        Boot::Join { id, cluster } => start::join(store, *id, cluster),
        Boot::Restart => start::restart(store, snapshots),
        Boot::Standalone(rescue) => standalone::rescue(store, snapshots, *rescue),
    }
}
