//! Founding a cluster, joining one, and restarting.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_membership::Cluster;
use raft::eraftpb::{Entry, EntryType, HardState};

use super::checks::{Boundaries, check_log, find_snapshot};
use super::{BootError, Metadata, Recovered};
use crate::failpoint::fail_point;
use crate::planted::planted;
use crate::storage::{Changes, LogBatch, LogState, LogStore, SnapshotStore};
use crate::{Window, convert};

/// Founds a cluster as etcd's raft does in `StartNode`: the founders are added by conf changes 1 to n of term 1, which
/// count as committed. The configuration at index 0 is empty, so a member that joins later replays the same entries and
/// never takes itself for the only voter.
pub(super) fn found(
    store: &mut dyn LogStore,
    id: u64,
    cluster: &Cluster,
) -> Result<Recovered, BootError> {
    expect_empty(&store.state()?)?;
    check_self(id, cluster)?;
    if cluster.learners().next().is_some() {
        return Err(BootError::Founders("a founder does not vote"));
    }
    if !cluster.removed().is_empty() {
        return Err(BootError::Founders("somebody was removed already"));
    }
    let metadata = first_metadata(id, cluster);
    let entries: Vec<_> = cluster
        .founding_entries()
        .into_iter()
        .map(|planned| convert::planned_entry(&planned))
        .collect();
    let last_index = entries.last().map_or(0, |entry| entry.index);
    debug_assert!(entries.iter().all(|e| e.get_entry_type() == EntryType::EntryConfChange));
    let hard_state = HardState { term: 1, commit: last_index, ..HardState::default() };
    let batch = LogBatch {
        metadata: Some(metadata.encode()),
        entries: &entries,
        hard_state: Some(hard_state.clone()),
        ..LogBatch::default()
    };
    write(id, store, &batch)?;
    log::info!(
        member:% = format_args!("{id:x}"), cluster:% = format_args!("{:x}", cluster.id()), members = last_index;
        "founded a cluster"
    );
    let mut recovered = Recovered { hard_state, last_index, ..fresh(metadata) };
    recovered.changes.append(&entries);
    Ok(recovered)
}

/// Joins a cluster: only metadata is written, and everything else comes from the leader.
pub(super) fn join(
    store: &mut dyn LogStore,
    id: u64,
    cluster: &Cluster,
) -> Result<Recovered, BootError> {
    expect_empty(&store.state()?)?;
    if cluster.is_removed(id) {
        return Err(BootError::Removed { id });
    }
    check_self(id, cluster)?;
    let metadata = first_metadata(id, cluster);
    write(id, store, &LogBatch { metadata: Some(metadata.encode()), ..LogBatch::default() })?;
    log::info!(
        member:% = format_args!("{id:x}"), cluster:% = format_args!("{:x}", cluster.id());
        "joining a cluster"
    );
    Ok(fresh(metadata))
}

/// Goes on from what the log holds, in a new incarnation.
pub(super) fn restart(
    store: &mut dyn LogStore,
    snapshots: &dyn SnapshotStore,
) -> Result<Recovered, BootError> {
    let state = store.state()?;
    let mut metadata = read_metadata(&state)?;
    let mut recovered = recover(store, snapshots, &state, &metadata, &mut drop)?;
    // A rescue revives a removed survivor by entries that follow the snapshot.
    let rescued_since = metadata.rescue_epoch > recovered.cluster.epoch();
    // A member removed by a joint change votes until the joint configuration is left, and that may take its vote.
    let needed = recovered.snapshot.as_ref().is_some_and(|mark| {
        let conf = &mark.conf_state;
        conf.get_voters().contains(&metadata.id)
            || conf.get_voters_outgoing().contains(&metadata.id)
    });
    if recovered.cluster.is_removed(metadata.id) && !rescued_since && !needed {
        return Err(BootError::Removed { id: metadata.id });
    }
    metadata.incarnation += 1;
    recovered.incarnation = metadata.incarnation;
    // The sync also makes durable what was only in the page cache, before raft-rs relies on it (O20).
    write(
        metadata.id,
        store,
        &LogBatch { metadata: Some(metadata.encode()), ..LogBatch::default() },
    )?;
    log::info!(
        member:% = format_args!("{:x}", recovered.id),
        cluster:% = format_args!("{:x}", recovered.cluster.id()),
        incarnation = recovered.incarnation,
        term = recovered.hard_state.term,
        commit = recovered.hard_state.commit,
        last = recovered.last_index;
        "restarted from the log"
    );
    Ok(recovered)
}

/// Checks the log and its snapshot, and returns what they hold, in the incarnation that wrote them. `see` is called
/// with every entry after the snapshot.
pub(super) fn recover(
    store: &dyn LogStore,
    snapshots: &dyn SnapshotStore,
    state: &LogState,
    metadata: &Metadata,
    see: &mut dyn FnMut(Entry),
) -> Result<Recovered, BootError> {
    let reader = store.reader();
    let found = find_snapshot(reader.as_ref(), snapshots, state)?;
    if let Some((head, _)) = &found
        && head.cluster.id() != metadata.cluster_id
        && head.cluster.epoch() >= metadata.rescue_epoch
    {
        let (log, snapshot) = (metadata.cluster_id, head.cluster.id());
        return Err(BootError::ForeignSnapshot { log, snapshot });
    }
    let (head, snapshot_len) = found.map_or((None, 0), |(head, len)| (Some(head), len));
    let mark = head.as_ref().map(|head| head.mark.clone());
    let bounds = Boundaries::of(state, mark.as_ref())?;
    let changes = check_log(reader.as_ref(), &bounds, see)?;
    let mut hard_state = state.hard_state.clone();
    // Everything in a snapshot is committed, but the commit index may lag: it is not synced by itself.
    hard_state.commit = hard_state.commit.max(bounds.snapshot.index);
    let mut cluster = head
        .as_ref()
        .map_or_else(|| Cluster::new(metadata.cluster_id), |head| head.cluster.clone());
    // A snapshot from before a rescue still has the old cluster id.
    cluster.set_id(metadata.cluster_id);
    Ok(Recovered {
        id: metadata.id,
        cluster,
        contacts: metadata.contacts.clone(),
        snapshot: mark,
        snapshot_len,
        hard_state,
        first_index: state.first_index,
        last_index: state.last_index,
        incarnation: metadata.incarnation,
        birth: metadata.birth,
        births: head.as_ref().map_or_else(BTreeMap::new, |head| head.births.clone()),
        window: head.as_ref().map_or_else(Window::new, |head| head.window.clone()),
        rescue_epoch: metadata.rescue_epoch,
        rescued: None,
        promised: metadata.promised,
        head,
        changes,
    })
}

/// Writes everything that a boot has to write, atomically and durably.
pub(super) fn write(
    id: u64,
    store: &mut dyn LogStore,
    batch: &LogBatch<'_>,
) -> Result<(), BootError> {
    fail_point!("bootBeforeSave", id, Err(injected()));
    store.append(batch)?;
    if !planted("tail-not-made-durable") {
        store.sync()?;
    }
    fail_point!("bootAfterSave", id, Err(injected()));
    Ok(())
}

#[cfg(feature = "failpoints")]
fn injected() -> BootError {
    let source = crate::failpoint::injected();
    crate::LogError::Io { op: "write", source }.into()
}

pub(super) fn read_metadata(state: &LogState) -> Result<Metadata, BootError> {
    if !state.metadata.is_empty() {
        return Ok(Metadata::decode(state.metadata.clone())?);
    }
    if state.last_index > 0 || state.snapshot.is_some() {
        return Err(BootError::ForeignLog { last: state.last_index });
    }
    Err(BootError::NotInitialised)
}

fn expect_empty(state: &LogState) -> Result<(), BootError> {
    match read_metadata(state) {
        Err(BootError::NotInitialised) => Ok(()),
        Err(error) => Err(error),
        Ok(Metadata { id, cluster_id, .. }) => {
            Err(BootError::AlreadyInitialised { id, cluster_id })
        }
    }
}

fn check_self(id: u64, cluster: &Cluster) -> Result<(), BootError> {
    if id == 0 || cluster.id() == 0 || cluster.members().any(|member| member.id == 0) {
        return Err(BootError::ZeroId);
    }
    if cluster.member(id).is_none() {
        return Err(BootError::NotAMember { id });
    }
    Ok(())
}

fn first_metadata(id: u64, cluster: &Cluster) -> Metadata {
    Metadata {
        id,
        cluster_id: cluster.id(),
        birth: fastrand::u64(1..),
        incarnation: 1,
        rescue_epoch: 0,
        contacts: cluster.members().cloned().collect(),
        promised: Duration::ZERO,
    }
}

/// The result for a log that holds nothing but metadata.
fn fresh(metadata: Metadata) -> Recovered {
    Recovered {
        id: metadata.id,
        cluster: Cluster::new(metadata.cluster_id),
        contacts: metadata.contacts,
        snapshot: None,
        head: None,
        snapshot_len: 0,
        hard_state: HardState::default(),
        first_index: 1,
        last_index: 0,
        incarnation: metadata.incarnation,
        birth: metadata.birth,
        births: BTreeMap::new(),
        window: Window::new(),
        rescue_epoch: metadata.rescue_epoch,
        rescued: None,
        changes: Changes::none_through(0),
        promised: metadata.promised,
    }
}
