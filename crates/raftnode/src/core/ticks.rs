//! Logical time: ticks, and when an election is due.

use raft::StateRole;

use super::{Core, Event};
use crate::planted::planted;

/// Missed ticks that are made up for at most (O17). A burst of them would start an election for no reason.
const MAX_REPLAYED: u32 = 2;

/// Election timeouts, drawn from the core's own generator.
///
/// raft-rs draws a random timeout from the thread's generator whenever it resets, which cannot be reproduced. So the
/// core replaces it before each tick, and draws a new one when raft-rs would have: when the term or role changed, or a
/// campaign was started again.
#[derive(Debug)]
pub(super) struct Ticks {
    rng: fastrand::Rng,
    election: usize,
    drawn: usize,
    basis: Option<(u64, StateRole)>,
    /// Ticks that passed while a snapshot was being installed.
    missed: u32,
    skipped: u64,
}

impl Ticks {
    pub(super) fn new(seed: u64, election_ticks: u32) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            election: election_ticks as usize,
            drawn: 0,
            basis: None,
            missed: 0,
            skipped: 0,
        }
    }

    fn timeout(&mut self, term: u64, role: StateRole) -> usize {
        if self.basis != Some((term, role)) {
            self.basis = Some((term, role));
            self.drawn = self.rng.usize(self.election..2 * self.election);
        }
        self.drawn
    }
}

impl Core {
    /// A heartbeat interval has passed.
    ///
    /// While a snapshot waits to be installed, or is being installed, ticks are skipped and counted, because raft-rs
    /// would look for entries that the log does not have then. At most two of them are made up for afterwards (O17).
    pub fn handle_tick(&mut self) {
        if !self.is_driven() {
            return;
        }
        if self.installing() && !planted("ticks-during-install") {
            self.ticks.missed += 1;
            self.ticks.skipped += 1;
            return;
        }
        self.tick();
    }

    /// Lets several heartbeat intervals pass at once: for an early first election, and in tests.
    pub fn advance_ticks(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.handle_tick();
        }
    }

    /// Ticks skipped so far because of snapshots.
    #[must_use]
    pub const fn ticks_skipped(&self) -> u64 {
        self.ticks.skipped
    }

    pub(super) fn replay_ticks(&mut self) {
        for _ in 0..std::mem::take(&mut self.ticks.missed).min(MAX_REPLAYED) {
            self.tick();
        }
    }

    fn tick(&mut self) {
        let raft = &self.raw.raft;
        let lone = raft.state == StateRole::Follower && raft.promotable() && self.is_sole_voter();
        if lone && raft.leader_id == 0 && !self.must_not_campaign() {
            // An only voter need not wait for its election timeout: there is nobody to disturb, and nobody else to elect.
            self.handle_campaign();
        }
        let raft = &mut self.raw.raft;
        let timeout = self.ticks.timeout(raft.term, raft.state);
        raft.set_randomized_election_timeout(timeout);
        if self.lease.bound() > 1
            && raft.state != StateRole::Leader
            && !planted("promise-cut-short-by-a-shorter-timeout")
        {
            // A promise of an earlier incarnation may last longer than this one's election timeout: hold that back.
            raft.election_elapsed = raft.election_elapsed.min(timeout - 2);
        }
        if !self.would_win_too_early() {
            self.tell_view();
            self.note_active();
            self.raw.tick();
        }
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader && raft.election_elapsed == 0 {
            self.ticks.basis = None; // it campaigned, perhaps again in the same role
        }
        if let Some(longest) = self.lease.tick() {
            self.events.push_back(Event::PromisesKept { longest });
        }
        self.tick_stall();
        self.tick_reads();
        self.tick_forwards();
    }

    /// Starts an election now. Does nothing if this node must not campaign: it is no voter, a snapshot or a conf change
    /// is still to be applied, or, with leases, its promise to a leader is in force.
    pub fn handle_campaign(&mut self) {
        if self.is_driven()
            && !self.installing()
            && !self.must_not_campaign()
            && self.raw.raft.promotable()
            && !self.would_win_too_early()
        {
            self.tell_view();
            let _ = self.raw.campaign(); // its only errors are about messages from elsewhere
        }
    }

    /// Whether this node would win an election at once, before the end of its log is durable.
    ///
    /// raft-rs panics on that (`become_leader`). Where there are other voters it cannot happen: requests for votes wait
    /// for the disk (O7). An only voter asks nobody, and it may be a follower with writes in flight: after it stepped
    /// down, after a message of a later term, or when the leader removed itself.
    pub(super) fn would_win_too_early(&self) -> bool {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        raft.state != StateRole::Leader && self.is_sole_voter() && log.persisted < log.last_index()
    }
}
