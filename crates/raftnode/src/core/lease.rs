//! Reads within a lease: answered by the leader alone, while nobody else can lead (Raft thesis, section 6.4.1).
//!
//! raft-rs's own `ReadOnlyOption::LeaseBased` is not used. It takes *check-quorum has not deposed me yet* for a lease. That
//! check looks back once in an election timeout, so a leader that was cut off goes on for up to two, while a successor needs
//! only one; and neither a transfer of leadership nor a member that restarts, and has forgotten to whom it listened, is
//! taken into account. Such a read can be stale with perfect clocks.
//!
//! Here a lease is what a round of reads (O24) leaves behind. The heartbeats of the round left after time `t`, when it was
//! asked. Each voter's answer says for how long, from when it heard the heartbeat and by its own clock, it gives its vote to
//! nobody else. When a majority has promised long enough, then until `t` plus a bit less than that, by the leader's clock,
//! nobody else can have been elected: whoever was would have had the vote of one of them. So whatever is committed is
//! committed here. Others need not promise anything. To hold, it takes:
//!
//! * allowance for ticks, in which members count what they promise ([`SLACK`]), and for clocks that differ in speed as much
//!   as the configuration says;
//! * votes withheld by each member itself, and not by raft-rs, which forgets its leader whenever a message of a later term
//!   arrives: after every message of its leader, and after a restart ([`Lease::heard`], [`Lease::new`]);
//! * promises that are durable before they are given. A member may start again with leases off or a shorter timeout, and
//!   whoever holds the lease may be the last to hear of it. So the longest promise is on disk
//!   ([`Recovered::promise`]), and kept first, whatever the configuration says now. It is also why the
//!   promise is part of the answer, and not of the handshake: it binds the very life that gave the answer, and those after it;
//! * no campaign before its time: neither on request, nor of a voter that takes itself for the only one (the change that
//!   added another may be known to it no more: a commit index is not synced), nor by ticks that have not passed, nor by a
//!   timeout that is shorter than an old promise;
//! * no lease in a term in which a transfer was begun, for its target campaigns at once and is voted for, and the message
//!   that tells it to may arrive at any time;
//! * no lease across a change of the configuration, in which the answers might be no majority;
//! * answers to this very try of the round, in this term: an earlier try was heard before `t`, and in a later term others
//!   have led.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oarlock_membership::Configuration;
use raft::eraftpb::{Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, StateRole};

use super::{Core, Event, StepError};
use crate::Config;
use crate::bootstrap::Recovered;
use crate::planted::planted;
use crate::wire::{self, Refused};

/// Ticks by which a member's election timeout may be shorter than its intervals add up to: the tick under way, one
/// that is late, one that is made up for, and two after a snapshot (O17).
pub(crate) const SLACK: u32 = 5;

/// What this node promises as a follower, and was promised as a leader.
#[derive(Debug)]
pub(super) struct Lease {
    id: u64,
    /// How long one lasts; zero for never.
    length: Duration,
    /// What this node promises, and what a lease takes of others; zero for nothing.
    promise: Duration,
    election_ticks: u32,
    /// What time it is.
    now: Duration,
    /// The last try of a round that began as a leader.
    asked: Option<Asked>,
    held: Option<Terms>,
    /// A transfer was begun in this term.
    transfer: u64,
    /// Ticks for which this node still votes for nobody but its leader.
    bound: u32,
    /// What others promised when they last answered.
    promises: BTreeMap<u64, Duration>,
}

#[derive(Debug)]
struct Asked {
    context: Vec<u8>,
    terms: Terms,
    /// Voters that answered with a promise that is long enough.
    answered: BTreeSet<u64>,
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
    /// A node that ran before may have promised something that it does not remember, but its log does.
    pub(super) fn new(config: &Config, recovered: &Recovered) -> Self {
        let promise = config.promise();
        let durable = recovered.promised >= promise || planted("promise-not-yet-durable");
        let (promise, length) =
            if durable { (promise, config.lease()) } else { (Duration::ZERO, Duration::ZERO) };
        let ran_before = recovered.incarnation > 1 && !planted("promise-forgotten-at-restart");
        let configured = !promise.is_zero() || !planted("promise-forgotten-when-switched-off");
        let bound = if ran_before && configured { ticks(recovered.promised, config) } else { 0 };
        Self {
            id: recovered.id,
            length,
            promise,
            election_ticks: config.election_ticks,
            now: Duration::ZERO,
            asked: None,
            held: None,
            transfer: 0,
            bound,
            promises: BTreeMap::new(),
        }
    }

    const fn is_on(&self) -> bool {
        !self.promise.is_zero()
    }

    pub(super) const fn transfer_begins(&mut self, term: u64) {
        self.transfer = term;
    }

    /// The leader has spoken: the promise begins anew.
    fn heard(&mut self) {
        if self.is_on() && !planted("promise-not-renewed") {
            self.bound = self.bound.max(self.election_ticks);
        }
    }

    pub(super) const fn tick(&mut self) {
        self.bound = self.bound.saturating_sub(1);
    }

    /// Ticks for which this node must neither campaign nor vote for anybody but its leader.
    pub(super) const fn bound(&self) -> u32 {
        self.bound
    }

    /// Says so in the answers to the leader's heartbeats.
    pub(super) fn promise(&self, messages: &mut [Message]) {
        for message in messages {
            if self.is_on() && message.get_msg_type() == MessageType::MsgHeartbeatResponse {
                wire::set_promise(message, self.promise);
            }
        }
    }

    /// In milliseconds, what somebody promised last.
    pub(super) fn promise_of(&self, id: u64) -> u64 {
        let promise = if id == self.id { Some(&self.promise) } else { self.promises.get(&id) };
        promise.map_or(0, |promise| u64::try_from(promise.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn forget_all_but(&mut self, configuration: &Configuration) {
        self.promises.retain(|id, _| configuration.contains(*id));
    }
}

/// As many ticks as surely last that long.
fn ticks(promise: Duration, config: &Config) -> u32 {
    let interval = config.heartbeat_interval.as_nanos();
    if promise.is_zero() {
        return 0;
    }
    if interval == 0 {
        return config.election_ticks; // time passes in ticks only
    }
    let ticks = u32::try_from(promise.as_nanos().div_ceil(interval)).unwrap_or(u32::MAX);
    ticks.saturating_add(SLACK)
}

impl Core {
    /// What time it is, by a monotonic clock that began at any instant. Only leases ask for it.
    ///
    /// Say it before what arrived is handled, and let it be a time at which all of that had arrived: a read is answered if
    /// the lease is in force at this time, and must see everything that was answered before it was asked. That this is a
    /// little earlier than now does no harm: a lease also begins at this time, before its heartbeats leave.
    pub const fn set_time(&mut self, now: Duration) {
        self.lease.now = now;
    }

    /// Whether this node has promised its leader to vote for nobody else yet, and not to campaign. Until then ticks must
    /// last as long as they do by the clock.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        self.lease.bound > 0
    }

    pub(super) fn must_not_campaign(&self) -> bool {
        self.is_bound()
            && !planted("campaigns-despite-a-promise")
            && !(planted("lone-voter-forgets-its-promise") && self.is_sole_voter())
    }

    /// If this node leads, and nobody else can: the index that a linearizable read needs, without a round. `None` when it
    /// takes one ([`handle_read`](Self::handle_read)), which may begin another lease. Always so without
    /// [`Config::lease_reads`](crate::Config::lease_reads), on followers, and as long as no majority promises enough.
    pub fn lease_read(&mut self) -> Option<u64> {
        let terms = self.lease.held?;
        if !self.is_leased() {
            self.lease.held = None;
            return None;
        }
        if self.lease.now.saturating_sub(terms.from) >= self.lease.length / 2 {
            self.reads.renew(); // so that a steady stream of reads never waits
        }
        Some(self.raw.raft.raft_log.committed)
    }

    pub(super) fn is_leased(&self) -> bool {
        let Lease { held, now, length, .. } = &self.lease;
        held.is_some_and(|terms| now.saturating_sub(terms.from) < *length && self.hold(&terms))
    }

    /// Whether what was true when the round began still is.
    fn hold(&self, terms: &Terms) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            && self.is_driven()
            && (raft.term == terms.term || planted("lease-of-another-term"))
            && (raft.term != self.lease.transfer || planted("lease-outlives-a-transfer"))
            && (self.change_applied() == terms.change || planted("lease-outlives-a-change"))
            && (!raft.has_pending_conf() || planted("lease-while-a-change-is-pending"))
            && (!self.configuration.is_joint() || planted("lease-while-joint"))
    }

    /// A try of a round begins.
    pub(super) fn lease_asked(&mut self, context: &[u8]) {
        let terms =
            Terms { term: self.raw.raft.term, change: self.change_applied(), from: self.lease.now };
        let asks = self.lease.is_on() && self.hold(&terms);
        let (context, answered) = (context.to_vec(), BTreeSet::new());
        self.lease.asked = asks.then_some(Asked { context, terms, answered });
        self.lease_answered(); // the only voter has all the answers it needs
    }

    /// A lease begins when a majority of the voters has promised enough in answer to the last try.
    fn lease_answered(&mut self) {
        let Some(Asked { terms, answered, .. }) = &self.lease.asked else { return };
        let voters = self.configuration.voters();
        let agreed = |id: &&u64| **id == self.lease.id || answered.contains(*id);
        if voters.iter().filter(agreed).count() * 2 > voters.len() && self.hold(terms) {
            let answered_at = self.lease.now;
            let late = planted("lease-begins-when-answered");
            let from = if late { answered_at } else { terms.from };
            self.lease.held = Some(Terms { from, ..*terms });
            self.lease.asked = None;
        }
    }

    /// A voter has answered a heartbeat, and says how long it withholds its vote.
    pub(super) fn promise_heard(&mut self, message: &Message) {
        let Message { from, .. } = *message;
        if message.get_msg_type() != MessageType::MsgHeartbeatResponse
            || self.raw.raft.state != StateRole::Leader
            || !self.lease.is_on()
            || !self.configuration.voters().contains(&from)
        {
            return;
        }
        let Lease { promise: takes, asked, promises, .. } = &mut self.lease;
        let promise = wire::promise(message);
        let enough = promise >= *takes || planted("short-promise-counts");
        let before = promises.insert(from, promise);
        if before.is_none_or(|before| before >= *takes) != enough {
            self.events.push_back(Event::Promise { by: from, promise, enough });
        }
        if enough
            && let Some(asked) = asked
            && (message.context[..] == asked.context[..] || planted("answer-to-an-earlier-try"))
        {
            asked.answered.insert(from);
            self.lease_answered();
        }
    }

    /// Refuses a vote that was promised not to be given, and takes note of a leader that speaks.
    pub(super) fn keep_promise(&mut self, message: &Message) -> Result<(), StepError> {
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
                if self.is_bound()
                    && message.context[..] != *CAMPAIGN_TRANSFER
                    && !planted("votes-despite-a-promise") =>
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
