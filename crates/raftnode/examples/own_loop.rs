//! An apply loop of your own, on the handoff that `StateMachine` is built on.
//!
//! `cargo run -p oarlock-raftnode --example own_loop`. The loop pulls what is to be applied, commits each batch to a store of
//! its own in one transaction, and then answers the proposers. With a database as the store, that is one commit per batch
//! and not one per entry.
#![expect(clippy::print_stdout, reason = "an example shows what came of it")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::transport::MemNetwork;
use oarlock_raftnode::{
    ApplyQueue, Config, MemSnapshots, MemStore, NodeBuilder, NodeHandle, SnapshotView, Step,
};

/// Stands for a database: lines, the index up to which they are committed, and the number of commits.
#[derive(Clone, Default)]
struct Store {
    lines: Vec<String>,
    applied: u64,
    commits: u64,
}

impl SnapshotView for Store {
    fn write_to(&mut self, to: &mut dyn Write) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| writeln!(to, "{line}"))
    }
}

fn read(content: &mut dyn Read) -> io::Result<Vec<String>> {
    Ok(io::read_to_string(content)?.lines().map(str::to_string).collect())
}

/// The loop. It ends with the node, and gives back what it has stored.
fn apply_loop(mut queue: ApplyQueue<usize>, mut store: Store) -> Store {
    while let Some(mut apply) = queue.recv() {
        let mut transaction = store.clone();
        let mut answers = Vec::new();
        while let Some(step) = apply.step() {
            match step {
                Step::Command(command) => {
                    transaction.lines.push(String::from_utf8_lossy(&command.data).into_owned());
                    transaction.applied = command.index;
                    answers.push((command, transaction.lines.len()));
                }
                Step::Snapshot { id, mut content } => match read(&mut *content) {
                    Ok(lines) => {
                        (transaction.lines, transaction.applied) = (lines, id.index);
                    }
                    Err(error) => {
                        apply.fail(error); // the node ends, and says why
                        return store;
                    }
                },
                Step::Members(_) => {} // of no interest here
            }
        }
        if transaction.applied != store.applied {
            transaction.commits += 1;
            store = transaction; // the commit
        }
        for (command, lines) in answers {
            apply.answer(&command, lines);
        }
        apply.done();
        if queue.snapshot_due(0) {
            queue.snapshot(Box::new(store.clone()));
        }
    }
    store
}

type Running = (NodeHandle<usize>, thread::JoinHandle<Store>);

fn start(
    (log, snapshots): &(MemStore, MemSnapshots),
    how: &Boot,
    store: Store,
) -> Result<Running, Box<dyn Error>> {
    let (mut log, snapshots) = (log.clone(), snapshots.clone());
    let recovered = boot(&mut log, &snapshots, how)?;
    let network = MemNetwork::new(1);
    let transport = Arc::new(network.endpoint(recovered.identity()));
    let config = Config::new().heartbeat_interval(Duration::from_millis(10)).snapshot_count(100);
    let builder = NodeBuilder::new(config, recovered, Box::new(log), Arc::new(snapshots));
    // The store says how far it has got, so that nothing is applied to it twice.
    let (node, queue) = builder.start_handoff(store.applied, |handler| {
        transport.start(handler);
        Ok(transport)
    })?;
    Ok((node, thread::spawn(move || apply_loop(queue, store))))
}

/// Writes 250 lines, most of them together; then restarts with the store as it is, and again with an empty one.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::from_initial("loops", &[("a", ["http://a:2380"])])?;
    let id = cluster.member_by_name("a").expect("it is listed").id;
    let disks = (MemStore::new(), MemSnapshots::new());

    let first = Boot::New { id, cluster };
    let (node, thread) = start(&disks, &first, Store::default())?;
    let pending: Vec<_> = (1..=250).map(|n| node.propose(format!("line {n}"))).collect();
    for (n, pending) in (1..).zip(pending) {
        assert_eq!(pending.wait()?.output, n);
    }
    node.shutdown();
    let store = thread.join().expect("the loop does not panic");
    assert_eq!(store.lines.len(), 250);
    assert!(store.commits < 250, "{} commits for 250 lines", store.commits);
    println!("commits for 250 lines: {}", store.commits);

    let (node, thread) = start(&disks, &Boot::Restart, store)?;
    assert_eq!(node.propose("line 251").wait()?.output, 251); // nothing was applied again
    node.shutdown();
    drop(thread.join());

    let (node, thread) = start(&disks, &Boot::Restart, Store::default())?;
    assert_eq!(node.propose("line 252").wait()?.output, 252); // the snapshot, and what follows it
    node.shutdown();
    let store = thread.join().expect("the loop does not panic");
    assert_eq!(store.lines.last().map(String::as_str), Some("line 252"));
    println!("started again with its store, and without: {} lines", store.lines.len());
    Ok(())
}
