//! The entries of one segment: where they stand, in memory or in the segment's footer.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{FRAMES_START, Footer, Key, Trailer, read_entry};
use crate::segment::Segment;
use crate::{EntryId, Error, Lsn, SegmentId};

/// The live entries of one segment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    /// The first live entry.
    pub(super) first: u64,
    /// How many there are.
    pub(super) len: u64,
    /// How many stand before them in the offsets.
    skip: u64,
    offsets: Offsets,
    /// Where the last entry that was written to the segment ends at the latest.
    end: u32,
    /// The last entry of the log when the segment was begun: its checkpoint knows the term of that one.
    pub(super) after: u64,
    /// The last snapshot that was installed in the segment.
    reset: Option<EntryId>,
}

/// Where the entries stand that the segment held when it was left, or holds so far.
#[derive(Debug)]
enum Offsets {
    /// The segment is being written to.
    Growing(Vec<u32>),
    /// It was left; the footer is yet to be written, and says nothing of what was overwritten since.
    Left(Arc<Footer>),
    /// In the footer's table, which begins at `at` in the file: no heap.
    Table { at: u32 },
}

/// A segment that was left, and what is still to be written to it.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    pub(crate) segment: Arc<Segment>,
    /// The footer, unless it is there already.
    pub(crate) footer: Option<Arc<Footer>>,
}

/// Consecutive entries of one segment, and the bytes they stand in: held, so that the log may release the segment.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    /// Where in the file the bytes begin.
    start: u32,
    segment: SegmentId,
    key: Key,
    pub(crate) first: u64,
    pub(crate) len: usize,
    /// Where in the file, and how many, the places stand that are not known yet.
    table: Option<(u32, usize)>,
}

impl Run {
    /// The run of a segment that is begun behind entry `after`.
    pub(super) fn new(segment: Arc<Segment>, after: u64) -> Self {
        let offsets = Offsets::Growing(Vec::new());
        Self { segment, first: after + 1, len: 0, skip: 0, offsets, end: 0, after, reset: None }
    }

    pub(super) fn next(&self) -> u64 {
        self.first + self.len
    }

    /// Forgets all entries; the next one in the log is `next`.
    pub(super) fn clear(&mut self, next: u64) {
        (self.first, self.skip) = (next, 0);
        self.cut(0);
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        if index < self.first {
            self.clear(index);
        } else {
            self.cut(self.len.min(index - self.first));
        }
    }

    fn cut(&mut self, len: u64) {
        self.len = len;
        if let Offsets::Growing(offsets) = &mut self.offsets {
            offsets.truncate((self.skip + len) as usize);
        }
    }

    /// Drops the first entry.
    pub(super) fn shift(&mut self) {
        if self.len > 0 {
            self.skip += 1;
            self.len -= 1;
        }
        self.first += 1;
    }

    /// Adds an entry that stands at `offset`. Grows by a sixteenth, not by doubling: with that, an entry takes four
    /// bytes and a quarter at most.
    pub(super) fn push(&mut self, offset: u32) {
        if let Offsets::Growing(offsets) = &mut self.offsets {
            if offsets.len() == offsets.capacity() {
                offsets.reserve_exact((offsets.len() / 16).max(256));
            }
            offsets.push(offset);
            self.len += 1;
        }
    }

    /// The last entry ends at `end`.
    pub(super) fn extend_to(&mut self, end: u32) {
        self.end = end;
    }

    /// A snapshot has been installed.
    pub(super) fn installed(&mut self, base: EntryId) {
        self.reset = Some(base);
    }

    /// The first entry that the segment held when it was left, which may have been dropped since.
    pub(super) fn held_from(&self) -> u64 {
        self.first - self.skip
    }

    /// How many entries it held when it was left, or holds.
    pub(super) fn held(&self) -> u64 {
        self.skip + self.len
    }

    /// The segment is left: its frames end at `end`, the last one with the checksum `chain`. `terms` are those of what
    /// it holds. `None` if it was left before.
    pub(super) fn leave(&mut self, end: u32, chain: u32, terms: Vec<(u64, u64)>) -> Option<Left> {
        let Offsets::Growing(offsets) = &mut self.offsets else { return None };
        let (offsets, first) = (std::mem::take(offsets), self.held_from());
        let footer = Arc::new(Footer { end, chain, first, reset: self.reset, offsets, terms });
        self.end = end;
        self.offsets = Offsets::Left(footer.clone());
        Some(Left { segment: self.segment.clone(), footer: Some(footer) })
    }

    /// The footer is on disk, if there is room for it there: then the heap is free of it.
    pub(super) fn written(&mut self) {
        if let Offsets::Left(footer) = &self.offsets
            && let Some(at) = footer.table(self.segment.size)
        {
            self.offsets = Offsets::Table { at };
        }
    }

    /// Takes all entries from a footer that was checked. What was truncated by it has been.
    pub(super) fn adopt(&mut self, trailer: &Trailer) {
        self.offsets = Offsets::Table { at: trailer.table() };
        (self.len, self.end, self.reset) = (trailer.n.into(), trailer.end, trailer.reset);
    }

    /// The entries from `lo`, which is one of them, to before `hi`: as many as `places` has room for, which takes one more
    /// number than entries.
    pub(super) fn piece(&self, lo: u64, hi: u64, places: &mut [u32]) -> Result<Piece, Error> {
        let len = hi.min(self.next()).saturating_sub(lo) as usize;
        let len = len.min(places.len().saturating_sub(1));
        let from = (self.skip + (lo - self.first)) as usize;
        let (start, end, table) = match &self.offsets {
            Offsets::Growing(offsets) => self.known(offsets, from, &mut places[..=len]),
            Offsets::Left(footer) => self.known(&footer.offsets, from, &mut places[..=len]),
            Offsets::Table { at } => {
                // Frames and footer: nothing of it is ever written again.
                (FRAMES_START, self.segment.size, Some((at + 4 * from as u32, len)))
            }
        };
        let bytes = self.segment.view(start, end)?;
        let Segment { id, key, .. } = *self.segment;
        Ok(Piece { bytes, start, segment: id, key, first: lo, len, table })
    }

    /// Fills in where entries stand, and behind that where the last one ends at the latest. Gives the range of both.
    fn known(
        &self,
        offsets: &[u32],
        from: usize,
        places: &mut [u32],
    ) -> (u32, u32, Option<(u32, usize)>) {
        let offsets = offsets.get(from..).unwrap_or_default();
        let there = offsets.len().min(places.len());
        places[..there].copy_from_slice(&offsets[..there]);
        places[there..].fill(self.end);
        (places[0], places[places.len() - 1], None)
    }

    /// How long the footer on disk is.
    pub(super) fn footer_len(&self) -> Option<u64> {
        match self.offsets {
            Offsets::Table { at } => Some(u64::from(self.segment.size - at)),
            _ => None,
        }
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match &self.offsets {
            Offsets::Growing(offsets) => 4 * offsets.capacity(),
            Offsets::Left(footer) => 4 * footer.offsets.capacity() + 16 * footer.terms.capacity(),
            Offsets::Table { .. } => 0,
        }
    }
}

impl Piece {
    /// Completes `places`: where each entry stands. May have to wait for the disk, so no lock is held over it.
    pub(crate) fn locate(&self, places: &mut [u32]) {
        if let Some((at, n)) = self.table {
            let table = self.bytes.get((at - self.start) as usize..).unwrap_or_default();
            for (place, bytes) in places[..n].iter_mut().zip(table.as_chunks().0) {
                *place = u32::from_le_bytes(*bytes);
            }
        }
    }

    /// Checks entry `index`, which stands at `place`. Gives its term, its kind, and where its payload is in the bytes.
    #[inline]
    pub(crate) fn entry(&self, place: u32, index: u64) -> Result<(u64, u8, Range<usize>), Error> {
        let from = place.wrapping_sub(self.start) as usize; // far away, if a disk has changed the table since
        let rest = self.bytes.get(from..).unwrap_or_default();
        match read_entry(rest, self.key, Lsn::new(self.segment, place), index) {
            Ok((term, kind, payload)) => Ok((term, kind, from + payload.start..from + payload.end)),
            Err(fault) => Err(Error::corrupt(self.segment, place, fault.damage)),
        }
    }
}
