//! Following a log that somebody else writes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Record;
use crate::format::{Fault, first_frame, read_frame_from};
use crate::segment::{Listing, Segment, Surveyed, open};
use crate::vfs::{Access, Vfs};
use crate::{Damage, Error, Lsn, SegmentId};

/// Reads the batches of a log as they come, from the oldest segment on, beside whoever writes it: no lock, no write, no
/// thread. [`poll`](Self::poll) it as often as you like to know.
///
/// It goes along when the writer rolls, releases, or is killed and started again. What it shows was written, which does
/// not mean that it is durable yet.
#[derive(Debug)]
pub struct Follow {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    /// The next batch begins here.
    at: Lsn,
    /// The checksum of the last frame shown; `None` where the way begins, and after a jump.
    chain: Option<u32>,
    /// The segment being read. Opened again whenever there is nothing new in it, for a recovery replaces files.
    current: Option<Surveyed>,
    /// Whether that segment's header was shown.
    headed: bool,
    /// Bytes read ahead, and where they stand.
    piece: (Lsn, Bytes),
}

/// What [`Follow::poll`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum News {
    /// The next segment begins: its header.
    Segment(Record),
    /// The next batch, whole, in one record or several.
    Batch(Vec<Record>),
    /// Segments were released before they were read: the way goes on at `to`, and what was in between will not be shown.
    Missed {
        /// Where the next batch would have begun.
        from: Lsn,
        /// Where it goes on.
        to: Lsn,
    },
    /// Nothing came since.
    Nothing,
}

/// Bytes read at once, unless a frame is longer.
const PIECE: u32 = 64 << 10;

impl Follow {
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path) -> Result<Self, Error> {
        let at = first_frame(oldest(&*vfs, dir)?);
        let piece = (Lsn::default(), Bytes::new());
        Ok(Self { vfs, dir: dir.into(), at, chain: None, current: None, headed: false, piece })
    }

    /// The next thing to show. Never waits.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the log goes on and a frame before that does not read back; [`Error::NotFound`] if the
    /// log is gone; [`Error::UnknownVersion`], [`Error::Io`]. Polling after an error tries the same place again.
    pub fn poll(&mut self) -> Result<News, Error> {
        let surveyed = match self.current.take() {
            Some(surveyed) => surveyed,
            None => match self.segment(self.at.segment())? {
                Some(surveyed) => surveyed,
                None => return self.jump(),
            },
        };
        if let Some(batch) = self.batch(&surveyed.segment)? {
            let news = if self.headed { self.take(batch) } else { self.head(&surveyed) };
            self.current = Some(surveyed);
            return Ok(news);
        }
        // Looked at before the next segment is: once that one has begun, this one is complete.
        let Some(next) = self.at.segment().next() else { return Ok(News::Nothing) };
        let Some(successor) = self.segment(next)? else { return Ok(News::Nothing) };
        let Some(first) = self.frame(&successor.segment, first_frame(next))? else {
            return Ok(News::Nothing); // prepared, not begun
        };
        if self.chain == Some(first.prev) {
            (self.at, self.headed) = (first_frame(next), false);
            let news = self.head(&successor);
            self.current = Some(successor);
            return Ok(news);
        }
        let Some(surveyed) = self.segment(self.at.segment())? else { return self.jump() };
        let Some(batch) = self.batch(&surveyed.segment)? else {
            let Fault { at, damage } = self.fault(&surveyed.segment)?;
            return Err(Error::corrupt(at.segment(), at.offset(), damage));
        };
        let news = if self.headed { self.take(batch) } else { self.head(&surveyed) };
        self.current = Some(surveyed);
        Ok(news)
    }

    fn head(&mut self, surveyed: &Surveyed) -> News {
        self.headed = true;
        News::Segment(Record::of_segment(surveyed))
    }

    fn take(&mut self, batch: Vec<Found>) -> News {
        if let Some(last) = batch.last() {
            (self.at, self.chain) = (last.end, Some(last.crc));
        }
        News::Batch(batch.into_iter().map(|found| found.record).collect())
    }

    /// Goes on with the oldest segment, where the one being read is gone.
    fn jump(&mut self) -> Result<News, Error> {
        let (from, to) = (self.at, first_frame(oldest(&*self.vfs, &self.dir)?));
        if to < from {
            return Err(Error::corrupt(from.segment(), 0_u64, Damage::Missing));
        }
        (self.at, self.chain, self.headed) = (to, None, false);
        Ok(News::Missed { from, to })
    }

    /// Opens a segment; `None` if there is none of this number.
    fn segment(&self, id: SegmentId) -> Result<Option<Surveyed>, Error> {
        match open(&*self.vfs, &self.dir, id, Access::Read) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// The batch that begins here, if all of it is there.
    fn batch(&mut self, segment: &Segment) -> Result<Option<Vec<Found>>, Error> {
        let (mut batch, mut at, mut chain) = (Vec::new(), self.at, self.chain);
        loop {
            let found = self.frame(segment, at)?;
            let Some(found) = found.filter(|f| chain.is_none_or(|chain| chain == f.prev)) else {
                return Ok(None);
            };
            (at, chain) = (found.end, Some(found.crc));
            let more = found.record.more;
            batch.push(found);
            if !more {
                return Ok(Some(batch));
            }
        }
    }

    /// The frame at `at`, if there is a whole one.
    fn frame(&mut self, segment: &Segment, at: Lsn) -> Result<Option<Found>, Error> {
        let ahead = at.bits().checked_sub(self.piece.0.bits());
        if let Some(ahead) = ahead.filter(|ahead| *ahead < self.piece.1.len() as u64) {
            let rest = self.piece.1.slice(ahead as usize..);
            if let Ok(found) = Found::read(&rest, segment, at) {
                return Ok(Some(found));
            }
        }
        let left = segment.size.saturating_sub(at.offset());
        let mut len = PIECE.min(left);
        loop {
            let mut bytes = vec![0; len as usize];
            segment.read(&mut bytes, at.offset())?;
            let bytes = Bytes::from(bytes);
            match Found::read(&bytes, segment, at) {
                Ok(found) => {
                    self.piece = (at, bytes);
                    return Ok(Some(found));
                }
                // The header is whole, the body is longer than the piece.
                Err(Fault { damage: Damage::Bounds { found }, at: place })
                    if place == at && len < left && found > len / 2 =>
                {
                    len = left.min(found.saturating_add(PIECE));
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Why there is no batch here.
    fn fault(&self, segment: &Segment) -> Result<Fault, Error> {
        let mut at = self.at;
        let mut bytes = vec![0; segment.size.saturating_sub(at.offset()) as usize];
        segment.read(&mut bytes, at.offset())?;
        let mut chain = self.chain;
        loop {
            let rest = &bytes[((at.offset() - self.at.offset()) as usize).min(bytes.len())..];
            match read_frame_from(rest, segment.key, at) {
                Ok(frame) => {
                    if let Some(expected) = chain.filter(|chain| *chain != frame.prev) {
                        let damage = Damage::Chain { expected, found: frame.prev };
                        return Ok(Fault { at, damage });
                    }
                    (at, chain) = (frame.end(), Some(frame.crc));
                }
                Err(fault) => return Ok(fault),
            }
        }
    }
}

/// A frame that was read, and what ties it to its neighbours.
#[derive(Debug)]
struct Found {
    record: Record,
    end: Lsn,
    prev: u32,
    crc: u32,
}

impl Found {
    fn read(bytes: &Bytes, segment: &Segment, at: Lsn) -> Result<Self, Fault> {
        let frame = read_frame_from(bytes, segment.key, at)?;
        let record = Record::of_frame(&frame, bytes);
        Ok(Self { record, end: frame.end(), prev: frame.prev, crc: frame.crc })
    }
}

/// The oldest segment there is.
fn oldest(vfs: &dyn Vfs, dir: &Path) -> Result<SegmentId, Error> {
    let listing = Listing::read(vfs, dir)?;
    let oldest = listing.and_then(|listing| listing.segments.first().copied());
    oldest.ok_or_else(|| Error::NotFound { dir: dir.into() })
}
