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

/// About how much memory a proposal takes, beside its data, until it is answered.
const PROPOSAL_BYTES: usize = 256;

/// A running node. Clones refer to the same node; dropping the last one stops it, and blocks as
/// [`shutdown`](Self::shutdown) does. If the state machine or the observer keeps a clone, only `shutdown` stops the node.
///
/// Requests return a [`Pending`] at once, to be waited for by a thread or awaited by any executor. Each resolves, at the
/// latest when its deadline has passed (O29). The methods that block the calling thread, and so have no place on an
/// executor, are `shutdown`, [`shutdown_gracefully`](Self::shutdown_gracefully), those named `wait_*`, and, for up to a
/// second, [`status`](Self::status).
///
/// ```
/// # use oarlock_raftnode::NodeHandle;
/// use std::time::Duration;
/// fn increment(node: &NodeHandle<u64>) -> Result<u64, Box<dyn std::error::Error>> {
///     let applied = match node.propose(vec![1]).wait() {
///         Err(error) if error.is_definite() => node.propose(vec![1]).wait()?, // it had no effect: safe to repeat
///         result => result?,
///     };
///     Ok(applied.output)
/// }
/// async fn read<T>(node: &NodeHandle<u64>, look: impl Fn() -> T) -> Result<T, Box<dyn std::error::Error>> {
///     node.read_index().await?; // from now on this member's state shows everything acknowledged before
///     Ok(look())
/// }
/// fn wait_for_leader(node: &NodeHandle<u64>) -> bool {
///     node.wait_leader(Duration::from_secs(10)).is_some()
/// }
/// ```
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

    /// Adds a thread that ends with the node, to be joined by `shutdown`.
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
    /// A follower forwards it to the leader. It goes to another leader only when the first attempt is certain to have
    /// come to nothing: the leader refused it, or was succeeded by one whose log does not hold it (O22). If there is no
    /// leader, it waits for one until the deadline. The result is what this node's own state machine returns for the
    /// entry.
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
    /// Whether the change is wise is not checked. Add a member as a learner, and promote it when the leader's
    /// [`PeerStatus::matched`](crate::PeerStatus::matched) shows that it has caught up (etcd demands nine tenths of the
    /// log): a voter counts for the majority even if it is far behind or was never started. To make etcd's checks, call
    /// [`Cluster::ready_to_promote`], [`ready_to_remove`](Cluster::ready_to_remove) and
    /// [`ready_to_add_voter`](Cluster::ready_to_add_voter) first.
    #[doc(alias("conf_change", "propose_conf_change", "ConfChange"))]
    pub fn change_members(&self, change: Change) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_change(ChangeEntry::new(change))
    }

    /// Makes several changes as one, by joint consensus (Raft thesis, section 4.3): meanwhile every decision takes a
    /// majority of the old and of the new members. Resolves when the joint configuration has been left again, which the
    /// leader sees to (O8). Use it to replace members without a moment at which the cluster tolerates fewer failures.
    #[doc(alias = "ConfChangeV2")]
    pub fn change_members_jointly(
        &self,
        changes: Vec<Change>,
    ) -> Pending<Arc<Cluster>, ChangeMembersError> {
        self.propose_change(ChangeEntry::joint(changes, ConfChangeTransition::Implicit))
    }

    /// As [`change_members_jointly`](Self::change_members_jointly), but resolves when the joint configuration is in
    /// force, and stays in it until [`leave_joint`](Self::leave_joint), for example to see the new members work first.
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

    /// Publishes this member's name and client URLs, and the birth id of its data directory, to all members.
    ///
    /// Do this after every start, and repeat it until it succeeds. From then on the others refuse connections in this
    /// member's name from any other directory, such as an empty one, which knows nothing of the votes it gave. A member
    /// that has just joined may get *outcome unknown*, when what it published reached it as part of a snapshot.
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
            return waiter.refuse(ProposeError::Busy(Busy::DiskStalled)); // the node thread itself hangs in a write (O12)
        }
        let id = proposal.id();
        // Register first: the answer may come before `Inbox::data` returns.
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

    /// The first half of a linearizable read: resolves once this node's state machine shows everything that was
    /// acknowledged before the call, with the index that took (O24). Then read the state.
    pub fn read_index(&self) -> Pending<u64, ReadError> {
        self.read_index_by(self.deadline())
    }

    /// As [`read_index`](Self::read_index), with a deadline of its own.
    pub fn read_index_by(&self, deadline: Instant) -> Pending<u64, ReadError> {
        self.read(deadline, false)
    }

    /// As [`read_index`](Self::read_index), but a leader that holds a lease answers at once, without asking the others.
    /// That is linearizable as long as the assumption of [`Config::lease_reads`](crate::Config::lease_reads) holds; if
    /// it does not, the read may be stale. Where there is no lease it is the same as `read_index`: on followers, when
    /// leases are not configured here or on a majority, in a term in which a transfer of leadership was started, and
    /// while the configuration changes.
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

    /// Hands leadership over to `to`; resolves when this node sees `to` lead. To be called on the leader.
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

    /// Campaigns now instead of waiting for the election timeout. Does nothing on a leader or a node that cannot lead,
    /// nor, with [lease reads](crate::Config::lease_reads), while the leader's lease may be in force.
    pub fn campaign(&self) {
        let _ = self.shared().inbox.data(Data::Campaign); // a node too busy for it has no need of it
    }

    /// Lets `ticks` heartbeat intervals pass at once. Does nothing, with [lease reads](crate::Config::lease_reads),
    /// while the leader's lease may be in force: an early election would break it.
    pub fn advance_ticks(&self, ticks: u32) {
        let _ = self.shared().inbox.data(Data::AdvanceTicks(ticks)); // best effort: the node is busy, or has ended
    }

    /// Drops everything sent and received until [`resume`](Self::resume), as if the cable were pulled out. For tests.
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

    /// Gives the node a message from `from` that did not come through its transport. It is validated like any other, and
    /// dropped, as by a network, when too many are waiting.
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

    /// Everything that is known about this node. Asks the node thread and waits for its answer. If it has ended, or
    /// does not answer within a second, returns the last status that was asked for, with the current vitals.
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

    /// Stops the node in order (O14): it accepts nothing more, finishes the write in progress, stops the transport, and
    /// closes the log. Returns how the node ended, which may have happened earlier, by itself. Can be called repeatedly
    /// and from any thread, and takes no longer than [`Config::stop_timeout`](crate::Config::stop_timeout).
    #[doc(alias = "stop")]
    pub fn shutdown(&self) -> NodeEnd {
        self.node.shutdown(None)
    }

    /// As [`shutdown`](Self::shutdown), but a leader first hands over to the active voter with the longest log (among
    /// equals, the lowest id), and waits for that for at most `patience`. If that voter does not take over within an election
    /// timeout, another attempt is made.
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
        // The other threads are about to end. This one may be among them, if a callback stops the node, and a state
        // machine that hangs is left behind.
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
