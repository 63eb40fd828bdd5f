use proptest::prelude::*;

use super::*;
use crate::testing;

fn id() -> impl Strategy<Value = ProposalId> {
    (1_u64.., any::<u64>(), any::<u64>()).prop_map(|(origin, incarnation, sequence)| ProposalId {
        origin,
        incarnation,
        sequence,
    })
}

fn update() -> impl Strategy<Value = AttributeUpdate> {
    let urls = || proptest::collection::vec(".*", 0..3);
    prop_oneof![
        (any::<u64>(), ".*", urls(), any::<u64>()).prop_map(
            |(member, name, client_urls, birth)| {
                AttributeUpdate::Publish { member, name, client_urls, birth }
            }
        ),
        (any::<u64>(), urls())
            .prop_map(|(member, peer_urls)| AttributeUpdate::PeerUrls { member, peer_urls }),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Empty),
        (id(), any::<Vec<u8>>())
            .prop_map(|(id, data)| Payload::Application { id, data: data.into() }),
        (id(), update()).prop_map(|(id, update)| Payload::Attributes { id, update }),
    ]
}

proptest! {
    #[test]
    fn every_payload_survives(payload in payload()) {
        prop_assert_eq!(Payload::decode(&payload.encode()), Ok(payload));
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_reencode_to_themselves(data: Vec<u8>) {
        let data = Bytes::from(data);
        if let Ok(payload @ (Payload::Application { .. } | Payload::Empty)) = Payload::decode(&data) {
            prop_assert_eq!(payload.encode(), data);
        }
    }

    #[test]
    fn a_header_cut_off_is_an_error(id in id(), cut in 1_usize..11) {
        let data = Payload::Application { id, data: Bytes::new() }.encode();
        let cut = cut.min(data.len() - 1);
        prop_assert_eq!(Payload::decode(&data.slice(..cut)), Err(HeaderError::Malformed));
    }
}

/// Written into logs: these bytes must read the same for ever.
#[test]
fn the_bytes_are_as_documented() {
    let id = ProposalId { origin: 0x8e9e_05c5_2164_694d, incarnation: 3, sequence: 300 };
    let data = Payload::Application { id, data: Bytes::from("x=1") }.encode();
    let expected = b"\x01\x4d\x69\x64\x21\xc5\x05\x9e\x8e\x03\xac\x02x=1";
    assert_eq!(data, expected.as_slice());
    let publish = AttributeUpdate::Publish {
        member: 1,
        name: "a".into(),
        client_urls: vec!["u".into()],
        birth: 2,
    };
    let id = ProposalId { origin: 1, incarnation: 1, sequence: 1 };
    let expected = b"\x02\x01\0\0\0\0\0\0\0\x01\x01\
        \x0a\x18\x09\x01\0\0\0\0\0\0\0\x12\x01a\x1a\x01u\x21\x02\0\0\0\0\0\0\0";
    assert_eq!(Payload::Attributes { id, update: publish }.encode(), expected.as_slice());
}

#[test]
fn faults_are_told_apart() {
    let decode = |bytes: &'static [u8]| Payload::decode(&Bytes::from_static(bytes));
    let long = b"\x01\x01\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x01";
    assert_eq!(decode(b""), Ok(Payload::Empty));
    assert_eq!(decode(b"\x00"), Err(HeaderError::UnknownKind(0)));
    assert_eq!(decode(b"\x03abc"), Err(HeaderError::UnknownKind(3)));
    assert_eq!(decode(b"\x01\0\0\0\0\0\0\0\0\x01\x01"), Err(HeaderError::NoOrigin));
    assert_eq!(decode(long), Err(HeaderError::Malformed), "a number of more than 64 bits");
    let padded = b"\x01\x01\0\0\0\0\0\0\0\x81\0\x01";
    assert_eq!(decode(padded), Err(HeaderError::Malformed), "one id has one spelling");
    assert!(matches!(
        decode(b"\x02\x01\0\0\0\0\0\0\0\x01\x01\xff"),
        Err(HeaderError::Attributes(_))
    ));
    assert!(
        matches!(decode(b"\x02\x01\0\0\0\0\0\0\0\x01\x01"), Err(HeaderError::Attributes(_))),
        "an update of a newer version must not be skipped"
    );
}

#[test]
fn an_entry_with_a_context_is_refused() {
    let mut entry = testing::entry(1, 1);
    entry.set_data(convert::to_raft(Bytes::new()));
    assert_eq!(Payload::of(&entry), Ok(Payload::Empty));
    entry.set_context(convert::to_raft("ctx".into()));
    assert_eq!(Payload::of(&entry), Err(HeaderError::Context));
}

#[test]
fn data_is_not_copied() {
    let id = ProposalId { origin: 1, incarnation: 1, sequence: 1 };
    let entry = Payload::Application { id, data: Bytes::from(vec![7; 100]) }.encode();
    let Ok(Payload::Application { data, .. }) = Payload::decode(&entry) else {
        panic!("it is one")
    };
    assert!(entry.as_ptr_range().contains(&data.as_ptr()));
    assert!(entry.len() <= data.len() + Payload::MAX_OVERHEAD);
}
