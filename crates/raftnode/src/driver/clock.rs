//! What the node thread does as time passes: ticks, deadlines, the early election, and the end of a removed node.

use std::time::{Duration, Instant};

use super::node::Node;
use crate::planted::planted;
use crate::{NodeEnd, ProposeError, ReadError, Role, Unknown};

/// How long a removed node keeps running, so that its last messages, and the answers to them, get through; as in etcd.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// How long a starting node waits for a majority to connect before it gives up on an early election; as in etcd.
pub(super) const EARLY_ELECTION: Duration = Duration::from_secs(5);
/// How often it checks.
pub(super) const EARLY_ELECTION_POLL: Duration = Duration::from_millis(50);
/// The node thread wakes at least this often, even if nothing happens.
pub(super) const IDLE: Duration = Duration::from_secs(1);

impl Node {
    pub(super) fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let stall =
            self.writes.front().map(|(_, at, _)| *at + self.shared.config.election_timeout());
        [
            self.ticker.next(),
            self.waiters.next_deadline(),
            self.reads.next_deadline(now),
            self.transfers.next_deadline(),
            self.early_election.map(|_| now + EARLY_ELECTION_POLL),
            self.leaving,
            self.removed_until.map(|_| now + EARLY_ELECTION_POLL),
            stall.filter(|at| *at > now && !self.ticker.is_inert()),
        ]
        .into_iter()
        .flatten()
        .fold(now + IDLE, Instant::min)
    }

    pub(super) fn on_time(&mut self, now: Instant) {
        self.on_tick(now);
        self.watch_others(now);
        self.expire_proposals(now);
        let error =
            if self.core.vitals().leader == 0 { ReadError::NoLeader } else { ReadError::TimedOut };
        let expired = self.reads.expire(now, &error);
        if !expired.is_empty() {
            self.shared.counters.reads_failed.add(expired.len() as u64);
            self.core.cancel_reads(&|token| expired.binary_search(&token).is_ok());
        }
        self.transfers.expire(now);
        self.hasten_election(now);
        if let Some(until) = self.leaving {
            if now >= until || self.core.vitals().role != Role::Leader {
                self.ending = Some(NodeEnd::Stopped);
            } else if !self.core.is_transferring() && !planted("a-graceful-stop-tries-once") {
                self.hand_over(); // the last attempt took longer than an election timeout
            }
        }
        if let Some(until) = self.removed_until
            && (now >= until
                || (self.writes.is_empty() && self.held.is_empty() && now + LINGER / 2 >= until))
        {
            self.ending = Some(NodeEnd::Removed);
        }
    }

    /// Ends proposals whose deadline has passed, a bounded number per turn of the loop, so that ticks do not wait for
    /// very many of them (O12).
    fn expire_proposals(&mut self, now: Instant) {
        self.waiters.give_late(now); // first, so that what has an answer does not expire
        let expired = self.waiters.expired(now);
        if expired.is_empty() {
            return;
        }
        let certain = self.core.cancel(&expired);
        for id in expired {
            let error = match certain.binary_search(&id) {
                Ok(_) => self.not_handed_on(),
                Err(_) => ProposeError::OutcomeUnknown(Unknown::Deadline),
            };
            self.refuse(id, error);
        }
    }

    /// Ticks wait for nothing (O12).
    fn on_tick(&mut self, now: Instant) {
        let (ticks, skipped) = self.ticker.take(now);
        if ticks > 0 {
            self.core.advance_ticks(ticks);
            self.out.send(self.core.last_words(), self.core.gone()); // O19
            self.count();
            self.shared.counters.ticks_skipped.add(skipped);
        }
    }

    /// Once a majority is connected, shortens the wait for the first election to two ticks, in which the heartbeat of an
    /// existing leader can arrive (etcd #9333).
    fn hasten_election(&mut self, now: Instant) {
        let Some(until) = self.early_election else { return };
        if now >= until || self.core.vitals().leader != 0 {
            self.early_election = None;
            return;
        }
        if self.must_not_hasten() {
            return;
        }
        let cluster = self.core.cluster();
        let voters = cluster.voters().count();
        let transport = self.out.transport();
        let connected =
            cluster.voters().filter(|voter| transport.active_since(voter.id).is_some()).count();
        if voters > 1 && (connected + 1) * 2 > voters {
            self.early_election = None;
            self.core.advance_ticks(self.shared.config.election_ticks - 2);
        }
    }

    /// Publishes, once per tick, what changes too often to be published each time.
    pub(super) fn count(&mut self) {
        let core = &self.core;
        let now = (core.read_retries(), core.ticks_skipped(), core.inflight_pauses());
        let counters = &self.shared.counters;
        counters.read_retries.add(now.0 - self.counted.0);
        counters.ticks_skipped.add(now.1 - self.counted.1);
        counters.inflight_pauses.add(now.2 - self.counted.2);
        self.counted = now;
        let matched = self.core.matched_peers();
        self.shared.publish(|published| published.matched = matched);
    }
}
