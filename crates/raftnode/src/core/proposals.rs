//! Proposals: appended in batches on the leader (O21), forwarded to it by everybody else (O22).
//!
//! A proposal is forwarded again only when it is certain that the previous attempt came to nothing. Either the leader
//! refused it, or an entry of a later term is committed and the log up to there does not hold the proposal: a leader
//! appends a forwarded proposal only in the term that the forward names, so it never will. So what was in flight when a
//! leader died goes to the next one, without waiting for a deadline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oarlock_membership::{ChangeEntry, ProposalId};
use raft::StateRole;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::{Core, Event};
use crate::convert;
use crate::planted::planted;
use crate::proposal::{Payload, Verdict, Window};
use crate::wire::{Forward, ForwardKind, ForwardRefusal, ForwardReply};
use crate::{Busy, ProposeError, SnapshotMark, Unknown};

mod forwards;
mod places;
use forwards::{Pace, reason_of};
use places::{Place, Places};

/// Entries in one MsgPropose, so that one step of raft-rs stays short.
const MAX_BATCH: usize = 4096;
/// Conf changes that may wait for an earlier one to be applied. Far more than anybody has reason to ask for at once.
const MAX_CHANGES: usize = 64;

#[derive(Debug)]
pub(super) struct Proposals {
    max_waiting: usize,
    /// Not yet appended or forwarded, in order.
    waiting: VecDeque<Queued>,
    /// Always empty between calls; kept for its capacity.
    batch: Vec<Queued>,
    /// The same for conf changes: they are appended one at a time, and must not hold up the others.
    changes: VecDeque<Queued>,
    /// Forwarded and not answered, with the leader they were sent to; kept in case they have to be sent again.
    forwarded: BTreeMap<ProposalId, (u64, Forward)>,
    /// How many more may be forwarded for now.
    pace: Pace,
    /// Some of the waiting ones may have been forwarded by other members.
    has_foreign: bool,
    /// A leader and term that answered *not leader*: nothing more is forwarded to it in that term.
    deposed: (u64, u64),
    /// This node's own proposals that were appended, here or by the leader, until their indexes are committed.
    places: Places,
    /// The term of the last entry that is known to be committed.
    committed_term: u64,
    /// Proposals that were forwarded to this node: for which term, and the answer, unless they still wait.
    seen: BTreeMap<ProposalId, (u64, Option<ForwardReply>)>,
    seen_order: VecDeque<ProposalId>,
}

#[derive(Debug)]
struct Queued {
    /// Who forwarded it; 0 for this node.
    from: u64,
    forward: Forward,
}

impl Proposals {
    pub(super) fn new(max_waiting: usize) -> Self {
        Self {
            max_waiting,
            waiting: VecDeque::new(),
            batch: Vec::new(),
            changes: VecDeque::new(),
            forwarded: BTreeMap::new(),
            pace: Pace::default(),
            has_foreign: false,
            deposed: (0, 0),
            places: Places::default(),
            committed_term: 0,
            seen: BTreeMap::new(),
            seen_order: VecDeque::new(),
        }
    }

    fn queue(&mut self, queued: Queued) -> Result<(), Queued> {
        let (queue, max) = match queued.forward.kind {
            ForwardKind::Normal => (&mut self.waiting, self.max_waiting),
            ForwardKind::ConfChange | ForwardKind::ConfChangeV2 => (&mut self.changes, MAX_CHANGES),
        };
        if queue.len() >= max {
            return Err(queued);
        }
        queue.push_back(queued);
        Ok(())
    }

    /// Puts proposals that are certain not to have been appended back into the queue, before those that came later.
    fn queue_again(&mut self, forwards: impl IntoIterator<Item = Forward>) {
        for forward in forwards {
            let queue = match forward.kind {
                ForwardKind::Normal => &mut self.waiting,
                ForwardKind::ConfChange | ForwardKind::ConfChangeV2 => &mut self.changes,
            };
            let earlier = |queued: &Queued| queued.forward.id < forward.id;
            let turned = planted("queued-again-in-reverse");
            let at = if turned { 0 } else { queue.partition_point(earlier) };
            queue.insert(at, Queued { from: 0, forward });
        }
    }
}

impl Core {
    /// Proposals of this node, in order. The data is complete, with its header.
    ///
    /// They wait until there is a leader; then they are appended, or forwarded to it, at the next
    /// [`poll_effects`](Core::poll_effects). What becomes of them shows in [`Event::Refused`] or, applied, in the log.
    pub fn handle_propose(&mut self, proposals: impl IntoIterator<Item = Forward>) {
        for forward in proposals {
            if let Err(queued) = self.proposals.queue(Queued { from: 0, forward }) {
                self.refuse(&queued, ProposeError::Busy(Busy::Requests));
            }
        }
    }

    /// Withdraws proposals that nobody waits for any more. Returns, in order, those that had not been appended or
    /// forwarded yet and so are certain to have no effect.
    ///
    /// The time it takes grows with `ids` and the proposals still waiting, not with what was appended: after a partition,
    /// hundreds of thousands of deadlines may pass at once.
    #[must_use = "these are certain to have no effect, the others are not"]
    pub fn cancel(&mut self, ids: &[ProposalId]) -> Vec<ProposalId> {
        let p = &mut self.proposals;
        for id in ids {
            p.forwarded.remove(id);
            p.places.forget(*id);
        }
        let mut certain = Vec::new();
        if !(ids.is_empty() || p.waiting.is_empty() && p.changes.is_empty()) {
            let ids: BTreeSet<&ProposalId> = ids.iter().collect();
            for queue in [&mut p.waiting, &mut p.changes] {
                queue.retain(|queued| {
                    let cancelled = queued.from == 0 && ids.contains(&queued.forward.id);
                    if cancelled {
                        certain.push(queued.forward.id);
                    }
                    !cancelled
                });
            }
        }
        if planted("appended-and-definitely-failed") {
            certain = ids.to_vec();
        }
        certain.sort_unstable();
        certain
    }

    /// Refuses every proposal that was not appended or forwarded yet.
    pub fn refuse_waiting(&mut self, error: &ProposeError) {
        let p = &mut self.proposals;
        if planted("stop-refuses-what-was-appended") {
            let appended = p.places.remove_through(u64::MAX);
            p.waiting.extend(appended.map(|place| Queued { from: 0, forward: place.forward }));
        }
        let waiting: Vec<Queued> = p.waiting.drain(..).chain(p.changes.drain(..)).collect();
        for queued in waiting {
            self.refuse(&queued, error.clone());
        }
    }

    /// Whether this node could append a proposal now, or why not.
    fn may_append(&self) -> Result<(), ProposeError> {
        let raft = &self.raw.raft;
        if self.removed {
            return Err(ProposeError::NotMember);
        }
        if self.quarantined.is_some() {
            return Err(ProposeError::Quarantined);
        }
        if raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader { asked: raft.id, leader: raft.leader_id });
        }
        if raft.lead_transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        if self.stall.refuses() {
            return Err(ProposeError::Busy(Busy::DiskStalled));
        }
        match self.pressure {
            Some(busy) => Err(ProposeError::Busy(busy)),
            None => Ok(()),
        }
    }

    /// Appends the waiting proposals if this node leads, else forwards them to the leader.
    pub(super) fn flush_proposals(&mut self) {
        if self.proposals.waiting.is_empty() && self.proposals.changes.is_empty() {
            return;
        }
        let raft = &self.raw.raft;
        if raft.state == StateRole::Leader {
            self.append_waiting();
            self.append_changes();
            return;
        }
        let (id, leader, term) = (raft.id, raft.leader_id, raft.term);
        if std::mem::take(&mut self.proposals.has_foreign) {
            // Those that others forwarded while this node led are refused at once, so that they can try elsewhere.
            self.refuse_foreign(&ProposeError::NotLeader { asked: id, leader });
        }
        let p = &mut self.proposals;
        if leader == 0 || p.deposed == (leader, term) {
            return;
        }
        let room = p.pace.room((leader, term), p.forwarded.len()).min(p.waiting.len());
        for queued in p.waiting.drain(..room).chain(p.changes.drain(..)) {
            let forward = Forward { term, ..queued.forward };
            p.forwarded.insert(forward.id, (leader, forward.clone()));
            self.events.push_back(Event::Forward { to: leader, forward });
        }
    }

    fn append_waiting(&mut self) {
        while !self.proposals.waiting.is_empty() {
            match self.may_append() {
                // This node's own can wait: either the transfer fails, or there is another leader to forward them to.
                Err(ProposeError::Transferring) => {
                    return self.refuse_foreign(&ProposeError::Transferring);
                }
                Err(error) => return self.refuse_waiting(&error),
                Ok(()) => {}
            }
            let (mut bytes, mut count) = (0, 0);
            for queued in self.proposals.waiting.iter().take(MAX_BATCH) {
                bytes += queued.forward.data.len() as u64;
                if count > 0 && bytes > self.max_msg_bytes && !planted("batch-without-bound") {
                    break;
                }
                count += 1;
            }
            let mut batch = std::mem::take(&mut self.proposals.batch);
            batch.extend(self.proposals.waiting.drain(..count));
            self.append(&mut batch);
            batch.clear();
            self.proposals.batch = batch;
        }
    }

    /// Appends conf changes one at a time, each when the one before has been applied.
    ///
    /// While the one before is committed and only has to be applied, the next waits: whoever was told that a change
    /// succeeded must be able to ask for another at once (etcd #15528). It also waits until a new leader has committed an
    /// entry of its term, because until then raft-rs assumes that a change is pending. Behind a change that is not
    /// committed, which may take for ever, it is refused.
    fn append_changes(&mut self) {
        while !self.proposals.changes.is_empty() {
            match self.may_append() {
                Err(ProposeError::Transferring) => {
                    return self.refuse_foreign(&ProposeError::Transferring);
                }
                Err(error) => return self.refuse_waiting(&error),
                Ok(()) => {}
            }
            let raft = &self.raw.raft;
            let pending = raft.has_pending_conf();
            if pending
                && (raft.pending_conf_index <= raft.raft_log.committed
                    || !raft.commit_to_current_term())
            {
                return;
            }
            let Some(queued) = self.proposals.changes.pop_front() else { return };
            if pending {
                self.refuse(&queued, ProposeError::ConfChangePending);
            } else {
                self.append(&mut vec![queued]);
            }
        }
    }

    fn append(&mut self, batch: &mut Vec<Queued>) {
        if batch.iter().any(|queued| self.is_for_this_term(queued).is_err()) {
            let (raft, taken) = (&self.raw.raft, std::mem::take(batch));
            let error = ProposeError::NotLeader { asked: raft.id, leader: raft.leader_id };
            for queued in taken {
                match self.is_for_this_term(&queued) {
                    Ok(()) => batch.push(queued),
                    Err(_) => self.refuse(&queued, error.clone()),
                }
            }
        }
        if batch.is_empty() {
            return; // raft-rs panics over a proposal without entries
        }
        let raft = &mut self.raw.raft;
        let mut message = Message { from: raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        let entries = batch.iter().map(|queued| entry_of(&queued.forward)).collect();
        message.set_entries(convert::list_to_raft(entries));
        let first = raft.raft_log.last_index() + 1;
        if raft.step(message).is_err() {
            let error = if raft.prs().get(raft.id).is_none() {
                ProposeError::NotMember
            } else {
                ProposeError::Busy(Busy::Uncommitted)
            };
            for queued in batch.drain(..) {
                self.refuse(&queued, error.clone());
            }
            return;
        }
        let term = raft.term;
        self.pace();
        for (index, Queued { from, forward }) in (first..).zip(batch.drain(..)) {
            if from == 0 {
                self.proposals.places.insert(index, term, forward);
            } else {
                let reply = ForwardReply::Accepted { id: forward.id, index, term };
                self.proposals.remember(forward.id, term, Some(reply.clone()));
                self.events.push_back(Event::ForwardReply { to: from, reply });
            }
        }
    }

    fn refuse_foreign(&mut self, error: &ProposeError) {
        let p = &mut self.proposals;
        let mut foreign = Vec::new();
        for queue in [&mut p.waiting, &mut p.changes] {
            let (ours, theirs): (Vec<_>, Vec<_>) =
                queue.drain(..).partition(|queued| queued.from == 0);
            queue.extend(ours);
            foreign.extend(theirs);
        }
        for queued in foreign {
            self.refuse(&queued, error.clone());
        }
    }

    fn refuse(&mut self, queued: &Queued, error: ProposeError) {
        let Queued { from, forward } = queued;
        let id = forward.id;
        if *from == 0 {
            return self.events.push_back(Event::Refused { id, error });
        }
        let (term, reason) = (forward.term, reason_of(&error));
        let reply = ForwardReply::Refused { id, term, reason };
        if !matches!(reason, ForwardRefusal::NotLeader { .. }) {
            self.proposals.remember(id, term, Some(reply.clone()));
        }
        self.events.push_back(Event::ForwardReply { to: *from, reply });
    }

    /// Compares committed entries, as they are handed over, with where this node's proposals were appended, and with the
    /// terms for which they were forwarded; those that another leader's entries have replaced are proposed again.
    pub(super) fn resolve_places(&mut self, committed: &[Entry]) {
        let p = &mut self.proposals;
        let Some(last) = committed.last() else { return };
        let later = last.term > std::mem::replace(&mut p.committed_term, last.term);
        if p.places.is_empty() && p.forwarded.is_empty() {
            return;
        }
        let mut again = Vec::new();
        for entry in committed {
            if !p.forwarded.is_empty()
                && let Some(id) = proposal_id(entry)
            {
                p.forwarded.remove(&id); // its acceptance was lost; its result is on its way
            }
            while let Some(Place { term, forward, .. }) = p.places.remove(entry.index) {
                if entry.term != term {
                    again.push(forward); // another leader's entry stands where it stood
                } else if forward.kind != ForwardKind::Normal
                    && entry.get_entry_type() == EntryType::EntryNormal
                {
                    // raft-rs replaced the conf change by an empty entry, because another was pending.
                    let error = ProposeError::ConfChangePending;
                    self.events.push_back(Event::Refused { id: forward.id, error });
                }
            }
        }
        if later && !planted("a-tail-gives-way-one-by-one") {
            // No entry of an earlier term can follow one of this term.
            again.extend(p.places.remove_before_term(last.term).map(|place| place.forward));
        }
        p.forwarded.retain(|_, (_, forward)| {
            let alive = forward.term >= last.term;
            if !alive {
                again.push(forward.clone()); // its leader's term is over, and the log does not hold it
            }
            alive
        });
        again.sort_unstable_by_key(|forward| forward.id);
        p.queue_again(again);
    }

    /// A snapshot replaced the log up to `mark`, so the results of proposals in it are unknown. Its window tells which
    /// proposals those are; conf changes are not in the window, so any of them may be.
    pub(super) fn places_lost(&mut self, mark: &SnapshotMark, mut window: Window) {
        let p = &mut self.proposals;
        p.committed_term = p.committed_term.max(mark.term);
        let in_snapshot: Vec<Forward> =
            p.places.remove_through(mark.index).map(|place| place.forward).collect();
        // No entry of an earlier term can follow the snapshot.
        let mut again: Vec<Forward> =
            p.places.remove_before_term(mark.term).map(|place| place.forward).collect();
        let mut may_be_in_it = |forward: &Forward| {
            forward.kind != ForwardKind::Normal
                || window.accept(forward.id) != Verdict::First
                || planted("snapshot-ends-what-was-forwarded")
        };
        let (mut unknown, lost): (Vec<Forward>, Vec<Forward>) =
            in_snapshot.into_iter().partition(&mut may_be_in_it);
        again.extend(lost);
        for (id, (leader, forward)) in std::mem::take(&mut p.forwarded) {
            if may_be_in_it(&forward) {
                unknown.push(forward);
            } else if forward.term < mark.term {
                again.push(forward);
            } else {
                p.forwarded.insert(id, (leader, forward));
            }
        }
        again.sort_unstable_by_key(|forward| forward.id);
        p.queue_again(again);
        let error = ProposeError::OutcomeUnknown(Unknown::Snapshot);
        let refused = |forward: Forward| Event::Refused { id: forward.id, error: error.clone() };
        self.events.extend(unknown.into_iter().map(refused));
    }
}

/// Whose proposal an entry is.
fn proposal_id(entry: &Entry) -> Option<ProposalId> {
    match entry.get_entry_type() {
        EntryType::EntryNormal => Payload::of(entry).ok()?.id(),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            ChangeEntry::read(&convert::entry_view(entry)).ok()??.proposal
        }
    }
}

fn entry_of(forward: &Forward) -> Entry {
    let kind = match forward.kind {
        ForwardKind::Normal => EntryType::EntryNormal,
        ForwardKind::ConfChange => EntryType::EntryConfChange,
        ForwardKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    };
    convert::entry(0, 0, kind, forward.data.clone())
}
