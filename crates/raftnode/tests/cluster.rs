//! Nodes with all their threads, over a network and disks in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::{Change, ChangeError};
use oarlock_raftnode::transport::{Identity, MemNetwork};
use oarlock_raftnode::{
    ChangeMembersError, MemSnapshots, MemStore, NodeBuilder, NodeEnd, NodeError, Observer,
    ProposeError, ReadError, Role, TransferError,
};

mod support;
use support::{Journal, PATIENCE, TestCluster, config, member, wait_for};

#[test]
fn three_nodes_replicate_and_answer() {
    let cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    let applied = cluster.handle(leader).propose("a").wait().expect("a leader takes it");
    assert_eq!(applied.output, 1);
    let follower = cluster.follower();
    let forwarded = cluster.handle(follower).propose("b").wait().expect("forwarded and applied");
    assert_eq!(forwarded.output, 2);
    assert!(forwarded.index > applied.index);
    assert_eq!(cluster.settle(2), ["a", "b"]);
    for id in cluster.ids() {
        assert_eq!(cluster.handle(id).leader(), leader);
        let status = cluster.handle(id).status();
        assert_eq!(status.voters, cluster.ids());
        assert_eq!(status.peers.len(), if id == leader { 3 } else { 0 });
    }
}

#[test]
fn many_proposals_from_everywhere_are_applied_once_and_in_the_same_order() {
    let cluster = TestCluster::new(3, config());
    cluster.leader();
    let pending: Vec<_> = (0..300)
        .map(|n| {
            let id = cluster.ids()[n % 3];
            cluster.handle(id).propose(format!("line {n}"))
        })
        .collect();
    for pending in pending {
        pending.wait().expect("applied");
    }
    let mut lines = cluster.settle(300);
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 300, "each once");
}

#[test]
fn what_was_acknowledged_survives_the_leader_s_power_loss() {
    let mut cluster = TestCluster::new(3, config());
    let first = cluster.leader();
    for n in 0..20 {
        cluster.handle(first).propose(format!("{n}")).wait().expect("applied");
    }
    cluster.crash(first);
    let second = cluster.leader();
    assert_ne!(first, second);
    cluster.handle(second).propose("after").wait().expect("two of three go on");
    cluster.restart(first);
    let lines = cluster.settle(21);
    assert_eq!(lines[20], "after");
}

#[test]
fn all_at_once_lose_power_and_nothing_acknowledged_is_lost() {
    let mut cluster = TestCluster::new(3, config());
    for round in 0..3 {
        let leader = cluster.leader();
        for n in 0..10 {
            cluster.handle(leader).propose(format!("{round}.{n}")).wait().expect("applied");
        }
        for id in cluster.ids() {
            cluster.crash(id);
        }
        for id in cluster.ids() {
            cluster.restart(id);
        }
    }
    let lines = cluster.settle(30);
    let expected: Vec<String> =
        (0..3).flat_map(|round| (0..10).map(move |n| format!("{round}.{n}"))).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_read_shows_what_was_acknowledged_before_it_on_every_member() {
    let cluster = TestCluster::new(3, config());
    cluster.leader();
    for n in 0..20 {
        let writer = cluster.ids()[n % 3];
        let reader = cluster.ids()[(n + 1) % 3];
        let written = cluster.handle(writer).propose(format!("{n}")).wait().expect("applied");
        let index = cluster.handle(reader).read_index().wait().expect("confirmed");
        assert!(index >= written.index);
        assert_eq!(cluster.nodes[&reader].lines().len(), n + 1, "stale read on {reader:x}");
    }
}

#[test]
fn without_a_majority_requests_end_at_their_deadline() {
    let mut cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.stop(id);
    }
    wait_for("the leader to step down", || {
        (cluster.handle(leader).vitals().role != Role::Leader).then_some(())
    });
    let deadline = Instant::now() + Duration::from_millis(200);
    let propose = cluster.handle(leader).propose_by("lost", deadline);
    let read = cluster.handle(leader).read_index_by(deadline);
    assert_eq!(propose.wait(), Err(ProposeError::NoLeader));
    assert!(matches!(read.wait(), Err(ReadError::NoLeader | ReadError::TimedOut)));
}

#[test]
fn an_isolated_leader_cannot_say_what_became_of_a_proposal() {
    let cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    cluster.network.isolate(leader);
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = cluster.handle(leader).propose_by("x", deadline).wait().expect_err("no majority");
    assert!(!error.is_definite(), "it was appended: {error}");
    cluster.network.heal();
    cluster.leader();
}

#[test]
fn a_lone_member_starts_answers_and_keeps_what_it_answered() {
    let mut cluster = TestCluster::new(1, config());
    let id = cluster.leader();
    for n in 0..10 {
        cluster.handle(id).propose(format!("{n}")).wait().expect("applied");
    }
    cluster.crash(id);
    cluster.restart(id);
    assert_eq!(cluster.leader(), id);
    assert_eq!(cluster.settle(10).len(), 10);
    cluster.handle(id).read_index().wait().expect("confirmed");
}

#[test]
fn members_are_added_promoted_and_removed() {
    let mut cluster = TestCluster::new(1, config());
    let first = cluster.leader();
    for n in 0..5 {
        cluster.handle(first).propose(format!("{n}")).wait().expect("applied");
    }
    let learner = member(77);
    let members = cluster.handle(first).change_members(Change::AddLearner(learner.clone())).wait();
    assert_eq!(members.expect("added").learners().count(), 1);
    cluster.join(&learner);
    cluster.settle(5);
    cluster.handle(first).change_members(Change::Promote(77)).wait().expect("promoted");
    cluster.handle(77).propose("from the new one").wait().expect("it forwards");
    cluster.settle(6);

    let twice = cluster.handle(77).change_members(Change::AddVoter(learner)).wait();
    assert!(
        matches!(twice, Err(ChangeMembersError::Refused(ChangeError::Exists { id: 77 }))),
        "{twice:?}"
    );

    cluster.handle(first).change_members(Change::Remove(77)).wait().expect("removed");
    assert!(matches!(cluster.handle(77).wait_end(), NodeEnd::Removed));
    cluster.nodes.remove(&77);
    cluster.handle(first).propose("alone again").wait().expect("a majority of one");
}

#[test]
fn a_leader_removes_itself_and_the_others_go_on() {
    let mut cluster = TestCluster::new(3, config());
    let first = cluster.leader();
    cluster.handle(first).propose("before").wait().expect("applied");
    let _ = cluster.handle(first).change_members(Change::Remove(first)).wait();
    assert!(matches!(cluster.handle(first).wait_end(), NodeEnd::Removed));
    cluster.nodes.remove(&first);
    let second = cluster.leader();
    cluster.handle(second).propose("after").wait().expect("two of two");
    assert_eq!(cluster.settle(2), ["before", "after"]);
}

#[test]
fn changes_one_after_the_other_from_a_follower_are_never_refused_as_pending() {
    let cluster = TestCluster::new(3, config());
    cluster.leader();
    let follower = cluster.follower();
    for id in 100..110 {
        let handle = cluster.handle(follower);
        handle.change_members(Change::AddLearner(member(id))).wait().expect("added");
        handle.change_members(Change::Remove(id)).wait().expect("removed");
    }
}

#[test]
fn attributes_reach_every_member() {
    let cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    let follower = cluster.follower();
    let url = "http://127.0.0.1:2379".to_string();
    cluster.handle(follower).publish("renamed", vec![url.clone()]).wait().expect("published");
    wait_for("the leader to know the name", || {
        let members = cluster.handle(leader).cluster();
        let member = members.member(follower).expect("a member").clone();
        (member.name == "renamed" && member.client_urls == [url.clone()]).then_some(())
    });
}

#[test]
fn leadership_is_handed_over() {
    let cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    let follower = cluster.follower();
    cluster.handle(leader).propose("a").wait().expect("applied");
    cluster.handle(leader).transfer_leader(follower).wait().expect("handed over");
    wait_for("the new leader", || (cluster.leader() == follower).then_some(()));
    let refused = cluster.handle(leader).transfer_leader(leader).wait();
    assert!(matches!(refused, Err(TransferError::NotLeader { .. })), "{refused:?}");
    let unknown = cluster.handle(follower).transfer_leader(999).wait();
    assert_eq!(unknown, Err(TransferError::NotVoter { to: 999 }));
}

#[test]
fn a_graceful_stop_hands_leadership_over_first() {
    let mut cluster = TestCluster::new(3, config().election_ticks(500));
    let leader = cluster.ids()[0];
    cluster.elect(leader);
    cluster.handle(leader).propose("a").wait().expect("applied");
    let began = Instant::now();
    let node = cluster.nodes.get_mut(&leader).expect("a member");
    node.handle.take().expect("it runs").shutdown_gracefully(Duration::from_secs(5));
    cluster.leader();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "nobody had to time out: {:?}",
        began.elapsed()
    );
}

/// Whom it was going to hand over to does not answer any more: after an election timeout there is another.
#[test]
fn a_graceful_stop_hands_over_to_another_if_the_first_does_not_answer() {
    let mut cluster = TestCluster::new(5, config());
    let leader = cluster.ids()[0];
    cluster.elect(leader);
    cluster.handle(leader).propose("a").wait().expect("applied");
    cluster.settle(1);
    let first = cluster.ids()[1];
    cluster.handle(first).pause();
    let (patience, began) = (2 * PATIENCE, Instant::now());
    let node = cluster.nodes.get_mut(&leader).expect("a member");
    node.handle.take().expect("it runs").shutdown_gracefully(patience);
    assert!(began.elapsed() < PATIENCE, "it waited in vain: {:?}", began.elapsed());
    assert_ne!(cluster.leader(), first);
}

#[test]
fn a_second_stop_returns_at_once() {
    let cluster = TestCluster::new(1, config());
    let handle = cluster.handle(cluster.leader()).clone();
    assert!(matches!(handle.shutdown(), NodeEnd::Stopped));
    let (again, ended) = (handle.clone(), std::sync::mpsc::channel());
    std::thread::spawn(move || ended.0.send(again.shutdown()));
    let end = ended.1.recv_timeout(PATIENCE).expect("the second stop hangs");
    assert!(matches!(end, NodeEnd::Stopped));
    assert!(matches!(handle.wait_end(), NodeEnd::Stopped));
    assert_eq!(handle.propose("late").wait(), Err(ProposeError::Stopped));
    assert_eq!(handle.read_index().wait(), Err(ReadError::Stopped));
}

#[test]
fn a_failed_sync_ends_the_node_with_a_typed_error() {
    for count in [1, 3] {
        let cluster = TestCluster::new(count, config());
        let leader = cluster.leader();
        cluster.handle(leader).propose("fine").wait().expect("applied");
        cluster.nodes[&leader].store.fail_next_sync();
        let lost = cluster.handle(leader).propose("lost").wait_timeout(PATIENCE);
        let lost = lost.expect("it resolves");
        // With three members the others may commit it, and the failing one still learn of it.
        assert!(count == 3 || lost.is_err(), "acknowledged without a sync");
        let end = cluster.handle(leader).wait_end();
        assert!(matches!(end.error(), Some(NodeError::Log(_))), "{end:?}");
    }
}

#[test]
fn a_state_machine_that_fails_or_panics_ends_the_node_only() {
    let cluster = TestCluster::new(1, config());
    let error = cluster.handle(cluster.leader()).propose("break").wait().expect_err("it broke");
    assert!(!error.is_definite());
    let end = cluster.handle(cluster.ids()[0]).wait_end();
    assert!(matches!(end.error(), Some(NodeError::Apply { .. })), "{end:?}");

    let cluster = TestCluster::new(1, config());
    cluster.handle(cluster.leader()).propose("panic").wait().expect_err("it panicked");
    let end = cluster.handle(cluster.ids()[0]).wait_end();
    assert!(
        matches!(end.error(), Some(NodeError::Panicked { thread: "oarlock-apply", .. })),
        "{end:?}"
    );
}

/// O14, O29: what is foreign in the end of a node, its observer here, cannot keep anybody waiting for it.
#[test]
fn a_panic_while_a_node_ends_is_an_end_too() {
    struct Panics;
    impl Observer for Panics {
        fn ended(&self, _: &NodeEnd) {
            panic!("asked to panic");
        }
    }
    let cluster = TestCluster::new(1, config());
    let member = cluster.cluster.members().next().expect("one").clone();
    let mut store = MemStore::new();
    let how = Boot::New { id: member.id, cluster: cluster.cluster.clone() };
    let snapshots = Arc::new(MemSnapshots::new());
    let recovered = boot(&mut store, &*snapshots, &how).expect("it boots");
    let transport = Arc::new(MemNetwork::new(1).endpoint(Identity::new(member.id, 1)));
    let node = NodeBuilder::new(config(), recovered, Box::new(store), snapshots)
        .observer(Arc::new(Panics))
        .start(Journal::default(), |_| Ok(transport))
        .expect("it starts");
    let waiting = node.read_index();
    let end = node.shutdown();
    assert!(matches!(end.error(), Some(NodeError::Panicked { thread: "oarlock-node", .. })));
    assert!(waiting.wait_timeout(PATIENCE).is_ok(), "nobody waits for ever");
}

#[test]
fn a_member_that_was_away_catches_up_by_snapshot_and_so_does_a_new_one() {
    let mut cluster = TestCluster::new(3, config().snapshot_count(20).snapshot_catchup_entries(5));
    let (away, _) = cluster.leave_behind(100);
    cluster.restart(away);
    cluster.settle(100);
    wait_for("the snapshot to be counted", || {
        (cluster.handle(away).stats().snapshots_installed > 0).then_some(())
    });
    cluster.handle(away).propose("it takes part again").wait().expect("applied");

    let joiner = member(77);
    let leader = cluster.leader();
    cluster
        .handle(leader)
        .change_members(Change::AddLearner(joiner.clone()))
        .wait()
        .expect("added");
    cluster.join(&joiner);
    cluster.settle(101);
    // Counted when the state machine, which shows the lines, has returned.
    wait_for("the snapshot to be counted", || {
        (cluster.handle(77).stats().snapshots_installed > 0).then_some(())
    });
    cluster.crash(77);
    cluster.restart(77);
    cluster.settle(101);
}

#[test]
fn a_snapshot_that_is_lost_is_reported_and_sent_again() {
    let mut cluster = TestCluster::new(3, config().snapshot_count(20).snapshot_catchup_entries(5));
    let (away, _) = cluster.leave_behind(60);
    cluster.nodes[&away].snapshots.fail_next_commit();
    cluster.restart(away);
    cluster.settle(60);
    wait_for("the failure to be counted", || {
        let failed = |node: &support::Node| node.handle().stats().snapshots_send_failed;
        (cluster.nodes.values().map(failed).sum::<u64>() > 0).then_some(())
    });
}

#[test]
fn a_wiped_disk_under_the_old_id_takes_no_part_and_says_so() {
    let mut cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    for n in 0..10 {
        cluster.handle(leader).propose(format!("{n}")).wait().expect("applied");
    }
    cluster.settle(10);
    let wiped = cluster.follower();
    // Its birth is what the others recognise it by, whoever leads.
    cluster.handle(wiped).publish("m", Vec::new()).wait().expect("published");
    cluster.handle(leader).propose("last").wait().expect("applied");
    cluster.settle(11);
    cluster.stop(wiped);
    let (founders, id) = (cluster.cluster.clone(), wiped);
    let new = oarlock_raftnode::bootstrap::Boot::New { id, cluster: founders };
    let (store, snapshots) = Default::default();
    cluster.boot(wiped, store, snapshots, &new);
    std::thread::sleep(Duration::from_millis(300)); // nothing must happen meanwhile
    let status = cluster.handle(wiped).status();
    assert!(status.applied <= 3, "it was fed with {} entries", status.applied);
    assert_eq!(cluster.nodes[&wiped].lines().len(), 0);
    cluster.handle(leader).propose("the others go on").wait().expect("applied");

    // Both sides say why.
    for by_peer in [true, false] {
        let (here, there) = if by_peer { (wiped, leader) } else { (leader, wiped) };
        let refused = wait_for("a refusal that is shown", || {
            let status = cluster.handle(here).status();
            let link = status.links.into_iter().find(|link| link.id == there)?;
            assert_eq!(link.connected_ms, None);
            // Who made the last attempt is a matter of luck.
            link.refused.filter(|refused| refused.by_peer == by_peer)
        });
        assert_eq!(refused.kind, "rejected");
        assert!(refused.reason.contains("remove this member and add it"), "{}", refused.reason);
        assert!(refused.since_ms >= refused.last_ms);
    }
    let status = cluster.handle(leader).status();
    let well = status.links.iter().find(|link| link.id != wiped).expect("the third");
    assert!(well.connected_ms.is_some() && well.refused.is_none(), "{well:?}");
    assert!(well.max_frame > 0, "it has said what it reads");
}

#[test]
fn paused_is_cut_off_and_resumed_is_back() {
    let cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    cluster.handle(leader).pause();
    let other = wait_for("another leader", || {
        cluster
            .nodes
            .values()
            .find(|node| node.id != leader && node.handle().vitals().role == Role::Leader)
    });
    other.handle().propose("meanwhile").wait().expect("two of three");
    cluster.handle(leader).resume();
    cluster.settle(1);
}

#[test]
fn with_an_inert_ticker_time_passes_only_by_request() {
    let cluster = TestCluster::new(1, config().heartbeat_interval(Duration::ZERO));
    let id = cluster.ids()[0];
    assert_eq!(cluster.handle(id).wait_leader(Duration::from_millis(100)), None);
    wait_for("the founding entries to be applied", || {
        (cluster.handle(id).vitals().applied > 0).then_some(())
    });
    cluster.handle(id).advance_ticks(1);
    assert_eq!(cluster.handle(id).wait_leader(PATIENCE), Some(id));
    cluster.handle(id).propose("a").wait().expect("applied");
}

#[test]
fn a_state_machine_that_hangs_does_not_hold_up_a_stop() {
    let mut cluster = TestCluster::new(1, config().stop_timeout(Duration::from_millis(100)));
    let id = cluster.leader();
    let stuck = cluster.handle(id).propose("hang");
    wait_for("it to be committed", || {
        let vitals = cluster.handle(id).vitals();
        (vitals.commit > vitals.applied).then_some(())
    });
    let began = Instant::now();
    cluster.stop(id);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!stuck.wait().expect_err("it was committed, and nobody knows").is_definite());
}

#[test]
fn what_is_too_much_is_refused_at_once() {
    let mut cluster = TestCluster::new(3, config().max_waiting_proposals(2).max_request_bytes(10));
    let stays = cluster.ids()[0];
    let too_large = cluster.handle(stays).propose("12345678901").wait();
    assert_eq!(too_large, Err(ProposeError::TooLarge { bytes: 11, max: 10 }));
    for id in cluster.ids().into_iter().skip(1) {
        cluster.stop(id);
    }
    wait_for("it to be without a leader", || (cluster.handle(stays).leader() == 0).then_some(()));
    let deadline = Instant::now() + Duration::from_millis(300);
    let pending: Vec<_> =
        (0..20).map(|_| cluster.handle(stays).propose_by("x", deadline)).collect();
    let results: Vec<_> = pending.into_iter().map(|pending| pending.wait()).collect();
    let busy = |result: &&Result<_, ProposeError>| matches!(result, Err(ProposeError::Busy(_)));
    assert!(results.iter().filter(busy).count() >= 16, "{results:?}");
    assert!(results.iter().all(|result| result.as_ref().is_err_and(ProposeError::is_definite)));
}

#[test]
fn dropping_the_last_handle_stops_the_node() {
    let mut cluster = TestCluster::new(1, config());
    let id = cluster.leader();
    let node = cluster.nodes.get_mut(&id).expect("a member");
    drop(node.handle.take());
    cluster.restart(id);
    cluster.leader();
}

/// A member that was removed while the others were still there may be all that is left later. Its log holds its own
/// removal: the entries of the rescue, behind it, must be reached all the same (etcd #13848).
#[test]
fn a_removed_survivor_can_be_rescued_and_goes_on_alone() {
    use oarlock_raftnode::bootstrap::{Boot, Standalone};
    use oarlock_raftnode::membership::UncommittedTail;
    let mut cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    let survivor = cluster.follower();
    cluster.handle(leader).propose("before").wait().expect("applied");
    cluster.settle(1); // or the survivor may lack it, having heard of its removal from a peer and not from the log
    cluster.handle(leader).change_members(Change::Remove(survivor)).wait().expect("removed");
    assert!(matches!(cluster.handle(survivor).wait_end(), NodeEnd::Removed));
    for id in cluster.ids() {
        cluster.stop(id);
    }
    let (store, snapshots) =
        (cluster.nodes[&survivor].store.crash(), cluster.nodes[&survivor].snapshots.clone());
    cluster.nodes.clear();
    let rescue = Standalone { tail: UncommittedTail::Keep, keep_cluster_id: false, again: false };
    cluster.boot(survivor, store, snapshots, &Boot::Standalone(rescue));
    for _ in 0..2 {
        assert_eq!(cluster.leader(), survivor);
        cluster.handle(survivor).propose("after").wait().expect("applied");
        let members: Vec<u64> =
            cluster.handle(survivor).cluster().members().map(|member| member.id).collect();
        assert_eq!(members, [survivor]);
        cluster.crash(survivor);
        cluster.restart(survivor); // and its log goes on to boot
    }
    // One that joins reads in the log that the survivor was removed, and only later that it is back.
    let joiner = member(0x77);
    cluster.leader();
    let rescued = cluster.handle(survivor).cluster();
    cluster.cluster = oarlock_raftnode::membership::Cluster::clone(&rescued);
    cluster.crash(survivor);
    cluster.restart(survivor); // under the new cluster's id
    cluster.leader();
    cluster
        .handle(survivor)
        .change_members(Change::AddVoter(joiner.clone()))
        .wait()
        .expect("added");
    cluster.join(&joiner);
    let lines = cluster.settle(3);
    assert_eq!(lines, ["before", "after", "after"]);
    cluster.handle(joiner.id).propose("joined").wait().expect("applied");
    assert!(cluster.handle(survivor).end().is_none());
}

/// Nobody writes any more, so nothing but the follower's need makes for another try.
#[test]
fn a_snapshot_that_could_not_be_written_is_tried_again_on_an_idle_cluster() {
    let mut cluster = TestCluster::new(3, config().snapshot_count(20).snapshot_catchup_entries(5));
    let leader = cluster.leader();
    for n in 0..60 {
        cluster.handle(leader).propose(format!("{n}")).wait().expect("applied");
    }
    wait_for("a snapshot", || (cluster.handle(leader).status().first_index > 20).then_some(()));
    let joiner = member(77);
    let added = cluster.handle(leader).change_members(Change::AddLearner(joiner.clone())).wait();
    added.expect("added");
    cluster.nodes[&leader].snapshots.fail_next_commit();
    cluster.join(&joiner);
    cluster.settle(60);
    assert_eq!(cluster.handle(leader).stats().snapshots_failed, 1);
}

/// Of a removed member's proposals nothing needs to be told apart any more: snapshots carry no more than that it is closed.
#[test]
fn the_window_of_a_removed_member_is_closed() {
    use oarlock_raftnode::membership::ProposalId;
    use oarlock_raftnode::{SnapshotHead, SnapshotStore, Verdict};
    let cluster = TestCluster::new(3, config().snapshot_count(5));
    let (leader, removed) = (cluster.leader(), cluster.follower());
    cluster.handle(removed).propose("its own").wait().expect("applied");
    cluster.handle(leader).change_members(Change::Remove(removed)).wait().expect("removed");
    for n in 0..20 {
        cluster.handle(leader).propose(format!("{n}")).wait().expect("applied");
    }
    let change = cluster.handle(leader).vitals().applied - 20;
    let head = wait_for("a snapshot after the change", || {
        let id = cluster.nodes[&leader].snapshots.ids().pop().filter(|id| id.index > change)?;
        let mut source = cluster.nodes[&leader].snapshots.open(id).ok()?;
        SnapshotHead::read_from(&mut source.content).ok()
    });
    let late = |origin| ProposalId { origin, incarnation: 1, sequence: 5000 };
    let mut window = head.window;
    assert_eq!(window.accept(late(removed)), Verdict::Stale);
    assert_eq!(window.accept(late(leader)), Verdict::First);
}

/// Joint changes through the handle: left by the leader, or when the proposer says so.
#[test]
fn members_are_replaced_jointly() {
    let mut cluster = TestCluster::new(3, config());
    let leader = cluster.leader();
    cluster.handle(leader).propose("before").wait().expect("applied");
    let (old, new) = (cluster.follower(), member(0x77));
    let changes = vec![Change::AddVoter(new.clone()), Change::Remove(old)];
    let change = cluster.handle(leader).change_members_jointly(changes);
    cluster.join(&new);
    let members = change.wait().expect("accepted");
    assert!(members.member(new.id).is_some() && members.is_removed(old));
    let status = cluster.handle(leader).status();
    assert!(status.voters_outgoing.is_empty() && status.voters.contains(&new.id), "{status:?}");
    assert!(matches!(cluster.handle(old).wait_end(), NodeEnd::Removed));
    cluster.stop(old);
    cluster.settle(1);

    let leader = cluster.leader();
    let promoted = vec![Change::AddVoter(member(0x88)), Change::Remove(new.id)];
    cluster.handle(leader).enter_joint(promoted).wait().expect("it is in force");
    let status = cluster.handle(leader).status();
    assert!(status.voters_outgoing.contains(&new.id), "until the proposer leaves it: {status:?}");
    cluster.join(&member(0x88));
    cluster.handle(leader).propose("joint").wait().expect("both majorities are there");
    cluster.handle(leader).leave_joint().wait().expect("it can be left");
    let status = cluster.handle(leader).status();
    assert!(status.voters_outgoing.is_empty() && status.voters.contains(&0x88), "{status:?}");
    assert!(matches!(cluster.handle(new.id).wait_end(), NodeEnd::Removed));
    cluster.stop(new.id);
    assert_eq!(cluster.settle(2), ["before", "joint"]);
}

/// O19: check-quorum would end its leadership, if it were on.
#[test]
fn a_leader_that_was_removed_while_away_learns_it() {
    for check_quorum in [true, false] {
        let cluster = TestCluster::new(3, config().check_quorum(check_quorum));
        let leader = cluster.leader();
        cluster.handle(leader).pause();
        let second = wait_for("another leader", || {
            let leads = |id: &u64| cluster.handle(*id).vitals().role == Role::Leader;
            cluster.ids().into_iter().filter(|id| *id != leader).find(leads)
        });
        let removed = cluster.handle(second).change_members(Change::Remove(leader)).wait();
        removed.expect("two of three");
        cluster.handle(leader).resume();
        let end = wait_for("the end", || cluster.handle(leader).end());
        assert!(matches!(end, NodeEnd::Removed), "check_quorum {check_quorum}: {end:?}");
    }
}

/// O19: what first said so never arrives.
#[test]
fn the_one_who_is_left_hears_of_the_removal_although_the_news_is_lost() {
    let mut cluster = TestCluster::new(2, config().election_ticks(200));
    let leader = cluster.ids()[0];
    let (trace, spy) = cluster.spy_on(leader, false);
    cluster.elect(leader);
    let left = cluster.follower();
    cluster.handle(leader).propose("before").wait().expect("both");
    trace.shut(true); // it cannot be committed before the other one holds it
    let held = cluster.handle(left).status().durable;
    let pending = cluster.handle(leader).change_members(Change::Remove(leader));
    wait_for("the other one to hold the change", || {
        (cluster.handle(left).status().durable > held).then_some(())
    });
    spy.block(left); // no append arrives any more
    trace.shut(false);
    pending.wait().expect("committed");
    wait_for("the other one to apply it", || {
        (cluster.handle(left).status().voters == [left]).then_some(())
    });
    assert!(matches!(cluster.handle(leader).wait_end(), NodeEnd::Removed));
}

#[test]
fn a_node_that_has_ended_says_how_it_was_then() {
    let mut cluster = TestCluster::new(1, config());
    let id = cluster.leader();
    let handle = cluster.handle(id).clone();
    let before = handle.status();
    let applied = handle.propose("later").wait().expect("applied").index;
    cluster.stop(id);
    let after = handle.status();
    assert!(before.last_index < applied, "{before:?}");
    assert_eq!((after.last_index, after.applied, after.durable), (applied, applied, applied));
    assert_eq!((after.role, after.leader), (Role::Follower, 0), "it leads nobody any more");
}

/// Who does not want to wait for a bounded time says so by the longest that there is.
#[test]
fn an_endless_patience_is_no_panic() {
    let endless = Duration::MAX;
    let mut cluster = TestCluster::new(1, config().request_timeout(endless).stop_timeout(endless));
    let id = cluster.leader();
    let handle = cluster.handle(id).clone();
    assert_eq!(handle.wait_leader(endless), Some(id));
    let index = handle.propose("one").wait_timeout(endless).expect("in time").expect("it leads");
    assert!(handle.wait_applied(index.index, endless));
    handle.read_index().wait().expect("it leads");
    assert!(matches!(handle.shutdown_gracefully(endless), NodeEnd::Stopped));
    cluster.stop(id);
}
