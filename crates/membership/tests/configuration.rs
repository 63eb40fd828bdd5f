//! Raft's configuration, step by step: what is allowed, what it leads to, and the fold over a log.

use oarlock_membership::record::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use oarlock_membership::{
    Configuration, ConfigurationError, EntryKind, EntryView, ReadFault, ids_from,
};
use prost::Message;

/// `v1 v2 l3 o1 n4 auto`: voters, learners, outgoing voters, learners-to-be.
fn state(text: &str) -> ConfState {
    let mut state = ConfState::default();
    for word in text.split_whitespace() {
        if word == "auto" {
            state.auto_leave = true;
            continue;
        }
        let (role, id) = word.split_at(1);
        let list = match role {
            "v" => &mut state.voters,
            "l" => &mut state.learners,
            "o" => &mut state.voters_outgoing,
            _ => &mut state.learners_next,
        };
        list.push(id.parse().expect("a number"));
    }
    state
}

/// `v1 l2 r3` with an optional `implicit` or `explicit` in front: a change in raft-rs's own notation.
fn change(text: &str) -> ConfChangeV2 {
    let mut transition = ConfChangeTransition::Auto;
    let mut steps = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "implicit" => transition = ConfChangeTransition::Implicit,
            "explicit" => transition = ConfChangeTransition::Explicit,
            _ => {
                let (kind, id) = word.split_at(1);
                let kind = match kind {
                    "v" => ConfChangeType::AddNode,
                    "l" => ConfChangeType::AddLearnerNode,
                    _ => ConfChangeType::RemoveNode,
                };
                steps.push(ConfChangeSingle::new(kind, id.parse().expect("a number")));
            }
        }
    }
    ConfChangeV2::new(transition, steps)
}

#[test]
fn legal_changes_lead_where_raft_goes() {
    for (before, step, after) in [
        ("", "v1", "v1"),
        ("v1", "v2", "v1 v2"),
        ("v1 v2", "v2", "v1 v2"),
        ("v1", "l2", "v1 l2"),
        ("v1 l2", "v2", "v1 v2"),
        ("v1 v2", "l2", "v1 l2"),
        ("v1 v2", "r2", "v1"),
        ("v1 l2", "r2", "v1"),
        ("v1", "r9", "v1"),
        ("v1", "v0", "v1"),
        // Joint: by number of steps, or on demand.
        ("v1", "v2 v3", "v1 v2 v3 o1 auto"),
        ("v1", "implicit v2", "v1 v2 o1 auto"),
        ("v1", "explicit v2", "v1 v2 o1"),
        ("v1", "explicit", "v1 o1"),
        ("v1", "v2 r1", "v2 o1 auto"),
        ("v1 v2", "explicit l2", "v1 n2 o1 o2"),
        ("v1 v2", "explicit l2 r2", "v1 o1 o2"),
        ("v1 v2", "explicit l2 v2", "v1 v2 o1 o2"),
        ("v1 l3", "explicit v3", "v1 v3 o1"),
        ("v1 l3", "explicit r3", "v1 o1"),
        // And out of it again.
        ("v1 v2 o1", "", "v1 v2"),
        ("v2 o1 auto", "", "v2"),
        ("v1 n2 o1 o2", "", "v1 l2"),
        ("v1 l3 n2 o1 o2 auto", "", "v1 l2 l3"),
    ] {
        let start = Configuration::from_conf_state(&state(before)).expect(before);
        let next = start
            .changed(&change(step))
            .unwrap_or_else(|error| panic!("{before:?} {step:?}: {error}"));
        assert_eq!(next.to_conf_state(), state(after), "{before:?} {step:?}");
    }
}

#[test]
fn illegal_changes_are_refused_for_rafts_reasons() {
    use ConfigurationError as E;
    for (before, step, error) in [
        ("v1", "r1", E::NoVoters),
        ("v1", "l1", E::NoVoters),
        ("", "l1", E::NoVoters),
        ("", "r1", E::NoVoters),
        ("", "v0", E::NoVoters),
        ("v1 l2", "explicit r1", E::NoVoters),
        ("v1 v2 o1", "v3", E::AlreadyJoint),
        ("v1 v2 o1", "explicit v3", E::AlreadyJoint),
        ("v1 v2 o1", "v3 v4", E::AlreadyJoint),
        ("v1", "", E::NotJoint),
        ("", "", E::NotJoint),
        ("", "v1 v2", E::EmptyToJoint),
    ] {
        let start = Configuration::from_conf_state(&state(before)).expect(before);
        assert_eq!(start.changed(&change(step)), Err(error), "{before:?} {step:?}");
    }
}

#[test]
fn illegal_records_are_refused() {
    use ConfigurationError as E;
    for (text, error) in [
        ("v1 l1", E::VoterAndLearner { id: 1 }),
        ("v1 o2 l2", E::VoterAndLearner { id: 2 }),
        ("v1 v2 o2 n2", E::VoterAndLearner { id: 2 }),
        ("v1 o1 n2", E::StrayLearnerNext { id: 2 }),
        ("v1 n2", E::StrayLearnerNext { id: 2 }),
        ("l1", E::NoVoters),
        ("o1", E::NoVoters),
        ("v1 auto", E::NotJoint),
        ("auto", E::NotJoint),
        ("v0", E::ZeroId),
    ] {
        assert_eq!(Configuration::from_conf_state(&state(text)), Err(error), "{text:?}");
    }
    let unknown = ConfChangeV2 { transition: 9, ..ConfChangeV2::default() };
    assert!(matches!(Configuration::default().changed(&unknown), Err(E::Record(_))));
}

#[test]
fn everybody_is_in_the_set_of_ids() {
    let joint = Configuration::from_conf_state(&state("v1 l3 n2 o1 o2 auto")).expect("legal");
    assert_eq!(Vec::from_iter(joint.ids()), [1, 2, 3]);
    for id in [1, 2, 3] {
        assert!(joint.contains(id));
    }
    assert!(!joint.contains(4) && joint.is_joint());
}

/// An entry of either form; a single automatic step is V1.
fn entry(text: &str) -> (EntryKind, Vec<u8>) {
    let change = change(text);
    match change.changes.as_slice() {
        _ if text == "normal" => (EntryKind::Normal, b"\xff".to_vec()),
        [step] if !text.contains("plicit") => {
            let kind = step.kind().expect("known");
            (EntryKind::ConfChange, ConfChange::new(kind, step.node_id).encode_to_vec())
        }
        _ => (EntryKind::ConfChangeV2, change.encode_to_vec()),
    }
}

fn fold(snapshot: &str, log: &[&str]) -> Configuration {
    let entries: Vec<_> = log
        .iter()
        .map(|text| if *text == "normal" { (EntryKind::Normal, vec![0xff]) } else { entry(text) })
        .collect();
    let views = (1..).zip(&entries).map(|(index, (kind, data))| EntryView {
        index,
        term: 1,
        kind: *kind,
        data,
    });
    ids_from(&state(snapshot), views).expect("readable")
}

/// etcd's TestGetIDs. Its rows with an *update node* have no counterpart: raft-rs has no such conf change.
#[test]
fn ids_are_those_of_etcds_get_ids() {
    let table: [(&str, &[&str], &[u64]); 6] = [
        ("", &[], &[]),
        ("v1", &[], &[1]),
        ("v1", &["v2"], &[1, 2]),
        ("v1", &["v2", "r2"], &[1]),
        ("v1", &["v2", "normal"], &[1, 2]),
        ("v1", &["r2"], &[1]),
    ];
    for (snapshot, log, ids) in table {
        assert_eq!(Vec::from_iter(fold(snapshot, log).ids()), ids, "{snapshot:?} {log:?}");
    }
}

/// Where etcd's `getIDs` sees voters and single changes only.
#[test]
fn the_fold_knows_learners_joint_changes_and_refusals() {
    let table: [(&str, &[&str], &str); 9] = [
        ("", &["v1", "v2", "v3"], "v1 v2 v3"),
        ("v1 l2", &[], "v1 l2"),
        ("v1 v2 o1 o3", &[], "v1 v2 o1 o3"),
        ("v1", &["l2", "v2"], "v1 v2"),
        ("v1", &["v2 v3 r1"], "v2 v3 o1 auto"),
        ("v1", &["v2 v3 r1", ""], "v2 v3"),
        ("v1", &["explicit v2", "v3", "", "v3"], "v1 v2 v3"), // the first v3 met a joint configuration
        ("v1", &["r1", "l1", ""], "v1"),                      // all refused
        ("v1 v2 n3 o3 auto", &[""], "v1 v2 l3"),
    ];
    for (snapshot, log, after) in table {
        assert_eq!(fold(snapshot, log).to_conf_state(), state(after), "{snapshot:?} {log:?}");
    }
}

#[test]
fn unknown_changes_stop_the_fold() {
    let read = |kind, data| {
        ids_from(&state("v1"), [EntryView { index: 6, term: 1, kind, data }])
            .expect_err("unreadable")
    };
    for (kind, data) in [
        (EntryKind::ConfChange, &[0x10, 3, 0x18, 1][..]), // etcd's number for adding a learner
        (EntryKind::ConfChange, &[0xff]),
        (EntryKind::ConfChangeV2, &[0x08, 7]),
        (EntryKind::ConfChangeV2, &[0x12, 2, 0x08, 3]),
    ] {
        let error = read(kind, data);
        assert_eq!(error.index, 6);
        assert!(matches!(error.fault, ReadFault::Record(_)), "{error}");
    }
    let error = ids_from(&state("l1"), []).expect_err("illegal");
    assert_eq!(error.to_string(), "conf change at index 0: configuration: no voter would be left");
}
