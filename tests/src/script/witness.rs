//! The invariants: what must hold after every command, whatever happened before.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use oarlock_raftnode::core::MembersApplied;
use oarlock_raftnode::membership::{ChangeEntry, Cluster, Configuration, ProposalId};
use oarlock_raftnode::raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use oarlock_raftnode::{
    AttributeUpdate, LogReader, LogStore, MemStore, Payload, Role, Verdict, Window, convert,
};

use super::life::Life;
use super::node::{Node, Shadow};

/// Sees everything, forgets nothing, and complains.
#[derive(Default)]
pub(super) struct Witness {
    /// Who led a term.
    leaders: BTreeMap<u64, u64>,
    /// For whom a node (first) voted in a term (second), as far as others heard of it.
    votes: BTreeMap<(u64, u64), u64>,
    /// What left a node or reached a disk, by index and term: the term before it, and a hash of what it is.
    seen: BTreeMap<(u64, u64), (Option<u64>, u64)>,
    /// What is committed, from index 1.
    ledger: Vec<Entry>,
    /// In which term each of these was committed: later leaders must have it.
    committed_in: Vec<u64>,
    /// Members and configuration after each entry that concerns them, the beginning included.
    fold: Vec<(u64, Cluster, Configuration)>,
    /// The ids of what was committed: what comes a second time, or too late, has no effect (O22).
    window: Window,
    /// The state machines' digests by index.
    states: BTreeMap<u64, u64>,
    /// The highest index that any node applied: what a client may know of.
    applied: u64,
    ends: BTreeMap<ProposalId, End>,
    violations: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    TookEffect,
    RefusedForGood,
}

fn hash_of(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    convert::entry_kind_to_number(entry.get_entry_type()).hash(&mut hasher);
    entry.data.hash(&mut hasher);
    hasher.finish()
}

/// Members and configuration after an entry, if it changes them.
fn after(
    entry: &Entry,
    cluster: &Cluster,
    configuration: &Configuration,
) -> Option<(Cluster, Configuration)> {
    if entry.get_entry_type() == EntryType::EntryNormal {
        let Ok(Payload::Attributes { update, .. }) = Payload::of(entry) else { return None };
        let mut cluster = cluster.clone();
        let updated = match update {
            AttributeUpdate::Publish { member, name, client_urls, .. } => {
                cluster.update_attributes(member, &name, &client_urls)
            }
            AttributeUpdate::PeerUrls { member, peer_urls } => {
                cluster.update_peer_urls(member, &peer_urls)
            }
            _ => return None,
        };
        return updated.is_ok().then(|| (cluster, configuration.clone()));
    }
    let change = ChangeEntry::read(&convert::entry_view(entry)).ok().flatten()?;
    let mut cluster = cluster.clone();
    let applied = cluster.apply_entry(configuration, &change).ok()?;
    Some((cluster, applied.configuration))
}

impl Witness {
    /// Something that must never be.
    pub(super) fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    /// Whether something is wrong already: what goes on after that may never end.
    pub(super) const fn has_seen_enough(&self) -> bool {
        !self.violations.is_empty()
    }

    pub(super) fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    /// The highest index that any client may know of.
    pub(super) const fn applied(&self) -> u64 {
        self.applied
    }

    pub(super) fn committed(&self) -> u64 {
        self.ledger.len() as u64
    }

    /// The term of a committed entry.
    pub(super) fn committed_term(&self, index: u64) -> Option<u64> {
        self.ledger.get(index as usize - 1).map(|entry| entry.term)
    }

    /// A cluster begins, with what its founders have committed.
    pub(super) fn found(&mut self, cluster: Cluster, founding: Vec<Entry>) {
        self.fold = vec![(0, cluster, Configuration::default())];
        for entry in founding {
            self.commit(entry, 1);
        }
    }

    /// One member goes on alone: what it holds is what is committed from now on.
    pub(super) fn rescued(&mut self, id: u64, cluster_id: u64, log: &[Entry], kept: Option<u64>) {
        let first = log.first().map_or(1, |entry| entry.index);
        let old = std::mem::take(&mut self.ledger);
        self.committed_in.clear();
        let common = old
            .iter()
            .skip(first as usize - 1)
            .zip(log)
            .take_while(|(old, new)| (old.index, old.term) == (new.index, new.term))
            .count() as u64
            + first
            - 1;
        if let Some(last) = kept {
            let held = last.min(old.len() as u64);
            self.expect(common >= held, || format!("the rescue of {id} lost entry {}", common + 1));
        }
        let mut beginning = self
            .fold
            .first()
            .cloned()
            .unwrap_or_else(|| (0, Cluster::new(cluster_id), Configuration::default()));
        beginning.1.set_id(cluster_id);
        self.fold = vec![beginning];
        self.window = Window::default();
        self.leaders.clear();
        self.votes.clear();
        self.states.retain(|index, _| *index <= common);
        self.applied = self.applied.min(common);
        for entry in old.into_iter().take(first as usize - 1).chain(log.iter().cloned()) {
            self.commit(entry, 0); // by decree
        }
    }

    /// Membership is a fold of the log: computed here, apart from the nodes.
    fn commit(&mut self, entry: Entry, term: u64) {
        let is_normal = entry.get_entry_type() == EntryType::EntryNormal;
        let id = Payload::of(&entry).ok().filter(|_| is_normal).and_then(|payload| payload.id());
        let counts = id.is_none_or(|id| self.window.accept(id) == Verdict::First);
        if counts
            && let Some((_, cluster, configuration)) = self.fold.last()
            && let Some((cluster, configuration)) = after(&entry, cluster, configuration)
        {
            self.fold.push((entry.index, cluster, configuration));
        }
        self.ledger.push(entry);
        self.committed_in.push(term);
    }

    /// A node's members after it has come to `index`.
    pub(super) fn members(&mut self, id: u64, index: u64, members: &MembersApplied) {
        let folded = self.fold.iter().rev().find(|(at, _, _)| *at <= index);
        let Some((_, cluster, configuration)) = folded else { return };
        let agrees = *cluster == *members.cluster
            && configuration.to_conf_state() == convert::conf_state_to_record(&members.conf_state);
        let what = format!(
            "{id}: after {index} the members are {:?} {:?}, the log says {cluster:?} {configuration:?}",
            members.cluster, members.conf_state
        );
        self.expect(agrees, || what);
    }

    /// Whether the newest members that are committed are without `id`, which was one of them.
    pub(super) fn was_removed(&self, id: u64) -> bool {
        let newest = self.fold.last();
        newest.is_some_and(|(_, cluster, members)| cluster.is_removed(id) && !members.contains(id))
    }

    /// Entries that may count from now on: they left a node, or are on a disk. Log matching (Raft paper, 5.3).
    pub(super) fn entries(&mut self, id: u64, before: Option<u64>, entries: &[Entry]) {
        let mut before = before;
        for entry in entries {
            let what = (before, hash_of(entry));
            let known = *self.seen.entry((entry.index, entry.term)).or_insert(what);
            let same =
                known.1 == what.1 && (known.0.is_none() || before.is_none() || known.0 == before);
            let (term, index) = (entry.term, entry.index);
            self.expect(same, || format!("{id}: there are two different entries {term}/{index}"));
            before = Some(entry.term);
        }
    }

    /// Term, vote and commit never go back (O27).
    pub(super) fn hard_state(&mut self, id: u64, old: &HardState, new: &HardState) {
        let vote = old.term < new.term || old.vote == 0 || old.vote == new.vote;
        self.expect(old.term <= new.term && old.commit <= new.commit && vote, || {
            format!("{id}: the hard state goes back from {old:?} to {new:?} (O27)")
        });
    }

    /// Nothing is said before what it promises is on disk.
    pub(super) fn message(&mut self, id: u64, message: &Message, store: &MemStore) {
        let Ok(state) = store.state() else { return };
        let kind = message.get_msg_type();
        let durable = state.hard_state;
        let text = super::text::message(message);
        let term_is_own = !matches!(
            kind,
            MessageType::MsgRequestPreVote
                | MessageType::MsgRequestPreVoteResponse
                | MessageType::MsgReadIndex
        );
        if term_is_own {
            self.expect(durable.term >= message.term, || {
                format!("{id} says \"{text}\" while term {} is on its disk (O7, O15)", durable.term)
            });
        }
        match kind {
            MessageType::MsgAppend => {
                self.entries(
                    id,
                    Some(message.log_term).filter(|term| *term != 0),
                    message.get_entries(),
                );
            }
            // What was accepted in an earlier term may have been overwritten before it was written. That answer can do
            // no harm: this node took the entries for its own when it voted in the later term, and has not crashed since.
            MessageType::MsgAppendResponse if !message.reject && message.term == durable.term => {
                self.expect(message.index <= state.last_index, || {
                    format!("{id} says \"{text}\" while its disk ends at {} (O7)", state.last_index)
                });
            }
            MessageType::MsgRequestVote => {
                self.votes(id, message.term, id);
                self.expect(durable.term > message.term || durable.vote == id, || {
                    format!("{id} says \"{text}\" and has not voted for itself on disk (O7)")
                });
            }
            MessageType::MsgRequestVoteResponse if !message.reject => {
                self.votes(id, message.term, message.to);
                let voted = durable.vote == message.to || durable.term > message.term;
                self.expect(voted, || format!("{id} says \"{text}\" and its disk does not (O7)"));
            }
            _ => {}
        }
    }

    /// Nobody votes twice in a term, in however many lives.
    fn votes(&mut self, id: u64, term: u64, for_whom: u64) {
        let first = *self.votes.entry((id, term)).or_insert(for_whom);
        self.expect(first == for_whom, || {
            format!("{id} votes for {first} and for {for_whom} in term {term} (O27)")
        });
    }

    /// What a leader takes a follower to hold is on the follower's disk, unless a later leader overwrote it.
    fn matched(&mut self, nodes: &BTreeMap<u64, Node>, id: u64, life: &Life) {
        let term = life.core.vitals().term;
        for (peer, matched) in life.core.matched_peers() {
            let Some(node) = nodes.get(&peer) else { continue };
            let Ok(state) = node.store.state() else { continue };
            if node.wiped || state.hard_state.term > term || matched < state.first_index {
                continue;
            }
            let (held, known) = (node.store.term(matched).ok(), life.log.term(matched));
            self.expect(known.is_none() || held == known, || {
                format!("{id} takes {peer} to hold {known:?}/{matched}, its disk has {held:?} (O7)")
            });
        }
    }

    /// A node has applied an entry: it was committed, it is on the node's own disk, and all nodes agree on it.
    pub(super) fn applied_entry(&mut self, id: u64, entry: &Entry, digest: u64, store: &MemStore) {
        let (term, index) = (entry.term, entry.index);
        let committed = self.ledger.get(index as usize - 1).is_some_and(|committed| {
            committed.term == term && hash_of(committed) == hash_of(entry)
        });
        self.expect(committed, || format!("{id} applies {term}/{index}, which is not committed"));
        let durable = store.term(index).is_ok_and(|durable| durable == term);
        self.expect(durable, || {
            format!("{id} applies {term}/{index}, which is not on its disk (O3)")
        });
        if let Ok(Some(ChangeEntry { proposal: Some(proposal), .. })) =
            ChangeEntry::read(&convert::entry_view(entry))
        {
            self.took_effect(id, proposal);
        }
        self.state(id, index, digest);
    }

    /// A node's state at an index.
    pub(super) fn state(&mut self, id: u64, index: u64, digest: u64) {
        self.applied = self.applied.max(index);
        let known = *self.states.entry(index).or_insert(digest);
        self.expect(known == digest, || format!("{id}: the state at {index} differs from others'"));
    }

    pub(super) fn took_effect(&mut self, id: u64, proposal: ProposalId) {
        let end = *self.ends.entry(proposal).or_insert(End::TookEffect);
        self.expect(end == End::TookEffect, || {
            format!("{id}: {proposal:?} takes effect after a definite refusal (O29)")
        });
    }

    pub(super) fn refused_for_good(&mut self, id: u64, proposal: ProposalId) {
        let end = *self.ends.entry(proposal).or_insert(End::RefusedForGood);
        self.expect(end == End::RefusedForGood, || {
            format!("{id}: {proposal:?} took effect and is refused (O29)")
        });
    }

    /// A read is answered from a state that holds at least all that was known when it was asked (O24).
    pub(super) fn read(&mut self, id: u64, asked_at: u64, index: u64, applied: u64) {
        self.expect(asked_at <= index && index <= applied, || {
            format!("{id}: a read asked at {asked_at} is answered with {index} at {applied} (O24)")
        });
    }

    /// A new leader has all that was committed before its term (Raft paper, 5.4.3).
    fn leads(&mut self, id: u64, leads: u64, log: &Shadow) {
        let lacks = self.ledger.iter().zip(&self.committed_in).find(|(entry, committed_in)| {
            let held = log.term(entry.index);
            let differs = held.is_some_and(|term| term != entry.term) || entry.index > log.last();
            **committed_in < leads && differs
        });
        if let Some((Entry { term, index, .. }, _)) = lacks {
            self.violations.push(format!("{id} leads term {leads} without {term}/{index}"));
        }
    }

    /// Looks a node over after each of its steps.
    pub(super) fn observe(&mut self, nodes: &mut BTreeMap<u64, Node>, id: u64) {
        let Some(Node { life: Some(life), store, .. }) = nodes.get(&id) else { return };
        let vitals = life.core.vitals();
        let durable = life.core.durable_index();
        let commit_before = life.commit;
        self.expect(vitals.commit >= commit_before, || {
            format!("{id}: commit goes back from {commit_before} to {}", vitals.commit)
        });
        self.expect(vitals.applied <= vitals.commit.min(durable), || {
            format!(
                "{id}: applied {} of {} committed and {durable} durable",
                vitals.applied, vitals.commit
            )
        });
        let on_disk = store.term(durable).ok();
        let in_memory = life.log.term(durable);
        self.expect(in_memory.is_none() || on_disk == in_memory, || {
            format!("{id} takes {in_memory:?}/{durable} for durable, its disk has {on_disk:?}")
        });
        if vitals.role == Role::Leader {
            let first = *self.leaders.entry(vitals.term).or_insert(id);
            self.expect(first == id, || format!("{first} and {id} both lead term {}", vitals.term));
            if !life.led {
                self.leads(id, vitals.term, &life.log);
            }
            self.matched(nodes, id, life);
        }
        let known = self.committed();
        // What a snapshot covers that waits to be installed is committed, and the log still is as before: it tells as little
        // of that as of what came after the snapshot, which is looked at once it is installed.
        let first = life.core.log_bounds().0;
        let held = life.log.term(first - 1);
        let waits = held.is_some() && held != self.committed_term(first - 1);
        let looked_at = if waits { first - 1 } else { vitals.commit };
        for index in first.max(commit_before + 1)..=looked_at.min(known) {
            let (committed, held) = (self.ledger[index as usize - 1].term, life.log.term(index));
            self.expect(held.is_none_or(|held| held == committed), || {
                format!("{id} has {held:?}/{index} committed, others {committed}/{index}")
            });
        }
        if vitals.commit > known {
            self.expect(vitals.role == Role::Leader, || {
                format!("{id} knows {} committed before any leader does", vitals.commit)
            });
            let configuration = life.core.configuration();
            let (commit, term) = (vitals.commit, life.log.term(vitals.commit));
            for half in [configuration.voters(), configuration.voters_outgoing()] {
                let holds = |voter: &&u64| {
                    nodes.get(voter).is_some_and(|node| node.store.term(commit).ok() == term)
                };
                let holders = half.iter().filter(holds).count();
                self.expect(half.is_empty() || 2 * holders > half.len(), || {
                    format!(
                        "{id} commits {term:?}/{commit}, which is on {holders} disks of {half:?}"
                    )
                });
            }
            for index in known + 1..=vitals.commit {
                match life.log.get(index).cloned() {
                    Some(entry) => self.commit(entry, vitals.term),
                    None => return self.violation(format!("{id} commits {index}, which it lacks")),
                }
            }
        }
        if let Some(Node { life: Some(life), .. }) = nodes.get_mut(&id) {
            life.commit = looked_at;
            life.led = vitals.role == Role::Leader;
        }
    }
}
