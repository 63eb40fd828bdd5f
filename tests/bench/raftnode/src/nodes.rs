//! Members that oarlock-raftnode drives.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oarlock_bench_harness::Result;
use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::transport::{Identity, TcpOptions, TcpTransport};
use oarlock_raftnode::{
    Applied, Config, LogStore, MemSnapshots, NodeBuilder, NodeHandle, Pending, ProposeError,
    SnapshotStore, WalOptions,
};

use crate::disk::Disk;
use crate::machine::Counter;
use crate::service::Service;
use crate::watched::{Heartbeats, Watched};

/// How long a cluster may take to find a leader.
const PATIENCE: Duration = Duration::from_secs(20);

/// One member.
pub(crate) type Node = NodeHandle<u64>;

impl Service for Node {
    type Answer = Pending<Applied<u64>, ProposeError>;

    fn propose(&self, data: Bytes) -> Self::Answer {
        Self::propose(self, data)
    }

    fn wait(answer: Self::Answer) -> Result<()> {
        answer.wait()?;
        Ok(())
    }
}

/// The defaults, without snapshots: what they cost is not what is measured, and the loop beside takes none.
pub(crate) const fn without_snapshots() -> Config {
    Config::new().snapshot_count(u64::MAX)
}

/// A member that is alone, over any log; it leads when this returns.
pub(crate) fn alone(
    config: Config,
    mut log: impl LogStore,
    snapshots: Arc<dyn SnapshotStore>,
) -> Result<Node> {
    let cluster = Cluster::from_initial("bench", &[("a", ["http://127.0.0.1:1"])])?;
    let id = cluster.members().next().ok_or("no member")?.id;
    let cluster_id = cluster.id();
    let recovered = boot(&mut log, &*snapshots, &Boot::New { id, cluster })?;
    let node = NodeBuilder::new(config, recovered, Box::new(log), snapshots).start(
        Counter::default(),
        |handler| {
            // Nobody dials it.
            let identity = Identity::new(id, cluster_id);
            let transport = TcpTransport::bind(identity, "127.0.0.1:0", TcpOptions::new())?;
            transport.start(handler)?;
            Ok(Arc::new(transport))
        },
    )?;
    node.wait_leader(PATIENCE).ok_or("no leader")?;
    Ok(node)
}

/// The same on files in `dir`.
pub(crate) fn alone_on_disk(config: Config, dir: &Path) -> Result<Node> {
    let log = WalOptions::new(dir).open_or_create()?;
    let snapshots = log.snapshots();
    alone(config, log, snapshots)
}

/// The same in memory.
pub(crate) fn alone_in_memory(config: Config) -> Result<Node> {
    alone(config, crate::memory::MemoryLog::default(), Arc::new(MemSnapshots::new()))
}

/// Listeners on the loopback, and the cluster whose members are found there.
pub(crate) fn founders(n: usize) -> Result<(Cluster, Vec<TcpListener>)> {
    let listeners: Vec<TcpListener> =
        (0..n).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut members = Vec::new();
    for (name, listener) in ["a", "b", "c", "d", "e"].iter().zip(&listeners) {
        members.push((*name, [format!("http://{}", listener.local_addr()?)]));
    }
    Ok((Cluster::from_initial("bench", &members)?, listeners))
}

/// Several members in this process: real disks, real sockets.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) heartbeats: Vec<Heartbeats>,
}

impl Nodes {
    /// `n` members with their files below `dir`; somebody leads when this returns.
    pub(crate) fn start(config: &Config, dir: &Path, n: usize) -> Result<Self> {
        let (cluster, listeners) = founders(n)?;
        let mut all = Self { nodes: Vec::new(), disks: Vec::new(), heartbeats: Vec::new() };
        for listener in listeners {
            let url = format!("http://{}", listener.local_addr()?);
            let id = cluster.member_by_peer_url(&url).ok_or("not listed")?.id;
            let (disk, heartbeats) = (Disk::default(), Heartbeats::default());
            let mut log = WalOptions::new(dir.join(format!("{id:x}")))
                .vfs(Arc::new(disk.clone()))
                .open_or_create()?;
            let snapshots = log.snapshots();
            let recovered =
                boot(&mut log, &*snapshots, &Boot::New { id, cluster: cluster.clone() })?;
            let identity = Identity::new(id, cluster.id()).incarnation(recovered.incarnation);
            let beats = heartbeats.clone();
            let builder = NodeBuilder::new(config.clone(), recovered, Box::new(log), snapshots);
            let node = builder.start(Counter::default(), |handler| {
                let transport = TcpTransport::new(identity, vec![listener], TcpOptions::new())?;
                transport.start(handler)?;
                Ok(Arc::new(Watched { transport, heartbeats: beats }))
            })?;
            all.nodes.push(node);
            all.disks.push(disk);
            all.heartbeats.push(heartbeats);
        }
        all.nodes
            .iter()
            .try_for_each(|node| node.wait_leader(PATIENCE).map(drop).ok_or("no leader"))?;
        Ok(all)
    }

    /// Which of them leads.
    pub(crate) fn leader(&self) -> Result<usize> {
        let leader = self.nodes[0].leader();
        let place = self.nodes.iter().position(|node| node.id() == leader);
        place.ok_or_else(|| "nobody leads".into())
    }
}
