//! Group commit: callers that wait together share one sync, and nobody holds a lock while the disk works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::format::Position;
use crate::segment::Segment;
use crate::stats::{Counters, Observer};
use crate::{Error, Lsn, planted};

/// What an append returns: how far the log must be durable for the batch to be.
///
/// Tickets order as the batches do, and a later one covers every earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "the batch is durable only once `Wal::wait` has returned for this ticket"]
pub struct Ticket(pub(crate) Lsn);

impl Ticket {
    /// The position right after the batch.
    #[must_use]
    pub const fn lsn(self) -> Lsn {
        self.0
    }
}

/// How far the log is written, and how far it is durable.
#[derive(Debug)]
pub(crate) struct Commit {
    progress: Mutex<Progress>,
    done: Condvar,
    /// What new frames are told about the past: the durable position, or, without syncs, what was proven at open.
    mark: AtomicU64,
    poisoned: AtomicBool,
    sync: bool,
}

#[derive(Debug)]
struct Progress {
    /// The end of what was written.
    written: Position,
    /// The end of what was synced.
    durable: Position,
    /// Segments with bytes that were not synced, oldest first; the last one is being written to.
    dirty: Vec<Arc<Segment>>,
    syncing: bool,
}

impl Commit {
    /// Begins with everything up to `end` written and, as far as this run can tell, durable.
    pub(crate) fn new(end: Position, mark: Lsn, sync: bool) -> Self {
        let progress = Progress { written: end, durable: end, dirty: Vec::new(), syncing: false };
        Self {
            progress: Mutex::new(progress),
            done: Condvar::new(),
            mark: AtomicU64::new(mark.bits()),
            poisoned: AtomicBool::new(false),
            sync,
        }
    }

    /// The position that is known to be durable, for frames written now.
    pub(crate) fn mark(&self) -> Lsn {
        Lsn::from_bits(self.mark.load(Ordering::Acquire))
    }

    pub(crate) fn durable(&self) -> Position {
        self.progress.lock().durable
    }

    pub(crate) fn written(&self) -> Position {
        self.progress.lock().written
    }

    /// Refuses everything from now on (O13). Whoever comes later hears [`Error::Poisoned`] alone: why, the system's words
    /// included, is told here.
    pub(crate) fn poison(&self, cause: &Error) {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            let system = std::error::Error::source(cause).map(ToString::to_string);
            let system = system.unwrap_or_default();
            log::error!(error:% = cause, system:%; "a write or sync of the log failed: it takes no more until it is reopened");
        }
        // Whoever has looked and not yet gone to sleep holds the lock.
        let _progress = self.progress.lock();
        self.done.notify_all();
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.poisoned.load(Ordering::Acquire) { Err(Error::Poisoned) } else { Ok(()) }
    }

    /// Everything up to `end`, which is in `segment`, has been written.
    pub(crate) fn wrote(&self, segment: &Arc<Segment>, end: Position) {
        let mut progress = self.progress.lock();
        progress.written = end;
        if progress.dirty.last().is_none_or(|last| last.id != segment.id) {
            progress.dirty.push(segment.clone());
        }
    }

    /// Returns once everything up to `lsn` is durable: syncs, or waits for the one who does.
    pub(crate) fn wait(
        &self,
        lsn: Lsn,
        observer: &dyn Observer,
        counters: &Counters,
    ) -> Result<(), Error> {
        let mut progress = self.progress.lock();
        let lsn = lsn.min(progress.written.lsn); // or a ticket of another log would wait for ever
        loop {
            if progress.durable.lsn >= lsn {
                return Ok(());
            }
            self.check()?;
            if progress.syncing {
                self.done.wait(&mut progress);
                continue;
            }
            // Everything written so far goes with this sync; what comes meanwhile goes with the next.
            progress.syncing = true;
            let target = progress.written;
            let dirty = std::mem::take(&mut progress.dirty);
            drop(progress);
            let synced = self.sync_all(&dirty, observer, counters);
            progress = self.progress.lock();
            progress.syncing = false;
            match synced {
                Ok(()) => {
                    progress.durable = target;
                    if self.sync {
                        self.mark.store(target.lsn.bits(), Ordering::Release);
                    }
                    self.done.notify_all();
                }
                Err(error) if planted("failed-sync-retried") => {
                    progress.dirty.splice(0..0, dirty);
                    return Err(error);
                }
                Err(error) => {
                    drop(progress);
                    self.poison(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Syncs oldest first, so that what is durable is a prefix of the log.
    fn sync_all(
        &self,
        dirty: &[Arc<Segment>],
        observer: &dyn Observer,
        counters: &Counters,
    ) -> Result<(), Error> {
        for segment in dirty.iter().filter(|_| self.sync) {
            let begun = Instant::now();
            segment.sync()?;
            observer.fsync(begun.elapsed());
            counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
