//! Who may stand for election while something is committed that it has not applied.

use oarlock_raftnode::Role;
use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::raft::eraftpb::{Message, MessageType};

mod support;
use support::member;
use support::sim::{Packet, Sim};

/// O8: of what is committed and not applied, raft-rs has the change, and the log knows only what came before.
#[test]
fn nobody_campaigns_over_a_conf_change_that_has_just_arrived() {
    for with_change in [false, true] {
        let mut sim = Sim::new(3, 1);
        sim.elect(1);
        sim.settle();
        for id in 1..=3 {
            sim.tick(1);
            sim.settle();
            while sim.apply(id) {}
        }
        // Everybody writes, and 2 does not apply.
        let run = |sim: &mut Sim| {
            for _ in 0..8 {
                sim.deliver_and_write();
            }
        };
        sim.propose(1, "in the log of 2");
        run(&mut sim);
        sim.tick(1);
        run(&mut sim);
        let before = sim.node(2).core.vitals();
        assert!(before.applied < before.commit, "{before:?}");
        sim.cut = vec![2];
        if with_change {
            sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
        } else {
            sim.propose(1, "on its way to 2");
        }
        run(&mut sim);
        sim.cut.clear();
        let vitals = sim.node(1).core.vitals();
        assert!(vitals.commit > before.commit, "{vitals:?}");
        // What 2 lacks arrives, and in the same breath the word to take over.
        let mut ticks = 0;
        while sim.node(2).core.vitals().commit < vitals.commit {
            ticks += 1;
            assert!(ticks < 20, "it does not arrive");
            sim.tick(1);
            for _ in 0..4 {
                for (from, to, packet) in std::mem::take(&mut sim.net) {
                    match packet {
                        Packet::Raft(message) if to == 2 => {
                            let _ = sim.core(2).handle_message(from, *message);
                            if sim.node(2).core.vitals().commit < vitals.commit {
                                sim.poll(2);
                                while sim.write(2) {}
                                sim.sync(2);
                            }
                        }
                        packet => sim.deliver(from, to, packet),
                    }
                }
            }
        }
        let mut message = Message { from: 1, to: 2, term: vitals.term, ..Message::default() };
        message.set_msg_type(MessageType::MsgTimeoutNow);
        let _ = sim.core(2).handle_message(1, message);
        let campaigns = sim.node(2).core.vitals().role != Role::Follower;
        assert_eq!(campaigns, !with_change, "with a change: {with_change}");
    }
}
