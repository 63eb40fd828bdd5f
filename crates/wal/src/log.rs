//! The log: append, wait, read, release.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::bell::Bell;
use crate::commit::{Commit, Ticket};
use crate::format::{FRAMES_START, Position, checkpoint_len};
use crate::index::{Left, Piece};
use crate::recover::Recovery;
use crate::segment::{Pool, Segment};
use crate::state::State;
use crate::stats::Counters;
use crate::vfs::Lock;
use crate::writer::Writer;
use crate::{
    Batch, Entry, EntryRef, Error, HardState, Lsn, Observer, SnapshotMark, Stats, planted, read,
};

/// An open log. Clones are handles to the same one; any number of threads may use them.
///
/// Appends are serialized by a lock that is held while the batch is encoded and written, never while the disk syncs.
/// Reads take a lock for as long as the index is looked at.
///
/// The last handle that goes away closes the log as well as it can; [`close`](Self::close) says whether that worked.
#[derive(Clone, Debug)]
pub struct Wal {
    pub(crate) inner: Arc<Inner>,
}

/// What a release gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Released {
    /// Files that are no longer the log's: removed, or kept as spares.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) state: RwLock<State>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) commit: Commit,
    pub(crate) pool: Pool,
    /// Segments that were left, oldest first, and lack a footer or a slot that names a later one.
    pub(crate) unfinished: Mutex<Vec<Left>>,
    pub(crate) counters: Counters,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    /// Rung when there is something to look after: a segment was begun, or the log is closed.
    pub(crate) bell: Arc<Bell>,
    /// Held by whoever gives up segments: oldest first, also where several do.
    releasing: Mutex<()>,
    recovery: Recovery,
    closed: AtomicBool,
    /// Held shared by whoever changes files but is no append: the lock is not given back under its hands.
    upkeep: RwLock<()>,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

/// What opening a log yields.
pub(crate) struct Parts {
    pub(crate) state: State,
    pub(crate) end: Position,
    pub(crate) proven: Lsn,
    pub(crate) active: Arc<Segment>,
    pub(crate) pool: Pool,
    pub(crate) unfinished: Vec<Left>,
    pub(crate) lock: Box<dyn Lock>,
    pub(crate) recovery: Recovery,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl Wal {
    pub(crate) fn assemble(parts: Parts) -> Self {
        let Parts { state, end, proven, active, pool, unfinished, lock, recovery, observer } =
            parts;
        let commit = Commit::new(end, proven, pool.layout.sync);
        let inner = Inner {
            writer: Mutex::new(Writer::new(active, end, state.index.held())),
            state: RwLock::new(state),
            commit,
            pool,
            unfinished: Mutex::new(unfinished),
            counters: Counters::default(),
            observer,
            bell: Arc::default(),
            releasing: Mutex::default(),
            recovery,
            closed: AtomicBool::new(false),
            upkeep: RwLock::new(()),
            lock: Mutex::new(Some(lock)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Writes a batch behind everything before. It can be read as soon as this returns, and is durable once
    /// [`wait`](Self::wait) has returned for the ticket. One positioned write; a roll to a segment that is not ready
    /// yet waits for that.
    ///
    /// An empty batch writes nothing; its ticket is that of everything before.
    ///
    /// # Errors
    /// Refused, with nothing written: [`Error::Gap`], [`Error::TermTooLarge`], [`Error::MarkOutOfRange`],
    /// [`Error::MarkTerm`], [`Error::TooLarge`], [`Error::NoSpace`] and [`Error::NotPrepared`]
    /// (try again later), [`Error::Closed`], [`Error::Poisoned`]. [`Error::Io`] poisons the log.
    pub fn append(&self, batch: &Batch<'_>) -> Result<Ticket, Error> {
        let inner = &*self.inner;
        let mut writer = inner.writer.lock();
        inner.check()?;
        if batch.is_empty() {
            return Ok(Ticket(inner.commit.written().lsn));
        }
        let observed = inner.observer.as_ref().map(|observer| (observer, Instant::now()));
        inner.state.read().check(batch)?;
        let (bytes, end) = writer.append(inner, batch)?;
        let counters = &inner.counters;
        counters.appends.fetch_add(1, Ordering::Relaxed);
        counters.entries.fetch_add(batch.entries.len() as u64, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some((observer, begun)) = observed {
            observer.append(bytes, begun.elapsed());
        }
        Ok(Ticket(end))
    }

    /// Returns once the ticket's batch and everything before it survives power loss (W1).
    ///
    /// Callers that wait at the same time share one fdatasync. Appends go on meanwhile, and go with the next one. Where
    /// several callers come back again and again, that next one waits for them to come: for as long as a sync takes or
    /// half a millisecond at most, and less where they do not. A caller by itself never waits for anybody.
    ///
    /// # Errors
    /// [`Error::Io`] for the caller whose sync failed, [`Error::Poisoned`] for everybody after (O13).
    pub fn wait(&self, ticket: Ticket) -> Result<(), Error> {
        self.inner.wait(ticket.0)
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn sync(&self) -> Result<(), Error> {
        self.inner.wait(self.inner.commit.written().lsn)
    }

    /// The owner's own record: the latest one appended, or what the log was created with.
    #[must_use]
    pub fn metadata(&self) -> Bytes {
        self.inner.state.read().metadata.clone()
    }

    /// The latest hard state appended; all zeros if there was none.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.inner.state.read().hard_state
    }

    /// The newest snapshot mark, compact or install.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotMark> {
        self.inner.state.read().mark.clone()
    }

    /// The first entry that can be read; one more than the last if there is none.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.inner.state.read().index.first()
    }

    /// The last entry; after an installed snapshot, that snapshot's index.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.inner.state.read().index.last()
    }

    /// The term of an entry, of the one before the first, or of the newest snapshot mark. Never touches the disk.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn term(&self, index: u64) -> Result<u64, Error> {
        self.inner.state.read().term(index)
    }

    /// One entry. Its payload is a slice of the segment's map, checked, and valid for as long as it is held (W5).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Corrupt`], [`Error::Io`].
    pub fn entry(&self, index: u64) -> Result<Entry, Error> {
        read::entry(index, |range, places| self.inner.piece(range, places))
    }

    /// The entries of `range`, in order, up to `max_bytes` of payload: at least one, if the range is not empty.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if any of the range is not there, [`Error::Corrupt`], [`Error::Io`].
    pub fn entries(&self, range: Range<u64>, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        self.inner.state.read().check_range(&range)?;
        read::entries(range, max_bytes, |range, places| self.inner.piece(range, places))
    }

    /// Shows the entries of `range`, in order and checked as [`entries`](Self::entries) does, until `visit` breaks off. For
    /// those who apply or copy payloads at once: nothing is collected, and no payload is taken hold of.
    ///
    /// ```
    /// # let tmp = tempfile::tempdir()?;
    /// # use oarlock_wal::{Batch, Entry, Options};
    /// use std::ops::ControlFlow;
    ///
    /// # let log = Options::new().create(tmp.path().join("wal"), b"")?;
    /// # let _ = log.append(&Batch::of(&[Entry::new(1, 1, 0, "a"), Entry::new(2, 1, 0, "b")]))?;
    /// let mut bytes = 0;
    /// let ended = log.visit(1..3, |entry| {
    ///     bytes += entry.data.len();
    ///     if bytes > 1000 { ControlFlow::Break(entry.index) } else { ControlFlow::Continue(()) }
    /// })?;
    /// assert_eq!((bytes, ended), (2, ControlFlow::Continue(())));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`entries`](Self::entries), after those before the place were shown.
    pub fn visit<B>(
        &self,
        range: Range<u64>,
        visit: impl FnMut(EntryRef<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, Error> {
        self.inner.state.read().check_range(&range)?;
        read::visit(range, |range, places| self.inner.piece(range, places), visit)
    }

    /// Removes the oldest segments that hold nothing but entries before `before`: whole files, so that entries before
    /// it may stay. What replaces them, the newest snapshot mark and the next segment's checkpoint, is made durable
    /// first (W6, contract O6). A crash in between leaves segments that the next release removes.
    ///
    /// # Errors
    /// [`Error::NotCovered`] if the newest snapshot mark does not reach `before - 1`, what [`sync`](Self::sync) returns,
    /// and [`Error::Io`], which poisons the log, if a file could not be removed.
    pub fn release(&self, before: u64) -> Result<Released, Error> {
        let inner = &*self.inner;
        let _open = inner.keep_open()?;
        let _alone = (!planted("releases-side-by-side")).then(|| inner.releasing.lock());
        inner.check()?; // whoever was before may have failed half-way
        let covered = inner.state.read().covered().index;
        if before > covered.saturating_add(1) {
            return Err(Error::NotCovered { before, covered });
        }
        if !planted("release-before-sync") {
            self.sync()?;
        }
        // Under the writer's lock no segment is begun meanwhile: the one after the last that goes has a durable head.
        let segments = {
            let _writer = inner.writer.lock();
            let durable = inner.commit.durable().lsn.segment();
            inner.state.write().index.release(before, durable)
        };
        let mut released = Released::default();
        for segment in segments {
            inner.unfinished.lock().retain(|left| left.segment.id != segment.id);
            released.segments += 1;
            released.bytes += u64::from(segment.size);
            // Durably, one by one: a crash could leave an older one and not this, and a hole looks like damage.
            inner.or_poison(inner.pool.retire(segment))?;
        }
        inner.counters.released.fetch_add(released.segments, Ordering::Relaxed);
        Ok(released)
    }

    /// Removes the oldest segments, as [`release`](Self::release) does, until the files take no more than `bytes`
    /// ([`size`](Self::size)), or what is left is not covered by the newest snapshot mark. For those who keep as much
    /// history for slow followers as the disk allows. Whether it was enough, `size` says.
    ///
    /// # Errors
    /// As [`release`](Self::release), but never [`Error::NotCovered`].
    pub fn release_to_size(&self, bytes: u64) -> Result<Released, Error> {
        let excess = self.size().saturating_sub(bytes);
        let before = {
            let state = self.inner.state.read();
            state.index.before(excess).min(state.covered().index + 1)
        };
        self.release(before)
    }

    /// How much the entries of one batch may come to, with 32 bytes more for each than its payload has. A segment holds
    /// whole batches, so this is about the segment size; what is more is refused as [`Error::TooLarge`].
    #[must_use]
    pub fn batch_limit(&self) -> u64 {
        let head = checkpoint_len(&self.inner.state.read().checkpoint());
        // A header for each kind of frame, and the hard state.
        let capacity = u64::from(self.inner.pool.layout.segment_size - FRAMES_START);
        capacity.saturating_sub(head + 512)
    }

    /// Bytes of the log's files, prepared segments included; spares are not ([`Stats::spares`]).
    #[must_use]
    pub fn size(&self) -> u64 {
        let live: u64 = self.inner.state.read().index.segments().map(|s| u64::from(s.size)).sum();
        live + self.inner.pool.totals().1
    }

    /// Bytes that can be appended without asking the file system for more. When it runs low and
    /// [`prepare`](Self::prepare) fails with [`Error::NoSpace`], it is time to step down.
    #[must_use]
    pub fn space_left(&self) -> u64 {
        self.inner.writer.lock().room() + self.inner.pool.totals().2
    }

    /// The identity that keys every checksum of this log; random, chosen when it was created.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.inner.pool.layout.log_id
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.inner.state.read();
        let segments = state.index.segments().count() as u64 + self.inner.pool.totals().0;
        let (recycled, spares) = self.inner.pool.spares();
        let index_bytes = state.index.heap_bytes();
        Stats { segments, recycled, spares, index_bytes, ..self.inner.counters.snapshot() }
    }

    /// What was found when it was opened.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// Syncs, writes the marks, and gives the lock back. Other handles may read from then on, and nothing else; the files
    /// that they have open are not written over by the next owner. If another handle closes the log already, waits for it.
    ///
    /// # Errors
    /// What [`sync`](Self::sync) returns. The lock is given back all the same.
    pub fn close(self) -> Result<(), Error> {
        self.inner.close()
    }
}

impl Inner {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { self.commit.check() }
    }

    /// Keeps the log from being closed for as long as the guard lives.
    pub(crate) fn keep_open(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let open = self.upkeep.read();
        self.check().map(|()| open)
    }

    pub(crate) fn wait(&self, lsn: Lsn) -> Result<(), Error> {
        self.commit.wait(lsn, self.observer.as_deref(), &self.counters)
    }

    /// Poisons the log if this is a failure (O13): of a write or a sync that counts, that is, not of a preparation.
    pub(crate) fn or_poison<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| match error {
            Error::NoSpace { .. } | Error::NotPrepared { .. } => error,
            error => self.commit.poison(error),
        })
    }

    fn piece(&self, range: Range<u64>, places: &mut [u32]) -> Result<Piece, Error> {
        let state = self.state.read();
        let piece = state.index.piece(range.start, range.end, places)?;
        piece.ok_or_else(|| state.out_of_range(range.start))
    }

    fn close(&self) -> Result<(), Error> {
        let _alone = self.upkeep.write(); // nobody prepares, marks or releases any more, or closes it at the same time
        let lock = {
            let _writer = self.writer.lock(); // no append is under way, and none follows
            if self.closed.swap(true, Ordering::AcqRel) {
                return self.commit.check();
            }
            self.lock.lock().take()
        };
        let closed = self.wait(self.commit.written().lsn).and_then(|()| self.write_marks());
        drop(lock);
        self.bell.ring();
        closed
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.commit.check().is_ok()
            && let Err(error) = self.close()
        {
            log::warn!(error:% = error; "the log could not be closed cleanly");
        }
        self.bell.ring();
    }
}
