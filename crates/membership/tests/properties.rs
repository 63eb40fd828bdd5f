//! Whatever the history: members and configuration stay in step, a rescue leaves exactly the survivor, and no bytes
//! make a decoder panic. A failure prints the smallest input that proptest found.

use oarlock_membership::record::{
    ClusterRecord, ConfChange, ConfChangeTransition, ConfChangeV2, ConfState,
};
use oarlock_membership::{
    Change, ChangeContext, ChangeEntry, Cluster, Configuration, EntryKind, EntryView, HardState,
    Member, PlannedEntry, ProposalId, StandalonePlan, Survivor, UncommittedTail, ids_from,
    parse_initial_cluster,
};
use proptest::prelude::*;

/// Few ids and URLs, so that changes collide.
fn member() -> impl Strategy<Value = Member> {
    (1..6u64, 1..8u64).prop_map(|(id, url)| Member {
        id,
        peer_urls: vec![format!("http://m{url}:1")],
        ..Member::default()
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => member().prop_map(Change::AddVoter),
        2 => member().prop_map(Change::AddLearner),
        2 => (1..6u64).prop_map(Change::Promote),
        2 => (1..6u64).prop_map(Change::Remove),
    ]
}

fn transition() -> impl Strategy<Value = ConfChangeTransition> {
    prop_oneof![
        Just(ConfChangeTransition::Auto),
        Just(ConfChangeTransition::Implicit),
        Just(ConfChangeTransition::Explicit)
    ]
}

fn entry() -> impl Strategy<Value = Option<ChangeEntry>> {
    prop_oneof![
        1 => Just(None),
        6 => change().prop_map(|change| Some(ChangeEntry::new(change))),
        2 => (prop::collection::vec(change(), 0..4), transition())
            .prop_map(|(changes, transition)| Some(ChangeEntry::joint(changes, transition))),
        2 => Just(Some(ChangeEntry::leave_joint())),
    ]
}

/// A log from index 1: entries, and how much the term rises before each.
fn history() -> impl Strategy<Value = Vec<PlannedEntry>> {
    prop::collection::vec((entry(), 0..2u64), 0..24).prop_map(|steps| {
        let mut term = 1;
        (1..)
            .zip(steps)
            .map(|(index, (change, rise))| {
                term += rise;
                let (kind, data) =
                    change.map_or((EntryKind::Normal, "x".into()), |change| change.encode());
                PlannedEntry { index, term, kind, data }
            })
            .collect()
    })
}

/// The apply loop: members and configuration, an entry at a time.
#[derive(Clone)]
struct Applied {
    cluster: Cluster,
    configuration: Configuration,
}

impl Applied {
    fn new() -> Self {
        Self { cluster: Cluster::new(7), configuration: Configuration::default() }
    }

    fn apply(&mut self, entry: &EntryView<'_>) {
        let Some(change) = ChangeEntry::read(entry).expect("written by us") else { return };
        let before = (self.cluster.clone(), self.configuration.clone());
        match self.cluster.apply_entry(&self.configuration, &change) {
            Ok(applied) => self.configuration = applied.configuration,
            Err(_) => assert_eq!((self.cluster.clone(), self.configuration.clone()), before),
        }
        self.cluster.agrees_with(&self.configuration.to_conf_state()).expect("in step");
    }

    fn apply_all(&mut self, entries: &[PlannedEntry]) {
        entries.iter().for_each(|entry| self.apply(&entry.view()));
    }
}

fn case() -> impl Strategy<Value = (Vec<PlannedEntry>, usize, u64, u64, UncommittedTail)> {
    let tail = prop_oneof![Just(UncommittedTail::Keep), Just(UncommittedTail::Discard)];
    (history(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..7u64, tail).prop_map(
        |(log, snapshot, commit, own, tail)| {
            let snapshot = snapshot.index(log.len() + 1);
            let commit = commit.index(log.len() + 1) as u64;
            (log, snapshot, commit, own, tail)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn members_and_configuration_stay_in_step(log in history()) {
        let mut applied = Applied::new();
        let mut gone = std::collections::BTreeSet::new();
        for entry in &log {
            applied.apply(&entry.view());
            prop_assert!(gone.is_subset(applied.cluster.removed()), "removed stays removed");
            gone.clone_from(applied.cluster.removed());
            prop_assert!(applied.cluster.members().all(|member| !gone.contains(&member.id)));
            prop_assert!(applied.cluster.learners().count() as u64 <= applied.cluster.max_learners());
            let mut urls = std::collections::BTreeSet::new();
            prop_assert!(applied.cluster.members().flat_map(|member| &member.peer_urls).all(|url| urls.insert(url)));
            let state = applied.configuration.to_conf_state();
            prop_assert_eq!(Configuration::from_conf_state(&state), Ok(applied.configuration.clone()));
            prop_assert_eq!(Cluster::decode(&applied.cluster.encode()), Ok(applied.cluster.clone()));
        }
    }

    #[test]
    fn a_rescue_leaves_exactly_the_survivor((log, snapshot, commit, own, tail) in case()) {
        let (before, after) = log.split_at(snapshot);
        let mut at_snapshot = Applied::new();
        at_snapshot.apply_all(before);
        let conf = at_snapshot.configuration.to_conf_state();
        let snapshot_term = before.last().map_or(0, |entry| entry.term);
        let term = log.last().map_or(0, |entry| entry.term);
        let hard_state = HardState { term, vote: 3, commit };
        let own_member = Member { id: own, ..Member::default() };
        for with_members in [true, false] {
            let survivor = Survivor {
                member: &own_member,
                cluster_id: 7,
                cluster: with_members.then_some(&at_snapshot.cluster),
                conf: &conf,
                snapshot_index: snapshot as u64,
                snapshot_term,
                hard_state,
            };
            let views = || after.iter().map(PlannedEntry::view);
            let plan = StandalonePlan::new(&survivor, views(), tail, 1, |_, _| ()).expect("a plan");

            // Contiguous with what is kept; nothing goes back; nothing committed is dropped.
            let proven = commit.max(snapshot as u64);
            let kept_to = plan.kept.map_or(snapshot as u64, |span| span.last);
            prop_assert!(kept_to >= proven);
            prop_assert!(tail == UncommittedTail::Discard || plan.discarded.is_none());
            for (entry, index) in plan.appended.iter().zip(kept_to + 1..) {
                prop_assert_eq!((entry.index, entry.term), (index, plan.hard_state.term));
            }
            prop_assert_eq!(plan.hard_state.commit, kept_to + plan.appended.len() as u64);
            prop_assert!(plan.hard_state.commit >= commit && plan.hard_state.term > term);
            prop_assert_eq!(plan.hard_state.vote, own);

            // What the apply loop, or raft alone, makes of the result.
            let kept = &after[..(kept_to as usize - snapshot)];
            let only = ConfState { voters: vec![own], ..ConfState::default() };
            if with_members {
                let mut applied = at_snapshot.clone();
                applied.apply_all(kept);
                prop_assert_eq!(&plan.configuration, &applied.configuration);
                applied.apply_all(&plan.appended);
                prop_assert_eq!(applied.configuration.to_conf_state(), only);
                let members: Vec<u64> = applied.cluster.members().map(|member| member.id).collect();
                prop_assert_eq!(members, vec![own]);
                prop_assert!(plan.removed.iter().all(|id| applied.cluster.is_removed(*id)));
            } else {
                let result = kept.iter().chain(&plan.appended).map(PlannedEntry::view);
                prop_assert_eq!(ids_from(&conf, result).expect("readable").to_conf_state(), only);
            }
        }
    }

    #[test]
    fn every_entry_reads_back_as_written(
        changes in prop::collection::vec(change(), 0..4),
        transition in transition(),
        rescue in any::<Option<u64>>(),
        id in any::<Option<(u64, u64, u64)>>(),
    ) {
        let proposal = id.map(|(origin, incarnation, sequence)| ProposalId { origin, incarnation, sequence });
        let written = ChangeEntry { rescue, proposal, ..ChangeEntry::joint(changes, transition) };
        let (kind, data) = written.encode();
        let read = ChangeEntry::read(&EntryView { index: 1, term: 1, kind, data: &data }).expect("readable");
        // `is_learner` follows from the kind of change.
        let changes = written.changes.iter().map(|change| match change {
            Change::AddLearner(member) => Change::AddLearner(Member { is_learner: true, ..member.clone() }),
            other => other.clone(),
        });
        let changes = changes.collect();
        prop_assert_eq!(read, Some(ChangeEntry { changes, ..written }));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ConfState::decode_checked(&bytes).map(|state| Configuration::from_conf_state(&state));
        let _ = ConfChange::decode_checked(&bytes);
        let _ = ConfChangeV2::decode_checked(&bytes).map(|change| Configuration::default().changed(&change));
        let _ = ChangeContext::from_json(&bytes);
        let _ = Cluster::decode(&bytes);
        for kind in [EntryKind::ConfChange, EntryKind::ConfChangeV2] {
            let _ = ChangeEntry::read(&EntryView { index: 1, term: 1, kind, data: &bytes });
        }
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = parse_initial_cluster(text);
        }
    }

    /// Damage to a good head is found, or gives a cluster that keeps every rule.
    #[test]
    fn a_damaged_head_never_breaks_a_rule(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let list = parse_initial_cluster("a=http://a:1,b=http://b:1").expect("a list");
        let mut bytes = Cluster::from_initial("t", &list).expect("a cluster").encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(cluster) = Cluster::decode(&bytes) {
            prop_assert!(cluster.voters().next().is_some() || cluster.members().len() == 0);
            prop_assert!(cluster.members().all(|member| member.id != 0 && !cluster.is_removed(member.id)));
            prop_assert_eq!(Cluster::try_from(ClusterRecord::from(&cluster)), Ok(cluster));
        }
    }
}
