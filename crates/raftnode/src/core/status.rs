//! What the core says of itself.

use std::collections::BTreeSet;

use super::Core;
use crate::{PeerState, PeerStatus, Role, Status, Vitals};

impl Core {
    /// Term, role, leader, commit and applied index.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let raft = &self.raw.raft;
        Vitals {
            term: raft.term,
            role: raft.state.into(),
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            applied: self.applied,
        }
    }

    /// Everything but what only the driver knows: the log's size and the counters.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let Vitals { term, role, leader, commit, applied } = self.vitals();
        let ids = |ids: &BTreeSet<u64>| ids.iter().copied().collect();
        let mut peers: Vec<PeerStatus> = Vec::new();
        if role == Role::Leader {
            peers.extend(raft.prs().iter().map(|(id, progress)| {
                let (inflight, inflight_bytes) = self.inflight.of(*id);
                PeerStatus {
                    id: *id,
                    matched: progress.matched,
                    next: progress.next_idx,
                    state: match progress.state {
                        raft::ProgressState::Probe => PeerState::Probe,
                        raft::ProgressState::Replicate => PeerState::Replicate,
                        raft::ProgressState::Snapshot => PeerState::Snapshot,
                    },
                    recently_active: progress.recent_active || *id == raft.id,
                    inflight,
                    inflight_bytes,
                    snapshot: progress.pending_snapshot,
                    promise_ms: self.lease.promise_of(*id),
                }
            }));
            peers.sort_unstable_by_key(|peer| peer.id);
        }
        let (first_index, last_index) = self.log_bounds();
        Status {
            cluster_id: self.cluster.id(),
            id: raft.id,
            term,
            vote: raft.vote,
            role,
            leader,
            transferee: raft.lead_transferee.unwrap_or(0),
            commit,
            applied,
            durable: self.pipeline.durable_index(),
            first_index,
            last_index,
            snapshot_index: raft.store().snapshot_offered().map_or(0, |mark| mark.index),
            voters: ids(self.configuration.voters()),
            voters_outgoing: ids(self.configuration.voters_outgoing()),
            learners: ids(&(self.configuration.learners() | self.configuration.learners_next())),
            peers,
            quarantined: self.quarantined,
            promise_ms: self.lease.promise_of(raft.id),
            leased: self.is_leased(),
            disk_stalled: self.stall.is_stalled(),
            ..Status::default()
        }
    }
}
