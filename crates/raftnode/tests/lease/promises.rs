//! What members promise each other, and keep.

use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::raft::eraftpb::{Message, MessageType};
use oarlock_raftnode::{Config, LogStore, Role, bootstrap::Metadata};

use crate::support::member;
use crate::support::sim::{Packet, Sim};
use crate::{lease, restart, round, set_time, with_lease};

fn on() -> Config {
    Config::new().seed(7).lease_reads(1)
}

fn off() -> Config {
    Config::new().seed(7)
}

#[test]
fn nobody_campaigns_or_votes_while_a_lease_may_be_in_force() {
    let mut sim = with_lease();
    sim.cut.push(1);
    sim.core(2).handle_campaign();
    sim.settle();
    assert_eq!(sim.node(2).core.vitals().role, Role::Follower, "it campaigns despite its promise");
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
        assert_ne!(
            sim.node(3).core.vitals().role,
            Role::Leader,
            "elected while a lease is in force"
        );
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
    let mut stray = Message::default();
    stray.set_msg_type(MessageType::MsgAppendResponse);
    (stray.from, stray.to, stray.term, stray.reject) = (3, 2, 50, true);
    sim.deliver(3, 2, Packet::Raft(stray.into()));
    assert_eq!(sim.node(2).core.vitals().leader, 0, "it has forgotten");
    let mut ask = Message::default();
    ask.set_msg_type(MessageType::MsgRequestVote);
    (ask.from, ask.to, ask.term, ask.index, ask.log_term) = (3, 2, 51, 99, 50);
    sim.deliver(3, 2, Packet::Raft(ask.into()));
    assert_eq!(sim.node(2).core.status().vote, 0, "it gave away what it had promised");
}

/// Reads are answered all the same, by rounds.
#[test]
fn a_lease_takes_the_promises_of_a_majority() {
    let mut sim = with_lease();
    restart(&mut sim, 2, off());
    lease(&mut sim, 1); // 1 and 3 are two of three
    restart(&mut sim, 3, off());
    set_time(&mut sim, 11_000);
    for _ in 0..3 {
        assert!(!round(&mut sim, 1), "a lease without promises");
    }
    assert_eq!(sim.node(1).promises, [(2, false), (3, false)], "once, and not for each read");
    let status = sim.node(1).core.status();
    assert!(!status.leased);
    assert_eq!(status.promise_ms, 500);
    assert_eq!(status.peers.iter().map(|peer| peer.promise_ms).collect::<Vec<_>>(), [500, 0, 0]);

    restart(&mut sim, 3, on().election_ticks(9));
    assert!(!round(&mut sim, 1), "400 ms is less than 500");
    restart(&mut sim, 3, on().election_ticks(20));
    lease(&mut sim, 1);
    assert_eq!(sim.node(1).promises, [(2, false), (3, false), (3, true)]);
    let status = sim.node(1).core.status();
    assert!(status.leased);
    assert_eq!(status.peers.iter().map(|peer| peer.promise_ms).collect::<Vec<_>>(), [500, 0, 1500]);
}

/// The majority is that of the voters: a learner's promise does not count, nor does that of one who promises nothing.
#[test]
fn a_learner_s_promise_is_no_voter_s() {
    let mut sim = with_lease();
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(4))));
    sim.settle();
    sim.join(4, 1);
    sim.tick(1);
    sim.settle();
    restart(&mut sim, 2, off());
    restart(&mut sim, 3, off());
    set_time(&mut sim, 20_000);
    assert!(!round(&mut sim, 1), "a lease without promises");
    sim.change(1, ChangeEntry::new(Change::Remove(2)));
    sim.settle();
    sim.change(1, ChangeEntry::new(Change::Promote(4)));
    sim.settle();
    lease(&mut sim, 1); // 1 and 4, of 1, 3 and 4
}

/// Its own vote is one of those it promised: with that of somebody who has promised nothing it would be elected.
#[test]
fn a_shorter_timeout_does_not_cut_a_promise_short() {
    let mut sim = with_lease();
    restart(&mut sim, 3, off());
    (0..10).for_each(|_| sim.tick(3));
    sim.cut = vec![3];
    sim.net.clear();
    set_time(&mut sim, 20_000);
    lease(&mut sim, 1); // 1 and 2, while 3 hears nothing
    sim.cut = vec![1];
    restart(&mut sim, 2, off().election_ticks(5));
    for tick in 1..=10 {
        let role = sim.node(2).core.vitals().role;
        assert_ne!(role, Role::Leader, "elected before tick {tick}, while a lease is in force");
        sim.tick(2);
        sim.settle();
    }
    sim.core(2).handle_campaign();
    sim.settle();
    assert_eq!(sim.node(2).core.vitals().role, Role::Leader, "the promise is over");
}

/// Nobody votes before ten ticks of their own: not those who promised it, and have forgotten it, and would not do it again.
fn nobody_is_elected_for_ten_ticks(mut sim: Sim) {
    for tick in 1..=10 {
        for id in [2, 3] {
            let role = sim.node(id).core.vitals().role;
            assert_ne!(role, Role::Leader, "elected before tick {tick}, while a lease is in force");
        }
        sim.core(2).handle_campaign();
        sim.tick(3);
        sim.settle();
        sim.tick(2);
        sim.settle();
    }
    assert!(sim.core(1).lease_read().is_some(), "it does not know, and need not");
    sim.core(2).handle_campaign();
    sim.settle();
    let leads = |id: &u64| sim.node(*id).core.vitals().role == Role::Leader;
    assert!([2, 3].iter().any(leads), "the promise is over");
}

#[test]
fn a_promise_is_kept_by_those_who_start_again_without_leases() {
    let mut sim = with_lease();
    sim.cut.push(1);
    restart(&mut sim, 2, off());
    restart(&mut sim, 3, off());
    nobody_is_elected_for_ten_ticks(sim);
}

/// Nor does a new and shorter promise replace it.
#[test]
fn a_promise_is_kept_by_those_who_start_again_with_a_shorter_timeout() {
    let mut sim = with_lease();
    sim.cut.push(1);
    restart(&mut sim, 2, off().election_ticks(5).pre_vote(false));
    restart(&mut sim, 3, on().election_ticks(6).pre_vote(false));
    nobody_is_elected_for_ten_ticks(sim);
}

/// Again and again: it is not known whether the promise of the last life but one is over.
#[test]
fn a_promise_is_kept_by_those_who_start_again_more_than_once() {
    let mut sim = with_lease();
    sim.cut.push(1);
    for config in [off(), on().election_ticks(6), off()] {
        restart(&mut sim, 2, config.clone());
        restart(&mut sim, 3, config);
    }
    nobody_is_elected_for_ten_ticks(sim);
}

/// Its own addition of another voter may be what it does not know of any more, for a commit index is not synced.
#[test]
fn one_that_takes_itself_for_the_only_voter_keeps_its_promise() {
    let mut sim = Sim::new_with(1, 7, |config| config.lease_reads(1));
    sim.elect(1);
    sim.crash(1, 0);
    for tick in 0..10 {
        sim.settle();
        assert_ne!(sim.node(1).core.vitals().role, Role::Leader, "it leads after {tick} ticks");
        sim.tick(1);
    }
    sim.tick(1);
    sim.settle();
    assert_eq!(sim.node(1).core.vitals().role, Role::Leader);
}

#[test]
fn what_is_promised_is_on_disk_and_never_becomes_less() {
    let mut sim = with_lease();
    let promised = |sim: &Sim| {
        let metadata = sim.node(2).store.crash().state().expect("it reads").metadata;
        Metadata::decode(metadata).expect("ours").promised
    };
    let first = promised(&sim);
    assert_eq!(first, sim.config.promise());
    restart(&mut sim, 2, off());
    assert_eq!(promised(&sim), first);
    restart(&mut sim, 2, on().election_ticks(20));
    assert_eq!(promised(&sim), 3 * first);
}

/// Whatever it has written is durable.
fn sync(sim: &mut Sim, id: u64) {
    sim.nodes.get_mut(&id).expect("a node").store.sync().expect("no fault");
}

/// A member that waits once for what it promised need not do so for good.
#[test]
fn a_promise_that_is_over_is_forgotten() {
    let mut sim = with_lease();
    let promised = |sim: &Sim| {
        let metadata = sim.node(2).store.state().expect("it reads").metadata;
        Metadata::decode(metadata).expect("ours").promised
    };
    let (long, short) = (sim.config.promise(), on().election_ticks(6));
    restart(&mut sim, 2, short.clone());
    for _ in 0..9 {
        sim.tick(2);
        sim.settle();
        assert_eq!(promised(&sim), long, "it may be in force");
    }
    sim.tick(2);
    assert_eq!(promised(&sim), short.promise(), "it promises that itself");
    sim.crash(2, 0);
    assert_eq!(promised(&sim), long, "a crash before the next sync");
    for _ in 0..10 {
        sim.tick(2);
        sim.settle();
    }
    sync(&mut sim, 2);
    assert_eq!(promised(&sim), short.promise());
    sim.cut.push(2);
    restart(&mut sim, 2, off());
    let bound = |sim: &mut Sim| {
        let ticks = (0..100).take_while(|_| {
            let bound = sim.node(2).core.is_bound();
            sim.tick(2);
            bound
        });
        ticks.count()
    };
    assert_eq!(bound(&mut sim), 6, "100 ms and five ticks for those that were counted badly");
    sync(&mut sim, 2);
    restart(&mut sim, 2, off());
    assert_eq!(bound(&mut sim), 0, "nothing was promised since");
}

/// Not by the life after the next: what is left of a promise is not known to it, so it keeps all of it.
#[test]
fn a_promise_is_kept_by_those_who_start_again_before_it_is_over() {
    let mut sim = with_lease();
    sim.cut.push(1);
    for id in [2, 3] {
        restart(&mut sim, id, off());
        (0..9).for_each(|_| sim.tick(id));
        sim.poll(id);
        sync(&mut sim, id);
        restart(&mut sim, id, off());
    }
    nobody_is_elected_for_ten_ticks(sim);
}

/// Whoever drives a core alone and does not write it down.
#[test]
fn what_is_not_on_disk_is_not_promised() {
    let mut sim = with_lease();
    restart(&mut sim, 2, on().election_ticks(20));
    sim.writes_promises = false;
    restart(&mut sim, 3, on().election_ticks(20)); // its log knows of 10 only
    sim.core(1).handle_read(7);
    sim.poll(1);
    let mut said = Vec::new();
    while let Some((from, to, packet)) = sim.net.pop_front() {
        if let Packet::Raft(message) = &packet
            && message.get_msg_type() == MessageType::MsgHeartbeatResponse
        {
            said.push((from, oarlock_raftnode::wire::promise(message).as_millis()));
        }
        sim.deliver(from, to, packet);
        for id in 1..=3 {
            while sim.write(id) {}
            sim.sync(id);
        }
    }
    said.sort_unstable();
    assert_eq!(said, [(2, 1500), (3, 0)], "a promise that a crash would undo");
}
