//! What a proposal costs the heap. In a program of its own: it counts what all threads allocate. Not with failpoints, which
//! allocate whenever one is passed.

#![cfg(not(feature = "failpoints"))]

use std::alloc::System;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::{
    ApplyError, Committed, Config, MemSnapshots, MemStore, NodeBuilder, NodeHandle, Observer,
    RestoreError, SnapshotId, SnapshotView, StateMachine,
};
use parking_lot::{Condvar, Mutex};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps the node thread of a lone member, which syncs the log itself, where it has just synced.
#[derive(Default)]
struct Gate {
    /// Whether it is shut, and how many have come to it since.
    shut: Mutex<(bool, u32)>,
    moved: Condvar,
}

impl Gate {
    fn shut(&self, shut: bool) {
        *self.shut.lock() = (shut, 0);
        self.moved.notify_all();
    }

    fn wait_for_somebody(&self) {
        let mut gate = self.shut.lock();
        let came = self.moved.wait_while_for(&mut gate, |(_, came)| *came == 0, PATIENCE);
        assert!(!came.timed_out(), "nobody synced");
    }
}

impl Observer for Gate {
    fn log_synced(&self, _: Duration) {
        let mut gate = self.shut.lock();
        gate.1 += 1;
        self.moved.notify_all();
        self.moved.wait_while_for(&mut gate, |(shut, _)| *shut, PATIENCE);
    }
}

struct Nothing;

impl StateMachine for Nothing {
    type Output = ();

    fn apply(&mut self, _: &Committed<'_>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
        Err("no snapshot is due".into())
    }

    fn restore(&mut self, _: SnapshotId, _: &mut dyn Read) -> Result<(), RestoreError> {
        Ok(())
    }
}

fn alone(gate: &Arc<Gate>) -> NodeHandle<()> {
    let cluster = Cluster::from_initial("heap", &[("a", ["http://a:1"])]).expect("a valid list");
    let (id, cluster_id) = (cluster.members().next().expect("one").id, cluster.id());
    let (mut log, snapshots) = (MemStore::new(), MemSnapshots::new());
    let recovered = boot(&mut log, &snapshots, &Boot::New { id, cluster }).expect("it boots");
    let transport = Arc::new(MemNetwork::new(1).endpoint(Identity::new(id, cluster_id)));
    let observer: Arc<dyn Observer> = Arc::<Gate>::clone(gate);
    // However long it is held up, it is not taken for stalled.
    let config = Config::new().election_ticks(600);
    let node = NodeBuilder::new(config, recovered, Box::new(log), Arc::new(snapshots))
        .observer(observer)
        .start(Nothing, |handler| {
            transport.start(handler);
            Ok(transport)
        })
        .expect("it starts");
    node.campaign();
    node.wait_leader(PATIENCE).expect("it leads");
    node
}

/// The slot of its answer; what it shares with others, a buffer and the room of queues, comes to little for each.
#[test]
fn a_small_proposal_takes_one_allocation_and_its_share_of_a_few() {
    const MANY: usize = 2000;
    let gate = Arc::new(Gate::default());
    let node = alone(&gate);
    node.propose("first").wait().expect("applied");
    gate.shut(true);
    let held_up = node.propose("held up");
    gate.wait_for_somebody();

    let data = Bytes::from_static(&[7; 128]);
    let heap = Region::new(HEAP);
    let answers: Vec<_> = (0..MANY).map(|_| node.propose(data.clone())).collect();
    gate.shut(false);
    for answer in answers {
        answer.wait().expect("applied");
    }
    let change = heap.change();

    held_up.wait().expect("applied");
    let taken = (change.allocations + change.reallocations) as f64 / MANY as f64;
    assert!(taken < 1.25, "{taken} allocations for a proposal");
    assert!(taken >= 1.0, "{taken} allocations for a proposal: does anybody count?");
}
