//! Plans for a forced standalone restart: what is kept, what is appended, what is refused.

use oarlock_membership::record::{ConfChangeTransition, ConfState};
use oarlock_membership::{
    Change, ChangeEntry, Cluster, EntryKind, EntryView, HardState, Member, PlanError, PlannedEntry,
    StandalonePlan, Survivor, UncommittedTail, rescued_cluster_id,
};

const KEEP: UncommittedTail = UncommittedTail::Keep;
const DISCARD: UncommittedTail = UncommittedTail::Discard;

fn member(id: u64) -> Member {
    Member { id, peer_urls: vec![format!("http://m{id}:2380")], ..Member::default() }
}

fn add(id: u64) -> ChangeEntry {
    ChangeEntry::new(Change::AddVoter(member(id)))
}

fn remove(id: u64) -> ChangeEntry {
    ChangeEntry::new(Change::Remove(id))
}

fn voters(ids: &[u64]) -> ConfState {
    ConfState { voters: ids.to_vec(), ..ConfState::default() }
}

/// An entry of a log: a conf change, or `None` for anything else.
fn log(first: u64, term: u64, entries: &[Option<ChangeEntry>]) -> Vec<PlannedEntry> {
    let entry = |(index, change): (u64, &Option<ChangeEntry>)| {
        let (kind, data) =
            change.as_ref().map_or((EntryKind::Normal, "x".into()), ChangeEntry::encode);
        PlannedEntry { index, term, kind, data }
    };
    (first..).zip(entries).map(entry).collect()
}

/// A survivor's case; what a test does not mention is as in a log without snapshot.
#[derive(Clone)]
struct Case {
    member: Member,
    cluster: Option<Cluster>,
    conf: ConfState,
    snapshot: (u64, u64),
    entries: Vec<PlannedEntry>,
    hard_state: HardState,
    epoch: u64,
}

impl Case {
    fn new(id: u64, entries: Vec<PlannedEntry>) -> Self {
        let (commit, term) = entries.last().map_or((0, 0), |last| (last.index, last.term));
        Self {
            member: member(id),
            cluster: Some(Cluster::new(7)),
            conf: ConfState::default(),
            snapshot: (0, 0),
            entries,
            hard_state: HardState { term, vote: 0, commit },
            epoch: 1,
        }
    }

    fn commit(self, commit: u64) -> Self {
        Self { hard_state: HardState { commit, ..self.hard_state }, ..self }
    }

    fn plan(&self, tail: UncommittedTail) -> Result<StandalonePlan, PlanError> {
        let survivor = Survivor {
            member: &self.member,
            cluster_id: 7,
            cluster: self.cluster.as_ref(),
            conf: &self.conf,
            snapshot_index: self.snapshot.0,
            snapshot_term: self.snapshot.1,
            hard_state: self.hard_state,
        };
        StandalonePlan::new(&survivor, views(&self.entries), tail, self.epoch, |_, _| ())
    }
}

fn views(entries: &[PlannedEntry]) -> impl Iterator<Item = EntryView<'_>> {
    entries.iter().map(PlannedEntry::view)
}

/// What a plan appends, such as `3/2 remove 2`.
fn appended(plan: &StandalonePlan) -> Vec<String> {
    let text = |entry: &PlannedEntry| {
        let change = ChangeEntry::read(&entry.view()).expect("readable").expect("a conf change");
        assert_eq!(change.rescue, Some(plan.epoch), "every synthesised change is an order");
        format!("{}/{} {change}", entry.index, entry.term)
    };
    plan.appended.iter().map(text).collect()
}

/// etcd's TestCreateConfigChangeEnts, with our differences: the entries' term is above the log's, and a member that
/// is added keeps its URLs (etcd gives it http://localhost:2380).
#[test]
fn appended_changes_are_etcds() {
    let check = |ids: &[u64], own, (term, index), expected: &[&str]| {
        let case = Case {
            cluster: None,
            conf: voters(ids),
            snapshot: (index, term),
            hard_state: HardState { term, vote: 9, commit: index },
            ..Case::new(own, vec![])
        };
        let plan = case.plan(DISCARD).expect("a plan");
        assert_eq!(appended(&plan), expected, "{ids:?} without {own}");
        let last = index + expected.len() as u64;
        assert_eq!(plan.hard_state, HardState { term: term + 1, vote: own, commit: last });
        assert_eq!(plan.removed, ids.iter().copied().filter(|&id| id != own).collect::<Vec<_>>());
    };
    check(&[1], 1, (1, 1), &[]);
    check(&[1, 2], 1, (1, 1), &["2/2 remove 2"]);
    check(&[1, 2, 3], 1, (2, 2), &["3/3 remove 2", "4/3 remove 3"]);
    check(&[2, 3], 2, (2, 2), &["3/3 remove 3"]);
    check(&[2, 3], 1, (2, 2), &["3/3 add voter 1", "4/3 remove 2", "5/3 remove 3"]);
}

#[test]
fn a_member_that_is_added_keeps_its_urls() {
    let case = Case { cluster: None, conf: voters(&[2]), snapshot: (1, 1), ..Case::new(1, vec![]) };
    let plan = case.plan(KEEP).expect("a plan");
    let change =
        ChangeEntry::read(&plan.appended[0].view()).expect("readable").expect("a conf change");
    assert_eq!(change.changes, [Change::AddVoter(member(1))]);
}

/// Three founding members, an acknowledged write and, above the commit index, an unacknowledged addition.
fn with_tail() -> Case {
    let entries = log(1, 1, &[Some(add(1)), Some(add(2)), Some(add(3)), None, None, Some(add(4))]);
    Case::new(1, entries).commit(4)
}

#[test]
fn a_kept_tail_is_committed_and_counts() {
    let plan = with_tail().plan(KEEP).expect("a plan");
    assert_eq!(
        (plan.kept.map(|span| (span.first, span.last, span.conf_changes)), plan.discarded),
        (Some((1, 6, 4)), None)
    );
    assert_eq!(plan.kept_uncommitted, 2);
    assert_eq!(appended(&plan), ["7/2 remove 2", "8/2 remove 3", "9/2 remove 4"]);
    assert_eq!(plan.hard_state.commit, 9);
}

#[test]
fn a_discarded_tail_is_overwritten() {
    let plan = with_tail().plan(DISCARD).expect("a plan");
    let discarded = plan.discarded.expect("two entries");
    assert_eq!((discarded.first, discarded.last, discarded.conf_changes), (5, 6, 1));
    assert_eq!((plan.kept.map(|span| span.last), plan.kept_uncommitted), (Some(4), 0));
    assert_eq!(appended(&plan), ["5/2 remove 2", "6/2 remove 3"]);
    assert_eq!(
        (plan.last_index, plan.last_term),
        (6, 1),
        "survivors are compared by what they hold"
    );
}

#[test]
fn the_new_term_is_above_entries_and_votes() {
    for (vote_term, entry_term, term) in [(1, 1, 2), (5, 1, 6), (1, 4, 5)] {
        let mut case = Case::new(1, log(1, entry_term, &[Some(add(1))]));
        case.hard_state.term = vote_term;
        assert_eq!(case.plan(KEEP).expect("a plan").hard_state.term, term);
    }
}

/// What etcd cannot rescue: a learner (etcd #13213), a removed member (etcd #13848), a log that ends in a joint
/// configuration.
#[test]
fn any_survivor_can_be_rescued() {
    let learner = ChangeEntry::new(Change::AddLearner(member(2)));
    let swap = ChangeEntry::joint(
        vec![add(4).changes.remove(0), Change::Remove(1)],
        ConfChangeTransition::Implicit,
    );
    let check = |name: &str, own, entries: &[&ChangeEntry], expected: &[&str]| {
        let entries: Vec<_> = entries.iter().map(|&entry| Some(entry.clone())).collect();
        let plan = Case::new(own, log(1, 1, &entries))
            .plan(KEEP)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(appended(&plan), expected, "{name}");
    };
    let (one, two) = (&add(1), &add(2));
    check("a learner", 2, &[one, &learner], &["3/2 promote 2", "4/2 remove 1"]);
    check("a removed member", 2, &[one, two, &remove(2)], &["4/2 add voter 2", "5/2 remove 1"]);
    check(
        "joint, and in",
        2,
        &[one, two, &swap],
        &["4/2 leave the joint configuration", "5/2 remove 4"],
    );
    check(
        "joint, and on the way out",
        1,
        &[one, two, &swap],
        &["4/2 leave the joint configuration", "5/2 add voter 1", "6/2 remove 2", "7/2 remove 4"],
    );
    check("joint and left", 2, &[one, two, &swap, &ChangeEntry::leave_joint()], &["5/2 remove 4"]);
    check("a stranger to an empty log", 3, &[], &["1/1 add voter 3"]);
}

/// Nobody but the survivor is left, in any role: etcd forgot learners that only its snapshot knew (etcd #20893).
#[test]
fn learners_are_removed_wherever_they_are_known_from() {
    let appended_to = |conf: ConfState, entries: &[Option<ChangeEntry>]| {
        let conf = ConfState { voters: vec![1, 2], ..conf };
        let entries = log(6, 1, entries);
        let case = Case { cluster: None, conf, snapshot: (5, 1), ..Case::new(1, entries) };
        appended(&case.plan(KEEP).expect("a plan"))
    };
    let in_the_snapshot = ConfState { learners: vec![3], ..ConfState::default() };
    assert_eq!(appended_to(in_the_snapshot, &[]), ["6/2 remove 2", "7/2 remove 3"]);
    let in_the_log = ChangeEntry::new(Change::AddLearner(member(3)));
    assert_eq!(
        appended_to(ConfState::default(), &[Some(in_the_log)]),
        ["7/2 remove 2", "8/2 remove 3"]
    );
    let to_be = ConfState {
        voters_outgoing: vec![1, 3],
        learners_next: vec![3],
        auto_leave: true,
        ..ConfState::default()
    };
    assert_eq!(
        appended_to(to_be, &[]),
        ["6/2 leave the joint configuration", "7/2 remove 2", "8/2 remove 3"]
    );
}

/// A change that the apply loop refused is in the log and had no effect; a plan that believed it would go wrong.
#[test]
fn refused_changes_have_no_effect_on_the_plan() {
    let entries =
        log(1, 1, &[Some(add(1)), Some(add(2)), Some(remove(2)), Some(add(2)), Some(remove(9))]);
    let plan = Case::new(1, entries.clone()).plan(KEEP).expect("a plan");
    assert_eq!(plan.refused, [4, 5]);
    assert_eq!((appended(&plan), plan.removed), (vec![], vec![]));

    let raft_alone = Case { cluster: None, ..Case::new(1, entries) }.plan(KEEP).expect("a plan");
    assert_eq!(raft_alone.removed, [2], "without the members raft's rules decide");
}

/// URLs change by ordinary entries, and decide which later changes are refused.
#[test]
fn ordinary_entries_reach_the_membership() {
    let moved = Member { peer_urls: member(2).peer_urls, ..member(3) };
    let entries = log(
        1,
        1,
        &[Some(add(1)), Some(add(2)), None, Some(ChangeEntry::new(Change::AddVoter(moved)))],
    );
    let survivor = Survivor {
        member: &member(1),
        cluster_id: 7,
        cluster: Some(&Cluster::new(7)),
        conf: &ConfState::default(),
        snapshot_index: 0,
        snapshot_term: 0,
        hard_state: HardState { term: 1, vote: 1, commit: 4 },
    };
    let update = |cluster: &mut Cluster, _: &EntryView<'_>| {
        cluster.update_peer_urls(2, &["http://elsewhere:1".into()]).expect("free");
    };
    let told = StandalonePlan::new(&survivor, views(&entries), KEEP, 1, update).expect("a plan");
    assert_eq!((told.removed, told.refused), (vec![2, 3], vec![]));
    let untold =
        StandalonePlan::new(&survivor, views(&entries), KEEP, 1, |_, _| ()).expect("a plan");
    assert_eq!((untold.removed, untold.refused), (vec![2], vec![4]));
}

#[test]
fn entries_before_the_snapshot_are_passed_over() {
    let mut cluster = Cluster::new(7);
    for id in [1, 2] {
        cluster.apply(&Change::AddVoter(member(id))).expect("new");
    }
    let entries = log(1, 1, &[Some(add(8)), Some(add(9)), Some(add(1)), None, Some(add(3))]);
    let case = Case {
        cluster: Some(cluster),
        conf: voters(&[1, 2]),
        snapshot: (3, 1),
        ..Case::new(1, entries)
    };
    let plan = case.plan(KEEP).expect("a plan");
    assert_eq!(plan.kept.map(|span| (span.first, span.last)), Some((4, 5)));
    assert_eq!(plan.removed, [2, 3]);
    // A commit index below the snapshot lags: the snapshot proves more.
    let case = case.commit(1);
    assert_eq!(case.plan(KEEP).expect("a plan").kept_uncommitted, 2);
    let plan = case.plan(DISCARD).expect("a plan");
    assert_eq!((plan.kept, plan.discarded.map(|span| span.first)), (None, Some(4)));
    assert_eq!(appended(&plan), ["4/2 remove 2"]);
}

#[test]
fn impossible_logs_are_refused() {
    let base = || Case::new(1, log(1, 2, &[Some(add(1)), None, None]));
    let refused = |case: Case| case.plan(KEEP).expect_err("no plan").to_string();

    assert_eq!(refused(Case { member: Member::default(), ..base() }), "0 is nobody's id");
    assert_eq!(
        refused(Case { epoch: 0, ..base() }),
        "rescue 0 is not newer than rescue 0, which the log holds already"
    );
    assert_eq!(refused(base().commit(4)), "the log ends at 3, but was committed up to 4");
    let mut gap = base();
    gap.entries.remove(1);
    assert_eq!(refused(gap), "expected entry 2 and found 3");
    let mut late = base();
    late.entries.remove(0);
    assert_eq!(refused(late), "expected entry 1 and found 2");
    let mut falling = base();
    falling.entries[2].term = 1;
    assert_eq!(refused(falling), "entry 3 has term 1, after term 2");
    assert_eq!(refused(Case { snapshot: (0, 3), ..base() }), "entry 1 has term 2, after term 3");
    let mut unknown = base();
    unknown.entries[1] = PlannedEntry {
        kind: EntryKind::ConfChange,
        data: vec![0x10, 3, 0x18, 1].into(),
        ..unknown.entries[1].clone()
    };
    assert_eq!(
        refused(unknown.clone()),
        "conf change at index 2: change_type has the unknown number 3"
    );
    assert_eq!(
        refused(Case { cluster: None, ..unknown }),
        "conf change at index 2: change_type has the unknown number 3"
    );
    let illegal = ConfState { learners: vec![1], ..ConfState::default() };
    assert_eq!(
        refused(Case { conf: illegal, ..base() }),
        "configuration of the snapshot: no voter would be left"
    );
    assert!(matches!(
        Case { conf: voters(&[1]), ..base() }.plan(KEEP),
        Err(PlanError::Disagreement(_))
    ));
    let mut term = base();
    term.hard_state.term = u64::MAX;
    assert_eq!(refused(term), format!("no term is left above {}", u64::MAX));
    let full = Case { snapshot: (u64::MAX, 1), ..Case::new(1, vec![]) };
    assert_eq!(refused(full), format!("no index is left above {}", u64::MAX));
}

/// Started again with the flag still set, etcd shrinks the cluster at every restart.
#[test]
fn a_rescue_happens_once() {
    let case = with_tail();
    let first = case.plan(KEEP).expect("a plan");
    let rescued = Case {
        entries: [case.entries.clone(), first.appended.clone()].concat(),
        hard_state: first.hard_state,
        ..case
    };
    let error = rescued.plan(KEEP).expect_err("the same rescue again");
    assert!(matches!(error, PlanError::NotNewer { epoch: 1, newest: 1 }), "{error}");

    let second = Case { epoch: 2, ..rescued }.plan(KEEP).expect("another one, on purpose");
    assert_eq!((appended(&second), second.removed), (vec![], vec![]));
    assert_eq!(second.hard_state, HardState { term: 3, vote: 1, commit: 9 });
    assert_ne!(second.cluster_id, first.cluster_id);
}

#[test]
fn the_cluster_gets_a_new_id_unless_told_otherwise() {
    let plan = with_tail().plan(KEEP).expect("a plan");
    assert_eq!((plan.previous_cluster_id, plan.cluster_id), (7, rescued_cluster_id(7, 1)));
    let mut kept = plan.clone().keep_cluster_id();
    assert_eq!(kept.cluster_id, 7);
    kept.cluster_id = plan.cluster_id;
    assert_eq!(kept, plan, "nothing else changes");
}

#[test]
fn a_dry_run_reads_well() {
    let plan = with_tail().plan(DISCARD).expect("a plan");
    let id = rescued_cluster_id(7, 1);
    let expected = format!(
        "\
standalone restart of member 1, rescue 1
  log ends at  term 1, index 6
  members      voters 1 2 3
  kept         entries 1 to 4 (term 1), conf changes among them: 3
  discarded    entries 5 to 6 (term 1), conf changes among them: 1
  removed      2 3
  appended     5/2 remove 2
               6/2 remove 3
  hard state   term 2, vote 1, commit 6 (was: term 1, vote 0, commit 4)
  cluster id   {id:x} (was: 7)
"
    );
    assert_eq!(plan.to_string(), expected);
    let kept = with_tail().plan(KEEP).expect("a plan").keep_cluster_id().to_string();
    assert!(kept.contains("  discarded    nothing\n"), "{kept}");
    assert!(
        kept.contains("               2 of them not known to be committed until now\n"),
        "{kept}"
    );
    assert!(kept.ends_with("  cluster id   7, kept\n"), "{kept}");
}

#[test]
fn a_dry_run_is_json_too() {
    let plan = Case::new(1, log(1, 1, &[Some(add(1)), Some(add(2)), None]))
        .commit(2)
        .plan(DISCARD)
        .expect("a plan");
    let json = serde_json::to_value(&plan).expect("encodes");
    assert_eq!(json["removed"], serde_json::json!([2]));
    assert_eq!(json["uncommitted_tail"], "discard");
    assert_eq!(
        json["discarded"],
        serde_json::json!({"first": 3, "last": 3, "last_term": 1, "conf_changes": 0})
    );
    assert_eq!(json["hard_state"], serde_json::json!({"term": 2, "vote": 1, "commit": 3}));
    assert_eq!(json["configuration"]["voters"], serde_json::json!([1, 2]));
    assert_eq!(json["cluster_id"].as_u64(), Some(plan.cluster_id));
    let entry = &json["appended"][0];
    assert_eq!(
        (&entry["index"], &entry["change"]),
        (&serde_json::json!(3), &serde_json::json!("remove 2"))
    );
    assert!(entry["data"].as_str().is_some_and(|data| data.starts_with("10011802")), "{entry}");
}
