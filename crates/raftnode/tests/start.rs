//! What a node refuses to start from: each mistake would otherwise cost data, or the cluster, later.

use std::sync::Arc;

use oarlock_raftnode::bootstrap::{Boot, Recovered, boot};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::raft::eraftpb::{ConfState, Entry};
use oarlock_raftnode::transport::{Identity, MemNetwork, TcpOptions, TcpTransport};
use oarlock_raftnode::{
    Config, ConfigError, LogBatch, LogError, LogReader, LogState, LogStore, MemSnapshots, MemStore,
    NodeBuilder, NodeHandle, SnapshotHead, SnapshotId, SnapshotMark, SnapshotStore, StartError,
    Window,
};

mod support;
use support::{Journal, config};

fn cluster() -> Cluster {
    Cluster::from_initial("start", &[("a", ["http://127.0.0.1:1"])]).expect("a valid list")
}

fn found(log: &mut dyn LogStore) -> Recovered {
    let cluster = cluster();
    let id = cluster.members().next().expect("one").id;
    boot(log, &MemSnapshots::new(), &Boot::New { id, cluster }).expect("it boots")
}

fn start(
    config: Config,
    recovered: Recovered,
    log: impl LogStore,
) -> Result<NodeHandle<usize>, StartError> {
    let identity = Identity::new(recovered.id, recovered.cluster.id());
    let transport = Arc::new(MemNetwork::new(1).endpoint(identity));
    NodeBuilder::new(config, recovered, Box::new(log), Arc::new(MemSnapshots::new())).start(
        Journal::default(),
        |handler| {
            transport.start(handler);
            Ok(transport)
        },
    )
}

/// It would take the last start's incarnation for its own: the first proposal would be answered with the result of the
/// first one of that start, and have no effect.
#[test]
fn a_log_that_was_started_since_it_was_booted_is_booted_again() {
    let mut log = MemStore::new();
    let old = found(&mut log);
    let recovered = boot(&mut log, &MemSnapshots::new(), &Boot::Restart).expect("it boots");
    let refused = start(config(), old, log.clone()).expect_err("the old one is of no use");
    assert!(matches!(refused, StartError::NotRecovered), "{refused:?}");

    let node = start(config(), recovered, log.clone()).expect("the new one is");
    assert_eq!(node.propose("one").wait().expect("applied").output, 1);
    node.shutdown();
}

/// Its term and vote would be those of the other log.
#[test]
fn another_log_than_was_booted_is_refused() {
    let recovered = found(&mut MemStore::new());
    let refused = start(config(), recovered, MemStore::new()).expect_err("it is empty");
    assert!(matches!(refused, StartError::NotRecovered), "{refused:?}");

    let (recovered, mut other) = (found(&mut MemStore::new()), MemStore::new());
    found(&mut other);
    let refused = start(config(), recovered, other).expect_err("it has another birth");
    assert!(matches!(refused, StartError::NotRecovered), "{refused:?}");
}

/// A log with a snapshot at its end, and its snapshots.
fn with_snapshot(token: &str) -> (MemStore, MemSnapshots) {
    let cluster = Cluster::from_initial(token, &[("a", ["http://127.0.0.1:1"])]).expect("valid");
    let id = cluster.members().next().expect("one").id;
    let (mut log, snapshots) = (MemStore::new(), MemSnapshots::new());
    boot(&mut log, &snapshots, &Boot::New { id, cluster: cluster.clone() }).expect("it boots");
    let mark = SnapshotMark { index: 1, term: 1, conf_state: ConfState::from((vec![id], vec![])) };
    let head =
        SnapshotHead { mark: mark.clone(), cluster, window: Window::new(), births: [].into() };
    let mut sink = snapshots.create(head.id()).expect("there is room");
    head.write_to(&mut *sink).expect("there is room");
    sink.commit().expect("there is room");
    log.append(&LogBatch { compact: Some(mark), ..LogBatch::default() }).expect("it fits");
    log.sync().expect("no fault");
    (log, snapshots)
}

/// What it cannot send, a follower that is far behind would wait for in vain; and what is there is not its own to purge.
#[test]
fn other_snapshots_than_were_booted_with_are_refused() {
    let start = |log: &MemStore, booted: &MemSnapshots, given: &MemSnapshots| {
        let mut log = log.clone();
        let recovered = boot(&mut log, booted, &Boot::Restart).expect("it boots");
        let identity = Identity::new(recovered.id, recovered.cluster.id());
        let transport = Arc::new(MemNetwork::new(1).endpoint(identity));
        // The state holds all of it already, so that nobody needs the snapshot to begin with.
        let node = NodeBuilder::new(config(), recovered, Box::new(log), Arc::new(given.clone()));
        node.start_handoff::<(), _>(1, |handler| {
            transport.start(handler);
            Ok(transport)
        })
        .map(|(node, queue)| {
            drop(queue);
            node.shutdown();
        })
    };
    let ((log, own), (other_log, other)) = (with_snapshot("one"), with_snapshot("another"));
    for given in [MemSnapshots::new(), other.clone()] {
        let refused = start(&log, &own, &given).expect_err("these are others");
        let needed = SnapshotId { index: 1, term: 1 };
        assert!(
            matches!(refused, StartError::OtherSnapshots { needed: id } if id == needed),
            "{refused:?}"
        );
    }
    start(&log, &own, &own).expect("its own");
    start(&other_log, &other, &other).expect("its own");

    let mut young = MemStore::new();
    found(&mut young);
    let refused = start(&young, &MemSnapshots::new(), &other).expect_err("of another cluster");
    assert!(matches!(refused, StartError::ForeignSnapshots { .. }), "{refused:?}");
    start(&young, &MemSnapshots::new(), &MemSnapshots::new()).expect("none yet");
}

/// A log whose readers see less than it says it holds, about which raft-rs panics.
struct Contradiction(MemStore);

impl LogStore for Contradiction {
    fn state(&self) -> Result<LogState, LogError> {
        self.0.state()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Nothing)
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        self.0.append(batch)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.0.sync()
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        self.0.release(before)
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Box::new(self.0).close()
    }
}

struct Nothing;

impl LogReader for Nothing {
    fn entries(&self, low: u64, _: u64, _: u64) -> Result<Vec<Entry>, LogError> {
        Err(LogError::Unavailable { index: low, last: 0 })
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        Err(LogError::Unavailable { index, last: 0 })
    }

    fn first_index(&self) -> u64 {
        1
    }

    fn last_index(&self) -> u64 {
        0
    }
}

#[test]
fn what_raft_panics_about_is_an_error_of_the_start() {
    let mut log = Contradiction(MemStore::new());
    let recovered = found(&mut log);
    let refused = start(config(), recovered, log).expect_err("its readers contradict it");
    assert!(
        matches!(&refused, StartError::Raft(why) if why.contains("out of range")),
        "{refused:?}"
    );
}

/// The leader would append it, could never send it, and commit nothing any more.
#[test]
fn requests_that_no_frame_can_carry_are_refused_at_the_start() {
    let start = |config: Config| {
        let mut log = MemStore::new();
        let recovered = found(&mut log);
        let identity = Identity::new(recovered.id, recovered.cluster.id());
        NodeBuilder::new(config, recovered, Box::new(log), Arc::new(MemSnapshots::new())).start(
            Journal::default(),
            |handler| {
                let options = TcpOptions::new().max_frame(1 << 20);
                let transport = TcpTransport::bind(identity, "127.0.0.1:0", options)?;
                transport.start(handler)?;
                Ok(Arc::new(transport))
            },
        )
    };
    let fitting = config().max_request_bytes(1000 << 10).max_size_per_msg(1000 << 10);
    for config in
        [fitting.clone().max_request_bytes(1 << 20), fitting.clone().max_size_per_msg(1 << 20)]
    {
        let refused = start(config).expect_err("a frame holds a mebibyte");
        assert!(
            matches!(
                refused,
                StartError::Config(ConfigError::MessageBeyondFrame { message, frame: 0x10_0000 })
                    if message > 0x10_0000
            ),
            "{refused:?}"
        );
    }
    start(fitting).expect("it fits").shutdown();
}
