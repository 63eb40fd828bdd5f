//! The handoff: what an apply loop may rely on, and what ends the node when it cannot be relied on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::{Change, Cluster};
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::{
    Apply, ApplyQueue, Config, MemSnapshots, MemStore, NodeBuilder, NodeEnd, NodeError, NodeHandle,
    ReadError, Role, SnapshotView, StartError, Step,
};

mod support;
use support::read_through::ReadThrough;
use support::{PATIENCE, TestCluster, config, member, wait_for};

/// One member, its disk and its handoff.
struct Lone {
    queue: ApplyQueue<String>,
    node: NodeHandle<String>,
    disk: (MemStore, MemSnapshots),
}

fn cluster() -> Cluster {
    Cluster::from_initial("handoff", &[("a", ["http://a:1"])]).expect("a valid list")
}

fn builder(config: Config, (store, snapshots): &(MemStore, MemSnapshots)) -> (NodeBuilder, u64) {
    let (mut log, snapshots, cluster) = (store.clone(), snapshots.clone(), cluster());
    let id = cluster.members().next().expect("one").id;
    let fresh = log.is_fresh();
    let how = if fresh { Boot::New { id, cluster } } else { Boot::Restart };
    let recovered = boot(&mut log, &snapshots, &how).expect("it boots");
    (NodeBuilder::new(config, recovered, Box::new(log), Arc::new(snapshots)), id)
}

trait Fresh {
    fn is_fresh(&self) -> bool;
}

impl Fresh for MemStore {
    fn is_fresh(&self) -> bool {
        !oarlock_raftnode::bootstrap::is_initialised(self).expect("it reads")
    }
}

fn start(config: Config, disk: (MemStore, MemSnapshots), applied: u64) -> Lone {
    let (builder, id) = builder(config, &disk);
    run(builder, id, disk, applied)
}

fn run(builder: NodeBuilder, id: u64, disk: (MemStore, MemSnapshots), applied: u64) -> Lone {
    let transport = Arc::new(MemNetwork::new(1).endpoint(Identity::new(id, cluster().id())));
    let (node, queue) = builder
        .start_handoff(applied, |handler| {
            transport.start(handler);
            Ok(transport)
        })
        .expect("it starts");
    Lone { node, queue, disk }
}

/// What a loop saw.
#[derive(Debug, Default)]
struct Seen {
    lines: Vec<String>,
    last: u64,
    members: usize,
    restored: u64,
}

impl Seen {
    fn take(&mut self, mut apply: Apply<'_, String>) {
        while let Some(step) = apply.step() {
            match step {
                Step::Command(command) => {
                    let line = String::from_utf8(command.data.to_vec()).expect("text");
                    assert!(command.index > self.last, "{} after {}", command.index, self.last);
                    self.last = command.index;
                    apply.answer(&command, line.clone());
                    self.lines.push(line);
                }
                Step::Members(cluster) => self.members = cluster.members().count(),
                Step::Snapshot { id, mut content } => {
                    let text = std::io::read_to_string(&mut content).expect("whole");
                    self.lines = text.lines().map(str::to_string).collect();
                    (self.last, self.restored) = (id.index, id.index);
                }
            }
        }
        apply.done();
    }

    /// Until the node has applied `index`, or has ended.
    fn take_to(&mut self, lone: &mut Lone, index: u64) {
        while lone.node.vitals().applied < index {
            let Some(apply) = lone.queue.recv_timeout(Duration::from_millis(20)) else { return };
            self.take(apply);
        }
    }
}

struct Lines(Vec<String>);

impl SnapshotView for Lines {
    fn write_to(&mut self, to: &mut dyn std::io::Write) -> std::io::Result<()> {
        self.0.iter().try_for_each(|line| writeln!(to, "{line}"))
    }
}

/// Stops a node whose loop goes on pulling until it hears of that.
fn stop_while_pulling(node: &NodeHandle<String>, mut queue: ApplyQueue<String>, seen: &mut Seen) {
    let node = node.clone();
    let stop = std::thread::spawn(move || node.shutdown());
    while let Some(apply) = queue.recv() {
        seen.take(apply);
    }
    drop(queue);
    assert!(matches!(stop.join().expect("no panic"), NodeEnd::Stopped));
}

fn disk() -> (MemStore, MemSnapshots) {
    (MemStore::new(), MemSnapshots::new())
}

#[test]
fn what_was_proposed_is_pulled_answered_and_counted_as_applied_when_it_is_done() {
    let mut lone = start(config(), disk(), 0);
    lone.node.campaign();
    let pending = lone.node.propose("one");
    let mut seen = Seen::default();
    let applied = loop {
        let mut apply = lone.queue.recv().expect("it runs");
        let before = lone.node.vitals().applied;
        let Some(Step::Command(command)) =
            std::iter::from_fn(|| apply.step()).find(|step| matches!(step, Step::Command(_)))
        else {
            apply.done();
            continue;
        };
        apply.answer(&command, "answered".to_string());
        assert_eq!(lone.node.vitals().applied, before, "it is not done");
        apply.done();
        break command.index;
    };
    let answer = pending.wait().expect("applied");
    assert_eq!((answer.output.as_str(), answer.index), ("answered", applied));
    assert!(lone.node.wait_applied(applied, Duration::from_secs(5)));
    // A read waits for `done` as well.
    let (two, read) = (lone.node.propose("two"), lone.node.read_index());
    wait_for("the read to be answered", || {
        if let Some(apply) = lone.queue.recv_timeout(Duration::from_millis(5)) {
            seen.take(apply);
        }
        (two.is_ready() && read.is_ready()).then_some(())
    });
    assert!(lone.node.vitals().applied >= read.wait().expect("it leads"));
    assert_eq!(seen.lines, ["two"]);
    assert_eq!(two.wait().expect("applied").output, "two");
    // The stop waits for the loop, which hears of it at once.
    stop_while_pulling(&lone.node, lone.queue, &mut seen);
}

/// O8: the loop pulls on, and so decides when the change is judged; who proposed it waits for `done`.
#[test]
fn a_change_of_members_is_awaited() {
    let mut lone = start(config(), disk(), 0);
    lone.node.campaign();
    let mut seen = Seen::default();
    wait_for("the first entries", || {
        seen.take(lone.queue.recv_timeout(Duration::from_millis(5)).expect("it runs"));
        (lone.node.vitals().applied >= 2).then_some(())
    });
    assert_eq!(seen.members, 1);
    let change = lone.node.change_members(Change::AddLearner(member(77)));
    wait_for("it to be committed", || (lone.node.vitals().commit >= 3).then_some(()));
    assert_eq!(lone.node.cluster().members().count(), 1, "nobody has pulled it");
    assert!(!change.is_ready());
    seen.take_to(&mut lone, 3);
    assert_eq!(change.wait().expect("accepted").members().count(), 2);
    assert_eq!(seen.members, 2);
}

#[test]
fn a_state_that_is_durable_by_itself_is_given_nothing_twice_and_no_snapshot_ahead_of_its_log() {
    let mut lone = start(config().snapshot_count(5), disk(), 0);
    lone.node.campaign();
    let mut seen = Seen::default();
    let pending: Vec<_> = (1..=20).map(|n| lone.node.propose(format!("{n}"))).collect();
    seen.take_to(&mut lone, 22);
    drop(pending);
    assert_eq!(seen.lines.len(), 20);
    assert!(lone.queue.snapshot_due(0));
    assert!(!lone.queue.snapshot_due(1 << 40), "a large state waits until the log has grown");
    lone.queue.snapshot(Box::new(Lines(seen.lines.clone())));
    wait_for("the snapshot", || {
        seen.take(lone.queue.recv_timeout(Duration::from_millis(5)).expect("it runs"));
        (lone.node.status().snapshot_index == 22).then_some(())
    });
    let tail = lone.node.propose("tail");
    seen.take_to(&mut lone, 23);
    assert_eq!(tail.wait().expect("applied").index, 23);
    let disk = stop(lone);

    let mut again = start(config().snapshot_count(1), disk, 23);
    let mut nothing = Seen::default();
    let apply = again.queue.recv().expect("it runs");
    nothing.take(apply); // the members
    assert!(!again.queue.snapshot_due(0), "the state is at 23, the log is at 22");
    nothing.take_to(&mut again, 24);
    assert_eq!((nothing.lines.len(), nothing.restored), (0, 0));
    let disk = stop(again);

    let mut anew = start(config(), disk.clone(), 0);
    let mut all = Seen::default();
    all.take_to(&mut anew, 24);
    assert_eq!((all.restored, all.lines), (22, seen.lines));
    stop(anew);

    let (builder, id) = builder(config(), &disk);
    let transport = Arc::new(MemNetwork::new(1).endpoint(Identity::new(id, cluster().id())));
    let ahead = builder.start_handoff::<String, _>(99, |_| Ok(transport));
    assert!(matches!(ahead, Err(StartError::StateMachineAhead { applied: 99, .. })), "{ahead:?}");
}

fn stop(lone: Lone) -> (MemStore, MemSnapshots) {
    let Lone { node, queue, disk } = lone;
    let stop = std::thread::spawn(move || node.shutdown());
    let mut queue = queue;
    while let Some(apply) = queue.recv() {
        Seen { last: 0, ..Seen::default() }.take(apply);
    }
    drop(queue);
    assert!(matches!(stop.join().expect("no panic"), NodeEnd::Stopped));
    disk
}

/// So many lines of 10,000 bytes are in the log of [`disk_with_long_log`].
const LINES: usize = 400;

/// The disk of a member that stopped with a long log and no snapshot.
fn disk_with_long_log() -> (MemStore, MemSnapshots) {
    let mut lone = start(config(), disk(), 0);
    lone.node.campaign();
    let mut seen = Seen::default();
    let pending: Vec<_> = (0..LINES).map(|_| lone.node.propose(vec![b'x'; 10_000])).collect();
    seen.take_to(&mut lone, LINES as u64 + 2);
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
    stop(lone)
}

/// Back-pressure: a member that starts with a long log hands over no more than the bound, and goes on when there is room.
#[test]
fn a_long_log_is_handed_over_in_bounded_pieces() {
    let disk = disk_with_long_log();

    let (backlog, batch) = (200_000, 50_000);
    let config = config().max_apply_backlog(backlog).max_apply_bytes(batch);
    let mut again = start(config, disk, 0);
    wait_for("everything to be committed", || {
        (again.node.vitals().commit >= LINES as u64 + 2).then_some(())
    });
    wait_for("as much as may to be handed over", || {
        (again.node.status().apply_backlog > backlog).then_some(())
    });
    // Whatever wakes the node, it hands over no more.
    for _ in 0..50 {
        drop(again.node.propose("busy"));
        assert!(again.node.status().apply_backlog <= backlog + batch + 20_000);
    }
    let busy = again.node.propose("busy").wait().expect_err("the state lags");
    assert!(busy.is_definite(), "{busy}");
    let mut all = Seen::default();
    all.take_to(&mut again, LINES as u64 + 3);
    assert_eq!(all.lines.len(), LINES, "each once, in order, and none of the refused");
    let goes_on = again.node.propose("room again");
    wait_for("an answer", || {
        all.take(again.queue.recv_timeout(Duration::from_millis(5)).expect("it runs"));
        goes_on.is_ready().then_some(())
    });
    goes_on.wait().expect("there is room");
}

/// raft-rs asks for everything that is committed and not applied before each election.
#[test]
fn an_election_with_a_long_log_reads_none_of_it_at_once() {
    let disk = disk_with_long_log();

    let (backlog, batch) = (200_000, 50_000);
    let config = config().max_apply_backlog(backlog).max_apply_bytes(batch).tail_cache_bytes(batch);
    let largest = Arc::new(AtomicU64::new(0));
    let most = Arc::clone(&largest);
    let mut log = ReadThrough::new(disk.0.clone(), move |log, (low, high, max_bytes)| {
        let entries = log.entries(low, high, max_bytes)?;
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        most.fetch_max(bytes, Ordering::Relaxed);
        Ok(entries)
    });
    let recovered = boot(&mut log, &disk.1, &Boot::Restart).expect("it boots");
    let id = recovered.id;
    let builder = NodeBuilder::new(config, recovered, Box::new(log), Arc::new(disk.1.clone()));
    largest.store(0, Ordering::Relaxed);
    let mut again = run(builder, id, disk, 0);
    let mut all = Seen::default();
    // It is elected once the founding changes are applied, with most of the log still to come.
    wait_for("an election", || {
        if all.lines.is_empty() {
            all.take(again.queue.recv_timeout(Duration::from_millis(5))?);
        }
        (again.node.vitals().role == Role::Leader).then_some(())
    });
    assert!(all.lines.len() < LINES / 2, "{} were applied before", all.lines.len());
    all.take_to(&mut again, LINES as u64 + 3);
    assert_eq!(all.lines.len(), LINES);
    let largest = largest.load(Ordering::Relaxed);
    assert!(largest <= 1 << 20, "{largest} bytes were read at once");
    stop(again);
}

/// A view that says when it is written, and is dropped when it is not to be.
struct Written(mpsc::Sender<()>);

impl SnapshotView for Written {
    fn write_to(&mut self, _: &mut dyn std::io::Write) -> std::io::Result<()> {
        let _ = self.0.send(());
        Ok(())
    }
}

/// With the steps that were pulled it would say that it holds them, and the log would let them go.
#[test]
fn no_snapshot_is_taken_of_a_state_whose_last_apply_was_left() {
    let leave: [fn(Apply<'_, String>); 3] =
        [|apply| drop(apply), |apply| apply.done(), |apply| apply.fail("no room")];
    for (how, leave) in leave.into_iter().enumerate() {
        let mut lone = start(config(), disk(), 0);
        lone.node.campaign();
        let mut seen = Seen::default();
        seen.take_to(&mut lone, 2); // the founders, and the first of the term: the members are known
        let _one = lone.node.propose("one");
        wait_for("the command", || {
            let mut apply = lone.queue.recv_timeout(Duration::from_millis(5))?;
            match apply.step() {
                Some(Step::Command(_)) => {
                    leave(apply);
                    Some(())
                }
                _ => {
                    while apply.step().is_some() {}
                    apply.done();
                    None
                }
            }
        });
        let state = lone.queue.applied();
        let (sender, written) = mpsc::channel();
        lone.queue.snapshot(Box::new(Written(sender)));
        if how == 1 {
            // Its one step was pulled and is done, in good order.
            assert_eq!(written.recv_timeout(PATIENCE), Ok(()), "a snapshot of {state}");
            stop(lone);
        } else {
            let gone = written.recv_timeout(PATIENCE);
            assert_eq!(gone, Err(RecvTimeoutError::Disconnected), "half of {state} was written");
        }
    }
}

#[test]
fn a_loop_that_leaves_its_work_or_fails_ends_the_node() {
    type Leave = fn(ApplyQueue<String>);
    type Expected = fn(&NodeError) -> bool;
    let gone = |error: &NodeError| matches!(error, NodeError::ApplyLoopGone);
    let failed = |error: &NodeError| matches!(error, NodeError::Apply { .. });
    #[rustfmt::skip]
    let cases: [(&str, Leave, Expected); 4] = [
        ("drops the queue", |queue| drop(queue), gone),
        ("pulls the next before this one is done", |mut queue| {
            assert!(queue.recv().is_some());
            assert!(queue.recv().is_none());
        }, gone),
        ("says done and has left a step", |mut queue| {
            queue.recv().expect("it runs").done();
            assert!(queue.recv().is_none());
        }, gone),
        ("says that it failed", |mut queue| {
            let mut apply = queue.recv().expect("it runs");
            while apply.step().is_some() {}
            apply.fail("no room");
            assert!(queue.recv().is_none());
        }, failed),
    ];
    for (name, leave, expected) in cases {
        let Lone { node, queue, .. } = start(config(), disk(), 0);
        leave(queue);
        let end = node.wait_end();
        assert!(end.error().is_some_and(expected), "{name}: {end:?}");
    }
}

/// A restore with which a loop begins is watched like any other, though the node has handed over nothing yet.
#[test]
fn a_first_restore_that_hangs_is_reported() {
    let mut lone = start(config().snapshot_count(3), disk(), 0);
    lone.node.campaign();
    let mut seen = Seen::default();
    seen.take_to(&mut lone, 2);
    let change = lone.node.change_members(Change::AddVoter(member(77))); // without whom nobody leads from now on
    seen.take_to(&mut lone, 3);
    change.wait().expect("accepted");
    lone.queue.snapshot(Box::new(Lines(Vec::new())));
    wait_for("the snapshot", || (lone.node.status().snapshot_index == 3).then_some(()));
    let disk = stop(lone);

    let config = config().election_ticks(10);
    let timeout = config.election_timeout();
    let mut lone = start(config, disk, 0);
    let mut apply = lone.queue.recv().expect("how it begins");
    assert!(matches!(apply.step(), Some(Step::Snapshot { .. })));
    wait_for("the report", || (lone.node.stats().apply_stalls > 0).then_some(()));
    while apply.step().is_some() {}
    apply.done();
    std::thread::sleep(2 * timeout);
    assert_eq!(lone.node.stats().apply_stalls, 1, "it has nothing to do any more");
}

/// O24. A member that has a snapshot of all that is committed has nothing to apply after it; but its state is still empty.
#[test]
fn no_read_is_answered_from_a_state_that_is_still_to_be_restored() {
    let config = config().snapshot_count(1).request_timeout(Duration::from_secs(1));
    let mut cluster = TestCluster::new(3, config.clone());
    let leader = cluster.leader();
    cluster.handle(leader).propose("written").wait().expect("applied");
    cluster.settle(1);
    let id = cluster.follower();
    wait_for("a snapshot of everything", || {
        let status = cluster.handle(id).status();
        (status.snapshot_index == status.applied && status.commit == status.applied).then_some(())
    });
    cluster.stop(id);
    let (mut log, snapshots) =
        (cluster.nodes[&id].store.clone(), cluster.nodes[&id].snapshots.clone());
    let recovered = boot(&mut log, &snapshots, &Boot::Restart).expect("it boots");
    let transport = Arc::new(cluster.network.endpoint(recovered.identity()));
    let (node, mut queue) = NodeBuilder::new(config, recovered, Box::new(log), Arc::new(snapshots))
        .start_handoff::<String, _>(0, |handler| {
            transport.start(handler);
            Ok(transport)
        })
        .expect("it starts");
    assert!(node.wait_leader(PATIENCE).is_some());
    let early = node.read_index().wait();
    assert_eq!(early, Err(ReadError::TimedOut), "the loop has not even begun");
    let waits = node.read_index();
    let mut seen = Seen::default();
    let mut apply = queue.recv().expect("how it begins");
    assert!(!node.wait_applied(1, Duration::ZERO), "nothing is in the state");
    assert!(matches!(apply.step(), Some(Step::Snapshot { .. })));
    assert!(!waits.is_ready());
    while apply.step().is_some() {}
    apply.done();
    let index = waits.wait().expect("it is restored");
    assert!(node.wait_applied(index, PATIENCE));
    stop_while_pulling(&node, queue, &mut seen);
}

/// It would take the place of the snapshot that the state is to be restored from, and hold nothing.
#[test]
fn no_snapshot_is_taken_of_a_state_that_is_still_to_be_restored() {
    let mut lone = start(config(), disk(), 0);
    lone.node.campaign();
    let mut seen = Seen::default();
    let _one = lone.node.propose("one");
    seen.take_to(&mut lone, 3);
    lone.queue.snapshot(Box::new(Lines(seen.lines.clone())));
    wait_for("the snapshot", || (lone.node.status().snapshot_index == 3).then_some(()));
    let disk = stop(lone);

    let mut lone = start(config(), disk, 0);
    let (sender, written) = mpsc::channel();
    lone.queue.snapshot(Box::new(Written(sender)));
    let gone = written.recv_timeout(PATIENCE);
    assert_eq!(gone, Err(RecvTimeoutError::Disconnected), "an empty state was written");
    let disk = stop(lone);

    let mut anew = start(config(), disk, 0);
    let mut all = Seen::default();
    all.take(anew.queue.recv().expect("how it begins"));
    assert_eq!((all.restored, all.lines), (3, vec!["one".to_string()]));
    stop(anew);
}
