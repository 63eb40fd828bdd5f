//! The node thread: takes what arrived, asks the core what to do, and sees to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use oarlock_membership::Member;
use oarlock_transport::{Refusal, Transport};
use raft::eraftpb::Entry;

use super::clock::{EARLY_ELECTION, LINGER};
use super::events::{Control, Data};
use super::inbox::Bursts;
use super::look::Look;
use super::outbox::Outbox;
use super::reader::Reader;
use super::requests::{Reads, Transfers};
use super::shared::Shared;
use super::ticker::Ticker;
use super::waiters::WaiterTable;
use super::watch::ApplyWatch;
use super::writer::{Job, Seat};
use super::{apply, handoff, panicked, snapshots};
use crate::core::{Core, Effects, Event, Held, RoleChange, StepError};
use crate::failpoint::fail_point;
use crate::hex::Hex;
use crate::planted::planted;
use crate::proposal::{Framer, Proposal};
use crate::{
    Busy, LogError, NodeEnd, NodeError, ProposeError, ReadError, Role, SnapshotMark, Status,
    TransferError, Vitals,
};

/// About how much memory a stage holds beside its entries, and each message that waits for it.
const STAGE_BYTES: u64 = 256;

/// The other threads, as the node thread sees them.
pub(super) struct Threads {
    pub(super) seat: Seat,
    pub(super) reader: Reader,
    pub(super) apply: Sender<handoff::Job>,
    pub(super) apply_done: Receiver<()>,
    pub(super) stop: Arc<AtomicBool>,
}

pub(super) struct Node {
    pub(super) core: Core,
    pub(super) shared: Arc<Shared>,
    pub(super) waiters: Arc<dyn WaiterTable>,
    pub(super) out: Outbox,
    pub(super) held: Held,
    pub(super) threads: Threads,
    pub(super) reads: Reads,
    pub(super) transfers: Transfers,

    /// Writes under way: number, when, how many bytes.
    pub(super) writes: VecDeque<(u64, Instant, u64)>,
    pub(super) unsynced: u64,
    /// Empty between two looks at the inbox; kept for its room.
    proposals: Framer,
    /// Bytes handed over to be applied.
    pub(super) unapplied: u64,
    /// A snapshot was handed over, to become the state.
    pub(super) restoring: bool,

    started: Instant,
    pub(super) ticker: Ticker,
    pub(super) apply_watch: ApplyWatch,
    pub(super) early_election: Option<Instant>,
    /// The newest snapshot of its own whose mark was given to the log: marks never go back (O27).
    marked: u64,
    /// Stop when leadership has been handed over, or at this time.
    pub(super) leaving: Option<Instant>,
    /// Removed: end when everything has left, or at this time.
    pub(super) removed_until: Option<Instant>,
    pub(super) refused_logged: Option<Instant>,
    pub(super) ending: Option<NodeEnd>,
    /// What was last published.
    shown: Option<(Vitals, u64)>,
    /// What the core had counted when it was last added to the counters.
    pub(super) counted: (u64, u64, u64),
}

impl Node {
    pub(super) fn new(
        core: Core,
        shared: Arc<Shared>,
        waiters: Arc<dyn WaiterTable>,
        transport: Arc<dyn Transport>,
        threads: Threads,
        contacts: Vec<Member>,
    ) -> Self {
        let now = Instant::now();
        let interval = shared.config.heartbeat_interval;
        let mut out = Outbox::new(Arc::clone(&shared), transport);
        let others = contacts.iter().any(|member| member.id != shared.id);
        let hasten = others && shared.config.initial_tick_advance && !interval.is_zero();
        let (own, transport) = (shared.id, Arc::clone(out.transport()));
        out.known.add(own, &*transport, contacts.into_iter());
        let mut node = Self {
            reads: Reads::new(shared.config.max_waiting_proposals),
            transfers: Transfers::new(shared.config.max_waiting_proposals),
            held: Held::default(),
            proposals: Framer::default(),
            writes: VecDeque::new(),
            unsynced: 0,
            unapplied: 0,
            restoring: false,
            started: now,
            ticker: Ticker::new(interval, now),
            apply_watch: ApplyWatch::new(now),
            early_election: hasten.then_some(now + EARLY_ELECTION),
            marked: 0,
            leaving: None,
            removed_until: None,
            refused_logged: None,
            ending: None,
            shown: None,
            counted: (0, 0, 0),
            core,
            shared,
            waiters,
            out,
            threads,
        };
        node.follow_members();
        node
    }

    /// Until the node ends. A panic, here or in raft-rs, ends the node and not the process.
    pub(super) fn run(mut self) {
        let run = std::panic::AssertUnwindSafe(|| self.serve());
        let end = match std::panic::catch_unwind(run) {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => NodeEnd::Failed(Arc::new(error)),
            Err(panic) => {
                // raft-rs panics when its storage fails: then that is the reason to give.
                let storage = self.core.take_storage_error().map(|error| Arc::new(error.into()));
                NodeEnd::Failed(storage.unwrap_or_else(|| panicked("oarlock-node", &*panic)))
            }
        };
        let (shared, waiters) = (Arc::clone(&self.shared), Arc::clone(&self.waiters));
        let finish = std::panic::AssertUnwindSafe(|| self.finish(end));
        if let Err(panic) = std::panic::catch_unwind(finish) {
            // The transport's or the observer's. Whoever waits is told all the same (O14, O29).
            waiters.close();
            let end = NodeEnd::Failed(panicked("oarlock-node", &*panic));
            shared.publish(|published| published.end = published.end.take().or(Some(end)));
        }
    }

    fn serve(&mut self) -> Result<NodeEnd, NodeError> {
        let (mut control, mut data) = (VecDeque::new(), VecDeque::new());
        let (mut look, mut bursts, mut done) = (Look::new(), Bursts::default(), 0);
        loop {
            self.poll()?;
            if let Some(end) = self.ending.take() {
                return Ok(end);
            }
            let (inbox, wake) = (&self.shared.inbox, self.next_wake());
            if self.threads.seat.is_inline() {
                look.wait(done, || (!inbox.is_empty()).then_some(()), || inbox.sleep(wake));
            }
            let taken = inbox.take(wake, &mut bursts, &mut control, &mut data);
            done = data.len();
            self.core.set_time(taken.saturating_duration_since(self.started));
            for control in control.drain(..) {
                self.on_control(control)?;
            }
            self.on_data(&mut data);
            self.on_time(Instant::now());
        }
    }

    /// Asks the core until it has nothing more to do.
    fn poll(&mut self) -> Result<(), NodeError> {
        self.core.set_pressure(self.pressure());
        self.core.hold_apply(self.is_apply_full());
        while !self.is_apply_full()
            && let Some(stage) = self.core.poll_apply()?
        {
            self.hand_to_apply(stage.entries);
        }
        while let Some(effects) = self.core.poll_effects()? {
            self.carry_out(effects)?;
            self.on_events()?;
            if self.is_apply_full() {
                // One Ready at a time, for heartbeats and the disk go on; what is committed stays in the log.
                self.core.hold_apply(true);
                break;
            }
        }
        while let Some(fetch) = self.core.poll_fetch() {
            self.threads.reader.submit(fetch)?; // O12
        }
        self.on_events()?;
        self.publish();
        Ok(())
    }

    /// The stages of one Ready, in their order.
    fn carry_out(&mut self, effects: Effects) -> Result<(), NodeError> {
        let Effects { mut now, persist, after_persist, apply } = effects;
        if planted("role-after-messages") {
            self.out.send(std::mem::take(&mut now.messages), self.core.gone());
        }
        if let Some(role) = now.role {
            fail_point!("raftBeforePublishRole", self.shared.id);
            self.role_changed(role); // O1
            fail_point!("raftAfterPublishRole", self.shared.id);
        }
        self.publish(); // O28
        if let Some(reads) = now.reads {
            self.reads.confirm(reads.tokens, reads.index);
            self.answer_reads();
            if planted("loop-waits-for-readers") && !self.reads.is_empty() {
                std::thread::sleep(Duration::from_secs(60)); // longer than anybody who is watched has patience
            }
        }
        if !now.messages.is_empty() {
            fail_point!("raftBeforeLeaderSend", self.shared.id);
            self.out.send(now.messages, self.core.gone()); // O4
            fail_point!("raftAfterLeaderSend", self.shared.id);
        }
        // A leader's own proposals can wait for a moment: the followers have them already (O4).
        let awaited = self.core.vitals().role != Role::Leader || !after_persist.messages.is_empty();
        let waiting = STAGE_BYTES * (1 + after_persist.messages.len() as u64);
        self.held.hold(after_persist); // O7
        self.hand_to_apply(apply.entries);
        let number = persist.number;
        if persist.is_empty() && self.writes.is_empty() {
            return self.persisted(number);
        }
        let bytes = persist.bytes() + waiting;
        self.unsynced += bytes;
        self.writes.push_back((number, Instant::now(), bytes));
        if planted("advance-before-sync") {
            self.persisted(number)?;
        }
        self.submit(Job::Write { persist, awaited })
    }

    fn hand_to_apply(&mut self, entries: Vec<Entry>) {
        if !entries.is_empty() {
            fail_point!("raftBeforeApply", self.shared.id);
            self.unapplied += entries.iter().map(crate::core::entry_bytes).sum::<u64>();
            let _ = self.threads.apply.send(handoff::Job::Entries(entries)); // if it has gone, it has said why
            fail_point!("raftAfterApply", self.shared.id);
        }
    }

    /// The bound of what waits to be applied: this, and one more batch.
    fn is_apply_full(&self) -> bool {
        self.unapplied > self.shared.config.max_apply_backlog
    }

    fn submit(&mut self, job: Job) -> Result<(), NodeError> {
        for report in self.threads.seat.submit(job)? {
            self.on_control(report)?;
        }
        Ok(())
    }

    /// O16: raft-rs first, then what waited for it.
    fn persisted(&mut self, number: u64) -> Result<(), NodeError> {
        while let Some(&(first, _, bytes)) = self.writes.front()
            && first <= number
        {
            self.writes.pop_front();
            self.unsynced -= bytes;
        }
        fail_point!("raftBeforeAdvance", self.shared.id);
        self.core.handle_persisted(number);
        fail_point!("raftAfterAdvance", self.shared.id);
        self.release();
        Ok(())
    }

    fn release(&mut self) {
        let mut messages = Vec::new();
        for stage in self.held.release(self.core.acknowledged(), self.core.change_applied()) {
            if let Some(restore) = stage.restore {
                self.restoring = true;
                let _ = self.threads.apply.send(handoff::Job::Restore(restore)); // if it has gone, it has said why
            }
            messages.extend(stage.messages);
        }
        if !messages.is_empty() {
            fail_point!("raftBeforeFollowerSend", self.shared.id);
            self.out.send(messages, self.core.gone());
            fail_point!("raftAfterFollowerSend", self.shared.id);
        }
    }

    fn on_control(&mut self, control: Control) -> Result<(), NodeError> {
        match control {
            Control::Persisted { number } => self.persisted(number)?,
            Control::WriteFailed(error) => return Err(error.into()),
            Control::Fetched { fetch, entries } => self.core.handle_fetched(fetch, entries)?,
            Control::Applied { index, bytes } => {
                self.unapplied = self.unapplied.saturating_sub(bytes);
                self.core.handle_applied(index);
                self.publish();
                self.answer_reads();
            }
            Control::Restored { mark, head, announcement } => {
                self.restored(mark, *head, announcement)?;
            }
            Control::Change { entry, reply } => {
                let members = self.core.handle_change_committed(&entry);
                self.on_events()?; // the transport follows before the state machine is told
                apply::reply(&reply, members);
                self.release(); // O7
            }
            Control::Attributes { index, id, update, reply } => {
                let members = self.core.handle_attributes_committed(index, id, &update);
                self.on_events()?;
                apply::reply(&reply, members);
            }
            Control::SnapshotTaken { mark, announcement } => {
                // Not if the log begins later by now, because a leader's snapshot was installed meanwhile; nor if a newer one
                // has been marked: reports come from threads of their own, and may overtake each other.
                if mark.index >= self.core.log_bounds().0 && mark.index > self.marked {
                    self.marked = mark.index;
                    self.submit(Job::Mark { mark, announcement })?;
                }
            }
            Control::Marked { mark, announcement } => {
                fail_point!("raftAfterMarkSnap", self.shared.id);
                log::info!(id:% = Hex(self.shared.id), index = mark.index; "took a snapshot");
                self.core.handle_snapshot_ready(mark.clone(), announcement); // O9
                self.compact(mark.index)?;
                let _ = self.threads.apply.send(handoff::Job::SnapshotIfDue); // if it has gone, it has said why
            }
            Control::SnapshotSent { to, index, ok } => {
                self.out.sending.ended(index);
                fail_point!("raftBeforeReportSnap", self.shared.id);
                self.core.handle_snapshot_sent(to, ok); // O10
                fail_point!("raftAfterReportSnap", self.shared.id);
            }
            Control::SnapshotArrived { from, message, reply } => {
                fail_point!("raftBeforeStepSnap", self.shared.id);
                let taken = self.core.handle_snapshot(from, *message); // O25
                fail_point!("raftAfterStepSnap", self.shared.id);
                let _ = reply.try_send(taken); // it has room, or the transport waits no more
            }
            Control::Failed(error) => {
                if !matches!(self.ending, Some(NodeEnd::Failed(_))) {
                    self.ending = Some(NodeEnd::Failed(error)); // the first is the reason
                }
            }
            Control::Stop { transfer_until } => self.on_stop(transfer_until),
        }
        Ok(())
    }

    fn restored(
        &mut self,
        mark: SnapshotMark,
        head: crate::SnapshotHead,
        announcement: bytes::Bytes,
    ) -> Result<(), NodeError> {
        let index = mark.index;
        self.restoring = false;
        log::info!(id:% = Hex(self.shared.id), index; "installed a snapshot");
        self.core.handle_restored(mark, head, announcement);
        self.on_events()?;
        self.publish();
        self.answer_reads();
        self.submit(Job::Release(index + 1))?;
        self.purge_snapshots(index);
        Ok(())
    }

    /// Keeps what followers need to catch up, and everything after the oldest snapshot that is being sent (O26).
    fn compact(&mut self, snapshot: u64) -> Result<(), NodeError> {
        let mut catch_up = snapshot.saturating_sub(self.shared.config.snapshot_catchup_entries);
        if planted("compaction-leaves-nothing-to-catch-up-with") {
            catch_up = snapshot;
        }
        let oldest = self.out.sending.oldest();
        let oldest = oldest.filter(|_| !planted("compaction-forgets-snapshots-under-way"));
        let keep = oldest.map_or(catch_up, |oldest| catch_up.min(oldest));
        let (first, _) = self.core.log_bounds();
        if keep >= first {
            let compacted = self.core.handle_compact(keep)?;
            self.submit(Job::Release(compacted + 1))?;
        }
        self.purge_snapshots(snapshot);
        Ok(())
    }

    fn purge_snapshots(&self, keep_from: u64) {
        let keep_from = self.out.sending.oldest().map_or(keep_from, |oldest| oldest.min(keep_from));
        snapshots::purge(&self.shared, keep_from);
    }

    fn on_data(&mut self, data: &mut VecDeque<Data>) {
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
                // Its promise to its leader lasts for ticks, which are to last as long as they do by the clock.
                Data::AdvanceTicks(_) if self.must_not_hasten() => {}
                Data::AdvanceTicks(ticks) => {
                    self.core.advance_ticks(ticks);
                    self.count();
                }
                Data::Status(reply) => {
                    let status = status(&self.core, &self.shared, self.unapplied);
                    self.shared.publish(|published| published.status = status.clone());
                    let _ = reply.try_send(status); // it has room, or nobody waits any more
                }
            }
        }
        self.shared.counters.proposals.add(proposed);
        self.core.handle_propose(self.proposals.take());
    }

    /// In the order in which they came.
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

    pub(super) fn must_not_hasten(&self) -> bool {
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

    /// Only a current member of our own cluster can tell us that we were removed (O19).
    ///
    /// A leader does not listen. If it was removed while it led, it applied that itself; if while it was cut off, check-quorum
    /// makes it a follower first. Without check-quorum it would lead in vain for ever, and so has to listen, too.
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

    fn on_events(&mut self) -> Result<(), NodeError> {
        while let Some(event) = self.core.poll_event() {
            match event {
                Event::Refused { id, error } => self.refuse(id, error),
                Event::Forward { to, forward } => self.out.forward(to, &forward),
                Event::ForwardReply { to, reply } => self.out.forward_reply(to, &reply),
                Event::Members { id, result } => {
                    fail_point!("raftBeforeAnswerChange", self.shared.id);
                    self.waiters.members(id, result); // O8
                    fail_point!("raftAfterAnswerChange", self.shared.id);
                }
                Event::MembersChanged => self.members_changed()?,
                Event::Promise { by, promise, enough } => self.promise_heard(by, promise, enough),
                Event::SnapshotWanted(wish) => {
                    log::info!(id:% = Hex(self.shared.id), to:% = Hex(wish.to); "a follower needs a newer snapshot");
                    let _ = self.threads.apply.send(handoff::Job::Snapshot); // if it has gone, it has said why
                }
                Event::Quarantined(quarantine) => {
                    log::error!(
                        id:% = Hex(self.shared.id), commit = quarantine.commit, last_index = quarantine.last_index;
                        "this log is shorter than what it acknowledged; it takes no part any more: remove this \
                         member and add it as a new one"
                    );
                    self.core.refuse_waiting(&ProposeError::Quarantined);
                    self.reads.refuse_all(&ReadError::Quarantined);
                }
                Event::Removed => {
                    log::warn!(id:% = Hex(self.shared.id); "this member was removed from the cluster");
                    self.removed_until = Some(Instant::now() + LINGER);
                    self.core.refuse_waiting(&ProposeError::NotMember);
                }
                Event::Disagreement { index, reason } => {
                    return Err(NodeError::Disagreement { index, reason });
                }
            }
        }
        Ok(())
    }

    pub(super) fn refuse(&self, id: oarlock_membership::ProposalId, error: ProposeError) {
        self.shared.counters.proposals_failed.add(1);
        self.waiters.refuse(id, error);
    }

    fn promise_heard(&self, by: u64, promise: Duration, enough: bool) {
        let (id, by) = (self.shared.id, Hex(by));
        let takes = self.shared.config.promise();
        if enough {
            log::info!(id:% = Hex(id), by:%, promise:?, takes:?; "a voter promises what a lease takes");
        } else {
            log::warn!(
                id:% = Hex(id), by:%, promise:?, takes:?;
                "a voter withholds its vote for less than a lease takes: it has no lease reads, or a shorter election \
                 timeout; unless a majority does, reads by lease are answered by rounds"
            );
        }
    }

    fn members_changed(&mut self) -> Result<(), NodeError> {
        self.follow_members();
        let cluster = Arc::clone(self.core.cluster());
        self.shared.observer.members_changed(&cluster);
        if !self.core.is_alone() && self.core.configuration().contains(self.shared.id) {
            // Heartbeats must not wait for the disk from now on (O12).
            self.threads.seat.move_to_thread().map_err(|source| {
                NodeError::Log(LogError::Io { op: "start the writer thread", source })
            })?;
        }
        Ok(())
    }

    fn follow_members(&mut self) {
        let cluster = Arc::clone(self.core.cluster());
        let transport = Arc::clone(self.out.transport());
        let births = self.core.births().clone();
        let gone = self.core.gone().clone();
        self.out.known.follow(self.shared.id, &*transport, &cluster, &gone);
        self.shared.publish(|published| {
            published.gone = gone;
            published.cluster = cluster;
            published.births = births;
        });
    }

    fn role_changed(&mut self, change: RoleChange) {
        let RoleChange { vitals, new_leader } = change;
        let vitals = Vitals { applied: self.applied(), ..vitals };
        if new_leader {
            self.shared.counters.leader_changes.add(1);
        }
        self.out.heartbeats.reset();
        let (id, term, leader) = (self.shared.id, vitals.term, vitals.leader);
        log::info!(id:% = Hex(id), term, leader:% = Hex(leader), role:? = vitals.role; "role changed");
        self.shared.publish(|published| published.vitals = vitals);
        self.shared.observer.role_changed(&vitals);
        self.transfers.leader(leader);
    }

    fn answer_reads(&mut self) {
        let answered = self.reads.answer(self.applied());
        self.shared.counters.reads.add(answered);
    }

    /// What the state holds: nothing while the apply loop has yet to restore the snapshot that it begins with, which the
    /// core takes for applied (O24).
    fn applied(&self) -> u64 {
        let empty = self.shared.is_to_be_restored() && !planted("read-before-the-restore");
        if empty { 0 } else { self.core.applied() }
    }

    /// Shows the vitals to everybody, if they have changed.
    fn publish(&mut self) {
        let mut vitals = Vitals { applied: self.applied(), ..self.core.vitals() };
        if planted("commit-published-after-apply") {
            vitals.commit = vitals.applied;
        }
        let shown = (vitals, self.core.durable_index());
        if self.shown != Some(shown) {
            self.shown = Some(shown);
            self.shared.publish(|published| (published.vitals, published.durable) = shown);
        }
    }

    fn pressure(&self) -> Option<Busy> {
        let config = &self.shared.config;
        if self.is_apply_full() {
            Some(Busy::ApplyLag)
        } else if self.unsynced > config.max_unsynced_bytes {
            Some(Busy::Unsynced)
        } else {
            None
        }
    }

    /// Even a message without entries makes a stage that waits for the disk. If that hangs for long enough, the node hears
    /// nobody any more.
    fn is_flooded(&self) -> bool {
        self.unsynced / 2 > self.shared.config.max_unsynced_bytes
            && !planted("messages-pile-up-behind-a-disk")
    }

    pub(super) fn not_handed_on(&self) -> ProposeError {
        if self.core.vitals().leader == 0 {
            ProposeError::NoLeader
        } else {
            ProposeError::Busy(Busy::Requests)
        }
    }
}

/// What the core says, and what only the driver knows.
pub(super) fn status(core: &Core, shared: &Shared, unapplied: u64) -> Status {
    let mut status = core.status();
    if shared.is_to_be_restored() {
        status.applied = 0;
    }
    status.log_bytes = shared.log_bytes.load(Ordering::Relaxed);
    status.apply_backlog = unapplied;
    status.stats = shared.counters.stats();
    status
}
