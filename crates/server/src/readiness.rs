//! Whether a learner has caught up far enough to vote: a question that only the leader can answer.

use bytes::Bytes;
use oarlock_raftnode::{Role, Status};

/// The kind of query by which a member asks the leader, on the peers' port.
pub(crate) const QUERY: &str = "oarlock.learner-readiness";

/// A learner has to hold so much of the leader's log, as in etcd (`readyPercentThreshold`), in hundredths.
const READY_PERCENT: u64 = 90;

/// What the asked member knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It can be promoted.
    Ready,
    /// It lags, or was not heard of lately.
    Behind,
    /// The leader sends nothing to such a member.
    Unknown,
    /// Somebody else leads by now.
    NotLeader,
}

/// What a member with this status says of `learner`.
pub(crate) fn of(status: &Status, learner: u64) -> Readiness {
    if status.role != Role::Leader {
        return Readiness::NotLeader;
    }
    let Some(peer) = status.peers.iter().find(|peer| peer.id == learner) else {
        return Readiness::Unknown;
    };
    let enough =
        u128::from(peer.matched) * 100 >= u128::from(status.last_index) * u128::from(READY_PERCENT);
    if enough && peer.recently_active { Readiness::Ready } else { Readiness::Behind }
}

impl Readiness {
    /// As an answer on the wire.
    pub(crate) fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&[match self {
            Self::Ready => 1,
            Self::Behind => 2,
            Self::Unknown => 3,
            Self::NotLeader => 4,
        }])
    }

    /// The answer, if it is one.
    pub(crate) fn decode(answer: &[u8]) -> Option<Self> {
        match answer {
            [1] => Some(Self::Ready),
            [2] => Some(Self::Behind),
            [3] => Some(Self::Unknown),
            [4] => Some(Self::NotLeader),
            _ => None,
        }
    }
}

/// The question about `learner`.
pub(crate) fn encode_question(learner: u64) -> Bytes {
    Bytes::copy_from_slice(&learner.to_le_bytes())
}

/// Whom the question is about.
pub(crate) fn decode_question(question: &[u8]) -> Option<u64> {
    question.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_the_wire() {
        assert_eq!(decode_question(&encode_question(u64::MAX - 1)), Some(u64::MAX - 1));
        assert_eq!(decode_question(b"short"), None);
        for readiness in
            [Readiness::Ready, Readiness::Behind, Readiness::Unknown, Readiness::NotLeader]
        {
            assert_eq!(Readiness::decode(&readiness.encode()), Some(readiness));
        }
        assert_eq!(Readiness::decode(&[9]), None);
        assert_eq!(Readiness::decode(&[]), None);
    }
}
