//! The applied membership: what is refused and in which order, what a change does, orders, agreement, storage.

use oarlock_membership::record::{ClusterRecord, ConfChangeTransition, ConfState};
use oarlock_membership::{
    Applied, Change, ChangeEntry, ChangeError, Cluster, Configuration, ConfigurationError,
    Disagreement, HeadError, Member,
};
use prost::Message;

fn urls(port: u64) -> Vec<String> {
    vec![format!("http://127.0.0.1:{port}")]
}

/// Member `id` under the URL with port `port`.
fn at(id: u64, port: u64) -> Member {
    Member { id, peer_urls: urls(port), ..Member::default() }
}

fn voter(id: u64) -> Change {
    Change::AddVoter(at(id, id))
}

fn learner(id: u64) -> Change {
    Change::AddLearner(at(id, id))
}

fn cluster(changes: &[Change]) -> Cluster {
    let mut cluster = Cluster::new(7);
    for change in changes {
        cluster.apply(change).unwrap_or_else(|error| panic!("{change}: {error}"));
    }
    cluster
}

/// The members of etcd's TestValidateConfigurationChange: learner 1, voters 2 and 3; 4 was removed.
fn example() -> Cluster {
    cluster(&[voter(2), voter(3), voter(4), learner(1), Change::Remove(4)])
}

fn configuration(voters: &[u64], learners: &[u64]) -> Configuration {
    let state =
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() };
    Configuration::from_conf_state(&state).expect("legal")
}

/// etcd's TestValidateConfigurationChange, then rows of ours.
#[test]
fn objections_are_etcds_in_etcds_order() {
    use ChangeError as E;
    let in_use = |port, owner| E::UrlInUse { url: format!("http://127.0.0.1:{port}"), owner };
    for (change, expected) in [
        (Change::Remove(3), Ok(())),
        (voter(4), Err(E::Removed { id: 4 })),
        (Change::Remove(4), Err(E::Removed { id: 4 })),
        (voter(1), Err(E::Exists { id: 1 })),
        (Change::AddVoter(at(5, 1)), Err(in_use(1, 1))),
        (Change::Remove(5), Err(E::Unknown { id: 5 })),
        (voter(5), Ok(())),
        (Change::Promote(3), Err(E::NotLearner { id: 3 })),
        (Change::Promote(6), Err(E::Unknown { id: 6 })),
        (learner(7), Err(E::TooManyLearners { max: 1 })),
        (Change::Promote(1), Ok(())),
        // Ours.
        (Change::Promote(4), Err(E::Removed { id: 4 })),
        (learner(4), Err(E::Removed { id: 4 })),
        (learner(2), Err(E::Exists { id: 2 })),
        (Change::AddLearner(at(7, 3)), Err(in_use(3, 3))),
        (Change::AddVoter(at(5, 4)), Ok(())), // a removed member's URL is free
        (voter(0), Err(E::ZeroId)),
        (Change::Remove(0), Err(E::ZeroId)),
    ] {
        let mut cluster = example();
        assert_eq!(cluster.validate(&change), expected, "{change}");
        let applied = cluster.apply(&change);
        assert_eq!(applied.as_ref().err(), expected.as_ref().err(), "{change}");
        assert_eq!(cluster == example(), applied.is_err(), "{change}: a refusal changes nothing");
    }
}

/// etcd leaves this to raft, where an entry that removes the last voter meets an error after it was committed.
#[test]
fn the_last_voter_stays() {
    let mut cluster = cluster(&[voter(1), learner(2)]);
    assert_eq!(cluster.apply(&Change::Remove(1)), Err(ChangeError::LastVoter { id: 1 }));
    assert!(cluster.apply(&Change::Remove(2)).is_ok());
}

#[test]
fn a_change_says_what_it_did() {
    let mut cluster = cluster(&[voter(1)]);
    let learning = Member { is_learner: true, ..at(2, 2) };
    // The kind of change decides, whatever the member says of itself.
    assert_eq!(cluster.apply(&Change::AddLearner(at(2, 2))), Ok(Applied::Added(learning)));
    assert_eq!(cluster.apply(&Change::Promote(2)), Ok(Applied::Promoted(at(2, 2))));
    assert_eq!(cluster.apply(&Change::Remove(2)), Ok(Applied::Removed(at(2, 2))));
    assert!(cluster.is_removed(2) && cluster.member(2).is_none());
    assert_eq!(Vec::from_iter(cluster.members().map(|member| member.id)), [1]);
}

#[test]
fn a_refused_promotion_leaves_the_member_as_it_is() {
    for (id, error) in [(2, ChangeError::NotLearner { id: 2 }), (9, ChangeError::Unknown { id: 9 })]
    {
        let mut cluster = example();
        assert_eq!(cluster.apply(&Change::Promote(id)), Err(error));
        assert_eq!(cluster, example());
    }
}

#[test]
fn lookups_find_members_in_order() {
    let mut cluster = example();
    cluster.update_attributes(3, "three", &urls(33)).expect("known");
    assert_eq!(Vec::from_iter(cluster.voters().map(|member| member.id)), [2, 3]);
    assert_eq!(Vec::from_iter(cluster.learners().map(|member| member.id)), [1]);
    assert_eq!(cluster.member_by_name("three").map(|member| member.id), Some(3));
    assert_eq!(cluster.member_by_peer_url("http://127.0.0.1:2").map(|member| member.id), Some(2));
    assert!(cluster.member_by_name("four").is_none() && cluster.member(4).is_none());
    assert_eq!((cluster.id(), cluster.max_learners(), cluster.epoch()), (7, 1, 0));
}

/// etcd's TestClusterUpdateAttributes and TestClusterUpdateRaftAttributes, and its *update* rows of
/// TestValidateConfigurationChange. etcd ignores updates of nobody, or panics; here they are refused.
#[test]
fn updates_change_what_they_name_and_nothing_else() {
    use ChangeError as E;
    let mut cluster = example();
    assert_eq!(cluster.update_peer_urls(4, &urls(9)), Err(E::Removed { id: 4 }));
    assert_eq!(cluster.update_peer_urls(5, &urls(9)), Err(E::Unknown { id: 5 }));
    let in_use = E::UrlInUse { url: "http://127.0.0.1:3".into(), owner: 3 };
    assert_eq!(cluster.update_peer_urls(2, &urls(3)), Err(in_use));
    assert_eq!(cluster.update_attributes(4, "n", &[]), Err(E::Removed { id: 4 }));
    assert_eq!(cluster.update_attributes(5, "n", &[]), Err(E::Unknown { id: 5 }));
    assert_eq!(cluster, example(), "a refusal changes nothing");

    cluster.update_peer_urls(2, &urls(2)).expect("its own URL");
    cluster.update_peer_urls(1, &["http://z:1".into(), "http://a:1".into()]).expect("free URLs");
    cluster.update_attributes(1, "one", &urls(11)).expect("known");
    let expected = Member {
        peer_urls: vec!["http://a:1".into(), "http://z:1".into()],
        is_learner: true,
        name: "one".into(),
        client_urls: urls(11),
        id: 1,
    };
    assert_eq!(cluster.member(1), Some(&expected), "a learner stays one (etcd #21694)");
}

#[test]
fn a_joint_change_is_taken_whole_or_not_at_all() {
    let mut cluster = cluster(&[voter(1), learner(2)]);
    let before = cluster.clone();
    let start = configuration(&[1], &[2]);

    let half = ChangeEntry::joint(vec![voter(3), voter(1)], ConfChangeTransition::Auto);
    assert_eq!(cluster.apply_entry(&start, &half), Err(ChangeError::Exists { id: 1 }));
    let nobody =
        ChangeEntry::joint(vec![Change::Remove(1), Change::Remove(2)], ConfChangeTransition::Auto);
    assert_eq!(cluster.validate_entry(&start, &nobody), Err(ChangeError::LastVoter { id: 2 }));
    assert_eq!(cluster, before);

    // The only voter is replaced, in an order that a series of single changes could not take.
    let swap = ChangeEntry::joint(
        vec![Change::Remove(1), Change::Promote(2), voter(3)],
        ConfChangeTransition::Explicit,
    );
    let done = cluster.apply_entry(&start, &swap).expect("legal");
    assert_eq!(done.applied.len(), 3);
    assert!(
        done.configuration.is_joint() && done.configuration.contains(1),
        "raft still needs the old voter"
    );
    cluster.agrees_with(&done.configuration.to_conf_state()).expect("in step");

    let early = cluster.apply_entry(&done.configuration, &ChangeEntry::new(voter(4)));
    assert_eq!(early, Err(ChangeError::Configuration(ConfigurationError::AlreadyJoint)));
    assert!(cluster.member(4).is_none(), "what raft refuses is not taken here either");
    let left =
        cluster.apply_entry(&done.configuration, &ChangeEntry::leave_joint()).expect("joint");
    assert!(left.applied.is_empty() && !left.configuration.contains(1));
    cluster.agrees_with(&left.configuration.to_conf_state()).expect("in step");
}

#[test]
fn orders_are_obeyed_where_requests_are_refused() {
    let start = configuration(&[2, 3], &[1]);
    let ordered = |change: Change| {
        let mut cluster = example();
        let done = cluster.apply_entry(&start, &ChangeEntry::new(change).ordered_by_rescue(5));
        done.map(|mut done| (cluster, done.applied.remove(0)))
    };
    let (revived, applied) = ordered(voter(4)).expect("an order");
    assert_eq!(applied, Applied::Added(at(4, 4)));
    assert!(!revived.is_removed(4) && revived.epoch() == 5);

    assert_eq!(ordered(voter(2)).expect("an order").1, Applied::Unchanged);
    assert_eq!(ordered(voter(1)).expect("an order").1, Applied::Promoted(at(1, 1)));
    assert_eq!(ordered(Change::Promote(3)).expect("an order").1, Applied::Unchanged);
    let taken = Change::AddVoter(at(5, 2));
    assert_eq!(
        ordered(taken).expect("an order").1,
        Applied::Added(at(5, 2)),
        "its URL may be another's for a moment"
    );
    let (unknown, applied) = ordered(Change::Remove(6)).expect("an order");
    assert_eq!(applied, Applied::Unchanged);
    assert!(unknown.is_removed(6));

    assert_eq!(ordered(voter(0)), Err(ChangeError::ZeroId));
    assert_eq!(ordered(Change::Promote(6)), Err(ChangeError::Unknown { id: 6 }));
    let mut last = cluster(&[voter(1)]);
    let order = ChangeEntry::new(Change::Remove(1)).ordered_by_rescue(1);
    assert_eq!(
        last.apply_entry(&configuration(&[1], &[]), &order),
        Err(ChangeError::LastVoter { id: 1 })
    );
}

#[test]
fn disagreement_names_every_id() {
    let cluster = example();
    let state = |voters: &[u64], learners: &[u64]| ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        ..ConfState::default()
    };
    let disagree = |members_only: &[u64], raft_only: &[u64], roles: &[u64]| {
        Err(Disagreement {
            members_only: members_only.to_vec(),
            raft_only: raft_only.to_vec(),
            roles: roles.to_vec(),
            illegal: None,
        })
    };
    assert_eq!(cluster.agrees_with(&state(&[3, 2], &[1])), Ok(()));
    assert_eq!(cluster.agrees_with(&state(&[2], &[1])), disagree(&[3], &[], &[]));
    assert_eq!(cluster.agrees_with(&state(&[2, 3, 4], &[1])), disagree(&[], &[4], &[]));
    assert_eq!(cluster.agrees_with(&state(&[1, 2], &[3])), disagree(&[], &[], &[1, 3]));
    assert_eq!(cluster.agrees_with(&state(&[2, 5], &[])), disagree(&[1, 3], &[5], &[]));
    let illegal = cluster.agrees_with(&state(&[1], &[1])).expect_err("illegal");
    assert_eq!(illegal.illegal, Some(ConfigurationError::VoterAndLearner { id: 1 }));
    assert_eq!(Cluster::new(1).agrees_with(&ConfState::default()), Ok(()));
    assert_eq!(
        cluster.agrees_with(&state(&[2], &[1])).expect_err("one short").to_string(),
        "members and raft's configuration disagree: members only [3], raft only [], in different roles []"
    );
}

/// A voter that is to become a learner counts as the learner that it already is among the members.
#[test]
fn a_joint_configuration_agrees_by_its_incoming_half() {
    let state = ConfState {
        voters: vec![2, 3],
        learners_next: vec![1],
        voters_outgoing: vec![1, 4],
        auto_leave: true,
        ..ConfState::default()
    };
    assert_eq!(example().agrees_with(&state), Ok(()));
}

#[test]
fn a_snapshot_head_reads_back_as_written() {
    let mut cluster = example().with_max_learners(3);
    cluster.update_attributes(2, "two", &urls(22)).expect("known");
    cluster.set_id(u64::MAX);
    let order = ChangeEntry::new(Change::Remove(3)).ordered_by_rescue(9);
    cluster.apply_entry(&configuration(&[2, 3], &[1]), &order).expect("an order");
    let bytes = cluster.encode();
    assert_eq!(Cluster::decode(&bytes), Ok(cluster.clone()));
    assert_eq!(Cluster::decode(&bytes).expect("readable").encode(), bytes);
    assert_eq!(Cluster::decode(&Cluster::new(1).encode()), Ok(Cluster::new(1)));
}

/// Snapshots outlive programs: what version 1 wrote must stay readable, byte for byte.
#[test]
fn the_snapshot_head_is_stable() {
    let cluster = cluster(&[voter(1), voter(2), Change::Remove(2)]);
    let golden = b"\x08\x01\x10\x07\x1a\x16\x08\x01\x12\x12http://127.0.0.1:1\x22\x01\x02\x28\x01";
    assert_eq!(cluster.encode(), golden);
}

#[test]
fn a_damaged_snapshot_head_is_refused() {
    let good = ClusterRecord::from(&example());
    let decode = |edit: fn(&mut ClusterRecord)| {
        let mut record = good.clone();
        edit(&mut record);
        Cluster::decode(&record.encode_to_vec()).expect_err("damaged")
    };
    assert_eq!(decode(|record| record.version = 2), HeadError::Version { version: 2 });
    assert_eq!(decode(|record| record.version = 0), HeadError::Version { version: 0 });
    assert_eq!(decode(|record| record.members[0].id = 0), HeadError::ZeroId);
    assert_eq!(decode(|record| record.members[0].id = 2), HeadError::Twice { id: 2 });
    assert_eq!(decode(|record| record.removed.push(3)), HeadError::MemberAndRemoved { id: 3 });
    assert_eq!(decode(|record| record.members.truncate(1)), HeadError::NoVoters);
    assert!(matches!(Cluster::decode(&[0xff]), Err(HeadError::Malformed(_))));
    assert_eq!(
        Cluster::decode(&[]),
        Err(HeadError::Version { version: 0 }),
        "no bytes are no cluster"
    );
}
