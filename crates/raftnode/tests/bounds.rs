//! Whatever waits is bounded, and every call that waits ends: one test for each line of the README's table that no other
//! test is about.

use std::time::{Duration, Instant};

use oarlock_raftnode::core::StepError;
use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::raft::eraftpb::{Entry, Message, MessageType};
use oarlock_raftnode::{
    Busy, ChangeMembersError, Config, NodeEnd, ProposeError, ReadError, Role, TransferError,
    Unknown, WriteMode, convert,
};

mod support;
use support::sim::Sim;
use support::{PATIENCE, TestCluster, config, member, wait_for};

fn busy(reason: Busy) -> ProposeError {
    ProposeError::Busy(reason)
}

/// Proposes until one of them is refused like this.
fn propose_until(cluster: &TestCluster, at: u64, error: &ProposeError) {
    let deadline = Instant::now() + PATIENCE;
    let mut waiting = Vec::new();
    wait_for(&format!("{error}"), || {
        waiting.push(cluster.handle(at).propose_by("x".repeat(600), deadline));
        std::thread::sleep(Duration::from_millis(5)); // so that it is no race to the largest batch
        waiting.extract_if(.., |one| one.is_ready()).find_map(|one| {
            let refused = one.wait().err()?;
            assert!(refused.is_definite(), "{refused}");
            (refused == *error).then_some(())
        })
    });
}

/// A leader whose state machine lags refuses, and says so to whoever forwards.
#[test]
fn a_leader_with_too_much_to_apply_is_busy() {
    let mut cluster = TestCluster::new(3, config().max_apply_backlog(2_000));
    let leader = cluster.leader();
    let follower = cluster.follower();
    let _hangs = cluster.handle(leader).propose("hang");
    propose_until(&cluster, leader, &busy(Busy::ApplyLag));
    let backlog = cluster.handle(leader).status().apply_backlog;
    assert!(backlog > 2_000 && backlog < 4 << 20, "{backlog}");
    propose_until(&cluster, follower, &busy(Busy::Leader));
    wait_for("it to go on", || cluster.handle(leader).propose("y").wait().ok());
    cluster.stop(follower);
}

#[test]
fn a_leader_with_too_much_to_sync_is_busy() {
    // An election timeout is long enough for that: then it hands over.
    let config = config().max_unsynced_bytes(5_000).election_ticks(500);
    let mut cluster = TestCluster::new(1, config.write_mode(WriteMode::Pipelined));
    let leader = cluster.leader();
    let (trace, _) = cluster.spy_on(leader, false);
    assert_eq!(cluster.leader(), leader);
    trace.shut(true);
    propose_until(&cluster, leader, &busy(Busy::Unsynced));
    trace.shut(false);
    wait_for("it to go on", || cluster.handle(leader).propose("y").wait().ok());
}

/// Entries first; in the end everything that would only wait for the disk.
#[test]
fn a_follower_with_too_much_to_sync_lets_messages_go() {
    let mut cluster = TestCluster::new(3, config().max_unsynced_bytes(5_000));
    let leader = cluster.leader();
    let follower = cluster.follower();
    let (trace, _) = cluster.spy_on(follower, false);
    wait_for("it to follow", || (cluster.handle(follower).leader() == leader).then_some(()));
    trace.shut(true);
    let mut sent = 0;
    wait_for("messages to be let go", || {
        cluster.handle(leader).propose("x".repeat(600)).wait().expect("two of three");
        sent += 1;
        (cluster.handle(follower).stats().messages_shed > 0).then_some(())
    });
    let deaf = wait_for("it to hear nobody", || {
        let (shed, status) =
            (cluster.handle(follower).stats().messages_shed, cluster.handle(follower).status());
        (status.leader == 0).then_some(shed)
    });
    assert!(deaf > 0);
    trace.shut(false);
    cluster.settle(sent);
}

#[test]
fn conf_changes_that_wait_are_bounded() {
    let mut sim = Sim::new(3, 1);
    for n in 0..70 {
        sim.change(1, ChangeEntry::new(Change::AddLearner(member(10 + n)))); // there is no leader
    }
    let refused: Vec<&ProposeError> = sim.node(1).refused.iter().map(|(_, error)| error).collect();
    assert_eq!(refused, [&busy(Busy::Requests); 6]);
}

/// A leader that nobody answers remembers the rounds that others ask it for.
#[test]
fn rounds_of_reads_that_others_ask_for_are_bounded() {
    let mut sim = Sim::new_with(3, 1, |config| config.check_quorum(false));
    sim.elect(1);
    sim.settle();
    let mut taken = 0;
    for n in 0..3_000_u32 {
        let mut message = Message { from: 2, to: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgReadIndex);
        let context = n.to_be_bytes().to_vec();
        let entry = Entry { data: convert::to_raft(context.into()), ..Entry::default() };
        message.set_entries(convert::list_to_raft(vec![entry]));
        match sim.core(1).handle_message(2, message) {
            Ok(()) => taken += 1,
            Err(error) => assert!(matches!(error, StepError::Shed), "{error}"),
        }
    }
    assert_eq!(taken, 1024);
    sim.settle(); // heartbeats are answered
    sim.core(2).handle_read(1);
    sim.settle();
    assert_eq!(sim.node(2).reads.len(), 1, "there is room again");
}

/// A majority is away: every request ends by its deadline, and says what is known.
#[test]
fn requests_end_by_their_deadlines_without_a_majority() {
    let timeout = Duration::from_millis(400);
    let mut cluster = TestCluster::new(3, config().request_timeout(timeout).check_quorum(false));
    let leader = cluster.leader();
    for id in cluster.ids() {
        if id != leader {
            cluster.stop(id);
        }
    }
    let handle = cluster.handle(leader);
    let other = *cluster.ids().iter().find(|id| **id != leader).expect("three");
    let began = Instant::now();
    let unknown = ProposeError::OutcomeUnknown(Unknown::Deadline);
    let (propose, change) =
        (handle.propose("a"), handle.change_members(Change::AddLearner(member(9))));
    let (publish, update) = (handle.publish("m", Vec::new()), handle.update_member(other, vec![]));
    let (read, lease) = (handle.read_index(), handle.read_lease());
    assert_eq!(propose.wait().err(), Some(unknown.clone()));
    for pending in [change, publish, update] {
        let error = pending.wait().expect_err("no majority");
        assert!(matches!(&error, ChangeMembersError::Propose(e) if *e == unknown), "{error}");
    }
    let late = Duration::from_secs(2);
    assert!(began.elapsed() < timeout + late, "{:?}", began.elapsed());
    assert_eq!(read.wait(), Err(ReadError::TimedOut));
    assert_eq!(lease.wait(), Err(ReadError::TimedOut));
    assert!(began.elapsed() < timeout + late, "{:?}", began.elapsed());
    // Handing over has a bound of its own: two election timeouts.
    let began = Instant::now();
    assert_eq!(handle.transfer_leader(other).wait(), Err(TransferError::TimedOut));
    assert!(began.elapsed() < Duration::from_secs(2) + late, "{:?}", began.elapsed());
    assert_eq!(handle.vitals().role, Role::Leader);
}

/// The node thread itself hangs in a disk: those who ask it are not held up for longer than they have agreed to.
#[test]
fn a_node_thread_that_hangs_holds_up_no_call() {
    let config: Config = config()
        .write_mode(WriteMode::Auto)
        .election_ticks(5)
        .request_timeout(Duration::from_millis(200))
        .stop_timeout(Duration::from_millis(200));
    let mut cluster = TestCluster::new(1, config);
    let id = cluster.leader();
    let (trace, _) = cluster.spy_on(id, false);
    cluster.leader();
    trace.shut(true);
    let handle = cluster.handle(id).clone();
    let stuck = handle.propose("stuck");
    let patience = Duration::from_secs(4); // a deadline, a second beyond it, and a machine that has other things to do
    let timed = |what: &str, as_expected: &dyn Fn() -> bool| {
        let began = Instant::now();
        assert!(as_expected(), "{what}");
        assert!(began.elapsed() < patience, "{what}: {:?}", began.elapsed());
    };
    let change = || Change::AddLearner(member(9));
    timed("propose", &|| handle.propose("a").wait().is_err());
    timed("change_members", &|| handle.change_members(change()).wait().is_err());
    timed("joint", &|| handle.change_members_jointly(vec![change()]).wait().is_err());
    timed("publish", &|| handle.publish("m", Vec::new()).wait().is_err());
    timed("read_index", &|| handle.read_index().wait().is_err());
    timed("read_lease", &|| handle.read_lease().wait().is_err());
    timed("transfer_leader", &|| handle.transfer_leader(7).wait().is_err());
    timed("status", &|| handle.status().id == id);
    timed("wait_applied", &|| !handle.wait_applied(99, Duration::from_millis(50)));
    timed("wait_leader", &|| handle.wait_leader(Duration::from_millis(50)).is_some());
    handle.campaign(); // these wait for nothing
    handle.advance_ticks(1);
    timed("shutdown", &|| matches!(handle.shutdown(), NodeEnd::Stopped));
    assert!(!stuck.wait().expect_err("nobody knows").is_definite());
    trace.shut(false);
}

/// The leader's inbox drops what is too much for it. Who forwards no more than fits is told of every proposal, and in time.
#[test]
fn many_proposals_at_once_on_a_follower_are_all_answered() {
    let cluster = TestCluster::new(3, config());
    cluster.elect(cluster.ids()[0]);
    let follower = cluster.follower();
    cluster.handle(follower).propose("first").wait().expect("applied");
    let many: Vec<_> =
        (0..16_000).map(|n| cluster.handle(follower).propose(n.to_string())).collect();
    let unknown = many.into_iter().filter_map(|pending| pending.wait().err()).collect::<Vec<_>>();
    assert_eq!(unknown, [], "of all that a node lets wait");
}
