//! What is counted, and who is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oarlock_membership::Cluster;
use serde::Serialize;

use crate::{NodeEnd, Vitals};

/// Callbacks for what happens in a node, for metrics and alerts. Every method defaults to doing nothing.
///
/// They are called on the node's own threads (each method says on which), so they should return quickly and must not
/// wait for the node. A panic in one ends the node.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::Duration;
///
/// use oarlock_raftnode::{Observer, Stalled};
///
/// /// Given to [`NodeBuilder::observer`](oarlock_raftnode::NodeBuilder::observer) as an `Arc`.
/// #[derive(Default)]
/// struct Metrics {
///     slowest_sync_us: AtomicU64,
///     stalls: AtomicU64,
/// }
///
/// impl Observer for Metrics {
///     fn log_synced(&self, took: Duration) {
///         self.slowest_sync_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
///     }
///     fn stalled(&self, _: Stalled) {
///         self.stalls.fetch_add(1, Ordering::Relaxed);
///     }
/// }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Term, role or leader changed; called before anything else of that Ready is done (O1). On the node thread.
    fn role_changed(&self, vitals: &Vitals) {
        let _ = vitals;
    }

    /// A write and its sync took this long. On whichever thread writes.
    fn log_synced(&self, took: Duration) {
        let _ = took;
    }

    /// The members changed. On the node thread.
    fn members_changed(&self, cluster: &Cluster) {
        let _ = cluster;
    }

    /// A heartbeat to `peer` left later than twice its interval after the last one, by `late` (O11). On the node thread.
    fn heartbeat_late(&self, peer: u64, late: Duration) {
        let _ = (peer, late);
    }

    /// The disk or the apply loop has stood still for an election timeout (O12); told once, until it moves again. On the
    /// node thread, or, when that is the one that hangs in a write, on a thread that does nothing else.
    fn stalled(&self, what: Stalled) {
        let _ = what;
    }

    /// The node has ended, its log is closed. On a thread of the node.
    fn ended(&self, end: &NodeEnd) {
        let _ = end;
    }
}

/// Who stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stalled {
    /// The oldest write, or the read of what is to be applied, is older than an election timeout. A leader of others hands
    /// over; the only voter refuses proposals.
    Disk,
    /// There is something to apply, and the state machine has taken nothing for an election timeout.
    Apply,
}

/// An [`Observer`] that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

macro_rules! stats {
    ($($(#[doc = $doc:expr])+ $name:ident,)+) => {
        /// What a node has done since it was started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Stats { $($(#[doc = $doc])+ pub $name: u64,)+ }

        /// The same, counted from any thread.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Count,)+ }

        impl Counters {
            pub(crate) fn stats(&self) -> Stats {
                Stats { $($name: self.$name.get(),)+ }
            }
        }
    };
}

stats! {
    /// Times that a leader was seen that differs from the one before (etcd's `leader_changes_seen_total`).
    leader_changes,
    /// Proposals taken from local callers.
    proposals,
    /// Proposals that ended without a result.
    proposals_failed,
    /// Proposals forwarded to the leader.
    forwards,
    /// Proposals forwarded by others and appended here.
    forwards_accepted,
    /// Linearizable reads answered.
    reads,
    /// Of these, reads that a leader answered by its lease.
    reads_by_lease,
    /// Linearizable reads that ended without an answer.
    reads_failed,
    /// Tries of read rounds beyond the first (etcd's `slow_read_indexes_total`).
    read_retries,
    /// Entries applied.
    applied,
    /// Writes to the log.
    writes,
    /// Syncs of the log; far fewer than writes means that group commit works.
    syncs,
    /// Heartbeats that left later than twice their interval (etcd's `heartbeat_send_failures_total`, O11).
    heartbeats_late,
    /// Ticks skipped, because a snapshot was being installed or the node thread was late.
    ticks_skipped,
    /// Times that a follower was sent nothing more, because as much was under way to it as may be:
    /// [`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes) or
    /// [`max_inflight_msgs`](crate::Config::max_inflight_msgs).
    inflight_pauses,
    /// Messages from peers that the validator refused.
    messages_refused,
    /// Messages from peers left for them to repeat, because of a bound.
    messages_shed,
    /// Snapshots of the own state written.
    snapshots_taken,
    /// Snapshots of the own state given up.
    snapshots_failed,
    /// Snapshots sent and accepted.
    snapshots_sent,
    /// Snapshots that could not be sent, or were not accepted.
    snapshots_send_failed,
    /// Snapshots received from a leader and installed.
    snapshots_installed,
    /// Times that the disk was found stalled for longer than an election timeout (O12).
    disk_stalls,
    /// Times that the apply loop was found to stand still for longer than an election timeout.
    apply_stalls,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
