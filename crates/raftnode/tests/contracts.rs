//! Contracts of the threads, seen from outside: what reaches the disk, the network and the callers, and in which order.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::{
    ApplyError, Committed, LogBatch, LogStore, MemSnapshots, MemStore, NodeBuilder, NodeError,
    NodeHandle, RestoreError, SnapshotId, SnapshotView, StateMachine,
};

mod support;
use support::{PATIENCE, TestCluster, config, wait_for};

fn events(trace: &support::trace::Trace) -> Vec<String> {
    trace.events.lock().clone()
}

fn find(events: &[String], wanted: impl Fn(&str) -> bool) -> Option<usize> {
    events.iter().position(|event| wanted(event))
}

/// O1: who becomes leader says so here before it says so to anybody else.
#[test]
fn the_role_is_published_before_the_messages_of_its_ready_leave() {
    let mut cluster = TestCluster::new(3, config());
    let id = cluster.follower();
    let (trace, _spy) = cluster.spy_on(id, false);
    cluster.settle(0);
    cluster.lead(id);
    cluster.handle(id).propose("a").wait().expect("it leads");
    let events = events(&trace);
    let published = find(&events, |event| event == "role Leader").expect("it leads");
    // Only a leader sends these.
    let sent = find(&events, |event| event == "send append").expect("it replicates");
    assert!(published < sent, "the role came after the messages: {events:?}");
}

/// O2: who reads waits; the loop does not. A lone member confirms a read as soon as it looks at it.
#[test]
fn nothing_in_the_loop_waits_for_a_reader() {
    let config = config().stop_timeout(Duration::from_secs(1));
    let cluster = TestCluster::new(1, config);
    let id = cluster.leader();
    let node = cluster.handle(id);
    let before = node.propose("before").wait().expect("applied").index;
    let journal = cluster.nodes[&id].journal.clone();
    let gate = journal.gate.lock();
    let stuck = node.propose("wait");
    wait_for("it to be committed", || (node.vitals().commit > before).then_some(()));
    let read = node.read_index();
    // Each is taken in after the one before, and the read before them all or with the first.
    for n in 0..3 {
        let before = node.vitals().commit;
        let _unanswered = node.propose(format!("{n}"));
        // The vitals are there to be read, so that this ends also when the loop does not go on.
        wait_for("a commit while the loop waited for a reader", || {
            (node.vitals().commit > before).then_some(())
        });
    }
    assert!(!read.is_ready(), "it is answered when it is applied");
    drop(gate);
    stuck.wait().expect("applied");
    read.wait().expect("served");
}

/// O3, O7: with the leader's disk and one other a majority is there, and not before.
#[test]
fn no_write_is_answered_before_a_majority_has_synced() {
    let mut cluster = TestCluster::new(3, config().stop_timeout(Duration::from_secs(1)));
    let leader = cluster.leader();
    cluster.handle(leader).propose("a").wait().expect("applied");
    let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let traces: Vec<_> =
        followers.iter().map(|follower| cluster.spy_on(*follower, false).0).collect();
    cluster.settle(1);
    cluster.lead(leader);
    cluster.settle(1);
    traces.iter().for_each(|trace| trace.shut(true));
    let waiting = cluster.handle(leader).propose("b");
    let waiting = waiting.wait_timeout(Duration::from_millis(300));
    traces[0].shut(false);
    let waiting = waiting.expect_err("answered while only the leader had synced");
    waiting.wait().expect("two of three have synced");
    traces[1].shut(false);
    cluster.settle(2);
}

/// O13: the sync after a failed one succeeds, and has written nothing. The node must not get as far, whatever log it has.
#[test]
fn a_log_is_not_asked_again_after_a_failed_sync() {
    for count in [1, 3] {
        let mut cluster = TestCluster::new(count, config());
        let id = cluster.leader();
        let (trace, _spy) = cluster.spy_on(id, false);
        cluster.settle(0);
        cluster.lead(id);
        trace.fail_next_sync();
        let lost = cluster.handle(id).propose("lost").wait_timeout(PATIENCE);
        // Of three the others may have it, and this one hear of that.
        assert!(count == 3 || lost.is_ok_and(|told| told.is_err()), "acknowledged without a sync");
        let handle = cluster.handle(id);
        let end = wait_for("the node to end", || handle.end());
        assert!(matches!(end.error(), Some(NodeError::Log(_))), "{end:?}");
        let events = events(&trace);
        let failed = find(&events, |event| event == "a sync fails").expect("it was asked to");
        let again = find(&events[failed..], |event| event == "sync" || event.starts_with("append"));
        assert_eq!(again, None, "asked again: {events:?}");
    }
}

/// O14: the write in hand, the transport, the log; and then it is said.
#[test]
fn a_node_stops_in_order() {
    let mut cluster = TestCluster::new(3, config());
    let id = cluster.follower();
    let (trace, _spy) = cluster.spy_on(id, false);
    cluster.settle(0);
    cluster.lead(id);
    let before = events(&trace).len();
    trace.shut(true);
    let in_hand = cluster.handle(id).propose("in hand");
    wait_for("the write", || find(&events(&trace)[before..], |event| event.starts_with("append ")));
    let handle = cluster.handle(id).clone();
    let stopping = thread::spawn(move || handle.shutdown());
    thread::sleep(Duration::from_millis(50)); // it waits for the disk by now, or soon
    trace.shut(false);
    stopping.join().expect("it does not panic");
    let events = events(&trace);
    let [stopped, closed, ended] = ["transport stopped", "close", "ended"]
        .map(|wanted| find(&events, |event| event == wanted).expect("all of it happens"));
    let written = events.iter().rposition(|event| event == "sync").expect("it was written");
    let order = [written, stopped, closed, ended];
    assert!(order.is_sorted(), "not in order: {order:?} of {events:?}");
    assert!(in_hand.wait_timeout(PATIENCE).is_ok(), "it resolves");
}

/// O26: the entries before a snapshot that a follower with a little lag needs stay.
#[test]
fn compaction_keeps_what_followers_need_to_catch_up() {
    let config = config().snapshot_count(20).snapshot_catchup_entries(7);
    let cluster = TestCluster::new(1, config);
    let id = cluster.leader();
    let mut compacted = false;
    for n in 0..100 {
        cluster.handle(id).propose(format!("{n}")).wait().expect("applied");
        let status = cluster.handle(id).status();
        compacted |= status.first_index > 1;
        assert!(
            status.first_index == 1 || status.first_index + 6 <= status.snapshot_index,
            "of what snapshot {} covers, the log begins at {}",
            status.snapshot_index,
            status.first_index
        );
    }
    assert!(compacted);
}

/// O26: whoever is being sent a snapshot needs what follows it.
#[test]
fn compaction_waits_for_snapshots_under_way() {
    let config = config().snapshot_count(20).snapshot_catchup_entries(2);
    let mut cluster = TestCluster::new(3, config);
    let away = cluster.follower();
    let leader = cluster.ids().into_iter().find(|id| *id != away).expect("three");
    let (_trace, spy) = cluster.spy_on(leader, true);
    cluster.lead(leader);
    cluster.stop(away);
    for n in 0..60 {
        cluster.handle(leader).propose(format!("{n}")).wait().expect("two of three");
    }
    wait_for("the log to be compacted", || {
        (cluster.handle(leader).status().first_index > 20).then_some(())
    });
    cluster.restart(away);
    let travelling = wait_for("a snapshot to be sent", || {
        let kept = !spy.kept.lock().is_empty();
        let status = cluster.handle(leader).status();
        let peer = status.peers.iter().find(|peer| peer.id == away)?;
        (kept && peer.snapshot > 0).then_some(peer.snapshot)
    });
    for n in 60..150 {
        cluster.handle(leader).propose(format!("{n}")).wait().expect("two of three");
    }
    wait_for("a later snapshot", || {
        (cluster.handle(leader).status().snapshot_index > travelling + 40).then_some(())
    });
    let first = cluster.handle(leader).status().first_index;
    assert!(first <= travelling + 1, "{travelling} is under way, and the log begins at {first}");
    spy.let_go();
    cluster.settle(150);
}

/// O28: whoever is told of an entry can wait for the commit index that includes it.
#[test]
fn what_is_applied_was_published_as_committed() {
    #[derive(Clone, Default)]
    struct Looks(Arc<OnceLock<NodeHandle<bool>>>);
    impl StateMachine for Looks {
        type Output = bool;

        fn apply(&mut self, entry: &Committed<'_>) -> Result<bool, ApplyError> {
            let node = self.0.get().ok_or("asked before it was told of its node")?;
            Ok(node.vitals().commit >= entry.index)
        }

        fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
            Err("not in this test".into())
        }

        fn restore(
            &mut self,
            _: SnapshotId,
            _: &mut dyn std::io::Read,
        ) -> Result<(), RestoreError> {
            Err("not in this test".into())
        }
    }
    let cluster = support::sim::founders(1);
    let (mut store, snapshots) = (MemStore::new(), Arc::new(MemSnapshots::new()));
    let how = Boot::New { id: 1, cluster };
    let recovered = boot(&mut store, &*snapshots, &how).expect("it boots");
    let transport = Arc::new(MemNetwork::new(1).endpoint(Identity::new(1, 99)));
    let machine = Looks::default();
    let node = NodeBuilder::new(config(), recovered, Box::new(store), snapshots)
        .start(machine.clone(), |_| Ok(transport))
        .expect("it starts");
    assert!(machine.0.set(node.clone()).is_ok());
    node.wait_leader(PATIENCE).expect("it leads");
    for n in 0..50 {
        let applied = node.propose(format!("{n}")).wait().expect("applied");
        assert!(applied.output, "{} was applied before it was published", applied.index);
    }
    node.shutdown();
}

/// O20: after `kill -9` the page cache holds what the disk does not. The next run may only build on what it has made
/// durable itself.
#[test]
fn what_a_boot_accepts_it_makes_durable_first() {
    let cluster = support::sim::founders(1);
    let mut store = MemStore::new();
    let snapshots = MemSnapshots::new();
    boot(&mut store, &snapshots, &Boot::New { id: 1, cluster }).expect("it boots");
    let empty = |index| Entry { index, term: 1, ..Entry::default() };
    let entries = [empty(2), empty(3), empty(4)];
    let batch = LogBatch { entries: &entries, ..LogBatch::default() };
    store.append(&batch).expect("there is room"); // and no sync: the process dies here
    let recovered = boot(&mut store, &snapshots, &Boot::Restart).expect("it boots");
    assert_eq!(recovered.last_index, 4);
    let after_power_cut = store.crash().state().expect("it reads");
    assert_eq!(after_power_cut.last_index, 4, "raft was told of entries that no disk holds");
}
