//! Who waits for which proposal on this node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use oarlock_membership::{Cluster, ProposalId};
use parking_lot::Mutex;

use crate::waiter::Resolver;
use crate::{Applied, Busy, ChangeMembersError, ProposeError, Unknown};

/// The waiters of a node. The caller registers, the apply thread answers, the node thread refuses and expires.
#[derive(Debug)]
pub(crate) struct Waiters<R> {
    table: Mutex<Table<R>>,
}

#[derive(Debug)]
struct Table<R> {
    waiting: HashMap<ProposalId, Waiting<R>>,
    deadlines: BTreeSet<(Instant, ProposalId)>,
    /// Of all proposals that are waited for: they are held somewhere until they are answered.
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Waiting<R> {
    deadline: Instant,
    bytes: usize,
    waiter: Waiter<R>,
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Waiter<R> {
    Apply(Resolver<Applied<R>, ProposeError>),
    Members(Resolver<Arc<Cluster>, ChangeMembersError>),
}

impl<R> Waiter<R> {
    pub(crate) fn refuse(self, error: ProposeError) {
        match self {
            Self::Apply(resolver) => resolver.resolve(Err(error)),
            Self::Members(resolver) => resolver.resolve(Err(error.into())),
        }
    }
}

/// What the node thread does with waiters; it does not know the type of the answers.
pub(crate) trait WaiterTable: Send + Sync + 'static {
    /// Ends a proposal without a result.
    fn refuse(&self, id: ProposalId, error: ProposeError);
    /// Answers a change of members.
    fn members(&self, id: ProposalId, result: Result<Arc<Cluster>, ChangeMembersError>);
    /// The proposals whose deadline has passed. They stay until they are refused.
    fn expired(&self, now: Instant) -> Vec<ProposalId>;
    /// The next deadline.
    fn next_deadline(&self) -> Option<Instant>;
    /// How many wait.
    fn len(&self) -> usize;
    /// The node has ended: nobody knows about what is left, and nothing more is taken.
    fn close(&self);
}

impl<R> Waiters<R> {
    pub(crate) fn new() -> Self {
        let table =
            Table { waiting: HashMap::new(), deadlines: BTreeSet::new(), bytes: 0, closed: false };
        Self { table: Mutex::new(table) }
    }

    /// Registers a waiter for a proposal of `bytes`, and says whether that was done. If not, it has been refused:
    /// because the node has ended, or because the proposals that wait would come to more than `max_bytes`.
    pub(crate) fn register(
        &self,
        id: ProposalId,
        deadline: Instant,
        (bytes, max_bytes): (usize, usize),
        waiter: Waiter<R>,
    ) -> bool {
        let refused = {
            let mut table = self.table.lock();
            if table.closed {
                ProposeError::Stopped
            } else if !table.waiting.is_empty() && table.bytes.saturating_add(bytes) > max_bytes {
                ProposeError::Busy(Busy::Requests)
            } else {
                table.deadlines.insert((deadline, id));
                table.bytes += bytes;
                table.waiting.insert(id, Waiting { deadline, bytes, waiter });
                return true;
            }
        };
        waiter.refuse(refused);
        false
    }

    /// Answers a proposal with the result of its application. Nobody may be waiting.
    pub(crate) fn applied(&self, id: ProposalId, applied: Applied<R>) {
        if let Some(Waiter::Apply(resolver)) = self.take(id) {
            resolver.resolve(Ok(applied));
        }
    }

    fn take(&self, id: ProposalId) -> Option<Waiter<R>> {
        let mut table = self.table.lock();
        let Waiting { deadline, bytes, waiter } = table.waiting.remove(&id)?;
        table.deadlines.remove(&(deadline, id));
        table.bytes -= bytes;
        Some(waiter)
    }
}

impl<R: Send + 'static> WaiterTable for Waiters<R> {
    fn refuse(&self, id: ProposalId, error: ProposeError) {
        if let Some(waiter) = self.take(id) {
            waiter.refuse(error);
        }
    }

    fn members(&self, id: ProposalId, result: Result<Arc<Cluster>, ChangeMembersError>) {
        if let Some(Waiter::Members(resolver)) = self.take(id) {
            resolver.resolve(result);
        }
    }

    fn expired(&self, now: Instant) -> Vec<ProposalId> {
        let table = self.table.lock();
        table.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.table.lock().deadlines.first().map(|(at, _)| *at)
    }

    fn len(&self) -> usize {
        self.table.lock().waiting.len()
    }

    fn close(&self) {
        let waiting = {
            let mut table = self.table.lock();
            table.closed = true;
            table.deadlines.clear();
            table.bytes = 0;
            std::mem::take(&mut table.waiting)
        };
        for waiting in waiting.into_values() {
            waiting.waiter.refuse(ProposeError::OutcomeUnknown(Unknown::Stopped));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::waiter::pending;

    const ID: ProposalId = ProposalId { origin: 1, incarnation: 1, sequence: 1 };

    #[test]
    fn a_proposal_is_answered_once() {
        let waiters = Waiters::new();
        let (resolver, answer) = pending();
        waiters.register(ID, Instant::now(), (1, 9), Waiter::Apply(resolver));
        waiters.applied(ID, Applied { index: 5, term: 2, output: "a" });
        waiters.refuse(ID, ProposeError::NoLeader);
        assert_eq!(answer.wait(), Ok(Applied { index: 5, term: 2, output: "a" }));
        assert_eq!(waiters.next_deadline(), None);
    }

    #[test]
    fn the_deadline_names_who_has_waited_too_long() {
        let waiters: Waiters<()> = Waiters::new();
        let (resolver, answer) = pending();
        let now = Instant::now();
        waiters.register(ID, now + Duration::from_secs(1), (1, 9), Waiter::Apply(resolver));
        assert!(waiters.expired(now).is_empty());
        assert_eq!(waiters.expired(now + Duration::from_secs(1)), [ID]);
        waiters.refuse(ID, ProposeError::NoLeader);
        assert_eq!(answer.wait(), Err(ProposeError::NoLeader));
    }

    #[test]
    fn whoever_waits_when_the_node_ends_is_told_that_the_outcome_is_unknown() {
        let waiters: Waiters<()> = Waiters::new();
        let (resolver, answer) = pending();
        waiters.register(ID, Instant::now(), (1, 9), Waiter::Apply(resolver));
        waiters.close();
        assert_eq!(answer.wait(), Err(ProposeError::OutcomeUnknown(Unknown::Stopped)));
        let (resolver, answer) = pending();
        waiters.register(ID, Instant::now(), (1, 9), Waiter::Apply(resolver));
        assert_eq!(answer.wait(), Err(ProposeError::Stopped));
    }

    #[test]
    fn proposals_that_wait_are_bounded_in_bytes() {
        let waiters: Waiters<()> = Waiters::new();
        let id = |sequence| ProposalId { sequence, ..ID };
        let register = |sequence, bytes| {
            let (resolver, answer) = pending();
            waiters.register(id(sequence), Instant::now(), (bytes, 100), Waiter::Apply(resolver));
            answer
        };
        let _large = register(1, 200); // alone it has its chance
        let busy = Err(ProposeError::Busy(Busy::Requests));
        assert_eq!(register(2, 1).wait(), busy);
        waiters.refuse(id(1), ProposeError::NoLeader);
        let _small = (register(3, 60), register(4, 40));
        assert_eq!(register(5, 1).wait(), busy);
    }
}
