//! Proposals that one member forwards to another, the leader (O22).

use oarlock_membership::{ChangeEntry, ProposalId};

use super::{Proposals, Queued, entry_of};
use crate::convert;
use crate::core::{Core, Event};
use crate::planted::planted;
use crate::proposal::Payload;
use crate::wire::{Forward, ForwardKind, ForwardRefusal, ForwardReply};
use crate::{Busy, ProposeError};

/// Forwarded proposals that a leader remembers, so that a duplicate frame is answered alike and not appended again.
const MAX_SEEN: usize = 16_384;

/// The most forwarded proposals without an answer. The leader answers as soon as it has appended them; until then they take
/// up room in its inbox, which silently drops what exceeds it, and in the lane to it.
const MAX_UNANSWERED: usize = 512;

/// Limits how many forwarded proposals are outstanding.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The leader that they are sent to, and its term.
    asked: (u64, u64),
    /// Outstanding proposals that no longer count: they went to another leader, or are presumed lost.
    given_up: usize,
    /// Ticks since the last answer.
    quiet: u32,
}

impl Pace {
    /// How many more may be forwarded to this leader, when `unanswered` are outstanding.
    pub(super) fn room(&mut self, asked: (u64, u64), unanswered: usize) -> usize {
        if self.asked != asked {
            *self = Self { asked, given_up: unanswered, quiet: 0 };
        }
        self.given_up = self.given_up.min(unanswered);
        let max = if planted("forwards-without-bound") { usize::MAX } else { MAX_UNANSWERED };
        max.saturating_sub(unanswered - self.given_up)
    }

    const fn answered(&mut self) {
        self.quiet = 0;
    }

    /// After `patience` ticks without any answer, presumes the `unanswered` ones lost, so that they do not hold up others.
    fn tick(&mut self, patience: u32, unanswered: usize) {
        self.quiet += 1;
        if self.quiet >= patience && !planted("lost-forwards-are-waited-for") {
            (self.quiet, self.given_up) = (0, unanswered);
        }
    }
}

impl Proposals {
    /// Remembers a proposal that was forwarded for `term`, and its answer if it has one.
    pub(super) fn remember(&mut self, id: ProposalId, term: u64, reply: Option<ForwardReply>) {
        if self.seen.insert(id, (term, reply)).is_none() {
            self.seen_order.push_back(id);
        }
        if self.seen_order.len() > MAX_SEEN
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }
}

impl Core {
    /// A proposal that a member forwards to this one as its leader. The answer comes as [`Event::ForwardReply`].
    pub fn handle_forward(&mut self, from: u64, forward: Forward) {
        if let Some((term, reply)) = self.proposals.seen.get(&forward.id)
            && *term == forward.term
        {
            // A duplicate frame. Both must get the same answer, now or later, or one of the two would be wrong (O29).
            if let Some(reply) = reply.clone() {
                self.events.push_back(Event::ForwardReply { to: from, reply });
            }
            return;
        }
        let queued = Queued { from, forward };
        let refusal = self.forward_refusal(&queued).err();
        let refused = match refusal {
            Some(reason) => Some((queued, reason)),
            None => {
                if !planted("doubled-while-it-waits") {
                    self.proposals.remember(queued.forward.id, queued.forward.term, None);
                }
                self.proposals.has_foreign = true;
                let full = ProposeError::Busy(Busy::Requests);
                self.proposals.queue(queued).err().map(|queued| (queued, full))
            }
        };
        if let Some((queued, error)) = refused {
            self.refuse(&queued, error);
        }
    }

    fn forward_refusal(&self, queued: &Queued) -> Result<(), ProposeError> {
        let Queued { from, forward } = queued;
        let invalid = || ProposeError::NotMember;
        self.is_for_this_term(queued)?; // first, because other refusals are remembered for the term
        self.may_append()?;
        if forward.id.origin != *from || self.cluster.member(*from).is_none() {
            return Err(ProposeError::NotMember);
        }
        let max = self.max_request_bytes + Payload::MAX_OVERHEAD;
        if forward.data.len() > max {
            return Err(ProposeError::TooLarge { bytes: forward.data.len(), max });
        }
        let proposed = match forward.kind {
            ForwardKind::Normal => Payload::decode(&forward.data).map_err(|_| invalid())?.id(),
            ForwardKind::ConfChange | ForwardKind::ConfChangeV2 => {
                let entry = entry_of(forward);
                let change =
                    ChangeEntry::read(&convert::entry_view(&entry)).map_err(|_| invalid())?;
                // A change with a rescue epoch is not checked when applied: only a rescue may write it, into its own log.
                change.filter(|change| change.rescue.is_none()).ok_or_else(invalid)?.proposal
            }
        };
        if proposed == Some(forward.id) { Ok(()) } else { Err(invalid()) }
    }

    /// A forwarded proposal is appended in the term that it names, or never.
    pub(super) fn is_for_this_term(&self, queued: &Queued) -> Result<(), ProposeError> {
        let raft = &self.raw.raft;
        let late = queued.forward.term != raft.term && !planted("forward-appended-in-a-later-term");
        if queued.from == 0 || !late {
            Ok(())
        } else {
            Err(ProposeError::NotLeader { asked: raft.id, leader: raft.leader_id })
        }
    }

    /// A tick passes: half an election timeout without an answer is long enough.
    pub(in crate::core) fn tick_forwards(&mut self) {
        let patience = self.raw.raft.election_timeout().div_ceil(2) as u32;
        let p = &mut self.proposals;
        p.pace.tick(patience, p.forwarded.len());
    }

    /// The leader's answer to a forwarded proposal.
    pub fn handle_forward_reply(&mut self, from: u64, reply: &ForwardReply) {
        let id = reply.id();
        let answers = |(leader, forward): &(u64, Forward)| {
            let in_term = reply.term() == forward.term || planted("answer-of-an-earlier-term");
            *leader == from && in_term
        };
        if !self.proposals.forwarded.get(&id).is_some_and(answers) {
            return; // answered before, never asked, or forwarded again in a later term
        }
        let Some((leader, forward)) = self.proposals.forwarded.remove(&id) else { return };
        self.proposals.pace.answered();
        match *reply {
            ForwardReply::Refused { reason: ForwardRefusal::NotLeader { .. }, .. } => {
                // It was not appended, so it may go to the next leader. If a duplicate frame was answered differently,
                // the window of applied ids still lets it take effect only once (O22).
                self.proposals.deposed = (leader, forward.term);
                self.proposals.queue_again([forward]);
            }
            ForwardReply::Accepted { index, term, .. }
                if index > self.pipeline.handover.handed() =>
            {
                self.proposals.places.insert(index, term, forward);
            }
            ForwardReply::Accepted { .. } => {} // handed over already: its result comes with the entry, or the deadline ends it
            ForwardReply::Refused { reason, .. } => {
                let error = error_of(reason, from, forward.data.len());
                self.events.push_back(Event::Refused { id, error });
            }
        }
    }
}

/// A refusal as it is sent to whoever forwarded the proposal.
pub(super) const fn reason_of(error: &ProposeError) -> ForwardRefusal {
    match error {
        ProposeError::NotLeader { leader, .. } => ForwardRefusal::NotLeader { leader: *leader },
        ProposeError::NoLeader => ForwardRefusal::NotLeader { leader: 0 },
        ProposeError::TooLarge { .. } => ForwardRefusal::TooLarge,
        ProposeError::Transferring => ForwardRefusal::Transferring,
        ProposeError::ConfChangePending => ForwardRefusal::ConfChangePending,
        ProposeError::NotMember => ForwardRefusal::NotMember,
        ProposeError::Stopped | ProposeError::Quarantined => ForwardRefusal::Stopping,
        ProposeError::Busy(_) | ProposeError::OutcomeUnknown(_) => ForwardRefusal::Busy,
    }
}

/// The error that a refusal by member `asked` comes to, for a proposal of `bytes` with its header.
const fn error_of(reason: ForwardRefusal, asked: u64, bytes: usize) -> ProposeError {
    match reason {
        ForwardRefusal::NotLeader { leader } => ProposeError::NotLeader { asked, leader },
        ForwardRefusal::Busy => ProposeError::Busy(Busy::Leader),
        ForwardRefusal::TooLarge => ProposeError::TooLarge { bytes, max: 0 },
        ForwardRefusal::Transferring => ProposeError::Transferring,
        ForwardRefusal::ConfChangePending => ProposeError::ConfChangePending,
        ForwardRefusal::Invalid | ForwardRefusal::NotMember => ProposeError::NotMember,
        ForwardRefusal::Stopping => ProposeError::NotLeader { asked, leader: 0 },
    }
}
