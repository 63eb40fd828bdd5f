//! Random schedules: calm, in which leases begin, and storms, in which whoever holds one is cut off while the others do all
//! they can to elect somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oarlock_raftnode::membership::record::ConfChangeTransition;
use oarlock_raftnode::membership::{Change, ChangeEntry};
use oarlock_raftnode::{Config, Role};

use crate::support::member;
use crate::support::sim::{Packet, Sim};

const SEEDS: u64 = 20;
/// Milliseconds.
const LENGTH: u64 = 40_000;
const STEP: u64 = 10;
/// In percent, and how fast clocks run then, in permille: the fastest is as much faster than the slowest as is allowed.
const DRIFT: u32 = 10;
const SPEEDS: [u64; 3] = [955, 1000, 1045];

/// When a member ticks: by its own clock, sometimes late, and then twice at once.
struct Clock {
    speed: u64,
    /// In microseconds of its own.
    due: u64,
    late: u64,
}

impl Clock {
    fn new(rng: &mut fastrand::Rng, now: u64) -> Self {
        let speed = rng.choice(SPEEDS).expect("three");
        Self { speed, due: now * speed + rng.u64(..100_000), late: 0 }
    }

    fn ticks(&mut self, rng: &mut fastrand::Rng, own: u64) -> u32 {
        if own < self.due + self.late {
            return 0;
        }
        self.late = if rng.u32(..8) == 0 { rng.u64(..190_000) } else { 0 };
        let ticks = if own >= self.due + 100_000 { 2 } else { 1 };
        self.due += u64::from(ticks) * 100_000;
        ticks
    }
}

struct Run {
    seed: u64,
    rng: fastrand::Rng,
    sim: Sim,
    clocks: BTreeMap<u64, Clock>,
    /// On their way, with when they arrive.
    delayed: Vec<(u64, (u64, u64, Packet))>,
    now: u64,
    /// Until when; and how long messages take.
    storm: u64,
    delay: u64,
    leased: u64,
    /// In which somebody led.
    terms: BTreeSet<u64>,
    next_member: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (count, pre_vote) = (if rng.bool() { 3 } else { 5 }, rng.bool());
        let sim = Sim::new_with(count, seed, |config| config.lease_reads(DRIFT).pre_vote(pre_vote));
        let clocks = sim.nodes.keys().map(|id| (*id, Clock::new(&mut rng, 0))).collect();
        Self {
            seed,
            rng,
            sim,
            clocks,
            delayed: Vec::new(),
            now: 0,
            storm: 0,
            delay: 30,
            leased: 0,
            terms: BTreeSet::new(),
            next_member: count,
        }
    }

    fn run(mut self) -> (u64, u64) {
        while self.now < LENGTH {
            for id in self.sim.nodes.keys().copied().collect::<Vec<_>>() {
                self.node(id);
            }
            self.network();
            self.weather();
            let id = self.anybody();
            if self.now < self.storm {
                self.in_a_storm(id);
            } else {
                self.in_calm(id);
            }
            self.now += STEP;
        }
        (self.leased, self.terms.len() as u64)
    }

    fn anybody(&mut self) -> u64 {
        let ids: Vec<u64> = self.sim.nodes.keys().copied().collect();
        *self.rng.choice(&ids).expect("there are some")
    }

    fn node(&mut self, id: u64) {
        let clock = self.clocks.get_mut(&id).expect("it has one");
        let own = self.now * clock.speed;
        self.sim.core(id).set_time(Duration::from_micros(own));
        for _ in 0..clock.ticks(&mut self.rng, own) {
            self.sim.tick(id);
        }
        self.sim.poll(id);
        while self.sim.write(id) {}
        self.sim.sync(id);
        while self.sim.apply(id) {}
        let vitals = self.sim.node(id).core.vitals();
        if vitals.role == Role::Leader {
            self.terms.insert(vitals.term);
            if self.rng.bool() {
                self.read(id);
            }
        }
    }

    /// None by lease may miss what was applied anywhere before.
    fn read(&mut self, id: u64) {
        let (seed, now) = (self.seed, self.now);
        let seen = self.sim.history.keys().next_back().copied().unwrap_or(0);
        let core = self.sim.core(id);
        let Some(index) = core.lease_read() else { return core.handle_read(now) };
        self.leased += 1;
        assert!(index >= seen, "seed {seed}: stale on node {id} at {now}: {index} < {seen}");
    }

    fn network(&mut self) {
        for packet in std::mem::take(&mut self.sim.net) {
            // Some take long enough to be of another time.
            let most = if self.rng.u32(..50) == 0 { 3000 } else { self.delay };
            if self.rng.u32(..100) != 0 {
                self.delayed.push((self.now + self.rng.u64(..most), packet));
            }
        }
        let delayed = std::mem::take(&mut self.delayed);
        let (due, later) = delayed.into_iter().partition(|(at, _)| *at <= self.now);
        self.delayed = later;
        let due: Vec<(u64, (u64, u64, Packet))> = due;
        for (_, (from, to, packet)) in due {
            self.sim.deliver(from, to, packet);
        }
    }

    /// A storm begins when somebody has just got a lease, most often, and lasts longer than the lease.
    fn weather(&mut self) {
        if self.now == self.storm {
            self.sim.cut.clear();
            self.delay = if self.rng.u32(..4) == 0 { 450 } else { 30 };
        }
        let quiet = self.now >= self.storm + 500;
        let leased = self.sim.nodes.iter().find(|(_, node)| node.core.status().leased);
        if let Some((&leader, _)) = leased
            && quiet
            && self.rng.u32(..20) == 0
        {
            self.storm = self.now + 10 * self.rng.u64(60..200);
            let cuts_off = self.rng.u32(..5) != 0;
            self.sim.cut = if cuts_off { vec![leader] } else { Vec::new() };
            if self.rng.u32(..4) == 0 {
                let second = self.anybody();
                self.sim.cut.push(second);
            }
            match self.rng.u32(..4) {
                0 => self.transfer(leader),
                1 => self.change(leader),
                _ => {}
            }
        }
    }

    fn in_a_storm(&mut self, id: u64) {
        match self.rng.u32(..40) {
            0..16 => {
                self.sim.core(id).handle_campaign();
                self.sim.poll(id);
            }
            16..28 => drop(self.sim.propose(id, &format!("{}", self.now))),
            28..31 => self.restart(id),
            31 => self.transfer(id),
            32 => self.change(id),
            33 => self.join(id),
            _ => {}
        }
    }

    fn in_calm(&mut self, id: u64) {
        match self.rng.u32(..200) {
            0..10 => drop(self.sim.propose(id, &format!("{}", self.now))),
            10..12 => self.transfer(id),
            12..16 => self.change(id),
            16..22 => self.join(id),
            22 => self.restart(id),
            _ => {}
        }
    }

    /// With leases most often, sometimes without, sometimes with another timeout.
    fn restart(&mut self, id: u64) {
        let config = self.sim.config.clone();
        let config = match self.rng.u32(..8) {
            0 => Config::new().seed(self.seed),
            1 => Config::new().seed(self.seed).election_ticks(self.rng.u32(5..10)),
            2 => config.election_ticks(self.rng.u32(6..20)),
            _ => config,
        };
        self.sim.configs.insert(id, config);
        self.sim.crash(id, 0);
    }

    fn transfer(&mut self, id: u64) {
        let to = self.anybody();
        let _ = self.sim.core(id).handle_transfer(to);
        self.sim.poll(id);
    }

    fn change(&mut self, id: u64) {
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
                if voters.len() > 3 && self.rng.bool() {
                    let leaves = *self.rng.choice(&voters).expect("more than 3");
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
    fn join(&mut self, via: u64) {
        let members = self.sim.node(via).core.configuration().ids();
        let joiner = members.into_iter().find(|id| !self.sim.nodes.contains_key(id));
        if let Some(joiner) = joiner
            && self.sim.node(via).core.cluster().member(joiner).is_some()
        {
            self.sim.join(joiner, via);
            let clock = Clock::new(&mut self.rng, self.now);
            self.clocks.insert(joiner, clock);
        }
    }
}

/// Members whose clocks differ by what is allowed and who count their ticks as badly as is allowed, a network that does what
/// it likes, restarts with and without leases, transfers, changes.
#[test]
fn no_read_by_lease_is_ever_stale() {
    let (mut leased, mut terms) = (0, 0);
    for seed in 0..SEEDS {
        let run = Run::new(seed).run();
        (leased, terms) = (leased + run.0, terms + run.1);
    }
    assert!(leased > 50 * SEEDS, "{leased} reads tried it");
    assert!(terms > 5 * SEEDS, "{terms} elections");
}
