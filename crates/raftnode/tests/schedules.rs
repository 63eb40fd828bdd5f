//! Random schedules of three cores: messages late, doubled and lost, crashes, slow disks and readers. Every proposal
//! resolves, and what is said of it is true; nothing takes effect twice; every read sees what was applied before it (O22,
//! O24, O29). That no two members differ is for the simulation itself to see.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use oarlock_raftnode::membership::ProposalId;
use oarlock_raftnode::raft::eraftpb::MessageType;
use oarlock_raftnode::{Config, Payload, ProposeError, Role};

mod support;
use support::sim::{Packet, Sim};

const STEPS: u32 = 5000;
const SEEDS: u64 = 12;

struct Schedule {
    sim: Sim,
    rng: fastrand::Rng,
    lines: u64,
    /// Of the present life of their member, and not resolved yet; and where they were made.
    open: BTreeMap<ProposalId, u64>,
    /// Refused for certain.
    failed: BTreeSet<ProposalId>,
    /// Reads that are not answered: where they were asked, and what had been applied anywhere by then.
    reads: BTreeMap<u64, (u64, u64)>,
    tokens: u64,
    leaders: BTreeMap<u64, u64>,
}

impl Schedule {
    fn new(seed: u64, cache: u64, configure: impl FnOnce(Config) -> Config) -> Self {
        let mut sim = Sim::with_cache(3, seed, cache, configure);
        sim.slow_reads = true;
        let (open, failed, reads) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let rng = fastrand::Rng::with_seed(seed);
        Self { sim, rng, lines: 0, open, failed, reads, tokens: 0, leaders: BTreeMap::new() }
    }

    fn step(&mut self) {
        let id = self.rng.u64(1..=3);
        let other = self.rng.u64(1..=3);
        match self.rng.u32(..100) {
            0..8 => self.propose(id),
            8..35 => self.deliver(),
            35..50 => drop(self.sim.write(id)),
            50..62 => drop(self.sim.sync(id)),
            62..76 => drop(self.sim.apply(id)),
            76..83 => self.sim.tick(id),
            83..85 => drop(self.sim.read(id, 0)),
            85..87 => drop(self.sim.report(id, 0)),
            87..90 => self.read(id),
            90 => self.crash(id),
            91 => self.sim.snapshot(id),
            92 => drop(self.sim.core(id).handle_transfer(other)),
            93 if self.sim.cut.is_empty() => self.sim.cut = vec![id],
            93 => self.sim.cut.clear(),
            94 if id != other => self.sim.core(id).handle_unreachable(other),
            95 => self.sim.core(id).handle_campaign(),
            96 => self.cancel(),
            _ => {}
        }
        self.sim.poll(id);
        self.look();
    }

    fn propose(&mut self, id: u64) {
        self.lines += 1;
        let proposal = self.sim.propose(id, &self.lines.to_string());
        self.open.insert(proposal, id);
    }

    /// Mostly the oldest packet, sometimes any; now and then it is lost, or comes again.
    fn deliver(&mut self) {
        let Some(newest) = self.sim.net.len().checked_sub(1) else { return };
        let at = if self.rng.u32(..4) == 0 { self.rng.usize(..=newest) } else { 0 };
        let Some((from, to, packet)) = self.sim.net.remove(at) else { return };
        let is_snapshot = matches!(&packet, Packet::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot);
        match self.rng.u32(..40) {
            0 => return,
            1 if !is_snapshot => self.sim.net.push_back((from, to, packet.clone())),
            _ => {}
        }
        self.sim.deliver(from, to, packet);
    }

    fn read(&mut self, id: u64) {
        self.tokens += 1;
        let applied = self.sim.history.keys().last().copied().unwrap_or(0);
        self.reads.insert(self.tokens, (id, applied));
        self.sim.core(id).handle_read(self.tokens);
    }

    /// Nobody is left who waits for anything there.
    fn crash(&mut self, id: u64) {
        let kept = self.rng.usize(..4);
        self.sim.crash(id, kept);
        self.open.retain(|_, at| *at != id);
        self.reads.retain(|_, (at, _)| *at != id);
    }

    /// As when a deadline passes.
    fn cancel(&mut self) {
        let Some((proposal, id)) = self.open.pop_first() else { return };
        self.failed.extend(self.sim.core(id).cancel(&[proposal]));
    }

    fn look(&mut self) {
        for (id, node) in &mut self.sim.nodes {
            for (proposal, error) in node.refused.drain(..) {
                assert_eq!(
                    self.open.remove(&proposal),
                    Some(*id),
                    "{proposal:?} is resolved twice"
                );
                if !matches!(error, ProposeError::OutcomeUnknown(_)) {
                    self.failed.insert(proposal);
                }
            }
            for (token, index) in node.reads.drain(..) {
                let (_, applied) = self.reads.remove(&token).expect("it is answered once");
                assert!(index >= applied, "{id} reads at {index}, {applied} was applied before");
            }
            for (term, role) in node.roles.drain(..) {
                let leader = if role == Role::Leader {
                    *self.leaders.entry(term).or_insert(*id)
                } else {
                    *id
                };
                assert_eq!(leader, *id, "two lead term {term}");
            }
            assert!(!node.quarantined, "{id} lost entries");
        }
    }

    /// Everything works again, and leaders change: nothing stays open.
    fn end(mut self) {
        self.sim.cut.clear();
        for round in 0..160 {
            self.sim.settle();
            (1..=3).for_each(|id| self.sim.tick(id));
            self.sim.settle();
            if round % 40 == 39
                && let Some(leader) = self.sim.leader()
            {
                let _ = self.sim.core(leader).handle_transfer(leader % 3 + 1);
            }
        }
        self.look();
        let payloads =
            self.sim.history.values().map(|(_, data)| Payload::decode(&data.clone().into()));
        let applied: BTreeSet<ProposalId> =
            payloads.filter_map(|payload| payload.ok()?.id()).collect();
        self.open.retain(|proposal, _| !applied.contains(proposal));
        assert_eq!(self.open, BTreeMap::new(), "these never resolve");
        assert_eq!(self.reads, BTreeMap::new(), "these are never answered");
        let lies: Vec<_> = self.failed.intersection(&applied).collect();
        assert!(lies.is_empty(), "refused for certain, and applied: {lies:?}");
        let lines = &self.sim.node(1).lines;
        assert_eq!(
            lines.iter().collect::<BTreeSet<_>>().len(),
            lines.len(),
            "some took effect twice"
        );
        assert!((2..=3).all(|id| self.sim.node(id).lines == *lines), "somebody is behind");
    }
}

fn run(cache: u64, configure: impl Fn(Config) -> Config) {
    for seed in 0..SEEDS {
        let run = AssertUnwindSafe(|| {
            let mut schedule = Schedule::new(seed, cache, &configure);
            (0..STEPS).for_each(|_| schedule.step());
            schedule.end();
        });
        assert!(catch_unwind(run).is_ok(), "seed {seed}: see above");
    }
}

#[test]
fn any_schedule_resolves_what_was_asked_truthfully() {
    run(1024, |config| config);
}

/// One entry a message, one message at a time, nothing in memory.
#[test]
fn so_it_does_within_the_smallest_limits() {
    run(0, |config| {
        config.max_size_per_msg(1).max_inflight_bytes(1).max_inflight_msgs(1).election_ticks(5)
    });
}

/// Without the measures that keep leaders in place.
#[test]
fn so_it_does_when_anybody_may_campaign() {
    run(300, |config| config.pre_vote(false).check_quorum(false));
}
