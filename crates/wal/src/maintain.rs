//! What keeps the log fast and provable, off the append path: three calls, and a thread that makes them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::log::Inner;
use crate::{Error, Lsn, Wal};

impl Wal {
    /// Prepares segments until two are ready, so that a roll needs neither zeros nor a sync. Says how many it made.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: appends go on while what is ready lasts ([`space_left`](Self::space_left)). [`Error::Io`]
    /// poisons the log.
    pub fn prepare(&self) -> Result<usize, Error> {
        let _open = self.inner.keep_open()?;
        self.inner.or_poison(self.inner.pool.fill())
    }

    /// Writes a last mark to every segment that was left and whose successor holds durable frames, so that the loss of
    /// any later segment is noticed. Says how many it finished.
    ///
    /// # Errors
    /// [`Error::Io`], which poisons the log.
    pub fn finish_segment(&self) -> Result<usize, Error> {
        let _open = self.inner.keep_open()?;
        self.inner.finish()
    }

    /// Writes down how far the log is durable, if that is not written yet: from then on, damage to anything before is
    /// told apart from a torn tail, the last batch included. To be called when nothing has been appended for a while,
    /// at most 100 ms after the last sync. Says whether it wrote; costs one sync if so.
    ///
    /// # Errors
    /// [`Error::Io`], which poisons the log.
    pub fn idle(&self) -> Result<bool, Error> {
        let _open = self.inner.keep_open()?;
        self.inner.mark_idle()
    }
}

impl Inner {
    /// All marks that can be written now; for closing.
    pub(crate) fn write_marks(&self) -> Result<(), Error> {
        self.finish()?;
        self.mark_idle()?;
        Ok(())
    }

    fn finish(&self) -> Result<usize, Error> {
        self.commit.check()?;
        let durable = self.commit.durable();
        if !self.pool.layout.sync {
            return Ok(0); // nothing is known to be durable
        }
        let mut finished = 0;
        let mut left = self.unfinished.lock();
        while let Some(segment) = left.first().filter(|s| s.id < durable.lsn.segment()) {
            let wrote = self.or_poison(segment.write_slot(durable, true))?;
            self.counters.marks.fetch_add(wrote.into(), Ordering::Relaxed);
            finished += 1;
            left.remove(0);
        }
        Ok(finished)
    }

    fn mark_idle(&self) -> Result<bool, Error> {
        self.commit.check()?;
        let active = self.writer.lock().active().clone();
        let durable = self.commit.durable();
        // A slot speaks of its own segment, or of later ones once that is left.
        if !self.pool.layout.sync || durable.lsn.segment() != active.id {
            return Ok(false);
        }
        let wrote = self.or_poison(active.write_slot(durable, true))?;
        self.counters.marks.fetch_add(wrote.into(), Ordering::Relaxed);
        Ok(wrote)
    }
}

/// How often a maintainer looks. Twice within the 100 ms in which an idle log is marked.
const PERIOD: Duration = Duration::from_millis(50);

/// A thread that keeps a log prepared and marked. The log starts none by itself: its owner may have a better place to
/// make these calls from.
///
/// Dropping it stops the thread and waits for it. It does not keep the log open, and ends when that is closed or
/// poisoned.
#[derive(Debug)]
pub struct Maintainer {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Maintainer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Io`] if the operating system refuses to.
    pub fn spawn(log: &Wal) -> Result<Self, Error> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (inner, signal) = (Arc::downgrade(&log.inner), stop.clone());
        let thread = std::thread::Builder::new()
            .name("oarlock-wal".into())
            .spawn(move || run(&inner, &signal))
            .map_err(Error::io("start a thread for", &log.inner.pool.layout.dir))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic; if it did, the log goes on without it
        }
    }
}

fn run(log: &Weak<Inner>, (stop, signal): &(Mutex<bool>, Condvar)) {
    let mut durable = Lsn::default();
    let mut full = false;
    loop {
        let Some(inner) = log.upgrade() else { return };
        let wal = Wal { inner };
        let now = wal.inner.commit.durable().lsn;
        let idle = now == durable;
        durable = now;
        let done = wal.finish_segment().and_then(|_| if idle { wal.idle() } else { Ok(false) });
        let prepared = match wal.prepare() {
            Err(Error::NoSpace { path, source }) => {
                if !full {
                    let left = wal.space_left();
                    log::warn!(path:% = path.display(), left, error:% = source; "no space for the next segment");
                }
                full = true;
                Ok(())
            }
            prepared => {
                full = false;
                prepared.map(drop)
            }
        };
        match done.and(Ok(())).and(prepared) {
            Ok(()) => {}
            Err(Error::Closed | Error::Poisoned) => return,
            Err(error) => {
                log::error!(error:% = error; "maintenance of the log failed");
                return;
            }
        }
        drop(wal);
        let mut stopped = stop.lock();
        if !*stopped {
            signal.wait_for(&mut stopped, PERIOD);
        }
        if *stopped {
            return;
        }
    }
}
