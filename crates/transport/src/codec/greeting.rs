//! Hello, welcome and refusal, as protobuf, so that later versions can add to them.

use bytes::Bytes;
use prost::Message;

use crate::{Identity, Lane, PeerInfo, Refusal};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Lane(Lane),
    Snapshot,
    Query,
}

impl Purpose {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Lane(lane) => lane.label(),
            Self::Snapshot => "snapshot",
            Self::Query => "query",
        }
    }

    const fn code(self) -> u32 {
        match self {
            Self::Lane(Lane::Message) => 1,
            Self::Lane(Lane::Append) => 2,
            Self::Snapshot => 3,
            Self::Query => 4,
        }
    }

    const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Lane(Lane::Message)),
            2 => Some(Self::Lane(Lane::Append)),
            3 => Some(Self::Snapshot),
            4 => Some(Self::Query),
            _ => None,
        }
    }
}

/// The head of `Hello` and of `Welcome`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Greeting {
    /// A [`Purpose`]'s code.
    #[prost(uint32, tag = "1")]
    pub(crate) purpose: u32,
    #[prost(fixed64, tag = "2")]
    pub(crate) cluster: u64,
    #[prost(fixed64, tag = "3")]
    pub(crate) from: u64,
    #[prost(fixed64, tag = "4")]
    pub(crate) to: u64,
    #[prost(fixed64, tag = "5")]
    pub(crate) incarnation: u64,
    /// Half of what the connection's key is made of.
    #[prost(fixed64, tag = "6")]
    pub(crate) nonce: u64,
    /// The largest body that this side reads.
    #[prost(uint64, tag = "7")]
    pub(crate) max_frame: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) max_payloads: u64,
    #[prost(string, repeated, tag = "9")]
    pub(crate) urls: Vec<String>,
    #[prost(bytes = "bytes", tag = "10")]
    pub(crate) hello: Bytes,
    /// What kind of query follows as the frame's payload.
    #[prost(string, tag = "11")]
    pub(crate) query: String,
}

/// Our owner's hello is at most this long.
const MAX_HELLO: usize = 4 << 10;
const MAX_URLS: usize = 16;
const MAX_REASON: usize = 512;

impl Greeting {
    /// A greeting to member `to`. A hello beyond its limit is the owner's mistake; it is left out and logged.
    pub(crate) fn new(purpose: Purpose, us: &Identity, to: u64, hello: Bytes) -> Self {
        let hello = if hello.len() > MAX_HELLO {
            log::error!(len = hello.len(), limit = MAX_HELLO; "the hello is too long and left out");
            Bytes::new()
        } else {
            hello
        };
        Self {
            purpose: purpose.code(),
            cluster: us.cluster,
            from: us.id,
            to,
            incarnation: us.incarnation,
            nonce: fastrand::u64(..),
            urls: us.urls.iter().take(MAX_URLS).cloned().collect(),
            hello,
            ..Self::default()
        }
    }

    /// A query, from somebody who may have no id.
    pub(crate) fn query(kind: &str) -> Self {
        Self { purpose: Purpose::Query.code(), query: kind.to_owned(), ..Self::default() }
    }

    /// Decodes a frame's head.
    pub(crate) fn read(head: &Bytes) -> Result<(Purpose, Self), Refusal> {
        let broken = |reason: &str| Refusal::Protocol { reason: reason.to_owned() };
        let greeting =
            Self::decode(head.clone()).map_err(|_| broken("the greeting cannot be decoded"))?;
        if greeting.hello.len() > MAX_HELLO || greeting.urls.len() > MAX_URLS {
            return Err(broken("the greeting's hello or its list of urls is too long"));
        }
        let purpose = Purpose::from_code(greeting.purpose)
            .ok_or_else(|| broken("a connection of unknown purpose"))?;
        Ok((purpose, greeting))
    }

    pub(crate) fn into_info(self) -> PeerInfo {
        let Self { from, cluster, incarnation, urls, hello, max_frame, .. } = self;
        let max_frame = usize::try_from(max_frame).unwrap_or(usize::MAX);
        PeerInfo { id: from, cluster, incarnation, urls, hello, max_frame }
    }
}

/// A refusal's fields: `a` and `b` are its numbers in order of declaration.
#[derive(Clone, PartialEq, Message)]
struct RefusalRecord {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(fixed64, tag = "2")]
    a: u64,
    #[prost(fixed64, tag = "3")]
    b: u64,
    #[prost(string, tag = "4")]
    reason: String,
}

/// A refusal as a frame's head.
pub(crate) fn encode_refusal(refusal: &Refusal) -> Bytes {
    let (code, a, b, reason) = match refusal {
        Refusal::WrongCluster { ours, theirs } => (1, *ours, *theirs, ""),
        Refusal::WrongMember { expected, actual } => (2, *expected, *actual, ""),
        Refusal::UnknownMember => (3, 0, 0, ""),
        Refusal::Removed => (4, 0, 0, ""),
        Refusal::Incompatible { ours, theirs } => (5, u64::from(*ours), u64::from(*theirs), ""),
        Refusal::Rejected { reason } => (6, 0, 0, reason.as_str()),
        Refusal::Protocol { reason } => (7, 0, 0, reason.as_str()),
        Refusal::Busy => (8, 0, 0, ""),
        Refusal::Stopping => (9, 0, 0, ""),
        Refusal::NoAnswer => (10, 0, 0, ""),
    };
    let reason = shorten(reason).to_owned();
    RefusalRecord { code, a, b, reason }.encode_to_vec().into()
}

/// What a refusal's head says. One that a later version added, or that cannot be read, is a rejection all the same.
pub(crate) fn decode_refusal(head: &Bytes) -> Refusal {
    let Ok(RefusalRecord { code, a, b, reason }) = RefusalRecord::decode(head.clone()) else {
        return Refusal::rejected("refused, in words that cannot be read");
    };
    let reason = shorten(&reason).to_owned();
    let version = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    match code {
        1 => Refusal::WrongCluster { ours: a, theirs: b },
        2 => Refusal::WrongMember { expected: a, actual: b },
        3 => Refusal::UnknownMember,
        4 => Refusal::Removed,
        5 => Refusal::Incompatible { ours: version(a), theirs: version(b) },
        7 => Refusal::Protocol { reason },
        8 => Refusal::Busy,
        9 => Refusal::Stopping,
        10 => Refusal::NoAnswer,
        6 => Refusal::Rejected { reason },
        _ => Refusal::Rejected { reason: format!("refused, with code {code} {reason}") },
    }
}

fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary_at(MAX_REASON)]
}

/// `str::floor_char_boundary`, which the oldest supported compiler does not have.
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|at| self.is_char_boundary(*at)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusals() -> impl Strategy<Value = Refusal> {
        prop_oneof![
            any::<(u64, u64)>().prop_map(|(ours, theirs)| Refusal::WrongCluster { ours, theirs }),
            any::<(u64, u64)>()
                .prop_map(|(expected, actual)| Refusal::WrongMember { expected, actual }),
            any::<(u16, u16)>().prop_map(|(ours, theirs)| Refusal::Incompatible { ours, theirs }),
            "[a-zä]{0,100}".prop_map(|reason| Refusal::Rejected { reason }),
            "[a-z ]{0,100}".prop_map(|reason| Refusal::Protocol { reason }),
            Just(Refusal::UnknownMember),
            Just(Refusal::Removed),
            Just(Refusal::Busy),
            Just(Refusal::Stopping),
            Just(Refusal::NoAnswer),
        ]
    }

    proptest! {
        #[test]
        fn refusals_survive_the_journey(refusal in refusals()) {
            prop_assert_eq!(decode_refusal(&encode_refusal(&refusal)), refusal);
        }

        #[test]
        fn any_bytes_are_some_refusal_and_perhaps_a_greeting(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_refusal(&bytes).label();
            let _ = Greeting::read(&bytes);
        }
    }

    #[test]
    fn long_reasons_are_cut_at_a_character() {
        let refusal = Refusal::rejected("ä".repeat(MAX_REASON));
        let Refusal::Rejected { reason } = decode_refusal(&encode_refusal(&refusal)) else {
            panic!()
        };
        assert_eq!(reason, "ä".repeat(MAX_REASON / 2));
    }

    #[test]
    fn greetings_survive_the_journey_and_are_bounded() {
        let us = Identity::new(1, 2).incarnation(3).urls(["http://a:1"; 20]);
        for purpose in [
            Purpose::Lane(Lane::Message),
            Purpose::Lane(Lane::Append),
            Purpose::Snapshot,
            Purpose::Query,
        ] {
            let greeting = Greeting::new(purpose, &us, 9, Bytes::from_static(b"hi"));
            let read = Greeting::read(&greeting.encode_to_vec().into()).expect("readable");
            assert_eq!(read, (purpose, greeting));
        }
        let unknown = Greeting { purpose: 77, ..Greeting::default() };
        assert!(Greeting::read(&unknown.encode_to_vec().into()).is_err());
        let long =
            Greeting { purpose: 1, hello: vec![0; MAX_HELLO + 1].into(), ..Greeting::default() };
        assert!(Greeting::read(&long.encode_to_vec().into()).is_err());
        let left_out = Greeting::new(Purpose::Snapshot, &us, 9, vec![0; MAX_HELLO + 1].into());
        assert!(left_out.hello.is_empty());
    }
}
