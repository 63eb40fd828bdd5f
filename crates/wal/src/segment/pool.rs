//! Segments prepared ahead, so that a roll neither writes zeros nor syncs.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::Segment;
use crate::format::{FRAMES_START, SegmentHeader};
use crate::vfs::{Access, Vfs};
use crate::{Error, SegmentId, planted};

/// How many segments [`Pool::fill`] keeps ready. One is not enough: at full speed it is used up while the next is made.
pub(crate) const READY: usize = 2;

/// How many released segments are kept to become segments again: so many are released at a time, and used one by one.
pub(crate) const SPARES: usize = 4;

/// The size of the first segment of a log, unless the full size is smaller. Sizes double from there.
const FIRST: u32 = 4 << 20;

/// Where segments are made, and how.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) dir: PathBuf,
    pub(crate) log_id: u64,
    /// The size of a segment, but for the first ones.
    pub(crate) segment_size: u32,
    pub(crate) sync: bool,
}

impl Layout {
    /// The first segments are smaller: a new log shall not begin with writing 64 MiB of zeros.
    pub(crate) fn size(&self, id: SegmentId) -> u32 {
        let doublings = id.0.saturating_sub(1).min(8);
        FIRST.checked_shl(doublings).map_or(self.segment_size, |size| size.min(self.segment_size))
    }

    fn header(&self, id: SegmentId, recycled: bool) -> SegmentHeader {
        SegmentHeader { log_id: self.log_id, id, size: self.size(id), recycled }
    }

    /// Makes a segment with `frames` at its head.
    pub(crate) fn make(
        &self,
        id: SegmentId,
        frames: &[u8],
        hurry: impl Fn() -> bool,
    ) -> Result<Segment, Error> {
        let header = self.header(id, false);
        Segment::make(&*self.vfs, &self.dir, header, self.sync, hurry, |file| {
            file.write_all_at(frames, u64::from(FRAMES_START))
        })
    }
}

/// The segments after the one being written, oldest first.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) layout: Layout,
    ready: Mutex<VecDeque<Arc<Segment>>>,
    /// The segment to be made next. Held while making one.
    next: Mutex<Option<SegmentId>>,
    /// Files of the full size that were segments before.
    spares: Mutex<Vec<PathBuf>>,
    /// How many segments were made of spares.
    recycled: AtomicU64,
}

impl Pool {
    /// With the segments in `ready`, which follow the one that is being written, `last`.
    pub(crate) fn new(layout: Layout, last: SegmentId, ready: Vec<Arc<Segment>>) -> Self {
        let next = ready.last().map_or(last, |segment| segment.id).next();
        let (ready, next) = (Mutex::new(ready.into()), Mutex::new(next));
        Self { layout, ready, next, spares: Mutex::default(), recycled: AtomicU64::new(0) }
    }

    /// Takes over the spares that an earlier run left, as far as they are of the right length and not too many. Removes
    /// the others.
    pub(crate) fn adopt(&self, names: &[OsString]) -> Result<(), Error> {
        let Layout { vfs, dir, segment_size, .. } = &self.layout;
        let mut spares = self.spares.lock();
        for path in names.iter().map(|name| dir.join(name)) {
            let len = vfs.open(&path, Access::Read).and_then(|file| file.len());
            let good = len.is_ok_and(|len| len == u64::from(*segment_size));
            if good && spares.len() < SPARES {
                spares.push(path);
            } else {
                vfs.remove(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Takes a segment back that was released, durably: as a spare if it may become another segment, else it is removed.
    /// A segment that anybody reads from goes, and its bytes stay for as long as they are held (W5).
    pub(crate) fn retire(&self, segment: Arc<Segment>) -> Result<(), Error> {
        let Layout { vfs, dir, segment_size, sync, .. } = &self.layout;
        // Nobody else has the segment, so nobody can begin to read from it.
        let mut mine = match Arc::try_unwrap(segment) {
            Ok(mine) => mine,
            Err(shared) => return shared.remove(&**vfs, dir, *sync),
        };
        let wanted = mine.size == *segment_size && self.spares.lock().len() < SPARES;
        if !wanted || mine.is_viewed() && !planted("recycled-while-read") {
            return mine.remove(&**vfs, dir, *sync);
        }
        let spare = mine.spare(&**vfs, dir, *sync)?;
        self.spares.lock().push(spare);
        Ok(())
    }

    /// The next segment, and whether it was ready; if it was not, it has been made now.
    pub(crate) fn take(&self) -> Result<(Arc<Segment>, bool), Error> {
        if let Some(segment) = self.ready.lock().pop_front() {
            return Ok((segment, true));
        }
        let mut next = self.next.lock(); // waits for whoever is making one
        if let Some(segment) = self.ready.lock().pop_front() {
            return Ok((segment, true));
        }
        Ok((self.make(&mut next)?, false))
    }

    /// Makes segments until [`READY`] are; says how many it made.
    pub(crate) fn fill(&self) -> Result<usize, Error> {
        let mut made = 0;
        loop {
            let mut next = self.next.lock();
            if self.ready.lock().len() >= READY {
                return Ok(made);
            }
            let segment = self.make(&mut next)?;
            self.ready.lock().push_back(segment);
            made += 1;
            MutexGuard::unlock_fair(next); // an append that waits for this segment comes before the next one is made
        }
    }

    fn make(&self, next: &mut Option<SegmentId>) -> Result<Arc<Segment>, Error> {
        let id = next.ok_or(Error::Exhausted)?;
        let segment = match self.recycle(id)? {
            Some(segment) => segment,
            None => self.layout.make(id, &[], || self.ready.lock().is_empty())?,
        };
        *next = id.next();
        Ok(Arc::new(segment))
    }

    fn recycle(&self, id: SegmentId) -> Result<Option<Segment>, Error> {
        let header = self.layout.header(id, true);
        let Layout { vfs, dir, segment_size, sync, .. } = &self.layout;
        if header.size != *segment_size {
            return Ok(None);
        }
        while let Some(spare) = self.next_spare() {
            if let Some(made) = Segment::recycle(&**vfs, dir, header, *sync, &spare)? {
                self.recycled.fetch_add(1, Ordering::Relaxed);
                return Ok(Some(made));
            }
        }
        Ok(None)
    }

    fn next_spare(&self) -> Option<PathBuf> {
        self.spares.lock().pop() // not held while the disk works
    }

    /// How many segments were made of spares, and how many spares there are.
    pub(crate) fn spares(&self) -> (u64, u64) {
        (self.recycled.load(Ordering::Relaxed), self.spares.lock().len() as u64)
    }

    /// The most that metadata, or a snapshot's configuration, may take: they are repeated at the head of every segment,
    /// the smallest included.
    pub(crate) fn register_limit(&self) -> u64 {
        let ready = self.ready.lock().iter().map(|s| s.size).min().unwrap_or(u32::MAX);
        u64::from(ready.min(FIRST).min(self.layout.segment_size) / 4)
    }

    /// How many are ready, the bytes of their files, and the bytes that frames may take in them.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        let ready = self.ready.lock();
        let size = ready.iter().map(|segment| u64::from(segment.size)).sum();
        (ready.len() as u64, size, ready.iter().map(|segment| segment.capacity()).sum())
    }
}
