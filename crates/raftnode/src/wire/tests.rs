use proptest::prelude::*;
use raft::eraftpb::{ConfState, EntryType, Snapshot};

use super::*;
use crate::{convert, testing};

const TRAVELLING: [MessageType; 11] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

const STAYING: [MessageType; 7] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
];

prop_compose! {
    fn numbers()(
        ids in any::<[u64; 2]>(),
        numbers in any::<[u64; 7]>(),
        priority: i64,
        reject: bool,
        context: Vec<u8>,
    ) -> Message {
        let mut message = Message::default();
        [message.to, message.from] = ids;
        [
            message.term,
            message.log_term,
            message.index,
            message.commit,
            message.commit_term,
            message.request_snapshot,
            message.reject_hint,
        ] = numbers;
        message.priority = priority;
        message.reject = reject;
        message.set_context(convert::to_raft(context.into()));
        message
    }
}

fn some_entries() -> impl Strategy<Value = Vec<raft::eraftpb::Entry>> {
    let kinds = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
    let entry = (prop::sample::select(kinds.to_vec()), any::<u64>(), any::<Vec<u8>>());
    (0..u64::MAX / 2, prop::collection::vec(entry, 0..6)).prop_map(|(first, entries)| {
        let place = |(index, (kind, term, data))| convert::entry(index, term, kind, data);
        (first..).zip(entries).map(place).collect()
    })
}

fn message() -> impl Strategy<Value = Message> {
    (prop::sample::select(TRAVELLING.to_vec()), numbers(), some_entries()).prop_map(
        |(kind, mut message, entries)| {
            message.set_msg_type(kind);
            message.set_entries(convert::list_to_raft(entries));
            message
        },
    )
}

fn proposal_id() -> impl Strategy<Value = oarlock_membership::ProposalId> {
    (1_u64.., any::<u64>(), any::<u64>()).prop_map(|(origin, incarnation, sequence)| {
        oarlock_membership::ProposalId { origin, incarnation, sequence }
    })
}

proptest! {
    #[test]
    fn every_message_survives(message in message()) {
        let Envelope { to, head, payloads, .. } = encode(&message).expect("within the limits");
        prop_assert_eq!(to, message.to);
        prop_assert_eq!(decode(head, payloads).expect("just encoded"), Inbound::Raft(message.into()));
    }

    #[test]
    fn every_snapshot_message_survives(
        mut message in numbers(),
        ids in any::<[Vec<u64>; 4]>(),
        auto_leave: bool,
        place: (u64, u64),
        data: Vec<u8>,
        len: u64,
    ) {
        message.set_msg_type(MessageType::MsgSnapshot);
        let [voters, learners, outgoing, next] = ids.map(|mut ids| { ids.sort_unstable(); ids });
        let mut conf_state = ConfState::from((voters, learners));
        conf_state.set_voters_outgoing(outgoing);
        conf_state.set_learners_next(next);
        conf_state.auto_leave = auto_leave;
        let mut snapshot = Snapshot::default();
        snapshot.set_data(convert::to_raft(data.into()));
        (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = place;
        snapshot.mut_metadata().set_conf_state(conf_state);
        message.set_snapshot(snapshot);
        let envelope = encode_snapshot(&message, len).expect("within the limits");
        prop_assert_eq!((envelope.to, envelope.len), (message.to, len));
        prop_assert_eq!(decode_snapshot(envelope.head.clone()).expect("just encoded"), message);
        let on_a_lane = decode(envelope.head, vec![]);
        prop_assert_eq!(on_a_lane, Err(WireError::WrongLane("MsgSnapshot")));
    }

    #[test]
    fn every_forward_survives(id in proposal_id(), kind in 0..3_usize, data: Vec<u8>, term: u64) {
        let kinds = [ForwardKind::Normal, ForwardKind::ConfChange, ForwardKind::ConfChangeV2];
        let forward = Forward { id, kind: kinds[kind], data: data.into(), term };
        let Envelope { to, head, payloads, .. } = encode_forward(7, &forward).expect("small");
        prop_assert_eq!(to, 7);
        prop_assert_eq!(decode(head, payloads), Ok(Inbound::Forward(forward)));
    }

    #[test]
    fn every_reply_survives(id in proposal_id(), index in 1_u64.., term in 1_u64.., leader: u64) {
        let mut replies = vec![ForwardReply::Accepted { id, index, term }];
        replies.extend([
            ForwardRefusal::NotLeader { leader },
            ForwardRefusal::Busy,
            ForwardRefusal::TooLarge,
            ForwardRefusal::Transferring,
            ForwardRefusal::ConfChangePending,
            ForwardRefusal::Invalid,
            ForwardRefusal::Stopping,
            ForwardRefusal::NotMember,
        ].map(|reason| ForwardReply::Refused { id, term, reason }));
        for reply in replies {
            let Envelope { head, payloads, .. } = encode_forward_reply(7, &reply).expect("small");
            prop_assert_eq!(reply.id(), id);
            prop_assert_eq!(decode(head, payloads), Ok(Inbound::ForwardReply(reply)));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(head: Vec<u8>, payloads: Vec<Vec<u8>>) {
        let head = Bytes::from(head);
        let _ = decode_snapshot(head.clone());
        let _ = Hello::decode(head.clone());
        let _ = decode(head, payloads.into_iter().map(Bytes::from).collect());
    }

    /// Bytes that are nearly right reach further into the decoder than noise does.
    #[test]
    fn changed_bytes_never_panic(
        message in message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        drop_payload: bool,
    ) {
        let Envelope { head, mut payloads, .. } = encode(&message).expect("within the limits");
        let mut head = head.to_vec();
        for (at, byte) in changes {
            let at = at.index(head.len());
            head[at] = byte;
        }
        if drop_payload {
            payloads.pop();
        }
        if let Ok(Inbound::Raft(decoded)) = decode(head.into(), payloads) {
            // Whatever it is now, it can be sent on.
            prop_assert!(encode(&decoded).is_ok());
        }
    }
}

/// Sent between versions: these bytes must read the same for ever.
#[test]
fn the_bytes_of_an_append_are_fixed() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.to, message.from, message.term) = (2, 1, 5);
    (message.log_term, message.index, message.commit) = (4, 300, 299);
    let change = convert::entry(302, 5, EntryType::EntryConfChange, "");
    message.set_entries(convert::list_to_raft(vec![testing::entry(301, 4), change]));
    let Envelope { lane, label, head, payloads, .. } = encode(&message).expect("small");
    assert_eq!((lane, label), (Lane::Append, "append"));
    assert_eq!(payloads, ["301@4"]);
    #[rustfmt::skip]
    let expected: &[u8] = &[
        0x0a, 35,                          // a Raft message of 35 bytes
        0x08, 3, 0x10, 2, 0x18, 1,         // MsgAppend, to 2, from 1
        0x20, 5, 0x28, 4,                  // term 5, log term 4
        0x30, 0xac, 2,                     // index 300
        0x3a, 15,                          // entries
        0x08, 0xad, 2,                     //   the first is 301
        0x12, 2, 0, 1,                     //   a normal one and a conf change
        0x1a, 2, 4, 5,                     //   of terms 4 and 5
        0x22, 2, 5, 0,                     //   of 5 bytes and none
        0x40, 0xab, 2,                     // commit 299
        0x62, 0,                           // context
    ];
    let without_context = [&[0x0a, 33], &expected[2..35]].concat();
    assert_eq!(head, without_context, "{head:02x?}");
    assert_eq!(decode(head, payloads), Ok(Inbound::Raft(message.clone().into())));
    assert_eq!(
        decode(Bytes::copy_from_slice(expected), vec!["301@4".into()]),
        Ok(Inbound::Raft(message.into())),
        "an empty field that is spelled out reads the same"
    );
}

#[test]
fn each_type_takes_its_lane_or_stays() {
    for kind in TRAVELLING {
        let route = route(kind).expect("it travels");
        let append = kind == MessageType::MsgAppend;
        let lane = if append { Lane::Append } else { Lane::Message };
        assert_eq!(route.way, Way::Lane(lane), "{kind:?}");
    }
    assert_eq!(route(MessageType::MsgSnapshot).map(|route| route.way), Some(Way::Snapshot));
    for kind in STAYING {
        let mut message = Message::default();
        message.set_msg_type(kind);
        assert!(matches!(encode(&message), Err(WireError::NotForTheWire(_))), "{kind:?}");
        assert!(encode_snapshot(&message, 0).is_err(), "{kind:?}");
    }
    let mut snapshot = Message::default();
    snapshot.set_msg_type(MessageType::MsgSnapshot);
    assert_eq!(encode(&snapshot).err(), Some(WireError::WrongLane("MsgSnapshot")));
    assert_eq!(
        encode_snapshot(&Message::default(), 0).err(),
        Some(WireError::WrongLane("a local message"))
    );
}

/// A frame of a Raft message with these fields.
fn frame(fields: &[u8]) -> Bytes {
    [&[0x0a, fields.len() as u8], fields].concat().into()
}

#[test]
fn unknown_numbers_are_errors() {
    let unknown = |what, number| Err(WireError::Unknown { what, number });
    for number in [0, 1, 2, 10, 11, 12, 13, 19, 100] {
        let expected = unknown("type of message", u64::from(number));
        assert_eq!(decode(frame(&[8, number]), vec![]), expected, "local or unknown");
    }
    let kind_of_entry = frame(&[8, 3, 0x3a, 10, 8, 1, 0x12, 1, 3, 0x1a, 1, 1, 0x22, 0]);
    let kind_of_entry = {
        // One entry of kind 3, of term 1, without data.
        let mut bytes = kind_of_entry.to_vec();
        bytes.truncate(14);
        bytes.extend([0x22, 1, 0]);
        (bytes[1], bytes[5]) = (15, 11);
        Bytes::from(bytes)
    };
    assert_eq!(decode(kind_of_entry, vec![]), unknown("kind of entry", 3));
    assert_eq!(decode(Bytes::new(), vec![]), unknown("kind of frame", 0));
    assert_eq!(decode(Bytes::from_static(&[0x22, 0]), vec![]), unknown("kind of frame", 0));
    let columns = frame(&[8, 3, 0x3a, 6, 8, 1, 0x12, 2, 0, 0]);
    assert!(matches!(decode(columns, vec![]), Err(WireError::Unknown { .. })), "short columns");
}

#[test]
fn payloads_must_be_those_that_were_announced() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(convert::list_to_raft(testing::entries(1, 2, 1)));
    let Envelope { head, payloads, .. } = encode(&message).expect("small");
    let mismatch = |payloads: Vec<Bytes>| {
        let result = decode(head.clone(), payloads);
        assert!(matches!(result, Err(WireError::Payloads { .. })), "{result:?}");
    };
    mismatch(vec![]);
    mismatch(vec![payloads[0].clone()]);
    mismatch([payloads.clone(), vec![Bytes::from("x")]].concat());
    mismatch([payloads.clone(), vec![Bytes::new()]].concat());
    mismatch(vec![Bytes::from("1@1"), Bytes::from("2@")]);
    mismatch(vec![Bytes::from("1@"), Bytes::from("12@1")]);
    mismatch(vec![Bytes::from("1@12@1")]);
}

#[test]
fn what_cannot_be_said_is_not_sent() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    let apart = [testing::entries(1, 1, 1), testing::entries(3, 3, 1)].concat();
    message.set_entries(convert::list_to_raft(apart));
    let gap = WireError::NotContiguous { found: 3, expected: 2 };
    assert_eq!(encode(&message).err(), Some(gap));
    let mut entry = testing::entry(4, 1);
    entry.set_context(convert::to_raft("ctx".into()));
    message.set_entries(convert::list_to_raft(vec![entry]));
    assert_eq!(encode(&message).err(), Some(WireError::EntryContext { index: 4 }));
}

#[test]
fn the_largest_message_fits_and_a_larger_one_is_refused() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    let entries = |count: usize| {
        let entry = |index| convert::entry(index, (1 << 56) - 1, EntryType::EntryNormal, "x");
        (1..=count as u64).map(entry).collect::<Vec<_>>()
    };
    message.set_entries(convert::list_to_raft(entries(MAX_ENTRIES)));
    let Envelope { head, payloads, .. } = encode(&message).expect("at the limit");
    assert!(head.len() <= MAX_HEAD);
    assert!(decode(head, payloads).is_ok());
    message.set_entries(convert::list_to_raft(entries(MAX_ENTRIES + 1)));
    assert!(matches!(encode(&message), Err(WireError::TooLarge { .. })));
    let large = Bytes::from(vec![0; MAX_HEAD + 1]);
    assert!(matches!(decode(large, vec![]), Err(WireError::TooLarge { .. })), "before decoding");
}

/// raft-rs's other codec holds vectors: into them and out of them is a copy each.
#[cfg(feature = "protobuf-codec")]
#[test]
fn data_is_not_copied() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    let data = Bytes::from(vec![7; 100]);
    let entry = convert::entry(1, 1, EntryType::EntryNormal, data.clone());
    message.set_entries(convert::list_to_raft(vec![entry]));
    let Envelope { head, payloads, .. } = encode(&message).expect("small");
    assert_eq!(payloads[0].as_ptr(), data.as_ptr());
    let Ok(Inbound::Raft(decoded)) = decode(head, payloads) else { panic!("it is one") };
    assert_eq!(decoded.get_entries()[0].data.as_ptr(), data.as_ptr());
}

#[test]
fn a_hello_that_is_too_long_leaves_its_urls_out() {
    let long = Hello { birth: 1, peer_urls: vec!["u".repeat(5000)], ..Hello::default() };
    let decoded = Hello::decode(long.encode()).expect("short enough");
    assert_eq!((decoded.birth, decoded.peer_urls.len()), (1, 0));
    assert_eq!(Hello::decode(Bytes::new()), Ok(Hello::default()));
    assert!(Hello::decode(Bytes::from(vec![0; 5000])).is_err());
}
