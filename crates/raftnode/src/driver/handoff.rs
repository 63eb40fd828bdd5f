//! The handoff: a queue from which an apply loop pulls what is to be applied (O22, O23).
//!
//! The ready-made apply thread (`super::apply`) is a short loop over an [`ApplyQueue`] that calls a
//! [`StateMachine`](crate::StateMachine). Those who have a loop of their own pull from the queue directly.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use raft::eraftpb::{ConfState, Entry};

use super::events::Control;
use super::shared::Shared;
use super::snapshots;
use super::spin::Spin;
use super::step::{Command, Step};
use super::waiters::{Answers, Waiters};
use crate::bootstrap::Recovered;
use crate::core::{MembersApplied, Restore};
use crate::failpoint::fail_point;
#[cfg(feature = "failpoints")]
use crate::failpoint::injected;
use crate::planted::planted;
use crate::proposal::Window;
use crate::snapshot_head::SnapshotHead;
use crate::waiter::after;
use crate::{Applied, ApplyError, NodeError, SnapshotMark, SnapshotView};

mod work;
use work::{End, Work};

/// For a state smaller than this, only the number of applied entries decides when a snapshot is due.
const SMALL_STATE: u64 = 64 << 20;
/// What the node thread hands over.
#[derive(Debug)]
pub(super) enum Job {
    Entries(Vec<Entry>),
    Restore(Restore),
    /// Take a snapshot, however few entries were applied: a follower needs one.
    Snapshot,
    /// Look whether a snapshot is due: the last one has been written, and the next may have become due meanwhile.
    SnapshotIfDue,
}

/// The queue of what is to be applied, in order, for those with an apply loop of their own.
///
/// [`NodeBuilder::start_handoff`](crate::NodeBuilder::start_handoff) returns it; it may be moved to any thread. Pull an
/// [`Apply`], carry out its steps, answer the proposers, and finish it with [`Apply::done`]:
///
/// ```
/// # use oarlock_raftnode::{ApplyQueue, Step};
/// fn apply_loop(mut queue: ApplyQueue<usize>, state: &mut Vec<Vec<u8>>) {
///     while let Some(mut apply) = queue.recv() {
///         while let Some(step) = apply.step() {
///             match step {
///                 Step::Command(command) => {
///                     state.push(command.data.to_vec());
///                     apply.answer(&command, state.len()); // to whoever proposed it here
///                 }
///                 Step::Members(cluster) => println!("{} members", cluster.members().count()),
///                 Step::Snapshot { .. } => state.clear(), // in earnest: read its content to the end
///             }
///         }
///         apply.done(); // a loop that writes transactions commits one here first
///         if queue.snapshot_due(0) {
///             // queue.snapshot(a view of the state)
///         }
///     }
/// }
/// ```
///
/// # What is guaranteed
///
/// * Everything handed over is durable on this member's own disk, entries as well as the mark of a snapshot (O3, O5).
///   etcd's apply loop has to wait on `notifyc` for that; here nothing is handed over earlier.
/// * Entries come without a gap, each once, and a proposal that was applied before does not come again (O22). The
///   window of applied ids that this takes is kept by the queue, and becomes part of each snapshot.
/// * A membership change is validated by the node within [`Apply::step`], when everything before it has been pulled,
///   and is in force for what is pulled next. The node holds back the messages that have to wait for it (O7, O8).
/// * An index counts as applied, for reads (O24) and for compaction (O18), only when its `Apply` is `done`. If the loop
///   has to restore a snapshot first, nothing counts as applied before that is done.
///
/// When more than [`Config::max_apply_backlog`](crate::Config::max_apply_backlog) bytes wait, nothing more is handed
/// over and the node refuses proposals. A loop that makes no progress for an election timeout is reported to
/// [`Observer::stalled`](crate::Observer::stalled). Dropping the queue while the node runs ends the node.
#[doc(alias = "applyc")]
pub struct ApplyQueue<R> {
    jobs: Receiver<Job>,
    pub(super) shared: Arc<Shared>,
    waiters: Arc<Waiters<R>>,
    answers: Answers<R>,
    look: Spin,
    /// How many entries the last job held.
    last_count: usize,
    stop: Arc<AtomicBool>,
    work: Work,
    /// Steps to be returned before anything else.
    upcoming: VecDeque<Step>,
    /// A follower needs a snapshot.
    wanted: bool,
    /// Index and term of the last entry that was pulled.
    applied: (u64, u64),
    /// Commands up to this index are in the state already.
    state_applied: u64,
    window: Window,
    members: MembersApplied,
    snapshot_index: u64,
    bytes_since_snapshot: u64,
    writing_snapshot: Arc<AtomicBool>,
    /// The index of the newest complete snapshot; writing a newer one may have failed.
    written_snapshot: Arc<AtomicU64>,
    /// An [`Apply`] was given out and is not `done`.
    open: bool,
    /// The node is stopping, or the queue has reported a failure to it.
    ended: bool,
    /// Tells the node, by being dropped, that the queue is gone.
    finished: Option<Sender<()>>,
}

impl<R> std::fmt::Debug for ApplyQueue<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplyQueue").field("applied", &self.applied).finish_non_exhaustive()
    }
}

/// A batch of steps, to be carried out in order and finished with [`done`](Self::done).
///
/// It may have no steps: then check [`ApplyQueue::snapshot_due`]. Pulling the next one before this is `done` ends the
/// node, because the state may have missed something.
#[doc(alias = "toApply")]
#[must_use = "what is handed over has to be applied"]
pub struct Apply<'a, R> {
    queue: &'a mut ApplyQueue<R>,
}

impl<R> std::fmt::Debug for Apply<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apply").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl<R: Send + 'static> ApplyQueue<R> {
    /// Waits for the next piece of work; `None` when the node has ended, for whatever reason.
    #[must_use = "what is handed over has to be applied"]
    pub fn recv(&mut self) -> Option<Apply<'_, R>> {
        self.close();
        while !self.ended {
            if self.fetch(None) {
                return Some(self.open());
            }
        }
        None
    }

    /// As [`recv`](Self::recv), but waits for at most `timeout`: then it gives an [`Apply`] without steps.
    #[must_use = "what is handed over has to be applied"]
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Apply<'_, R>> {
        let deadline = after(timeout);
        self.close();
        while !self.ended {
            if self.fetch(Some(deadline)) || Instant::now() >= deadline {
                return Some(self.open());
            }
        }
        None
    }

    /// Whether to call [`snapshot`](Self::snapshot) now: enough entries were applied since the last one and, if the
    /// state is larger than 64 MiB, enough bytes; or a follower needs one. Check it after every [`Apply`].
    ///
    /// `state_bytes` is about the size of a snapshot; 0 if that is not known.
    #[must_use]
    pub fn snapshot_due(&self, state_bytes: u64) -> bool {
        let index = self.applied.0;
        let enough = index - self.snapshot_index >= self.shared.config.snapshot_count
            && (state_bytes <= SMALL_STATE || self.bytes_since_snapshot >= state_bytes);
        (enough || self.wanted)
            && index != self.written_snapshot.load(Ordering::Acquire)
            && index >= self.state_applied // a state that is ahead of the log is not this index's (O9)
            && !self.members.conf_state.get_voters().is_empty()
            && !self.writing_snapshot.load(Ordering::Acquire)
            && !self.is_amidst()
    }

    /// Whether the state may be neither that of the last `done` nor that of the next.
    fn is_amidst(&self) -> bool {
        let begins = !self.upcoming.is_empty() && !planted("snapshot-before-the-restore");
        let left = (self.open || self.ended) && !planted("snapshot-amidst-an-apply");
        begins || left
    }

    /// Has another thread write out a view of the state, which must be that of the last `done`, while this loop goes
    /// on. Then the log is compacted. Ignored while an earlier snapshot is being written, before the first [`Apply`] is
    /// done, and after one was dropped without being done: the view might hold some of its steps.
    pub fn snapshot(&mut self, view: Box<dyn SnapshotView>) {
        let (index, term) = self.applied;
        let voters = has_voters(&self.members.conf_state);
        if self.is_amidst() || index == 0 || index < self.state_applied || !voters {
            return;
        }
        if self.writing_snapshot.swap(true, Ordering::AcqRel) {
            return;
        }
        fail_point!("raftBeforeTakeSnap", self.shared.id, self.fail_at_applied(injected().into()));
        let head = SnapshotHead {
            mark: SnapshotMark { index, term, conf_state: self.members.conf_state.clone() },
            cluster: (*self.members.cluster).clone(),
            window: self.window.clone(),
            births: self.members.births.clone(),
        };
        (self.snapshot_index, self.bytes_since_snapshot) = (index, 0);
        fail_point!("raftAfterTakeSnap", self.shared.id);
        let written = Arc::clone(&self.written_snapshot);
        snapshots::write(&self.shared, head, view, &self.writing_snapshot, written);
    }

    /// The index up to which everything has been pulled.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied.0
    }

    fn open(&mut self) -> Apply<'_, R> {
        self.open = true;
        self.answers.begin();
        Apply { queue: self }
    }

    /// Ends the node if the last `Apply` was not done.
    fn close(&mut self) {
        if self.open {
            self.fail(Arc::new(NodeError::ApplyLoopGone));
        }
    }

    /// Waits for a job; returns whether there is one.
    fn fetch(&mut self, deadline: Option<Instant>) -> bool {
        self.wanted = false;
        if !self.upcoming.is_empty() {
            return true; // what a start begins with
        }
        let sleep = || match deadline {
            None => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => {
                self.jobs.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
        };
        let job = if self.shared.writes_inline.load(Ordering::Relaxed) {
            self.look.wait(self.last_count, || self.jobs.try_recv().ok().map(Ok), sleep)
        } else {
            sleep()
        };
        match job {
            Ok(Job::Entries(entries)) => {
                let (bytes, count) =
                    (entries.iter().map(crate::core::entry_bytes).sum(), entries.len() as u64);
                self.last_count = entries.len();
                self.work = Work::Entries { rest: entries.into_iter(), bytes, count };
            }
            Ok(Job::Restore(restore)) => self.work = Work::Restore(restore),
            Ok(Job::Snapshot) => self.wanted = true,
            Ok(Job::SnapshotIfDue) => {}
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                return false;
            }
        }
        true
    }
}

impl<R> ApplyQueue<R> {
    /// The queue of a node that goes on from `recovered`, whose state holds commands up to `state_applied`.
    pub(super) fn new(
        jobs: Receiver<Job>,
        shared: Arc<Shared>,
        waiters: Arc<Waiters<R>>,
        stop: Arc<AtomicBool>,
        members: MembersApplied,
        recovered: &Recovered,
        state_applied: u64,
    ) -> Self {
        Self {
            jobs,
            shared,
            answers: Answers::new(Arc::clone(&waiters)),
            look: Spin::new(),
            last_count: 0,
            waiters,
            stop,
            work: Work::Nothing,
            upcoming: VecDeque::new(),
            wanted: false,
            applied: recovered.snapshot.as_ref().map_or((0, 0), |mark| (mark.index, mark.term)),
            state_applied,
            window: recovered.window.clone(),
            members,
            snapshot_index: recovered.applied(),
            bytes_since_snapshot: 0,
            writing_snapshot: Arc::default(),
            written_snapshot: Arc::new(AtomicU64::new(recovered.applied())),
            open: false,
            ended: false,
            finished: None,
        }
    }

    /// Sets the steps of the first [`Apply`], and what tells the node, by being dropped, that the queue is gone.
    pub(super) fn begin_with(&mut self, steps: Vec<Step>, finished: Sender<()>) {
        self.upcoming = steps.into();
        self.finished = Some(finished);
    }

    /// Ends the node: the state failed after the last entry that was applied.
    pub(super) fn fail_at_applied(&mut self, source: ApplyError) {
        self.fail(Arc::new(NodeError::Apply { index: self.applied.0, source }));
    }

    /// Ends the node, for this reason.
    pub(super) fn fail(&mut self, error: Arc<NodeError>) {
        self.answers.flush();
        if !std::mem::replace(&mut self.ended, true) {
            self.shared.inbox.control(Control::Failed(error));
        }
    }
}

impl<R> Drop for ApplyQueue<R> {
    /// A node without an apply loop cannot go on.
    fn drop(&mut self) {
        if !self.stop.load(Ordering::Relaxed) {
            self.fail(Arc::new(NodeError::ApplyLoopGone));
        }
    }
}

impl<R: Send + 'static> Apply<'_, R> {
    /// The next thing to do; `None` when there is no more, and when the node is ending.
    pub fn step(&mut self) -> Option<Step> {
        let queue = &mut *self.queue;
        if queue.ended {
            return None;
        }
        match queue.step() {
            Ok(step) => step,
            Err(End::Stopping) => {
                queue.ended = true;
                None
            }
            Err(End::Failed(error)) => {
                queue.fail(Arc::new(error));
                None
            }
        }
    }

    /// Returns a command's result to its proposer, if that is waiting on this node. A proposer that is never answered
    /// learns at its deadline that the outcome is unknown.
    ///
    /// Answers in quick succession are delivered together, at the latest by [`done`](Self::done).
    pub fn answer(&mut self, command: &Command, output: R) {
        fail_point!("afterApplyOneEntryNormal", self.queue.shared.id);
        let Command { index, term, id, .. } = *command;
        self.queue.answers.give(id, Applied { index, term, output });
    }

    /// Every step is in the state: reads may see it, and the log need not keep it. If not every step was pulled, this
    /// ends the node.
    pub fn done(self) {
        self.queue.answers.flush();
        if let Err(error) = self.queue.finish() {
            self.queue.fail(Arc::new(error));
        }
    }

    /// Ends the node with [`NodeError::Apply`] or [`NodeError::Restore`]: the state can no longer be trusted, or the
    /// snapshot could not be restored.
    pub fn fail(self, source: impl Into<ApplyError>) {
        let source = source.into();
        let error = match &self.queue.work {
            Work::Restored { mark, .. } => NodeError::Restore { index: mark.index, source },
            _ => NodeError::Apply { index: self.queue.applied.0, source },
        };
        self.queue.fail(Arc::new(error));
    }
}

fn has_voters(conf_state: &ConfState) -> bool {
    !conf_state.get_voters().is_empty()
}
