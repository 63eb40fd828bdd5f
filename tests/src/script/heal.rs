//! The end of a random schedule: everything works from now on, and everybody must come to the same state.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use oarlock_raftnode::Role;
use oarlock_raftnode::bootstrap::Boot;

use super::random::Simulation;

impl Simulation {
    /// Everything heals: somebody leads, everybody has the same, and nobody waits for a read.
    pub(super) fn converge(&mut self) -> Result<(), String> {
        self.note("everything heals".into());
        self.world.net.heal(None);
        self.world.slow_reads = false;
        for id in self.world.running() {
            self.world.act(id, |core| core.handle_disk_stall(false));
        }
        let mut proposed = false;
        for round in 0..200 {
            let down = self.world.down();
            for id in down {
                self.world.start(id, &Boot::Restart);
            }
            self.world.run(1);
            self.check()?;
            // One who was removed may lead in vain, as nobody listens who knows of it.
            let leads =
                |id: &u64| self.knows_newest_term(*id) && !self.world.witness.was_removed(*id);
            let Some(leader) = self.leader().filter(leads) else {
                self.join_any();
                if self.world.twins.are_on() {
                    self.elect(round);
                }
                continue;
            };
            if self.join_missing(leader) {
                continue;
            }
            if !proposed {
                proposed = true;
                self.world.step(leader, |node, around| node.propose(&["last"], around));
                continue;
            }
            if self.is_converged(leader) {
                return self.twins_agree();
            }
        }
        if self.is_stranded() {
            self.result.stranded += 1;
            return self.twins_agree();
        }
        for id in self.world.running() {
            self.world.show_status(id);
            self.world.show_held(id);
        }
        self.drain();
        Err("everything healed, and they do not come to the same state".into())
    }

    /// Starts a member that has never run and that somebody who takes part has among the members: whoever added it starts it,
    /// whether or not somebody leads. Its vote may be what is missing.
    fn join_any(&mut self) {
        let driven = |id: &u64| self.world.life(*id).is_some_and(|life| life.core.is_driven());
        let knowing: Vec<u64> = self.world.running().into_iter().filter(driven).collect();
        let _ = knowing.into_iter().any(|via| self.join_missing(via)); // one at a time is enough: there will be another round
    }

    /// Whether nobody who still takes part can be elected, for want of those who were removed and have stopped: what told
    /// the others that their removal was committed was lost (O19 says what can be done then).
    ///
    /// Who was removed is what the committed log says, not what anybody believes: one who stops, or does not start, and was
    /// not removed is a failure. One who was and does not know it still votes, and is not missing.
    fn is_stranded(&self) -> bool {
        let driven = |id: u64| self.world.life(id).is_some_and(|life| life.core.is_driven());
        let is_there = |id: &&u64| driven(**id) || !self.world.witness.was_removed(**id);
        let lacks = |half: &BTreeSet<u64>| {
            !half.is_empty() && 2 * half.iter().filter(is_there).count() <= half.len()
        };
        let cannot_be_elected = |id: &u64| {
            self.world.life(*id).is_some_and(|life| {
                let configuration = life.core.configuration();
                lacks(configuration.voters()) || lacks(configuration.voters_outgoing())
            })
        };
        // One who was removed and has not heard of it asks for votes in vain: those who know do not listen.
        let is_left = |id: &u64| driven(*id) && !self.world.witness.was_removed(*id);
        let left: Vec<u64> = self.world.running().into_iter().filter(is_left).collect();
        !left.is_empty() && left.iter().all(cannot_be_elected)
    }

    /// Whether no member has been told of a later term than the leader's. Of those who were removed one may have.
    fn knows_newest_term(&self, leader: u64) -> bool {
        let Some(leading) = self.world.life(leader) else { return false };
        let newest = leading.core.vitals().term;
        let members = leading.core.configuration().ids();
        let knows =
            |id: &u64| self.world.life(*id).is_none_or(|life| life.core.vitals().term <= newest);
        members.iter().all(knows)
    }

    /// With twins nobody campaigns unasked. Those with the most in their log can win, once they know that they no longer
    /// lead; but one of them may have been removed, and not know it. Each tries twice: another may be a term ahead.
    fn elect(&mut self, round: usize) {
        let mut running = self.world.running();
        running.sort_by_key(|id| {
            self.world.life(*id).map(|life| {
                let leads = life.core.vitals().role == Role::Leader;
                let votes = life.core.configuration().voters().contains(id);
                Reverse((votes, !leads, life.log.term(life.log.last()), life.log.last()))
            })
        });
        if let Some(id) = running.get(round / 2 % running.len().max(1)) {
            self.campaign(*id);
        }
    }

    /// What a synchronous loop had committed is what there is.
    fn twins_agree(&self) -> Result<(), String> {
        let witness = &self.world.witness;
        let differs =
            |(_, index, term): &(u64, u64, u64)| witness.committed_term(*index) != Some(*term);
        match self.world.twins.committed().find(differs) {
            Some((id, index, term)) => Err(format!(
                "beside {id} a synchronous loop committed {term}/{index}, and the cluster has {:?}",
                witness.committed_term(index)
            )),
            None => Ok(()),
        }
    }

    fn is_converged(&self, leader: u64) -> bool {
        let Some(leading) = self.world.life(leader) else { return false };
        let log = leading.log.last();
        // Whoever never ran, and is no member any more, is not there to be left out of a joint configuration.
        let mut ids = leading.core.configuration().ids();
        ids.retain(|id| self.world.nodes.contains_key(id));
        ids.iter().all(|id| {
            self.world.life(*id).is_some_and(|life| {
                life.machine.applied.1 == log
                    && life.machine.digest == leading.machine.digest
                    // Without time nobody asks again whether a read was lost.
                    && (life.unread() == 0 || self.world.twins.are_on())
            })
        })
    }
}
