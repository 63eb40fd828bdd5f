//! Lease reads: the leader answers alone while nobody else can lead (Raft thesis, section 6.4.1).
//!
//! raft-rs's own `ReadOnlyOption::LeaseBased` is not used: it treats *check-quorum has not deposed me yet* as a lease.
//! Check-quorum looks back once per election timeout, so a leader that was cut off goes on for up to two of them, while
//! a successor needs only one. Nor does it consider transfers of leadership, or members that restart and forget which
//! leader they heard. Such a read can be stale even with perfect clocks.
//!
//! Here a lease is a by-product of a round of reads (O24) that begins at time `t`. Its heartbeats leave after `t`, and
//! each voter's answer promises for how long, from when it heard the heartbeat and by its own clock, it votes for
//! nobody else. Once a majority has promised at least `p`, nobody else can be elected before `t + p` (less an
//! allowance, by the leader's clock), because a winner would need the vote of one of that majority. Until then
//! everything committed anywhere was committed by this leader. For this to hold:
//!
//! * The lease is shorter than the promises: members count them in ticks, which may be off by [`SLACK`], and clocks may
//!   differ in speed by as much as the configuration says.
//! * Each member withholds its vote itself, after every message of its leader and after a restart ([`Lease::heard`],
//!   [`Lease::new`]). raft-rs cannot be relied on: it forgets its leader when it sees a later term.
//! * A promise is durable before it is given. A member may restart with leases off or a shorter timeout, and the holder
//!   of the lease may be the last to know. So the longest promise ever given is on disk ([`Recovered::promise`]), and
//!   outlives any change of the configuration. Once an incarnation has kept what the earlier ones promised, only its
//!   own promises can be in force, and the record becomes shorter ([`Lease::tick`]). The promise is part of each answer,
//!   not of the handshake, so it binds exactly the incarnation that gave the answer, and the later ones.
//! * While a member is bound by a promise it does not campaign: not on request, not because it believes itself the only
//!   voter (it may have forgotten the change that added another: a commit index is not synced), not by ticks that were
//!   skipped ahead, and not by an election timeout shorter than an old promise.
//! * There is no lease in a term in which a transfer of leadership was started: its target campaigns at once, all vote
//!   for it, and the message that makes it do so may arrive at any time.
//! * There is no lease across a change of the configuration, by which the answers may not be a majority.
//! * Only answers to the newest try of the round in this term count. An earlier try was heard before `t`, and in a later
//!   term another leader has been elected in between.

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

/// Ticks by which a member's election timeout may be shorter than that many heartbeat intervals: the tick in progress,
/// one that is late, one that is made up for, and two that are made up for after a snapshot (O17).
pub(crate) const SLACK: u32 = 5;

/// What this node has promised as a follower, and what it was promised as a leader.
#[derive(Debug)]
pub(super) struct Lease {
    id: u64,
    /// How long a lease lasts; zero without lease reads.
    length: Duration,
    /// What this node promises, and demands of others as a leader; zero without lease reads.
    promise: Duration,
    election_ticks: u32,
    /// The time, as last set by [`Core::set_time`].
    now: Duration,
    /// The newest try of a round of reads, while its answers come in.
    asked: Option<Asked>,
    /// The lease in force, if it has not run out.
    held: Option<Terms>,
    /// The term in which a transfer of leadership was last started.
    transfer: u64,
    /// Ticks for which this node still votes for nobody but its leader.
    bound: u32,
    /// Ticks until all that earlier lives promised is over; and whether the log remembers more than this one promises.
    inherited: u32,
    outlived: bool,
    /// What other members promised in their last answers.
    promises: BTreeMap<u64, Duration>,
}

#[derive(Debug)]
struct Asked {
    context: Vec<u8>,
    terms: Terms,
    /// Voters whose answer promised enough.
    answered: BTreeSet<u64>,
}

/// The conditions under which a round began; a lease ends when one of them no longer holds.
#[derive(Clone, Copy, Debug)]
struct Terms {
    term: u64,
    /// Index of the newest conf change applied then.
    change: u64,
    /// The time then.
    from: Duration,
}

impl Lease {
    /// A node that ran before may be bound by a promise that only its log remembers.
    pub(super) fn new(config: &Config, recovered: &Recovered) -> Self {
        let promise = config.promise();
        let durable = recovered.promised >= promise || planted("promise-not-yet-durable");
        let (promise, length) =
            if durable { (promise, config.lease()) } else { (Duration::ZERO, Duration::ZERO) };
        let ran_before = recovered.incarnation > 1 && !planted("promise-forgotten-at-restart");
        let configured = !promise.is_zero() || !planted("promise-forgotten-when-switched-off");
        let bound = if ran_before && configured { ticks(recovered.promised, config) } else { 0 };
        let inherited = if planted("promise-forgotten-too-early") { bound.min(1) } else { bound };
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
            inherited,
            outlived: recovered.promised > promise,
            promises: BTreeMap::new(),
        }
    }

    const fn is_on(&self) -> bool {
        !self.promise.is_zero()
    }

    pub(super) const fn transfer_begins(&mut self, term: u64) {
        self.transfer = term;
    }

    /// The leader was heard: the promise starts over.
    fn heard(&mut self) {
        if self.is_on() && !planted("promise-not-renewed") {
            self.bound = self.bound.max(self.election_ticks);
        }
    }

    /// Time passes. Once, when all that earlier lives promised is over: the longest that can be owed from then on.
    pub(super) fn tick(&mut self) -> Option<Duration> {
        self.bound = self.bound.saturating_sub(1);
        let last = self.inherited == 1;
        self.inherited = self.inherited.saturating_sub(1);
        (last && self.outlived).then_some(self.promise)
    }

    /// Ticks for which this node must neither campaign nor vote for anybody but its leader.
    pub(super) const fn bound(&self) -> u32 {
        self.bound
    }

    /// Puts this node's promise into its answers to heartbeats.
    pub(super) fn promise(&self, messages: &mut [Message]) {
        for message in messages {
            if self.is_on() && message.get_msg_type() == MessageType::MsgHeartbeatResponse {
                wire::set_promise(message, self.promise);
            }
        }
    }

    /// What a member promised last, in milliseconds.
    pub(super) fn promise_of(&self, id: u64) -> u64 {
        let promise = if id == self.id { Some(&self.promise) } else { self.promises.get(&id) };
        promise.map_or(0, |promise| u64::try_from(promise.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn forget_all_but(&mut self, configuration: &Configuration) {
        self.promises.retain(|id, _| configuration.contains(*id));
    }
}

/// A number of ticks that is certain to last as long as the promise.
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
    /// Sets the time, by a monotonic clock with any origin. Only leases use it.
    ///
    /// Call it before handling what has arrived, with a time at which all of it had arrived. A lease read is answered
    /// if the lease is in force at this time, so with an earlier time it might miss writes that were answered before
    /// the read was asked. A time a little in the past does no harm otherwise: a lease starts at this time too, before
    /// its heartbeats leave.
    pub const fn set_time(&mut self, now: Duration) {
        self.lease.now = now;
    }

    /// Whether a promise to a leader is in force: this node votes for nobody else and does not campaign. Meanwhile
    /// ticks must not be skipped ahead, because the promise is counted in ticks.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        self.lease.bound > 0
    }

    pub(super) fn must_not_campaign(&self) -> bool {
        self.is_bound()
            && !planted("campaigns-despite-a-promise")
            && !(planted("lone-voter-forgets-its-promise") && self.is_sole_voter())
    }

    /// The index for a linearizable read, if this node holds a lease. `None` if the read needs a round
    /// ([`handle_read`](Self::handle_read)), which may start the next lease: so always without
    /// [`Config::lease_reads`](crate::Config::lease_reads), on followers, and while no majority promises enough.
    pub fn lease_read(&mut self) -> Option<u64> {
        let terms = self.lease.held?;
        if !self.is_leased() {
            self.lease.held = None;
            return None;
        }
        if self.lease.now.saturating_sub(terms.from) >= self.lease.length / 2 {
            self.reads.renew(); // half of it is over: renew in time, so that a steady stream of reads never waits
        }
        Some(self.raw.raft.raft_log.committed)
    }

    pub(super) fn is_leased(&self) -> bool {
        let Lease { held, now, length, .. } = &self.lease;
        held.is_some_and(|terms| now.saturating_sub(terms.from) < *length && self.hold(&terms))
    }

    /// Whether the conditions under which the round began still hold.
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

    /// A try of a round of reads is sent.
    pub(super) fn lease_asked(&mut self, context: &[u8]) {
        let terms =
            Terms { term: self.raw.raft.term, change: self.change_applied(), from: self.lease.now };
        let asks = self.lease.is_on() && self.hold(&terms);
        let (context, answered) = (context.to_vec(), BTreeSet::new());
        self.lease.asked = asks.then_some(Asked { context, terms, answered });
        self.lease_answered(); // a sole voter needs no answers
    }

    /// Starts a lease once a majority of the voters has promised enough in answer to the newest try.
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

    /// Takes note of the promise in a voter's answer to a heartbeat.
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

    /// Refuses to vote while a promise forbids it, and renews the promise when the leader is heard.
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
