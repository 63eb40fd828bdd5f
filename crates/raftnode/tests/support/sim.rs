//! Several cores wired by hand: every write, sync, delivery and apply is a step that the test chooses.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};

use oarlock_raftnode::bootstrap::{Boot, boot, forget_promises};
use oarlock_raftnode::core::{
    Core, Effects, Event, Held, MembersApplied, Persist, Restore, StepError,
};
use oarlock_raftnode::membership::{Change, ChangeEntry, Cluster, EntryKind, Member, ProposalId};
use oarlock_raftnode::raft::eraftpb::{Entry, EntryType, Message, MessageType};
use oarlock_raftnode::wire::{Forward, ForwardKind, ForwardReply};
use oarlock_raftnode::{
    ChangeMembersError, Config, Fetch, LogBatch, LogError, LogStore, MemSnapshots, MemStore,
    Payload, ProposeError, Role, SnapshotHead, SnapshotMark, SnapshotStore, Verdict, Window,
};

/// Few bytes in memory, so that entries are read back from the log too.
const COLD: u64 = 1024;

/// What is on its way.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Raft(Box<Message>),
    Forward(Forward),
    Reply(ForwardReply),
}

#[derive(Debug)]
enum Job {
    Entries(Vec<Entry>),
    Restore(Restore),
}

pub(crate) struct SimNode {
    pub(crate) core: Core,
    pub(crate) store: MemStore,
    pub(crate) snapshots: MemSnapshots,
    incarnation: u64,
    sequence: u64,
    held: Held,
    /// Appended to the store or not, in order; the flag says which.
    writes: VecDeque<(Persist, bool)>,
    jobs: VecDeque<Job>,
    window: Window,
    members: MembersApplied,
    applied: (u64, u64),
    /// What the state machine holds.
    pub(crate) lines: Vec<String>,
    pub(crate) refused: Vec<(ProposalId, ProposeError)>,
    pub(crate) changed: Vec<(ProposalId, Result<(), ChangeMembersError>)>,
    pub(crate) reads: Vec<(u64, u64)>,
    pub(crate) forwards: u64,
    pub(crate) roles: Vec<(u64, Role)>,
    pub(crate) quarantined: bool,
    pub(crate) removed: bool,
    /// Who promised less than a lease takes, or enough again, as often as that was said.
    pub(crate) promises: Vec<(u64, bool)>,
    /// Messages that left before the write of their own Ready was durable.
    pub(crate) early: Vec<Message>,
    /// Reads that are under way.
    pub(crate) fetches: VecDeque<Fetch>,
    /// Those that were made.
    pub(crate) fetched: VecDeque<(Fetch, Result<Vec<Entry>, LogError>)>,
}

/// Cores, disks, and a network that delivers nothing by itself.
pub(crate) struct Sim {
    pub(crate) config: Config,
    /// Bytes of entries in memory.
    cache: u64,
    /// Of those who start with another configuration from now on.
    pub(crate) configs: BTreeMap<u64, Config>,
    pub(crate) founders: Cluster,
    pub(crate) nodes: BTreeMap<u64, SimNode>,
    pub(crate) net: VecDeque<(u64, u64, Packet)>,
    /// Whoever is cut off neither sends nor receives.
    pub(crate) cut: Vec<u64>,
    /// Every entry that was ever applied anywhere, by index: none may change (no divergence, nothing lost).
    pub(crate) history: BTreeMap<u64, (u64, Vec<u8>)>,
    snapshot_catchup: u64,
    /// Whether those who start make durable what they promise.
    pub(crate) writes_promises: bool,
    /// Reads wait until they are [made](Sim::read).
    pub(crate) slow_reads: bool,
}

pub(crate) fn founders(count: u64) -> Cluster {
    let mut cluster = Cluster::new(99);
    for id in 1..=count {
        let member = Member { id, peer_urls: vec![format!("http://m{id}:1")], ..Member::default() };
        cluster.apply(&Change::AddVoter(member)).expect("new");
    }
    cluster
}

/// So many members, the first of which leads.
pub(crate) fn elected(count: u64) -> Sim {
    let mut sim = Sim::new(count, 1);
    sim.elect(1);
    sim.settle();
    sim
}

impl Sim {
    pub(crate) fn new(count: u64, seed: u64) -> Self {
        Self::new_with(count, seed, |config| config)
    }

    pub(crate) fn new_with(
        count: u64,
        seed: u64,
        configure: impl FnOnce(Config) -> Config,
    ) -> Self {
        Self::with_cache(count, seed, COLD, configure)
    }

    /// With so many bytes of entries in memory.
    pub(crate) fn with_cache(
        count: u64,
        seed: u64,
        cache: u64,
        configure: impl FnOnce(Config) -> Config,
    ) -> Self {
        let config = configure(Config::new().seed(seed));
        let founders = founders(count);
        let mut sim = Self {
            config,
            cache,
            configs: BTreeMap::new(),
            founders,
            nodes: BTreeMap::new(),
            net: VecDeque::new(),
            cut: Vec::new(),
            history: BTreeMap::new(),
            snapshot_catchup: 2,
            writes_promises: true,
            slow_reads: false,
        };
        for id in 1..=count {
            let cluster = sim.founders.clone();
            sim.boot(id, MemStore::new(), MemSnapshots::new(), &Boot::New { id, cluster });
        }
        sim
    }

    pub(crate) fn boot(&mut self, id: u64, store: MemStore, snapshots: MemSnapshots, how: &Boot) {
        let mut log = store.clone();
        let config = self.configs.get(&id).unwrap_or(&self.config);
        let mut recovered = boot(&mut log, &snapshots, how).expect("it boots");
        if self.writes_promises {
            recovered.promise(&mut log, config).expect("it writes");
        }
        let view = recovered.view(store.reader(), self.cache).expect("it reads");
        let core = Core::new(config, &recovered, view).expect("it starts");
        let mut lines = Vec::new();
        if let Some(id) = recovered.snapshot_id() {
            let mut source = snapshots.open(id).expect("it is there");
            SnapshotHead::read_from(&mut source.content).expect("whole");
            lines = read_lines(&mut source.content);
        }
        let members = MembersApplied {
            cluster: core.cluster().clone(),
            conf_state: core.conf_state(),
            births: core.births().clone(),
            changed: false,
        };
        let node = SimNode {
            incarnation: recovered.incarnation,
            sequence: 0,
            held: Held::default(),
            writes: VecDeque::new(),
            jobs: VecDeque::new(),
            window: recovered.window.clone(),
            members,
            applied: recovered.snapshot.as_ref().map_or((0, 0), |mark| (mark.index, mark.term)),
            lines,
            refused: Vec::new(),
            changed: Vec::new(),
            reads: Vec::new(),
            forwards: 0,
            roles: Vec::new(),
            quarantined: false,
            removed: false,
            promises: Vec::new(),
            early: Vec::new(),
            fetches: VecDeque::new(),
            fetched: VecDeque::new(),
            core,
            store,
            snapshots,
        };
        self.nodes.insert(id, node);
    }

    pub(crate) fn node(&self, id: u64) -> &SimNode {
        &self.nodes[&id]
    }

    pub(crate) fn core(&mut self, id: u64) -> &mut Core {
        &mut self.nodes.get_mut(&id).expect("a node").core
    }

    /// Takes out of the core whatever it wants done, without doing any of the slow parts.
    pub(crate) fn poll(&mut self, id: u64) {
        loop {
            let node = self.nodes.get_mut(&id).expect("a node");
            while let Some(stage) = node.core.poll_apply() {
                node.jobs.push_back(Job::Entries(stage.entries));
            }
            let effects = node.core.poll_effects().expect("the log reads");
            self.events(id);
            let Some(effects) = effects else {
                let node = self.nodes.get_mut(&id).expect("a node");
                if self.slow_reads {
                    node.fetches.extend(std::iter::from_fn(|| node.core.poll_fetch()));
                } else if node.core.fetch_inline().expect("the log reads") {
                    continue;
                }
                break;
            };
            self.carry_out(id, effects);
        }
    }

    fn carry_out(&mut self, id: u64, effects: Effects) {
        let Effects { now, persist, after_persist, apply } = effects;
        let node = self.nodes.get_mut(&id).expect("a node");
        if let Some(role) = now.role {
            node.roles.push((role.vitals.term, role.vitals.role));
        }
        if let Some(reads) = now.reads {
            node.reads.extend(reads.tokens.iter().map(|token| (*token, reads.index)));
        }
        node.early.extend(now.messages.iter().cloned());
        node.held.hold(after_persist);
        if !apply.entries.is_empty() {
            node.jobs.push_back(Job::Entries(apply.entries));
        }
        node.writes.push_back((persist, false));
        self.send(id, now.messages);
    }

    fn send(&mut self, from: u64, messages: Vec<Message>) {
        let gone = self.nodes[&from].core.gone();
        for message in oarlock_raftnode::core::prune_messages(messages, gone) {
            self.net.push_back((from, message.to, Packet::Raft(message.into())));
        }
    }

    fn events(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        while let Some(event) = node.core.poll_event() {
            match event {
                Event::Refused { id, error } => node.refused.push((id, error)),
                Event::Forward { to, forward } => {
                    node.forwards += 1;
                    self.net.push_back((id, to, Packet::Forward(forward)));
                }
                Event::ForwardReply { to, reply } => {
                    self.net.push_back((id, to, Packet::Reply(reply)));
                }
                Event::Members { id, result } => node.changed.push((id, result.map(drop))),
                Event::Quarantined(_) => node.quarantined = true,
                Event::Removed => node.removed = true,
                Event::Promise { by, enough, .. } => node.promises.push((by, enough)),
                Event::PromisesKept { longest } => {
                    forget_promises(&mut node.store, longest).expect("it writes");
                }
                Event::Disagreement { index, reason } => {
                    panic!("node {id}, entry {index}: {reason}")
                }
                _ => {}
            }
        }
    }

    /// Appends the oldest persist stage that is not in the store yet.
    pub(crate) fn write(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some((persist, written)) = node.writes.iter_mut().find(|(_, written)| !written) else {
            return false;
        };
        *written = true;
        let batch = LogBatch {
            install: persist.install.clone(),
            entries: &persist.entries,
            hard_state: persist.hard_state.clone(),
            ..LogBatch::default()
        };
        if !batch.is_empty() {
            node.store.append(&batch).expect("there is room");
        }
        true
    }

    /// Syncs the store, and reports what that made durable.
    pub(crate) fn sync(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node");
        let written = node.writes.iter().take_while(|(_, written)| *written).count();
        let Some((last, _)) = node.writes.drain(..written).next_back() else { return false };
        node.store.sync().expect("the disk works");
        node.core.handle_persisted(last.number);
        self.release(id);
        self.poll(id);
        true
    }

    /// Makes one of the reads that are under way, without reporting it.
    pub(crate) fn read(&mut self, id: u64, at: usize) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(fetch) = node.fetches.remove(at) else { return false };
        let entries = fetch.read(&*node.store.reader());
        node.fetched.push_back((fetch, entries));
        true
    }

    /// Reports one of those that were made.
    pub(crate) fn report(&mut self, id: u64, at: usize) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some((fetch, entries)) = node.fetched.remove(at) else { return false };
        node.core.handle_fetched(fetch, entries).expect("the log reads");
        self.poll(id);
        true
    }

    fn release(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        let mut messages = Vec::new();
        for stage in node.held.release(node.core.acknowledged(), node.core.change_applied()) {
            node.jobs.extend(stage.restore.map(Job::Restore));
            messages.extend(stage.messages);
        }
        self.send(id, messages);
    }

    /// Does the oldest job of the state machine.
    pub(crate) fn apply(&mut self, id: u64) -> bool {
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(job) = node.jobs.pop_front() else { return false };
        match job {
            Job::Entries(entries) => {
                for entry in entries {
                    self.apply_entry(id, &entry);
                }
                let node = self.nodes.get_mut(&id).expect("a node");
                node.core.handle_applied(node.applied.0);
            }
            Job::Restore(Restore { mark, head: announcement }) => {
                let mut source =
                    node.snapshots.open(mark.id()).expect("it was stored before it was stepped");
                let head = SnapshotHead::read_from(&mut source.content).expect("whole");
                assert!(mark.index > node.applied.0, "node {id} goes back");
                node.lines = read_lines(&mut source.content);
                node.applied = (mark.index, mark.term);
                node.window = head.window.clone();
                node.members = MembersApplied {
                    cluster: head.cluster.clone().into(),
                    conf_state: mark.conf_state.clone(),
                    births: head.births.clone(),
                    changed: true,
                };
                node.core.handle_restored(mark, head, announcement);
            }
        }
        self.poll(id);
        true
    }

    fn apply_entry(&mut self, id: u64, entry: &Entry) {
        let node = self.nodes.get_mut(&id).expect("a node");
        assert_eq!(entry.index, node.applied.0 + 1, "node {id} has a gap");
        node.applied = (entry.index, entry.term);
        let seen = (entry.term, entry.data.to_vec());
        let known = self.history.entry(entry.index).or_insert_with(|| seen.clone());
        assert_eq!(*known, seen, "node {id} diverges at index {}", entry.index);
        if entry.get_entry_type() != EntryType::EntryNormal {
            node.members = node.core.handle_change_committed(entry);
            self.events(id);
            return self.release(id);
        }
        let payload = Payload::of(entry).expect("ours");
        if payload.id().is_some_and(|id| node.window.accept(id) != Verdict::First) {
            return;
        }
        match payload {
            Payload::Application { data, .. } => {
                node.lines.push(String::from_utf8(data.to_vec()).expect("text"));
            }
            Payload::Attributes { id: proposal, update } => {
                node.members =
                    node.core.handle_attributes_committed(entry.index, proposal, &update);
                self.events(id);
            }
            _ => {}
        }
    }

    /// Takes a snapshot of a node's state and compacts its log.
    pub(crate) fn snapshot(&mut self, id: u64) {
        let catchup = self.snapshot_catchup;
        let node = self.nodes.get_mut(&id).expect("a node");
        let (index, term) = node.applied;
        let offered = node.core.status().snapshot_index;
        if index <= offered || node.members.conf_state.get_voters().is_empty() {
            return;
        }
        let mark = SnapshotMark { index, term, conf_state: node.members.conf_state.clone() };
        let head = SnapshotHead {
            mark: mark.clone(),
            cluster: (*node.members.cluster).clone(),
            window: node.window.clone(),
            births: node.members.births.clone(),
        };
        let mut sink = node.snapshots.create(mark.id()).expect("created");
        head.write_to(&mut sink).expect("written");
        node.lines.iter().try_for_each(|line| writeln!(sink, "{line}")).expect("written");
        let len = sink.commit().expect("committed");
        // The mark goes through the same queue as the writes; here it comes after all of them.
        while self.write(id) {}
        let node = self.nodes.get_mut(&id).expect("a node");
        node.store
            .append(&LogBatch { compact: Some(mark.clone()), ..LogBatch::default() })
            .expect("room");
        self.sync(id);
        let node = self.nodes.get_mut(&id).expect("a node");
        node.store.sync().expect("the disk works");
        node.core.handle_snapshot_ready(mark.clone(), head.announce(len));
        if index > catchup {
            let compacted = node.core.handle_compact(index - catchup).expect("it reads");
            node.store.release(compacted + 1).expect("covered by the mark");
        }
        self.poll(id);
    }

    /// Delivers a packet.
    pub(crate) fn deliver(&mut self, from: u64, to: u64, packet: Packet) {
        let lost =
            self.cut.contains(&from) || self.cut.contains(&to) || !self.nodes.contains_key(&to);
        match packet {
            Packet::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                let accepted = !lost && self.deliver_snapshot(from, to, *message);
                if let Some(sender) = self.nodes.get_mut(&from) {
                    sender.core.handle_snapshot_sent(to, accepted);
                    self.poll(from);
                }
                return;
            }
            _ if lost => return,
            Packet::Raft(message) => {
                let _ = self.core(to).handle_message(from, *message);
            }
            Packet::Forward(forward) => self.core(to).handle_forward(from, forward),
            Packet::Reply(reply) => self.core(to).handle_forward_reply(from, &reply),
        }
        self.poll(to);
    }

    /// Delivers what is on the network, and has everybody write and sync, but nobody apply.
    pub(crate) fn deliver_and_write(&mut self) {
        for (from, to, packet) in std::mem::take(&mut self.net) {
            self.deliver(from, to, packet);
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            while self.write(id) {}
            self.sync(id);
        }
    }

    /// Delivers a snapshot without a report to its sender; whether it was accepted.
    pub(crate) fn deliver_snapshot(&mut self, from: u64, to: u64, message: Message) -> bool {
        let metadata = message.get_snapshot().get_metadata();
        let id =
            SnapshotMark { index: metadata.index, term: metadata.term, ..SnapshotMark::default() }
                .id();
        let Some(sender) = self.nodes.get(&from) else { return false };
        let Ok(mut source) = sender.snapshots.open(id) else { return false };
        let receiver = self.nodes.get_mut(&to).expect("checked");
        let mut sink = receiver.snapshots.create(id).expect("created");
        std::io::copy(&mut source.content, &mut sink).expect("copied");
        sink.commit().expect("committed");
        let taken = receiver.core.handle_snapshot(from, message);
        self.poll(to);
        matches!(taken, Ok(()) | Err(StepError::Stale))
    }

    pub(crate) fn tick(&mut self, id: u64) {
        self.core(id).handle_tick();
        self.poll(id);
    }

    /// Power loss, of which `kept` unsynced batches survive all the same; and a restart.
    pub(crate) fn crash(&mut self, id: u64, kept: usize) {
        let node = &self.nodes[&id];
        let store = node.store.crash_keeping(kept);
        let snapshots = node.snapshots.clone();
        self.boot(id, store, snapshots, &Boot::Restart);
        self.poll(id);
    }

    /// Writes, syncs, applies and delivers until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it never settles");
            let mut busy = false;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.poll(id);
                while self.write(id) {
                    busy = true;
                }
                busy |= self.sync(id);
                busy |= self.apply(id);
                while self.read(id, 0) || self.report(id, 0) {
                    busy = true;
                }
            }
            for (from, to, packet) in std::mem::take(&mut self.net) {
                busy = true;
                self.deliver(from, to, packet);
            }
            if !busy {
                return;
            }
        }
    }

    /// Lets `id` win an election.
    pub(crate) fn elect(&mut self, id: u64) {
        self.settle();
        for _ in 0..100 {
            if self.core(id).vitals().role == Role::Leader {
                return;
            }
            if let Some(leader) = self.leader().filter(|leader| !self.cut.contains(leader)) {
                let _ = self.core(leader).handle_transfer(id);
                self.settle();
                continue;
            }
            // Past the lease in which others would not vote, whoever led before.
            let others: Vec<u64> =
                self.nodes.keys().copied().filter(|other| *other != id).collect();
            for other in others {
                self.core(other).advance_ticks(1);
            }
            self.core(id).handle_campaign();
            self.settle();
        }
        panic!("{id} does not win: {:?}", self.core(id).vitals());
    }

    pub(crate) fn leader(&mut self) -> Option<u64> {
        self.nodes
            .iter()
            .find(|(_, node)| node.core.vitals().role == Role::Leader)
            .map(|(id, _)| *id)
    }

    fn next_id(&mut self, id: u64) -> ProposalId {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.sequence += 1;
        ProposalId { origin: id, incarnation: node.incarnation, sequence: node.sequence }
    }

    pub(crate) fn propose(&mut self, at: u64, line: &str) -> ProposalId {
        let id = self.next_id(at);
        let data = Payload::Application { id, data: line.to_string().into() }.encode();
        self.core(at).handle_propose(vec![Forward {
            id,
            kind: ForwardKind::Normal,
            data,
            term: 0,
        }]);
        self.poll(at);
        id
    }

    pub(crate) fn change(&mut self, at: u64, change: ChangeEntry) -> ProposalId {
        let id = self.next_id(at);
        let (kind, data) = change.proposed_by(id).encode();
        let kind = match kind {
            EntryKind::ConfChange => ForwardKind::ConfChange,
            _ => ForwardKind::ConfChangeV2,
        };
        self.core(at).handle_propose(vec![Forward { id, kind, data, term: 0 }]);
        self.poll(at);
        id
    }

    pub(crate) fn join(&mut self, id: u64, via: u64) {
        let cluster = (**self.nodes[&via].core.cluster()).clone();
        self.boot(id, MemStore::new(), MemSnapshots::new(), &Boot::Join { id, cluster });
        self.poll(id);
    }
}

fn read_lines(content: &mut dyn Read) -> Vec<String> {
    let mut text = String::new();
    content.read_to_string(&mut text).expect("text");
    text.lines().map(str::to_string).collect()
}
