//! What a node does while it runs: carries out the stages of each Ready, says what became of requests, applies.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use oarlock_raftnode::core::{
    AfterPersist, Core, Effects, Event, Held, Persist, Restore, prune_messages,
};
use oarlock_raftnode::membership::ProposalId;
use oarlock_raftnode::raft::eraftpb::{Entry, EntryType, Message, MessageType};
use oarlock_raftnode::transport::Envelope;
use oarlock_raftnode::{
    Fetch, LogError, LogStore, MemSnapshots, MemStore, SnapshotId, SnapshotMark, SnapshotStore,
    Verdict, wire,
};

use super::machine::{Machine, Outcome};
use super::net::Packet;
use super::node::{Around, Shadow};
use super::text;

/// What a crash ends.
pub(super) struct Life {
    pub(super) core: Core,
    pub(super) held: Held,
    /// Not written yet.
    pub(super) writes: VecDeque<Write>,
    /// Written and synced, not reported yet.
    pub(super) unreported: VecDeque<Report>,
    /// Not applied yet.
    pub(super) jobs: VecDeque<Job>,
    pub(super) machine: Machine,
    pub(super) log: Shadow,
    /// The commit index when the node was last looked at.
    pub(super) commit: u64,
    /// Whether it led then.
    pub(super) led: bool,
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) waiting: BTreeMap<ProposalId, String>,
    pub(super) reads: BTreeMap<u64, Read>,
    pub(super) tokens: u64,
    /// Outcomes of snapshots for the core.
    pub(super) sent: VecDeque<(u64, bool)>,
    /// Reads, and what those that were made have found.
    pub(super) fetches: VecDeque<(Fetch, Option<Found>)>,
}

/// What a read came to.
type Found = Result<Vec<Entry>, LogError>;

pub(super) enum Write {
    Stage(Persist),
    Mark { mark: SnapshotMark, announcement: Bytes },
}

pub(super) enum Report {
    Stage(u64),
    Mark { mark: SnapshotMark, announcement: Bytes },
}

pub(super) enum Job {
    Entry(Entry),
    Restore(Restore),
    Snapshot,
}

pub(super) struct Read {
    /// What a client could know when it asked.
    pub(super) asked_at: u64,
    pub(super) confirmed: Option<u64>,
}

impl Life {
    pub(super) fn next_id(&mut self, origin: u64, what: String) -> ProposalId {
        self.sequence += 1;
        let id = ProposalId { origin, incarnation: self.incarnation, sequence: self.sequence };
        self.waiting.insert(id, what);
        id
    }

    /// Takes the reads that are to be made, and makes all there are unless they are slow; whether it made any.
    pub(super) fn fetch_all(&mut self, store: &MemStore, slow: bool) -> Result<bool, LogError> {
        if slow {
            self.fetches
                .extend(std::iter::from_fn(|| self.core.poll_fetch()).map(|fetch| (fetch, None)));
            return Ok(false);
        }
        let mut any = false;
        while !self.fetches.is_empty() {
            self.fetch(0, store)?;
            any = true;
        }
        Ok(self.core.fetch_inline()? || any)
    }

    /// Makes a read, or reports it if it was made.
    pub(super) fn fetch(&mut self, place: usize, store: &MemStore) -> Result<(), LogError> {
        match self.fetches.remove(place) {
            Some((fetch, Some(found))) => self.core.handle_fetched(fetch, found),
            Some((fetch, None)) => {
                let found = fetch.read(&*store.reader());
                self.fetches.insert(place, (fetch, Some(found)));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The stages of one Ready.
    pub(super) fn carry_out(
        &mut self,
        id: u64,
        effects: Effects,
        store: &MemStore,
        snapshots: &MemSnapshots,
        around: &mut Around<'_>,
    ) {
        let Effects { now, persist, after_persist, apply } = effects;
        if let Some(change) = now.role {
            let vitals = change.vitals;
            let leader = match vitals.leader {
                0 => String::new(),
                leader => format!(", leader {leader}"),
            };
            let role = text::role(vitals.role);
            around.trace.role(id, format!("{role} of term {}{leader}", vitals.term));
        }
        self.log.follow(&persist);
        around.twins.appended(id, &persist.entries);
        if let Some(committed) = now.committed {
            around.trace.detail(id, || format!("knows {committed} committed"));
            if committed == 0 {
                around.witness.violation(format!("{id} publishes commit 0 (O28)"));
            }
        }
        if let Some(reads) = now.reads {
            for token in reads.tokens {
                if let Some(read) = self.reads.get_mut(&token) {
                    read.confirmed = Some(reads.index);
                }
            }
        }
        self.send(id, now.messages, store, snapshots, around);
        if !after_persist.messages.is_empty() || after_persist.await_change.is_some() {
            around.trace.detail(id, || held(&after_persist));
        }
        self.held.hold(after_persist);
        if !persist.is_empty() {
            around.trace.detail(id, || written(&persist));
        }
        self.jobs.extend(apply.entries.into_iter().map(Job::Entry));
        if persist.is_empty() && self.writes.is_empty() && self.unreported.is_empty() {
            self.core.handle_persisted(persist.number);
        } else {
            self.writes.push_back(Write::Stage(persist));
        }
    }

    pub(super) fn release(
        &mut self,
        id: u64,
        store: &MemStore,
        snapshots: &MemSnapshots,
        around: &mut Around<'_>,
    ) {
        // All that is due at once is tidied together, as the node thread does it (O10).
        let mut messages = Vec::new();
        for stage in self.held.release(self.core.acknowledged(), self.core.change_applied()) {
            if let Some(restore) = stage.restore {
                self.jobs.push_back(Job::Restore(restore));
            }
            messages.extend(stage.messages);
        }
        self.send(id, messages, store, snapshots, around);
    }

    pub(super) fn send(
        &mut self,
        id: u64,
        messages: Vec<Message>,
        store: &MemStore,
        snapshots: &MemSnapshots,
        around: &mut Around<'_>,
    ) {
        for message in prune_messages(messages, self.core.gone()) {
            around.witness.message(id, &message, store);
            let text = text::message(&message);
            around.trace.detail(id, || format!("sends {text}"));
            let to = message.to;
            let packet = if message.get_msg_type() == MessageType::MsgSnapshot {
                let Some(packet) = snapshot_packet(&message, snapshots, text) else {
                    self.sent.push_back((to, false));
                    continue;
                };
                Ok(packet)
            } else {
                wire::encode(&message).map(|envelope| packet(envelope, text))
            };
            match packet {
                Ok(packet) => around.net.send((id, to), packet),
                Err(error) => around.witness.violation(format!("{id}: {error}")),
            }
        }
    }

    pub(super) fn on_event(&mut self, id: u64, event: Event, around: &mut Around<'_>) {
        match event {
            Event::Refused { id: proposal, error } => {
                if error.is_definite() {
                    around.witness.refused_for_good(id, proposal);
                }
                if let Some(what) = self.waiting.remove(&proposal) {
                    around.trace.say(id, format!("{what} refused: {error}"));
                }
            }
            Event::Forward { to, forward } => {
                let text = text::forward(to, &forward);
                around.trace.detail(id, || format!("sends {text}"));
                match wire::encode_forward(to, &forward) {
                    Ok(envelope) => {
                        around.net.send((id, to), packet(envelope, text));
                    }
                    Err(error) => around.witness.violation(format!("{id}: {error}")),
                }
            }
            Event::ForwardReply { to, reply } => {
                let text = text::forward_reply(to, &reply);
                around.trace.detail(id, || format!("sends {text}"));
                match wire::encode_forward_reply(to, &reply) {
                    Ok(envelope) => {
                        around.net.send((id, to), packet(envelope, text));
                    }
                    Err(error) => around.witness.violation(format!("{id}: {error}")),
                }
            }
            Event::Members { id: proposal, result } => {
                // Replayed after a restart, it is answered again, and nobody waits.
                let Some(what) = self.waiting.remove(&proposal) else { return };
                let line = match result {
                    Ok(cluster) => {
                        let ids: Vec<u64> = cluster.members().map(|member| member.id).collect();
                        format!("{what} done: members {}", text::ids(&ids))
                    }
                    Err(error) => format!("{what} refused: {error}"),
                };
                around.trace.say(id, line);
            }
            Event::MembersChanged => {
                let configuration = self.core.configuration();
                let mut line = format!("now has voters {}", text::ids(configuration.voters()));
                if configuration.is_joint() {
                    line +=
                        &format!(" and outgoing {}", text::ids(configuration.voters_outgoing()));
                }
                if !configuration.learners().is_empty() {
                    line += &format!(", learners {}", text::ids(configuration.learners()));
                }
                around.trace.detail(id, || line);
            }
            Event::SnapshotWanted(wish) => {
                around.trace.say(id, format!("needs a snapshot for {}", wish.to));
                self.jobs.push_back(Job::Snapshot);
            }
            Event::Quarantined(quarantine) => {
                let (commit, last) = (quarantine.commit, quarantine.last_index);
                let line =
                    format!("goes into quarantine: its log ends at {last}, it held {commit}");
                around.trace.say(id, line);
            }
            Event::Removed => around.trace.say(id, "is removed"),
            Event::Disagreement { index, reason } => {
                around.witness.violation(format!("{id}: disagreement at {index}: {reason}"));
            }
            other => around.trace.say(id, format!("{other:?}")),
        }
    }

    pub(super) fn apply(
        &mut self,
        id: u64,
        entry: &Entry,
        store: &MemStore,
        around: &mut Around<'_>,
    ) -> Result<(), String> {
        around.trace.detail(id, || format!("applies {}", text::entry(entry)));
        if entry.get_entry_type() == EntryType::EntryNormal {
            match self.machine.apply(entry)? {
                Outcome::Empty => {}
                Outcome::Applied(proposal) => {
                    around.witness.took_effect(id, proposal);
                    if let Some(what) = self.waiting.remove(&proposal) {
                        let (term, index) = (entry.term, entry.index);
                        around.trace.say(id, format!("{what} applied at {term}/{index}"));
                    }
                }
                Outcome::Left(proposal, verdict) => {
                    let what =
                        if verdict == Verdict::Duplicate { "a duplicate" } else { "too old" };
                    around.trace.say(id, format!("leaves out {}: {what}", text::entry(entry)));
                    if verdict == Verdict::Stale {
                        self.waiting.remove(&proposal);
                    }
                }
                Outcome::Attributes(proposal, update) => {
                    around.witness.took_effect(id, proposal);
                    let members =
                        self.core.handle_attributes_committed(entry.index, proposal, &update);
                    around.witness.members(id, entry.index, &members);
                    self.machine.members = Some(members);
                }
            }
        } else {
            self.machine.follow(entry)?;
            let members = self.core.handle_change_committed(entry);
            if members.changed {
                around.twins.changed(id, entry);
            }
            around.witness.members(id, entry.index, &members);
            self.machine.members = Some(members);
        }
        around.witness.applied_entry(id, entry, self.machine.digest, store);
        Ok(())
    }

    pub(super) fn answer_reads(&mut self, id: u64, around: &mut Around<'_>) {
        let applied = self.core.applied();
        self.reads.retain(|token, read| {
            let Some(index) = read.confirmed.filter(|index| *index <= applied) else { return true };
            around.witness.read(id, read.asked_at, index, self.machine.applied.1);
            around.trace.say(id, format!("read {token} served at {index}"));
            false
        });
    }

    /// Whether nothing is left to do before something arrives.
    pub(super) fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.unreported.is_empty() && self.jobs.is_empty()
    }

    /// Whether a snapshot is being installed, from its mark on.
    pub(super) fn installs(&self) -> bool {
        let marks = |write: &Write| matches!(write, Write::Stage(stage) if stage.install.is_some());
        let restores = |job: &Job| matches!(job, Job::Restore(_));
        self.writes.iter().any(marks) || self.jobs.iter().any(restores)
    }

    /// How many reads wait for an answer.
    pub(super) fn unread(&self) -> usize {
        self.reads.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

fn packet(envelope: Envelope, text: String) -> Packet {
    let Envelope { label, head, payloads, .. } = envelope;
    Packet { label, text, head, payloads, content: None }
}

fn snapshot_packet(message: &Message, snapshots: &MemSnapshots, text: String) -> Option<Packet> {
    let metadata = message.get_snapshot().get_metadata();
    let id = SnapshotId { index: metadata.index, term: metadata.term };
    let mut source = snapshots.open(id).ok()?;
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut source.content, &mut content).ok()?;
    let head = wire::encode_snapshot(message, source.len).ok()?.head;
    let content = Some((id.index, content.into()));
    Some(Packet { label: "snapshot", text, head, payloads: Vec::new(), content })
}

fn written(persist: &Persist) -> String {
    let mut parts = Vec::new();
    if let Some(mark) = &persist.install {
        parts.push(format!("snapshot mark {}/{}", mark.term, mark.index));
    }
    if !persist.entries.is_empty() {
        parts.push(text::entries(&persist.entries));
    }
    if let Some(hard_state) = &persist.hard_state {
        parts.push(text::hard_state(hard_state));
    }
    format!("writes #{}: {}", persist.number, parts.join(", "))
}

fn held(stage: &AfterPersist) -> String {
    let messages: Vec<String> = stage.messages.iter().map(text::message).collect();
    let until = match stage.await_change {
        Some(index) => format!("#{} and change {index}", stage.number),
        None => format!("#{}", stage.number),
    };
    format!("holds until {until}: [{}]", messages.join("; "))
}
