//! Clusters of real nodes, threads and all, over a network and disks in memory.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::{Cluster, Member};
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::{
    ApplyError, Committed, Config, LogStore, MemSnapshots, MemStore, NodeBuilder, NodeEnd,
    NodeHandle, RestoreError, Role, SnapshotId, SnapshotView, StateMachine,
};
use parking_lot::Mutex;

use trace::{Recorder, Spy, Trace};

pub(crate) mod read_through;
pub(crate) mod sim;
pub(crate) mod trace;

/// How long a test waits for anything at all.
///
/// Tests that are to fail, because a bug is planted, mostly fail by waiting in vain.
pub(crate) const PATIENCE: Duration =
    Duration::from_secs(if cfg!(oarlock_planted) { 5 } else { 20 });

/// Everything that was applied, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    pub(crate) lines: Arc<Mutex<Vec<String>>>,
    /// Whoever holds this holds up the line "wait".
    pub(crate) gate: Arc<Mutex<()>>,
}

impl StateMachine for Journal {
    type Output = usize;

    fn apply(&mut self, entry: &Committed<'_>) -> Result<usize, ApplyError> {
        let line = String::from_utf8(entry.data.to_vec())?;
        if line == "break" {
            return Err("asked to break".into());
        }
        if line == "panic" {
            panic!("asked to panic");
        }
        if line == "hang" {
            std::thread::sleep(Duration::from_secs(3));
        }
        if line == "wait" {
            drop(self.gate.lock());
        }
        let mut lines = self.lines.lock();
        lines.push(line);
        Ok(lines.len())
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
        struct View(Vec<String>);
        impl SnapshotView for View {
            fn write_to(&mut self, to: &mut dyn Write) -> std::io::Result<()> {
                self.0.iter().try_for_each(|line| writeln!(to, "{line}"))
            }
        }
        Ok(Box::new(View(self.lines.lock().clone())))
    }

    fn restore(&mut self, _: SnapshotId, content: &mut dyn Read) -> Result<(), RestoreError> {
        let mut text = String::new();
        content.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "hang when restored") {
            std::thread::sleep(Duration::from_secs(3));
        }
        *self.lines.lock() = text.lines().map(str::to_string).collect();
        Ok(())
    }
}

/// One member: its disk survives its node.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) store: MemStore,
    pub(crate) snapshots: MemSnapshots,
    pub(crate) journal: Journal,
    pub(crate) handle: Option<NodeHandle<usize>>,
}

impl Node {
    pub(crate) fn handle(&self) -> &NodeHandle<usize> {
        self.handle.as_ref().expect("the node runs")
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.journal.lines.lock().clone()
    }
}

/// A cluster and the network between its members.
pub(crate) struct TestCluster {
    pub(crate) network: MemNetwork,
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) nodes: BTreeMap<u64, Node>,
}

pub(crate) fn config() -> Config {
    // Long enough election timeouts that a machine with other things to do does not depose leaders.
    Config::new().heartbeat_interval(Duration::from_millis(20)).election_ticks(50).seed(7)
}

impl TestCluster {
    /// Founds a cluster of `count` members and waits for nothing.
    pub(crate) fn new(count: usize, config: Config) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        let list: Vec<(String, [String; 1])> =
            (1..=count).map(|n| (format!("m{n}"), [format!("http://127.0.0.1:{n}")])).collect();
        let cluster = Cluster::from_initial("test", &list).expect("a valid list");
        let mut this =
            Self { network: MemNetwork::new(7), config, cluster, nodes: BTreeMap::new() };
        let ids: Vec<u64> = this.cluster.members().map(|member| member.id).collect();
        for id in ids {
            let cluster = this.cluster.clone();
            this.boot(id, MemStore::new(), MemSnapshots::new(), &Boot::New { id, cluster });
        }
        this
    }

    /// Lets a member campaign until it leads, which saves an election timeout.
    pub(crate) fn elect(&self, id: u64) {
        wait_for("the candidate to lead", || {
            let leads = self.handle(id).vitals().role == Role::Leader;
            if !leads {
                self.handle(id).campaign();
                std::thread::sleep(Duration::from_millis(20));
            }
            leads.then_some(())
        });
    }

    pub(crate) fn boot(&mut self, id: u64, store: MemStore, snapshots: MemSnapshots, how: &Boot) {
        let log = Box::new(store.clone());
        self.boot_with(id, store, log, snapshots, how);
    }

    /// Boots with a log that wraps the store.
    pub(crate) fn boot_with(
        &mut self,
        id: u64,
        store: MemStore,
        mut log: Box<dyn LogStore>,
        snapshots: MemSnapshots,
        how: &Boot,
    ) {
        let recovered = boot(&mut *log, &snapshots, how).expect("it boots");
        let journal = Journal::default();
        let identity = recovered.identity();
        let builder =
            NodeBuilder::new(self.config.clone(), recovered, log, Arc::new(snapshots.clone()));
        let handle = Some(self.start(identity, builder, &journal));
        self.nodes.insert(id, Node { id, store, snapshots, journal, handle });
    }

    /// Starts a member's node on this network.
    pub(crate) fn start(
        &self,
        identity: Identity,
        builder: NodeBuilder,
        journal: &Journal,
    ) -> NodeHandle<usize> {
        let transport = Arc::new(self.network.endpoint(identity));
        let connect = |handler| {
            transport.start(handler);
            Ok(transport)
        };
        builder.start(journal.clone(), connect).expect("it starts")
    }

    /// Stops a member and starts it again with a log, a transport and an observer that record; its transport keeps
    /// snapshots under way if `keeps` says so.
    pub(crate) fn spy_on(&mut self, id: u64, keeps: bool) -> (Trace, Arc<Spy>) {
        self.stop(id);
        let node = self.nodes.get_mut(&id).expect("a member");
        let trace = Trace::default();
        let mut log: Box<dyn LogStore> =
            Box::new(Recorder { inner: node.store.clone(), trace: trace.clone() });
        let recovered = boot(&mut *log, &node.snapshots, &Boot::Restart).expect("it boots");
        let spy =
            Arc::new(Spy::new(self.network.endpoint(recovered.identity()), trace.clone(), keeps));
        let snapshots = Arc::new(node.snapshots.clone());
        node.journal = Journal::default();
        let transport = Arc::clone(&spy);
        let handle = NodeBuilder::new(self.config.clone(), recovered, log, snapshots)
            .observer(Arc::new(trace.clone()))
            .start(node.journal.clone(), |handler| {
                transport.inner.start(handler);
                Ok(transport)
            })
            .expect("it starts");
        node.handle = Some(handle);
        (trace, spy)
    }

    /// Hands leadership to a member, as often as it takes.
    pub(crate) fn lead(&self, id: u64) {
        wait_for("it to lead", || {
            let leader = self.leader();
            if leader != id {
                let _ = self.handle(leader).transfer_leader(id).wait();
            }
            (leader == id).then_some(())
        });
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn handle(&self, id: u64) -> &NodeHandle<usize> {
        self.nodes[&id].handle()
    }

    /// Waits until some running node leads and says so itself.
    pub(crate) fn leader(&self) -> u64 {
        wait_for("a leader", || {
            self.nodes
                .values()
                .filter(|node| node.handle.is_some())
                .find(|node| node.handle().vitals().role == Role::Leader)
                .map(|node| node.id)
        })
    }

    pub(crate) fn follower(&self) -> u64 {
        let leader = self.leader();
        self.ids()
            .into_iter()
            .find(|id| *id != leader && self.nodes[id].handle.is_some())
            .expect("one")
    }

    /// Power loss on one member, then a restart from what its disk holds.
    pub(crate) fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a member");
        node.store = node.store.crash();
        if let Some(handle) = node.handle.take() {
            handle.shutdown();
        }
    }

    pub(crate) fn restart(&mut self, id: u64) {
        let node = &self.nodes[&id];
        assert!(node.handle.is_none(), "it runs");
        let (store, snapshots) = (node.store.clone(), node.snapshots.clone());
        self.boot(id, store, snapshots, &Boot::Restart);
    }

    pub(crate) fn stop(&mut self, id: u64) -> NodeEnd {
        let node = self.nodes.get_mut(&id).expect("a member");
        node.handle.take().expect("it runs").shutdown()
    }

    /// Stops a follower while the others propose so many lines and compact their logs beyond what it has, for which the
    /// configuration has to ask for a snapshot every 20 entries. Returns the follower and the leader.
    pub(crate) fn leave_behind(&mut self, lines: usize) -> (u64, u64) {
        let away = self.follower();
        self.stop(away);
        let leader = self.leader();
        for n in 0..lines {
            self.handle(leader).propose(format!("{n}")).wait().expect("applied");
        }
        wait_for("the log to be compacted", || {
            (self.handle(leader).status().first_index > 20).then_some(())
        });
        (away, leader)
    }

    /// Starts a new member that the cluster has added already.
    pub(crate) fn join(&mut self, member: &Member) {
        let cluster = wait_for("a member that knows of the joiner", || {
            let running = self.nodes.values().filter_map(|node| node.handle.as_ref());
            running
                .map(|handle| handle.cluster())
                .find(|cluster| cluster.member(member.id).is_some())
        });
        let cluster = Cluster::clone(&cluster);
        let id = member.id;
        self.boot(id, MemStore::new(), MemSnapshots::new(), &Boot::Join { id, cluster });
    }

    /// Waits until every running node has applied the same `count` lines, and returns them.
    pub(crate) fn settle(&self, count: usize) -> Vec<String> {
        wait_for(&format!("{count} lines everywhere"), || {
            let running: Vec<&Node> =
                self.nodes.values().filter(|node| node.handle.is_some()).collect();
            let lines = running.first()?.lines();
            (lines.len() == count && running.iter().all(|node| node.lines() == lines))
                .then_some(lines)
        })
    }
}

/// A thread that only sleeps, as a measure of what a busy machine does to all the others.
pub(crate) struct Machine {
    latest: Arc<Mutex<Duration>>,
    stop: Arc<AtomicBool>,
}

impl Machine {
    pub(crate) fn watch() -> Self {
        const STEP: Duration = Duration::from_millis(5);
        let this = Self { latest: Arc::default(), stop: Arc::default() };
        let (latest, stop) = (Arc::clone(&this.latest), Arc::clone(&this.stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let asleep = Instant::now();
                std::thread::sleep(STEP);
                let late = asleep.elapsed() - STEP;
                let mut latest = latest.lock();
                *latest = late.max(*latest);
            }
        });
        this
    }

    /// By how much it woke too late, at worst.
    pub(crate) fn latest(&self) -> Duration {
        *self.latest.lock()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn member(id: u64) -> Member {
    Member { id, peer_urls: vec![format!("http://joiner{id}:1")], ..Member::default() }
}

/// Waits until `found` finds something; names what was missing when it does not come.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
