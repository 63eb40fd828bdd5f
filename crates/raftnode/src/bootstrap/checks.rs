//! Checks of a log before raft-rs sees it.
//!
//! etcd makes few of them, and raft-rs panics on a log that would fail them. They go back to etcd #10219, #13509 and
//! #14370, qdrant #4683 and curvine #1551.

use raft::eraftpb::{Entry, EntryType};

use super::BootError;
use crate::storage::{Changes, LogReader, LogState, SnapshotId, SnapshotMark, SnapshotStore};
use crate::{Payload, SnapshotHead, convert};

/// Bytes of the log that are read at a time while it is checked.
const CHUNK: u64 = 4 << 20;

/// Where a log begins and ends.
pub(super) struct Boundaries {
    /// The snapshot that it starts from; index 0 without one.
    pub(super) snapshot: SnapshotMark,
    pub(super) last: u64,
    pub(super) term: u64,
}

impl Boundaries {
    /// Checks the numbers that raft-rs asserts, before any entry is read.
    pub(super) fn of(state: &LogState, snapshot: Option<&SnapshotMark>) -> Result<Self, BootError> {
        let snapshot = snapshot.cloned().unwrap_or_default();
        let (first, last) = (state.first_index, state.last_index);
        if first > snapshot.index + 1 {
            return Err(BootError::Gap { snapshot: snapshot.index, first });
        }
        let commit = state.hard_state.commit.max(snapshot.index);
        if commit > last {
            return Err(BootError::LogShorterThanCommit { commit, last });
        }
        Ok(Self { snapshot, last, term: state.hard_state.term })
    }
}

/// Finds the snapshot to start from: the newest complete one that the log vouches for. Returns its head and the length
/// of its content.
///
/// The log vouches for the snapshot of its newest mark, and for an older one if it still holds every entry after that. A
/// file that is newer than the mark is ignored: its mark never became durable, so nothing that follows it did (O5).
pub(super) fn find_snapshot(
    reader: &dyn LogReader,
    snapshots: &dyn SnapshotStore,
    state: &LogState,
) -> Result<Option<(SnapshotHead, u64)>, BootError> {
    let Some(mark) = &state.snapshot else { return Ok(None) };
    let vouched = |id: SnapshotId| {
        id == mark.id()
            || id.index < mark.index
                && id.index + 1 >= state.first_index
                && reader.term(id.index).is_ok_and(|term| term == id.term)
    };
    let Some(id) = snapshots.newest(&vouched)? else {
        if state.first_index == 1 && state.last_index >= mark.index {
            // The log is complete from its first entry on, so nothing is lost; it only takes time.
            log::warn!(snapshot:% = mark.id(); "the snapshot is gone, the whole log is replayed");
            return Ok(None);
        }
        return Err(BootError::SnapshotMissing { needed: mark.id() });
    };
    if id != mark.id() {
        log::warn!(snapshot:% = id, newest:% = mark.id(); "falling back to an older snapshot");
    }
    let mut source = snapshots.open(id)?;
    let head = SnapshotHead::read_from(&mut source.content)
        .map_err(|source| BootError::SnapshotHead { id, source })?;
    let conf = convert::conf_state_to_record(&head.mark.conf_state);
    let agrees = head.id() == id
        && (id != mark.id() || conf == convert::conf_state_to_record(&mark.conf_state));
    if !agrees {
        return Err(BootError::SnapshotDisagrees(id));
    }
    Ok(Some((head, source.len)))
}

/// Reads and checks every entry after the snapshot, since raft-rs will apply them without a check. It is the only pass
/// over the log at a start, so it also collects the conf changes, and calls `see` with each entry.
pub(super) fn check_log(
    reader: &dyn LogReader,
    bounds: &Boundaries,
    see: &mut dyn FnMut(Entry),
) -> Result<Changes, BootError> {
    let mut index = bounds.snapshot.index;
    let mut term = bounds.snapshot.term;
    let mut changes = Changes::none_through(index);
    while index < bounds.last {
        let chunk = reader.entries(index + 1, bounds.last + 1, CHUNK)?;
        if chunk.is_empty() {
            return Err(BootError::NotContiguous { found: 0, expected: index + 1 });
        }
        changes.append(&chunk);
        for entry in chunk {
            let (expected, found) = (index + 1, entry.index);
            if found != expected {
                return Err(BootError::NotContiguous { found, expected });
            }
            if entry.term < term || entry.term == 0 {
                let (index, term, previous) = (found, entry.term, term);
                return Err(BootError::TermGoesBack { index, term, previous });
            }
            check_entry(&entry)?;
            index = found;
            term = entry.term;
            see(entry);
        }
    }
    if bounds.term < term {
        return Err(BootError::TermBehindLog { term: bounds.term, last_term: term });
    }
    Ok(changes)
}

/// No stricter than the apply loop, or an entry that every member refused to apply would keep all of them from
/// restarting. So a conf change only has to be one that raft-rs can decode, whatever its context holds.
fn check_entry(entry: &Entry) -> Result<(), BootError> {
    let index = entry.index;
    convert::check_conf_change(entry).map_err(|source| BootError::Change { index, source })?;
    if entry.get_entry_type() == EntryType::EntryNormal {
        Payload::of(entry).map_err(|source| BootError::Entry { index, source })?;
    }
    Ok(())
}
