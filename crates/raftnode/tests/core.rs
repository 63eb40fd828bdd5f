//! The core alone, several of them wired by hand: each step is the test's choice, and every run is the same.

use oarlock_raftnode::core::{MembersApplied, StepError};
use oarlock_raftnode::membership::record::ConfChangeTransition;
use oarlock_raftnode::membership::{Change, ChangeEntry, ChangeError};
use oarlock_raftnode::raft::eraftpb::MessageType;
use oarlock_raftnode::wire::{Forward, ForwardRefusal, ForwardReply, Refused};
use oarlock_raftnode::{ChangeMembersError, ProposeError, Role};

mod support;
use support::member;
use support::sim::{Packet, Sim, elected};

#[test]
fn a_leader_replicates_and_everybody_applies() {
    let mut sim = elected(3);
    sim.propose(1, "a");
    sim.propose(1, "b");
    sim.settle();
    for id in 1..=3 {
        sim.tick(1);
        sim.settle();
        assert_eq!(sim.node(id).lines, ["a", "b"], "node {id}");
    }
}

#[test]
fn a_deposed_leader_s_tail_gives_way_and_is_handed_to_the_new_leader() {
    let mut sim = elected(3);
    sim.cut = vec![1];
    sim.propose(1, "late");
    sim.settle();
    sim.elect(2);
    sim.propose(2, "kept");
    sim.settle();
    sim.cut.clear();
    for _ in 0..3 {
        sim.tick(2);
        sim.settle();
    }
    for id in 1..=3 {
        assert_eq!(sim.node(id).lines, ["kept", "late"], "node {id}");
    }
    assert!(sim.node(1).refused.is_empty());
}

/// O7, O16: what a follower says waits for its disk.
#[test]
fn a_follower_answers_only_when_its_entries_are_durable() {
    let mut sim = elected(3);
    sim.net.clear();
    sim.propose(1, "a");
    for (from, to, packet) in std::mem::take(&mut sim.net) {
        sim.deliver(from, to, packet);
    }
    assert!(sim.net.is_empty(), "it spoke before it wrote: {:?}", sim.net);
    sim.write(2);
    assert!(sim.net.is_empty(), "it spoke before it synced: {:?}", sim.net);
    sim.sync(2);
    assert!(!sim.net.is_empty());
}

/// O4: a leader replicates while it writes its own disk; O3: and applies nothing before that disk holds it.
#[test]
fn a_leader_sends_before_it_writes_and_applies_after() {
    let mut sim = elected(3);
    let before = sim.node(1).lines.len();
    sim.propose(1, "a");
    assert!(sim.net.iter().any(|(from, _, _)| *from == 1), "it waited for its own disk");
    for _ in 0..6 {
        for (from, to, packet) in std::mem::take(&mut sim.net) {
            sim.deliver(from, to, packet);
        }
        for follower in [2, 3] {
            while sim.write(follower) {}
            sim.sync(follower);
        }
    }
    while sim.apply(1) {}
    assert_eq!(sim.node(1).lines.len(), before, "applied what its own disk does not hold");
    sim.settle();
    assert_eq!(sim.node(1).lines.len(), before + 1);
}

/// O15: the only voter wins its election alone, so its term may not be durable when it first speaks to a learner.
#[test]
fn a_lone_voter_s_first_messages_wait_for_its_term() {
    let mut sim = elected(1);
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    sim.settle();
    sim.join(9, 1);
    sim.tick(1);
    sim.settle();
    assert_eq!(sim.node(9).core.vitals().leader, 1);

    sim.crash(1, 0);
    while sim.apply(1) {}
    sim.settle();
    sim.nodes.get_mut(&1).expect("it").early.clear();
    sim.core(1).handle_campaign();
    sim.poll(1);
    assert_eq!(sim.node(1).core.vitals().role, Role::Leader);
    assert!(sim.node(1).early.is_empty(), "it spoke in a term that a crash could still undo");
    sim.settle();
    sim.propose(1, "a");
    assert!(!sim.node(1).early.is_empty(), "with a durable term it need not wait");
    sim.settle();
    assert_eq!(sim.node(9).lines, ["a"]);
}

#[test]
fn a_lone_voter_elects_itself_with_the_first_tick() {
    let mut sim = Sim::new(1, 1);
    sim.settle();
    sim.tick(1);
    sim.settle();
    assert_eq!(sim.leader(), Some(1));
    sim.propose(1, "a");
    sim.settle();
    assert_eq!(sim.node(1).lines, ["a"]);
}

#[test]
fn a_follower_forwards_once_and_learns_the_place() {
    let mut sim = elected(3);
    sim.propose(2, "a");
    assert_eq!(sim.node(2).forwards, 1);
    sim.settle();
    sim.tick(1);
    sim.settle();
    assert_eq!(sim.node(2).lines, ["a"]);
    assert_eq!(sim.node(2).forwards, 1);
    assert!(sim.node(2).refused.is_empty());
}

/// O22: the network may double a forwarded proposal; it is appended once, and applied once even if appended twice.
#[test]
fn a_doubled_forward_takes_effect_once() {
    let mut sim = elected(3);
    sim.propose(2, "a");
    let (from, to, packet) = sim.net.pop_back().expect("the forward");
    assert!(matches!(packet, Packet::Forward(_)));
    sim.deliver(from, to, packet.clone());
    sim.deliver(from, to, packet.clone());
    sim.settle();
    // A leader that has forgotten appends it again; the window keeps it from taking effect.
    sim.elect(3);
    let Packet::Forward(forward) = packet else { panic!("a forward") };
    let term = sim.core(3).vitals().term;
    sim.deliver(from, 3, Packet::Forward(Forward { term, ..forward }));
    sim.settle();
    sim.tick(3);
    sim.settle();
    for id in 1..=3 {
        assert_eq!(sim.node(id).lines, ["a"], "node {id}");
    }
}

/// O29: both copies of a change come before either is answered, and the answers may overtake each other: there is one.
#[test]
fn a_change_doubled_while_it_waits_is_answered_once() {
    let mut sim = elected(3);
    let id = sim.change(2, ChangeEntry::new(Change::AddLearner(member(9))));
    let Some((2, 1, Packet::Forward(forward))) = sim.net.pop_back() else { panic!("a forward") };
    for copy in [forward.clone(), forward] {
        sim.core(1).handle_forward(2, copy);
    }
    sim.poll(1);
    let answers: Vec<_> =
        sim.net.iter().filter(|(_, _, packet)| matches!(packet, Packet::Reply(_))).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    sim.settle();
    sim.tick(1);
    sim.settle();
    assert!(
        matches!(sim.node(2).changed[..], [(of, Ok(()))] if of == id),
        "{:?}",
        sim.node(2).changed
    );
    assert!(sim.node(2).refused.is_empty());
}

#[test]
fn a_refusal_after_an_acceptance_is_not_believed() {
    let mut sim = elected(3);
    let id = sim.propose(2, "a");
    sim.settle();
    let (term, reason) = (sim.node(2).core.vitals().term, ForwardRefusal::Busy);
    sim.core(2).handle_forward_reply(1, &ForwardReply::Refused { id, term, reason });
    sim.settle();
    assert!(sim.node(2).refused.is_empty());
}

/// O22, O29: what a leader took with it when it died is appended by the next one; its copy, should it still be under
/// way, by nobody.
#[test]
fn what_was_forwarded_to_a_leader_that_died_is_handed_to_the_next() {
    let mut sim = elected(3);
    sim.propose(2, "a");
    let (from, _, packet) = sim.net.pop_back().expect("the forward");
    sim.cut = vec![1];
    sim.elect(3);
    for _ in 0..3 {
        sim.tick(3);
        sim.settle();
    }
    assert_eq!(sim.node(2).forwards, 2);
    assert!(sim.node(2).refused.is_empty());
    for id in 2..=3 {
        assert_eq!(sim.node(id).lines, ["a"], "node {id}");
    }
    let last = sim.core(3).log_bounds().1;
    sim.deliver(from, 3, packet);
    sim.settle();
    assert_eq!(sim.core(3).log_bounds().1, last, "forwarded in an earlier term");
}

/// A definite refusal leaves nothing behind: the proposal goes to the next leader, and to no other.
#[test]
fn what_a_deposed_leader_refuses_is_handed_to_the_next() {
    let mut sim = elected(3);
    sim.propose(2, "a");
    let forward = sim.net.pop_back().expect("the forward");
    sim.core(1).handle_transfer(3).expect("a voter");
    sim.cut = vec![2]; // it does not hear of the new leader yet
    sim.settle();
    sim.cut.clear();
    let (from, to, packet) = forward;
    sim.deliver(from, to, packet);
    while let Some((from, to, packet)) = sim.net.pop_front() {
        if matches!(packet, Packet::Reply(_)) {
            sim.deliver(from, to, packet);
        }
    }
    assert_eq!(sim.node(2).forwards, 1, "not again to whom has refused");
    assert!(sim.node(2).refused.is_empty());
    for _ in 0..3 {
        sim.tick(3);
        sim.settle();
    }
    assert_eq!(sim.node(2).forwards, 2);
    assert_eq!(sim.node(2).lines, ["a"]);
}

#[test]
fn proposals_wait_for_a_leader() {
    let mut sim = Sim::new(3, 1);
    sim.settle();
    sim.propose(2, "early");
    assert!(sim.node(2).refused.is_empty());
    sim.elect(3);
    sim.settle();
    sim.tick(3);
    sim.settle();
    assert_eq!(sim.node(2).lines, ["early"]);
}

#[test]
fn what_was_not_handed_on_can_be_taken_back() {
    let mut sim = Sim::new(3, 1);
    sim.settle();
    let id = sim.propose(2, "early");
    assert_eq!(sim.core(2).cancel(&[id]), [id]);
    assert!(sim.core(2).cancel(&[id]).is_empty());
    sim.elect(3);
    let id = sim.propose(2, "forwarded");
    assert!(sim.core(2).cancel(&[id]).is_empty(), "nobody can say what becomes of it");
}

#[test]
fn a_joiner_learns_is_promoted_and_removed() {
    let mut sim = elected(3);
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    sim.settle();
    sim.join(9, 1);
    sim.propose(1, "a");
    for _ in 0..3 {
        sim.tick(1);
        sim.settle();
    }
    assert_eq!(sim.node(9).lines, ["a"]);
    assert!(!sim.node(9).core.configuration().voters().contains(&9));
    sim.change(1, ChangeEntry::new(Change::Promote(9)));
    sim.settle();
    sim.tick(1);
    sim.settle();
    assert!(sim.node(9).core.configuration().voters().contains(&9));
    sim.change(1, ChangeEntry::new(Change::Remove(9)));
    sim.settle();
    assert!(sim.node(9).removed, "O19");
    assert!(sim.node(1).changed.iter().all(|(_, result)| result.is_ok()));
    assert_eq!(sim.node(1).changed.len(), 3);
}

/// O19; raft-rs itself would panic on the next notice of persistence.
#[test]
fn a_leader_that_removes_itself_stops_and_the_rest_elect_another() {
    let mut sim = elected(3);
    sim.change(1, ChangeEntry::new(Change::Remove(1)));
    sim.settle();
    assert!(sim.node(1).removed);
    sim.core(1).advance_ticks(100);
    sim.settle();
    sim.nodes.remove(&1);
    sim.elect(2);
    sim.propose(2, "a");
    sim.settle();
    assert_eq!(sim.node(3).core.configuration().voters().len(), 2);
    assert_eq!(sim.node(2).lines, ["a"]);
}

/// O19: as long as it is there, to those who hold the removal and may not know that it is committed; and to nobody who
/// would only wait for it.
#[test]
fn a_leader_that_removed_itself_repeats_it_to_those_who_hold_it() {
    let mut sim = elected(3);
    assert_eq!(sim.core(1).last_words(), [], "it leads");
    sim.cut.push(3);
    sim.change(1, ChangeEntry::new(Change::Remove(1)));
    sim.settle();
    assert!(sim.node(1).removed);
    let commit = sim.core(1).vitals().commit;
    let words = sim.core(1).last_words();
    let said: Vec<_> = words.iter().map(|said| (said.to, said.term, said.commit)).collect();
    assert_eq!(said, [(2, sim.core(1).vitals().term, commit)]);
    assert_eq!(sim.core(2).last_words(), [], "it was not removed");
    let known = sim.core(2).handle_message(1, words[0].clone());
    assert!(matches!(known, Err(StepError::Refused(Refused::Removed { from: 1 }))), "{known:?}");
}

#[test]
fn two_changes_at_once_one_of_them_waits_or_is_refused_as_pending() {
    let mut sim = elected(3);
    let first = sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    let second = sim.change(1, ChangeEntry::new(Change::Remove(3)));
    assert_eq!(sim.node(1).refused, [(second, ProposeError::ConfChangePending)]);
    sim.settle();
    let (id, result) = &sim.node(1).changed[0];
    assert_eq!((*id, result.is_ok()), (first, true));
    assert!(sim.core(1).cluster().member(3).is_some(), "it had no effect");
}

/// O8: the second waits while the first is committed and not yet applied.
#[test]
fn a_change_right_after_a_committed_one_is_not_refused() {
    let mut sim = elected(1);
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    while sim.write(1) {}
    sim.sync(1);
    let second = sim.change(1, ChangeEntry::new(Change::Remove(9)));
    sim.settle();
    assert!(sim.node(1).refused.is_empty());
    assert!(sim.node(1).changed.iter().any(|(id, result)| *id == second && result.is_ok()));
}

#[test]
fn a_change_that_makes_no_sense_is_refused_on_every_member_alike() {
    let mut sim = elected(3);
    sim.change(2, ChangeEntry::new(Change::Promote(3)));
    sim.settle();
    sim.tick(1);
    sim.settle();
    let (_, result) = &sim.node(2).changed[0];
    assert!(
        matches!(result, Err(ChangeMembersError::Refused(ChangeError::NotLearner { id: 3 }))),
        "{result:?}"
    );
    // The refused one does not stand in the way of the next.
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    sim.settle();
    assert!(sim.node(1).changed.iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn a_joint_change_is_answered_when_it_is_left_again() {
    let mut sim = elected(3);
    let changes = vec![Change::AddVoter(member(4)), Change::Remove(3)];
    let id = sim.change(1, ChangeEntry::joint(changes, ConfChangeTransition::Auto));
    let mut was_joint = false;
    for _ in 0..50 {
        let packets = std::mem::take(&mut sim.net);
        packets.into_iter().for_each(|(from, to, packet)| sim.deliver(from, to, packet));
        for id in [1, 2, 3] {
            while sim.write(id) {}
            sim.sync(id);
            sim.apply(id);
        }
        let joint = sim.node(1).core.configuration().is_joint();
        was_joint |= joint;
        assert!(!joint || sim.node(1).changed.is_empty(), "answered while the change is half made");
    }
    assert!(was_joint);
    sim.settle();
    assert_eq!(sim.node(1).changed.len(), 1);
    assert_eq!(sim.node(1).changed[0].0, id);
    assert!(!sim.node(1).core.configuration().is_joint());
    sim.tick(1);
    sim.settle();
    let voters: Vec<u64> = sim.node(2).core.configuration().voters().iter().copied().collect();
    assert_eq!(voters, [1, 2, 4]);
}

/// O7: votes are counted by the configuration that a committed change makes.
#[test]
fn what_a_follower_says_waits_until_a_conf_change_is_applied() {
    let mut sim = elected(3);
    sim.settle();
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    // Until node 2 has been handed the committed change, and has everything on disk but nothing applied.
    for _ in 0..8 {
        sim.deliver_and_write();
        sim.apply(1);
        sim.apply(3);
    }
    assert!(sim.node(2).core.cluster().member(9).is_none(), "not applied yet");
    sim.net.clear();
    sim.tick(1);
    for (from, to, packet) in std::mem::take(&mut sim.net) {
        if to == 2 {
            sim.deliver(from, to, packet);
        }
    }
    while sim.write(2) {}
    sim.sync(2);
    assert!(!sim.net.iter().any(|(from, ..)| *from == 2), "it spoke first: {:?}", sim.net);
    sim.apply(2);
    assert!(sim.net.iter().any(|(from, ..)| *from == 2));
}

#[test]
fn leadership_moves_to_whom_it_is_given() {
    let mut sim = elected(3);
    sim.core(1).handle_transfer(3).expect("a voter");
    sim.settle();
    assert_eq!(sim.leader(), Some(3));
    assert!(sim.core(1).handle_transfer(2).is_err(), "only the leader can");
}

/// O12.
#[test]
fn a_leader_whose_disk_stalls_hands_over() {
    let mut sim = elected(3);
    sim.propose(1, "a");
    sim.settle();
    sim.core(1).handle_disk_stall(true);
    sim.poll(1);
    sim.settle();
    assert_ne!(sim.leader(), Some(1));
    assert!(sim.leader().is_some());
}

/// O12. Once in an election timeout check-quorum makes raft-rs forget who is active. A leader that then finds nobody to hand
/// over to, and steps down, costs an election timeout more; and one that is stopped hands over to nobody.
#[test]
fn a_leader_whose_disk_stalls_when_check_quorum_has_just_looked_hands_over() {
    let mut sim = elected(3);
    sim.propose(1, "a");
    sim.settle();
    let looked = (0..100).any(|_| {
        sim.core(1).handle_tick();
        sim.core(1).status().peers.iter().all(|peer| peer.id == 1 || !peer.recently_active)
    });
    assert!(looked && sim.leader() == Some(1));
    assert!(sim.core(1).successor().is_some(), "nobody leads after it");
    sim.core(1).handle_disk_stall(true);
    sim.poll(1);
    sim.settle();
    assert!(sim.leader().is_some_and(|leader| leader != 1), "{:?}", sim.leader());
}

#[test]
fn a_lone_voter_whose_disk_stalls_refuses_and_stays() {
    let mut sim = elected(1);
    sim.core(1).handle_disk_stall(true);
    let id = sim.propose(1, "a");
    assert!(
        matches!(&sim.node(1).refused[..], [(refused, ProposeError::Busy(_))] if *refused == id)
    );
    assert_eq!(sim.leader(), Some(1));
    sim.core(1).handle_disk_stall(false);
    sim.propose(1, "b");
    sim.settle();
    assert_eq!(sim.node(1).lines, ["b"]);
}

/// A wiped disk under the old id: raft-rs would panic on the leader's first heartbeat.
#[test]
fn a_node_whose_log_was_lost_goes_into_quarantine() {
    let mut sim = elected(3);
    for n in 0..5 {
        sim.propose(1, &format!("{n}"));
    }
    sim.settle();
    sim.tick(1);
    sim.settle();
    let new = oarlock_raftnode::bootstrap::Boot::New { id: 3, cluster: sim.founders.clone() };
    sim.boot(3, Default::default(), Default::default(), &new);
    for _ in 0..3 {
        sim.tick(1);
        sim.settle();
    }
    assert!(sim.node(3).quarantined);
    let quarantine = sim.node(3).core.status().quarantined.expect("it says so");
    assert!(quarantine.commit > quarantine.last_index);
    let mut vote =
        oarlock_raftnode::raft::eraftpb::Message { from: 2, to: 3, term: 99, ..Default::default() };
    vote.set_msg_type(MessageType::MsgRequestVote);
    assert!(
        matches!(sim.core(3).handle_message(2, vote), Err(StepError::Inert)),
        "it must not vote"
    );
    sim.propose(1, "go on");
    sim.settle();
    assert_eq!(sim.node(1).lines.last().map(String::as_str), Some("go on"));
}

#[test]
fn a_removed_member_is_not_listened_to() {
    let mut sim = elected(3);
    sim.change(1, ChangeEntry::new(Change::Remove(3)));
    sim.settle();
    let mut vote =
        oarlock_raftnode::raft::eraftpb::Message { from: 3, to: 1, term: 99, ..Default::default() };
    vote.set_msg_type(MessageType::MsgRequestVote);
    let refused = sim.core(1).handle_message(3, vote);
    assert!(
        matches!(refused, Err(StepError::Refused(Refused::Removed { from: 3 }))),
        "{refused:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_election() {
    let run = |seed| {
        let mut sim = Sim::new(3, seed);
        sim.settle();
        for _ in 0..60 {
            for id in 1..=3 {
                sim.tick(id);
            }
            sim.settle();
        }
        sim.nodes.values().map(|node| node.roles.clone()).collect::<Vec<_>>()
    };
    assert_eq!(run(11), run(11));
    let different = (0..20).map(run).collect::<Vec<_>>();
    assert!(different.iter().any(|roles| roles != &different[0]), "seeds make no difference");
}

#[test]
fn what_the_apply_thread_is_told_is_what_the_core_holds() {
    let mut sim = elected(1);
    sim.change(1, ChangeEntry::new(Change::AddLearner(member(9))));
    sim.settle();
    let core = &sim.node(1).core;
    let told = MembersApplied {
        cluster: core.cluster().clone(),
        conf_state: core.conf_state(),
        births: core.births().clone(),
        changed: true,
    };
    let record = oarlock_raftnode::convert::conf_state_to_record(&told.conf_state);
    assert!(told.cluster.agrees_with(&record).is_ok());
}

/// Where one proposal was lost the entry of another may stand: that one arrived, also if its acceptance did not.
#[test]
fn what_is_committed_is_not_handed_on_again_wherever_it_stands() {
    fn run_without_replies(sim: &mut Sim) {
        for _ in 0..200 {
            while let Some((from, to, packet)) = sim.net.pop_front() {
                if !matches!(packet, Packet::Reply(_)) {
                    sim.deliver(from, to, packet);
                }
            }
            for id in 1..=3 {
                while sim.write(id) {}
                sim.sync(id);
                while sim.apply(id) {}
            }
        }
    }
    let mut sim = elected(3);
    sim.cut = vec![1];
    sim.propose(1, "first");
    sim.propose(1, "second"); // in its place the next leader will have the first
    sim.settle();
    sim.elect(2);
    sim.cut.clear();
    for _ in 0..3 {
        sim.tick(2);
        run_without_replies(&mut sim);
    }
    assert_eq!(sim.node(1).lines, ["first", "second"], "both were handed on when they were lost");
    assert_eq!(sim.node(1).forwards, 2);
    sim.elect(3);
    sim.propose(3, "third");
    for _ in 0..3 {
        sim.tick(3);
        sim.settle();
    }
    assert_eq!(sim.node(1).lines, ["first", "second", "third"]);
    assert_eq!(sim.node(1).forwards, 2, "and nothing after a later term was committed");
}
