//! Segments prepared ahead, so that a roll neither writes zeros nor syncs.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::Segment;
use crate::format::{FRAMES_START, SegmentHeader};
use crate::vfs::Vfs;
use crate::{Error, SegmentId};

/// How many segments [`Pool::fill`] keeps ready. One is not enough: at full speed it is used up while the next is made.
pub(crate) const READY: usize = 2;

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

    /// Makes a segment with `frames` at its head.
    pub(crate) fn make(&self, id: SegmentId, frames: &[u8]) -> Result<Segment, Error> {
        let header = SegmentHeader { log_id: self.log_id, id, size: self.size(id) };
        Segment::make(&*self.vfs, &self.dir, header, self.sync, |file| {
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
}

impl Pool {
    /// With the segments in `ready`, which follow the one that is being written, `last`.
    pub(crate) fn new(layout: Layout, last: SegmentId, ready: Vec<Arc<Segment>>) -> Self {
        let next = ready.last().map_or(last, |segment| segment.id).next();
        Self { layout, ready: Mutex::new(ready.into()), next: Mutex::new(next) }
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
        let segment = Arc::new(self.layout.make(id, &[])?);
        *next = id.next();
        Ok(segment)
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
