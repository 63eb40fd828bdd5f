//! Each check has a log that trips it.

use std::sync::Arc;
use std::time::Duration;

use oarlock_raftnode::bootstrap::{Boot, BootError, Metadata, boot};
use oarlock_raftnode::membership::{Change, Cluster, Member};
use oarlock_raftnode::raft::eraftpb::{ConfState, Entry, EntryType};
use oarlock_raftnode::testing::hard_state;
use oarlock_raftnode::{
    HeaderError, LogBatch, LogError, LogReader, LogState, LogStore, MemSnapshots, MemStore,
    Payload, SnapshotHead, SnapshotId, SnapshotMark, Window, convert,
};

use crate::place::{Place, founders};

fn whose(cluster: &Cluster) -> Metadata {
    Metadata {
        id: cluster.members().next().expect("founded").id,
        cluster_id: cluster.id(),
        birth: 7,
        incarnation: 1,
        rescue_epoch: 0,
        contacts: Vec::new(),
        promised: Duration::ZERO,
    }
}

fn empty(index: u64, term: u64) -> Entry {
    convert::entry(index, term, EntryType::EntryNormal, "")
}

fn empties(low: u64, high: u64, term: u64) -> Vec<Entry> {
    (low..=high).map(|index| empty(index, term)).collect()
}

/// The head of a snapshot of a cluster.
pub(crate) fn head_of(cluster: &Cluster, index: u64, term: u64) -> SnapshotHead {
    let voters: Vec<u64> = cluster.voters().map(|member| member.id).collect();
    let learners: Vec<u64> = cluster.learners().map(|member| member.id).collect();
    let conf_state = ConfState::from((voters, learners));
    SnapshotHead {
        mark: SnapshotMark { index, term, conf_state },
        cluster: cluster.clone(),
        window: Window::new(),
        births: [(1, 2)].into(),
    }
}

/// A log of empty entries 1 to 9 of term 1, all committed, and a snapshot at 6.
fn healthy() -> (Cluster, Place) {
    let cluster = founders(3);
    let mut place = Place::memory();
    place.write(&LogBatch {
        metadata: Some(whose(&cluster).encode()),
        entries: &empties(1, 9, 1),
        hard_state: Some(hard_state(1, 0, 9)),
        ..LogBatch::default()
    });
    place.snapshot(&head_of(&cluster, 6, 1));
    (cluster, place)
}

fn restart(place: &mut Place) -> Result<(), BootError> {
    place.boot(&Boot::Restart).map(drop)
}

/// A restart that fails and changes nothing.
fn refused(place: &mut Place) -> BootError {
    let before = place.open().0.state().expect("readable");
    let error = restart(place).expect_err("it must be refused");
    assert_eq!(place.open().0.state().expect("readable"), before, "nothing is written");
    error
}

#[test]
fn the_healthy_log_starts_from_its_snapshot() {
    let (cluster, mut place) = healthy();
    let recovered = place.boot(&Boot::Restart).expect("nothing is wrong");
    assert_eq!(recovered.snapshot_id(), Some(SnapshotId { index: 6, term: 1 }));
    assert_eq!((recovered.applied(), recovered.hard_state.commit), (6, 9));
    assert_eq!((recovered.cluster, recovered.births), (cluster, [(1, 2)].into()));
    assert!(recovered.snapshot_len > 0);
}

#[test]
fn a_log_is_founded_or_joined_once() {
    let mut place = Place::memory();
    assert!(matches!(restart(&mut place), Err(BootError::NotInitialised)));
    let id = place.found(3).id;
    let cluster = founders(3);
    for boot in
        [Boot::New { id, cluster: cluster.clone() }, Boot::Join { id, cluster: cluster.clone() }]
    {
        let result = place.boot(&boot);
        let Err(BootError::AlreadyInitialised { id: found, cluster_id }) = result else {
            panic!("{result:?}")
        };
        assert_eq!((found, cluster_id), (id, cluster.id()));
    }
}

#[test]
fn a_log_that_is_not_ours_is_left_alone() {
    let mut place = Place::memory();
    place.write(&LogBatch { entries: &empties(1, 2, 1), ..LogBatch::default() });
    assert!(matches!(refused(&mut place), BootError::ForeignLog { last: 2 }));
    let cluster = founders(1);
    let id = cluster.members().next().expect("one").id;
    let result = place.boot(&Boot::New { id, cluster });
    assert!(matches!(result, Err(BootError::ForeignLog { .. })), "not overwritten either");
    let mut place = Place::memory();
    place
        .write(&LogBatch { metadata: Some("member 1 of cluster 7".into()), ..LogBatch::default() });
    assert!(matches!(refused(&mut place), BootError::Metadata(_)));
}

#[test]
fn who_founds_or_joins_is_checked() {
    let boot = |boot: &Boot| Place::memory().boot(boot).expect_err("it must be refused");
    let cluster = founders(2);
    let id = cluster.members().next().expect("two").id;
    let new = |id, cluster: &Cluster| Boot::New { id, cluster: cluster.clone() };
    let join = |id, cluster: &Cluster| Boot::Join { id, cluster: cluster.clone() };
    assert!(matches!(boot(&new(0, &cluster)), BootError::ZeroId));
    assert!(matches!(boot(&join(0, &cluster)), BootError::ZeroId));
    assert!(matches!(boot(&join(77, &cluster)), BootError::NotAMember { id: 77 }));
    assert!(matches!(boot(&new(77, &cluster)), BootError::NotAMember { id: 77 }));
    let mut nameless = cluster.clone();
    nameless.set_id(0);
    assert!(matches!(boot(&new(id, &nameless)), BootError::ZeroId));

    let mut later = cluster;
    let learner = Member::joining(["http://127.0.0.1:9"], 1);
    later.apply(&Change::AddLearner(learner.clone())).expect("new");
    assert!(matches!(boot(&new(id, &later)), BootError::Founders(_)));
    later.apply(&Change::Remove(learner.id)).expect("known");
    assert!(matches!(boot(&new(id, &later)), BootError::Founders(_)));
    let removed = boot(&join(learner.id, &later));
    assert!(matches!(removed, BootError::Removed { id } if id == learner.id));
}

/// etcd panics here, deep inside of raft: "tocommit is out of range".
#[test]
fn a_log_shorter_than_its_commit_has_lost_data() {
    let (_, mut place) = healthy();
    place.write(&LogBatch { hard_state: Some(hard_state(1, 0, 10)), ..LogBatch::default() });
    let error = refused(&mut place);
    assert!(matches!(error, BootError::LogShorterThanCommit { commit: 10, last: 9 }), "{error}");
    assert!(error.to_string().contains("add it again"), "it names the way out");
}

/// The commit index is not synced on its own; a snapshot proves that more was committed (qdrant #4683, curvine #1551).
#[test]
fn a_commit_index_that_lags_behind_the_snapshot_is_raised() {
    let (_, mut place) = healthy();
    place.write(&LogBatch { hard_state: Some(hard_state(1, 0, 2)), ..LogBatch::default() });
    let recovered = place.boot(&Boot::Restart).expect("nothing is lost");
    assert_eq!(recovered.hard_state.commit, 6);
}

#[test]
fn a_missing_snapshot_is_an_error_only_if_the_log_needs_it() {
    let (_, mut place) = healthy();
    let lose = |place: &Place, index| {
        let Place::Memory { snapshots, .. } = place else { panic!("in memory") };
        snapshots.lose(SnapshotId { index, term: 1 });
    };
    lose(&place, 6);
    let recovered = place.boot(&Boot::Restart).expect("the log begins at 1");
    assert_eq!((recovered.applied(), recovered.hard_state.commit), (0, 9), "all is replayed");

    let (_, mut place) = healthy();
    place.open().0.release(4).expect("covered");
    lose(&place, 6);
    let error = refused(&mut place);
    let BootError::SnapshotMissing { needed } = error else { panic!("{error}") };
    assert_eq!(needed, SnapshotId { index: 6, term: 1 });
}

#[test]
fn an_older_snapshot_serves_if_the_log_continues_it() {
    let (cluster, mut place) = healthy();
    place.store_snapshot(&head_of(&cluster, 4, 1));
    place.store_snapshot(&head_of(&cluster, 3, 2)); // of another history: entry 3 is of term 1
    let Place::Memory { snapshots, .. } = &place else { panic!("in memory") };
    snapshots.lose(SnapshotId { index: 6, term: 1 });
    place.open().0.release(5).expect("covered");
    let recovered = place.boot(&Boot::Restart).expect("entries 5 and 6 are there");
    assert_eq!((recovered.applied(), recovered.first_index), (4, 5));
    place.open().0.release(6).expect("covered");
    let error = refused(&mut place);
    assert!(matches!(error, BootError::SnapshotMissing { .. }), "entry 5 is nowhere: {error}");
}

/// O5: the file comes before its mark. Without the mark it never happened.
#[test]
fn a_snapshot_that_the_log_does_not_vouch_for_is_not_used() {
    let (cluster, mut place) = healthy();
    place.store_snapshot(&head_of(&cluster, 8, 1));
    let recovered = place.boot(&Boot::Restart).expect("as before");
    assert_eq!(recovered.applied(), 6);
}

#[test]
fn log_and_snapshot_must_agree() {
    let write = |head: &SnapshotHead, as_id: SnapshotId, mark: &SnapshotMark| {
        let (_, mut place) = healthy();
        let (_, snapshots) = place.open();
        let mut sink = snapshots.create(as_id).expect("room");
        head.write_to(&mut sink).expect("room");
        sink.commit().expect("room");
        place.write(&LogBatch { compact: Some(mark.clone()), ..LogBatch::default() });
        refused(&mut place)
    };
    let cluster = founders(3);
    let good = head_of(&cluster, 7, 1);
    let error = write(&head_of(&cluster, 8, 1), good.id(), &good.mark);
    assert!(matches!(error, BootError::SnapshotDisagrees(_)), "another place: {error}");

    let mut smaller = good.mark.clone();
    smaller.conf_state.mut_voters().pop();
    let error = write(&good, good.id(), &smaller);
    assert!(matches!(error, BootError::SnapshotDisagrees(_)), "other voters: {error}");

    let mut other = cluster.clone();
    other.set_id(99);
    let error = write(&head_of(&other, 7, 1), good.id(), &good.mark);
    assert!(matches!(error, BootError::ForeignSnapshot { snapshot: 99, .. }), "{error}");

    let (_, mut place) = healthy();
    let (_, snapshots) = place.open();
    let mut sink = snapshots.create(good.id()).expect("room");
    sink.write_all(b"no head at all, but whole").expect("room");
    sink.commit().expect("room");
    place.write(&LogBatch { compact: Some(good.mark), ..LogBatch::default() });
    let error = refused(&mut place);
    assert!(matches!(error, BootError::SnapshotHead { .. }), "{error}");
}

#[test]
fn a_removed_member_is_told_to_stay_away() {
    let (mut cluster, mut place) = healthy();
    let id = cluster.members().next().expect("three").id;
    cluster.apply(&Change::Remove(id)).expect("known");
    place.snapshot(&head_of(&cluster, 8, 1));
    assert!(matches!(refused(&mut place), BootError::Removed { id: removed } if removed == id));
}

/// Its vote counts until the joint configuration is left, and may be needed for that.
#[test]
fn a_member_that_a_joint_change_removes_restarts_until_that_is_left() {
    let (mut cluster, mut place) = healthy();
    let all: Vec<u64> = cluster.members().map(|member| member.id).collect();
    cluster.apply(&Change::Remove(all[0])).expect("known");
    let mut head = head_of(&cluster, 8, 1);
    head.mark.conf_state.set_voters_outgoing(all);
    place.snapshot(&head);
    place.boot(&Boot::Restart).expect("it still votes");
}

/// raft-rs and the log itself take these; whoever wrote them broke the rules of Raft.
#[test]
fn terms_never_go_back() {
    let with = |entries: &[Entry], term| {
        let (_, mut place) = healthy();
        let hard_state = Some(hard_state(term, 0, 9));
        place.write(&LogBatch { entries, hard_state, ..LogBatch::default() });
        refused(&mut place)
    };
    let falls = [empty(10, 3), empty(11, 2)];
    let error = with(&falls, 3);
    assert!(
        matches!(error, BootError::TermGoesBack { index: 11, term: 2, previous: 3 }),
        "{error}"
    );
    assert!(matches!(with(&[empty(10, 0)], 3), BootError::TermGoesBack { index: 10, .. }));
    let error = with(&[empty(10, 4)], 3);
    assert!(matches!(error, BootError::TermBehindLog { term: 3, last_term: 4 }), "{error}");
    let mut place = Place::memory();
    let metadata = Some(whose(&founders(3)).encode());
    place.write(&LogBatch { metadata, entries: &[empty(1, 0)], ..LogBatch::default() });
    assert!(matches!(refused(&mut place), BootError::TermGoesBack { index: 1, .. }));
    let (_, mut place) = healthy();
    place.write(&LogBatch {
        entries: &[empty(7, 1)],
        compact: None,
        hard_state: Some(hard_state(1, 0, 6)),
        ..LogBatch::default()
    });
    restart(&mut place).expect("a shorter log is no fault as long as it holds what is committed");
}

#[test]
fn entries_that_nobody_here_writes_are_refused() {
    let with = |entry: Entry| {
        let (_, mut place) = healthy();
        place.write(&LogBatch { entries: &[entry], ..LogBatch::default() });
        refused(&mut place)
    };
    let foreign = convert::entry(10, 1, EntryType::EntryNormal, "set x=1");
    let error = with(foreign);
    assert!(matches!(error, BootError::Entry { index: 10, .. }), "{error}");
    let mut context = empty(10, 1);
    context.set_context(convert::to_raft("ctx".into()));
    let error = with(context);
    assert!(matches!(error, BootError::Entry { source: HeaderError::Context, .. }), "{error}");
    let unknown = convert::entry(10, 1, EntryType::EntryConfChange, &b"\x10\x07\x18\x01"[..]);
    assert!(matches!(with(unknown), BootError::Change { index: 10, .. }), "of unknown type");
    let garbage = convert::entry(10, 1, EntryType::EntryConfChangeV2, &b"\xff"[..]);
    assert!(matches!(with(garbage), BootError::Change { index: 10, .. }));
}

/// Refused by every member when it is applied; if boot were stricter, none of them could start again.
#[test]
fn a_conf_change_with_a_foreign_context_does_not_keep_a_member_from_starting() {
    let (_, mut place) = healthy();
    let foreign =
        convert::entry(10, 1, EntryType::EntryConfChange, &b"\x10\x01\x18\x07\x22\x03abc"[..]);
    place.write(&LogBatch { entries: &[foreign], ..LogBatch::default() });
    restart(&mut place).expect("it was refused, or will be");
}

/// A log that answers wrongly.
struct Lying {
    honest: MemStore,
    lie: fn(Vec<Entry>) -> Vec<Entry>,
    first_index: Option<u64>,
}

impl LogStore for Lying {
    fn state(&self) -> Result<LogState, LogError> {
        let state = self.honest.state()?;
        let first_index = self.first_index.unwrap_or(state.first_index);
        Ok(LogState { first_index, ..state })
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Self { honest: self.honest.clone(), ..*self })
    }
    fn append(&mut self, _: &LogBatch<'_>) -> Result<(), LogError> {
        panic!("nothing is written to a damaged log");
    }
    fn sync(&mut self) -> Result<(), LogError> {
        Ok(())
    }
    fn release(&mut self, _: u64) -> Result<(), LogError> {
        Ok(())
    }
    fn size(&self) -> u64 {
        0
    }
    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}

impl LogReader for Lying {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.honest.entries(low, high, max_bytes).map(self.lie)
    }
    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.honest.term(index)
    }
    fn first_index(&self) -> u64 {
        LogReader::first_index(&self.honest)
    }
    fn last_index(&self) -> u64 {
        LogReader::last_index(&self.honest)
    }
}

#[test]
fn a_log_with_a_hole_is_refused_and_never_read_for_ever() {
    let lying = |lie, first_index| {
        let (_, place) = healthy();
        let Place::Memory { log, snapshots } = place else { panic!("in memory") };
        let mut log = Lying { honest: log, lie, first_index };
        boot(&mut log, &snapshots, &Boot::Restart).expect_err("it must be refused")
    };
    let skips = |mut entries: Vec<Entry>| {
        entries.remove(1);
        entries
    };
    let error = lying(skips, None);
    assert!(matches!(error, BootError::NotContiguous { found: 9, expected: 8 }), "{error}");
    let error = lying(|_| Vec::new(), None);
    assert!(matches!(error, BootError::NotContiguous { expected: 7, .. }), "{error}");
    let error = lying(|entries| entries, Some(8));
    assert!(matches!(error, BootError::Gap { snapshot: 6, first: 8 }), "{error}");
}

#[test]
fn the_log_s_own_failure_passes_through() {
    let (_, place) = healthy();
    let Place::Memory { mut log, snapshots } = place else { panic!("in memory") };
    log.fail_next_append();
    let result = boot(&mut log, &snapshots, &Boot::Restart);
    assert!(matches!(result, Err(BootError::Log(LogError::Io { .. }))), "{result:?}");
    let result = boot(&mut log, &MemSnapshots::new(), &Boot::Restart);
    assert!(matches!(result, Err(BootError::Log(LogError::Poisoned { .. }))), "{result:?}");
}

/// What a snapshot holds besides the members.
#[test]
fn window_and_births_come_from_the_snapshot() {
    let (cluster, mut place) = healthy();
    let mut head = head_of(&cluster, 8, 1);
    let id = oarlock_raftnode::membership::ProposalId { origin: 5, incarnation: 1, sequence: 1 };
    head.window.accept(id);
    place.snapshot(&head);
    let recovered = place.boot(&Boot::Restart).expect("nothing is wrong");
    assert_eq!((recovered.window, recovered.births), (head.window, head.births));
    // An application entry after it is no fault.
    let data = Payload::Application { id, data: "x".into() }.encode();
    let entry = convert::entry(10, 1, EntryType::EntryNormal, data);
    place.write(&LogBatch { entries: &[entry], ..LogBatch::default() });
    restart(&mut place).expect("an entry of ours");
}
