//! One node, one stage at a time: the same core, held messages, log view and boot as the threads have.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use oarlock_raftnode::bootstrap::{Boot, BootError, boot};
use oarlock_raftnode::core::{Core, Held, Persist, Restore, StepError};
use oarlock_raftnode::membership::{ChangeEntry, EntryKind};
use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::wire::{self, Forward, ForwardKind, Inbound};
use oarlock_raftnode::{
    AttributeUpdate, Config, LogBatch, LogError, LogReader, LogStore, MemSnapshots, MemStore,
    Payload, Role, SnapshotId, SnapshotStore, TransferError,
};

use super::life::{Job, Life, Read, Report, Write};
use super::machine::Machine;
use super::net::{Net, Packet};
use super::text;
use super::trace::Trace;
use super::twin::Twins;
use super::witness::Witness;

/// Bytes of entries in memory: few, so that the log itself is read, too.
const CACHE: u64 = 512;

/// What surrounds a node.
pub(super) struct Around<'a> {
    pub(super) net: &'a mut Net,
    pub(super) witness: &'a mut Witness,
    pub(super) twins: &'a mut Twins,
    pub(super) trace: &'a mut Trace,
    /// Reads wait until they are [made](Node::fetch).
    pub(super) slow_reads: bool,
}

pub(super) struct Node {
    pub(super) id: u64,
    pub(super) store: MemStore,
    pub(super) snapshots: MemSnapshots,
    /// `None` while it is down.
    pub(super) life: Option<Life>,
    /// Its disk was lost, and with it all that it promised.
    pub(super) wiped: bool,
}

/// The log as the node has it in memory, durable or not.
#[derive(Default)]
pub(super) struct Shadow {
    /// Index and term before the first entry; the term is 0 if nobody knows.
    before: (u64, u64),
    entries: VecDeque<Entry>,
}

impl Shadow {
    fn of(store: &MemStore) -> Self {
        let first = store.first_index();
        let term = store.term(first - 1).unwrap_or(0);
        let entries = store.entries(first, store.last_index() + 1, u64::MAX).unwrap_or_default();
        Self { before: (first - 1, term), entries: entries.into() }
    }

    /// Index and term before the first entry.
    pub(super) const fn before(&self) -> (u64, u64) {
        self.before
    }

    pub(super) fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.before.0 + 1)? as usize)
    }

    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.before.0 {
            return Some(self.before.1).filter(|term| *term != 0);
        }
        self.get(index).map(|entry| entry.term)
    }

    pub(super) fn from(&self, first: u64) -> Vec<Entry> {
        self.entries.iter().filter(|entry| entry.index >= first).cloned().collect()
    }

    pub(super) fn follow(&mut self, persist: &Persist) {
        if let Some(mark) = &persist.install {
            *self = Self { before: (mark.index, mark.term), entries: VecDeque::new() };
        }
        if let Some(first) = persist.entries.first() {
            self.entries.truncate((first.index - self.before.0 - 1) as usize);
            self.entries.extend(persist.entries.iter().cloned());
        }
    }
}

impl Node {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            store: MemStore::new(),
            snapshots: MemSnapshots::new(),
            life: None,
            wiped: false,
        }
    }

    /// Boots and starts, as `how` says.
    pub(super) fn start(
        &mut self,
        how: &Boot,
        config: &Config,
        around: &mut Around<'_>,
    ) -> Result<(), BootError> {
        let recovered = boot(&mut self.store, &self.snapshots, how)?;
        let mut machine = Machine::default();
        if let Some(id) = recovered.snapshot_id() {
            match machine.restore(&self.snapshots, id) {
                Ok(_) => around.witness.state(self.id, id.index, machine.digest),
                Err(error) => around.witness.violation(format!("{}: {error}", self.id)),
            }
        }
        let view = recovered.view(self.store.reader(), CACHE)?;
        let core = match Core::new(config, &recovered, view) {
            Ok(core) => core,
            Err(error) => {
                around.witness.violation(format!("{} does not start: {error}", self.id));
                return Ok(());
            }
        };
        let (first, last) = (recovered.first_index, recovered.last_index);
        let from = recovered.snapshot_id().map_or_else(String::new, |id| format!(" snapshot {id}"));
        let hard_state = text::hard_state(&recovered.hard_state);
        let line = format!(
            "starts life {}: {hard_state} log {first}..{last}{from}",
            recovered.incarnation
        );
        around.trace.say(self.id, line);
        let life = self.life.insert(Life {
            core,
            held: Held::default(),
            writes: VecDeque::new(),
            unreported: VecDeque::new(),
            jobs: VecDeque::new(),
            machine,
            log: Shadow::of(&self.store),
            commit: recovered.snapshot.as_ref().map_or(0, |mark| mark.index),
            led: false,
            incarnation: recovered.incarnation,
            sequence: 0,
            waiting: BTreeMap::new(),
            reads: BTreeMap::new(),
            tokens: 0,
            sent: VecDeque::new(),
            fetches: VecDeque::new(),
        });
        around.twins.born(self.id, life);
        self.pump(around);
        Ok(())
    }

    /// Does something to the core, and then all that follows from it at once.
    pub(super) fn act(&mut self, around: &mut Around<'_>, act: impl FnOnce(&mut Core)) {
        if let Some(life) = &mut self.life {
            act(&mut life.core);
        }
        self.pump(around);
    }

    /// Time passes. One with a twin, unless it leads, is not told: its twin would have an election at another time.
    pub(super) fn tick(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        life.send(self.id, life.core.last_words(), &self.store, &self.snapshots, around);
        if around.twins.are_on() {
            if life.core.vitals().role != Role::Leader {
                return;
            }
            around.twins.ticked(self.id);
        }
        self.act(around, Core::handle_tick);
    }

    pub(super) fn campaign(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let before = life.core.vitals();
        life.core.handle_campaign();
        around.twins.campaigned(self.id, &before, &life.core.vitals());
        self.pump(around);
    }

    pub(super) fn transfer(
        &mut self,
        to: u64,
        around: &mut Around<'_>,
    ) -> Result<(), TransferError> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let began = life.core.handle_transfer(to);
        if began.is_ok() && to != self.id {
            around.twins.transfers(self.id, to);
        }
        self.pump(around);
        began
    }

    /// The state machine has come to `index`.
    pub(super) fn applied(&mut self, index: u64, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        life.core.handle_applied(index);
        if !life.core.is_removed() {
            around.twins.applied(self.id, index);
        }
        self.pump(around);
    }

    /// What the node thread does between two arrivals.
    pub(super) fn pump(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        for _ in 0..10_000 {
            let mut idle = true;
            while let Some((peer, ok)) = life.sent.pop_front() {
                life.core.handle_snapshot_sent(peer, ok);
                idle = false;
            }
            life.release(self.id, &self.store, &self.snapshots, around);
            while let Some(stage) = life.core.poll_apply() {
                idle = false;
                life.jobs.extend(stage.entries.into_iter().map(Job::Entry));
            }
            match life.core.poll_effects() {
                Ok(None) => {}
                Ok(Some(effects)) => {
                    idle = false;
                    life.carry_out(self.id, effects, &self.store, &self.snapshots, around);
                }
                Err(error) => {
                    return around.witness.violation(format!("{}: the log: {error}", self.id));
                }
            }
            while let Some(event) = life.core.poll_event() {
                idle = false;
                life.on_event(self.id, event, around);
            }
            match life.fetch_all(&self.store, around.slow_reads) {
                Ok(any) => idle &= !any,
                Err(error) => {
                    return around.witness.violation(format!("{}: the log: {error}", self.id));
                }
            }
            if idle {
                life.answer_reads(self.id, around);
                return;
            }
        }
        around.witness.violation(format!("{} never comes to rest", self.id));
    }

    /// Makes one of the reads that wait, or reports it if it was made.
    pub(super) fn fetch(&mut self, place: usize, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        if let Err(error) = life.fetch(place, &self.store) {
            around.witness.violation(format!("{}: the log: {error}", self.id));
        }
        self.pump(around);
    }

    /// Writes the next `count` stages and syncs, without reporting it.
    pub(super) fn sync(&mut self, count: usize, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let (mut must_sync, mut failed) = (false, None);
        let count = count.min(life.writes.len());
        for write in life.writes.drain(..count) {
            let Ok(before) = self.store.state() else { return };
            match append(&mut self.store, &write) {
                Ok(()) => {}
                Err(error @ LogError::Io { .. }) => {
                    failed = Some(error);
                    break;
                }
                Err(error) => {
                    let what = format!("{}: the log refuses: {error}", self.id);
                    return around.witness.violation(what);
                }
            }
            match write {
                Write::Stage(stage) => {
                    if let Some(hard_state) = &stage.hard_state {
                        around.witness.hard_state(self.id, &before.hard_state, hard_state);
                        let old = &before.hard_state;
                        if !stage.must_sync
                            && (old.term, old.vote) != (hard_state.term, hard_state.vote)
                        {
                            around.witness.violation(format!("{}: a vote is not synced", self.id));
                        }
                    }
                    if let Some(first) = stage.entries.first() {
                        let before =
                            self.store.term(first.index - 1).ok().filter(|term| *term != 0);
                        around.witness.entries(self.id, before, &stage.entries);
                        if !stage.must_sync {
                            around
                                .witness
                                .violation(format!("{}: entries are not synced", self.id));
                        }
                    }
                    must_sync |= stage.must_sync;
                    life.unreported.push_back(Report::Stage(stage.number));
                }
                Write::Mark { mark, announcement } => {
                    must_sync = true;
                    life.unreported.push_back(Report::Mark { mark, announcement });
                }
            }
        }
        if must_sync && failed.is_none() {
            failed = self.store.sync().err();
        }
        if let Some(error) = failed {
            // Nothing of it is reported: nobody knows what the disk holds (O13).
            around.trace.say(self.id, format!("ends: {error}"));
            self.end(around);
        }
    }

    /// Reports what is synced, one stage at a time, or all with one number.
    pub(super) fn report(&mut self, together: bool, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let mut reports: Vec<Report> = life.unreported.drain(..).collect();
        if together {
            let last = reports.iter().rposition(|report| matches!(report, Report::Stage(_)));
            let mut place = 0;
            reports.retain(|report| {
                place += 1;
                matches!(report, Report::Mark { .. }) || Some(place - 1) == last
            });
        }
        for report in reports {
            match report {
                Report::Stage(number) => {
                    life.core.handle_persisted(number);
                    life.release(self.id, &self.store, &self.snapshots, around);
                }
                Report::Mark { mark, announcement } => {
                    around.trace.say(self.id, format!("has a snapshot at {}", mark.index));
                    life.core.handle_snapshot_ready(mark, announcement);
                }
            }
        }
        self.pump(around);
    }

    /// Applies the next of what waits; its index if it was an entry. `None` if nothing waits.
    pub(super) fn apply_one(&mut self, around: &mut Around<'_>) -> Option<Option<u64>> {
        let life = self.life.as_mut()?;
        let job = life.jobs.pop_front()?;
        let mut applied = None;
        let done = match job {
            Job::Entry(entry) => {
                applied = Some(entry.index);
                life.apply(self.id, &entry, &self.store, around)
            }
            Job::Restore(restore) => self.restore(restore, around),
            Job::Snapshot => self.snapshot(around),
        };
        if let Err(error) = done {
            around.witness.violation(format!("{}: {error}", self.id));
        }
        self.pump(around);
        Some(applied)
    }

    fn restore(&mut self, restore: Restore, around: &mut Around<'_>) -> Result<(), String> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let Restore { mark, head: announcement } = restore;
        let on_disk = self.store.state().ok().and_then(|state| state.snapshot);
        if on_disk.map(|mark| mark.id()) != Some(mark.id()) {
            return Err(format!("restores {} before its mark is on disk (O5)", mark.index));
        }
        let head = life.machine.restore(&self.snapshots, mark.id())?;
        around.trace.say(self.id, format!("restores snapshot {}", text::head(&head)));
        around.witness.state(self.id, mark.index, life.machine.digest);
        if let Some(members) = &life.machine.members {
            around.witness.members(self.id, mark.index, members);
        }
        let index = mark.index;
        life.core.handle_restored(mark, head, announcement);
        self.store.release(index + 1).map_err(|error| error.to_string())
    }

    /// Takes a snapshot; its mark is written like everything else.
    pub(super) fn snapshot(&mut self, around: &mut Around<'_>) -> Result<(), String> {
        let Some(life) = &mut self.life else { return Ok(()) };
        if let Some((head, len)) = life.machine.snapshot(&self.snapshots)? {
            around.trace.detail(self.id, || format!("takes a snapshot: {}", text::head(&head)));
            let announcement = head.announce(len);
            life.writes.push_back(Write::Mark { mark: head.mark, announcement });
        }
        Ok(())
    }

    /// Asks the core to forget entries up to `index`, or, as the node thread does after each snapshot of its own, what nobody
    /// needs while a snapshot at `sent` is being sent. An index is handed on as it is: not to go beyond what is applied (O18)
    /// or a mark that is reported durable (O6) is for the core to see to. The log releases as much.
    pub(super) fn compact(&mut self, index: Option<u64>, sent: Option<u64>) -> Result<u64, String> {
        let Some(life) = &mut self.life else { return Ok(0) };
        let index = index.unwrap_or_else(|| life.core.superseded(sent));
        let compacted = life.core.handle_compact(index).map_err(|error| error.to_string())?;
        if compacted > life.core.applied() {
            return Err(format!("compacted {compacted}, applied {} (O18)", life.core.applied()));
        }
        self.store.release(compacted + 1).map_err(|error| error.to_string())?;
        let _ = self.snapshots.purge(compacted);
        Ok(compacted)
    }

    /// A word for the state machine, several together.
    pub(super) fn propose(&mut self, words: &[&str], around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let mut forwards = Vec::new();
        for word in words {
            let id = life.next_id(self.id, format!("{word:?}"));
            let data = Payload::Application { id, data: Bytes::copy_from_slice(word.as_bytes()) };
            forwards.push(Forward { id, kind: ForwardKind::Normal, data: data.encode(), term: 0 });
        }
        life.core.handle_propose(forwards);
        self.pump(around);
    }

    pub(super) fn publish(&mut self, name: &str, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let id = life.next_id(self.id, format!("publish {name}"));
        let update = AttributeUpdate::Publish {
            member: self.id,
            name: name.into(),
            client_urls: vec![format!("http://{name}:2")],
            birth: self.id,
        };
        let data = Payload::Attributes { id, update }.encode();
        life.core.handle_propose(vec![Forward { id, kind: ForwardKind::Normal, data, term: 0 }]);
        self.pump(around);
    }

    pub(super) fn change(&mut self, change: ChangeEntry, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        let id = life.next_id(self.id, text::change(&change));
        let (kind, data) = change.proposed_by(id).encode();
        let kind = match kind {
            EntryKind::ConfChange => ForwardKind::ConfChange,
            EntryKind::ConfChangeV2 | EntryKind::Normal => ForwardKind::ConfChangeV2,
        };
        life.core.handle_propose(vec![Forward { id, kind, data, term: 0 }]);
        self.pump(around);
    }

    pub(super) fn read(&mut self, around: &mut Around<'_>) {
        let Some(life) = &mut self.life else { return };
        life.tokens += 1;
        let asked_at = around.witness.applied();
        life.reads.insert(life.tokens, Read { asked_at, confirmed: None });
        life.core.handle_read(life.tokens);
        self.pump(around);
    }

    /// Something arrives. What a snapshot came to is for its sender.
    pub(super) fn receive(
        &mut self,
        from: u64,
        packet: Packet,
        around: &mut Around<'_>,
    ) -> Option<bool> {
        let life = self.life.as_mut()?;
        if let Some((_, content)) = packet.content {
            let message = match wire::decode_snapshot(packet.head) {
                Ok(message) => message,
                Err(error) => {
                    around.witness.violation(format!("{}: {error}", self.id));
                    return Some(false);
                }
            };
            let metadata = message.get_snapshot().get_metadata();
            let id = SnapshotId { index: metadata.index, term: metadata.term };
            if id.index > life.core.vitals().commit {
                let stored = self.snapshots.create(id).and_then(|mut sink| {
                    let written = std::io::Write::write_all(&mut *sink, &content);
                    written.expect("memory takes everything");
                    sink.commit()
                });
                stored.ok()?; // whole and durable before raft hears of it (O25)
            }
            let taken = life.core.handle_snapshot(from, message.clone());
            let stale = matches!(taken, Err(StepError::Stale));
            if stale || matches!(taken, Ok(()) | Err(StepError::NotNamed | StepError::Raft(_))) {
                around.twins.stepped(self.id, life, message);
            }
            if let Err(error) = &taken {
                around.trace.say(self.id, format!("leaves the snapshot of {from}: {error}"));
            }
            self.pump(around);
            return Some(taken.is_ok() || stale);
        }
        match wire::decode(packet.head, packet.payloads) {
            Ok(Inbound::Raft(message)) => {
                let taken = life.core.handle_message(from, (*message).clone());
                if matches!(taken, Ok(()) | Err(StepError::Raft(_))) {
                    around.twins.stepped(self.id, life, *message);
                }
                if let Err(error) = taken {
                    let line = format!("refuses {} of {from}: {error}", packet.label);
                    match error {
                        StepError::Refused(refused) if refused.is_fault() => {
                            around.trace.say(self.id, line);
                        }
                        _ => around.trace.detail(self.id, || line),
                    }
                }
            }
            Ok(Inbound::Forward(forward)) => life.core.handle_forward(from, forward),
            Ok(Inbound::ForwardReply(reply)) => life.core.handle_forward_reply(from, &reply),
            Ok(_) => {}
            Err(error) => around.witness.violation(format!("{}: {error}", self.id)),
        }
        self.pump(around);
        None
    }
}

pub(super) fn append(store: &mut MemStore, write: &Write) -> Result<(), LogError> {
    match write {
        Write::Stage(Persist { install, entries, hard_state, .. }) => {
            let (install, hard_state) = (install.clone(), hard_state.clone());
            let batch = LogBatch { install, entries, hard_state, ..LogBatch::default() };
            if batch.is_empty() { Ok(()) } else { store.append(&batch) }
        }
        Write::Mark { mark, .. } => {
            store.append(&LogBatch { compact: Some(mark.clone()), ..LogBatch::default() })
        }
    }
}
