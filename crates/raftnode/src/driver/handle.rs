//! [`NodeHandle`]: what everybody but the node's own threads sees of a node.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_membership::record::ConfChangeTransition;
use oarlock_membership::{Change, ChangeEntry, Cluster, EntryKind};
use parking_lot::Mutex;
use raft::eraftpb::Message;

use super::events::{Control, Data};
use super::inbox::NotTaken;
use super::shared::Shared;
use super::waiters::{Waiter, WaiterTable, Waiters};
use crate::hex::Hex;
use crate::planted::planted;
use crate::proposal::{AttributeUpdate, Payload, Proposal};
use crate::waiter::{Pending, after, pending};
use crate::wire::{Forward, ForwardKind};
use crate::{
    Applied, Busy, ChangeMembersError, NodeEnd, ProposeError, ReadError, Stats, Status,
    TransferError, Vitals,
};

/// About how much memory a proposal holds beside its data until it is answered.
const PROPOSAL_BYTES: usize = 256;

/// A running node. Clones are the same node; when the last one is dropped, the node stops, and dropping it takes as long as
/// [`shutdown`](Self::shutdown). A clone that the state machine or the observer keeps counts like any other: then only
/// `shutdown` ends the node.
///
/// Methods that ask for something return a [`Pending`] at once: wait for it, or await it. It resolves in any case,
/// at the latest when the request's deadline has passed (O29). What blocks the calling thread, and so has no place on an
/// executor, is `shutdown`, [`shutdown_gracefully`](Self::shutdown_gracefully), the `wait_*` methods, and
/// [`status`](Self::status), for up to a second.
pub struct NodeHandle<R> {
    node: Arc<Running<R>>,
}

impl<R> Clone for NodeHandle<R> {
    fn clone(&self) -> Self {
        Self { node: Arc::clone(&self.node) }
    }
}

impl<R> fmt::Debug for NodeHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle").field("id", &Hex(self.node.shared.id)).finish_non_exhaustive()
    }
}

pub(crate) struct Running<R> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) waiters: Arc<Waiters<R>>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<R: Send + 'static> NodeHandle<R> {
    pub(crate) fn new(running: Running<R>) -> Self {
        Self { node: Arc::new(running) }
    }

    /// One more thread that ends with the node.
    pub(crate) fn adopt(&self, thread: JoinHandle<()>) {
        self.node.threads.lock().push(thread);
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.node.shared
    }

    fn deadline(&self) -> Instant {
        after(self.shared().config.effective_request_timeout())
    }

    /// This member's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.shared().id
    }

    /// Proposes `data`, with the deadline of [`Config::request_timeout`](crate::Config::request_timeout).
    ///
    /// On a follower it is forwarded to the leader, and to the next one only when it is certain that nothing came of
    /// that, because the leader said so or was succeeded without it (O22). Without a leader it waits for one until the
    /// deadline. The result is that of this node's own state machine, when it applies the entry.
    pub fn propose(&self, data: impl Into<Bytes>) -> Pending<Applied<R>, ProposeError> {
        self.propose_by(data, self.deadline())
    }

    /// As [`propose`](Self::propose), with a deadline of its own.
    pub fn propose_by(
        &self,
        data: impl Into<Bytes>,
        deadline: Instant,
    ) -> Pending<Applied<R>, ProposeError> {
        let data = data.into();
        let max = self.shared().config.max_request_bytes;
        if data.len() > max {
            return Pending::ready(Err(ProposeError::TooLarge { bytes: data.len(), max }));
        }
        let id = self.shared().next_id();
        let (resolver, pending) = pending();
        self.submit(Proposal::application(id, data), deadline, Waiter::Apply(resolver));
        pending.by(deadline)
    }

    /// Adds, promotes or removes a member; resolves when the change is applied here and the next can be proposed (O8).
    ///
    /// Nobody here asks whether the change is wise. Add a member as a learner, promote it when the leader's
    /// [`PeerStatus::matched`](crate::PeerStatus::matched) shows that it has caught up (etcd asks for nine tenths of the log):
    /// a voter that is far behind, or was never started, counts for the majority all the same.
    /// [`Cluster::ready_to_promote`], [`ready_to_remove`](Cluster::ready_to_remove) and
    /// [`ready_to_add_voter`](Cluster::ready_to_add_voter) answer etcd's questions.
    #[doc(alias("conf_change", "propose_conf_change", "ConfChange"))]
    pub fn change_members(&self, change: Change) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_change(ChangeEntry::new(change))
    }

    /// Several changes as one, by joint consensus (Raft thesis, section 4.3): until it is over, majorities of the old and of
    /// the new members are needed. It resolves when the joint configuration was left again, which the leader sees to (O8).
    /// Use it to replace members without a moment in which fewer would do.
    #[doc(alias = "ConfChangeV2")]
    pub fn change_members_jointly(
        &self,
        changes: Vec<Change>,
    ) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_change(ChangeEntry::joint(changes, ConfChangeTransition::Implicit))
    }

    /// As [`change_members_jointly`](Self::change_members_jointly), but resolves when the joint configuration is in force, and
    /// stays in it until [`leave_joint`](Self::leave_joint): for those who want to see the new members work first.
    pub fn enter_joint(&self, changes: Vec<Change>) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_change(ChangeEntry::joint(changes, ConfChangeTransition::Explicit))
    }

    /// Leaves the joint configuration that [`enter_joint`](Self::enter_joint) entered.
    pub fn leave_joint(&self) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_change(ChangeEntry::leave_joint())
    }

    fn propose_change(&self, change: ChangeEntry) -> Pending<Arc<Cluster>, ChangeMembersError> {
        let id = self.shared().next_id();
        let (kind, data) = change.proposed_by(id).encode();
        let kind = match kind {
            EntryKind::ConfChange => ForwardKind::ConfChange,
            EntryKind::ConfChangeV2 | EntryKind::Normal => ForwardKind::ConfChangeV2,
        };
        let (resolver, pending) = pending();
        let deadline = self.deadline();
        let proposal = Proposal::Framed(Forward { id, kind, data, term: 0 });
        self.submit(proposal, deadline, Waiter::Members(resolver));
        pending.by(deadline)
    }

    /// Replaces a member's peer URLs, by an entry that every member applies.
    pub fn update_member(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_update(AttributeUpdate::PeerUrls { member: id, peer_urls })
    }

    /// Tells all members this member's name and client URLs, and that it has a data directory, and which.
    ///
    /// Do this after every start, again until it succeeds: from then on the others refuse whoever comes in its name with
    /// another directory, an empty one for example, which knows nothing of the votes that it gave. A member that has just
    /// joined may hear that the outcome is unknown, because a snapshot brought what it had published.
    pub fn publish(
        &self,
        name: impl Into<String>,
        client_urls: Vec<String>,
    ) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_update(AttributeUpdate::Publish {
            member: self.id(),
            name: name.into(),
            client_urls,
            birth: self.shared().birth,
        })
    }

    fn propose_update(&self, update: AttributeUpdate) -> Pending<Arc<Cluster>, ChangeMembersError> {
        let id = self.shared().next_id();
        let data = Payload::Attributes { id, update }.encode();
        let (resolver, pending) = pending();
        let deadline = self.deadline();
        let proposal = Proposal::Framed(Forward { id, kind: ForwardKind::Normal, data, term: 0 });
        self.submit(proposal, deadline, Waiter::Members(resolver));
        pending.by(deadline)
    }

    fn submit(&self, proposal: Proposal, deadline: Instant, waiter: Waiter<R>) {
        if self.shared().inline_write.is_stalled() {
            return waiter.refuse(ProposeError::Busy(Busy::DiskStalled)); // the node thread itself hangs in it (O12)
        }
        let id = proposal.id();
        // Registered first: the answer may come before `data` returns.
        let max = usize::try_from(self.shared().config.max_uncommitted_bytes).unwrap_or(usize::MAX);
        let bytes = proposal.len() + PROPOSAL_BYTES;
        if !self.node.waiters.register(id, deadline, (bytes, max), waiter) {
            return;
        }
        if let Err(reason) = self.shared().inbox.data(Data::Propose { proposal, deadline }) {
            let error = match reason {
                NotTaken::Full => ProposeError::Busy(Busy::Requests),
                NotTaken::Closed => ProposeError::Stopped,
            };
            self.node.waiters.refuse(id, error);
        }
    }

    /// An index that a linearizable read needs: resolves once this node has applied it, so that the state machine
    /// then shows everything that was acknowledged before the call (O24).
    pub fn read_index(&self) -> Pending<u64, ReadError> {
        self.read_index_by(self.deadline())
    }

    /// As [`read_index`](Self::read_index), with a deadline of its own.
    pub fn read_index_by(&self, deadline: Instant) -> Pending<u64, ReadError> {
        self.read(deadline, false)
    }

    /// As [`read_index`](Self::read_index), but a leader that holds a lease answers without asking anybody: linearizable
    /// as long as the assumption of [`Config::lease_reads`](crate::Config::lease_reads) holds, and stale when it does not.
    /// Without a lease (not configured, here or by a majority; on a follower; in a term in which leadership was to be handed
    /// over; while the configuration changes) it is the same as `read_index`: right, and slower.
    #[doc(alias = "ReadOnlyLeaseBased")]
    pub fn read_lease(&self) -> Pending<u64, ReadError> {
        self.read(self.deadline(), true)
    }

    /// As [`read_lease`](Self::read_lease), with a deadline of its own.
    pub fn read_lease_by(&self, deadline: Instant) -> Pending<u64, ReadError> {
        self.read(deadline, true)
    }

    fn read(&self, deadline: Instant, lease: bool) -> Pending<u64, ReadError> {
        let (resolver, pending) = pending();
        match self.shared().inbox.data(Data::Read { resolver, deadline, lease }) {
            Ok(()) => pending.by(deadline),
            Err(NotTaken::Full) => Pending::ready(Err(ReadError::Busy(Busy::Requests))),
            Err(NotTaken::Closed) => Pending::ready(Err(ReadError::Stopped)),
        }
    }

    /// Hands leadership over to `to`; resolves when this node sees `to` lead. Only the leader can: ask it there.
    #[doc(alias("MoveLeader", "TransferLeadership"))]
    pub fn transfer_leader(&self, to: u64) -> Pending<(), TransferError> {
        let (resolver, pending) = pending();
        let deadline = Instant::now()
            + 2 * self.shared().config.election_timeout().max(Duration::from_millis(500));
        match self.shared().inbox.data(Data::Transfer { to, resolver, deadline }) {
            Ok(()) => pending.by(deadline),
            Err(NotTaken::Full) => Pending::ready(Err(TransferError::Busy(Busy::Requests))),
            Err(NotTaken::Closed) => Pending::ready(Err(TransferError::Stopped)),
        }
    }

    /// Campaigns now instead of at the end of the election timeout. Does nothing where that makes no sense, nor, with
    /// [leases](crate::Config::lease_reads), while the leader's may be in force.
    pub fn campaign(&self) {
        let _ = self.shared().inbox.data(Data::Campaign); // a node too busy for it has no need of it
    }

    /// Lets `ticks` heartbeat intervals pass at once. Not, with [leases](crate::Config::lease_reads), while the leader's may
    /// be in force: an election before its time would break it.
    pub fn advance_ticks(&self, ticks: u32) {
        let _ = self.shared().inbox.data(Data::AdvanceTicks(ticks)); // time that nobody takes notice of
    }

    /// Drops everything that is sent and received until [`resume`](Self::resume), as a cable pulled out would.
    pub fn pause(&self) {
        if let Some(transport) = self.shared().transport.get() {
            transport.pause();
        }
    }

    /// Ends [`pause`](Self::pause).
    pub fn resume(&self) {
        if let Some(transport) = self.shared().transport.get() {
            transport.resume();
        }
    }

    /// Gives the node a message that came by a way of the caller's own. Dropped when there are too many, as a network
    /// would; checked like any other.
    pub fn step(&self, from: u64, message: Message) {
        if self.shared().inbox.data(Data::Message { from, message: Box::new(message) }).is_err() {
            self.shared().counters.messages_shed.add(1);
        }
    }

    /// Term, role, leader, commit and applied index, as last published: never waits.
    #[doc(alias = "SoftState")]
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.shared().vitals()
    }

    /// The leader as this node knows it; 0 for nobody.
    #[must_use]
    pub fn leader(&self) -> u64 {
        self.vitals().leader
    }

    /// The members as applied here.
    #[must_use]
    pub fn cluster(&self) -> Arc<Cluster> {
        self.shared().cluster()
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().counters.stats()
    }

    /// Proposals of this node that wait for their result (etcd's `proposals_pending`).
    #[must_use]
    pub fn proposals_pending(&self) -> usize {
        self.node.waiters.len()
    }

    /// Everything about this node. Asks the node thread, and waits for it; if it does not answer within a second, or has
    /// ended, the last answer is given, with the vitals of now.
    #[must_use]
    pub fn status(&self) -> Status {
        let (reply, answer) = sync_channel(1);
        if self.shared().inbox.data(Data::Status(reply)).is_ok()
            && let Ok(status) = answer.recv_timeout(Duration::from_secs(1))
        {
            return status;
        }
        let (mut status, vitals) =
            self.shared().read(|published| (published.status.clone(), published.vitals));
        let Vitals { term, role, leader, commit, applied } = vitals;
        (status.id, status.term, status.role) = (self.id(), term, role);
        (status.leader, status.commit, status.applied) = (leader, commit, applied);
        status.disk_stalled |= self.shared().inline_write.is_stalled();
        status.stats = self.stats();
        status
    }

    /// Waits until this node knows a leader, and says who it is; `None` after `timeout` or when the node has ended.
    #[must_use]
    pub fn wait_leader(&self, timeout: Duration) -> Option<u64> {
        self.shared()
            .wait(Some(timeout), |published| {
                let leader = published.vitals.leader;
                (leader != 0 || published.end.is_some()).then_some(leader)
            })
            .filter(|leader| *leader != 0)
    }

    /// Waits until this node has applied `index`; whether it has.
    #[must_use]
    pub fn wait_applied(&self, index: u64, timeout: Duration) -> bool {
        self.shared()
            .wait(Some(timeout), |published| {
                let applied = published.vitals.applied >= index;
                (applied || published.end.is_some()).then_some(applied)
            })
            .unwrap_or(false)
    }

    /// Stops the node in order (O14): nothing more is accepted, the write in hand is finished, the transport stopped,
    /// the log closed. Returns how it ended, which may have been earlier and by itself. Idempotent, from any thread,
    /// and bounded by [`Config::stop_timeout`](crate::Config::stop_timeout).
    #[doc(alias = "stop")]
    pub fn shutdown(&self) -> NodeEnd {
        self.node.shutdown(None)
    }

    /// As [`shutdown`](Self::shutdown), but a leader first hands over to the voter whose log is the most complete of those that
    /// answer, of several the one with the lowest id; for that it waits for at most `patience`.
    pub fn shutdown_gracefully(&self, patience: Duration) -> NodeEnd {
        self.node.shutdown(Some(after(patience)))
    }

    /// Waits until the node has ended, by itself or by [`shutdown`](Self::shutdown), and its log is closed.
    #[must_use]
    pub fn wait_end(&self) -> NodeEnd {
        self.shared().wait(None, |published| published.end.clone()).unwrap_or(NodeEnd::Stopped)
    }

    /// How the node ended; `None` while it runs.
    #[must_use]
    pub fn end(&self) -> Option<NodeEnd> {
        self.shared().read(|published| published.end.clone())
    }
}

impl<R> Running<R> {
    fn shutdown(&self, transfer_until: Option<Instant>) -> NodeEnd {
        while planted("second-stop-hangs") && self.shared.read(|published| published.end.is_some())
        {
            std::thread::park();
        }
        self.shared.inbox.control(Control::Stop { transfer_until });
        let patience = transfer_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        let timeout = self.shared.config.stop_timeout.saturating_add(patience);
        let end = self.shared.wait(Some(timeout), |published| published.end.clone());
        let Some(end) = end else {
            log::warn!(id:% = Hex(self.shared.id); "a thread did not stop in time; it is left behind");
            return NodeEnd::Stopped;
        };
        // Whoever stops the node from one of its own threads cannot wait for that thread, and a state machine that
        // hangs is left behind; the others are about to end.
        let me = std::thread::current().id();
        let soon = Instant::now() + Duration::from_millis(200);
        for thread in std::mem::take(&mut *self.threads.lock()) {
            while thread.thread().id() != me && !thread.is_finished() && Instant::now() < soon {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() && thread.join().is_err() {
                log::error!(id:% = Hex(self.shared.id); "a thread panicked while it stopped");
            }
        }
        end
    }
}

impl<R> Drop for Running<R> {
    fn drop(&mut self) {
        self.shutdown(None);
    }
}
