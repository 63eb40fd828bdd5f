//! A log opened for reading only, for tools: no lock, no write, no repair (W7).

use std::io;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::index::Piece;
use crate::recover::Recovery;
use crate::scan::{How, Scan, scan};
use crate::segment::{Listing, survey};
use crate::state::State;
use crate::vfs::{Access, Vfs};
use crate::{Entry, Error, HardState, Lsn, SnapshotMark, read};

/// The log as it was when it was opened, whole and checked. What is appended later does not appear.
#[derive(Debug)]
pub struct ReadOnly {
    state: State,
    recovery: Recovery,
    log_id: u64,
    end: Lsn,
    proven: Lsn,
    segments: Vec<SegmentReport>,
}

/// One segment of a checked log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Which.
    pub segment: crate::SegmentId,
    /// The length of its file.
    pub bytes: u64,
    /// Where its frames end; `None` if it is only prepared.
    pub end: Option<u64>,
    /// The length of its footer, which stands at the end of the file; `None` if it has none that is good.
    pub footer: Option<u64>,
}

/// How often a log that is being written to is read again, until it holds still for long enough.
const TRIES: usize = 10;

impl ReadOnly {
    pub(crate) fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self, Error> {
        let mut before = None;
        for _ in 0..TRIES {
            let error = match Self::try_open(vfs, dir) {
                Ok(log) => return Ok(log),
                Err(error) => error,
            };
            // A writer may append, roll or release between two of our reads, which then do not fit together. Damage
            // stays where it is.
            let place = match &error {
                Error::Corrupt { segment, offset, damage, .. } => {
                    Some((*segment, *offset, Some(*damage)))
                }
                Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => None,
                _ => return Err(error),
            };
            if place.is_some() && place == before {
                return Err(error);
            }
            before = place;
        }
        Self::try_open(vfs, dir)
    }

    fn try_open(vfs: &dyn Vfs, dir: &Path) -> Result<Self, Error> {
        let listing = Listing::read(vfs, dir)?.filter(|listing| !listing.segments.is_empty());
        Self::read(vfs, dir, &listing.ok_or_else(|| Error::NotFound { dir: dir.into() })?)
    }

    /// The log that the segments of a listing make.
    pub(crate) fn read(vfs: &dyn Vfs, dir: &Path, listing: &Listing) -> Result<Self, Error> {
        let surveyed = survey(vfs, dir, &listing.segments, Access::Read)?;
        let scan = scan(&surveyed, How::Beside)?;
        let recovery = Recovery::of(&surveyed, listing, &scan);
        let Scan { state, end, proven, ends, ready, .. } = scan;
        let log_id = surveyed.first().map_or(0, |one| one.segment.key.0);
        let live = ends.iter().map(|(s, end)| (s, Some(u64::from(*end))));
        let segments = live
            .chain(ready.iter().map(|s| (s, None)))
            .map(|(s, end)| {
                let footer = state.index.footer_len(s.id);
                SegmentReport { segment: s.id, bytes: s.size.into(), end, footer }
            })
            .collect();
        Ok(Self { state, recovery, log_id, end: end.lsn, proven, segments })
    }

    /// The owner's own record. See [`Wal::metadata`](crate::Wal::metadata).
    #[must_use]
    pub fn metadata(&self) -> Bytes {
        self.state.metadata.clone()
    }

    /// The latest hard state.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.state.hard_state
    }

    /// The newest snapshot mark.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotMark> {
        self.state.mark.clone()
    }

    /// The first entry that can be read; one more than the last if there is none.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.state.index.first()
    }

    /// The last entry.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.state.index.last()
    }

    /// The term of an entry. See [`Wal::term`](crate::Wal::term).
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn term(&self, index: u64) -> Result<u64, Error> {
        self.state.term(index)
    }

    /// One entry.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Corrupt`] if it was damaged since, [`Error::Io`].
    pub fn entry(&self, index: u64) -> Result<Entry, Error> {
        read::entry(index, |range, places| self.piece(range, places))
    }

    /// The entries of `range`, up to `max_bytes` of payload but at least one.
    ///
    /// # Errors
    /// As [`entry`](Self::entry).
    pub fn entries(&self, range: Range<u64>, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        self.state.check_range(&range)?;
        read::entries(range, max_bytes, |range, places| self.piece(range, places))
    }

    fn piece(&self, range: Range<u64>, places: &mut [u32]) -> Result<Piece, Error> {
        let piece = self.state.index.piece(range.start, range.end, places)?;
        piece.ok_or_else(|| self.state.out_of_range(range.start))
    }

    /// What an opening for writing would find, and do. `rewritten` is 0, and a torn tail's copies are none: nothing was
    /// changed. While the log is open elsewhere, a torn tail may be one that is being written.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The log's identity.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// Where the last batch that counts ends.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Everything before this position is known to have been durable: damage there is refused, never cut off.
    #[must_use]
    pub fn proven(&self) -> Lsn {
        self.proven
    }

    /// The files, oldest first.
    #[must_use]
    pub fn segments(&self) -> &[SegmentReport] {
        &self.segments
    }
}
