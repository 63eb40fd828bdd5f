//! Storms: whoever has a lease is heard no more, and the others are in a hurry.

use crate::clock::{FASTEST, SLOWEST};
use crate::schedule::Run;

#[derive(Default)]
pub(crate) struct Storm {
    pub(crate) until: u64,
    /// Messages take no time.
    pub(crate) swift: bool,
    /// In percent, how many are lost.
    pub(crate) loss: u32,
    /// In percent, how often in a step a node starts again, and hands over if it leads.
    restarts: u32,
    transfers: u32,
}

impl Run {
    /// A storm begins when somebody has a lease, most often when the others are about to tick, and lasts longer than that.
    pub(crate) fn weather(&mut self) {
        if self.now == self.storm.until {
            self.cut.clear();
            self.delay = if self.rng.u32(..4) == 0 { 450 } else { 30 };
        }
        let quiet = self.now >= self.storm.until + 300;
        let leased = self.leaders().into_iter().find(|id| self.sim.node(*id).core.status().leased);
        let Some(leader) = leased.filter(|_| quiet) else { return };
        let ripe = self.ids().iter().all(|id| *id == leader || self.clocks[id].is_ripe());
        if self.rng.u32(..64) > if ripe { 32 } else { 3 } {
            return;
        }
        self.storm = Storm {
            until: self.now + 10 * self.rng.u64(60..130),
            swift: self.rng.u32(..4) != 0,
            restarts: if self.rng.bool() { self.rng.u32(1..6) } else { 0 },
            loss: 1,
            transfers: 0,
        };
        for (id, clock) in &mut self.clocks {
            clock.runs(if *id == leader { SLOWEST } else { FASTEST });
            if *id != leader {
                clock.hurry();
            }
        }
        match self.rng.u32(..8) {
            0 | 1 => self.late_answers(leader),
            2 => self.orders(leader),
            3 => self.changes(leader),
            4 => {
                (self.storm.transfers, self.storm.loss) = (30, 25);
                return; // nobody is cut off
            }
            _ => {}
        }
        self.cut.push(leader);
        if self.rng.u32(..8) == 0 {
            let second = self.anybody();
            self.cut.push(second);
        }
    }

    /// The last that the leader says is a question of a round. The answers take their time.
    fn late_answers(&mut self, leader: u64) {
        self.sim.core(leader).handle_read(self.now);
        self.sim.poll(leader);
        for sent in self.sent() {
            self.deliver(sent);
        }
        for id in self.ids() {
            self.work(id);
        }
        for sent in self.sent() {
            let late = self.rng.u64(50..1000);
            self.delayed.push((self.now + late, sent));
        }
    }

    /// The last that the leader says is that another is to lead.
    fn orders(&mut self, leader: u64) {
        let Some(to) = self.sim.node(leader).core.successor() else { return };
        let _ = self.sim.core(leader).handle_transfer(to);
        self.sim.poll(leader);
        for sent in self.sent() {
            self.deliver(sent);
        }
    }

    /// The last that the leader does is to change the members, some times.
    fn changes(&mut self, leader: u64) {
        for _ in 0..self.rng.u32(1..4) {
            self.change(leader);
            self.join(leader);
            for _ in 0..self.rng.u32(..14) {
                for sent in self.sent() {
                    self.deliver(sent);
                }
                for id in self.ids() {
                    self.work(id);
                }
            }
        }
    }

    /// Everybody but those who are cut off does what they can.
    pub(crate) fn rage(&mut self) {
        let leaders = self.leaders();
        for id in self.ids() {
            if self.cut.contains(&id) {
                continue;
            }
            if self.rng.u32(..100) < self.storm.restarts {
                self.restart(id);
            } else if !leaders.contains(&id) {
                if self.rng.bool() {
                    self.sim.core(id).handle_campaign();
                    self.sim.poll(id);
                }
            } else if self.rng.u32(..100) < self.storm.transfers {
                self.transfer(id);
            } else if self.rng.bool() {
                self.propose(id);
            }
        }
    }
}
