use oarlock_membership::{Change, Member, ProposalId};
use proptest::prelude::*;

use super::*;

/// A head with three voters, a removed member and some proposals.
pub(crate) fn head(index: u64, term: u64) -> SnapshotHead {
    let founders = [("a", ["http://a:1"]), ("b", ["http://b:1"]), ("c", ["http://c:1"])];
    let mut cluster = Cluster::from_initial("token", &founders).expect("three founders");
    let passing = Member::joining(["http://d:1"], 1);
    cluster.apply(&Change::AddLearner(passing.clone())).expect("new");
    cluster.apply(&Change::Remove(passing.id)).expect("known");
    let mut window = Window::new();
    for sequence in 1..100 {
        window.accept(ProposalId { origin: 1, incarnation: 1, sequence });
    }
    let voters: Vec<u64> = cluster.voters().map(|member| member.id).collect();
    let births = voters.iter().map(|&id| (id, id ^ 7)).collect();
    let conf_state = (voters, vec![]).into();
    SnapshotHead { mark: SnapshotMark { index, term, conf_state }, cluster, window, births }
}

#[test]
fn every_form_of_a_head_survives() {
    let head = head(7, 2);
    assert_eq!(SnapshotHead::decode(head.encode()).expect("just encoded"), head);
    let (announced, len) =
        SnapshotHead::parse_announcement(head.announce(9)).expect("as announced");
    assert_eq!((announced, len), (head.clone(), 9));
    let mut content = Vec::new();
    head.write_to(&mut content).expect("memory takes it");
    content.extend_from_slice(b"state");
    let mut content = content.as_slice();
    assert_eq!(SnapshotHead::read_from(&mut content).expect("as written"), head);
    assert_eq!(content, b"state", "left at the state machine's first byte");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut content = Vec::new();
    head(7, 2).write_to(&mut content).expect("memory takes it");
    for bit in 0..content.len() * 8 {
        let mut damaged = content.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(SnapshotHead::read_from(&mut damaged.as_slice()).is_err(), "bit {bit}");
    }
    for len in 0..content.len() {
        assert!(SnapshotHead::read_from(&mut &content[..len]).is_err(), "cut off at {len}");
    }
}

#[test]
fn faults_are_told_apart() {
    let read = |content: &[u8]| SnapshotHead::read_from(&mut { content });
    assert!(matches!(read(b""), Err(SnapshotHeadError::Io(_))));
    assert!(matches!(read(b"not a snapshot, clearly"), Err(SnapshotHeadError::Magic)));
    let endless = [MAGIC.as_slice(), &[0xff; 8]].concat();
    assert!(matches!(read(&endless), Err(SnapshotHeadError::TooLarge { .. })), "not allocated");
    let huge = Bytes::from(vec![0; SnapshotHead::MAX + 1]);
    assert!(matches!(SnapshotHead::decode(huge), Err(SnapshotHeadError::TooLarge { .. })));

    let record = |change: fn(&mut Record)| {
        let mut record = Record::decode(head(7, 2).encode()).expect("just encoded");
        change(&mut record);
        SnapshotHead::decode(record.encode_to_vec().into())
    };
    assert!(record(|_| ()).is_ok());
    assert!(matches!(record(|r| r.version = 2), Err(SnapshotHeadError::Version(2))));
    assert!(matches!(record(|r| r.index = 0), Err(SnapshotHeadError::Inconsistent(_))));
    let without_voter: fn(&mut Record) = |r| {
        r.conf_state.as_mut().expect("there is one").voters.pop();
    };
    assert!(matches!(record(without_voter), Err(SnapshotHeadError::Inconsistent(_))));
    assert!(matches!(record(|r| r.cluster = "x".into()), Err(SnapshotHeadError::Malformed(_))));
    assert!(matches!(record(|r| r.window = "x".into()), Err(SnapshotHeadError::Malformed(_))));
}

#[test]
fn the_largest_head_is_checked_when_it_is_written() {
    let mut large = head(7, 2);
    large.births = (0..100_000).map(|id| (id, id)).collect();
    let error = large.write_to(&mut Vec::new()).expect_err("more than a message carries");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = SnapshotHead::decode(bytes.clone().into());
        let _ = SnapshotHead::parse_announcement(bytes.clone());
        let _ = SnapshotHead::read_from(&mut bytes.as_slice());
    }

    #[test]
    fn changed_bytes_never_panic(at: prop::sample::Index, byte: u8) {
        let mut bytes = head(7, 2).encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = SnapshotHead::decode(bytes.into());
    }
}
