//! A disk that does not answer (O12). Check-quorum does not see it: behind a pipeline, heartbeats go on.

use std::collections::BTreeSet;

use raft::{INVALID_ID, StateRole};

use super::Core;
use crate::planted::planted;

#[derive(Debug, Default)]
pub(super) struct Stall {
    stalled: bool,
    /// This node is the only voter: nobody can take over.
    alone: bool,
    ticks: usize,
    /// Who had answered this leader when check-quorum last looked, and had raft-rs forget it.
    active: BTreeSet<u64>,
}

impl Stall {
    pub(super) const fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Whether proposals are refused.
    pub(super) const fn refuses(&self) -> bool {
        self.stalled && self.alone
    }
}

impl Core {
    /// The oldest write is older than an election timeout, or is not any more.
    ///
    /// A leader hands over to the follower whose log is the most complete; if that has not worked within an election
    /// timeout, or there is none, it steps down. The only voter keeps its role, and refuses proposals.
    pub fn handle_write_stall(&mut self, stalled: bool) {
        let begins = stalled && !self.stall.stalled;
        self.stall.stalled = stalled;
        self.stall.alone = self.is_sole_voter();
        self.stall.ticks = 0;
        if begins && self.leads_others() {
            match self.successor() {
                Some(to) => self.begin_transfer(to),
                None => self.step_down(),
            }
        }
    }

    pub(super) fn tick_stall(&mut self) {
        if !self.stall.stalled {
            return;
        }
        self.stall.ticks += 1;
        if self.leads_others() && self.stall.ticks >= self.raw.raft.election_timeout() {
            self.step_down();
        }
    }

    /// Before a tick, in which check-quorum may look.
    pub(super) fn note_active(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            self.stall.active.clear();
        } else if raft.election_elapsed + 1 >= raft.election_timeout() {
            let active = raft.prs().iter().filter(|(_, progress)| progress.recent_active);
            self.stall.active = active.map(|(id, _)| *id).collect();
        }
    }

    /// The voter to which leadership is best handed over: active, and with the longest log; of several the one with
    /// the lowest id. `None` if there is none, or this node does not lead.
    ///
    /// Check-quorum, once in an election timeout, makes raft-rs forget who is active until the next heartbeats are answered.
    /// Meanwhile those will do who were active before.
    #[must_use]
    pub fn successor(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return None;
        }
        let active = |id: &u64| raft.prs().get(*id).is_some_and(|pr| pr.recent_active);
        let before =
            |id: &u64| self.stall.active.contains(id) && !planted("the-active-are-forgotten");
        let matched = |id: &u64| raft.prs().get(*id).map_or(0, |pr| pr.matched);
        let others =
            || self.configuration.voters().iter().copied().filter(|id| *id != raft.id).rev();
        let best = others().filter(active).max_by_key(matched);
        best.or_else(|| others().filter(before).max_by_key(matched))
    }

    fn leads_others(&self) -> bool {
        let leads = self.is_driven() && self.raw.raft.state == StateRole::Leader;
        leads && !self.stall.alone && !planted("stalled-leader-stays")
    }

    /// Between two Readies, where raft-rs allows it.
    fn step_down(&mut self) {
        let raft = &mut self.raw.raft;
        raft.become_follower(raft.term, INVALID_ID);
    }
}
