//! The counters behind [`Stats`].

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::planted::planted;
use crate::{PeerStats, Refusal, Stats};

/// Peers beyond this number are counted only if they were added: anybody can say hello under any id.
const MAX_PEERS: usize = 1024;

/// One lock for all of them: it is taken once per frame, held for nanoseconds, and never while calling anybody.
#[derive(Default)]
pub(crate) struct Counters(Mutex<Stats>);

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        self.0.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.0.lock());
    }

    /// Changes a known peer's counters; those of a removed one stay gone.
    pub(crate) fn peer(&self, id: u64, change: impl FnOnce(&mut PeerStats)) {
        if let Some(peer) = self.0.lock().peers.get_mut(&id) {
            change(peer);
        }
    }

    pub(crate) fn add_peer(&self, id: u64) {
        self.0.lock().peers.entry(id).or_default();
    }

    /// As [`add_peer`](Self::add_peer), for one that was only admitted.
    pub(crate) fn admit_peer(&self, id: u64) {
        let mut stats = self.0.lock();
        if stats.peers.len() < MAX_PEERS || planted("everybody-is-remembered") {
            stats.peers.entry(id).or_default();
        }
    }

    pub(crate) fn remove_peer(&self, id: u64) {
        self.0.lock().peers.remove(&id);
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        bump(&mut self.0.lock().refused, refusal.label());
    }

    pub(crate) fn refused_us(&self, id: u64, refusal: &Refusal) {
        self.peer(id, |peer| bump(&mut peer.refused_us, refusal.label()));
    }
}

pub(crate) fn bump(counts: &mut BTreeMap<&'static str, u64>, label: &'static str) {
    *counts.entry(label).or_default() += 1;
}
