//! Random schedules over the same nodes: whatever can happen, in an order that a seed decides.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fastrand::Rng;
use oarlock_raftnode::bootstrap::Boot;
use oarlock_raftnode::membership::record::ConfChangeTransition;
use oarlock_raftnode::membership::{Change, ChangeEntry, Configuration};
use oarlock_raftnode::{Config, Role};

use super::life::Life;
use super::node::Node;
use super::shrink::shrink;
use super::twin::Twins;
use super::world::{World, member};

/// How many of the last lines a failure shows.
const SHOWN: usize = 60;

/// Ids up to this one may become members.
const MAX_ID: u64 = 8;

/// How long it may take to find out which steps of a failing schedule matter.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a simulation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Simulated {
    /// A hash of everything that happened: the same seed gives the same.
    pub trace: u64,
    /// Entries committed.
    pub committed: u64,
    /// Times a node began to lead.
    pub elections: u64,
    /// Times a node lost power.
    pub crashes: u64,
    /// Snapshots that followers were restored from.
    pub restored: u64,
    /// Changes of the members that were done.
    pub changes: u64,
    /// Proposals that were applied where they were made.
    pub answered: u64,
    /// Reads that were served.
    pub reads: u64,
    /// Times a node lost power in the middle of installing a snapshot.
    pub torn_installs: u64,
    /// Ends in which those who were left could not go on without those who were removed.
    pub stranded: u64,
    /// Reads for followers that were made, or reported, after something else had happened.
    pub fetches: u64,
    /// Looks at a leader beside a synchronous loop: with all its writes acknowledged, and as much committed.
    pub equal: u64,
    /// The same with less committed than the synchronous loop: its disk was behind.
    pub behind: u64,
}

/// Runs `steps` random steps from `seed`; then everything heals, and everybody must come to the same state. With every
/// third seed each node has a twin in a synchronous loop beside it.
///
/// # Errors
/// What went wrong, after which steps (as few as were found to show it), and the last things that happened.
pub fn simulate(seed: u64, steps: usize) -> Result<Simulated, String> {
    let all: Vec<u64> = (0..steps as u64).collect();
    run(seed, &all, usize::MAX).map_err(|(failed_at, first)| {
        let upto = all[..failed_at.min(steps)].to_vec();
        let few = shrink(upto, PATIENCE, |steps| run(seed, steps, usize::MAX).is_err());
        // Once more, with all details of the end.
        let again = run(seed, &few, few.len().saturating_sub(8));
        let (_, detailed) = again.err().unwrap_or((failed_at, first));
        format!(
            "seed {seed} fails after {failed_at} steps; {} of them are enough: {detailed}\n\
             OARLOCK_SEED={seed} cargo test -p oarlock-tests --test scenarios random",
            few.len()
        )
    })
}

/// Fails with the number of steps done. Each step is drawn from its own number, so that any may be left out.
fn run(seed: u64, steps: &[u64], detail_from: usize) -> Result<Simulated, (usize, String)> {
    let mut simulation = Simulation::new(seed);
    let mut done = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for step in steps {
            simulation.world.trace.detail = done >= detail_from;
            simulation.rng = Rng::with_seed(step_seed(seed, *step));
            simulation.step();
            done += 1;
            simulation.check()?;
        }
        simulation.converge()
    }));
    let error = match outcome {
        Ok(Ok(())) => {
            simulation.result.trace = simulation.hasher.finish();
            simulation.result.committed = simulation.world.witness.committed();
            simulation.result.equal = simulation.world.twins.equal;
            simulation.result.behind = simulation.world.twins.behind;
            return Ok(simulation.result);
        }
        Ok(Err(error)) => error,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            simulation.drain();
            done += 1;
            format!("panic: {text}")
        }
    };
    let recent = &simulation.recent;
    let shown = recent[recent.len().saturating_sub(SHOWN)..].join("\n  ");
    Err((done, format!("{error}\n  {shown}")))
}

impl AddAssign for Simulated {
    fn add_assign(&mut self, other: Self) {
        self.trace ^= other.trace;
        self.committed += other.committed;
        self.elections += other.elections;
        self.crashes += other.crashes;
        self.restored += other.restored;
        self.changes += other.changes;
        self.answered += other.answered;
        self.reads += other.reads;
        self.torn_installs += other.torn_installs;
        self.stranded += other.stranded;
        self.equal += other.equal;
        self.behind += other.behind;
        self.fetches += other.fetches;
    }
}

fn step_seed(seed: u64, step: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, step).hash(&mut hasher);
    hasher.finish()
}

pub(super) struct Simulation {
    pub(super) world: World,
    rng: Rng,
    hasher: DefaultHasher,
    pub(super) result: Simulated,
    recent: Vec<String>,
    next_word: u64,
    /// Ids that were ever given to a member.
    used: u64,
    /// How seldom a node leaves lying what it has to do, so that much happens in some runs, and much at once in others.
    haste: u8,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(seed);
        let (election_ticks, pre_vote) = (rng.u32(5..=8), rng.u8(..4) > 0);
        let with_twins = seed.is_multiple_of(3);
        if with_twins {
            world.twins = Twins::new(election_ticks as usize, pre_vote);
        }
        world.config = Config::new()
            .election_ticks(election_ticks)
            .pre_vote(pre_vote)
            // It would let a follower's time decide which votes it gives, and a twin has no time of its own.
            .check_quorum(rng.u8(..4) > 0 && !with_twins)
            .max_inflight_msgs(rng.usize(1..=8))
            .max_size_per_msg(1 << rng.u32(5..=12))
            .max_inflight_bytes(1 << rng.u32(12..=14))
            .max_apply_bytes(1 << rng.u32(5..=12))
            .max_uncommitted_bytes(1 << 12)
            .snapshot_catchup_entries(rng.u64(..4));
        world.slow_reads = rng.bool();
        let founders: Vec<u64> = (1..=rng.u64(1..=5)).collect();
        let (used, haste) = (founders.len() as u64, rng.u8(1..=3));
        let mut simulation = Self {
            world,
            rng,
            hasher: DefaultHasher::new(),
            result: Simulated::default(),
            recent: Vec::new(),
            next_word: 0,
            used,
            haste,
        };
        if let Err(error) = simulation.world.found(&founders) {
            simulation.world.witness.violation(error);
        }
        simulation
    }

    pub(super) fn note(&mut self, what: String) {
        self.world.trace.lines.push(format!("-- {what}"));
    }

    /// Takes what was printed.
    pub(super) fn drain(&mut self) {
        for line in self.world.trace.lines.drain(..) {
            line.hash(&mut self.hasher);
            let counts: [(&str, &mut u64); 5] = [
                (": leader of term", &mut self.result.elections),
                (" restores snapshot ", &mut self.result.restored),
                (" done: members ", &mut self.result.changes),
                (" applied at ", &mut self.result.answered),
                (" served at ", &mut self.result.reads),
            ];
            for (pattern, count) in counts {
                *count += u64::from(line.contains(pattern));
            }
            self.recent.push(line);
        }
        if self.recent.len() > 4 * SHOWN {
            self.recent.drain(..2 * SHOWN);
        }
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        self.drain();
        let violations = self.world.witness.take_violations();
        if !violations.is_empty() {
            return Err(violations.join("; "));
        }
        for id in self.world.running() {
            let Some(life) = self.world.life(id) else { continue };
            if !life.core.is_driven() && !life.core.is_removed() {
                return Err(format!("{id} is in quarantine, and its disk was never lost"));
            }
        }
        Ok(())
    }

    fn some_running(&mut self) -> Option<u64> {
        let running = self.world.running();
        self.rng.choice(running)
    }

    /// The leader, more often than not: it is from its log that others go on, or from its snapshot.
    fn leader_or_some(&mut self) -> Option<u64> {
        self.leader().filter(|_| self.rng.bool()).or_else(|| self.some_running())
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let leads = |id: &u64| {
            self.world.life(*id).is_some_and(|life| {
                life.core.is_driven() && life.core.vitals().role == Role::Leader
            })
        };
        let newest = |id: &u64| self.world.life(*id).map_or(0, |life| life.core.vitals().term);
        self.world.running().into_iter().filter(leads).max_by_key(newest)
    }

    fn step(&mut self) {
        match self.rng.u32(..1000) {
            0..180 => {
                if let Some(id) = self.some_running() {
                    self.tick(id);
                }
            }
            180..520 => self.deliver(),
            520..640 => {
                if let Some(id) = self.some_running() {
                    let (count, reported) = (self.rng.usize(1..=4), self.rng.bool());
                    self.world.step(id, |node, around| {
                        node.sync(count, around);
                        if reported {
                            node.report(false, around);
                        }
                    });
                }
            }
            640..710 => {
                if let Some(id) = self.some_running() {
                    let together = self.rng.bool();
                    self.world.step(id, |node, around| node.report(together, around));
                }
                self.fetch();
            }
            710..800 => {
                if let Some(id) = self.some_running() {
                    let count = self.rng.usize(1..=6);
                    self.world.apply(id, count);
                }
            }
            800..870 => self.propose(),
            870..885 => {
                if let Some(id) = self.some_running() {
                    self.world.step(id, |node, around| node.read(around));
                }
            }
            885..895 => self.lose(),
            895..902 => self.duplicate(),
            902..917 => {
                if let Some(id) = self.leader_or_some() {
                    self.note(format!("snapshot {id}"));
                    if let Some(Err(error)) =
                        self.world.step(id, |node, around| node.snapshot(around))
                    {
                        self.world.witness.violation(error);
                    }
                }
            }
            917..935 => self.compact(),
            935..955 => self.change(),
            955..962 => self.crash(),
            962..985 => self.start(),
            985..989 => self.cut(),
            989..993 => {
                self.note("heal".into());
                self.world.net.heal(None);
            }
            993..996 => {
                if let (Some(leader), Some(to)) = (self.leader(), self.some_running()) {
                    self.note(format!("transfer {leader} {to}"));
                    // Refused unless `to` votes.
                    self.world.step(leader, |node, around| drop(node.transfer(to, around)));
                }
            }
            996..998 => {
                if let Some(id) = self.some_running() {
                    self.campaign(id);
                }
            }
            998 => {
                if let Some(id) = self.some_running() {
                    self.world.step(id, |node, around| node.publish(&format!("m{id}"), around));
                }
            }
            _ => {
                // A twin's disk never stalls.
                if !self.world.twins.are_on()
                    && let Some(id) = self.some_running()
                {
                    let stalled = self.rng.bool();
                    self.world.act(id, |core| core.handle_disk_stall(stalled));
                }
            }
        }
    }

    /// Reads, of those for whom there are some, are made, and then reported, in any order.
    fn fetch(&mut self) {
        let running = self.world.running().into_iter();
        let read =
            running.filter(|id| self.world.life(*id).is_some_and(|life| !life.fetches.is_empty()));
        let Some(id) = self.rng.choice(read.collect::<Vec<_>>()) else { return };
        let waiting = self.world.life(id).map_or(0, |life| life.fetches.len());
        if waiting > 0 {
            self.result.fetches += 1;
            let place = self.rng.usize(..waiting);
            self.world.step(id, |node, around| node.fetch(place, around));
        }
    }

    /// With twins elections do not come by themselves.
    fn tick(&mut self, id: u64) {
        let leads = self.world.life(id).is_some_and(|life| life.core.vitals().role == Role::Leader);
        if self.world.twins.are_on() && !leads && self.rng.u8(..24) == 0 {
            return self.campaign(id);
        }
        self.world.step(id, Node::tick);
    }

    pub(super) fn campaign(&mut self, id: u64) {
        self.note(format!("campaign {id}"));
        self.world.step(id, Node::campaign);
    }

    fn deliver(&mut self) {
        let Some(link) = self.rng.choice(self.world.net.busy()) else { return };
        if self.rng.u8(..8) == 0 {
            let place = self.rng.usize(..self.world.net.len(link));
            self.world.net.overtake(link, place);
        }
        for _ in 0..self.rng.usize(1..=4) {
            self.world.deliver(link, None);
        }
        if self.installs(link.1) && self.rng.u8(..4) == 0 {
            let synced = self.rng.usize(..=2);
            self.world.step(link.1, |node, around| node.sync(synced, around));
            self.cut_power(link.1);
        } else if self.rng.u8(..self.haste) > 0 {
            // What came is written, applied and answered at once.
            self.world.work_on(link.1);
        }
    }

    fn lose(&mut self) {
        let Some(link) = self.rng.choice(self.world.net.busy()) else { return };
        self.world.net.lose_one(link, None);
        self.world.tell_senders();
        if self.rng.bool() {
            self.world.act(link.0, |core| core.handle_unreachable(link.1));
        }
    }

    fn duplicate(&mut self) {
        let Some(link) = self.rng.choice(self.world.net.busy()) else { return };
        self.world.net.duplicate(link, None);
    }

    fn propose(&mut self) {
        let Some(id) = self.some_running() else { return };
        let words: Vec<String> = (0..self.rng.usize(1..=3))
            .map(|_| {
                self.next_word += 1;
                format!("w{}", self.next_word)
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.world.step(id, |node, around| node.propose(&words, around));
    }

    fn compact(&mut self) {
        let Some(id) = self.leader_or_some() else { return };
        // As the node thread does, or more than it may.
        let last = self.world.life(id).map_or(0, |life| life.log.last());
        let index = self.rng.bool().then(|| self.rng.u64(..=last));
        self.note(format!("compact {id} {index:?}"));
        if let Some(Err(error)) = self.world.compact(id, index) {
            self.world.witness.violation(error);
        }
    }

    /// One loses power, or several at once.
    fn crash(&mut self) {
        let mut running = self.world.running();
        self.rng.shuffle(&mut running);
        let count = if self.rng.u8(..4) == 0 { self.rng.usize(1..=MAX_ID as usize) } else { 1 };
        running.into_iter().take(count).for_each(|id| self.cut_power(id));
    }

    fn cut_power(&mut self, id: u64) {
        let kept = self.rng.usize(..4);
        self.note(format!("crash {id} keep {kept}"));
        self.result.torn_installs += u64::from(self.installs(id));
        self.world.crash(id, kept);
        self.result.crashes += 1;
    }

    fn installs(&self, id: u64) -> bool {
        self.world.life(id).is_some_and(Life::installs)
    }

    /// Starts one that is down, or one that was added and has never run.
    fn start(&mut self) {
        let down = self.world.down();
        if let Some(id) = self.rng.choice(down) {
            return self.world.start(id, &Boot::Restart);
        }
        let Some(via) = self.some_running() else { return };
        self.join_missing(via);
    }

    /// Starts a member that `via` knows and that has never run.
    pub(super) fn join_missing(&mut self, via: u64) -> bool {
        let Some(life) = self.world.life(via) else { return false };
        let members = life.core.cluster().members();
        let missing = members.map(|member| member.id).find(|id| !self.world.nodes.contains_key(id));
        let Some(id) = missing else { return false };
        self.note(format!("join {id} {via}"));
        if let Err(error) = self.world.join(id, via) {
            self.world.witness.violation(error);
        }
        true
    }

    fn cut(&mut self) {
        let ids: Vec<u64> = self.world.nodes.keys().copied().collect();
        let (Some(one), Some(other)) = (self.rng.choice(&ids), self.rng.choice(&ids)) else {
            return;
        };
        let links = if self.rng.bool() {
            vec![(*one, *other)]
        } else {
            ids.iter().flat_map(|id| [(*one, *id), (*id, *one)]).collect()
        };
        self.note(format!("cut {links:?}"));
        for link in links {
            self.world.net.cut(link);
        }
        self.world.tell_senders();
    }

    fn change(&mut self) {
        let Some(on) = self.some_running() else { return };
        let Some(life) = self.world.life(on) else { return };
        let configuration = life.core.configuration().clone();
        if configuration.is_joint() && !configuration.auto_leave() {
            self.note(format!("leave-joint {on}"));
            let leave = ChangeEntry::leave_joint();
            self.world.step(on, |node, around| node.change(leave, around));
            return;
        }
        let mut changes: Vec<Change> = Vec::new();
        for _ in 0..self.rng.usize(1..=3) {
            let change = self.one_change(&configuration);
            changes.extend(
                change.filter(|change| changes.iter().all(|other| other.id() != change.id())),
            );
        }
        let change = match (changes.len(), self.rng.u8(..4)) {
            (0, _) => return,
            (1, 1..) => ChangeEntry::new(changes.remove(0)),
            (_, 0) => ChangeEntry::joint(changes, ConfChangeTransition::Explicit),
            (_, 1) => ChangeEntry::joint(changes, ConfChangeTransition::Implicit),
            _ => ChangeEntry::joint(changes, ConfChangeTransition::Auto),
        };
        self.note(format!("{on}: {}", super::text::change(&change)));
        self.world.step(on, |node, around| node.change(change, around));
    }

    fn one_change(&mut self, configuration: &Configuration) -> Option<Change> {
        let voters: Vec<u64> = configuration.voters().iter().copied().collect();
        let learners: Vec<u64> = configuration.learners().iter().copied().collect();
        match self.rng.u8(..6) {
            0 | 1 if self.used < MAX_ID => {
                self.used += 1;
                Some(Change::AddLearner(member(self.used)))
            }
            2 if self.used < MAX_ID => {
                self.used += 1;
                Some(Change::AddVoter(member(self.used)))
            }
            3 | 4 if !learners.is_empty() => self.rng.choice(learners).map(Change::Promote),
            5 if voters.len() > 2 => self.rng.choice(voters).map(Change::Remove),
            _ => None,
        }
    }
}
