//! What keeps the log fast and provable, off the append path: three calls, and a thread that makes them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bell::Bell;
use crate::index::Left;
use crate::log::Inner;
use crate::{Error, Lsn, Wal};

impl Wal {
    /// Prepares segments until two are ready, so that a roll needs neither zeros nor a sync: of released ones, or out of
    /// zeros, which are synced piece by piece where there is time, so as not to keep appends waiting. Says how many it
    /// made.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and [`Error::NotPrepared`]: appends go on while what is ready lasts
    /// ([`space_left`](Self::space_left)); try again later. [`Error::Io`], when the directory could not be synced,
    /// poisons the log.
    pub fn prepare(&self) -> Result<usize, Error> {
        let _open = self.inner.keep_open()?;
        self.inner.or_poison(self.inner.pool.fill())
    }

    /// Writes a footer and a last mark to every segment that was left and whose successor holds durable frames: from then
    /// on the next opening need not read it, its entries take no heap, and the loss of any later segment is noticed. One
    /// sync for each; says how many it finished.
    ///
    /// # Errors
    /// [`Error::Io`], which poisons the log.
    pub fn finish_segment(&self) -> Result<usize, Error> {
        let _open = self.inner.keep_open()?;
        self.inner.finish()
    }

    /// Writes down how far the log is durable, if that is not written yet: from then on, damage to anything before is
    /// told apart from a torn tail, the last batch included. To be called when nothing has been appended for a while,
    /// at most 100 ms after the last sync, and now and then where that never happens. Says whether it wrote; costs one
    /// sync if so.
    ///
    /// # Errors
    /// [`Error::Io`], which poisons the log.
    pub fn idle(&self) -> Result<bool, Error> {
        let _open = self.inner.keep_open()?;
        self.inner.mark_idle(false)
    }
}

impl Inner {
    /// All marks that can be written now; for closing.
    pub(crate) fn write_marks(&self) -> Result<(), Error> {
        self.finish()?;
        self.mark_idle(true)?;
        Ok(())
    }

    fn finish(&self) -> Result<usize, Error> {
        self.commit.check()?;
        let durable = self.commit.durable();
        if !self.pool.layout.sync {
            return Ok(0); // nothing is known to be durable
        }
        let mut finished = 0;
        let next = || {
            let left = self.unfinished.lock();
            left.first().filter(|left| left.segment.id < durable.lsn.segment()).cloned()
        };
        // The list is not locked while the disk works: a roll adds to it. In order, and each synced before the next.
        while let Some(Left { segment, footer }) = next() {
            #[cfg(oarlock_planted)]
            let footer = footer.map(|f| crate::planted::truncated(&f, &self.state.read().index));
            let wrote = self.or_poison(segment.finish(footer.as_deref(), durable))?;
            self.state.write().index.footer_written(segment.id);
            self.counters.marks.fetch_add(wrote.into(), Ordering::Relaxed);
            finished += usize::from(wrote);
            self.unfinished.lock().retain(|other| other.segment.id != segment.id);
        }
        Ok(finished)
    }

    /// `closing` says that nothing will be written any more.
    fn mark_idle(&self, closing: bool) -> Result<bool, Error> {
        self.commit.check()?;
        let active = self.writer.lock().active().clone();
        let durable = self.commit.durable();
        // A slot speaks of its own segment, or of later ones once that is left.
        if !self.pool.layout.sync || durable.lsn.segment() != active.id {
            return Ok(false);
        }
        let wrote = self.or_poison(active.write_slot(durable, closing, true))?;
        self.counters.marks.fetch_add(wrote.into(), Ordering::Relaxed);
        Ok(wrote)
    }
}

/// How often a maintainer looks unasked. Twice within the 100 ms in which an idle log is marked.
const PERIOD: Duration = Duration::from_millis(50);

/// How long a maintainer leaves a log that is never idle without a mark: whatever rot takes behind the last one may look
/// torn. A mark costs one more sync.
const BUSY: Duration = Duration::from_millis(500);

/// A thread that keeps a log prepared and marked: it wakes when a segment is begun, looks for an idle log every 50 ms,
/// and marks one that is never idle every 500 ms. The log starts none by itself: its owner may have a better place to make these calls from.
///
/// Dropping it stops the thread and waits for it. It does not keep the log open, and ends when that is closed or
/// poisoned. What can be tried again it tries again.
#[derive(Debug)]
pub struct Maintainer {
    stop: Arc<AtomicBool>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Maintainer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Io`] if the operating system refuses to.
    pub fn spawn(log: &Wal) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let bell = log.inner.bell.clone();
        let (inner, stopped, rung) = (Arc::downgrade(&log.inner), stop.clone(), bell.clone());
        let thread = std::thread::Builder::new()
            .name("oarlock-wal".into())
            .spawn(move || run(&inner, &stopped, &rung))
            .map_err(Error::io("start a thread for", &log.inner.pool.layout.dir))?;
        Ok(Self { stop, bell, thread: Some(thread) })
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic; if it did, the log goes on without it
        }
    }
}

fn run(log: &Weak<Inner>, stop: &AtomicBool, bell: &Bell) {
    let mut seen = Lsn::default();
    let mut heard = 0;
    let mut refused = false;
    let mut marked = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let Some(inner) = log.upgrade() else { return };
        let wal = Wal { inner };
        // What a roll may wait for comes first.
        let prepared = match wal.prepare() {
            Err(error @ (Error::NoSpace { .. } | Error::NotPrepared { .. })) => {
                if !refused {
                    let left = wal.space_left();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    log::warn!(left, error:%, cause:?; "the next segment is not ready; trying again");
                }
                refused = true;
                Ok(())
            }
            prepared => {
                refused = false;
                prepared.map(drop)
            }
        };
        let done = prepared.and_then(|()| wal.finish_segment());
        drop(wal);
        if ended(done) {
            return;
        }
        let begun = bell.listen(&mut heard, PERIOD);
        let due = marked.elapsed() >= BUSY;
        if begun && !due {
            continue;
        }
        // Where nothing was begun for a while, perhaps nothing was synced either.
        let Some(inner) = log.upgrade() else { return };
        let wal = Wal { inner };
        let now = wal.inner.commit.durable().lsn;
        let idle = now == std::mem::replace(&mut seen, now);
        if idle || due {
            marked = Instant::now();
            if ended(wal.idle()) {
                return;
            }
        }
    }
}

/// Whether there is nothing left to look after.
fn ended<T>(done: Result<T, Error>) -> bool {
    match done {
        Ok(_) => false,
        Err(Error::Closed | Error::Poisoned { .. }) => true,
        Err(error) => {
            log::error!(error:% = error; "maintenance of the log failed");
            true
        }
    }
}
