//! Reads within a lease: answered by the leader alone, while nobody else can lead (Raft thesis, section 6.4.1).
//!
//! raft-rs's own `ReadOnlyOption::LeaseBased` is not used. It takes *check-quorum has not deposed me yet* for a lease. That
//! check looks back once in an election timeout, so a leader that was cut off goes on for up to two, while a successor needs
//! only one; and neither a transfer of leadership nor a member that restarts, and has forgotten to whom it listened, is
//! taken into account. Such a read can be stale with perfect clocks.
//!
//! Here a lease is what a round of reads (O24) leaves behind. A quorum has answered a heartbeat that left at time `t`. Each
//! of them, from when it heard that heartbeat, gives its vote to nobody else for an election timeout by its own clock. Until
//! `t` plus a bit less than that, by the leader's clock, nobody else can have been elected, and whatever is committed is
//! committed here. The *bit less* is [`SLACK`] ticks and the drift that the configuration allows for. To hold, it takes:
//!
//! * votes withheld by each member itself, and not by raft-rs, which forgets its leader whenever a message of a later term
//!   arrives: after every message of its leader, and after a restart ([`Lease::heard`]);
//! * no campaign before its time: neither on request, nor of a lone voter, nor by ticks that have not passed;
//! * no lease in a term in which a transfer was begun, for its target campaigns at once and is voted for, and the message
//!   that tells it to may arrive at any time;
//! * no lease across a change of the configuration, in which the answers might be no quorum.

use std::time::Duration;

use raft::eraftpb::{Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, StateRole};

use super::{Core, StepError};
use crate::Config;
use crate::wire::Refused;

/// Ticks by which a member's election timeout may be shorter than its intervals add up to: the tick under way, one
/// that is late, one that is made up for, and two after a snapshot (O17).
pub(crate) const SLACK: u32 = 5;

/// What this node promises as a follower, and was promised as a leader.
#[derive(Debug)]
pub(super) struct Lease {
    /// How long one lasts; zero for never.
    length: Duration,
    election_ticks: u32,
    /// What time it is.
    now: Duration,
    /// The last try of a round that began as a leader, and what was true then.
    asked: Option<(u64, Terms)>,
    held: Option<Terms>,
    /// A transfer was begun in this term.
    transfer: u64,
    /// Ticks for which this node still votes for nobody but its leader.
    promised: u32,
}

/// What a lease rests on.
#[derive(Clone, Copy, Debug)]
struct Terms {
    term: u64,
    /// The last conf change that had been judged.
    change: u64,
    /// When the round began.
    from: Duration,
}

impl Lease {
    /// A node that ran before may have promised something that it does not remember.
    pub(super) fn new(config: &Config, first_start: bool) -> Self {
        let length = config.lease();
        let restarted = config.lease_drift.is_some() && !first_start;
        Self {
            length,
            election_ticks: config.election_ticks,
            now: Duration::ZERO,
            asked: None,
            held: None,
            transfer: 0,
            promised: if restarted { config.election_ticks } else { 0 },
        }
    }

    const fn is_on(&self) -> bool {
        !self.length.is_zero()
    }

    pub(super) const fn transfer_begins(&mut self, term: u64) {
        self.transfer = term;
    }

    /// The leader has spoken: the promise begins anew.
    pub(super) const fn heard(&mut self) {
        if self.is_on() {
            self.promised = self.election_ticks;
        }
    }

    pub(super) const fn tick(&mut self) {
        self.promised = self.promised.saturating_sub(1);
    }

    /// Whether this node must not campaign of its own accord.
    pub(super) const fn is_bound(&self) -> bool {
        self.promised > 0
    }
}

impl Core {
    /// What time it is, by a monotonic clock that began at any instant. Only leases ask for it. Say it after something
    /// arrived and before it is handled.
    pub const fn set_time(&mut self, now: Duration) {
        self.lease.now = now;
    }

    /// If this node leads, and nobody else can: the index that a linearizable read needs, without a round. `None` when it
    /// takes one ([`handle_read`](Self::handle_read)), which may begin another lease. Always so without
    /// [`Config::lease_reads`](crate::Config::lease_reads), and on followers.
    pub fn lease_read(&mut self) -> Option<u64> {
        let terms = self.lease.held?;
        let age = self.lease.now.saturating_sub(terms.from);
        if age >= self.lease.length || !self.hold(&terms) {
            self.lease.held = None;
            return None;
        }
        if age >= self.lease.length / 2 {
            self.reads.renew(); // so that a steady stream of reads never waits
        }
        Some(self.raw.raft.raft_log.committed)
    }

    /// Whether what was true when the round began still is.
    fn hold(&self, terms: &Terms) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            && self.is_driven()
            && raft.term == terms.term
            && raft.term != self.lease.transfer
            && self.change_applied() == terms.change
            && !raft.has_pending_conf()
            && !self.configuration.is_joint()
    }

    /// A try of a round begins.
    pub(super) fn lease_asked(&mut self, attempt: u64) {
        let terms =
            Terms { term: self.raw.raft.term, change: self.change_applied(), from: self.lease.now };
        let asked = self.lease.is_on() && self.hold(&terms);
        self.lease.asked = asked.then_some((attempt, terms));
    }

    /// A try of a round was confirmed.
    pub(super) fn lease_confirmed(&mut self, attempt: u64) {
        if let Some((asked, terms)) = self.lease.asked
            && asked == attempt
            && self.hold(&terms)
        {
            self.lease.held = Some(terms);
        }
    }

    /// Refuses a vote that was promised not to be given, and takes note of a leader that speaks.
    pub(super) fn keep_promise(&mut self, message: &Message) -> Result<(), StepError> {
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
                if self.lease.is_bound() && message.context[..] != *CAMPAIGN_TRANSFER =>
            {
                Err(Refused::NotNow("the leader was promised that nobody else gets a vote").into())
            }
            MessageType::MsgHeartbeat | MessageType::MsgAppend | MessageType::MsgSnapshot
                if message.term >= self.raw.raft.term =>
            {
                self.lease.heard();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
