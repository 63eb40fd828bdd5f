//! Who stands still is reported, and costs no more than it must (O12); what panics ends the node and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::{
    Busy, LogError, LogReader, MemSnapshots, MemStore, NodeBuilder, NodeEnd, NodeError, NodeHandle,
    Observer, PeerState, ProposeError, Role, SnapshotError, SnapshotId, SnapshotSink,
    SnapshotSource, SnapshotStore, Stalled, Vitals, WriteMode,
};
use parking_lot::{Condvar, Mutex};

mod support;
use support::read_through::ReadThrough;
use support::{Journal, Machine, TestCluster, config, wait_for};

/// A disk whose syncs, or reads, can be held up or made to fail.
#[derive(Clone, Default)]
struct Disk {
    gate: Arc<(Mutex<bool>, Condvar)>,
    unreadable: Arc<Mutex<bool>>,
}

impl Disk {
    fn hang(&self, hang: bool) {
        *self.gate.0.lock() = hang;
        self.gate.1.notify_all();
    }

    fn pass(&self) {
        let mut hangs = self.gate.0.lock();
        while *hangs {
            self.gate.1.wait(&mut hangs);
        }
    }

    /// The log on this disk.
    fn log(&self, store: MemStore) -> ReadThrough {
        let (disk, unreadable) = (self.clone(), Arc::clone(&self.unreadable));
        let read = move |log: &dyn LogReader, (low, high, max_bytes)| {
            if *unreadable.lock() {
                return Err(LogError::Corrupt { detail: "a flipped bit".into(), place: None });
            }
            log.entries(low, high, max_bytes)
        };
        ReadThrough::new(store, read).before_sync(move || disk.pass())
    }
}

/// Who was told to stand still, and when; by how much the latest heartbeat was late; and a trap for the next change of role.
#[derive(Default)]
struct Watcher {
    stalls: Mutex<Vec<(Stalled, Instant)>>,
    late: Mutex<Duration>,
    panics: Mutex<bool>,
}

impl Observer for Watcher {
    fn stalled(&self, what: Stalled) {
        self.stalls.lock().push((what, Instant::now()));
    }

    fn heartbeat_late(&self, _: u64, late: Duration) {
        let mut latest = self.late.lock();
        *latest = late.max(*latest);
    }

    fn role_changed(&self, _: &Vitals) {
        assert!(!*self.panics.lock(), "a bug of the observer");
    }
}

/// Replaces a member's node by one on a disk that can hang, with somebody who watches.
fn watch(cluster: &mut TestCluster, id: u64) -> (Disk, Arc<Watcher>) {
    cluster.stop(id);
    let (disk, watcher) = (Disk::default(), Arc::new(Watcher::default()));
    let (store, snapshots) = {
        let node = &cluster.nodes[&id];
        (node.store.clone(), node.snapshots.clone())
    };
    let handle = start(cluster, id, store, &snapshots, &disk, &watcher);
    cluster.nodes.get_mut(&id).expect("a member").handle = Some(handle);
    (disk, watcher)
}

fn start(
    cluster: &TestCluster,
    id: u64,
    store: MemStore,
    snapshots: &MemSnapshots,
    disk: &Disk,
    watcher: &Arc<Watcher>,
) -> NodeHandle<usize> {
    let mut log = Box::new(disk.log(store));
    let recovered = boot(&mut *log, snapshots, &Boot::Restart).expect("it boots");
    let journal = cluster.nodes[&id].journal.clone();
    journal.lines.lock().clear();
    let observer: Arc<dyn Observer> = Arc::<Watcher>::clone(watcher);
    let (identity, snapshots) = (recovered.identity(), Arc::new(snapshots.clone()));
    let builder = NodeBuilder::new(cluster.config.clone(), recovered, log, snapshots);
    cluster.start(identity, builder.observer(observer), &journal)
}

/// A leader with a disk that stalls: heartbeats on time, leadership handed over and the stall reported within two election
/// timeouts, writes go on elsewhere.
#[test]
fn a_leader_whose_disk_hangs_hands_over_within_two_election_timeouts() {
    let mut cluster = TestCluster::new(3, config());
    let first = cluster.leader();
    let (disk, watcher) = watch(&mut cluster, first);
    wait_for("it to lead again", || {
        let leader = cluster.leader();
        (leader == first).then_some(()).or_else(|| {
            let _ = cluster.handle(leader).transfer_leader(first).wait();
            None
        })
    });
    cluster.handle(first).propose("before").wait().expect("applied");
    *watcher.late.lock() = Duration::ZERO;
    let machine = Machine::watch();
    disk.hang(true);
    let began = Instant::now();
    let stuck = cluster.handle(first).propose("committed by the others");
    let second = wait_for("another leader", || {
        let leads = |id: &u64| cluster.handle(*id).vitals().role == Role::Leader;
        cluster.ids().into_iter().filter(|id| *id != first).find(leads)
    });
    let took = began.elapsed();
    let (what, when) = *watcher.stalls.lock().first().expect("nobody was told of the disk");
    assert_eq!(what, Stalled::Disk);
    // A busy machine makes everybody late, and this by several steps one after the other.
    let (late, machine) = (*watcher.late.lock(), machine.latest());
    let bound = 2 * cluster.config.election_timeout() + 10 * machine;
    assert!(took < bound, "it took {took:?}, bound is {bound:?}: the machine was {machine:?} late");
    assert!(when - began < bound, "reported after {:?}, bound is {bound:?}", when - began);
    let bound = cluster.config.election_timeout() / 10 + 4 * machine;
    assert!(late < bound, "a heartbeat left {late:?} late, and the machine was {machine:?} late");
    cluster.handle(second).propose("goes on").wait().expect("two of three");
    assert!(cluster.handle(first).status().disk_stalled);
    disk.hang(false);
    drop(stuck);
    cluster.settle(3);
    wait_for("it to be well again", || {
        (!cluster.handle(first).status().disk_stalled).then_some(())
    });
}

/// Nobody can take over from a lone member. Inline the node thread itself hangs; somebody else notices, and says so.
#[test]
fn a_lone_member_whose_disk_hangs_says_so_and_refuses() {
    for mode in [WriteMode::Auto, WriteMode::Pipelined] {
        let config = config().election_ticks(10).write_mode(mode);
        let mut cluster = TestCluster::new(1, config.stop_timeout(Duration::from_secs(2)));
        let id = cluster.leader();
        let (disk, watcher) = watch(&mut cluster, id);
        cluster.leader();
        disk.hang(true);
        let stuck = cluster.handle(id).propose("stuck");
        wait_for("the stall to be told", || {
            watcher.stalls.lock().iter().any(|(what, _)| *what == Stalled::Disk).then_some(())
        });
        let began = Instant::now();
        let refused = cluster.handle(id).propose("refused").wait();
        assert_eq!(
            refused.expect_err("the disk hangs"),
            ProposeError::Busy(Busy::DiskStalled),
            "{mode:?}"
        );
        assert!(began.elapsed() < Duration::from_secs(1), "{mode:?}: at once");
        assert!(cluster.handle(id).status().disk_stalled, "{mode:?}");
        disk.hang(false);
        stuck.wait().expect("the disk has answered");
        cluster.handle(id).propose("after").wait().expect("and goes on");
        assert_eq!(cluster.settle(2), ["stuck", "after"], "{mode:?}");
    }
}

/// What hangs a disk may well hang a state machine that keeps its state on it.
#[test]
fn a_disk_that_hangs_together_with_the_state_machine_is_reported() {
    let mut cluster = TestCluster::new(1, config().election_ticks(10));
    let id = cluster.leader();
    let (disk, watcher) = watch(&mut cluster, id);
    cluster.leader();
    let gate = Arc::clone(&cluster.nodes[&id].journal.gate);
    let closed = gate.lock();
    let held = cluster.handle(id).propose("wait");
    wait_for("it to be committed", || {
        let vitals = cluster.handle(id).vitals();
        (vitals.commit > vitals.applied).then_some(())
    });
    disk.hang(true);
    let stuck = cluster.handle(id).propose("stuck");
    wait_for("the stall to be told", || {
        watcher.stalls.lock().iter().any(|(what, _)| *what == Stalled::Disk).then_some(())
    });
    disk.hang(false);
    drop(closed);
    held.wait().expect("both go on");
    stuck.wait().expect("both go on");
}

/// O14: a log that does not close holds up nobody who stops the node, whoever writes it.
#[test]
fn a_log_that_does_not_close_keeps_nobody_waiting() {
    for mode in [WriteMode::Auto, WriteMode::Pipelined] {
        let config = config().write_mode(mode).stop_timeout(Duration::from_millis(200));
        let mut cluster = TestCluster::new(1, config);
        let id = cluster.leader();
        let (disk, _) = watch(&mut cluster, id);
        cluster.leader();
        wait_for("calm", || (cluster.handle(id).status().durable >= 3).then_some(()));
        disk.hang(true);
        let began = Instant::now();
        assert!(matches!(cluster.stop(id), NodeEnd::Stopped));
        assert!(began.elapsed() < Duration::from_secs(3), "{mode:?}: {:?}", began.elapsed());
        disk.hang(false);
    }
}

#[test]
fn an_apply_loop_that_stands_still_is_reported() {
    let mut cluster = TestCluster::new(1, config().election_ticks(10));
    let id = cluster.leader();
    let (_, watcher) = watch(&mut cluster, id);
    cluster.leader();
    let slow = cluster.handle(id).propose("hang"); // for three seconds
    wait_for("the stall to be told", || {
        watcher.stalls.lock().iter().any(|(what, _)| *what == Stalled::Apply).then_some(())
    });
    assert_eq!(cluster.handle(id).vitals().role, Role::Leader, "it keeps its role");
    slow.wait().expect("applied in the end");
    assert_eq!(cluster.handle(id).stats().apply_stalls, 1);
}

/// raft-rs panics when its storage fails. The node ends with the reason; the process, and this test, go on.
#[test]
fn a_panic_of_raft_ends_the_node_with_the_reason() {
    let mut cluster = TestCluster::new(3, config().tail_cache_bytes(1).max_apply_bytes(1 << 10));
    let leader = cluster.leader();
    let away = cluster.ids().into_iter().find(|id| *id != leader).expect("one");
    let (disk, _) = watch(&mut cluster, leader);
    cluster.elect(leader);
    cluster.stop(away);
    for n in 0..20 {
        cluster.handle(leader).propose(format!("{n}")).wait().expect("two of three");
    }
    *disk.unreadable.lock() = true;
    cluster.restart(away); // and asks for what is only in the log
    let end = cluster.handle(leader).wait_end();
    let log = matches!(end.error(), Some(NodeError::Log(LogError::Corrupt { .. })));
    assert!(log, "{end:?}");
    let stopped = cluster.handle(leader).propose("too late").wait().expect_err("it has ended");
    assert_eq!(stopped, ProposeError::Stopped);
    assert!(cluster.leader() != leader, "the others go on");
}

#[test]
fn a_panic_on_the_node_thread_ends_the_node_with_its_message() {
    let mut cluster = TestCluster::new(1, config());
    let id = cluster.leader();
    let (_, watcher) = watch(&mut cluster, id);
    *watcher.panics.lock() = true;
    let end = cluster.handle(id).wait_end();
    match end.error() {
        Some(NodeError::Panicked { thread, message }) => {
            assert_eq!((*thread, message.as_str()), ("oarlock-node", "a bug of the observer"));
        }
        other => panic!("{other:?}"),
    }
}

/// O12: after a partition everything that a deposed leader has under way ends at once.
#[test]
fn many_deadlines_at_once_do_not_stop_the_node_thread() {
    const COUNT: usize = 30_000;
    let cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    let handle = cluster.handle(leader);
    handle.propose("one").wait().expect("applied");
    handle.pause();
    let deadline = Instant::now() + Duration::from_secs(6);
    let began = Instant::now();
    let pending: Vec<_> = (0..COUNT).map(|_| handle.propose_by("x", deadline)).collect();
    let asked = began.elapsed();
    assert!(Instant::now() < deadline, "the machine is too slow for this test");
    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    wait_for("answers", || pending.iter().all(|pending| pending.is_ready()).then_some(()));
    let late = deadline.elapsed();
    // To refuse so many costs much as to ask for them does: a busy machine is slow at both.
    let bound = Duration::from_secs(2) + 3 * asked;
    assert!(late < bound, "the last was answered {late:?} late, to ask for all took {asked:?}");
    assert!(pending.into_iter().all(|pending| pending.wait().is_err()));
}

#[test]
fn a_restore_that_hangs_is_reported() {
    let cluster = TestCluster::new(3, config().snapshot_count(1).snapshot_catchup_entries(0));
    let (leader, follower) = (cluster.leader(), cluster.follower());
    cluster.handle(follower).pause();
    let handle = cluster.handle(leader);
    for n in 0..40 {
        let line = if n == 0 { "hang when restored".to_string() } else { n.to_string() };
        handle.propose(line).wait().expect("applied");
    }
    wait_for("a snapshot", || {
        let status = handle.status();
        (status.snapshot_index == status.commit && status.first_index > status.commit).then_some(())
    });
    cluster.handle(follower).resume();
    wait_for("the report", || (cluster.handle(follower).stats().apply_stalls > 0).then_some(()));
}

/// As the one before, of a restore with which a node starts: nothing runs yet that would watch it.
#[test]
fn a_restore_that_hangs_while_the_node_starts_is_reported() {
    let mut cluster = TestCluster::new(1, config().snapshot_count(1));
    let id = cluster.leader();
    let line = "hang when restored"; // for three seconds, and an election timeout is one
    let applied = cluster.handle(id).propose(line).wait().expect("applied");
    wait_for("a snapshot", || {
        (cluster.handle(id).status().snapshot_index >= applied.index).then_some(())
    });
    let (_, watcher) = watch(&mut cluster, id);
    let restored = Instant::now();
    let stalls = watcher.stalls.lock().clone();
    let told = stalls.iter().find(|(what, _)| *what == Stalled::Apply);
    let (_, when) = told.expect("nobody was told of the restore");
    assert!(*when + Duration::from_secs(1) < restored, "told when it was nearly over");
    assert_eq!(cluster.handle(id).stats().apply_stalls, 1);
    assert_eq!(cluster.settle(1), [line], "restored in the end");
}

/// O29: what was applied is answered, however long the next command takes.
#[test]
fn a_fast_command_is_not_answered_after_the_slow_one_behind_it() {
    let cluster = TestCluster::new(1, config());
    let handle = cluster.handle(cluster.leader());
    handle.propose("one").wait().expect("applied");
    let deadline = Instant::now() + Duration::from_secs(2);
    let fast: Vec<_> = (0..50).map(|n| handle.propose_by(n.to_string(), deadline)).collect();
    let slow = handle.propose("hang");
    for fast in fast {
        fast.wait().expect("it was applied before its deadline");
    }
    assert!(!slow.is_ready(), "the test shows nothing");
    slow.wait().expect("applied");
}

/// Snapshots in a directory that can hang.
#[derive(Clone)]
struct HangingSnapshots(MemSnapshots, Disk);

impl SnapshotStore for HangingSnapshots {
    fn create(&self, id: SnapshotId) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        self.0.create(id)
    }

    fn open(&self, id: SnapshotId) -> Result<SnapshotSource, SnapshotError> {
        self.1.pass();
        self.0.open(id)
    }

    fn newest(
        &self,
        vouched: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<Option<SnapshotId>, SnapshotError> {
        self.0.newest(vouched)
    }

    fn purge(&self, keep_from: u64) -> Result<(), SnapshotError> {
        self.1.pass();
        self.0.purge(keep_from)
    }
}

/// To remove an old snapshot, or to open one that a follower needs, may take long. Nobody else waits for it (O12).
#[test]
fn a_leader_whose_snapshots_hang_goes_on() {
    let mut cluster = TestCluster::new(3, config().snapshot_count(20).snapshot_catchup_entries(1));
    let leader = cluster.leader();
    cluster.stop(leader);
    let (store, snapshots, journal) = {
        let node = &cluster.nodes[&leader];
        (node.store.clone(), node.snapshots.clone(), Journal::default())
    };
    let disk = Disk::default();
    let mut log = Box::new(store);
    let recovered = boot(&mut *log, &snapshots, &Boot::Restart).expect("it boots");
    let hanging = Arc::new(HangingSnapshots(snapshots.clone(), disk.clone()));
    let identity = recovered.identity();
    let builder = NodeBuilder::new(cluster.config.clone(), recovered, log, hanging);
    let handle = cluster.start(identity, builder, &journal);
    let node = cluster.nodes.get_mut(&leader).expect("a member");
    (node.handle, node.journal) = (Some(handle), journal);
    cluster.lead(leader);

    let behind = cluster.follower();
    cluster.stop(behind);
    disk.hang(true);
    fn write(cluster: &TestCluster, leader: u64, from: usize) {
        for n in from..from + 60 {
            cluster.handle(leader).propose(format!("{n}")).wait().expect("two of three");
        }
    }
    write(&cluster, leader, 0);
    wait_for("a snapshot that makes an older one superfluous", || {
        (snapshots.ids().len() > 1).then_some(())
    });
    write(&cluster, leader, 60);
    cluster.restart(behind);
    wait_for("a snapshot that hangs on its way", || {
        let status = cluster.handle(leader).status();
        let peer = status.peers.iter().find(|peer| peer.id == behind)?;
        (peer.state == PeerState::Snapshot).then_some(())
    });
    cluster.handle(leader).propose("goes on").wait().expect("two of three");
    assert_eq!(cluster.handle(leader).vitals().role, Role::Leader);
    disk.hang(false);
    cluster.settle(121);
}
