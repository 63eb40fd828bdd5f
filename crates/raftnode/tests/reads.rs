//! Reads, asked of several cores that are wired by hand.

use oarlock_raftnode::raft::eraftpb::MessageType;

mod support;
use support::sim::{Packet, elected};

#[test]
fn a_read_is_confirmed_by_a_round_that_began_after_it() {
    let mut sim = elected(3);
    sim.propose(1, "a");
    sim.settle();
    for id in 1..=3 {
        sim.core(id).handle_read(u64::from(id == 1) + 40);
        sim.settle();
        let (token, index) = sim.node(id).reads[0];
        assert_eq!(token, u64::from(id == 1) + 40);
        assert!(index >= 5, "three founders, the term's first entry, and ours: {index}");
    }
}

/// O24: a write that was acknowledged while a round was under way may be missing from the round's answer.
#[test]
fn a_read_does_not_join_a_round_that_has_begun() {
    let mut sim = elected(3);
    sim.core(2).handle_read(1);
    sim.poll(2);
    // The leader's answer stays under way.
    let is_answer = |packet: &Packet| matches!(packet, Packet::Raft(m) if m.get_msg_type() == MessageType::MsgReadIndexResp);
    while !sim.net.iter().any(|(_, _, packet)| is_answer(packet)) {
        for id in 1..=3 {
            while sim.write(id) {}
            sim.sync(id);
        }
        let (from, to, packet) = sim.net.pop_front().expect("the round goes on");
        sim.deliver(from, to, packet);
    }
    let at = sim.net.iter().position(|(_, _, packet)| is_answer(packet)).expect("just seen");
    let (from, to, answer) = sim.net.remove(at).expect("within");
    sim.propose(1, "acknowledged meanwhile");
    sim.settle();
    let written = sim.node(1).core.applied();
    sim.core(2).handle_read(2);
    sim.poll(2);
    sim.deliver(from, to, answer);
    sim.settle();
    let index_of =
        |token| sim.node(2).reads.iter().find(|read| read.0 == token).expect("confirmed").1;
    assert!(index_of(1) < written);
    assert!(index_of(2) >= written, "stale read: {} of {written}", index_of(2));
}

#[test]
fn a_read_that_was_lost_is_asked_again_and_an_isolated_leader_confirms_none() {
    let mut sim = elected(3);
    sim.core(2).handle_read(7);
    sim.poll(2);
    sim.net.clear(); // lost
    for _ in 0..6 {
        sim.tick(2);
    }
    sim.settle();
    assert_eq!(sim.node(2).reads.len(), 1);
    assert!(sim.node(2).core.read_retries() >= 1);

    sim.cut = vec![1];
    sim.core(1).handle_read(8);
    for _ in 0..30 {
        sim.tick(1);
        sim.settle();
    }
    assert!(sim.node(1).reads.is_empty(), "stale read");
}
