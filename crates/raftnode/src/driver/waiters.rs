//! The callers that wait for their proposals on this node.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oarlock_membership::{Cluster, ProposalId};
use parking_lot::Mutex;

use super::padded::Padded;
use crate::waiter::Resolver;
use crate::{Applied, Busy, ChangeMembersError, ProposeError, Unknown};

/// How many deadlines of answered proposals may be kept, beyond as many as there are proposals waiting.
const STALE_DEADLINES: usize = 1024;

/// After this time the node thread delivers the answers that the apply thread is holding back.
const LATE: Duration = Duration::from_millis(1);

/// Deadlines handled in one go. Very many may pass at once, and ticks must not wait for all of them.
const LATE_AT_ONCE: usize = 4096;

/// The callers that wait, by proposal. Callers register, the apply thread answers, the node thread refuses and expires.
///
/// All of them are this node's own proposals of this incarnation, so the sequence number identifies each.
#[derive(Debug)]
pub(crate) struct Waiters<R> {
    origin: u64,
    incarnation: u64,
    table: Padded<Mutex<Table<R>>>,
    held: Padded<Mutex<Held<R>>>,
    /// Nanoseconds from `epoch` to the next deadline, or to an earlier time; `u64::MAX` for none. Written with the
    /// table's lock held, and read without it.
    earliest: Padded<AtomicU64>,
    epoch: Instant,
}

#[derive(Debug)]
struct Table<R> {
    waiting: HashMap<u64, Waiting<R>, BuildHasherDefault<Neighbours>>,
    /// May include deadlines of proposals that were answered.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The sum over all waiting proposals, which are in memory somewhere until they are answered.
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Waiting<R> {
    bytes: usize,
    waiter: Waiter<R>,
}

/// A hash that keeps neighbours together. Sequence numbers are nearly consecutive, and only this node chooses them, so
/// no protection from collisions is needed, and those that are answered together share cache lines. The top seven bits,
/// which the hash table compares first, differ too.
#[derive(Default)]
struct Neighbours(u64);

impl Hasher for Neighbours {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 << 57)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(8) ^ number;
    }
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

/// The apply thread's answers, delivered several at a time.
///
/// Delivered one by one, each would wake a caller that takes the processor from the apply thread and proposes again,
/// alone. So answers are held back for a moment. If the next entry takes long to apply, the node thread delivers them
/// instead, before any deadline passes: see [`WaiterTable::give_late`].
#[derive(Debug)]
pub(super) struct Answers<R> {
    waiters: Arc<Waiters<R>>,
    /// Always empty between calls; kept for its capacity.
    spare: Vec<(u64, Applied<R>)>,
}

/// Answers that are held back, and a time before the first of them was added.
#[derive(Debug)]
struct Held<R> {
    answers: Vec<(u64, Applied<R>)>,
    since: Instant,
}

impl<R> Answers<R> {
    /// How many answers are held back at most.
    const MOST: usize = 256;
    /// For how long, about, and at most twice as long, while answers keep coming.
    const LONGEST: Duration = Duration::from_micros(100);

    pub(super) const fn new(waiters: Arc<Waiters<R>>) -> Self {
        Self { waiters, spare: Vec::new() }
    }

    /// A batch is about to be applied.
    pub(super) fn begin(&mut self) {
        self.waiters.held.lock().since = Instant::now();
    }

    /// Answers a proposal, if it is one of this node's.
    pub(super) fn give(&mut self, id: ProposalId, applied: Applied<R>) {
        if !self.waiters.is_own(id) {
            return;
        }
        let mut held = self.waiters.held.lock();
        held.answers.push((id.sequence, applied));
        let count = held.answers.len();
        // Look at the clock only after 1, 2, 4, ... answers: that may cost as much as applying an entry.
        let due =
            count >= Self::MOST || count.is_power_of_two() && held.since.elapsed() > Self::LONGEST;
        drop(held);
        if due {
            self.flush();
            self.begin();
        }
    }

    /// Delivers everything that is held back.
    pub(super) fn flush(&mut self) {
        std::mem::swap(&mut self.waiters.held.lock().answers, &mut self.spare);
        if !self.spare.is_empty() {
            self.waiters.applied(&mut self.spare);
        }
    }
}

impl<R> Drop for Answers<R> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The node thread's view of the waiters, without the type of the answers.
pub(crate) trait WaiterTable: Send + Sync + 'static {
    /// Ends a proposal without a result.
    fn refuse(&self, id: ProposalId, error: ProposeError);
    /// Answers a change of members.
    fn members(&self, id: ProposalId, result: Result<Arc<Cluster>, ChangeMembersError>);
    /// Delivers answers that the apply thread has been holding back for too long.
    fn give_late(&self, now: Instant);
    /// Proposals whose deadline has passed, each returned once, to be refused. If there are very many, only some of them;
    /// the next deadline is then one that has passed.
    fn expired(&self, now: Instant) -> Vec<ProposalId>;
    /// The next deadline, or an earlier time.
    fn next_deadline(&self) -> Option<Instant>;
    /// How many wait.
    fn len(&self) -> usize;
    /// The node has ended: resolves what is left with *outcome unknown*, and refuses new ones.
    fn close(&self);
}

impl<R> Waiters<R> {
    /// For the proposals of this member in this incarnation.
    pub(crate) fn new(origin: u64, incarnation: u64) -> Self {
        let table = Table {
            waiting: HashMap::default(),
            deadlines: BinaryHeap::new(),
            bytes: 0,
            closed: false,
        };
        Self {
            origin,
            incarnation,
            table: Padded(Mutex::new(table)),
            held: Padded(Mutex::new(Held { answers: Vec::new(), since: Instant::now() })),
            earliest: Padded(AtomicU64::new(u64::MAX)),
            epoch: Instant::now(),
        }
    }

    /// Registers a waiter for a proposal of `bytes`. Returns false if the waiter was refused instead, because the node
    /// has ended or the waiting proposals would come to more than `max_bytes`; a single one is always taken.
    pub(crate) fn register(
        &self,
        id: ProposalId,
        deadline: Instant,
        (bytes, max_bytes): (usize, usize),
        waiter: Waiter<R>,
    ) -> bool {
        debug_assert!(self.is_own(id));
        let refused = {
            let mut table = self.table.lock();
            if table.closed {
                ProposeError::Stopped
            } else if !table.waiting.is_empty() && table.bytes.saturating_add(bytes) > max_bytes {
                ProposeError::Busy(Busy::Requests)
            } else {
                table.await_until(deadline, id.sequence);
                table.bytes += bytes;
                table.waiting.insert(id.sequence, Waiting { bytes, waiter });
                let deadline = self.since_epoch(deadline);
                if deadline < self.earliest.load(Ordering::Relaxed) {
                    self.earliest.store(deadline, Ordering::Relaxed);
                }
                return true;
            }
        };
        waiter.refuse(refused);
        false
    }

    /// Answers proposals with their results, as far as somebody still waits for them.
    fn applied(&self, answers: &mut Vec<(u64, Applied<R>)>) {
        // Wake callers only after the lock is released, since they will want it next.
        let mut found = Vec::with_capacity(answers.len());
        let mut table = self.table.lock();
        for (sequence, applied) in answers.drain(..) {
            if let Some(Waiter::Apply(resolver)) = table.take(sequence) {
                found.push((resolver, applied));
            }
        }
        drop(table);
        for (resolver, applied) in found {
            resolver.resolve(Ok(applied));
        }
    }

    fn is_own(&self, id: ProposalId) -> bool {
        (id.origin, id.incarnation) == (self.origin, self.incarnation)
    }

    fn take(&self, id: ProposalId) -> Option<Waiter<R>> {
        if self.is_own(id) { self.table.lock().take(id.sequence) } else { None }
    }

    fn since_epoch(&self, time: Instant) -> u64 {
        let nanos = time.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX - 1)
    }
}

impl<R> Table<R> {
    fn await_until(&mut self, deadline: Instant, sequence: u64) {
        if self.deadlines.len() > 2 * self.waiting.len() + STALE_DEADLINES {
            let waiting = &self.waiting;
            self.deadlines.retain(|Reverse((_, sequence))| waiting.contains_key(sequence));
        }
        self.deadlines.push(Reverse((deadline, sequence)));
    }

    fn take(&mut self, sequence: u64) -> Option<Waiter<R>> {
        let Waiting { bytes, waiter } = self.waiting.remove(&sequence)?;
        self.bytes -= bytes;
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

    fn give_late(&self, now: Instant) {
        let mut held = self.held.lock();
        if held.answers.is_empty() || now.saturating_duration_since(held.since) < LATE {
            return;
        }
        let mut answers = std::mem::take(&mut held.answers);
        drop(held);
        self.applied(&mut answers);
    }

    fn expired(&self, now: Instant) -> Vec<ProposalId> {
        if self.earliest.load(Ordering::Relaxed) > self.since_epoch(now) {
            return Vec::new();
        }
        let Self { origin, incarnation, .. } = *self;
        let mut expired = Vec::new();
        let mut table = self.table.lock();
        for _ in 0..LATE_AT_ONCE {
            let Some(Reverse((deadline, sequence))) = table.deadlines.peek().copied() else {
                break;
            };
            let waits = table.waiting.contains_key(&sequence);
            if waits && deadline > now {
                break;
            }
            table.deadlines.pop();
            if waits {
                expired.push(ProposalId { origin, incarnation, sequence });
            }
        }
        let next = table.deadlines.peek().map(|Reverse((deadline, _))| self.since_epoch(*deadline));
        self.earliest.store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
        expired
    }

    fn next_deadline(&self) -> Option<Instant> {
        let nanos = self.earliest.load(Ordering::Relaxed);
        (nanos != u64::MAX).then(|| self.epoch + Duration::from_nanos(nanos))
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
            self.earliest.store(u64::MAX, Ordering::Relaxed);
            std::mem::take(&mut table.waiting)
        };
        for waiting in waiting.into_values() {
            waiting.waiter.refuse(ProposeError::OutcomeUnknown(Unknown::Stopped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waiter::pending;

    const ID: ProposalId = ProposalId { origin: 1, incarnation: 1, sequence: 1 };

    fn waiters<R>() -> Waiters<R> {
        Waiters::new(1, 1)
    }

    #[test]
    fn a_proposal_is_answered_once() {
        let waiters = Arc::new(waiters());
        let (resolver, answer) = pending();
        waiters.register(ID, Instant::now(), (1, 9), Waiter::Apply(resolver));
        let applied = Applied { index: 5, term: 2, output: "a" };
        let mut answers = Answers::new(Arc::clone(&waiters));
        answers.give(ID, applied);
        drop(answers);
        waiters.refuse(ID, ProposeError::NoLeader);
        assert_eq!(answer.wait(), Ok(applied));
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn the_same_number_of_another_member_or_start_is_another_proposal() {
        let waiters = Arc::new(waiters());
        let (resolver, answer) = pending();
        waiters.register(ID, Instant::now(), (1, 9), Waiter::Apply(resolver));
        let applied = Applied { index: 5, term: 2, output: "a" };
        let mut answers = Answers::new(Arc::clone(&waiters));
        answers.give(ProposalId { origin: 2, ..ID }, applied);
        answers.flush();
        waiters.refuse(ProposalId { incarnation: 2, ..ID }, ProposeError::NoLeader);
        assert!(!answer.is_ready());
    }

    #[test]
    fn the_deadline_names_who_has_waited_too_long_once() {
        let waiters: Waiters<()> = waiters();
        let (resolver, answer) = pending();
        let now = Instant::now();
        waiters.register(ID, now + Duration::from_secs(1), (1, 9), Waiter::Apply(resolver));
        assert!(waiters.expired(now).is_empty());
        assert!(waiters.next_deadline().is_some_and(|next| next <= now + Duration::from_secs(1)));
        assert_eq!(waiters.expired(now + Duration::from_secs(1)), [ID]);
        waiters.refuse(ID, ProposeError::NoLeader);
        assert_eq!(answer.wait(), Err(ProposeError::NoLeader));
        assert!(waiters.expired(now + Duration::from_secs(9)).is_empty());
        assert_eq!(waiters.next_deadline(), None);
    }

    #[test]
    fn many_deadlines_are_looked_at_in_pieces() {
        let waiters: Waiters<()> = waiters();
        let now = Instant::now();
        for sequence in 0..LATE_AT_ONCE as u64 + 1 {
            let id = ProposalId { sequence, ..ID };
            waiters.register(id, now, (0, 9), Waiter::Apply(pending().0));
        }
        assert_eq!(waiters.expired(now).len(), LATE_AT_ONCE);
        assert!(waiters.next_deadline().is_some_and(|next| next <= now), "the others wait");
        assert_eq!(waiters.expired(now).len(), 1);
        assert_eq!(waiters.next_deadline(), None);
    }

    #[test]
    fn deadlines_of_what_was_answered_do_not_pile_up() {
        let waiters: Waiters<()> = waiters();
        let late = Instant::now() + Duration::from_secs(60);
        let (resolver, _stays) = pending();
        waiters.register(ID, late, (1, 9), Waiter::Apply(resolver));
        for sequence in 2..10 * STALE_DEADLINES as u64 {
            let (resolver, answer) = pending();
            let id = ProposalId { sequence, ..ID };
            waiters.register(id, late, (1, 9), Waiter::Apply(resolver));
            waiters.refuse(id, ProposeError::NoLeader);
            assert!(answer.is_ready());
        }
        assert!(waiters.table.lock().deadlines.len() < 2 * STALE_DEADLINES);
        assert_eq!(waiters.expired(late), [ID]);
    }

    #[test]
    fn whoever_waits_when_the_node_ends_is_told_that_the_outcome_is_unknown() {
        let waiters: Waiters<()> = waiters();
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
        let waiters: Waiters<()> = waiters();
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
