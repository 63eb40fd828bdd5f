//! The node thread: gives the core what has arrived, and carries out what it asks for.
//!
//! The loop and the stages of a Ready are here; `control`, `data` and `events` are the three things it has to react to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use oarlock_membership::Member;
use oarlock_transport::Transport;
use raft::eraftpb::Entry;

use super::clock::EARLY_ELECTION;
use super::inbox::Bursts;
use super::outbox::Outbox;
use super::reader::Reader;
use super::requests::{Reads, Transfers};
use super::shared::Shared;
use super::spin::Spin;
use super::ticker::Ticker;
use super::waiters::WaiterTable;
use super::watch::{ApplyWatch, Watcher};
use super::writer::{Job, WriterHandle};
use super::{handoff, panicked};
use crate::core::{Core, Effects, Held};
use crate::failpoint::fail_point;
use crate::planted::planted;
use crate::proposal::Framer;
use crate::{Busy, NodeEnd, NodeError, ProposeError, Role, Status, Vitals};

mod control;
mod data;
mod events;

/// About how much memory a persist stage takes beside its entries, and so does each message that waits for it.
const STAGE_BYTES: u64 = 256;

/// The other threads, as the node thread sees them.
pub(super) struct Threads {
    pub(super) writer: WriterHandle,
    pub(super) reader: Reader,
    pub(super) apply: Sender<handoff::Job>,
    pub(super) apply_done: Receiver<()>,
    pub(super) stop: Arc<AtomicBool>,
    /// Watches what the node thread writes itself.
    pub(super) _watcher: Option<Watcher>,
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

    /// Writes in flight: number, when it was submitted, bytes.
    pub(super) writes: VecDeque<(u64, Instant, u64)>,
    pub(super) unsynced: u64,
    /// When the read of what is to be applied was submitted, if one is in flight.
    pub(super) reading: Option<Instant>,
    /// Always empty between two batches from the inbox; kept for its capacity.
    proposals: Framer,
    /// Bytes handed to the apply loop and not applied yet.
    pub(super) unapplied: u64,
    /// A snapshot was handed to the apply loop and is not restored yet.
    pub(super) restoring: bool,

    started: Instant,
    pub(super) ticker: Ticker,
    pub(super) apply_watch: ApplyWatch,
    pub(super) early_election: Option<Instant>,
    /// Index of the newest snapshot of its own state that was marked in the log: marks never go back (O27).
    marked: u64,
    /// Set while stopping with a transfer: stop when leadership has been handed over, at this time at the latest.
    pub(super) leaving: Option<Instant>,
    /// Set when this member was removed: end when everything has been sent, at this time at the latest.
    pub(super) removed_until: Option<Instant>,
    pub(super) refused_logged: Option<Instant>,
    pub(super) ending: Option<NodeEnd>,
    /// What was last published.
    shown: Option<(Vitals, u64)>,
    /// The core's own counts as of when they were last added to the counters.
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
            reading: None,
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

    /// Runs until the node ends. A panic, here or in raft-rs, ends the node and not the process.
    pub(super) fn run(mut self) {
        let run = std::panic::AssertUnwindSafe(|| self.serve());
        let end = match std::panic::catch_unwind(run) {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => NodeEnd::Failed(Arc::new(error)),
            Err(panic) => {
                // raft-rs panics when its storage fails; then the storage error is the reason to report.
                let storage = self.core.take_storage_error().map(|error| Arc::new(error.into()));
                NodeEnd::Failed(storage.unwrap_or_else(|| panicked("oarlock-node", &*panic)))
            }
        };
        let (shared, waiters) = (Arc::clone(&self.shared), Arc::clone(&self.waiters));
        let finish = std::panic::AssertUnwindSafe(|| self.finish(end));
        if let Err(panic) = std::panic::catch_unwind(finish) {
            // A panic of the transport or the observer. Waiters are answered all the same (O14, O29).
            waiters.close();
            let end = NodeEnd::Failed(panicked("oarlock-node", &*panic));
            shared.publish(|published| published.end = published.end.take().or(Some(end)));
        }
    }

    fn serve(&mut self) -> Result<NodeEnd, NodeError> {
        let (mut control, mut data) = (VecDeque::new(), VecDeque::new());
        let (mut look, mut bursts, mut done) = (Spin::new(), Bursts::default(), 0);
        loop {
            self.poll()?;
            if let Some(end) = self.ending.take() {
                return Ok(end);
            }
            let (inbox, wake) = (&self.shared.inbox, self.next_wake());
            if self.threads.writer.is_inline() {
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

    /// Carries out what the core asks for, until it asks for nothing more.
    fn poll(&mut self) -> Result<(), NodeError> {
        self.core.set_pressure(self.pressure());
        loop {
            self.core.hold_apply(self.is_apply_full());
            if let Some(stage) = self.core.poll_apply() {
                self.hand_to_apply(stage.entries);
            } else if let Some(effects) = self.core.poll_effects()? {
                self.carry_out(effects)?;
                self.on_events()?;
            } else {
                break;
            }
        }
        while let Some(fetch) = self.core.poll_fetch() {
            if fetch.is_to_apply() {
                self.reading = Some(Instant::now());
            }
            self.threads.reader.submit(fetch)?; // O12
        }
        self.on_events()?;
        self.publish();
        Ok(())
    }

    /// Carries out the stages of one Ready, in order.
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
                std::thread::sleep(Duration::from_secs(60)); // longer than any test waits
            }
        }
        if !now.messages.is_empty() {
            fail_point!("raftBeforeLeaderSend", self.shared.id);
            self.out.send(now.messages, self.core.gone()); // O4
            fail_point!("raftAfterLeaderSend", self.shared.id);
        }
        // Nobody else waits for a leader's own write: the followers already have the entries (O4).
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

    /// Whether the apply loop is too far behind to be given more. It is given whole batches, so one may exceed the limit.
    fn is_apply_full(&self) -> bool {
        self.unapplied > self.shared.config.max_apply_backlog
    }

    fn submit(&mut self, job: Job) -> Result<(), NodeError> {
        for report in self.threads.writer.submit(job)? {
            self.on_control(report)?;
        }
        Ok(())
    }

    /// Tells raft-rs what is durable, and only then releases what waited for it (O16).
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

    pub(super) fn refuse(&self, id: oarlock_membership::ProposalId, error: ProposeError) {
        self.shared.counters.proposals_failed.add(1);
        self.waiters.refuse(id, error);
    }

    fn answer_reads(&mut self) {
        let answered = self.reads.answer(self.applied());
        self.shared.counters.reads.add(answered);
    }

    /// What the state machine shows. That is nothing while the apply loop still has to restore the snapshot it starts
    /// with, although the core counts it as applied (O24).
    fn applied(&self) -> u64 {
        let empty = self.shared.is_to_be_restored() && !planted("read-before-the-restore");
        if empty { 0 } else { self.core.applied() }
    }

    /// Publishes the vitals, if they have changed.
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

    /// Whether to drop all messages of peers. Even a message without entries leads to a persist stage, and these pile
    /// up while the disk hangs.
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

/// The core's status, completed with what only the driver knows.
pub(super) fn status(core: &Core, shared: &Shared, out: &Outbox, unapplied: u64) -> Status {
    let mut status = core.status();
    if shared.is_to_be_restored() {
        status.applied = 0;
    }
    status.log_bytes = shared.log_bytes.load(Ordering::Relaxed);
    status.apply_backlog = unapplied;
    status.links = shared.links.status(out.known.ids(), &**out.transport());
    status.stats = shared.counters.stats();
    status
}
