//! The core beside the plain loop that raft-rs's documentation shows: write, sync, send, advance, one Ready at a time.
//!
//! Each core has a twin that gets the same messages, proposals and campaigns in the same order, and for which every write
//! is durable at once. Under any schedule of acknowledgements, losses and crashes the core has the twin's term, role and
//! log, never commits what the twin has not, and as a leader whose writes are all acknowledged commits as much; in the end
//! both have committed the same.

use std::collections::BTreeMap;

use oarlock_raftnode::core::{StepError, should_wait_wal_sync};
use oarlock_raftnode::raft::eraftpb::{Entry, Message, MessageType};
use oarlock_raftnode::raft::storage::MemStorage;
use oarlock_raftnode::raft::{Config, RawNode, StateRole};
use oarlock_raftnode::{LogReader, LogStore, Role};

mod support;
use support::sim::{Packet, Sim, SimNode};

const SEEDS: u64 = 120;
const STEPS: usize = 500;
/// No election comes by itself: raft-rs draws its timeouts from the thread's generator, and the twin would draw others.
const NEVER: u32 = 1 << 20;

/// raft-rs in the synchronous loop.
struct Twin {
    raw: RawNode<MemStorage>,
    store: MemStorage,
    /// What it would have applied, by index.
    committed: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl Twin {
    /// Goes on from what a node's disk holds, all of it applied.
    fn of(id: u64, voters: u64, node: &SimNode, pre_vote: bool) -> Self {
        let voters: Vec<u64> = (1..=voters).collect();
        let store = MemStorage::new_with_conf_state((voters, vec![]));
        let state = node.store.state().expect("it reads");
        let (first, last) = (state.first_index, state.last_index);
        let entries = node.store.reader().entries(first, last + 1, u64::MAX).expect("it reads");
        store.wl().append(&entries).expect("contiguous");
        store.wl().set_hardstate(state.hard_state.clone());
        let config = Config {
            election_tick: NEVER as usize,
            heartbeat_tick: 1,
            applied: state.hard_state.commit,
            pre_vote,
            max_inflight_msgs: 512,
            ..Config::new(id)
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store.clone(), &logger).expect("it starts");
        Self { raw, store, committed: BTreeMap::new() }
    }

    /// Everything that is to be done, at once. What it says is of no interest: its core speaks.
    fn run(&mut self) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let entries = ready.take_entries();
            let overlap = should_wait_wal_sync(&entries, ready.committed_entries());
            assert!(!overlap, "raft 0.7 commits what is still to be written");
            self.store.wl().append(&entries).expect("contiguous");
            if let Some(hard_state) = ready.hs() {
                self.store.wl().set_hardstate(hard_state.clone());
            }
            self.commit(ready.take_committed_entries());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.store.wl().mut_hard_state().commit = commit;
            }
            self.commit(light.take_committed_entries());
            self.raw.advance_apply();
        }
    }

    fn commit(&mut self, entries: Vec<Entry>) {
        let entries = entries.into_iter().map(|e| (e.index, (e.term, e.data.to_vec())));
        self.committed.extend(entries);
    }

    fn propose(&mut self, entry: &Entry) {
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let entry = Entry { data: entry.data.clone(), ..Entry::default() };
        message.set_entries(vec![entry].into());
        self.raw.raft.step(message).expect("a leader takes it");
    }

    fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }
}

/// Both, and how often they could be told apart.
struct Pair {
    seed: u64,
    sim: Sim,
    twins: BTreeMap<u64, Twin>,
    pre_vote: bool,
    /// Comparisons with all writes acknowledged, and states in which the core had less than its twin.
    equal: u64,
    behind: u64,
}

impl Pair {
    fn new(seed: u64, count: u64, pre_vote: bool) -> Self {
        let mut sim = Sim::new_with(count, seed, |config| {
            config.election_ticks(NEVER).check_quorum(false).pre_vote(pre_vote)
        });
        sim.settle();
        let twins = BTreeMap::new();
        let mut pair = Self { seed, sim, twins, pre_vote, equal: 0, behind: 0 };
        (1..=count).for_each(|id| pair.born(id));
        pair
    }

    /// A node has started: everything on its disk is applied before anything else happens.
    fn born(&mut self, id: u64) {
        while self.sim.write(id) || self.sim.sync(id) || self.sim.apply(id) {}
        let count = self.sim.nodes.len() as u64;
        self.twins.insert(id, Twin::of(id, count, self.sim.node(id), self.pre_vote));
        self.sim.nodes.get_mut(&id).expect("a node").appended.clear();
        self.compare(id);
    }

    fn twin(&mut self, id: u64) -> &mut Twin {
        self.twins.get_mut(&id).expect("a twin")
    }

    fn deliver(&mut self, from: u64, to: u64, packet: Packet) {
        let Packet::Raft(message) = packet else {
            return self.sim.deliver(from, to, packet);
        };
        let taken = self.sim.core(to).handle_message(from, message.clone());
        if matches!(taken, Ok(()) | Err(StepError::Raft(_))) {
            let _ = self.twin(to).raw.step(message); // as little use to it as to the core
        }
        self.sim.poll(to);
    }

    fn campaign(&mut self, id: u64) {
        let status = self.sim.node(id).core.status();
        if self.twins.len() == 1 && status.durable < status.last_index {
            return; // the core waits for its disk then, and the twin has no disk to wait for
        }
        self.sim.core(id).handle_campaign();
        let _ = self.twin(id).raw.campaign();
        self.sim.poll(id);
    }

    /// Lets the twin do what the core has done by itself, and compares.
    fn compare(&mut self, id: u64) {
        let node = self.sim.nodes.get_mut(&id).expect("a node");
        let appended = std::mem::take(&mut node.appended);
        let twin = self.twins.get_mut(&id).expect("a twin");
        twin.run();
        for entry in appended {
            // Proposals that the core has appended, its own and those that were forwarded to it.
            if twin.raw.raft.state == StateRole::Leader && entry.index > twin.last_index() {
                twin.propose(&entry);
                twin.run();
            }
        }
        let status = node.core.status();
        let raft = &twin.raw.raft;
        let seed = self.seed;
        let ours = (status.term, status.role, status.leader, status.last_index);
        let theirs =
            (raft.term, Role::from(raft.state), raft.leader_id, raft.raft_log.last_index());
        assert_eq!(ours, theirs, "seed {seed}, node {id}: term, role, leader, last index");
        let (ours, theirs) = (status.commit, raft.raft_log.committed);
        assert!(
            ours <= theirs,
            "seed {seed}, node {id} commits {ours}, a synchronous loop {theirs}"
        );
        // What the twin committed in an earlier leadership the core may learn of only when it commits in this one.
        let in_this_term = raft.raft_log.term(theirs).is_ok_and(|term| term == raft.term);
        if node.is_quiet() && status.role == Role::Leader && in_this_term {
            assert_eq!(
                ours, theirs,
                "seed {seed}, node {id} is done, and a synchronous loop further"
            );
            self.equal += 1;
        }
        self.behind += u64::from(ours < theirs);
    }

    fn step(&mut self, rng: &mut fastrand::Rng, lossy: bool, crashes: bool, proposed: &mut u32) {
        let id = 1 + rng.u64(..self.twins.len() as u64);
        let mut touched = vec![id];
        match rng.u32(..100) {
            0..45 => {
                for _ in 0..rng.usize(1..6) {
                    if self.sim.net.is_empty() {
                        break;
                    }
                    let at = if lossy { rng.usize(..self.sim.net.len()) } else { 0 };
                    let (from, to, packet) = self.sim.net.remove(at).expect("within");
                    if !(lossy && rng.u32(..8) == 0) {
                        self.deliver(from, to, packet);
                        self.compare(to);
                    }
                }
            }
            45..65 => {
                self.sim.write(id);
                if rng.bool() {
                    self.sim.sync(id);
                }
            }
            65..75 => {
                self.sim.apply(id);
            }
            75..90 => {
                if let Some(leader) = self.sim.leader() {
                    *proposed += 1;
                    self.sim.propose(leader, &format!("{proposed}"));
                    touched.push(leader);
                }
            }
            90..94 => {
                let leads = self.sim.node(id).core.vitals().role == Role::Leader;
                if leads {
                    self.sim.tick(id); // heartbeats
                    let _ = self.twin(id).raw.tick();
                }
            }
            94..97 => self.campaign(id),
            _ if crashes => {
                self.sim.crash(id, rng.usize(..3));
                self.born(id);
            }
            _ => {}
        }
        touched.into_iter().for_each(|id| self.compare(id));
    }

    /// Nothing is lost any more, and every disk is done: they end in the same state.
    fn end(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "seed {}: it does not come to rest", self.seed);
            let mut busy = false;
            for id in self.twins.keys().copied().collect::<Vec<_>>() {
                busy |= self.sim.write(id) | self.sim.sync(id) | self.sim.apply(id);
                self.compare(id);
            }
            for (from, to, packet) in std::mem::take(&mut self.sim.net) {
                busy = true;
                self.deliver(from, to, packet);
                self.compare(to);
            }
            if busy {
                continue;
            }
            // One of an earlier term is not heard any more, and without check-quorum does not know.
            let newest = self.sim.nodes.values().map(|node| node.core.vitals().term).max();
            let leader = self.sim.nodes.iter().find(|(_, node)| {
                let vitals = node.core.vitals();
                vitals.role == Role::Leader && Some(vitals.term) == newest
            });
            let Some(leader) = leader.map(|(id, _)| *id) else {
                // The one with the most in its log can win, once it knows that it no longer leads.
                let best = self.sim.nodes.iter().max_by_key(|(_, node)| {
                    let status = node.core.status();
                    let term = node.store.term(status.last_index).unwrap_or(0);
                    let leads = status.role == Role::Leader;
                    (!leads, term, status.last_index, status.term)
                });
                let best = *best.expect("a node").0;
                self.campaign(best);
                self.compare(best);
                continue;
            };
            let (commit, last) = {
                let status = self.sim.node(leader).core.status();
                (status.commit, status.last_index)
            };
            if commit == last && self.sim.nodes.values().all(|n| n.core.applied() == commit) {
                break;
            }
            self.sim.tick(leader);
            let _ = self.twin(leader).raw.tick();
            self.compare(leader);
        }
        for (id, twin) in &self.twins {
            let (ours, theirs) =
                (self.sim.node(*id).core.vitals().commit, twin.raw.raft.raft_log.committed);
            assert_eq!(ours, theirs, "seed {}, node {id} in the end", self.seed);
            for (index, entry) in &twin.committed {
                let applied = self.sim.history.get(index);
                assert_eq!(applied, Some(entry), "seed {}, node {id}, entry {index}", self.seed);
            }
        }
    }
}

#[test]
fn any_schedule_commits_what_a_synchronous_loop_commits() {
    let (mut equal, mut behind, mut committed) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (count, pre_vote) = ([1, 3, 3, 5][rng.usize(..4)], rng.bool());
        let (lossy, crashes) = (rng.bool(), rng.bool());
        let mut pair = Pair::new(seed, count, pre_vote);
        let mut proposed = 0;
        for _ in 0..STEPS {
            pair.step(&mut rng, lossy, crashes, &mut proposed);
        }
        pair.end();
        equal += pair.equal;
        behind += pair.behind;
        committed += pair.sim.history.len() as u64;
    }
    // Otherwise it shows nothing: commits are made, the pipeline lags, and catches up.
    assert!(
        committed > 20 * SEEDS && behind > SEEDS && equal > SEEDS,
        "committed {committed}, behind {behind}, equal {equal}"
    );
}

/// etcd had to save before it applied, in a cluster of one (etcd #14370). raft-rs 0.7 gives out as committed only what it
/// was told is durable, with its synchronous `advance` as well as behind a pipeline (which asserts it on every Ready).
#[test]
fn a_lone_member_is_never_given_as_committed_what_it_has_yet_to_write() {
    let mut pair = Pair::new(1, 1, false);
    pair.campaign(1);
    pair.compare(1);
    for n in 0..500 {
        pair.sim.propose(1, &format!("{n}"));
        if n % 7 == 0 {
            while pair.sim.write(1) {}
            pair.sim.sync(1);
            pair.sim.apply(1);
        }
        pair.compare(1);
    }
    pair.end();
    assert_eq!(pair.sim.node(1).lines.len(), 500);
    assert!(pair.behind > 100, "the pipeline lags in between: {}", pair.behind);
}
