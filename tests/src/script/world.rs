//! All nodes, what is between them, and who watches.

use std::collections::BTreeMap;

use oarlock_raftnode::bootstrap::{Boot, Standalone};
use oarlock_raftnode::core::Core;
use oarlock_raftnode::membership::{Change, Cluster, Member, UncommittedTail};
use oarlock_raftnode::{Config, LogReader, Role};

use super::life::Life;
use super::net::{Link, Net};
use super::node::{Around, Node};
use super::trace::Trace;
use super::twin::Twins;
use super::witness::Witness;

const CLUSTER: u64 = 0xc1;

/// A bound on everything that is repeated until nothing is left to do.
const ROUNDS: usize = 2_000;

pub(super) struct World {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) net: Net,
    pub(super) witness: Witness,
    pub(super) twins: Twins,
    pub(super) trace: Trace,
    pub(super) config: Config,
    pub(super) seed: u64,
    /// Nodes write and apply by themselves.
    pub(super) auto: bool,
    /// Reads for followers wait until they are made.
    pub(super) slow_reads: bool,
}

pub(super) fn member(id: u64) -> Member {
    Member { id, peer_urls: vec![format!("http://n{id}:1")], ..Member::default() }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            nodes: BTreeMap::new(),
            net: Net::default(),
            witness: Witness::default(),
            twins: Twins::default(),
            trace: Trace::default(),
            slow_reads: false,
            config: Config::new().snapshot_catchup_entries(0),
            seed,
            auto: false,
        }
    }

    /// Lets a node do something, and looks it over.
    pub(super) fn step<T>(
        &mut self,
        id: u64,
        act: impl FnOnce(&mut Node, &mut Around<'_>) -> T,
    ) -> Option<T> {
        let Self { nodes, net, witness, twins, trace, slow_reads, .. } = self;
        let node = nodes.get_mut(&id)?;
        let result = act(node, &mut Around { net, witness, twins, trace, slow_reads: *slow_reads });
        if let Some(life) = &node.life
            && let Err(difference) = twins.compare(id, life)
        {
            witness.violation(difference);
        }
        witness.observe(nodes, id);
        while let Some((from, to)) = self.net.lost_snapshots.pop() {
            self.snapshot_sent(from, to, false);
        }
        Some(result)
    }

    pub(super) fn act(&mut self, id: u64, act: impl FnOnce(&mut Core)) {
        self.step(id, |node, around| node.act(around, act));
    }

    pub(super) fn snapshot_sent(&mut self, from: u64, to: u64, ok: bool) {
        self.step(from, |node, around| {
            if let Some(life) = &mut node.life {
                life.sent.push_back((to, ok));
            }
            node.pump(around);
        });
    }

    /// Forgets entries up to `index`, or what nobody needs any more; how far.
    pub(super) fn compact(&mut self, id: u64, index: Option<u64>) -> Option<Result<u64, String>> {
        let sent = self.net.oldest_snapshot(id);
        self.step(id, |node, _| node.compact(index, sent))
    }

    pub(super) fn life(&self, id: u64) -> Option<&Life> {
        self.nodes.get(&id)?.life.as_ref()
    }

    pub(super) fn running(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.life.is_some()).map(|node| node.id).collect()
    }

    pub(super) fn down(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.life.is_none()).map(|node| node.id).collect()
    }

    /// Founds a cluster, and lets its members apply what they founded it with.
    pub(super) fn found(&mut self, ids: &[u64]) -> Result<(), String> {
        let mut cluster = Cluster::new(CLUSTER);
        for id in ids {
            cluster.apply(&Change::AddVoter(member(*id))).map_err(|error| error.to_string())?;
        }
        let founding = cluster.founding_entries();
        let entries = founding.iter().map(oarlock_raftnode::convert::planned_entry).collect();
        self.witness.found(Cluster::new(CLUSTER), entries);
        for &id in ids {
            self.nodes.insert(id, Node::new(id));
            self.start(id, &Boot::New { id, cluster: cluster.clone() });
        }
        self.work();
        if !self.trace.detail {
            self.trace.lines.clear();
        }
        Ok(())
    }

    pub(super) fn join(&mut self, id: u64, via: u64) -> Result<(), String> {
        let cluster = self.life(via).ok_or_else(|| format!("{via} is down"))?.core.cluster();
        let how = Boot::Join { id, cluster: Cluster::clone(cluster) };
        self.nodes.entry(id).or_insert_with(|| Node::new(id));
        self.start(id, &how);
        Ok(())
    }

    pub(super) fn start(&mut self, id: u64, how: &Boot) {
        let config = self.config.clone().seed(self.seed);
        let started = self.step(id, |node, around| node.start(how, &config, around));
        if let Some(Err(error)) = started {
            self.trace.say(id, format!("does not start: {error}"));
        }
    }

    /// A forced standalone restart.
    pub(super) fn rescue(&mut self, id: u64, tail: UncommittedTail) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let held = node.store.last_index();
        let kept = (tail == UncommittedTail::Keep).then_some(held);
        // What it writes is committed by decree, so the witness has to know before the node runs.
        let mut rehearsal = node.store.crash();
        node.store = node.store.crash();
        let how = Boot::Standalone(Standalone { tail, keep_cluster_id: false, again: false });
        match oarlock_raftnode::bootstrap::boot(&mut rehearsal, &node.snapshots, &how) {
            Ok(recovered) if recovered.rescued.is_some() => {
                let first = rehearsal.first_index();
                let log = rehearsal.entries(first, rehearsal.last_index() + 1, u64::MAX);
                let log = log.unwrap_or_default();
                self.witness.rescued(id, recovered.cluster.id(), &log, kept);
            }
            Ok(_) => {}
            Err(error) => return self.trace.say(id, format!("does not start: {error}")),
        }
        self.start(id, &how);
    }

    pub(super) fn crash(&mut self, id: u64, kept: usize) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.crash(kept);
            self.twins.died(id);
        }
    }

    /// Delivers the first packet of a link, or the first with this label; whether there was one.
    pub(super) fn deliver(&mut self, link: Link, label: Option<&str>) -> bool {
        let Some(packet) = self.net.take(link, label) else { return false };
        let (from, to) = link;
        let is_snapshot = packet.content.is_some();
        self.trace.detail(to, || format!("receives {} from {from}", packet.label));
        let outcome = self.step(to, |node, around| node.receive(from, packet, around)).flatten();
        if is_snapshot {
            self.snapshot_sent(from, to, outcome.unwrap_or(false));
        }
        true
    }

    /// Applies up to `count` of what waits on a node, and then says how far it has come.
    pub(super) fn apply(&mut self, id: u64, count: usize) {
        let mut last = None;
        for _ in 0..count {
            let Some(applied) = self.step(id, Node::apply_one).flatten() else { break };
            last = applied.or(last);
            if self.witness.has_seen_enough() {
                break;
            }
        }
        if let Some(index) = last {
            self.step(id, |node, around| node.applied(index, around));
        }
    }

    /// Writes, syncs, reports and applies everything on one node; whether there was anything.
    pub(super) fn work_on(&mut self, id: u64) -> bool {
        if self.life(id).is_none_or(Life::is_idle) {
            return false;
        }
        self.step(id, |node, around| {
            node.sync(usize::MAX, around);
            node.report(false, around);
        });
        self.apply(id, usize::MAX);
        true
    }

    /// The same on all nodes, until there is nothing left.
    pub(super) fn work(&mut self) {
        for _ in 0..ROUNDS {
            let mut busy = false;
            for id in self.running() {
                busy |= self.work_on(id);
            }
            if !busy || self.witness.has_seen_enough() {
                return;
            }
        }
        self.witness.violation("the nodes never finish their work");
    }

    /// Everything is written, applied and delivered, until nothing happens any more without a tick.
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.work();
            let links = self.net.busy();
            if links.is_empty() {
                return;
            }
            for link in links {
                for _ in 0..self.net.len(link) {
                    self.deliver(link, None);
                }
            }
            if self.witness.has_seen_enough() {
                return;
            }
        }
        self.witness.violation("the messages never end");
    }

    /// Time passes and everything settles, round after round.
    pub(super) fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for id in self.running() {
                self.step(id, Node::tick);
            }
            self.settle();
        }
    }

    /// Makes `id` the leader of those it can reach, by whatever takes the least time.
    pub(super) fn elect(&mut self, id: u64) -> Result<(), String> {
        let reachable: Vec<u64> = self
            .running()
            .into_iter()
            .filter(|other| !self.net.is_cut((id, *other)) && !self.net.is_cut((*other, id)))
            .collect();
        let leads = |world: &Self, id| {
            world.life(id).is_some_and(|life| {
                life.core.is_driven() && life.core.vitals().role == Role::Leader
            })
        };
        self.settle();
        for round in 0..100 {
            if leads(self, id) {
                return Ok(());
            }
            let leader = reachable.iter().copied().find(|other| leads(self, *other));
            let knows_leader =
                |other: &u64| self.life(*other).is_some_and(|life| life.core.vitals().leader != 0);
            if let Some(leader) = leader {
                self.step(leader, |node, around| drop(node.transfer(id, around))); // tried again in the next round
            } else if round == 0 && !reachable.iter().any(knows_leader) {
                self.step(id, Node::campaign);
            } else {
                for other in &reachable {
                    self.step(*other, Node::tick);
                }
            }
            self.settle();
        }
        Err(format!("{id} is not elected"))
    }
}
