//! The writer: the owner of the [`LogStore`].
//!
//! The node thread of a sole member calls it directly. As soon as there is another member it moves to a thread of its
//! own, `oarlock-writer`, for good. Either way no lock is held during a disk write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

use super::events::Control;
use super::gather::Gather;
use super::shared::Shared;
use crate::bootstrap::forget_promises;
use crate::chain::Chain;
use crate::core::Persist;
use crate::failpoint::fail_point;
use crate::hex::Hex;
use crate::planted::planted;
use crate::{LogBatch, LogError, LogStore, SnapshotMark};

/// Bytes that are written before a sync at most, so that what waits for it does not wait for ever more.
const MAX_GROUP: u64 = 64 << 20;

#[derive(Debug)]
pub(super) enum Job {
    /// A persist stage of the core; `awaited` if other members wait for it, and not only this member's own callers.
    Write { persist: Persist, awaited: bool },
    /// Marks a snapshot of this node's own state in the log. What it covers may be released once the mark is durable
    /// (O6).
    Mark { mark: SnapshotMark, announcement: Bytes },
    /// Nothing that was promised for longer is in force any more. That can be lost: it goes with the next sync.
    Promised(Duration),
    /// Entries below this index may be released.
    Release(u64),
    /// Dropped when everything before it is done.
    Barrier(Sender<()>),
}

pub(super) struct Writer {
    store: Box<dyn LogStore>,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(store: Box<dyn LogStore>, shared: Arc<Shared>) -> Self {
        shared.log_bytes.store(store.size(), Ordering::Relaxed);
        Self { store, shared }
    }

    /// Carries out jobs in order, with one sync for all the writes among them, and returns what to report.
    pub(super) fn run(&mut self, jobs: Vec<Job>) -> Result<Vec<Control>, LogError> {
        let began = Instant::now();
        let mut reports = Vec::new();
        let mut merged = Merged::default();
        let mut must_sync = false;
        let mut after_sync = Vec::new();
        for job in jobs {
            match job {
                Job::Write { mut persist, .. } => {
                    must_sync |= persist.must_sync;
                    reports.push(Control::Persisted { number: persist.number });
                    if persist.install.is_some() {
                        // What was merged so far has to precede the install in the log.
                        self.append(std::mem::take(&mut merged))?;
                        // In one batch with its term and commit: after a crash between the two, the hard state would be
                        // behind the snapshot that the log begins with, and the log would not boot.
                        if planted("hard-state-before-snapshot") {
                            merged.hard_state = persist.hard_state.take();
                            self.append(std::mem::take(&mut merged))?;
                        }
                        merged.install = persist.install;
                        merged.add(persist.entries, persist.hard_state);
                        fail_point!("raftBeforeSaveSnap", self.shared.id, Err(injected()));
                        self.append(std::mem::take(&mut merged))?;
                        fail_point!("raftAfterSaveSnap", self.shared.id, Err(injected()));
                    } else {
                        merged.add(persist.entries, persist.hard_state);
                    }
                }
                Job::Mark { mark, announcement } => {
                    self.append(std::mem::take(&mut merged))?;
                    fail_point!("raftBeforeMarkSnap", self.shared.id, Err(injected()));
                    self.store
                        .append(&LogBatch { compact: Some(mark.clone()), ..LogBatch::default() })?;
                    if planted("release-before-sync") {
                        self.store.release(mark.index)?;
                    }
                    must_sync = true;
                    reports.push(Control::Marked { mark, announcement });
                }
                Job::Promised(longest) => {
                    self.append(std::mem::take(&mut merged))?;
                    forget_promises(&mut *self.store, longest)?;
                }
                Job::Release(_) | Job::Barrier(_) => after_sync.push(job),
            }
        }
        fail_point!("raftBeforeSave", self.shared.id, Err(injected()));
        self.append(merged)?;
        if must_sync {
            fail_point!("raftBeforeSync", self.shared.id, Err(injected()));
            self.sync()?;
            self.shared.counters.syncs.add(1);
            self.shared.observer.log_synced(began.elapsed());
        }
        fail_point!("raftAfterSave", self.shared.id, Err(injected()));
        for job in after_sync {
            match job {
                Job::Release(before) => {
                    fail_point!("raftBeforeWALRelease", self.shared.id, Err(injected()));
                    self.store.release(before)?; // after the sync of the mark that covers it (O6)
                    fail_point!("raftAfterWALRelease", self.shared.id, Err(injected()));
                }
                Job::Barrier(done) => drop(done),
                Job::Write { .. } | Job::Mark { .. } | Job::Promised(_) => {}
            }
        }
        self.shared.log_bytes.store(self.store.size(), Ordering::Relaxed);
        Ok(reports)
    }

    /// An error poisons the log for good, and ends the node (O13).
    fn sync(&mut self) -> Result<(), LogError> {
        if planted("acknowledge-before-sync") {
            return Ok(());
        }
        match self.store.sync() {
            Err(_) if planted("failed-sync-ignored") => Ok(()),
            synced => synced,
        }
    }

    /// Appends one batch, or, if that is more than the log takes at once, several, each of which leaves a log that boots.
    fn append(&mut self, merged: Merged) -> Result<(), LogError> {
        let Merged { mut install, entries, hard_state } = merged;
        let limit = self.store.max_batch();
        let mut rest = &entries[..];
        loop {
            let (entries, later) = rest.split_at(fitting(rest, limit));
            rest = later;
            let mut hard_state = hard_state.clone();
            if let (Some(hard_state), Some(last), false) =
                (&mut hard_state, entries.last(), later.is_empty())
            {
                // The new term goes with the first part, but the commit index must not be beyond the last entry written.
                hard_state.commit = hard_state.commit.min(last.index);
            }
            let install = install.take();
            let batch = LogBatch { install, entries, hard_state, ..LogBatch::default() };
            if batch.is_empty() {
                return Ok(());
            }
            self.shared.counters.writes.add(1);
            self.store.append(&batch)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    pub(super) fn close(self) -> Result<(), LogError> {
        self.store.close()
    }
}

/// How many entries fit into `limit` bytes; at least one, if there is any.
fn fitting(entries: &[Entry], limit: u64) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += LogBatch::cost(entry);
        bytes <= limit
    };
    entries.iter().take_while(fits).count().max(1).min(entries.len())
}

#[cfg(feature = "failpoints")]
fn injected() -> LogError {
    LogError::Io { op: "write", source: crate::failpoint::injected() }
}

/// Several persist stages as one.
#[derive(Debug, Default)]
struct Merged {
    install: Option<SnapshotMark>,
    entries: Arc<Vec<Entry>>,
    hard_state: Option<HardState>,
}

impl Merged {
    fn add(&mut self, entries: Arc<Vec<Entry>>, hard_state: Option<HardState>) {
        if let Some(first) = entries.first() {
            // Later entries replace those from their first index on.
            let held = self.entries.first().map_or(first.index, |held| held.index);
            match usize::try_from(first.index.saturating_sub(held)).unwrap_or(usize::MAX) {
                0 => self.entries = entries,
                keep => {
                    let merged = Arc::make_mut(&mut self.entries);
                    merged.truncate(keep);
                    merged.extend_from_slice(&entries);
                }
            }
        }
        self.hard_state = hard_state.or(self.hard_state.take());
    }
}

/// The writer as the node thread uses it.
pub(super) enum WriterHandle {
    /// It runs on the node thread.
    Inline(Box<Writer>),
    /// It runs on a thread of its own.
    Thread { jobs: Sender<Job>, done: Receiver<()> },
    /// It was closed, or its thread could not be started.
    Gone,
}

impl WriterHandle {
    /// Runs a job, and returns its reports; or queues it for the thread, which reports through the inbox.
    pub(super) fn submit(&mut self, job: Job) -> Result<Vec<Control>, LogError> {
        match self {
            Self::Inline(writer) => {
                let shared = Arc::clone(&writer.shared);
                shared.inline_write.begins(); // a disk that hangs now hangs the node thread
                let done = writer.run(vec![job]);
                shared.inline_write.ended();
                done
            }
            Self::Thread { jobs, .. } => {
                let _ = jobs.send(job); // a writer that has gone has reported why
                if planted("node-thread-waits-for-the-disk") {
                    self.drain(Duration::from_secs(60));
                }
                Ok(Vec::new())
            }
            Self::Gone => Ok(Vec::new()),
        }
    }

    /// Whether it runs on the node thread.
    pub(super) const fn is_inline(&self) -> bool {
        matches!(self, Self::Inline(_))
    }

    /// Moves an inline writer to a thread of its own.
    pub(super) fn move_to_thread(&mut self) -> std::io::Result<()> {
        if !matches!(self, Self::Inline(_)) {
            return Ok(());
        }
        let Self::Inline(writer) = std::mem::replace(self, Self::Gone) else { return Ok(()) };
        let (jobs, queue) = channel();
        let (finished, done) = channel();
        writer.shared.writes_inline.store(false, Ordering::Relaxed);
        writer.shared.inline_write.is_over();
        thread::Builder::new().name("oarlock-writer".into()).spawn(move || {
            serve(*writer, &queue);
            drop(finished);
        })?;
        *self = Self::Thread { jobs, done };
        Ok(())
    }

    /// Waits until everything submitted is done; returns whether that was in time.
    pub(super) fn drain(&mut self, timeout: Duration) -> bool {
        match self {
            Self::Inline(_) | Self::Gone => true,
            Self::Thread { jobs, .. } => {
                let (barrier, done) = channel();
                jobs.send(Job::Barrier(barrier)).is_err()
                    || done.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
            }
        }
    }

    /// Closes the log; returns whether that was in time.
    pub(super) fn close(&mut self, timeout: Duration) -> bool {
        // A disk that hangs now must not hang whoever stops the node (O14).
        let moved = self.move_to_thread();
        if let Err(error) = moved {
            log::warn!(error:%; "no thread to close the log on; the next start recovers it");
        }
        match std::mem::replace(self, Self::Gone) {
            Self::Gone | Self::Inline(_) => true,
            Self::Thread { jobs, done } => {
                drop(jobs);
                done.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
            }
        }
    }
}

fn close(writer: Writer) {
    let id = writer.shared.id;
    if let Err(error) = writer.close() {
        // What was acknowledged had been synced before; a poisoned log was reported when it failed.
        log::warn!(id:% = Hex(id), error:% = Chain(&error); "the log was not closed cleanly");
    }
}

/// The jobs that the thread takes together, up to the next sync.
#[derive(Debug, Default)]
struct Group {
    jobs: Vec<Job>,
    /// Entries that only this member's own callers wait for: they are the ones that come back when answered.
    own: usize,
    bytes: u64,
    /// Whether it needs a sync.
    syncs: bool,
    /// Whether something in it must not be kept waiting for more.
    urgent: bool,
}

impl Group {
    fn add(&mut self, job: Job) {
        match &job {
            Job::Write { persist, awaited } => {
                self.bytes += persist.bytes();
                self.syncs |= persist.must_sync;
                if *awaited || persist.must_sync && persist.entries.is_empty() {
                    self.urgent = true;
                } else {
                    self.own += persist.entries.len();
                }
            }
            Job::Promised(_) => {}
            Job::Mark { .. } | Job::Release(_) | Job::Barrier(_) => {
                self.syncs |= matches!(job, Job::Mark { .. });
                self.urgent = true;
            }
        }
        self.jobs.push(job);
    }

    /// Adds what is queued, up to the limit.
    fn fill(&mut self, queue: &Receiver<Job>) {
        while self.bytes < MAX_GROUP
            && let Ok(job) = queue.try_recv()
        {
            self.add(job);
        }
    }

    /// Waits for something to do; returns false when the queue is closed.
    fn wait(&mut self, queue: &Receiver<Job>) -> bool {
        if self.jobs.is_empty() {
            let Ok(job) = queue.recv() else { return false };
            self.add(job);
        }
        self.fill(queue);
        true
    }

    /// Waits for the callers that are expected to come back: see [`Gather`].
    fn gather(&mut self, queue: &Receiver<Job>, gather: &mut Gather, ended: Instant) {
        while !self.goes_now()
            && let Some(wait) = gather.wait(self.own, ended.elapsed())
        {
            match queue.recv_timeout(wait) {
                Ok(job) => self.add(job),
                Err(RecvTimeoutError::Timeout) => gather.in_vain(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.fill(queue);
        }
    }

    /// Whether it is written at once, without waiting for more.
    fn goes_now(&self) -> bool {
        let urgent = self.urgent && !planted("votes-wait-for-more");
        urgent || !self.syncs || self.bytes >= MAX_GROUP || planted("nobody-is-waited-for")
    }
}

fn serve(mut writer: Writer, queue: &Receiver<Job>) {
    let shared = Arc::clone(&writer.shared);
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (mut group, mut gather) = (Group::default(), Gather::default());
        let mut ended = Instant::now();
        while group.wait(queue) {
            group.gather(queue, &mut gather, ended);
            let Group { jobs, own, syncs, .. } = std::mem::take(&mut group);
            let began = Instant::now();
            let reports = match writer.run(jobs) {
                Ok(reports) => reports,
                Err(error) => return shared.inbox.control(Control::WriteFailed(error)),
            };
            if syncs {
                ended = Instant::now();
                group.fill(queue); // what came during the sync, before those that are answered now come back
                gather.ended(own, group.own, ended - began);
            }
            reports.into_iter().for_each(|report| shared.inbox.control(report));
        }
        close(writer);
    }));
    if let Err(panic) = failed {
        shared.inbox.control(Control::Failed(super::panicked("oarlock-writer", &*panic)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(places: &[(u64, u64)]) -> Arc<Vec<Entry>> {
        let entry = |&(term, index)| Entry { term, index, ..Entry::default() };
        Arc::new(places.iter().map(entry).collect())
    }

    #[test]
    fn merging_lets_later_entries_replace_earlier_ones() {
        let mut merged = Merged::default();
        merged.add(entries(&[(1, 5), (1, 6), (1, 7)]), None);
        merged.add(entries(&[(2, 6)]), None);
        assert_eq!(merged.entries, entries(&[(1, 5), (2, 6)]));
        merged.add(entries(&[(2, 7)]), None);
        merged.add(Arc::default(), Some(HardState { term: 3, ..HardState::default() }));
        assert_eq!(merged.entries, entries(&[(1, 5), (2, 6), (2, 7)]));
        merged.add(entries(&[(3, 4)]), None);
        assert_eq!(merged.entries, entries(&[(3, 4)]));
        assert_eq!(merged.hard_state.map(|hard_state| hard_state.term), Some(3));
    }

    fn write(count: u64, awaited: bool) -> Job {
        let entries = (1..=count).map(|index| (1, index)).collect::<Vec<_>>();
        let persist =
            Persist { entries: self::entries(&entries), must_sync: true, ..Persist::default() };
        Job::Write { persist, awaited }
    }

    fn group(jobs: Vec<Job>) -> Group {
        let mut group = Group::default();
        jobs.into_iter().for_each(|job| group.add(job));
        group
    }

    /// Callers who come back one after the other find themselves in one group, and not the first of them in one of its
    /// own.
    #[test]
    fn those_who_come_back_are_waited_for() {
        let mut gather = Gather::default();
        (0..3).for_each(|_| gather.ended(2, 0, Duration::from_millis(160)));
        let (jobs, queue) = channel();
        let mut group = Group::default();
        jobs.send(write(1, false)).expect("somebody listens");
        assert!(group.wait(&queue));
        assert_eq!(group.own, 1, "the first is there");
        jobs.send(write(1, false)).expect("somebody listens"); // while it waits, as far as the group can tell
        let ended = Instant::now() + Duration::from_secs(3600); // however long this thread takes, it is not too late
        group.gather(&queue, &mut gather, ended);
        assert_eq!(group.own, 2, "one of them is left behind");
        assert!(queue.try_recv().is_err());
    }

    /// An entry that others have already is the only thing that a group waits with.
    #[test]
    fn what_others_wait_for_is_not_kept_waiting() {
        let own = group(vec![write(1, false), write(2, false)]);
        assert_eq!((own.goes_now(), own.own), (false, 3));
        assert!(group(vec![write(1, false), write(2, true)]).goes_now(), "a follower's entries");
        assert!(group(vec![write(0, false)]).goes_now(), "a vote");
        assert!(group(vec![write(1, false), Job::Release(1)]).goes_now());
        assert!(group(vec![write(1, false), Job::Barrier(channel().0)]).goes_now(), "a stop");
        let (mark, announcement) = (SnapshotMark::default(), Bytes::new());
        assert!(group(vec![write(1, false), Job::Mark { mark, announcement }]).goes_now());
        assert_eq!(
            group(vec![write(1, true)]).own,
            0,
            "they do not come back when they are synced"
        );
    }

    /// A commit index alone is not synced: it neither waits nor ends the waiting of others.
    #[test]
    fn a_commit_index_waits_with_entries_and_not_alone() {
        let commit = || {
            let hard_state = Some(HardState::default());
            let persist = Persist { hard_state, ..Persist::default() };
            Job::Write { persist, awaited: false }
        };
        assert!(group(vec![commit()]).goes_now());
        assert!(!group(vec![commit(), write(1, false), commit()]).goes_now());
    }
}
