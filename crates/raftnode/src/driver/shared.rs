//! What the handle, the threads and the transport's callbacks share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oarlock_membership::{Cluster, ProposalId};
use oarlock_transport::Transport;
use parking_lot::{Condvar, Mutex};

use super::inbox::Inbox;
use super::links::Links;
use super::padded::Padded;
use super::watch::InlineWrite;
use crate::bootstrap::Recovered;
use crate::observer::Counters;
use crate::waiter::after;
use crate::{Config, NodeEnd, Observer, SnapshotStore, Status, Vitals};

pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) config: Config,
    pub(crate) incarnation: u64,
    pub(crate) birth: u64,
    pub(crate) inbox: Padded<Inbox>,
    pub(crate) counters: Counters,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Bytes that the log holds, as last reported by the writer.
    pub(crate) log_bytes: AtomicU64,
    /// Steps that the apply loop has taken, by which the node thread sees whether it makes progress.
    pub(crate) apply_steps: Padded<AtomicU64>,
    /// The apply loop still has to restore the snapshot that it started with.
    pub(crate) begins_with_restore: AtomicBool,
    /// A write in progress on the node thread, for others to watch.
    pub(crate) inline_write: InlineWrite,
    /// Whether the node thread writes the log itself.
    pub(crate) writes_inline: AtomicBool,
    pub(crate) transport: OnceLock<Arc<dyn Transport>>,
    pub(crate) links: Links,
    sequence: Padded<AtomicU64>,
    published: Mutex<Published>,
    changed: Condvar,
}

/// What the node thread publishes, for others to read without asking it.
pub(crate) struct Published {
    pub(crate) vitals: Vitals,
    /// The last index known to be durable here.
    pub(crate) durable: u64,
    /// What a leader knows to be durable on its peers.
    pub(crate) matched: BTreeMap<u64, u64>,
    /// The births that members have published.
    pub(crate) births: BTreeMap<u64, u64>,
    pub(crate) cluster: Arc<Cluster>,
    /// Removed members, whose connections are refused.
    pub(crate) gone: BTreeSet<u64>,
    /// The last full status that was asked for.
    pub(crate) status: Status,
    pub(crate) end: Option<NodeEnd>,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        recovered: &Recovered,
        snapshots: Arc<dyn SnapshotStore>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let vitals = Vitals {
            term: recovered.hard_state.term,
            commit: recovered.hard_state.commit,
            applied: recovered.applied(),
            ..Vitals::default()
        };
        Self {
            id: recovered.id,
            inbox: Padded(Inbox::new(config.max_waiting_proposals)),
            config,
            incarnation: recovered.incarnation,
            birth: recovered.birth,
            log_bytes: AtomicU64::new(0),
            counters: Counters::default(),
            snapshots,
            observer,
            apply_steps: Padded::default(),
            begins_with_restore: AtomicBool::new(false),
            inline_write: InlineWrite::default(),
            writes_inline: AtomicBool::new(true),
            transport: OnceLock::new(),
            links: Links::default(),
            sequence: Padded::default(),
            published: Mutex::new(Published {
                vitals,
                durable: recovered.last_index,
                matched: BTreeMap::new(),
                births: recovered.births.clone(),
                cluster: Arc::new(recovered.cluster.clone()),
                gone: BTreeSet::new(), // the node thread knows
                status: Status::default(),
                end: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// An id that no other proposal has ever had (O22): each start has an incarnation of its own.
    pub(crate) fn next_id(&self) -> ProposalId {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        ProposalId { origin: self.id, incarnation: self.incarnation, sequence }
    }

    /// Whether the state machine still has to restore the snapshot that the core counts as applied. Until then no read
    /// may be answered (O24).
    pub(crate) fn is_to_be_restored(&self) -> bool {
        self.begins_with_restore.load(Ordering::Acquire)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Published) -> T) -> T {
        read(&self.published.lock())
    }

    pub(crate) fn publish(&self, write: impl FnOnce(&mut Published)) {
        write(&mut self.published.lock());
        self.changed.notify_all();
    }

    pub(crate) fn vitals(&self) -> Vitals {
        self.read(|published| published.vitals)
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        self.read(|published| Arc::clone(&published.cluster))
    }

    /// Waits until `found` returns something for what is published, or the timeout has passed.
    pub(crate) fn wait<T>(
        &self,
        timeout: Option<Duration>,
        mut found: impl FnMut(&Published) -> Option<T>,
    ) -> Option<T> {
        let deadline = timeout.map(after);
        let mut published = self.published.lock();
        loop {
            if let Some(found) = found(&published) {
                return Some(found);
            }
            match deadline {
                None => self.changed.wait(&mut published),
                Some(deadline) => {
                    if self.changed.wait_until(&mut published, deadline).timed_out() {
                        return found(&published);
                    }
                }
            }
        }
    }
}
