//! More at once than the log takes in one batch.

use std::path::Path;
use std::sync::Arc;

use oarlock_raftnode::bootstrap::{Boot, Recovered, boot};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::transport::{MemNetwork, MemTransport};
use oarlock_raftnode::{
    ConfigError, NodeBuilder, SnapshotStore, StartError, WalOptions, WalStore, WriteMode,
};

mod support;
use support::{Journal, config};

/// A new member alone, with segments of 256 KiB.
struct First {
    log: WalStore,
    snapshots: Arc<dyn SnapshotStore>,
    recovered: Recovered,
    transport: Arc<MemTransport>,
}

fn first_boot(dir: &Path) -> First {
    let mut log = WalOptions::new(dir).segment_size(256 << 10).create().expect("a log");
    let snapshots = log.snapshots();
    let cluster = Cluster::from_initial("t", &[("a", ["http://127.0.0.1:1"])]).expect("valid");
    let id = cluster.members().next().expect("one").id;
    let recovered = boot(&mut log, &*snapshots, &Boot::New { id, cluster }).expect("it boots");
    let transport = Arc::new(MemNetwork::new(7).endpoint(recovered.identity()));
    First { log, snapshots, recovered, transport }
}

/// A Ready, and a group of them even more, may hold more than a segment does.
#[test]
fn what_is_more_than_a_segment_is_written_in_several_batches() {
    for mode in [WriteMode::Auto, WriteMode::Pipelined] {
        let dir = tempfile::tempdir().expect("a directory");
        let First { log, snapshots, recovered, transport } = first_boot(dir.path());
        let config = config().max_request_bytes(64 << 10).write_mode(mode);
        let journal = Journal::default();
        let node = NodeBuilder::new(config.clone(), recovered, Box::new(log), snapshots)
            .start(journal.clone(), |handler| {
                transport.start(handler);
                Ok(Arc::clone(&transport))
            })
            .expect("it starts");
        // All of them wait for the election, and are appended together.
        let data = "x".repeat(40 << 10);
        let waiting: Vec<_> = (0..60).map(|_| node.propose(data.clone())).collect();
        for pending in waiting {
            pending.wait().expect("applied");
        }
        node.shutdown();

        let mut log = WalOptions::new(dir.path()).segment_size(256 << 10).open().expect("a log");
        let snapshots = log.snapshots();
        let again = boot(&mut log, &*snapshots, &Boot::Restart).expect("it boots");
        assert!(again.last_index >= 61, "{mode:?}: {}", again.last_index);
    }
}

/// Or the first such request would end every member that it reaches.
#[test]
fn a_log_too_small_for_the_largest_request_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let First { log, snapshots, recovered, transport } = first_boot(dir.path());
    let refused = NodeBuilder::new(
        config().max_request_bytes(256 << 10),
        recovered,
        Box::new(log),
        snapshots,
    )
    .start(Journal::default(), |_| Ok(transport));
    assert!(
        matches!(refused, Err(StartError::Config(ConfigError::RequestBeyondLog { .. }))),
        "{refused:?}"
    );
}
