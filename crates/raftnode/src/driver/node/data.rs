//! Requests of callers, and messages of peers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use oarlock_transport::Refusal;

use super::{Node, status};
use crate::core::StepError;
use crate::driver::events::Data;
use crate::hex::Hex;
use crate::planted::planted;
use crate::proposal::Proposal;
use crate::{Busy, NodeEnd, Role, TransferError};

impl Node {
    pub(super) fn on_data(&mut self, data: &mut VecDeque<Data>) {
        let now = Instant::now();
        let mut proposed = 0;
        for data in data.drain(..) {
            match data {
                Data::Propose { proposal, deadline } => {
                    proposed += 1;
                    if deadline <= now {
                        self.refuse(proposal.id(), self.not_handed_on());
                    } else {
                        self.propose(proposal);
                    }
                }
                Data::Message { .. } if self.is_flooded() => {
                    self.shared.counters.messages_shed.add(1);
                }
                Data::Message { from, message } => {
                    if let Err(error) = self.core.handle_message(from, *message) {
                        self.message_refused(from, &error);
                    }
                }
                Data::Forward { from, forward } => self.core.handle_forward(from, forward),
                Data::ForwardReply { from, reply } => self.core.handle_forward_reply(from, &reply),
                Data::Read { resolver, deadline, lease } => {
                    if let Some(token) = self.reads.take(resolver, deadline) {
                        self.read(token, lease);
                    }
                }
                Data::Transfer { resolver, .. } if self.transfers.is_full() => {
                    resolver.resolve(Err(TransferError::Busy(Busy::Requests)));
                }
                Data::Transfer { to, resolver, deadline } => match self.core.handle_transfer(to) {
                    Ok(()) if to == self.shared.id => resolver.resolve(Ok(())),
                    Ok(()) => self.transfers.take(to, resolver, deadline),
                    Err(error) => resolver.resolve(Err(error)),
                },
                Data::Unreachable(peer) => self.core.handle_unreachable(peer),
                Data::Refused { peer, refusal } => self.on_refusal(peer, &refusal),
                Data::Campaign => self.core.handle_campaign(),
                // A promise to a leader is counted in ticks, so they must not be skipped ahead.
                Data::AdvanceTicks(_) if self.must_not_hasten() => {}
                Data::AdvanceTicks(ticks) => {
                    self.core.advance_ticks(ticks);
                    self.count();
                }
                Data::Status(reply) => {
                    let status = status(&self.core, &self.shared, &self.out, self.unapplied);
                    self.shared.publish(|published| published.status = status.clone());
                    let _ = reply.try_send(status); // it has room, or nobody waits any more
                }
            }
        }
        self.shared.counters.proposals.add(proposed);
        self.core.handle_propose(self.proposals.take());
    }

    /// Gives a proposal to the core, in order of arrival; small ones are framed together first.
    fn propose(&mut self, proposal: Proposal) {
        match proposal {
            Proposal::Bare { id, data } => {
                if !self.proposals.fits(id, &data) {
                    self.core.handle_propose(self.proposals.take());
                }
                self.proposals.add(id, data);
            }
            Proposal::Framed(forward) => {
                self.core.handle_propose(self.proposals.take());
                self.core.handle_propose([forward]);
            }
        }
    }

    fn read(&mut self, token: u64, lease: bool) {
        let index = if lease { self.core.lease_read() } else { None };
        match index {
            Some(index) => {
                self.shared.counters.reads_by_lease.add(1);
                self.reads.confirm(vec![token], index);
                self.answer_reads(); // at once, if that is applied
            }
            None => self.core.handle_read(token),
        }
    }

    pub(in crate::driver) fn must_not_hasten(&self) -> bool {
        self.core.is_bound() && !planted("hastened-despite-a-promise")
    }

    fn message_refused(&mut self, from: u64, error: &StepError) {
        match error {
            StepError::Refused(refused) => {
                self.shared.counters.messages_refused.add(1);
                let now = Instant::now();
                let due =
                    self.refused_logged.is_none_or(|last| now - last > Duration::from_secs(60));
                if refused.is_fault() && due {
                    self.refused_logged = Some(now);
                    log::warn!(id:% = Hex(self.shared.id), from:% = Hex(from), refused:%; "refused a peer's message");
                }
            }
            StepError::Shed => self.shared.counters.messages_shed.add(1),
            StepError::Inert | StepError::Raft(_) | StepError::Stale | StepError::NotNamed => {
                log::trace!(id:% = Hex(self.shared.id), from:% = Hex(from), error:%; "a message had no use");
            }
        }
    }

    /// A peer refused a connection. If a current member of the cluster says that this one was removed, the node ends
    /// (O19).
    ///
    /// A leader does not believe it: had it been removed while it led, it would have applied that itself, and had it
    /// been cut off, check-quorum would have made it a follower. Without check-quorum it would lead in vain for ever,
    /// so then it believes it too.
    fn on_refusal(&mut self, peer: u64, refusal: &Refusal) {
        if matches!(refusal, Refusal::Removed)
            && (self.core.vitals().role != Role::Leader || !self.shared.config.check_quorum)
            && self.core.cluster().member(peer).is_some()
            && self.removed_until.is_none()
        {
            log::warn!(id:% = Hex(self.shared.id), peer:% = Hex(peer); "a member says that this one was removed from the cluster");
            self.ending = Some(NodeEnd::Removed);
        }
    }
}
