//! What a leader does about its own stalled disk (O12). Check-quorum does not notice one: heartbeats do not wait for the
//! disk, so followers keep answering.

use std::collections::BTreeSet;

use raft::{INVALID_ID, StateRole};

use super::Core;
use crate::planted::planted;

#[derive(Debug, Default)]
pub(super) struct Stall {
    stalled: bool,
    /// This node is the only voter, so nobody could take over.
    alone: bool,
    ticks: usize,
    /// Members that were active just before raft-rs's last check-quorum, which resets what it knows of that.
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
    /// To be called when the oldest write, or the read of what is to be applied, becomes older than an election timeout
    /// (`stalled`), and when that is over.
    ///
    /// A leader hands over to its best [`successor`](Self::successor). If there is none, or it has not taken over
    /// within an election timeout, the leader steps down. An only voter keeps leading, and refuses proposals.
    pub fn handle_disk_stall(&mut self, stalled: bool) {
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

    /// Remembers who is active, before a tick in which check-quorum may reset it.
    pub(super) fn note_active(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            self.stall.active.clear();
        } else if raft.election_elapsed + 1 >= raft.election_timeout() {
            let active = raft.prs().iter().filter(|(_, progress)| progress.recent_active);
            self.stall.active = active.map(|(id, _)| *id).collect();
        }
    }

    /// The best voter to hand leadership over to: active, and with the longest log; among equals, the lowest id. `None`
    /// if there is none, or this node does not lead.
    ///
    /// Once per election timeout check-quorum makes raft-rs forget who is active, until the next heartbeats are answered.
    /// Meanwhile those count that were active before.
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

    /// To be called between two Readies, where raft-rs allows a change of role.
    fn step_down(&mut self) {
        let raft = &mut self.raw.raft;
        raft.become_follower(raft.term, INVALID_ID);
    }
}
