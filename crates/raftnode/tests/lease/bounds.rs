//! When a lease begins, and what ends it.

use std::time::Duration;

use oarlock_raftnode::Role;
use oarlock_raftnode::membership::record::ConfChangeTransition;
use oarlock_raftnode::membership::{Change, ChangeEntry};

use crate::support::member;
use crate::{elected, lease, round, set_time, with_lease};

#[test]
fn a_confirmed_round_leaves_a_lease_that_ends() {
    let mut sim = with_lease();
    let last = sim.config.lease().as_millis() as u64;
    set_time(&mut sim, 10_000 + last);
    let commit = sim.core(1).vitals().commit;
    assert_eq!(sim.core(1).lease_read(), Some(commit));
    assert_eq!(sim.core(2).lease_read(), None, "a follower has none");
    set_time(&mut sim, 10_001 + last);
    assert_eq!(sim.core(1).lease_read(), None);
    set_time(&mut sim, 10_000 + last);
    assert_eq!(sim.core(1).lease_read(), None, "what has ended has ended");
}

/// A stream of reads renews the lease before it ends, so that none of them waits.
#[test]
fn a_lease_in_use_is_renewed() {
    let mut sim = with_lease();
    for step in 1..=40 {
        set_time(&mut sim, 10_000 + 100 * step);
        assert!(sim.core(1).lease_read().is_some(), "after {step} ticks");
        sim.settle();
    }
}

/// The followers' promises run from when they heard the heartbeat, however long their answers took.
#[test]
fn a_lease_begins_when_its_round_was_asked() {
    let mut sim = elected(1);
    sim.core(1).handle_read(99);
    sim.poll(1);
    set_time(&mut sim, 10_400);
    sim.settle();
    let last = sim.config.lease().as_millis() as u64;
    set_time(&mut sim, 10_000 + last);
    assert!(sim.core(1).lease_read().is_some());
    set_time(&mut sim, 10_001 + last);
    assert_eq!(sim.core(1).lease_read(), None, "it goes on for longer than was promised");
}

/// The promise in an answer to an earlier try runs from an earlier time.
#[test]
fn an_answer_to_an_earlier_try_confirms_reads_and_begins_no_lease() {
    let mut sim = elected(1);
    sim.core(1).handle_read(99);
    sim.poll(1);
    for (from, to, packet) in std::mem::take(&mut sim.net) {
        sim.deliver(from, to, packet);
    }
    for id in [2, 3] {
        while sim.write(id) {}
        sim.sync(id);
    }
    let answers = std::mem::take(&mut sim.net);
    set_time(&mut sim, 10_400);
    for _ in 0..5 {
        sim.tick(1);
    }
    assert_eq!(sim.core(1).read_retries(), 1, "it asks again");
    sim.net.clear();
    for (from, to, packet) in answers {
        sim.deliver(from, to, packet);
    }
    assert_eq!(sim.node(1).reads.len(), 1, "any try will do for a read");
    assert_eq!(sim.core(1).lease_read(), None, "what was promised earlier ends earlier");
}

/// All that the assumptions allow for, at once: followers whose clocks are as much faster as may be, and who count five ticks
/// that were none of theirs.
#[test]
fn the_fastest_followers_elect_nobody_within_the_lease_of_the_slowest_leader() {
    let mut sim = elected(10);
    lease(&mut sim, 1);
    sim.cut.push(1);
    for tick in 1..=10 {
        assert_ne!(sim.node(2).core.vitals().role, Role::Leader, "before tick {tick}");
        sim.tick(2);
        sim.tick(3);
        sim.core(2).handle_campaign();
        sim.settle();
    }
    assert_eq!(sim.node(2).core.vitals().role, Role::Leader);
    sim.propose(2, "new");
    sim.settle();
    // Five intervals of a clock that runs at 110 percent.
    let passed = 5 * Duration::from_millis(100) * 100 / 110;
    sim.core(1).set_time(Duration::from_secs(10) + passed);
    assert_eq!(sim.node(1).core.vitals().role, Role::Leader, "it does not know yet");
    assert_eq!(sim.core(1).lease_read(), None, "stale");
}

/// What raft-rs's own leases do not see: a leader that was cut off still believes that it leads when another is elected, for
/// check-quorum has only looked at it once since.
#[test]
fn a_deposed_leader_has_no_lease_left_when_another_is_elected() {
    let mut sim = with_lease();
    sim.cut.push(1);
    let mut now = 10_000;
    let second = loop {
        now += 100;
        set_time(&mut sim, now);
        for id in 1..=3 {
            sim.tick(id);
        }
        sim.settle();
        if let Some(id) =
            [2, 3].into_iter().find(|id| sim.node(*id).core.vitals().role == Role::Leader)
        {
            break id;
        }
        assert!(now < 20_000, "nobody is elected");
    };
    assert_eq!(sim.node(1).core.vitals().role, Role::Leader, "it does not know yet");
    assert_eq!(sim.core(1).lease_read(), None, "{now}");
    sim.propose(second, "new");
    sim.settle();
    assert!(sim.node(second).core.vitals().commit > sim.node(1).core.vitals().commit);
}

#[test]
fn a_transfer_ends_leases_for_the_rest_of_the_term() {
    let mut sim = with_lease();
    sim.cut.extend([2, 3]);
    sim.core(1).handle_transfer(2).expect("it may");
    sim.poll(1);
    assert_eq!(sim.core(1).lease_read(), None, "its target may lead at once");
    sim.cut.clear();
    sim.net.clear();
    for _ in 0..12 {
        sim.tick(1);
        sim.settle();
    }
    assert_eq!(sim.node(1).core.vitals().role, Role::Leader, "it was given up");
    assert!(!round(&mut sim, 1), "the order to campaign may still arrive");
}

#[test]
fn a_change_of_members_ends_the_lease_and_the_next_round_begins_another() {
    let mut sim = with_lease();
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(77))));
    assert_eq!(sim.core(1).lease_read(), None, "from when it is proposed");
    sim.settle();
    lease(&mut sim, 1);
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(78))));
    sim.settle();
    assert_eq!(sim.core(1).lease_read(), None, "it began before the change, which is over");
    lease(&mut sim, 1);
}

/// In between others have led, and this node does not know yet what they committed.
#[test]
fn a_lease_of_another_term_is_none() {
    let mut sim = with_lease();
    for to in [2, 1] {
        let leader = sim.leader().expect("somebody leads");
        sim.core(leader).handle_transfer(to).expect("it may");
        sim.settle();
    }
    let vitals = sim.node(1).core.vitals();
    assert_eq!(vitals.role, Role::Leader);
    assert_eq!(sim.core(1).lease_read(), None, "by the time it is still in force");
}

/// Of two majorities the answers show one at most.
#[test]
fn there_is_no_lease_in_a_joint_configuration() {
    let mut sim = with_lease();
    let steps = vec![Change::AddVoter(member(4)), Change::Remove(3)];
    sim.change(1, ChangeEntry::joint(steps, ConfChangeTransition::Explicit));
    sim.settle();
    assert!(sim.node(1).core.configuration().is_joint());
    assert!(!round(&mut sim, 1), "a lease while the configuration is joint");
    sim.change(1, ChangeEntry::leave_joint());
    sim.settle();
    lease(&mut sim, 1);
}
