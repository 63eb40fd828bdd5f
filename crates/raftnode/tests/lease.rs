//! Reads within a lease: what ends one, and that none is ever stale while clocks keep to what was assumed.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::raft::eraftpb::MessageType;
use oarlock_raftnode::{ConfigError, Role, StartError};

mod support;
use support::sim::{Packet, Sim};
use support::{TestCluster, config, member, wait_for};

const TICK: Duration = Duration::from_millis(100);

/// Three members that know about leases, the first of which leads and holds one from time 10 s on.
fn with_lease() -> Sim {
    let mut sim = Sim::new_with(3, 7, |config| config.lease_reads(1));
    sim.elect(1);
    set_time(&mut sim, 10_000);
    lease(&mut sim, 1);
    sim
}

fn set_time(sim: &mut Sim, millis: u64) {
    for node in sim.nodes.values_mut() {
        node.core.set_time(Duration::from_millis(millis));
    }
}

/// A round of reads, which leaves a lease behind.
fn lease(sim: &mut Sim, id: u64) {
    sim.core(id).handle_read(99);
    sim.settle();
    assert!(sim.core(id).lease_read().is_some(), "the round was confirmed");
}

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

#[test]
fn without_the_option_there_is_no_lease_and_without_check_quorum_no_option() {
    let mut sim = Sim::new(3, 7);
    sim.elect(1);
    sim.core(1).handle_read(1);
    sim.settle();
    assert_eq!(sim.core(1).lease_read(), None);

    let refused = std::panic::catch_unwind(|| {
        TestCluster::new(1, config().lease_reads(1).check_quorum(false));
    });
    let said = refused.expect_err("it must not start");
    let said = said.downcast_ref::<String>().expect("a message");
    let expected = format!("{:?}", StartError::Config(ConfigError::LeaseWithoutCheckQuorum));
    assert!(said.contains(&expected), "{said}");
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
fn nobody_campaigns_or_votes_while_a_lease_may_be_in_force() {
    let mut sim = with_lease();
    sim.cut.push(1);
    sim.core(2).handle_campaign();
    sim.settle();
    assert_eq!(sim.node(2).core.vitals().role, Role::Follower);
    // One that never heard of the leader, or has forgotten it, asks; both of the others have promised.
    sim.crash(3, 0);
    for _ in 0..25 {
        sim.tick(3);
        sim.settle();
    }
    assert_eq!(sim.node(3).core.vitals().role, Role::PreCandidate, "nobody answers it");
    // And one that has forgotten votes for nobody, though 3 may by now.
    sim.crash(2, 0);
    for _ in 0..9 {
        sim.tick(2);
        sim.core(3).handle_campaign();
        sim.settle();
        assert_ne!(sim.node(3).core.vitals().role, Role::Leader);
    }
    sim.tick(2);
    sim.core(3).handle_campaign();
    sim.settle();
    assert_eq!(sim.node(3).core.vitals().role, Role::Leader, "the promise is over");
}

/// A message of a later term makes raft-rs forget its leader, and vote for anybody; the promise is to be kept all the same.
#[test]
fn a_promise_outlives_the_term_it_was_made_in() {
    let mut sim = with_lease();
    sim.cut.push(1);
    let mut stray = oarlock_raftnode::raft::eraftpb::Message::default();
    stray.set_msg_type(MessageType::MsgAppendResponse);
    (stray.from, stray.to, stray.term, stray.reject) = (3, 2, 50, true);
    sim.deliver(3, 2, Packet::Raft(stray));
    assert_eq!(sim.node(2).core.vitals().leader, 0, "it has forgotten");
    let mut ask = oarlock_raftnode::raft::eraftpb::Message::default();
    ask.set_msg_type(MessageType::MsgRequestVote);
    (ask.from, ask.to, ask.term, ask.index, ask.log_term) = (3, 2, 51, 99, 50);
    sim.deliver(3, 2, Packet::Raft(ask));
    assert_eq!(sim.node(2).core.status().vote, 0);
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
    sim.core(1).handle_read(1);
    sim.settle();
    assert_eq!(sim.core(1).lease_read(), None, "the order to campaign may still arrive");
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

/// Members whose clocks differ by what is allowed, a network that does what it likes, restarts, transfers, changes: no read
/// by lease misses what was applied anywhere before it.
#[test]
fn no_read_by_lease_is_ever_stale() {
    let mut leased = 0;
    for seed in 0..12 {
        leased += run(seed);
    }
    assert!(leased > 500, "{leased} reads tried it");
}

fn run(seed: u64) -> u64 {
    const DRIFT: u64 = 10;
    let mut rng = fastrand::Rng::with_seed(seed);
    let pre_vote = rng.bool();
    let mut sim =
        Sim::new_with(5, seed, |config| config.lease_reads(DRIFT as u32).pre_vote(pre_vote));
    // In permille; the fastest is as much faster than the slowest as is allowed.
    let mut clocks: BTreeMap<u64, (u64, u64)> =
        sim.nodes.keys().map(|id| (*id, (rng.u64(955..=1045), rng.u64(0..100_000)))).collect();
    let mut leased = 0;
    let mut delayed: Vec<(u64, (u64, u64, Packet))> = Vec::new();
    for now in (0..60_000).step_by(10) {
        for id in sim.nodes.keys().copied().collect::<Vec<_>>() {
            let (speed, due) = clocks.get_mut(&id).expect("it has one");
            let own = now * *speed; // in microseconds
            let ticks = own >= *due;
            sim.core(id).set_time(Duration::from_micros(own));
            if ticks {
                *due += 100_000;
                sim.tick(id);
            }
            sim.poll(id);
            while sim.write(id) {}
            sim.sync(id);
            while sim.apply(id) {}
            if rng.u32(..10) == 0 {
                let seen = sim.history.keys().next_back().copied().unwrap_or(0);
                let core = sim.core(id);
                match core.lease_read() {
                    Some(index) => {
                        leased += 1;
                        assert!(index >= seen, "seed {seed}: node {id} at {now}: {index} < {seen}");
                    }
                    None => core.handle_read(now),
                }
            }
        }
        for packet in std::mem::take(&mut sim.net) {
            // Most are quick; some take long enough to be of another time.
            let delay = if rng.u32(..50) == 0 { rng.u64(..3000) } else { rng.u64(..30) };
            if rng.u32(..100) != 0 {
                delayed.push((now + delay, packet));
            }
        }
        let (due, later) = delayed.into_iter().partition(|(at, _)| *at <= now);
        delayed = later;
        let due: Vec<(u64, (u64, u64, Packet))> = due;
        for (_, (from, to, packet)) in due {
            sim.deliver(from, to, packet);
        }
        let id = rng.u64(1..=5);
        match rng.u32(..2000) {
            0..60 => drop(sim.propose(id, &format!("{now}"))),
            60..70 => sim.cut = vec![id],
            70..74 => sim.cut = vec![id, rng.u64(1..=5)],
            74..90 => sim.cut.clear(),
            90..98 => sim.crash(id, 0),
            98..104 => drop(sim.core(id).handle_transfer(rng.u64(1..=5))),
            104..120 => sim.core(id).handle_campaign(),
            120..128 => {
                let learner = 100 + rng.u64(..5);
                let known = sim.node(id).core.cluster().member(learner).is_some();
                let change = if known {
                    Change::Remove(learner)
                } else {
                    Change::AddLearner(member(learner))
                };
                sim.change(id, ChangeEntry::new(change));
            }
            _ => {}
        }
    }
    leased
}

/// The same through the threads: a leader answers alone, and no longer does once it is cut off.
#[test]
fn a_leader_answers_alone_until_it_is_cut_off() {
    let cluster = TestCluster::new(3, config().lease_reads(1));
    let leader = cluster.leader();
    let handle = cluster.handle(leader);
    handle.propose("one").wait().expect("applied");
    wait_for("a lease", || {
        handle.read_lease().wait().expect("it leads");
        (handle.stats().reads_by_lease > 0).then_some(())
    });
    let index = handle.read_lease().wait().expect("it leads");
    assert!(index >= 3, "{index}");
    assert_eq!(cluster.handle(cluster.follower()).read_lease().wait(), Ok(index), "by a round");

    handle.pause();
    let second = wait_for("another leader", || {
        let leads = |id: &u64| cluster.handle(*id).vitals().role == Role::Leader;
        cluster.ids().into_iter().filter(|id| *id != leader).find(leads)
    });
    cluster.handle(second).propose("two").wait().expect("two of three");
    let deadline = std::time::Instant::now() + 3 * TICK;
    handle.read_lease_by(deadline).wait().expect_err("nobody confirms that it leads");
    handle.resume();
    wait_for("it to see what it missed", || {
        let index = handle.read_lease().wait().ok()?;
        (handle.vitals().applied >= index && cluster.nodes[&leader].lines() == ["one", "two"])
            .then_some(())
    });
}
