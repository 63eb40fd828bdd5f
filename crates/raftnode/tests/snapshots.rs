//! Snapshots as the core alone sees them: offered, installed, refused.

use oarlock_raftnode::core::StepError;
use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::raft::eraftpb::{Message, MessageType};
use oarlock_raftnode::wire::Refused;
use oarlock_raftnode::{Role, SnapshotMark};

mod support;
use support::member;
use support::sim::{Packet, Sim, elected};

/// Three members, the last of which is away and lacks what the leader's snapshot covers.
fn behind() -> Sim {
    let mut sim = elected(3);
    sim.cut = vec![3];
    for n in 0..10 {
        sim.propose(1, &format!("{n}"));
    }
    sim.settle();
    sim.snapshot(1);
    sim
}

#[test]
fn a_follower_behind_the_log_catches_up_by_snapshot() {
    let mut sim = behind();
    sim.propose(1, "after");
    sim.settle();
    sim.cut.clear();
    for _ in 0..4 {
        sim.tick(1);
        sim.settle();
    }
    assert_eq!(sim.node(3).lines.len(), 11);
    assert_eq!(sim.node(3).lines, sim.node(1).lines);
    sim.crash(3, 0);
    sim.settle();
    assert!(
        sim.node(3).lines.len() >= 10,
        "the installed snapshot was durable before it was used (O5)"
    );
}

/// Three members, the last of which has just been given a snapshot that is not in its log yet. Nobody told the leader so.
fn installing() -> Sim {
    let mut sim = behind();
    sim.cut.clear();
    sim.tick(1);
    for _ in 0..20 {
        for (from, to, packet) in std::mem::take(&mut sim.net) {
            match packet {
                Packet::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                    assert!(sim.deliver_snapshot(from, to, *message), "it was asked for");
                }
                packet => sim.deliver(from, to, packet),
            }
        }
        others_work(&mut sim);
        if sim.node(3).core.vitals().commit >= 10 {
            return sim;
        }
        while sim.write(3) {}
        sim.sync(3);
        sim.apply(3);
        sim.tick(1);
    }
    panic!("no snapshot came");
}

fn others_work(sim: &mut Sim) {
    for id in [1, 2] {
        while sim.write(id) {}
        sim.sync(id);
        sim.apply(id);
    }
}

/// O17: no tick while a snapshot is on its way into the log.
#[test]
fn ticks_pause_while_a_snapshot_is_installed() {
    let mut sim = installing();
    let before = sim.node(3).core.ticks_skipped();
    sim.core(3).advance_ticks(100);
    assert_eq!(sim.node(3).core.ticks_skipped(), before + 100);
    assert_eq!(sim.node(3).core.vitals().role, Role::Follower);
    sim.settle();
    assert_eq!(sim.node(3).lines.len(), 10);
    assert_eq!(
        sim.node(3).core.vitals().role,
        Role::Follower,
        "a hundred missed ticks are not made up for"
    );
}

/// O17: raft-rs would take its configuration over, and the changes up to it would then be made a second time.
#[test]
fn no_second_snapshot_is_taken_while_one_is_installed() {
    let mut sim = installing();
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    let mut offered = false;
    for _ in 0..20 {
        for (from, to, packet) in std::mem::take(&mut sim.net) {
            match packet {
                Packet::Raft(message)
                    if message.get_snapshot().get_metadata().index
                        > sim.node(3).core.vitals().commit =>
                {
                    let taken = sim.core(3).handle_snapshot(from, *message);
                    let not_now = StepError::Refused(Refused::NotNow(
                        "entries before the snapshot are being applied",
                    ));
                    assert_eq!(format!("{taken:?}"), format!("{:?}", Err::<(), _>(not_now)));
                    offered = true;
                }
                _ if to == 3 => {}
                packet => sim.deliver(from, to, packet),
            }
        }
        others_work(&mut sim);
        sim.snapshot(1);
        // The first one is reported as lost, and then an answer comes from before.
        sim.core(1).handle_snapshot_sent(3, false);
        let term = sim.node(1).core.vitals().term;
        let mut answer = Message { from: 3, to: 1, term, ..Message::default() };
        answer.set_msg_type(MessageType::MsgHeartbeatResponse);
        sim.core(1).handle_message(3, answer).expect("it is well formed");
        sim.poll(1);
    }
    assert!(offered, "a newer snapshot");
    sim.core(1).handle_snapshot_sent(3, false);
    for _ in 0..4 {
        sim.settle();
        sim.tick(1);
    }
    assert_eq!(sim.node(3).core.conf_state(), sim.node(1).core.conf_state());
    assert_eq!(sim.node(3).lines, sim.node(1).lines);
}

/// O9: what the log does not hold durably cannot be offered as a snapshot.
#[test]
fn a_snapshot_of_what_is_not_durable_is_not_taken() {
    let mut sim = elected(1);
    sim.propose(1, "a");
    let status = sim.node(1).core.status();
    assert!(status.durable < status.last_index, "it is not written yet");
    let mark = SnapshotMark { index: status.last_index, term: status.term, ..Default::default() };
    let offered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        sim.core(1).handle_snapshot_ready(mark, Default::default());
    }));
    assert!(offered.is_err(), "a snapshot ahead of the log");
}
