//! How to make, open and inspect a log.

use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

use crate::examine::{Examination, Progress};
use crate::format::{Checkpoint, Encoder, Key, Position, Staging, first_frame};
use crate::log::Parts;
use crate::recover::{Recovery, keep_footer, repair};
use crate::repair::Plan;
use crate::scan::{How, scan};
use crate::segment::{LOCK, Layout, Listing, Pool, Segment, survey};
use crate::vfs::{Access, Lock, RealVfs, Vfs};
use crate::{
    Dump, EntryId, Error, Follow, HardState, Lsn, Observer, ReadOnly, SegmentId, Wal, planted,
};

/// How to make or open a log.
///
/// ```
/// # let tmp = tempfile::tempdir()?;
/// use oarlock_wal::{Batch, Entry, Options};
///
/// let dir = tmp.path().join("wal");
/// let log = Options::new().segment_size(8 << 20).create(&dir, b"member 1 of cluster 7")?;
/// let ticket = log.append(&Batch::of(&[Entry::new(1, 1, 0, "set x=1")]))?;
/// log.wait(ticket)?;
/// log.close()?;
///
/// let log = Options::new().open(&dir)?;
/// assert_eq!((log.metadata(), log.last_index()), ("member 1 of cluster 7".into(), 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    segment_size: u64,
    sync: bool,
    verify: bool,
    log_id: Option<u64>,
    vfs: Arc<dyn Vfs>,
    observer: Option<Arc<dyn Observer>>,
}

/// Smaller segments hold little but headers.
const MIN_SEGMENT: u64 = 32 << 10;
/// Larger ones would not be prepared in time.
const MAX_SEGMENT: u64 = 1 << 30;

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults: 64 MiB segments, every sync done, the operating system's files.
    #[must_use]
    pub fn new() -> Self {
        Self {
            segment_size: 64 << 20,
            sync: true,
            verify: false,
            log_id: None,
            vfs: Arc::new(RealVfs),
            observer: None,
        }
    }

    /// Bytes after which the log rolls to a new segment. Defaults to 64 MiB, as in etcd; kept within 32 KiB and 1 GiB,
    /// and to a multiple of 4 KiB. The first segments of a log are smaller: 4 MiB, and twice that each time.
    ///
    /// Small segments give space back sooner after compaction; a batch must fit into one. May change between openings.
    #[must_use]
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.segment_size = bytes;
        self
    }

    /// Whether opening reads every byte of the log. Off by default: then a segment that was left is known by its footer,
    /// which is checked, and its entries are checked when they are read. Opening takes as long as there are segments, and
    /// as the last one takes to read.
    ///
    /// What is not read is not lost, only found later: a damaged entry is refused by whoever reads it, at the latest when
    /// a follower or the state machine needs it. Turn this on where it must be known at once, and time does not count; or
    /// let [`open_read_only`](Self::open_read_only) check the log, which always reads everything.
    #[must_use]
    pub fn verify(mut self, on: bool) -> Self {
        self.verify = on;
        self
    }

    /// Skips every sync: [`Wal::wait`] returns at once, and a crash loses anything. For tests and throw-away data; the
    /// log says so when it is opened. Off by default.
    #[must_use]
    pub fn unsafe_no_fsync(mut self, on: bool) -> Self {
        self.sync = !on;
        self
    }

    /// The identity of a log that is created, for simulations that must not be random. By default it is random, so
    /// that no segment of one log can pass for one of another.
    #[must_use]
    pub fn log_id(mut self, id: u64) -> Self {
        self.log_id = Some(id);
        self
    }

    /// The files to work on. [`RealVfs`] by default.
    #[must_use]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Self {
        self.vfs = vfs;
        self
    }

    /// Who is told about syncs and rolls. Nobody by default.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Whether there is a log in `dir`. A directory in which [`create`](Self::create) died holds none.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed; that it does not exist is no error.
    pub fn exists(&self, dir: impl AsRef<Path>) -> Result<bool, Error> {
        let listing = Listing::read(&*self.vfs, dir.as_ref())?;
        Ok(listing.is_some_and(|listing| !listing.segments.is_empty()))
    }

    /// Makes a log in `dir`, which is made too. It is durable when this returns, and not there at all if a crash comes
    /// before. `metadata` is the owner's: [`Batch::metadata`](crate::Batch::metadata) replaces it.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::Locked`], [`Error::NoSpace`], [`Error::Io`], or [`Error::TooLarge`] if the
    /// metadata takes more than a quarter of the first segment.
    pub fn create(&self, dir: impl AsRef<Path>, metadata: &[u8]) -> Result<Wal, Error> {
        let dir = dir.as_ref();
        if self.exists(dir)? {
            return Err(Error::AlreadyExists { dir: dir.into() });
        }
        self.vfs.create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        let lock = self.lock(dir)?;
        if self.exists(dir)? {
            return Err(Error::AlreadyExists { dir: dir.into() });
        }
        let random = || std::hash::RandomState::new().build_hasher().finish();
        let layout = self.layout(dir, self.log_id.unwrap_or_else(random));
        let first = SegmentId(1);
        let (bytes, limit) = (metadata.len() as u64, u64::from(layout.size(first) / 4));
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }

        let mut frames = Staging::default();
        let start = first_frame(first);
        let mut encoder = Encoder::new(&mut frames, Key(layout.log_id), start, 0, Lsn::default());
        let metadata = bytes::Bytes::copy_from_slice(metadata);
        let checkpoint = Checkpoint::new(metadata, HardState::default(), EntryId::default(), None);
        encoder.checkpoint(&checkpoint);
        let (end, chain) = encoder.end();
        let segment = Arc::new(layout.make(first, frames.whole().unwrap_or_default(), || true)?);

        let mut state = crate::state::State::default();
        state.begin(&checkpoint);
        state.index.begin_segment(segment.clone());
        let end = Position { lsn: end, chain, last: EntryId::default() };
        // The segment was synced whole before it got its name.
        let proven = if self.sync { end.lsn } else { Lsn::default() };
        self.warn_if_unsafe(dir);
        log::info!(dir:% = dir.display(), log_id:% = format_args!("{:016x}", layout.log_id); "log created");
        Ok(Wal::assemble(Parts {
            state,
            end,
            proven,
            active: segment,
            pool: Pool::new(layout, first, Vec::new()),
            unfinished: Vec::new(),
            lock,
            recovery: Recovery::default(),
            observer: self.observer.clone(),
        }))
    }

    /// Opens the log in `dir`: checks it, as thoroughly as [`verify`](Self::verify) says, sets a torn tail aside, makes
    /// durable what it accepts, and only then returns.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Locked`], [`Error::Corrupt`] (nothing was changed), [`Error::UnknownVersion`]
    /// (likewise), [`Error::NoSpace`] if there is no room to repair what a crash left (free some and open again),
    /// [`Error::Io`].
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Wal, Error> {
        let dir = dir.as_ref();
        if !self.exists(dir)? {
            return Err(Error::NotFound { dir: dir.into() });
        }
        let lock = self.lock(dir)?;
        let how = if self.verify { How::Everything } else { How::Footers };
        let read = || {
            let listing = Listing::read(&*self.vfs, dir)?.unwrap_or_default();
            let surveyed = survey(&*self.vfs, dir, &listing.segments, Access::ReadWrite)?;
            let scan = scan(&surveyed, how)?;
            let recovery = Recovery::of(&surveyed, &listing, &scan);
            Ok((scan, recovery, listing.spares, surveyed))
        };
        let (mut scan, mut recovery, mut spares, mut surveyed) = read()?;
        let closed = scan.ends.last().is_some_and(|(active, _)| active.closed());
        for name in &recovery.temporaries {
            let path = dir.join(name);
            self.vfs.remove(&path).map_err(Error::io("remove", &path))?;
        }
        if repair(&*self.vfs, dir, &mut scan, &mut spares, self.sync, &mut recovery)? {
            (scan, _, _, surveyed) = read()?;
        }
        if self.sync && !closed {
            keep_footer(&surveyed)?;
        }
        drop(surveyed);
        recovery.log(dir);
        self.warn_if_unsafe(dir);

        let Some((active, _)) = scan.ends.last() else {
            return Err(Error::NotFound { dir: dir.into() });
        };
        let active = active.clone();
        let layout = self.layout(dir, active.key.0);
        // Prepared when segments were to be smaller. What one begins with may not even fit.
        let short = |ready: &Arc<Segment>| ready.size < layout.size(ready.id);
        let short = scan.ready.iter().position(short).filter(|_| !planted("short-segments-kept"));
        while short.is_some_and(|short| scan.ready.len() > short)
            && let Some(newest) = scan.ready.pop()
        {
            newest.remove(&*self.vfs, dir, self.sync)?;
        }
        let proven = if self.sync { scan.end.lsn } else { scan.proven };
        let pool = Pool::new(layout, active.id, scan.ready);
        pool.adopt(&spares)?;
        Ok(Wal::assemble(Parts {
            end: scan.end,
            proven,
            pool,
            active,
            unfinished: scan.unfinished,
            state: scan.state,
            lock,
            recovery,
            observer: self.observer.clone(),
        }))
    }

    /// Opens the log in `dir` for reading, after checking every byte of it: no lock is taken, nothing is written, nothing is repaired (W7). A torn tail,
    /// or one that is being written right now, is reported in [`ReadOnly::recovery`].
    ///
    /// # Errors
    /// As [`open`](Self::open), but never [`Error::Locked`].
    pub fn open_read_only(&self, dir: impl AsRef<Path>) -> Result<ReadOnly, Error> {
        ReadOnly::open(&*self.vfs, dir.as_ref())
    }

    /// Reads the records of the log in `dir` one by one, for people to look at. Neither locks nor writes.
    ///
    /// # Errors
    /// As [`open_read_only`](Self::open_read_only), for headers and names only.
    pub fn dump(&self, dir: impl AsRef<Path>) -> Result<Dump, Error> {
        Dump::open(self.vfs.clone(), dir.as_ref())
    }

    /// Reads the batches of the log in `dir` as they come, beside whoever writes them. Neither locks nor writes.
    ///
    /// ```
    /// # let tmp = tempfile::tempdir()?;
    /// # let dir = tmp.path().join("wal");
    /// use oarlock_wal::{Batch, Entry, News, Options};
    ///
    /// let log = Options::new().create(&dir, b"member 1")?;
    /// let mut follow = Options::new().follow(&dir)?;
    /// while follow.poll()? != News::Nothing {} // what was there already
    /// let _ = log.append(&Batch::of(&[Entry::new(1, 1, 0, "set x=1")]))?;
    /// assert!(matches!(follow.poll()?, News::Batch(records) if records.len() == 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn follow(&self, dir: impl AsRef<Path>) -> Result<Follow, Error> {
        Follow::open(self.vfs.clone(), dir.as_ref())
    }

    /// Finds out what is wrong with the log in `dir`, and what can be done about it. Neither locks nor writes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::UnknownVersion`], [`Error::Io`]; damage is what the plan is about, and none.
    pub fn plan_repair(&self, dir: impl AsRef<Path>) -> Result<Plan, Error> {
        Plan::new(self, dir.as_ref())
    }

    /// Reads and checks every byte of the log in `dir`, and of the snapshot files in the directory given, telling
    /// `progress` about it as it goes, at least once a megabyte, on this thread. Neither locks nor writes.
    ///
    /// ```
    /// # let tmp = tempfile::tempdir()?;
    /// # let dir = tmp.path().join("wal");
    /// use oarlock_wal::{Options, examine::End};
    ///
    /// # Options::new().create(&dir, b"")?.close()?;
    /// let found = Options::new().examine(&dir, None, |_| {})?;
    /// assert!(found.is_whole());
    /// assert_eq!(found.log?.end, End::Whole);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Io`] if a directory cannot be listed. Anything else is part of what was found.
    pub fn examine(
        &self,
        dir: impl AsRef<Path>,
        snapshots: Option<&Path>,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Examination, Error> {
        Examination::new(self, dir.as_ref(), snapshots, progress)
    }

    pub(crate) fn files(&self) -> &Arc<dyn Vfs> {
        &self.vfs
    }

    fn layout(&self, dir: &Path, log_id: u64) -> Layout {
        let size = self.segment_size.clamp(MIN_SEGMENT, MAX_SEGMENT) & !0xfff;
        Layout {
            vfs: self.vfs.clone(),
            dir: dir.into(),
            log_id,
            segment_size: size as u32,
            sync: self.sync,
        }
    }

    pub(crate) fn lock(&self, dir: &Path) -> Result<Box<dyn Lock>, Error> {
        let path = dir.join(LOCK);
        match self.vfs.lock(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Error::Locked { holder: self.holder(&path), path })
            }
            locked => locked.map_err(Error::io("lock", &path)),
        }
    }

    /// The process id in the lock file, if there is one.
    fn holder(&self, path: &Path) -> Option<u32> {
        let file = self.vfs.open(path, Access::Read).ok()?;
        let mut text = [0; 10];
        let len = file.len().ok().filter(|len| *len <= text.len() as u64)? as usize;
        file.read_exact_at(&mut text[..len], 0).ok()?;
        std::str::from_utf8(&text[..len]).ok()?.trim().parse().ok()
    }

    fn warn_if_unsafe(&self, dir: &Path) {
        if !self.sync {
            log::warn!(
                dir:% = dir.display();
                "UNSAFE: fsync is off, a crash or power loss will lose acknowledged data"
            );
        }
    }
}
