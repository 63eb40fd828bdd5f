//! Conversions between raft-rs's types and ours; the only module that knows both.
//!
//! It compiles with both codecs of raft-rs: fields are reached through accessors, and bytes are converted by a function,
//! because they are `Bytes` with one codec and `Vec<u8>` with the other.

use bytes::Bytes;
use oarlock_membership::record::{self, ConfChangeTransition as Transition};
use oarlock_membership::{ChangeEntry, EntryKind, EntryView, PlannedEntry};
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, HardState,
};

/// Bytes that came from raft-rs, whichever codec it was built with.
#[must_use]
pub fn from_raft(data: impl Into<Bytes>) -> Bytes {
    data.into()
}

/// Bytes as raft-rs takes them, whichever codec it was built with.
#[must_use]
pub fn to_raft<B: From<Bytes>>(data: Bytes) -> B {
    data.into()
}

/// A list as raft-rs takes it, whichever codec it was built with: they have different ones.
#[must_use]
pub fn list_to_raft<T, L: From<Vec<T>>>(list: Vec<T>) -> L {
    list.into()
}

/// A hard state of raft-rs.
#[must_use]
pub fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut hard_state = HardState::default();
    hard_state.set_term(term);
    hard_state.set_vote(vote);
    hard_state.set_commit(commit);
    hard_state
}

/// A configuration of raft-rs as a record, with its ids in order: raft-rs lists them in hash order.
#[must_use]
pub fn conf_state_to_record(conf_state: &ConfState) -> record::ConfState {
    fn sorted(ids: &[u64]) -> Vec<u64> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    }
    record::ConfState {
        voters: sorted(conf_state.get_voters()),
        learners: sorted(conf_state.get_learners()),
        voters_outgoing: sorted(conf_state.get_voters_outgoing()),
        learners_next: sorted(conf_state.get_learners_next()),
        auto_leave: conf_state.auto_leave,
    }
}

/// A recorded configuration as raft-rs takes it.
#[must_use]
pub fn conf_state_from_record(record: record::ConfState) -> ConfState {
    let mut conf_state = ConfState::default();
    conf_state.set_voters(record.voters);
    conf_state.set_learners(record.learners);
    conf_state.set_voters_outgoing(record.voters_outgoing);
    conf_state.set_learners_next(record.learners_next);
    conf_state.auto_leave = record.auto_leave;
    conf_state
}

/// An entry of raft-rs.
#[must_use]
pub fn entry(index: u64, term: u64, kind: EntryType, data: impl Into<Bytes>) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(kind);
    entry.index = index;
    entry.term = term;
    entry.set_data(to_raft(data.into()));
    entry
}

/// An entry as `oarlock-membership` reads it.
#[must_use]
pub fn entry_view(entry: &Entry) -> EntryView<'_> {
    EntryView {
        index: entry.index,
        term: entry.term,
        kind: match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Normal,
            EntryType::EntryConfChange => EntryKind::ConfChange,
            EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
        },
        data: &entry.data,
    }
}

/// Whether an entry, if it is a conf change, is one that raft-rs can decode.
///
/// # Errors
/// What is wrong with it.
pub fn check_conf_change(entry: &Entry) -> Result<(), record::RecordError> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Ok(()),
        EntryType::EntryConfChange => record::ConfChange::decode_checked(&entry.data).map(drop),
        EntryType::EntryConfChangeV2 => record::ConfChangeV2::decode_checked(&entry.data).map(drop),
    }
}

/// The number by which a kind of entry is stored and sent, which is that of `eraftpb`.
#[must_use]
pub const fn entry_kind_to_number(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

/// The kind of entry with this number, if there is one.
#[must_use]
pub const fn entry_kind_from_number(number: u8) -> Option<EntryType> {
    match number {
        0 => Some(EntryType::EntryNormal),
        1 => Some(EntryType::EntryConfChange),
        2 => Some(EntryType::EntryConfChangeV2),
        _ => None,
    }
}

/// An entry that `oarlock-membership` planned, as raft-rs takes it.
#[must_use]
pub fn planned_entry(planned: &PlannedEntry) -> Entry {
    let kind = match planned.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    };
    entry(planned.index, planned.term, kind, planned.data.clone())
}

/// A change of the members, as raft-rs's `apply_conf_change` takes it.
#[must_use]
pub fn conf_change(change: &ChangeEntry) -> ConfChangeV2 {
    let record = change.to_v2();
    let steps = record.changes.iter().map(|step| {
        let mut single = ConfChangeSingle { node_id: step.node_id, ..ConfChangeSingle::default() };
        single.set_change_type(match step.change_type {
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            _ => ConfChangeType::AddNode, // 0: `ChangeEntry` holds no others
        });
        single
    });
    let mut raft = ConfChangeV2::default();
    raft.set_changes(list_to_raft(steps.collect()));
    raft.set_transition(match change.transition {
        Transition::Auto => ConfChangeTransition::Auto,
        Transition::Implicit => ConfChangeTransition::Implicit,
        Transition::Explicit => ConfChangeTransition::Explicit,
    });
    raft
}
