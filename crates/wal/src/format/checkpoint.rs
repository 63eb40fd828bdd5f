//! The checkpoint at the head of every segment: what the segments before it said last.

use bytes::Bytes;
use prost::Message;

use crate::{EntryId, HardState, SnapshotMark};

/// Everything but entries that a reader of this segment needs of those before it, so that releasing them loses
/// nothing (O27). It may grow fields, hence protobuf.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Checkpoint {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) metadata: Bytes,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    vote: u64,
    #[prost(uint64, tag = "4")]
    commit: u64,
    #[prost(uint64, tag = "5")]
    last_index: u64,
    #[prost(uint64, tag = "6")]
    last_term: u64,
    #[prost(message, optional, tag = "7")]
    mark: Option<Mark>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Mark {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(bytes = "bytes", tag = "3")]
    conf: Bytes,
}

impl Checkpoint {
    pub(crate) fn new(
        metadata: Bytes,
        hard_state: HardState,
        last: EntryId,
        mark: Option<&SnapshotMark>,
    ) -> Self {
        let HardState { term, vote, commit } = hard_state;
        let mark = mark.map(|m| Mark { index: m.index, term: m.term, conf: m.conf.clone() });
        Self { metadata, term, vote, commit, last_index: last.index, last_term: last.term, mark }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.commit }
    }

    /// The last entry of the log when the segment was begun.
    pub(crate) fn last(&self) -> EntryId {
        EntryId { term: self.last_term, index: self.last_index }
    }

    pub(crate) fn mark(&self) -> Option<SnapshotMark> {
        let Mark { index, term, conf } = self.mark.clone()?;
        Some(SnapshotMark { index, term, conf })
    }
}
