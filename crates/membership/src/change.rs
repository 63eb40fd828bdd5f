use bytes::Bytes;
use prost::Message;

use crate::context::StepContext;
use crate::record::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, RecordError,
};
use crate::{ChangeContext, ConfigurationError, EntryKind, EntryView, Member, ProposalId};

/// One step of membership, said in terms of members.
///
/// A change of name or URLs is not among them: raft-rs has no such conf change, so it travels as an ordinary entry
/// and is applied with [`Cluster::update_attributes`](crate::Cluster::update_attributes) or
/// [`Cluster::update_peer_urls`](crate::Cluster::update_peer_urls).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a member that votes.
    AddVoter(Member),
    /// Add a member that receives the log and does not vote.
    AddLearner(Member),
    /// Make a voter of this learner.
    Promote(u64),
    /// Remove this member; its id never comes back.
    Remove(u64),
}

impl Change {
    /// The id of the member that is changed.
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::AddVoter(member) | Self::AddLearner(member) => member.id,
            Self::Promote(id) | Self::Remove(id) => *id,
        }
    }

    fn kind(&self) -> ConfChangeType {
        match self {
            Self::AddVoter(_) | Self::Promote(_) => ConfChangeType::AddNode,
            Self::AddLearner(_) => ConfChangeType::AddLearnerNode,
            Self::Remove(_) => ConfChangeType::RemoveNode,
        }
    }

    fn context(&self) -> StepContext {
        let id_only = |id| Member { id, ..Member::default() };
        match self {
            Self::AddVoter(member) => StepContext {
                member: Member { is_learner: false, ..member.clone() },
                is_promote: false,
            },
            Self::AddLearner(member) => StepContext {
                member: Member { is_learner: true, ..member.clone() },
                is_promote: false,
            },
            Self::Promote(id) => StepContext { member: id_only(*id), is_promote: true },
            Self::Remove(id) => StepContext { member: id_only(*id), is_promote: false },
        }
    }

    fn read(step: ConfChangeSingle, context: StepContext) -> Result<Self, ReadFault> {
        let id = step.node_id;
        if id == 0 {
            return Err(ReadFault::NoNode);
        }
        let StepContext { member, is_promote } = context;
        // A bare change has no context; one that has must mean the same node.
        if member.id != 0 && member.id != id {
            return Err(ReadFault::ForeignContext { node: id, context: member.id });
        }
        Ok(match step.kind()? {
            ConfChangeType::RemoveNode => Self::Remove(id),
            ConfChangeType::AddNode if is_promote => Self::Promote(id),
            ConfChangeType::AddNode => Self::AddVoter(Member { id, is_learner: false, ..member }),
            ConfChangeType::AddLearnerNode => {
                Self::AddLearner(Member { id, is_learner: true, ..member })
            }
        })
    }
}

/// A whole conf-change entry: its steps, how they are carried out, and on whose behalf.
///
/// ```
/// use oarlock_membership::{Change, ChangeEntry, EntryView, ProposalId};
///
/// let proposal = ProposalId { origin: 1, incarnation: 1, sequence: 9 };
/// let (kind, data) = ChangeEntry::new(Change::Remove(3)).proposed_by(proposal).encode();
///
/// let entry = EntryView { index: 12, term: 2, kind, data: &data };
/// let read = ChangeEntry::read(&entry)?.expect("a conf change");
/// assert_eq!(read.changes, [Change::Remove(3)]);
/// assert_eq!(read.proposal, Some(proposal));
/// # Ok::<(), oarlock_membership::UnreadableChange>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeEntry {
    /// The steps, taken in order and all at once. None at all means: leave the joint configuration.
    pub changes: Vec<Change>,
    /// How they are carried out.
    pub transition: ConfChangeTransition,
    /// The rescue that orders this. An order is obeyed where a request would be refused; see
    /// [`Cluster::apply_entry`](crate::Cluster::apply_entry).
    pub rescue: Option<u64>,
    /// Whom to answer.
    pub proposal: Option<ProposalId>,
}

impl ChangeEntry {
    /// A single change, the simple way.
    #[must_use]
    pub fn new(change: Change) -> Self {
        Self::joint(vec![change], ConfChangeTransition::Auto)
    }

    /// Several changes at once, through a joint configuration.
    #[must_use]
    pub fn joint(changes: Vec<Change>, transition: ConfChangeTransition) -> Self {
        Self { changes, transition, rescue: None, proposal: None }
    }

    /// Leaves a joint configuration that was entered with [`ConfChangeTransition::Explicit`].
    #[must_use]
    pub fn leave_joint() -> Self {
        Self::joint(Vec::new(), ConfChangeTransition::Auto)
    }

    /// Says whom to answer.
    #[must_use]
    pub fn proposed_by(self, proposal: ProposalId) -> Self {
        Self { proposal: Some(proposal), ..self }
    }

    /// Makes an order of it.
    #[must_use]
    pub fn ordered_by_rescue(self, epoch: u64) -> Self {
        Self { rescue: Some(epoch), ..self }
    }

    /// Whether this leaves a joint configuration.
    #[must_use]
    pub fn leaves_joint(&self) -> bool {
        self.changes.is_empty() && self.transition == ConfChangeTransition::Auto
    }

    /// Reads an entry. `None` for an entry that is no conf change.
    ///
    /// # Errors
    /// [`UnreadableChange`]. The same bytes give the same error on every member of the same version, so refusing the
    /// entry is safe as long as nobody runs a version that can read it.
    pub fn read(entry: &EntryView<'_>) -> Result<Option<Self>, UnreadableChange> {
        Self::parse(entry).map_err(|fault| UnreadableChange { index: entry.index, fault })
    }

    fn parse(entry: &EntryView<'_>) -> Result<Option<Self>, ReadFault> {
        let Some(change) = raft_change(entry)? else { return Ok(None) };
        let ChangeContext { first, also, rescue, proposal } =
            ChangeContext::from_json(&change.context)?;
        if also.len() > change.changes.len().saturating_sub(1) {
            return Err(ReadFault::Steps { steps: change.changes.len(), contexts: also.len() + 1 });
        }
        let contexts =
            std::iter::once(first).chain(also).chain(std::iter::repeat_with(StepContext::default));
        let changes =
            change.changes.iter().zip(contexts).map(|(step, context)| Change::read(*step, context));
        Ok(Some(Self {
            changes: changes.collect::<Result<_, _>>()?,
            transition: change.mode()?,
            rescue,
            proposal,
        }))
    }

    /// The kind and data of the entry: V1 for a single automatic change, as etcd and older readers have it, V2 for
    /// everything else.
    #[must_use]
    pub fn encode(&self) -> (EntryKind, Bytes) {
        match self.to_v1() {
            Some(change) => (EntryKind::ConfChange, change.encode_to_vec().into()),
            None => (EntryKind::ConfChangeV2, self.to_v2().encode_to_vec().into()),
        }
    }

    /// The record of a single automatic change; `None` if this is not one.
    #[must_use]
    pub fn to_v1(&self) -> Option<ConfChange> {
        match self.changes.as_slice() {
            [change] if self.transition == ConfChangeTransition::Auto => Some(ConfChange {
                context: self.context(),
                ..ConfChange::new(change.kind(), change.id())
            }),
            _ => None,
        }
    }

    /// The record that can hold any change. raft-rs treats a single automatic one the same in both forms.
    #[must_use]
    pub fn to_v2(&self) -> ConfChangeV2 {
        let steps =
            self.changes.iter().map(|change| ConfChangeSingle::new(change.kind(), change.id()));
        ConfChangeV2 {
            context: self.context(),
            ..ConfChangeV2::new(self.transition, steps.collect())
        }
    }

    fn context(&self) -> Bytes {
        let mut steps = self.changes.iter().map(Change::context);
        let first = steps.next().unwrap_or_default();
        ChangeContext { first, also: steps.collect(), rescue: self.rescue, proposal: self.proposal }
            .to_json()
            .into()
    }
}

/// The raft half of a conf-change entry, whichever form it has; `None` for other entries.
pub(crate) fn raft_change(entry: &EntryView<'_>) -> Result<Option<ConfChangeV2>, RecordError> {
    Ok(match entry.kind {
        EntryKind::Normal => None,
        EntryKind::ConfChange => Some(ConfChange::decode_checked(entry.data)?.to_v2()),
        EntryKind::ConfChangeV2 => Some(ConfChangeV2::decode_checked(entry.data)?),
    })
}

/// The conf change at `index` cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("conf change at index {index}: {fault}")]
pub struct UnreadableChange {
    /// Where the entry is in the log.
    pub index: u64,
    /// What is wrong with it.
    #[source]
    pub fault: ReadFault,
}

/// Why a conf change cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFault {
    /// The data is not the record that the entry's kind says, or a newer version wrote it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The context is not JSON of a [`ChangeContext`]: whoever proposed it broke the convention of this crate.
    #[error("context: {0}")]
    Context(#[from] serde_json::Error),
    /// The context speaks of another node than the change.
    #[error("changes node {node:x}, but its context is about {context:x}")]
    ForeignContext {
        /// The node that raft changes.
        node: u64,
        /// The member that the context describes.
        context: u64,
    },
    /// The context has more members than the change has steps.
    #[error("{contexts} contexts for {steps} steps")]
    Steps {
        /// Steps of the change.
        steps: usize,
        /// Members in the context.
        contexts: usize,
    },
    /// The change is about node 0, which raft ignores and which is nobody's id.
    #[error("changes node 0, which is nobody")]
    NoNode,
    /// The configuration to start from is none that raft allows.
    #[error("configuration: {0}")]
    Configuration(#[from] ConfigurationError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, is_learner: bool) -> Member {
        Member {
            id,
            peer_urls: vec![format!("http://m{id}:2380")],
            is_learner,
            ..Member::default()
        }
    }

    fn read(kind: EntryKind, data: &[u8]) -> Result<Option<ChangeEntry>, UnreadableChange> {
        ChangeEntry::read(&EntryView { index: 5, term: 1, kind, data })
    }

    #[test]
    fn every_change_reads_back_as_written() {
        let proposal = ProposalId { origin: u64::MAX, incarnation: 1, sequence: 2 };
        let entries = [
            ChangeEntry::new(Change::AddVoter(member(1, false))),
            ChangeEntry::new(Change::AddLearner(member(2, true))).proposed_by(proposal),
            ChangeEntry::new(Change::Promote(3)).ordered_by_rescue(4),
            ChangeEntry::new(Change::Remove(u64::MAX)).proposed_by(proposal),
            ChangeEntry::leave_joint().proposed_by(proposal),
            ChangeEntry::joint(vec![Change::Remove(1)], ConfChangeTransition::Explicit),
            ChangeEntry::joint(
                vec![Change::AddVoter(member(1, false)), Change::Promote(2), Change::Remove(3)],
                ConfChangeTransition::Implicit,
            )
            .proposed_by(proposal),
        ];
        for entry in entries {
            let (kind, data) = entry.encode();
            let simple = entry.changes.len() == 1 && entry.transition == ConfChangeTransition::Auto;
            assert_eq!(kind == EntryKind::ConfChange, simple, "{entry:?}");
            assert_eq!(read(kind, &data).expect("readable"), Some(entry.clone()));
            let v2 = entry.to_v2().encode_to_vec();
            assert_eq!(read(EntryKind::ConfChangeV2, &v2).expect("readable"), Some(entry));
        }
    }

    #[test]
    fn a_founding_entry_carries_a_plain_member() {
        let context = crate::context::json(&member(7, false)).into();
        let data =
            ConfChange { context, ..ConfChange::new(ConfChangeType::AddNode, 7) }.encode_to_vec();
        let entry = read(EntryKind::ConfChange, &data).expect("readable").expect("a conf change");
        assert_eq!(entry.changes, [Change::AddVoter(member(7, false))]);
    }

    #[test]
    fn the_kind_of_change_decides_who_learns_not_the_context() {
        let context: Bytes = crate::context::json(&member(7, true)).into();
        for (kind, change) in [
            (ConfChangeType::AddNode, Change::AddVoter(member(7, false))),
            (ConfChangeType::AddLearnerNode, Change::AddLearner(member(7, true))),
        ] {
            let data =
                ConfChange { context: context.clone(), ..ConfChange::new(kind, 7) }.encode_to_vec();
            assert_eq!(
                read(EntryKind::ConfChange, &data).expect("readable").expect("one").changes,
                [change]
            );
        }
    }

    #[test]
    fn bare_changes_and_empty_data_have_a_meaning() {
        let bare = ConfChange::new(ConfChangeType::AddNode, 3).encode_to_vec();
        let added = read(EntryKind::ConfChange, &bare).expect("readable").expect("one").changes;
        assert_eq!(added, [Change::AddVoter(Member { id: 3, ..Member::default() })]);
        assert!(read(EntryKind::ConfChangeV2, &[]).expect("readable").expect("one").leaves_joint());
        assert!(read(EntryKind::Normal, b"anything").expect("not looked at").is_none());
    }

    #[test]
    fn what_cannot_be_understood_says_why() {
        let v1 = |kind, id, context: &'static [u8]| {
            let change =
                ConfChange { context: Bytes::from_static(context), ..ConfChange::new(kind, id) };
            read(EntryKind::ConfChange, &change.encode_to_vec())
                .expect_err("unreadable")
                .to_string()
        };
        let add = ConfChangeType::AddNode;
        assert_eq!(v1(add, 0, b""), "conf change at index 5: changes node 0, which is nobody");
        assert_eq!(
            v1(add, 31, br#"{"id":32}"#),
            "conf change at index 5: changes node 1f, but its context is about 20"
        );
        assert_eq!(
            v1(add, 1, br#"{"id":1,"also":[{"id":2}]}"#),
            "conf change at index 5: 2 contexts for 1 steps"
        );
        assert!(v1(add, 1, b"{").starts_with("conf change at index 5: context: EOF"));
        let fault = |kind, data: &[u8]| read(kind, data).expect_err("unreadable").fault;
        assert!(matches!(fault(EntryKind::ConfChange, &[]), ReadFault::NoNode));
        assert!(matches!(
            fault(EntryKind::ConfChange, &[0x10, 3, 0x18, 1]),
            ReadFault::Record(RecordError::UnknownNumber { number: 3, .. })
        ));
        assert!(matches!(
            fault(EntryKind::ConfChangeV2, &[0xff]),
            ReadFault::Record(RecordError::Malformed { .. })
        ));
    }
}
