//! Forced standalone restart, to the point where the survivor leads alone.

use oarlock_raftnode::bootstrap::{Boot, BootError, Standalone, plan_standalone};
use oarlock_raftnode::membership::{
    Change, ChangeEntry, EntryKind, Member, ProposalId, UncommittedTail,
};
use oarlock_raftnode::raft::eraftpb::{Entry, EntryType};
use oarlock_raftnode::testing::hard_state;
use oarlock_raftnode::{AttributeUpdate, LogBatch, Payload, convert};

use crate::checks::head_of;
use crate::life::Life;
use crate::place::{Place, founders, on_every_store};

const KEEP: Standalone =
    Standalone { tail: UncommittedTail::Keep, keep_cluster_id: false, again: false };
const DISCARD: Standalone = Standalone { tail: UncommittedTail::Discard, ..KEEP };

fn data(index: u64, term: u64) -> Entry {
    let id = ProposalId { origin: 9, incarnation: 1, sequence: index };
    let payload = Payload::Application { id, data: format!("{index}").into() };
    convert::entry(index, term, EntryType::EntryNormal, payload.encode())
}

fn change(index: u64, term: u64, change: &ChangeEntry) -> Entry {
    let (kind, data) = change.encode();
    let kind = match kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    };
    convert::entry(index, term, kind, data)
}

/// One of three founders: entries up to 8, of which 6 are known to be committed.
fn survivor(place: &mut Place) -> u64 {
    let id = place.found(3).id;
    let entries: Vec<_> = (4..=8).map(|index| data(index, 2)).collect();
    let hard_state = Some(hard_state(2, 0, 6));
    place.write(&LogBatch { entries: &entries, hard_state, ..LogBatch::default() });
    id
}

#[test]
fn the_rescued_member_leads_alone() {
    for rescue in [KEEP, DISCARD] {
        on_every_store(|place| {
            let id = survivor(place);
            let old = place.metadata();
            let recovered = place.boot(&Boot::Standalone(rescue)).expect("it can be rescued");
            let kept = if rescue.tail == UncommittedTail::Keep { 8 } else { 6 };
            let plan = recovered.rescued.clone().expect("it says what it did");
            assert_eq!((plan.removed.len(), plan.kept.map(|span| span.last)), (2, Some(kept)));
            assert_eq!((recovered.last_index, recovered.hard_state.commit), (kept + 2, kept + 2));
            assert_eq!((recovered.hard_state.term, recovered.hard_state.vote), (3, id));
            assert_ne!(recovered.cluster.id(), old.cluster_id, "old members cannot talk to it");
            assert_eq!((recovered.incarnation, recovered.rescue_epoch), (old.incarnation + 1, 1));
            assert_eq!(recovered.birth, old.birth);
            assert!(recovered.contacts.iter().all(|member| member.id == id), "nobody is dialled");

            place.crash();
            let recovered = place.boot(&Boot::Restart).expect("the rescue was durable");
            assert_eq!((recovered.last_index, recovered.rescue_epoch), (kept + 2, 1));
            assert_eq!(recovered.cluster.id(), plan.cluster_id);
            let entries = place.entries();
            assert_eq!(entries.iter().filter(|entry| entry.term == 2).count() as u64, kept - 3);

            let reader = place.open().0.reader();
            let mut node = Life::begin(&recovered, reader);
            assert!(node.run(place, 100), "it elects itself");
            assert_eq!(node.cluster.members().map(|member| member.id).collect::<Vec<_>>(), [id]);
            assert_eq!(node.cluster.removed().len(), 2, "the others stay removed");
            assert_eq!(node.cluster.id(), plan.cluster_id);
        });
    }
}

/// A flag that stays in a unit file must not shrink the cluster at each start.
#[test]
fn a_flag_left_on_changes_nothing() {
    on_every_store(|place| {
        survivor(place);
        let first = place.boot(&Boot::Standalone(KEEP)).expect("it can be rescued");
        // Meanwhile the cluster has grown again.
        let mut node = Life::begin(&first, place.open().0.reader());
        assert!(node.run(place, 100));
        let next = node.raw.raft.raft_log.last_index() + 1;
        let joiner = Member::joining(["http://127.0.0.1:9"], 5);
        let grown = change(next, node.raw.raft.term, &ChangeEntry::new(Change::AddVoter(joiner)));
        let state = hard_state(node.raw.raft.term, first.id, next);
        drop(node);
        place.write(&LogBatch {
            entries: &[grown],
            hard_state: Some(state),
            ..LogBatch::default()
        });
        let entries = place.entries();
        let (log, snapshots) = place.open();
        let plan = plan_standalone(log, &*snapshots, KEEP).expect("readable");
        assert!(plan.is_none(), "there would be nothing to do");

        let again = place.boot(&Boot::Standalone(DISCARD)).expect("it restarts");
        assert!(again.rescued.is_none());
        assert_eq!((again.rescue_epoch, again.incarnation), (1, first.incarnation + 1));
        assert_eq!(again.cluster.id(), first.cluster.id());
        assert_eq!(place.entries(), entries, "not one entry more or less");

        let on_purpose = Standalone { again: true, ..KEEP };
        let second = place.boot(&Boot::Standalone(on_purpose)).expect("on purpose");
        assert_eq!(second.rescue_epoch, 2);
        assert_eq!(second.rescued.map(|plan| plan.removed.len()), Some(1));
        assert_ne!(second.cluster.id(), first.cluster.id());
    });
}

#[test]
fn a_plan_writes_nothing() {
    on_every_store(|place| {
        survivor(place);
        let before = (place.open().0.state().expect("readable"), place.entries());
        let (log, snapshots) = place.open();
        let plan = plan_standalone(log, &*snapshots, DISCARD).expect("readable").expect("to do");
        assert_eq!(plan.discarded.map(|span| (span.first, span.last)), Some((7, 8)));
        assert_eq!((place.open().0.state().expect("readable"), place.entries()), before);
        let done = place.boot(&Boot::Standalone(DISCARD)).expect("it can be rescued");
        assert_eq!(done.rescued, Some(plan), "and it is what is done");
    });
}

#[test]
fn a_sole_voter_can_drop_its_tail() {
    on_every_store(|place| {
        place.found(1);
        let entries: Vec<_> = (2..=5).map(|index| data(index, 2)).collect();
        let state = hard_state(2, 0, 3);
        place.write(&LogBatch {
            entries: &entries,
            hard_state: Some(state),
            ..LogBatch::default()
        });
        let recovered = place.boot(&Boot::Standalone(DISCARD)).expect("it can be rescued");
        assert_eq!((recovered.last_index, recovered.hard_state.commit), (4, 4));
        let entries = place.entries();
        assert_eq!((entries[2].term, entries[3].term), (2, 3), "an empty entry cuts the tail off");
        assert!(entries[3].data.is_empty());
        let mut node = Life::begin(&recovered, place.open().0.reader());
        assert!(node.run(place, 100));
    });
}

#[test]
fn the_cluster_id_can_be_kept() {
    let mut place = Place::memory();
    survivor(&mut place);
    let old = place.metadata().cluster_id;
    let rescue = Standalone { keep_cluster_id: true, ..KEEP };
    let recovered = place.boot(&Boot::Standalone(rescue)).expect("it can be rescued");
    assert_eq!(recovered.cluster.id(), old);
    assert_eq!(place.boot(&Boot::Restart).expect("as it was").cluster.id(), old);
}

/// etcd cannot do either (#13213, #13848).
#[test]
fn a_learner_or_a_removed_member_can_be_the_survivor() {
    for removed in [false, true] {
        on_every_store(|place| {
            let id = place.found(3).id;
            let mut cluster = founders(3);
            let mut myself = cluster.member(id).expect("a founder").clone();
            cluster.apply(&Change::Remove(id)).expect("known");
            if !removed {
                // Another member joins as a learner; the log is its log.
                myself = Member::joining(["http://127.0.0.1:9"], 1);
                cluster.apply(&Change::AddLearner(myself.clone())).expect("new");
                let metadata =
                    oarlock_raftnode::bootstrap::Metadata { id: myself.id, ..place.metadata() };
                let metadata = Some(metadata.encode());
                place.write(&LogBatch { metadata, ..LogBatch::default() });
            }
            place.write(&LogBatch {
                entries: &[data(4, 1)],
                hard_state: Some(hard_state(1, 0, 4)),
                ..LogBatch::default()
            });
            place.snapshot(&head_of(&cluster, 4, 1));
            if removed {
                assert!(matches!(place.boot(&Boot::Restart), Err(BootError::Removed { .. })));
            }
            let recovered = place.boot(&Boot::Standalone(KEEP)).expect("it can be rescued");
            let mut node = Life::begin(&recovered, place.open().0.reader());
            assert!(node.run(place, 100), "removed: {removed}");
            let voters: Vec<_> = node.cluster.voters().map(|member| member.id).collect();
            assert_eq!(voters, [myself.id]);
            drop(node);
            place.crash();
            let again =
                place.boot(&Boot::Restart).expect("its snapshot is from before, and it lives");
            assert_eq!(again.cluster.id(), recovered.cluster.id());
            assert_ne!(again.cluster.id(), cluster.id(), "though the snapshot has the old id");
        });
    }
}

/// Whether a conf change was refused depends on URLs, which change by entries of their own.
#[test]
fn the_plan_sees_what_the_apply_loop_saw() {
    let mut place = Place::memory();
    let id = place.found(2).id;
    let other = founders(2).members().find(|member| member.id != id).expect("two").id;
    let proposal = ProposalId { origin: other, incarnation: 1, sequence: 1 };
    let update = AttributeUpdate::PeerUrls { member: other, peer_urls: vec!["http://x:1".into()] };
    let moved = Payload::Attributes { id: proposal, update }.encode();
    // Refused, because somebody has moved to this URL.
    let late = Member::joining(["http://x:1"], 1);
    let refused = ChangeEntry::new(Change::AddVoter(late));
    place.write(&LogBatch {
        entries: &[convert::entry(3, 1, EntryType::EntryNormal, moved), change(4, 1, &refused)],
        hard_state: Some(hard_state(1, 0, 4)),
        ..LogBatch::default()
    });
    let recovered = place.boot(&Boot::Standalone(KEEP)).expect("it can be rescued");
    let plan = recovered.rescued.expect("it says what it did");
    assert_eq!((plan.refused, plan.removed), (vec![4], vec![other]));
}

#[test]
fn a_joint_configuration_is_left_first() {
    use oarlock_raftnode::membership::record::ConfChangeTransition;
    on_every_store(|place| {
        let id = place.found(3).id;
        let others: Vec<_> =
            founders(3).members().map(|member| member.id).filter(|other| *other != id).collect();
        let joint = ChangeEntry::joint(
            vec![
                Change::Remove(others[0]),
                Change::AddVoter(Member::joining(["http://127.0.0.1:9"], 1)),
            ],
            ConfChangeTransition::Explicit,
        );
        place.write(&LogBatch {
            entries: &[change(4, 1, &joint)],
            hard_state: Some(hard_state(1, 0, 4)),
            ..LogBatch::default()
        });
        let recovered = place.boot(&Boot::Standalone(KEEP)).expect("it can be rescued");
        let mut node = Life::begin(&recovered, place.open().0.reader());
        assert!(node.run(place, 100));
        let voters: Vec<_> = node.cluster.voters().map(|member| member.id).collect();
        assert_eq!(voters, [id]);
        assert!(!node.configuration.is_joint());
    });
}

#[test]
fn a_log_that_lost_what_was_committed_is_no_survivor() {
    let mut place = Place::memory();
    survivor(&mut place);
    place.write(&LogBatch { hard_state: Some(hard_state(2, 0, 9)), ..LogBatch::default() });
    let result = place.boot(&Boot::Standalone(KEEP));
    assert!(matches!(result, Err(BootError::LogShorterThanCommit { .. })), "{result:?}");
    let mut place = Place::memory();
    let result = place.boot(&Boot::Standalone(KEEP));
    assert!(matches!(result, Err(BootError::NotInitialised)), "{result:?}");
}

#[test]
fn a_crash_during_a_rescue_leaves_the_old_member_or_the_rescued_one() {
    let (mut before, mut after) = (0, 0);
    for guise in 0..6 {
        for cut in 0.. {
            let mut place = Place::disk();
            survivor(&mut place);
            place.crash();
            place.open();
            place.cut_power_after(cut);
            let done = place.try_boot(&Boot::Standalone(DISCARD)).is_ok();
            let spared = place.untouched_by_the_cut();
            place.reboot(guise);
            let metadata = place.metadata();
            let last = place.entries().last().map(|entry| entry.index);
            match metadata.rescue_epoch {
                0 => {
                    assert!(!done, "cut {cut}, guise {guise}: a rescue that returned is durable");
                    assert_eq!(
                        (last, metadata.incarnation),
                        (Some(8), 1),
                        "cut {cut}, guise {guise}"
                    );
                    before += 1;
                }
                _ => {
                    assert_eq!(
                        (last, metadata.incarnation),
                        (Some(8), 2),
                        "cut {cut}, guise {guise}"
                    );
                    let terms: Vec<_> = place.entries().iter().map(|entry| entry.term).collect();
                    assert_eq!(terms[6..], [3, 3], "cut {cut}, guise {guise}");
                    after += 1;
                }
            }
            let recovered = place.boot(&Boot::Standalone(DISCARD));
            let recovered = recovered.unwrap_or_else(|e| panic!("cut {cut}, guise {guise}: {e}"));
            assert_eq!(recovered.rescue_epoch, 1, "cut {cut}, guise {guise}: once");
            if spared {
                break;
            }
        }
    }
    assert!(before > 0 && after > 0, "{before} before and {after} after");
}
