use prost::Message;

use crate::record::{self, ClusterRecord};
use crate::{Cluster, Member};

/// Why the bytes of a snapshot's head are no cluster.
///
/// The snapshot is damaged, or a newer version wrote it; either way it must not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Not protobuf of a [`ClusterRecord`].
    #[error("not a cluster record: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Written by another version than this one can read. Upgrade, or take another snapshot.
    #[error(
        "cluster record of version {version}; this program reads up to {}",
        ClusterRecord::VERSION
    )]
    Version {
        /// The version found; 0 means that there was none.
        version: u32,
    },
    /// 0 is nobody's id.
    #[error("a member of the cluster record has id 0")]
    ZeroId,
    /// An id occurs twice.
    #[error("member {id:x} occurs twice in the cluster record")]
    Twice {
        /// The id.
        id: u64,
    },
    /// An id is a member and removed for good at once.
    #[error("member {id:x} of the cluster record is also removed")]
    MemberAndRemoved {
        /// The id.
        id: u64,
    },
    /// There are members and none votes.
    #[error("the cluster record has members and no voter")]
    NoVoters,
}

impl Cluster {
    /// The bytes of this cluster at the head of a snapshot: a [`ClusterRecord`]. The same cluster gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        ClusterRecord::from(self).encode_to_vec()
    }

    /// Reads what [`Cluster::encode`] wrote.
    ///
    /// # Errors
    /// [`HeadError`]; no bytes make it panic.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        ClusterRecord::decode(bytes)?.try_into()
    }
}

impl From<&Cluster> for ClusterRecord {
    fn from(cluster: &Cluster) -> Self {
        Self {
            version: Self::VERSION,
            id: cluster.id,
            members: cluster.members().cloned().map(record::Member::from).collect(),
            removed: cluster.removed.iter().copied().collect(),
            max_learners: cluster.max_learners,
            epoch: cluster.epoch,
        }
    }
}

impl TryFrom<ClusterRecord> for Cluster {
    type Error = HeadError;

    fn try_from(record: ClusterRecord) -> Result<Self, HeadError> {
        let ClusterRecord { version, id, members, removed, max_learners, epoch } = record;
        if version == 0 || version > ClusterRecord::VERSION {
            return Err(HeadError::Version { version });
        }
        let mut cluster =
            Self { removed: removed.into_iter().collect(), max_learners, epoch, ..Self::new(id) };
        for member in members {
            let member = Member::from(member);
            let id = member.id;
            if id == 0 {
                return Err(HeadError::ZeroId);
            }
            if cluster.is_removed(id) {
                return Err(HeadError::MemberAndRemoved { id });
            }
            if cluster.members.insert(id, member).is_some() {
                return Err(HeadError::Twice { id });
            }
        }
        if !cluster.members.is_empty() && cluster.voters().next().is_none() {
            return Err(HeadError::NoVoters);
        }
        Ok(cluster)
    }
}
