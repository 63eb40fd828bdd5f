//! What becomes of proposals when leaders change: each resolves once, truthfully, and without waiting for its deadline (O29).

use oarlock_raftnode::membership::record::ConfChangeTransition;
use oarlock_raftnode::membership::{Change, ChangeEntry, ProposalId};
use oarlock_raftnode::wire::{ForwardRefusal, ForwardReply};
use oarlock_raftnode::{ProposeError, Unknown};

mod support;
use support::sim::{Packet, Sim, elected};

/// Everybody writes, syncs and applies.
fn work(sim: &mut Sim) {
    for id in sim.nodes.keys().copied().collect::<Vec<_>>() {
        sim.poll(id);
        while sim.write(id) {}
        sim.sync(id);
        while sim.apply(id) {}
    }
}

/// The leader speaks a few times, and everybody does what follows from that.
fn go_on(sim: &mut Sim) {
    for _ in 0..5 {
        let leader = sim.leader().expect("somebody leads");
        sim.tick(leader);
        sim.settle();
    }
}

/// Delivers one packet after the other, or lets the leader speak, until that has come about.
fn until(sim: &mut Sim, done: impl Fn(&Sim) -> bool) {
    for _ in 0..1000 {
        work(sim);
        if done(sim) {
            return;
        }
        match (sim.net.pop_front(), sim.leader()) {
            (Some((from, to, packet)), _) => sim.deliver(from, to, packet),
            (None, Some(leader)) => sim.tick(leader),
            (None, None) => panic!("nobody leads"),
        }
    }
    panic!("it does not come about");
}

/// A proposal that 2 has forwarded to 1, which led in the term that is returned, lost and leads again; so 2 has just
/// forwarded it to 1 again.
fn forwarded_to_the_same_leader_again() -> (Sim, ProposalId, u64) {
    let mut sim = elected(3);
    let term = sim.node(2).core.vitals().term;
    let id = sim.propose(2, "a");
    sim.net.clear();
    sim.cut = vec![2];
    sim.elect(3);
    sim.elect(1);
    sim.cut.clear();
    until(&mut sim, |sim| sim.node(2).forwards == 2);
    (sim, id, term)
}

/// The lane of answers is slow, or doubles them: one of a term that is over says nothing about what was asked since.
#[test]
fn a_refusal_of_an_earlier_term_ends_nothing() {
    let (mut sim, id, term) = forwarded_to_the_same_leader_again();
    let reason = ForwardRefusal::Busy;
    sim.core(2).handle_forward_reply(1, &ForwardReply::Refused { id, term, reason });
    go_on(&mut sim);
    assert_eq!(sim.node(2).lines, ["a"]);
    assert_eq!(sim.node(2).refused, [], "refused for certain, and applied");
}

#[test]
fn a_leader_that_did_not_lead_in_an_earlier_term_is_asked_in_this_one() {
    let (mut sim, id, term) = forwarded_to_the_same_leader_again();
    let reason = ForwardRefusal::NotLeader { leader: 3 };
    sim.core(2).handle_forward_reply(1, &ForwardReply::Refused { id, term, reason });
    sim.propose(2, "b");
    go_on(&mut sim);
    assert_eq!(sim.node(2).lines, ["a", "b"]);
}

/// Once an entry of a later term is committed, nothing of an earlier one can follow it.
#[test]
fn the_whole_tail_of_a_deposed_leader_is_handed_on_at_once() {
    let mut sim = elected(3);
    sim.cut = vec![1];
    let first = sim.propose(1, "nobody waits for this");
    sim.propose(1, "b");
    sim.propose(1, "c");
    sim.settle();
    assert_eq!(sim.core(1).cancel(&[first]), [], "it was appended");
    sim.elect(2);
    sim.cut.clear();
    go_on(&mut sim);
    assert_eq!(sim.node(1).lines, ["b", "c"]);
}

/// Its own tail says that one proposal stands there, the next leader's answer that another does.
#[test]
fn of_two_proposals_at_one_place_both_arrive() {
    let mut sim = elected(3);
    sim.cut = vec![1];
    sim.propose(1, "a");
    sim.propose(1, "b");
    sim.settle();
    sim.elect(2);
    sim.cut.clear();
    until(&mut sim, |sim| sim.node(1).core.vitals().leader == 2);
    sim.propose(1, "c");
    let is_raft = |(_, _, packet): &(u64, u64, Packet)| matches!(packet, Packet::Raft(_));
    while let Some(at) = sim.net.iter().position(|packet| !is_raft(packet)) {
        let (from, to, packet) = sim.net.remove(at).expect("it is there");
        sim.deliver(from, to, packet); // before anything more is known to be committed
    }
    go_on(&mut sim);
    let mut lines = sim.node(1).lines.clone();
    lines.sort();
    assert_eq!(lines, ["a", "b", "c"]);
}

/// 3 misses what becomes of its proposals, and gets a snapshot instead.
fn brought_by_a_snapshot(sim: &mut Sim) {
    sim.cut = vec![3];
    for n in 0..4 {
        sim.propose(1, &format!("{n}"));
        sim.settle();
    }
    sim.snapshot(1);
    sim.cut.clear();
    sim.core(1).handle_unreachable(3);
    go_on(sim);
    assert!(sim.node(3).lines.len() >= 4);
    assert_eq!(sim.node(3).core.status().snapshot_index, sim.node(1).core.status().snapshot_index);
}

#[test]
fn a_snapshot_tells_which_proposals_are_in_it() {
    let mut sim = elected(3);
    let arrived = sim.propose(3, "arrived");
    for (from, to, packet) in std::mem::take(&mut sim.net) {
        sim.deliver(from, to, packet);
    }
    sim.net.retain(|(_, to, _)| *to != 3);
    sim.propose(3, "lost");
    sim.net.retain(|(from, ..)| *from != 3);
    brought_by_a_snapshot(&mut sim);
    let unknown = ProposeError::OutcomeUnknown(Unknown::Snapshot);
    assert_eq!(sim.node(3).refused, [(arrived, unknown)], "or it waits for its deadline");
    sim.elect(2);
    go_on(&mut sim);
    assert_eq!(sim.node(3).lines.last().map(String::as_str), Some("lost"), "it is handed on");
    assert_eq!(sim.node(3).refused.len(), 1);
}

/// O8: a joint change is answered when it is left again, also if it was left in a snapshot.
#[test]
fn a_joint_change_that_a_snapshot_ends_is_answered() {
    let mut sim = elected(5);
    let joint = vec![Change::Remove(4), Change::Remove(5)];
    let id = sim.change(3, ChangeEntry::joint(joint, ConfChangeTransition::Auto));
    until(&mut sim, |sim| sim.node(3).core.configuration().is_joint());
    assert!(sim.node(3).changed.is_empty());
    brought_by_a_snapshot(&mut sim);
    assert!(matches!(sim.node(3).changed[..], [(of, Ok(()))] if of == id), "nobody was told");
}

/// The leader's inbox has room for so many, and says nothing of what it drops.
#[test]
fn a_follower_forwards_as_the_leader_answers() {
    let mut sim = elected(3);
    for n in 0..2000 {
        sim.propose(2, &format!("{n}"));
    }
    assert_eq!(sim.node(2).forwards, 512, "all at once");
    go_on(&mut sim);
    assert_eq!(sim.node(2).forwards, 2000);
    let lines: Vec<String> = (0..2000).map(|n| format!("{n}")).collect();
    assert_eq!(sim.node(2).lines, lines, "in their order");
    assert_eq!(sim.node(2).refused, []);
}

#[test]
fn what_was_lost_on_the_way_does_not_hold_up_the_rest() {
    let mut sim = elected(3);
    for n in 0..512 {
        sim.propose(2, &format!("{n}"));
    }
    sim.net.clear();
    sim.propose(2, "late");
    for _ in 0..sim.config.election_timeout().as_millis() / 100 {
        sim.tick(1);
        sim.tick(2);
        sim.settle();
    }
    assert_eq!(sim.node(2).lines, ["late"]);
}

/// Each is refused on its own, and they wait together for the next leader.
#[test]
fn what_a_deposed_leader_refuses_keeps_its_order() {
    let mut sim = elected(3);
    for line in ["a", "b", "c"] {
        sim.propose(2, line);
    }
    let forwards = std::mem::take(&mut sim.net);
    sim.core(1).handle_transfer(3).expect("a voter");
    sim.cut = vec![2]; // it does not hear of the new leader yet
    sim.settle();
    sim.cut.clear();
    forwards.into_iter().for_each(|(from, to, packet)| sim.deliver(from, to, packet));
    sim.propose(2, "d");
    go_on(&mut sim);
    assert_eq!(sim.node(2).lines, ["a", "b", "c", "d"], "in another order");
}
