//! [`NodeBuilder`]: from what was recovered to a running node.

use std::error::Error;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use bytes::Bytes;
use oarlock_transport::{Handler, Transport};
use parking_lot::Mutex;
use raft::eraftpb::Entry;

use super::handle::{NodeHandle, Running};
use super::handoff::ApplyQueue;
use super::node::{Node, Threads};
use super::peers::{PeerHandler, Queries};
use super::reader::Reader;
use super::shared::Shared;
use super::step::Step;
use super::waiters::Waiters;
use super::writer::{Writer, WriterHandle};
use super::{apply, panicked, snapshots};
use crate::bootstrap::Recovered;
use crate::core::{Core, MembersApplied};
use crate::planted::planted;
use crate::proposal::Payload;
use crate::{
    Config, ConfigError, LogBatch, LogStore, NoObserver, Observer, SnapshotHead, SnapshotId,
    SnapshotStore, StartError, StateMachine, WriteMode,
};

/// Starts a node: configuration, what [`boot`](crate::bootstrap::boot) recovered, and where log and snapshots are.
///
/// A transport needs a handler for what it receives, and a node needs a transport; so [`start`](Self::start) takes a
/// closure that is given the handler and returns the transport.
///
/// ```
/// # use oarlock_raftnode::{bootstrap::{Boot, boot}, membership::Cluster, transport::MemNetwork, *};
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
/// let transport = Arc::new(network.endpoint(recovered.identity()));
/// let config = Config::new().heartbeat_interval(Duration::from_millis(5));
/// let node = NodeBuilder::new(config, recovered, Box::new(log), Arc::new(snapshots)).start(Nothing, |handler| {
///     transport.start(handler);
///     Ok(transport)
/// })?;
/// assert_eq!(node.propose("hello").wait()?.output, 5);
/// node.shutdown();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "raftNode")]
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
    /// A node that goes on where the log ends. `recovered` must come from booting this very `store`, with these `snapshots`.
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

    /// Restores the state machine from the snapshot, if there is one, connects, and starts the threads. A restore that
    /// takes longer than an election timeout is reported to [`Observer::stalled`], here as later on.
    ///
    /// `connect` is called once, with the handler for inbound messages; it starts the transport and returns it. Peers are
    /// added to the transport afterwards, as the log names them.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then, and nothing was written but what may be
    /// [promised](Recovered::promise).
    pub fn start<S: StateMachine, T: Transport>(
        self,
        mut machine: S,
        connect: impl FnOnce(Arc<dyn Handler>) -> Result<Arc<T>, Box<dyn Error + Send + Sync>>,
    ) -> Result<NodeHandle<S::Output>, StartError> {
        let applied = machine.applied_index();
        let start = self.prepare(applied)?;
        if let Some(id) = start.to_restore() {
            let restore = || {
                let (_, mut content) = start.open(id)?;
                machine.restore(id, &mut *content).map_err(StartError::Restore)
            };
            start.shared.watch_first_restore(restore).map_err(StartError::Thread)??;
        }
        machine.members_changed(&start.recovered.cluster);
        let Launched { handle, queue, finished } = start.launch(connect)?;
        let thread = thread::Builder::new()
            .name("oarlock-apply".into())
            .spawn(move || apply::serve(finished, queue, machine));
        match thread {
            Ok(thread) => {
                handle.adopt(thread);
                Ok(handle)
            }
            Err(error) => {
                handle.shutdown(); // which its queue, gone with the closure, has already told it
                Err(StartError::Thread(error))
            }
        }
    }

    /// As [`start`](Self::start), without an apply thread: the owner of the queue pulls from it what is to be applied.
    /// Proposals are answered with an `R`.
    ///
    /// `applied` is the index up to which the state durably holds every command; 0 for a state that begins empty. The
    /// first [`Apply`](crate::Apply) consists of the snapshot to restore, if the state is behind one, and the members.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then, and nothing was written but what may be
    /// [promised](Recovered::promise).
    pub fn start_handoff<R: Send + 'static, T: Transport>(
        self,
        applied: u64,
        connect: impl FnOnce(Arc<dyn Handler>) -> Result<Arc<T>, Box<dyn Error + Send + Sync>>,
    ) -> Result<(NodeHandle<R>, ApplyQueue<R>), StartError> {
        let start = self.prepare(applied)?;
        let mut first = Vec::new();
        if let Some(id) = start.to_restore() {
            let (_, content) = start.open(id)?;
            first.push(Step::Snapshot { id, content });
            start.shared.begins_with_restore.store(true, Ordering::Relaxed); // before anybody can ask
            start.shared.publish(|published| published.vitals.applied = 0);
        }
        first.push(Step::Members(Arc::new(start.recovered.cluster.clone())));
        let Launched { handle, mut queue, finished } = start.launch(connect)?;
        queue.begin_with(first, finished);
        Ok((handle, queue))
    }

    /// Checks everything that can be checked before anything runs. The state machine holds commands up to `applied`.
    fn prepare(self, applied: u64) -> Result<Start, StartError> {
        let Self { config, recovered, store, snapshots, observer, queries } = self;
        config.validate()?;
        // With the term, vote or incarnation of an earlier start it would vote twice, and give old answers to new
        // proposals.
        if !recovered.is_of(&store.state()?) && !planted("started-from-an-old-boot") {
            return Err(StartError::NotRecovered);
        }
        if !planted("started-beside-other-snapshots") {
            snapshots::check(&*snapshots, &recovered)?;
        }
        let (request, log) = (config.max_request_bytes, store.max_batch());
        let overhead = Payload::MAX_OVERHEAD as u64 + LogBatch::cost(&Entry::default());
        if request as u64 + overhead > log {
            return Err(ConfigError::RequestBeyondLog { request, log }.into());
        }
        let last_index = recovered.last_index;
        if applied > last_index {
            return Err(StartError::StateMachineAhead { applied, last_index });
        }
        let shared = Arc::new(Shared::new(config, &recovered, snapshots, observer));
        Ok(Start { shared, recovered, store, queries, applied })
    }
}

/// A node that has been checked, and of which nothing runs yet.
struct Start {
    shared: Arc<Shared>,
    recovered: Recovered,
    store: Box<dyn LogStore>,
    queries: Option<Queries>,
    /// Index up to which the state machine holds every command.
    applied: u64,
}

impl Start {
    /// The snapshot to restore first, if the state machine is behind it.
    fn to_restore(&self) -> Option<SnapshotId> {
        self.recovered.snapshot_id().filter(|id| self.applied < id.index)
    }

    fn open(&self, id: SnapshotId) -> Result<(SnapshotHead, Box<dyn Read + Send>), StartError> {
        snapshots::open_at_start(&*self.shared.snapshots, id)
    }

    /// Starts the node thread. The apply loop is up to the caller.
    fn launch<R: Send + 'static, T: Transport>(
        self,
        connect: impl FnOnce(Arc<dyn Handler>) -> Result<Arc<T>, Box<dyn Error + Send + Sync>>,
    ) -> Result<Launched<R>, StartError> {
        let Self { shared, mut recovered, mut store, queries, applied } = self;

        recovered.promise(&mut *store, &shared.config)?;
        let log = store.reader();
        let view = recovered.view(Arc::clone(&log), shared.config.tail_cache_bytes)?;
        // raft-rs panics on a log that contradicts itself.
        let core = AssertUnwindSafe(|| Core::new(&shared.config, &recovered, view));
        let core = catch_unwind(core).unwrap_or_else(|panic| {
            Err(StartError::Raft(panicked("the thread that starts the node", &*panic).to_string()))
        })?;
        let waiters = Arc::new(Waiters::new(recovered.id, recovered.incarnation));

        let mut writer = WriterHandle::Inline(Box::new(Writer::new(store, Arc::clone(&shared))));
        let alone = recovered.contacts.iter().all(|member| member.id == recovered.id)
            && (core.is_alone() || core.configuration().ids().is_empty());
        let inline = match shared.config.write_mode {
            WriteMode::Auto => alone,
            WriteMode::Pipelined => false,
        };
        let watcher = if inline {
            Some(shared.watch_inline_writes().map_err(StartError::Thread)?)
        } else {
            writer.move_to_thread().map_err(StartError::Thread)?;
            None
        };

        let handler = Arc::new(PeerHandler::new(Arc::clone(&shared), queries));
        let transport: Arc<dyn Transport> = connect(handler).map_err(StartError::Transport)?;
        if let Err(error) = shared.config.validate_frame(transport.max_frame()) {
            transport.stop();
            return Err(error.into());
        }
        let _ = shared.transport.set(Arc::clone(&transport)); // set here only

        let stop = Arc::new(AtomicBool::new(false));
        let members = MembersApplied {
            cluster: Arc::clone(core.cluster()),
            conf_state: core.conf_state(),
            births: recovered.births.clone(),
            changed: false,
        };
        let (jobs, pulled) = channel();
        let (finished, apply_done) = channel::<()>();
        let queue = ApplyQueue::new(
            pulled,
            Arc::clone(&shared),
            Arc::clone(&waiters),
            Arc::clone(&stop),
            members,
            &recovered,
            applied,
        );
        let reader = Reader::new(log, Arc::clone(&shared), Arc::clone(&stop));
        let threads = Threads { writer, reader, apply: jobs, apply_done, stop, _watcher: watcher };
        let table = Arc::clone(&waiters);
        let failed = Arc::clone(&transport);
        let node =
            Node::new(core, Arc::clone(&shared), table, transport, threads, recovered.contacts);
        let thread = thread::Builder::new().name("oarlock-node".into()).spawn(move || node.run());
        let thread = thread.map_err(|error| {
            failed.stop(); // the closure, and with it the node, the log and the queues, is gone
            StartError::Thread(error)
        })?;
        let handle =
            NodeHandle::new(Running { shared, waiters, threads: Mutex::new(vec![thread]) });
        Ok(Launched { handle, queue, finished })
    }
}

/// A running node that still needs an apply loop.
struct Launched<R> {
    handle: NodeHandle<R>,
    queue: ApplyQueue<R>,
    /// To be dropped when the apply loop has ended.
    finished: Sender<()>,
}
