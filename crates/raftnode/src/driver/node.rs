//! The node thread: takes what arrived, asks the core what to do, and sees to it.

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
use super::watch::ApplyWatch;
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

/// About how much memory a stage holds beside its entries, and each message that waits for it.
const STAGE_BYTES: u64 = 256;

/// The other threads, as the node thread sees them.
pub(super) struct Threads {
    pub(super) writer: WriterHandle,
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
        for report in self.threads.writer.submit(job)? {
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

    pub(super) fn refuse(&self, id: oarlock_membership::ProposalId, error: ProposeError) {
        self.shared.counters.proposals_failed.add(1);
        self.waiters.refuse(id, error);
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
