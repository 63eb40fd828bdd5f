//! Reads and transfers of leadership that callers wait for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::planted::planted;
use crate::waiter::Resolver;
use crate::{Busy, ReadError, TransferError};

/// How often the deadlines of reads are checked: a read may end this much after its deadline.
const GRAIN: Duration = Duration::from_millis(50);

/// Reads, from the request until this node has applied their index (O24).
#[derive(Debug)]
pub(super) struct Reads {
    max: usize,
    next: u64,
    waiting: BTreeMap<u64, (Resolver<u64, ReadError>, Instant)>,
    /// Reads whose round was confirmed, by the index that has to be applied first.
    confirmed: BTreeMap<u64, Vec<u64>>,
}

impl Reads {
    pub(super) const fn new(max: usize) -> Self {
        Self { max, next: 0, waiting: BTreeMap::new(), confirmed: BTreeMap::new() }
    }

    /// Adds a read and returns its token, unless too many wait.
    pub(super) fn take(
        &mut self,
        resolver: Resolver<u64, ReadError>,
        deadline: Instant,
    ) -> Option<u64> {
        if self.waiting.len() >= self.max {
            resolver.resolve(Err(ReadError::Busy(Busy::Requests)));
            return None;
        }
        self.next += 1;
        self.waiting.insert(self.next, (resolver, deadline));
        Some(self.next)
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn confirm(&mut self, tokens: Vec<u64>, index: u64) {
        self.confirmed.entry(index).or_default().extend(tokens);
    }

    /// Answers the reads for which `applied` is far enough, and returns how many.
    pub(super) fn answer(&mut self, applied: u64) -> u64 {
        let mut answered = 0;
        while let Some(first) = self.confirmed.first_entry()
            && (*first.key() <= applied || planted("read-served-before-its-index-is-applied"))
        {
            let (index, tokens) = first.remove_entry();
            for token in tokens {
                if let Some((resolver, _)) = self.waiting.remove(&token) {
                    resolver.resolve(Ok(index));
                    answered += 1;
                }
            }
        }
        answered
    }

    /// Ends the reads whose deadline has passed, and returns their tokens in ascending order.
    pub(super) fn expire(&mut self, now: Instant, error: &ReadError) -> Vec<u64> {
        let late =
            |(token, (_, deadline)): (&u64, &(_, Instant))| (*deadline <= now).then_some(*token);
        let expired: Vec<u64> = self.waiting.iter().filter_map(late).collect();
        for token in &expired {
            if let Some((resolver, _)) = self.waiting.remove(token) {
                resolver.resolve(Err(error.clone()));
            }
        }
        if expired.is_empty() {
            return expired;
        }
        for tokens in self.confirmed.values_mut() {
            tokens.retain(|token| expired.binary_search(token).is_err());
        }
        expired
    }

    /// When to check deadlines again.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(now + GRAIN)
    }

    pub(super) fn refuse_all(&mut self, error: &ReadError) {
        for (resolver, _) in std::mem::take(&mut self.waiting).into_values() {
            resolver.resolve(Err(error.clone()));
        }
    }
}

/// Transfers of leadership in progress.
#[derive(Debug)]
pub(super) struct Transfers {
    max: usize,
    waiting: Vec<(u64, Resolver<(), TransferError>, Instant)>,
}

impl Transfers {
    pub(super) const fn new(max: usize) -> Self {
        Self { max, waiting: Vec::new() }
    }

    /// Whether no more may wait.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.max
    }

    pub(super) fn take(
        &mut self,
        to: u64,
        resolver: Resolver<(), TransferError>,
        deadline: Instant,
    ) {
        self.waiting.push((to, resolver, deadline));
    }

    /// This node sees a leader, or none (0): resolves the transfers to it.
    pub(super) fn leader(&mut self, leader: u64) {
        let (done, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(to, ..)| *to == leader);
        self.waiting = waiting;
        let done: Vec<(u64, Resolver<(), TransferError>, Instant)> = done;
        for (_, resolver, _) in done {
            resolver.resolve(Ok(()));
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let (late, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(.., at)| *at <= now);
        self.waiting = waiting;
        let late: Vec<(u64, Resolver<(), TransferError>, Instant)> = late;
        for (_, resolver, _) in late {
            resolver.resolve(Err(TransferError::TimedOut));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(.., at)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waiter::pending;

    #[test]
    fn a_read_is_answered_when_its_index_is_applied_and_not_before() {
        let mut reads = Reads::new(10);
        let (resolver, read) = pending();
        let token = reads.take(resolver, Instant::now()).expect("there is room");
        assert_eq!(reads.answer(9), 0, "its round is not over");
        reads.confirm(vec![token], 5);
        assert_eq!(reads.answer(4), 0, "answered from a state that is too old");
        assert_eq!(reads.answer(5), 1);
        assert_eq!(read.wait(), Ok(5));
    }
    #[test]
    fn reads_and_transfers_that_wait_are_bounded() {
        let mut reads = Reads::new(2);
        let mut take = || {
            let (resolver, read) = pending();
            (reads.take(resolver, Instant::now()), read)
        };
        let waiting = [take(), take()];
        assert!(waiting.iter().all(|(token, _)| token.is_some()));
        let (token, refused) = take();
        assert_eq!(token, None);
        assert_eq!(refused.wait(), Err(ReadError::Busy(Busy::Requests)));
        reads.confirm(waiting.iter().filter_map(|(token, _)| *token).collect(), 5);
        reads.answer(5);
        assert!(reads.take(pending().0, Instant::now()).is_some(), "there is room again");

        let mut transfers = Transfers::new(1);
        assert!(!transfers.is_full());
        transfers.take(2, pending().0, Instant::now());
        assert!(transfers.is_full());
        transfers.expire(Instant::now());
        assert!(!transfers.is_full());
    }
}
