//! Group commit: callers that wait together share one sync, and nobody holds a lock while the disk works.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::format::Position;
use crate::segment::Segment;
use crate::stats::{Counters, Observer};
use crate::{Error, Lsn, planted};

mod crowd;
use crowd::{Crowd, Role, Waiter, Word};

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
    /// The end of what was synced, for those who only look.
    durable: AtomicU64,
    /// What new frames are told about the past: the durable position, or, without syncs, what was proven at open.
    mark: AtomicU64,
    /// What failed first, once something has.
    poisoned: OnceLock<Arc<Error>>,
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
    /// Those who wait for more to be synced.
    crowd: Crowd,
}

impl Commit {
    /// Begins with everything up to `end` written and, as far as this run can tell, durable.
    pub(crate) fn new(end: Position, mark: Lsn, sync: bool) -> Self {
        let crowd = Crowd::new();
        let progress = Progress { written: end, durable: end, dirty: Vec::new(), crowd };
        Self {
            progress: Mutex::new(progress),
            durable: AtomicU64::new(end.lsn.bits()),
            mark: AtomicU64::new(mark.bits()),
            poisoned: OnceLock::new(),
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

    /// Refuses everything from now on (O13). Whoever comes later hears [`Error::Poisoned`], with the first failure as its
    /// cause. What is returned is for whoever met this one.
    pub(crate) fn poison(&self, error: Error) -> Error {
        let error = Arc::new(error);
        let first = self.poisoned.get_or_init(|| Arc::clone(&error));
        if Arc::ptr_eq(first, &error) {
            let system = std::error::Error::source(&*error).map(ToString::to_string);
            let system = system.unwrap_or_default();
            log::error!(error:%, system:%; "a write or sync of the log failed: it takes no more until it is reopened");
        }
        // Whoever has looked and not yet joined the others holds the lock.
        let waiting = self.progress.lock().crowd.fail();
        waiting.iter().for_each(|waiter| waiter.tell(Word::Look));
        match &*error {
            Error::Io { op, path, source } => {
                // The first of them keeps it, and what the system said cannot be cloned.
                let source = source.raw_os_error().map_or_else(
                    || io::Error::new(source.kind(), source.to_string()),
                    io::Error::from_raw_os_error,
                );
                Error::Io { op, path: path.clone(), source }
            }
            Error::Poisoned { cause } => Error::Poisoned { cause: Arc::clone(cause) },
            _ => Error::Poisoned { cause: error },
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.poisoned.get() {
            Some(cause) => Err(Error::Poisoned { cause: Arc::clone(cause) }),
            None => Ok(()),
        }
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
        observer: Option<&dyn Observer>,
        counters: &Counters,
    ) -> Result<(), Error> {
        if self.durable.load(Ordering::Acquire) >= lsn.bits() {
            return Ok(());
        }
        let mut progress = self.progress.lock();
        let lsn = lsn.min(progress.written.lsn); // or a ticket of another log would wait for ever
        loop {
            if progress.durable.lsn >= lsn {
                return Ok(());
            }
            self.check()?;
            let deadline = match progress.crowd.role(Instant::now) {
                Role::Lead => return self.lead(progress, observer, counters),
                Role::Follow => None,
                Role::Watch(until) => Some(until),
            };
            let waiter = Waiter::new(lsn);
            progress.crowd.join(waiter.clone());
            drop(progress);
            if waiter.park(deadline) == Word::Durable {
                return Ok(());
            }
            progress = self.progress.lock();
            progress.crowd.leave(&waiter);
        }
    }

    /// Syncs everything written so far, and wakes those who wait for any of it. What is appended meanwhile goes with
    /// the next sync.
    fn lead(
        &self,
        mut progress: MutexGuard<'_, Progress>,
        observer: Option<&dyn Observer>,
        counters: &Counters,
    ) -> Result<(), Error> {
        progress.crowd.begin();
        let target = progress.written;
        let dirty = std::mem::take(&mut progress.dirty);
        drop(progress);
        let (took, synced) = self.sync_all(&dirty);
        counters.syncs.fetch_add(took.len() as u64, Ordering::Relaxed);
        let mut progress = self.progress.lock();
        match synced {
            Ok(()) => {
                progress.durable = target;
                self.durable.store(target.lsn.bits(), Ordering::Release);
                if self.sync {
                    self.mark.store(target.lsn.bits(), Ordering::Release);
                }
                let (covered, heir) =
                    progress.crowd.end(target.lsn, took.iter().sum(), Instant::now());
                drop(progress);
                covered.iter().for_each(|waiter| waiter.tell(Word::Durable));
                heir.iter().for_each(|waiter| waiter.tell(Word::Look));
                // Last, so that nobody else waits for what it does.
                observer.iter().for_each(|o| took.iter().for_each(|took| o.fsync(*took)));
                Ok(())
            }
            Err(error) if planted("failed-sync-retried") => {
                progress.dirty.splice(0..0, dirty);
                progress.crowd.fail().iter().for_each(|waiter| waiter.tell(Word::Look));
                Err(error)
            }
            Err(error) => {
                drop(progress);
                Err(self.poison(error))
            }
        }
    }

    /// Syncs oldest first, so that what is durable is a prefix of the log. Says how long each took.
    fn sync_all(&self, dirty: &[Arc<Segment>]) -> (Vec<Duration>, Result<(), Error>) {
        let mut took = Vec::new();
        for segment in dirty.iter().filter(|_| self.sync) {
            let begun = Instant::now();
            if let Err(error) = segment.sync() {
                return (took, Err(error));
            }
            took.push(begun.elapsed());
        }
        (took, Ok(()))
    }
}
