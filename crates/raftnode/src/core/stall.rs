//! A disk that does not answer (O12). Check-quorum does not see it: behind a pipeline, heartbeats go on.

use raft::{INVALID_ID, StateRole};

use super::Core;
use crate::planted::planted;

#[derive(Debug, Default)]
pub(super) struct Stall {
    stalled: bool,
    /// This node is the only voter: nobody can take over.
    alone: bool,
    ticks: usize,
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

    /// The voter to which leadership is best handed over: active, and with the longest log; of several the one with
    /// the lowest id. `None` if there is none, or this node does not lead.
    #[must_use]
    pub fn successor(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return None;
        }
        let active =
            |id: &&u64| **id != raft.id && raft.prs().get(**id).is_some_and(|pr| pr.recent_active);
        let matched = |id: &u64| raft.prs().get(*id).map_or(0, |pr| pr.matched);
        self.configuration.voters().iter().filter(active).copied().rev().max_by_key(matched)
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
