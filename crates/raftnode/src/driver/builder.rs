//! [`NodeBuilder`]: from what was recovered to a running node.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::channel;
use std::thread;

use bytes::Bytes;
use oarlock_transport::{Handler, Transport};
use parking_lot::Mutex;
use raft::eraftpb::Entry;

use super::apply::Applier;
use super::events::Control;
use super::handle::{NodeHandle, Running};
use super::node::{Node, Threads};
use super::peers::{PeerHandler, Queries};
use super::shared::Shared;
use super::waiters::Waiters;
use super::writer::{Seat, Writer};
use super::{panicked, snapshots};
use crate::bootstrap::Recovered;
use crate::core::{Core, MembersApplied};
use crate::proposal::Payload;
use crate::{
    Config, ConfigError, LogBatch, LogStore, NoObserver, NodeError, Observer, SnapshotStore,
    StartError, StateMachine, WriteMode,
};

/// Starts a node: configuration, what [`boot`](crate::bootstrap::boot) recovered, and where log and snapshots are.
///
/// The transport needs somebody to hand messages to, and the node a transport; so [`start`](Self::start) takes a
/// closure that is given the former and returns the latter.
///
/// ```
/// # use oarlock_raftnode::{bootstrap::{Boot, boot}, membership::Cluster, transport::{Identity, MemNetwork}, *};
/// # use std::{io, sync::Arc, time::Duration};
/// # struct Nothing;
/// # impl StateMachine for Nothing {
/// #     type Output = usize;
/// #     fn apply(&mut self, entry: &Committed<'_>) -> Result<usize, ApplyError> { Ok(entry.data.len()) }
/// #     fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> { Err("none".into()) }
/// #     fn restore(&mut self, _: SnapshotId, _: &mut dyn io::Read) -> Result<(), RestoreError> { Ok(()) }
/// # }
/// let cluster = Cluster::from_initial("token", &[("a", ["http://127.0.0.1:2380"])])?;
/// let id = cluster.member_by_name("a").expect("it was just listed").id;
/// let (mut log, snapshots) = (MemStore::new(), MemSnapshots::new());
/// let recovered = boot(&mut log, &snapshots, &Boot::New { id, cluster })?;
///
/// let network = MemNetwork::new(7);
/// let transport = Arc::new(network.endpoint(Identity::new(id, recovered.cluster.id())));
/// let config = Config::new().heartbeat_interval(Duration::from_millis(5));
/// let node = NodeBuilder::new(config, recovered, Box::new(log), Arc::new(snapshots)).start(Nothing, |handler| {
///     transport.start(handler);
///     Ok(transport)
/// })?;
/// assert_eq!(node.propose("hello").wait()?.output, 5);
/// node.shutdown();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct NodeBuilder {
    config: Config,
    recovered: Recovered,
    store: Box<dyn LogStore>,
    snapshots: Arc<dyn SnapshotStore>,
    observer: Arc<dyn Observer>,
    queries: Option<Queries>,
}

impl std::fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeBuilder").field("recovered", &self.recovered).finish_non_exhaustive()
    }
}

impl NodeBuilder {
    /// A node that goes on where the log ends. `recovered` must come from booting this very `store`.
    #[must_use]
    pub fn new(
        config: Config,
        recovered: Recovered,
        store: Box<dyn LogStore>,
        snapshots: Arc<dyn SnapshotStore>,
    ) -> Self {
        Self { config, recovered, store, snapshots, observer: Arc::new(NoObserver), queries: None }
    }

    /// Who is told what happens. Defaults to nobody.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Answers the transport's queries of kinds other than `members`: see [`Handler::query`]. Called on the
    /// transport's threads. Defaults to answering none.
    #[must_use]
    pub fn queries(
        mut self,
        answer: impl Fn(&str, Bytes) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.queries = Some(Arc::new(answer));
        self
    }

    /// Restores the state machine from the snapshot, if there is one, connects, and starts the threads.
    ///
    /// `connect` is called once, with whom messages are to be handed to; it starts the transport and returns it.
    /// Members are made known to it afterwards, as the log tells of them.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then, and nothing was written.
    pub fn start<S: StateMachine, T: Transport>(
        self,
        mut machine: S,
        connect: impl FnOnce(Arc<dyn Handler>) -> Result<Arc<T>, Box<dyn Error + Send + Sync>>,
    ) -> Result<NodeHandle<S::Output>, StartError> {
        let Self { config, recovered, store, snapshots, observer, queries } = self;
        let (request, log) = (config.max_request_bytes, store.max_batch());
        let overhead = Payload::MAX_OVERHEAD as u64 + LogBatch::cost(&Entry::default());
        if request as u64 + overhead > log {
            return Err(ConfigError::RequestBeyondLog { request, log }.into());
        }
        let view = recovered.view(store.reader(), config.tail_cache_bytes)?;
        let core = Core::new(&config, &recovered, view)?;

        let machine_applied = machine.applied_index();
        if machine_applied > recovered.last_index {
            let last_index = recovered.last_index;
            return Err(StartError::StateMachineAhead { applied: machine_applied, last_index });
        }
        if let Some(id) = recovered.snapshot_id()
            && machine_applied < id.index
        {
            snapshots::restore(&*snapshots, id, &mut machine).map_err(start_error)?;
        }
        machine.members_changed(&recovered.cluster);

        let shared = Arc::new(Shared::new(config, &recovered, snapshots, observer));
        let waiters = Arc::new(Waiters::new());
        let handler = Arc::new(PeerHandler::new(Arc::clone(&shared), queries));
        let transport: Arc<dyn Transport> = connect(handler).map_err(StartError::Transport)?;
        let _ = shared.transport.set(Arc::clone(&transport)); // set here only

        let stop = Arc::new(AtomicBool::new(false));
        let members = MembersApplied {
            cluster: Arc::clone(core.cluster()),
            conf_state: core.conf_state(),
            births: recovered.births.clone(),
            changed: false,
        };
        let mut applier = Applier {
            machine,
            shared: Arc::clone(&shared),
            waiters: Arc::clone(&waiters),
            stop: Arc::clone(&stop),
            applied: recovered.snapshot.as_ref().map_or((0, 0), |mark| (mark.index, mark.term)),
            machine_applied,
            window: recovered.window.clone(),
            members,
            snapshot_index: recovered.applied(),
            bytes_since_snapshot: 0,
            writing_snapshot: Arc::new(AtomicBool::new(false)),
            written_snapshot: Arc::new(AtomicU64::new(recovered.applied())),
        };
        let (jobs, queue) = channel();
        let (finished, apply_done) = channel::<()>();
        let apply_shared = Arc::clone(&shared);
        let started = thread::Builder::new().name("oarlock-apply".into()).spawn(move || {
            let serve = std::panic::AssertUnwindSafe(|| applier.serve(&queue));
            if let Err(panic) = std::panic::catch_unwind(serve) {
                apply_shared.inbox.control(Control::Failed(panicked("oarlock-apply", &*panic)));
            }
            drop((applier, finished));
        });
        let apply_thread = match started {
            Ok(thread) => thread,
            Err(error) => {
                transport.stop();
                return Err(StartError::Thread(error));
            }
        };

        let mut seat = Seat::Inline(Box::new(Writer::new(store, Arc::clone(&shared))));
        let alone = recovered.contacts.iter().all(|member| member.id == recovered.id)
            && (core.is_alone() || core.configuration().ids().is_empty());
        let inline = match shared.config.write_mode {
            WriteMode::Auto | WriteMode::Inline => alone,
            WriteMode::Pipelined => false,
        };
        if !inline && let Err(error) = seat.move_to_thread() {
            transport.stop();
            return Err(StartError::Thread(error));
        }
        let threads = Threads { seat, apply: jobs, apply_done, stop };
        let table = Arc::clone(&waiters);
        let node =
            Node::new(core, Arc::clone(&shared), table, transport, threads, recovered.contacts);
        let failed = Arc::clone(&shared);
        let node_thread =
            thread::Builder::new().name("oarlock-node".into()).spawn(move || node.run());
        let node_thread = match node_thread {
            Ok(thread) => thread,
            Err(error) => {
                // The closure, and with it the node and its queues, is gone: the other threads end by themselves.
                if let Some(transport) = failed.transport.get() {
                    transport.stop();
                }
                return Err(StartError::Thread(error));
            }
        };
        let threads = Mutex::new(vec![node_thread, apply_thread]);
        Ok(NodeHandle::new(Running { shared, waiters, threads }))
    }
}

fn start_error(error: NodeError) -> StartError {
    match error {
        NodeError::Snapshot(error) => StartError::Snapshot(error),
        NodeError::Restore { source, .. } => StartError::Restore(source),
        other => StartError::SnapshotHead(other.to_string()),
    }
}
