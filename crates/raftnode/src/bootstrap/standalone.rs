//! Forced standalone restart: one member goes on alone after the majority was lost for good.
//!
//! This is etcd's `--force-new-cluster`, with the differences documented at
//! [`StandalonePlan`](oarlock_membership::StandalonePlan).

use oarlock_membership::{Member, StandalonePlan, Survivor, UncommittedTail};
use raft::eraftpb::{Entry, EntryType};

use super::start::{read_metadata, recover, restart, write};
use super::{BootError, Metadata, Recovered};
use crate::planted::planted;
use crate::storage::{LogBatch, LogState, LogStore, SnapshotStore};
use crate::{Payload, convert};

/// The options of a forced standalone restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standalone {
    /// What to do with entries above the commit index. There is no default: keeping them may commit what clients were
    /// told had failed, and discarding them may lose what they were told had succeeded.
    pub tail: UncommittedTail,
    /// Keep the cluster's id, although former members that come back can then connect to the rescued one.
    pub keep_cluster_id: bool,
    /// Do it even if this log was rescued before. Otherwise a flag that was left in a unit file has no effect at the next
    /// start.
    pub again: bool,
}

/// What [`Boot::Standalone`](super::Boot::Standalone) would do, without doing it. `None` if it would do nothing,
/// because the log was rescued before.
///
/// # Errors
/// As for [`boot`](super::boot); nothing is written.
#[doc(alias("restartAsStandaloneNode", "createConfigChangeEnts", "force_new_cluster"))]
pub fn plan_standalone(
    store: &dyn LogStore,
    snapshots: &dyn SnapshotStore,
    rescue: Standalone,
) -> Result<Option<StandalonePlan>, BootError> {
    let state = store.state()?;
    let metadata = read_metadata(&state)?;
    if metadata.rescue_epoch > 0 && !rescue.again {
        return Ok(None);
    }
    let (recovered, entries) = examine(store, snapshots, &state, &metadata)?;
    plan(&recovered, &entries, rescue).map(Some)
}

/// Rescues, or restarts if the log was rescued before.
pub(super) fn rescue(
    store: &mut dyn LogStore,
    snapshots: &dyn SnapshotStore,
    rescue: Standalone,
) -> Result<Recovered, BootError> {
    let state = store.state()?;
    let metadata = read_metadata(&state)?;
    if metadata.rescue_epoch > 0 && !rescue.again {
        log::warn!(
            member:% = format_args!("{:x}", metadata.id), epoch = metadata.rescue_epoch;
            "this member was rescued before: nothing is forced, it restarts as it is"
        );
        return restart(store, snapshots);
    }
    let (mut recovered, entries) = examine(store, snapshots, &state, &metadata)?;
    let plan = plan(&recovered, &entries, rescue)?;

    let mut entries: Vec<Entry> = plan.appended.iter().map(convert::planned_entry).collect();
    let planned = &plan.hard_state;
    let mut hard_state = convert::hard_state(planned.term, planned.vote, planned.commit);
    if entries.is_empty() && plan.discarded.is_some() {
        // The end of a log can only be discarded by an entry that replaces it.
        hard_state.commit += 1;
        let (index, term) = (hard_state.commit, hard_state.term);
        entries.push(convert::entry(index, term, EntryType::EntryNormal, Payload::Empty.encode()));
    }
    let metadata = Metadata {
        cluster_id: plan.cluster_id,
        incarnation: metadata.incarnation + 1,
        rescue_epoch: plan.epoch,
        // Do not connect to the lost members.
        contacts: vec![self_among(&recovered)],
        ..metadata
    };
    // In one batch: after a crash the log is that of the old member or of the rescued one, and of nothing in between.
    let batch = LogBatch {
        metadata: Some(metadata.encode()),
        entries: &entries,
        hard_state: Some(hard_state.clone()),
        ..LogBatch::default()
    };
    write(metadata.id, store, &batch)?;
    log::warn!(
        member:% = format_args!("{:x}", plan.id),
        epoch = plan.epoch,
        cluster:% = format_args!("{:x}", plan.cluster_id),
        removed = plan.removed.len(),
        commit = hard_state.commit;
        "rescued as a cluster of one: every other member is removed"
    );
    if !planted("rescue-forgets-its-changes") {
        recovered.changes.append(&entries);
    }
    recovered.last_index = hard_state.commit;
    recovered.hard_state = hard_state;
    recovered.cluster.set_id(plan.cluster_id);
    recovered.incarnation = metadata.incarnation;
    recovered.rescue_epoch = metadata.rescue_epoch;
    recovered.contacts = metadata.contacts;
    recovered.rescued = Some(plan);
    Ok(recovered)
}

fn plan(
    recovered: &Recovered,
    entries: &[Entry],
    rescue: Standalone,
) -> Result<StandalonePlan, BootError> {
    let conf = recovered.snapshot.as_ref().map(|mark| &mark.conf_state);
    let conf = conf.map(convert::conf_state_to_record).unwrap_or_default();
    let survivor = Survivor {
        member: &self_among(recovered),
        cluster_id: recovered.cluster.id(),
        cluster: Some(&recovered.cluster),
        conf: &conf,
        snapshot_index: recovered.applied(),
        snapshot_term: recovered.snapshot_id().map_or(0, |id| id.term),
        hard_state: oarlock_membership::HardState {
            term: recovered.hard_state.term,
            vote: recovered.hard_state.vote,
            commit: recovered.hard_state.commit,
        },
    };
    let views = entries.iter().map(convert::entry_view);
    let epoch = recovered.rescue_epoch + 1;
    let plan = StandalonePlan::new(&survivor, views, rescue.tail, epoch, |cluster, entry| {
        if let Ok(Payload::Attributes { update, .. }) = Payload::decode_slice(entry.data) {
            // An update that is refused here is refused by the apply loop as well.
            let _ = update.apply_to(cluster);
        }
    })?;
    Ok(if rescue.keep_cluster_id { plan.keep_cluster_id() } else { plan })
}

/// This member, with as much as is known of it.
fn self_among(recovered: &Recovered) -> Member {
    let known = recovered.cluster.member(recovered.id);
    let known =
        known.or_else(|| recovered.contacts.iter().find(|member| member.id == recovered.id));
    known.cloned().unwrap_or_else(|| Member { id: recovered.id, ..Member::default() })
}

/// Checks the log, and returns its entries as far as a plan needs them: without the application data, which may be large.
fn examine(
    store: &dyn LogStore,
    snapshots: &dyn SnapshotStore,
    state: &LogState,
    metadata: &Metadata,
) -> Result<(Recovered, Vec<Entry>), BootError> {
    let mut entries = Vec::new();
    let mut see = |mut entry: Entry| {
        let normal = entry.get_entry_type() == EntryType::EntryNormal;
        if normal && !matches!(Payload::decode_slice(&entry.data), Ok(Payload::Attributes { .. })) {
            entry.data = convert::to_raft(Payload::Empty.encode());
        }
        entries.push(entry);
    };
    let recovered = recover(store, snapshots, state, metadata, &mut see)?;
    Ok((recovered, entries))
}
