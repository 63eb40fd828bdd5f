//! Random schedules: calm, in which leases begin, and storms, in which all others do what they can to elect somebody else
//! while one is in force.
//!
//! Of the bugs that are planted in leases these schedules find about half. The others need a test of their own:
//! * what clocks may differ by shows only if every tick is at its worst too, within less than fifty milliseconds;
//! * a lease of an earlier term, only on a leader that has not heard what was committed while others led;
//! * a lease that outlives a change, only after several changes that leave no majority in common, all within that lease; one
//!   while a change is pending or half made is forbidden as a precaution, and no reading of it alone is stale;
//! * a promise that is cut short or not written down, only by one certain restart at one certain time, and a voter that takes
//!   itself for the only one, only after a change whose commit was lost;
//! * what the threads do with time is not seen by cores.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oarlock_raftnode::membership::record::ConfChangeTransition;
use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::{Config, Role};

use crate::clock::{Clock, DRIFT};
use crate::storm::Storm;
use crate::support::member;
use crate::support::sim::{Packet, Sim};

const SEEDS: u64 = 50;
/// Milliseconds.
const LENGTH: u64 = 20_000;
const STEP: u64 = 10;

type Sent = (u64, u64, Packet);

pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) sim: Sim,
    pub(crate) clocks: BTreeMap<u64, Clock>,
    /// On their way, with when they arrive.
    pub(crate) delayed: Vec<(u64, Sent)>,
    /// Nothing that these send from now on arrives, nor what is sent to them; what is on its way does.
    pub(crate) cut: Vec<u64>,
    pub(crate) now: u64,
    /// How long messages take.
    pub(crate) delay: u64,
    pub(crate) storm: Storm,
    /// Some have no leases, and promise nothing.
    mixed: bool,
    leased: u64,
    /// In which somebody led.
    terms: BTreeSet<u64>,
    next_member: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (count, pre_vote, mixed) = (rng.u64(2..=5), rng.bool(), rng.bool());
        let sim = Sim::new_with(count, seed, |config| config.lease_reads(DRIFT).pre_vote(pre_vote));
        let clocks = sim.nodes.keys().map(|id| (*id, Clock::new(&mut rng, 0))).collect();
        let mut run = Self {
            seed,
            rng,
            sim,
            clocks,
            delayed: Vec::new(),
            cut: Vec::new(),
            now: 0,
            delay: 30,
            storm: Storm::default(),
            mixed,
            leased: 0,
            terms: BTreeSet::new(),
            next_member: count,
        };
        if run.rng.u32(..6) == 0 {
            // Whoever drives these does not write down what they promise: that is to be nothing.
            run.sim.writes_promises = false;
            run.sim.config = run.sim.config.clone().election_ticks(20);
        }
        for id in 1..=count {
            run.settles_in(id);
        }
        run
    }

    fn settles_in(&mut self, id: u64) {
        if self.mixed && self.rng.u32(..5) < 2 {
            self.sim.configs.insert(id, Config::new().seed(self.seed));
        }
        self.sim.crash(id, 0);
    }

    fn run(mut self) -> (u64, u64) {
        while self.now < LENGTH {
            for id in self.ids() {
                self.time_passes(id);
            }
            let storms = self.now < self.storm.until;
            self.network(storms && self.storm.swift);
            if storms {
                self.rage();
            } else {
                self.in_calm();
                self.weather();
            }
            self.now += STEP;
        }
        (self.leased, self.terms.len() as u64)
    }

    /// Who takes part.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let nodes = self.sim.nodes.iter().filter(|(_, node)| !node.core.is_removed());
        nodes.map(|(id, _)| *id).collect()
    }

    pub(crate) fn anybody(&mut self) -> u64 {
        let ids = self.ids();
        *self.rng.choice(&ids).expect("there are some")
    }

    /// Whoever leads, as they think.
    pub(crate) fn leaders(&self) -> Vec<u64> {
        let leads = |id: &u64| self.sim.node(*id).core.vitals().role == Role::Leader;
        self.ids().into_iter().filter(leads).collect()
    }

    fn time_passes(&mut self, id: u64) {
        let calm = self.now >= self.storm.until;
        let clock = self.clocks.get_mut(&id).expect("it has one");
        let ticks = clock.passes(&mut self.rng, STEP, calm);
        let shows = Duration::from_micros(clock.shows());
        self.sim.core(id).set_time(shows);
        for _ in 0..ticks {
            self.sim.tick(id);
        }
        self.work(id);
        self.look(true);
    }

    pub(crate) fn work(&mut self, id: u64) {
        self.sim.poll(id);
        while self.sim.write(id) {}
        self.sim.sync(id);
        while self.sim.apply(id) {}
    }

    /// Everybody with a lease is read from: nothing that was applied anywhere may be missing. Some of the others are `asked`.
    fn look(&mut self, asked: bool) {
        let seen = self.sim.history.keys().next_back().copied().unwrap_or(0);
        for id in self.leaders() {
            let (seed, now) = (self.seed, self.now);
            let core = self.sim.core(id);
            self.terms.insert(core.vitals().term);
            match core.lease_read() {
                Some(index) => {
                    self.leased += 1;
                    let stale = index < seen;
                    assert!(!stale, "seed {seed}: stale on node {id} at {now}: {index} < {seen}");
                }
                None if asked && self.rng.u32(..8) == 0 => core.handle_read(now),
                None => {}
            }
        }
    }

    pub(crate) fn deliver(&mut self, (from, to, packet): Sent) {
        self.sim.deliver(from, to, packet);
        self.look(false);
    }

    /// What was sent since it was last looked, and is not lost.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let loss = if self.now < self.storm.until { self.storm.loss } else { 1 };
        let mut sent: Vec<Sent> = std::mem::take(&mut self.sim.net).into();
        sent.retain(|(from, to, packet)| {
            let is_snapshot = matches!(packet, Packet::Raft(message) if message.has_snapshot());
            let lost = self.cut.contains(from) || self.cut.contains(to);
            !lost && (is_snapshot || self.rng.u32(..100) >= loss)
        });
        sent
    }

    fn network(&mut self, swift: bool) {
        for _ in 0..if swift { 12 } else { 1 } {
            let mut arrives = Vec::new();
            for sent in self.sent() {
                // Some take long enough to be of another time.
                let most = if self.rng.u32(..50) == 0 { 3000 } else { self.delay };
                if swift && most == self.delay {
                    arrives.push(sent);
                } else {
                    self.delayed.push((self.now + self.rng.u64(..most), sent));
                }
            }
            let delayed = std::mem::take(&mut self.delayed);
            let (due, later): (Vec<_>, Vec<_>) =
                delayed.into_iter().partition(|(at, _)| *at <= self.now);
            self.delayed = later;
            arrives.extend(due.into_iter().map(|(_, sent)| sent));
            if self.rng.bool() {
                self.rng.shuffle(&mut arrives);
            }
            if arrives.is_empty() {
                return;
            }
            for sent in arrives {
                self.deliver(sent);
            }
            if swift {
                for id in self.ids() {
                    self.work(id);
                    self.look(false);
                }
            }
        }
    }

    fn in_calm(&mut self) {
        let id = self.anybody();
        match self.rng.u32(..200) {
            0..10 => self.propose(id),
            10 => self.transfer(id),
            11 => self.change(id),
            12..18 => self.join(id),
            18 => self.restart(id),
            _ => {}
        }
    }

    pub(crate) fn propose(&mut self, id: u64) {
        self.sim.propose(id, &format!("{}", self.now));
    }

    /// With leases most often, sometimes without, sometimes with another timeout.
    pub(crate) fn restart(&mut self, id: u64) {
        let ticks = self.rng.u32(5..20);
        let config = match self.rng.u32(..8) {
            0 | 1 if self.mixed => Config::new().seed(self.seed),
            2 | 3 => Config::new().seed(self.seed).election_ticks(ticks.min(7)),
            4 => self.sim.config.clone().election_ticks(ticks.max(6)),
            _ => self.sim.config.clone(),
        };
        self.sim.configs.insert(id, config);
        self.sim.crash(id, 0);
        let shows = Duration::from_micros(self.clocks[&id].shows());
        self.sim.core(id).set_time(shows);
    }

    pub(crate) fn transfer(&mut self, id: u64) {
        let to = self.anybody();
        let _ = self.sim.core(id).handle_transfer(to); // refused unless it leads, and `to` votes
        self.sim.poll(id);
    }

    pub(crate) fn change(&mut self, id: u64) {
        let configuration = self.sim.node(id).core.configuration().clone();
        let voters: Vec<u64> = configuration.voters().iter().copied().collect();
        let change = match configuration.learners().first() {
            Some(learner) => ChangeEntry::new(Change::Promote(*learner)),
            None if voters.len() > 3 && self.rng.bool() => {
                ChangeEntry::new(Change::Remove(*self.rng.choice(&voters).expect("more than 3")))
            }
            None if voters.len() < 6 => {
                self.next_member += 1;
                let joiner = member(self.next_member);
                if voters.len() > 2 && self.rng.bool() {
                    let leaves = *self.rng.choice(&voters).expect("more than 2");
                    let steps = vec![Change::AddVoter(joiner), Change::Remove(leaves)];
                    ChangeEntry::joint(steps, ConfChangeTransition::Implicit)
                } else {
                    ChangeEntry::new(Change::AddLearner(joiner))
                }
            }
            None => return,
        };
        self.sim.change(id, change);
    }

    /// Whoever was added and does not run yet.
    pub(crate) fn join(&mut self, via: u64) {
        let members = self.sim.node(via).core.configuration().ids();
        let joiner = members.into_iter().find(|id| !self.sim.nodes.contains_key(id));
        if let Some(joiner) = joiner
            && self.sim.node(via).core.cluster().member(joiner).is_some()
        {
            self.sim.join(joiner, via);
            let clock = Clock::new(&mut self.rng, self.now * 1000);
            self.clocks.insert(joiner, clock);
            self.settles_in(joiner);
        }
    }
}

/// Clocks that differ by what is allowed, members who count their ticks as badly as is allowed, a network that does what it
/// likes, restarts with and without leases, transfers, changes.
#[test]
fn no_read_by_lease_is_ever_stale() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("OARLOCK_SEED").unwrap_or(0);
    let seeds = number("OARLOCK_SEEDS").unwrap_or(SEEDS);
    let (mut leased, mut terms) = (0, 0);
    for seed in first..first + seeds {
        let run = Run::new(seed).run();
        (leased, terms) = (leased + run.0, terms + run.1);
    }
    assert!(leased > 50 * seeds, "{leased} reads tried it");
    assert!(terms > 5 * seeds, "{terms} elections");
}
