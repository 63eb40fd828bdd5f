//! Three members of a replicated counter in one process, over a network and disks in memory.
//!
//! `cargo run -p oarlock-raftnode --example counter`. Replace `MemStore` by `WalStore` and `MemNetwork` by `TcpTransport`,
//! and it is a service; the README does so.
#![expect(clippy::print_stdout, reason = "an example shows what came of it")]

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::transport::MemNetwork;
use oarlock_raftnode::{
    ApplyError, Committed, Config, MemSnapshots, MemStore, NodeBuilder, NodeHandle, RestoreError,
    SnapshotId, SnapshotView, StateMachine,
};

#[derive(Clone, Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Output = u64;

    fn apply(&mut self, entry: &Committed<'_>) -> Result<u64, ApplyError> {
        // An entry that cannot be read is no error of the state machine: every member has it, and answers alike.
        let step = <[u8; 8]>::try_from(&entry.data[..]).map_or(0, u64::from_be_bytes);
        self.0 = self.0.wrapping_add(step);
        Ok(self.0)
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
        Ok(Box::new(self.clone()))
    }

    fn restore(&mut self, _: SnapshotId, content: &mut dyn io::Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.0 = u64::from_be_bytes(bytes.as_slice().try_into()?);
        Ok(())
    }
}

impl SnapshotView for Counter {
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()> {
        to.write_all(&self.0.to_be_bytes())
    }
}

fn start(
    id: u64,
    cluster: &Cluster,
    network: &MemNetwork,
) -> Result<NodeHandle<u64>, Box<dyn Error>> {
    let (mut log, snapshots) = (MemStore::new(), MemSnapshots::new());
    let recovered = boot(&mut log, &snapshots, &Boot::New { id, cluster: cluster.clone() })?;
    let transport = Arc::new(network.endpoint(recovered.identity()));
    let config = Config::new().heartbeat_interval(Duration::from_millis(10));
    let node = NodeBuilder::new(config, recovered, Box::new(log), Arc::new(snapshots));
    Ok(node.start(Counter::default(), |handler| {
        transport.start(handler);
        Ok(transport)
    })?)
}

/// Counts to 42, then loses its leader and goes on.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let urls = [("a", ["http://a:2380"]), ("b", ["http://b:2380"]), ("c", ["http://c:2380"])];
    let cluster = Cluster::from_initial("counters", &urls)?;
    let network = MemNetwork::new(1);
    let nodes: Vec<NodeHandle<u64>> = cluster
        .members()
        .map(|member| start(member.id, &cluster, &network))
        .collect::<Result<_, _>>()?;

    let add = |node: &NodeHandle<u64>, step: u64| node.propose(step.to_be_bytes().to_vec()).wait();
    assert_eq!(add(&nodes[0], 40)?.output, 40); // any member will do: it forwards to the leader
    assert_eq!(add(&nodes[1], 2)?.output, 42);
    println!("40 by one member and 2 by another are 42");

    let leader = nodes[1].leader();
    let (gone, rest): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.id() == leader);
    gone.iter().for_each(|node| drop(node.shutdown_gracefully(Duration::from_secs(1))));
    rest[0].read_index().wait()?; // waits until there is a leader again
    assert_eq!(add(rest[0], 1)?.output, 43);
    rest[1].read_index().wait()?; // from here on this member's own state shows the 43
    println!("the leader, {leader:x}, has stopped: 43 with the two that are left");
    Ok(())
}
