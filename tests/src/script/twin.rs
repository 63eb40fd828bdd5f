//! Beside each core, raft-rs in the plain loop that its documentation shows: write, sync, advance, one Ready at a time.
//!
//! A twin takes the messages, proposals, campaigns, transfers and applied entries of its core in the same order, and for
//! it every write is durable at once. Whatever the schedule of acknowledgements, losses and crashes, the core has the
//! twin's term, role, log and idea of its followers; it commits as much when it follows, never more when it leads, and as
//! much again when all that it wrote is acknowledged. And what a twin has committed is what the cluster has in the end.

use std::collections::BTreeMap;

use oarlock_raftnode::core::should_wait_wal_sync;
use oarlock_raftnode::membership::ChangeEntry;
use oarlock_raftnode::raft::eraftpb::{
    Entry, EntryType, HardState, Message, MessageType, Snapshot,
};
use oarlock_raftnode::raft::storage::MemStorage;
use oarlock_raftnode::raft::{Config, RawNode, StateRole};
use oarlock_raftnode::{Role, Vitals, convert};

use super::life::Life;

struct Twin {
    raw: RawNode<MemStorage>,
    store: MemStorage,
    /// What was committed under an earlier configuration: its core, a moment later, may need other members' word for it.
    under_another: u64,
}

/// The twins of all cores that run, if there are to be any.
#[derive(Default)]
pub(super) struct Twins {
    /// How a twin is configured; `None` if nobody has one.
    config: Option<Config>,
    twins: BTreeMap<u64, Twin>,
    /// What each has committed, by index, with its term.
    committed: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// How often a leader was seen that had all its writes acknowledged, and how often one that knew of less than its twin.
    pub(super) equal: u64,
    pub(super) behind: u64,
}

impl Twin {
    /// Goes on as a follower from what a core has in memory, and from `state`.
    fn of(config: &Config, life: &Life, state: HardState) -> Result<Self, String> {
        let store = MemStorage::new();
        let (index, term) = life.log.before();
        let mut log = store.wl();
        if index > 0 {
            let mut snapshot = Snapshot::default();
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (index, term);
            log.apply_snapshot(snapshot).map_err(|error| error.to_string())?;
        }
        log.append(&life.log.from(0)).map_err(|error| error.to_string())?;
        log.set_conf_state(life.core.conf_state());
        log.set_hardstate(state);
        drop(log);
        let config = Config { applied: life.core.applied(), ..config.clone() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store.clone(), &logger);
        Ok(Self { raw: raw.map_err(|error| error.to_string())?, store, under_another: 0 })
    }

    /// Everything that is to be done, at once; returns what it has committed. What it says is of no interest: its core
    /// speaks.
    fn run(&mut self) -> Vec<Entry> {
        let mut all = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let mut store = self.store.wl();
            let snapshot = ready.snapshot().clone();
            let installed = snapshot.get_metadata().index;
            if installed > 0 {
                store.apply_snapshot(snapshot).expect("raft-rs restores what is ahead");
            }
            let entries = ready.take_entries();
            let overlap = should_wait_wal_sync(&entries, ready.committed_entries());
            assert!(!overlap, "raft 0.7 commits what is still to be written");
            store.append(&entries).expect("contiguous");
            if let Some(hard_state) = ready.hs() {
                store.set_hardstate(hard_state.clone());
            }
            drop(store);
            all.append(&mut ready.take_committed_entries());
            let mut light = self.raw.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                self.store.wl().mut_hard_state().commit = commit;
            }
            all.append(&mut light.take_committed_entries());
            if installed > 0 {
                self.raw.advance_apply_to(installed);
            }
        }
        all
    }

    fn propose(&mut self, entry: &Entry) {
        let mut message = Message { from: self.raw.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let kind = entry.get_entry_type();
        let entry = convert::entry(0, 0, kind, convert::from_raft(entry.data.clone()));
        message.set_entries(vec![entry].into());
        self.raw.raft.step(message).expect("a leader takes it");
    }
}

impl Twins {
    pub(super) fn new(election_ticks: usize, pre_vote: bool) -> Self {
        let config = Config {
            election_tick: election_ticks,
            heartbeat_tick: 1,
            pre_vote,
            max_inflight_msgs: 512,
            ..Config::default()
        };
        Self { config: Some(config), ..Self::default() }
    }

    /// Whether there are any.
    pub(super) const fn are_on(&self) -> bool {
        self.config.is_some()
    }

    /// A core has started.
    pub(super) fn born(&mut self, id: u64, life: &Life) {
        let status = life.core.status();
        let state = HardState {
            term: status.term,
            vote: status.vote,
            commit: status.commit,
            ..HardState::default()
        };
        self.begin(id, life, state);
    }

    fn begin(&mut self, id: u64, life: &Life, state: HardState) {
        let Some(config) = &self.config else { return };
        let config = Config { id, ..config.clone() };
        let twin = Twin::of(&config, life, state).unwrap_or_else(|error| panic!("{id}: {error}"));
        self.twins.insert(id, twin);
        self.run(id);
    }

    /// A core is no more. What its twin has committed rested on a disk that was faster than its own.
    pub(super) fn died(&mut self, id: u64) {
        self.twins.remove(&id);
        self.committed.remove(&id);
    }

    fn act(&mut self, id: u64, act: impl FnOnce(&mut RawNode<MemStorage>)) {
        if let Some(twin) = self.twins.get_mut(&id) {
            act(&mut twin.raw);
            self.run(id);
        }
    }

    fn run(&mut self, id: u64) {
        if let Some(twin) = self.twins.get_mut(&id) {
            let committed = twin.run().into_iter().map(|entry| (entry.index, entry.term));
            self.committed.entry(id).or_default().extend(committed);
        }
    }

    /// A core has taken a message.
    pub(super) fn stepped(&mut self, id: u64, life: &Life, message: Message) {
        let Some(twin) = self.twins.get(&id) else { return };
        let raft = &twin.raw.raft;
        if raft.state == StateRole::Leader && life.core.vitals().role != Role::Leader {
            // It was deposed by this. raft-rs repeats to whoever leads next what it knows to be committed, and the twin may
            // know of more: their conversations would part. It goes on with what its core knew.
            let (term, vote, commit) = (raft.term, raft.vote, life.commit);
            self.begin(id, life, HardState { term, vote, commit, ..HardState::default() });
        }
        self.act(id, |raw| drop(raw.step(message))); // as little use to it as to the core
    }

    /// Time has passed for a leader.
    pub(super) fn ticked(&mut self, id: u64) {
        self.act(id, |raw| {
            raw.tick();
        });
    }

    /// A core was asked to campaign. Whether it did shows; but a second round of questions looks like the first.
    pub(super) fn campaigned(&mut self, id: u64, before: &Vitals, after: &Vitals) {
        let began = (before.term, before.role) != (after.term, after.role);
        if began || after.role == Role::PreCandidate {
            self.act(id, |raw| drop(raw.campaign()));
        }
    }

    /// A core begins to hand leadership over.
    pub(super) fn transfers(&mut self, id: u64, to: u64) {
        self.act(id, |raw| raw.transfer_leader(to));
    }

    /// A core has appended entries, perhaps by itself: what was proposed to it, and forwarded.
    pub(super) fn appended(&mut self, id: u64, entries: &[Entry]) {
        for entry in entries {
            let Some(twin) = self.twins.get_mut(&id) else { return };
            let raft = &twin.raw.raft;
            if raft.state == StateRole::Leader && entry.index > raft.raft_log.last_index() {
                twin.propose(entry);
                self.run(id);
            }
        }
    }

    /// A core has made a change of the members its own.
    pub(super) fn changed(&mut self, id: u64, entry: &Entry) {
        if entry.get_entry_type() == EntryType::EntryNormal {
            return;
        }
        if let Ok(Some(change)) = ChangeEntry::read(&convert::entry_view(entry)) {
            let change = convert::conf_change(&change);
            if let Some(twin) = self.twins.get_mut(&id) {
                twin.under_another = twin.raw.raft.raft_log.committed;
            }
            self.act(id, |raw| drop(raw.apply_conf_change(&change)));
        }
    }

    /// A core was told how far its state machine has come.
    pub(super) fn applied(&mut self, id: u64, index: u64) {
        self.act(id, |raw| {
            if index > raw.raft.raft_log.applied {
                raw.advance_apply_to(index);
            }
        });
    }

    /// What is different between a core and its twin, and must not be.
    pub(super) fn compare(&mut self, id: u64, life: &Life) -> Result<(), String> {
        if !life.core.is_driven() {
            self.died(id);
        }
        let Some(twin) = self.twins.get(&id) else { return Ok(()) };
        let raft = &twin.raw.raft;
        let vitals = life.core.vitals();
        let matched: BTreeMap<u64, u64> = match raft.state {
            StateRole::Leader => raft.prs().iter().map(|(id, held)| (*id, held.matched)).collect(),
            _ => BTreeMap::new(),
        };
        let mut peers = matched;
        peers.remove(&id);
        let last = life.core.log_bounds().1;
        let ours = (vitals.term, vitals.role, vitals.leader, last, life.core.matched_peers());
        let log = &raft.raft_log;
        let theirs = (raft.term, raft.state.into(), raft.leader_id, log.last_index(), peers);
        if ours != theirs {
            return Err(format!(
                "{id}: term, role, leader, last index and what followers hold are {ours:?}, \
                 in a synchronous loop {theirs:?}"
            ));
        }
        let (ours, theirs) = (vitals.commit, log.committed);
        // What the twin committed in an earlier leadership the core may learn of only when it commits in this one.
        let in_this_term = log.term(theirs).is_ok_and(|term| term == raft.term);
        let under_this = theirs > twin.under_another;
        let leads = vitals.role == Role::Leader;
        let idle = life.writes.is_empty() && life.unreported.is_empty();
        let must_be_equal = !leads || (idle && in_this_term && under_this);
        if ours > theirs || (must_be_equal && ours != theirs) {
            return Err(format!("{id} has committed {ours}, a synchronous loop {theirs}"));
        }
        self.equal += u64::from(leads && must_be_equal);
        self.behind += u64::from(ours < theirs);
        Ok(())
    }

    /// Everything that twins have committed, where their cores live on: who, the index and the term.
    pub(super) fn committed(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.committed
            .iter()
            .flat_map(|(id, entries)| entries.iter().map(|(index, term)| (*id, *index, *term)))
    }
}
