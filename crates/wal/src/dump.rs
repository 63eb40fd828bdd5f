//! Every record of a log as it stands on disk, for people: nothing is applied, nothing is hidden.

use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;

use crate::format::{FRAMES_START, Fault, FooterState, Lookup, Trailer, is_zero, read_frame};
use crate::segment::{Listing, Segment, open};
use crate::vfs::{Access, Vfs};
use crate::{Damage, Error, SegmentId};

mod follow;
pub use follow::{Follow, News};

mod record;
pub(crate) use record::hex;
pub use record::{Content, MarkSlot, Record};

/// Iterates over the records of a log in the order in which they were written, overwritten ones included. One segment is
/// in memory at a time, and for as long as an entry of it is held.
///
/// Where a segment stops making sense it yields one [`Error::Corrupt`] and goes on with the next frame that reads back, in
/// this segment or the next. Whether that is damage or a tail that a crash tore, only the whole log can tell:
/// [`Options::open_read_only`](crate::Options::open_read_only) does.
#[derive(Debug)]
pub struct Dump {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    segments: Peekable<IntoIter<SegmentId>>,
    current: Option<Walk>,
    /// Whether a segment was shown: from then on none may be missing.
    begun: bool,
}

impl Dump {
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path) -> Result<Self, Error> {
        let listing = Listing::read(&*vfs, dir)?.filter(|listing| !listing.segments.is_empty());
        let segments = listing.ok_or_else(|| Error::NotFound { dir: dir.into() })?.segments;
        let segments = segments.into_iter().peekable();
        Ok(Self { vfs, dir: dir.into(), segments, current: None, begun: false })
    }

    /// Opens the next segment, and gives its header; `None` after the last.
    fn segment(&mut self) -> Option<Result<Record, Error>> {
        loop {
            let id = self.segments.next()?;
            let surveyed = match open(&*self.vfs, &self.dir, id, Access::Read) {
                // A live writer released it since the directory was listed.
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !self.begun =>
                {
                    continue;
                }
                opened => opened,
            };
            self.begun = true;
            return Some(surveyed.and_then(|surveyed| {
                let mut bytes = vec![0; surveyed.segment.size as usize];
                surveyed.segment.read(&mut bytes, 0)?;
                let missing =
                    id.next().filter(|next| self.segments.peek().is_some_and(|id| id != next));
                let footer = match surveyed.footer {
                    FooterState::Valid(trailer) => Some(trailer),
                    _ => None,
                };
                bytes.truncate(footer.map_or(bytes.len(), |trailer| trailer.table() as usize));
                self.current = Some(Walk {
                    segment: surveyed.segment.clone(),
                    bytes: bytes.into(),
                    at: FRAMES_START,
                    footer,
                    missing,
                });
                Ok(Record::of_segment(&surveyed))
            }));
        }
    }
}

impl Iterator for Dump {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(found) = self.current.as_mut().and_then(Walk::next) {
            return Some(found);
        }
        self.current = None;
        self.segment()
    }
}

/// The way through one segment.
#[derive(Debug)]
struct Walk {
    segment: Arc<Segment>,
    /// Its bytes, up to the footer if there is one.
    bytes: Bytes,
    at: u32,
    footer: Option<Trailer>,
    /// The segment that should follow, if another one does.
    missing: Option<SegmentId>,
}

impl Iterator for Walk {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { segment, bytes, at, footer, missing } = self;
        let Fault { at: place, damage } = match read_frame(bytes, segment.key, segment.id, *at) {
            Ok(frame) => {
                *at = frame.end().offset();
                return Some(Ok(Record::of_frame(&frame, bytes)));
            }
            Err(fault) => fault,
        };
        let rest = bytes.get(*at as usize..).unwrap_or_default();
        // In a recycled file, what stands behind is not zero, and nothing unless it is a frame.
        let mut behind = Lookup::new(bytes, segment.key, segment.id, *at);
        if is_zero(rest) || segment.recycled && behind.next().is_none() {
            if let Some(trailer) = footer.take() {
                return Some(Ok(Record::of_footer(segment, &trailer)));
            }
            let missing = missing.take()?;
            return Some(Err(Error::corrupt(missing, 0_u64, Damage::Missing)));
        }
        let whole = |at: &u32| read_frame(bytes, segment.key, segment.id, *at).is_ok();
        let strays = Lookup::new(bytes, segment.key, segment.id, at.saturating_add(8));
        let next = strays.map(|stray| stray.lsn.offset()).find(whole);
        *at = next.unwrap_or(segment.size);
        Some(Err(Error::corrupt(segment.id, place.offset(), damage)))
    }
}
