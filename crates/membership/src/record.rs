//! The stored and sent form of configurations, conf changes and members, as protobuf.
//!
//! Field and enum numbers of the conf-change messages are those of raft-rs's `eraftpb.proto`, so that bytes of
//! either side read on the other. Mind that etcd numbers its change types differently (there 2 is *update node* and
//! 3 *add learner*): a log written by etcd does not decode here without translation.
//!
//! Enum fields are plain numbers here, on purpose: what protobuf libraries do with a number they do not know is to
//! read it as the first variant, and here that would turn an unknown change into *add a voter*. The accessors
//! ([`ConfChange::kind`], [`ConfChangeSingle::kind`], [`ConfChangeV2::mode`]) and the `decode_checked` functions
//! return [`RecordError::UnknownNumber`] instead.

use bytes::Bytes;
use prost::Message;

use crate::planted::planted;

/// Raft's configuration: who votes, who only learns, and the old voters while a joint change is under way.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfState {
    /// Voters of the current (in a joint configuration: the incoming) configuration.
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
    /// Members that receive the log and do not vote.
    #[prost(uint64, repeated, tag = "2")]
    pub learners: Vec<u64>,
    /// Voters of the outgoing configuration; empty unless the configuration is joint.
    #[prost(uint64, repeated, tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that become learners once the joint configuration is left.
    #[prost(uint64, repeated, tag = "4")]
    pub learners_next: Vec<u64>,
    /// The leader leaves the joint configuration by itself, as soon as that is safe.
    #[prost(bool, tag = "5")]
    pub auto_leave: bool,
}

/// What a change does to one node. Numbers are raft-rs's, not etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeType {
    /// Make the node a voter: a new one, or a learner that is promoted.
    AddNode = 0,
    /// Remove the node, voter or learner.
    RemoveNode = 1,
    /// Make the node a learner.
    AddLearnerNode = 2,
}

/// How a change enters, and leaves, a joint configuration (Raft thesis, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeTransition {
    /// A single change is simple; several go through a joint configuration that is left automatically.
    Auto = 0,
    /// Always joint, left automatically.
    Implicit = 1,
    /// Always joint, left by an explicit empty change.
    Explicit = 2,
}

/// A change of a single node: the data of an entry of kind [`ConfChange`](crate::EntryKind::ConfChange).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfChange {
    /// Free for the proposer; not used by Oarlock, whose proposal ids travel in the context.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// A [`ConfChangeType`]; read it with [`ConfChange::kind`].
    #[prost(int32, tag = "2")]
    pub change_type: i32,
    /// The node that is changed.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// JSON of a [`ChangeContext`](crate::ChangeContext), or empty.
    #[prost(bytes = "bytes", tag = "4")]
    pub context: Bytes,
}

/// One step of a [`ConfChangeV2`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ConfChangeSingle {
    /// A [`ConfChangeType`]; read it with [`ConfChangeSingle::kind`].
    #[prost(int32, tag = "1")]
    pub change_type: i32,
    /// The node that is changed.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

/// Several steps at once: the data of an entry of kind [`ConfChangeV2`](crate::EntryKind::ConfChangeV2).
///
/// Without steps and with transition *auto* it leaves a joint configuration; so does empty entry data.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConfChangeV2 {
    /// A [`ConfChangeTransition`]; read it with [`ConfChangeV2::mode`].
    #[prost(int32, tag = "1")]
    pub transition: i32,
    /// The steps, taken in order and all at once.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    /// JSON of a [`ChangeContext`](crate::ChangeContext), or empty.
    #[prost(bytes = "bytes", tag = "3")]
    pub context: Bytes,
}

/// A member inside a [`ClusterRecord`]. The value type with the meaning is [`crate::Member`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Member {
    /// The member's id, never 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Where its peers reach it.
    #[prost(string, repeated, tag = "2")]
    pub peer_urls: Vec<String>,
    /// It receives the log and does not vote.
    #[prost(bool, tag = "3")]
    pub is_learner: bool,
    /// Its name, empty until it has started.
    #[prost(string, tag = "4")]
    pub name: String,
    /// Where clients reach it, empty until it has started.
    #[prost(string, repeated, tag = "5")]
    pub client_urls: Vec<String>,
}

/// The applied membership at the head of a snapshot. The value type with the meaning is [`crate::Cluster`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ClusterRecord {
    /// Version of this record: [`ClusterRecord::VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The cluster's id.
    #[prost(uint64, tag = "2")]
    pub id: u64,
    /// The members, ascending by id.
    #[prost(message, repeated, tag = "3")]
    pub members: Vec<Member>,
    /// Ids that were removed and never come back, ascending.
    #[prost(uint64, repeated, tag = "4")]
    pub removed: Vec<u64>,
    /// How many learners the cluster allows at a time.
    #[prost(uint64, tag = "5")]
    pub max_learners: u64,
    /// The newest rescue that was applied, 0 if there was none.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
}

impl ClusterRecord {
    /// The version that this crate writes, and the newest it reads.
    pub const VERSION: u32 = 1;
}

/// Why bytes are not one of these records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes are not protobuf of this message: damage, or not written by this project.
    #[error("not a {record}: {source}")]
    Malformed {
        /// The record that was expected.
        record: &'static str,
        /// What the decoder met.
        source: prost::DecodeError,
    },
    /// An enum number that this version does not know: most likely a newer version wrote it. Upgrade before
    /// reading on; a change that cannot be read must not be skipped.
    #[error("{field} has the unknown number {number}")]
    UnknownNumber {
        /// The enum.
        field: &'static str,
        /// The number found.
        number: i32,
    },
}

fn change_type(number: i32) -> Result<ConfChangeType, RecordError> {
    if planted("unknown-is-an-addition") {
        return Ok(ConfChangeType::try_from(number).unwrap_or(ConfChangeType::AddNode));
    }
    ConfChangeType::try_from(number)
        .map_err(|_| RecordError::UnknownNumber { field: "change_type", number })
}

fn decode<M: Message + Default>(record: &'static str, data: &[u8]) -> Result<M, RecordError> {
    M::decode(data).map_err(|source| RecordError::Malformed { record, source })
}

impl ConfState {
    /// Decodes the bytes of a `ConfState`. Whether it is a legal configuration is for
    /// [`Configuration::from_conf_state`](crate::Configuration::from_conf_state) to say.
    ///
    /// # Errors
    /// [`RecordError::Malformed`].
    pub fn decode_checked(data: &[u8]) -> Result<Self, RecordError> {
        decode("ConfState", data)
    }
}

impl ConfChange {
    /// A change of `node_id` without context.
    #[must_use]
    pub fn new(kind: ConfChangeType, node_id: u64) -> Self {
        Self { change_type: kind as i32, node_id, ..Self::default() }
    }

    /// Decodes the data of a V1 conf-change entry, unknown numbers refused.
    ///
    /// # Errors
    /// [`RecordError::Malformed`], [`RecordError::UnknownNumber`].
    pub fn decode_checked(data: &[u8]) -> Result<Self, RecordError> {
        let change: Self = decode("ConfChange", data)?;
        change.kind()?;
        Ok(change)
    }

    /// What is done to the node.
    ///
    /// # Errors
    /// [`RecordError::UnknownNumber`].
    pub fn kind(&self) -> Result<ConfChangeType, RecordError> {
        change_type(self.change_type)
    }

    /// The same change in the form that can carry several.
    #[must_use]
    pub fn to_v2(&self) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto as i32,
            changes: vec![ConfChangeSingle {
                change_type: self.change_type,
                node_id: self.node_id,
            }],
            context: self.context.clone(),
        }
    }
}

impl ConfChangeSingle {
    /// One step.
    #[must_use]
    pub fn new(kind: ConfChangeType, node_id: u64) -> Self {
        Self { change_type: kind as i32, node_id }
    }

    /// What is done to the node.
    ///
    /// # Errors
    /// [`RecordError::UnknownNumber`].
    pub fn kind(&self) -> Result<ConfChangeType, RecordError> {
        change_type(self.change_type)
    }
}

impl ConfChangeV2 {
    /// Several steps, without context.
    #[must_use]
    pub fn new(transition: ConfChangeTransition, changes: Vec<ConfChangeSingle>) -> Self {
        Self { transition: transition as i32, changes, context: Bytes::new() }
    }

    /// Decodes the data of a V2 conf-change entry, unknown numbers refused. Empty data is *leave joint*.
    ///
    /// # Errors
    /// [`RecordError::Malformed`], [`RecordError::UnknownNumber`].
    pub fn decode_checked(data: &[u8]) -> Result<Self, RecordError> {
        let change: Self = decode("ConfChangeV2", data)?;
        change.mode()?;
        for step in &change.changes {
            step.kind()?;
        }
        Ok(change)
    }

    /// How the change is carried out.
    ///
    /// # Errors
    /// [`RecordError::UnknownNumber`].
    pub fn mode(&self) -> Result<ConfChangeTransition, RecordError> {
        ConfChangeTransition::try_from(self.transition).map_err(|_| RecordError::UnknownNumber {
            field: "transition",
            number: self.transition,
        })
    }

    /// Whether this leaves a joint configuration: no steps, and nothing asked of the transition.
    #[must_use]
    pub fn leaves_joint(&self) -> bool {
        self.changes.is_empty() && self.transition == ConfChangeTransition::Auto as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field numbers are wire format: raft-rs reads these very bytes.
    #[test]
    fn numbers_are_those_of_eraftpb() {
        let state = ConfState {
            voters: vec![1, 2],
            learners: vec![3],
            voters_outgoing: vec![1, 4],
            learners_next: vec![4],
            auto_leave: true,
        };
        assert_eq!(
            state.encode_to_vec(),
            [0x0a, 2, 1, 2, 0x12, 1, 3, 0x1a, 2, 1, 4, 0x22, 1, 4, 0x28, 1]
        );
        assert_eq!(ConfState::decode_checked(&state.encode_to_vec()), Ok(state));

        let one = ConfChange {
            id: 7,
            context: Bytes::from_static(b"x"),
            ..ConfChange::new(ConfChangeType::AddLearnerNode, 300)
        };
        assert_eq!(one.encode_to_vec(), [0x08, 7, 0x10, 2, 0x18, 0xac, 2, 0x22, 1, b'x']);
        assert_eq!(ConfChange::decode_checked(&one.encode_to_vec()), Ok(one));

        let many = ConfChangeV2 {
            context: Bytes::from_static(b"y"),
            ..ConfChangeV2::new(
                ConfChangeTransition::Explicit,
                vec![
                    ConfChangeSingle::new(ConfChangeType::RemoveNode, 1),
                    ConfChangeSingle::new(ConfChangeType::AddNode, 2),
                ],
            )
        };
        assert_eq!(
            many.encode_to_vec(),
            [0x08, 2, 0x12, 4, 0x08, 1, 0x10, 1, 0x12, 2, 0x10, 2, 0x1a, 1, b'y']
        );
        assert_eq!(ConfChangeV2::decode_checked(&many.encode_to_vec()), Ok(many));
    }

    /// raft-rs writes lists without packing them.
    #[test]
    fn lists_read_packed_and_unpacked() {
        let unpacked = ConfState::decode_checked(&[0x08, 1, 0x08, 2, 0x10, 3]).expect("readable");
        assert_eq!(
            unpacked,
            ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() }
        );
    }

    #[test]
    fn unknown_numbers_are_errors_not_additions() {
        let unknown = |field, number| RecordError::UnknownNumber { field, number };
        assert_eq!(ConfChange::decode_checked(&[0x10, 3, 0x18, 1]), Err(unknown("change_type", 3)));
        assert_eq!(ConfChangeV2::decode_checked(&[0x08, 3]), Err(unknown("transition", 3)));
        assert_eq!(
            ConfChangeV2::decode_checked(&[0x12, 4, 0x08, 9, 0x10, 1]),
            Err(unknown("change_type", 9))
        );
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [&[0xff][..], &[0x0a, 0x7f, 1], &[0x12, 2, 0xff, 0xff]] {
            assert!(
                matches!(ConfState::decode_checked(bytes), Err(RecordError::Malformed { .. })),
                "{bytes:?}"
            );
            assert!(
                matches!(ConfChangeV2::decode_checked(bytes), Err(RecordError::Malformed { .. })),
                "{bytes:?}"
            );
        }
        assert!(matches!(
            ConfChange::decode_checked(&[0x22, 9, 1]),
            Err(RecordError::Malformed { .. })
        ));
    }

    #[test]
    fn empty_v2_leaves_joint_and_nothing_else_does() {
        assert!(ConfChangeV2::decode_checked(&[]).expect("empty data is a message").leaves_joint());
        let with_context =
            ConfChangeV2 { context: Bytes::from_static(b"{}"), ..ConfChangeV2::default() };
        assert!(with_context.leaves_joint());
        assert!(!ConfChangeV2::new(ConfChangeTransition::Explicit, vec![]).leaves_joint());
        assert!(!ConfChange::new(ConfChangeType::AddNode, 0).to_v2().leaves_joint());
    }
}
