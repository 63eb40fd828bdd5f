//! Looking for frames where the stream of them has ended.

use super::frame::{FRAME_HEADER, Kind};
use super::{Key, padded, read_entry, u32_at, u64_at};
use crate::{EntryId, Lsn, SegmentId};

/// A frame's header that stands behind a place where reading failed. Its own checksum is all the proof it needs: what
/// it says about the past was true when it was written, whatever became of its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stray {
    pub(crate) lsn: Lsn,
    /// Where its body ends, if it is as long as it says.
    pub(crate) end: Lsn,
    pub(crate) mark: Lsn,
    /// The index of its first entry, if it is a frame of entries.
    pub(crate) entries_from: Option<u64>,
}

impl Stray {
    /// Its first entry, if that reads back.
    pub(crate) fn first_entry(&self, bytes: &[u8], key: Key) -> Option<EntryId> {
        let lsn = self.lsn.plus(FRAME_HEADER);
        let index = self.entries_from?;
        let (term, ..) = read_entry(bytes.get(lsn.offset() as usize..)?, key, lsn, index).ok()?;
        Some(EntryId { term, index })
    }
}

/// Looks for frame headers at any multiple of eight, whatever stands in between. Takes time in proportion to the bytes,
/// whatever they are (W8).
pub(crate) struct Lookup<'a> {
    bytes: &'a [u8],
    key: Key,
    segment: SegmentId,
    at: usize,
}

impl<'a> Lookup<'a> {
    /// Looks through the segment whose first bytes are `bytes`, from `offset` on.
    pub(crate) fn new(bytes: &'a [u8], key: Key, segment: SegmentId, offset: u32) -> Self {
        Self { bytes, key, segment, at: padded(offset as usize) }
    }

    /// Goes to the next place where a header may stand: with a kind that is not zero and a reserved field that is, as in
    /// every version. Most places are left behind here, zeros and what a recycled file held before alike.
    fn advance(&mut self) -> Option<usize> {
        let words = self.bytes.get(self.at + 8..)?.chunks_exact(8);
        let plausible = |word: &[u8]| {
            let word = u64_at(word, 0);
            word >> 48 == 0 && word >> 32 & 0xff != 0
        };
        let at = self.at + 8 * words.map(plausible).position(|yes| yes)?;
        self.at = at + 8;
        Some(at)
    }

    fn stray(&self, at: usize) -> Option<Stray> {
        let lsn = Lsn::new(self.segment, at as u32);
        let header: &[u8; FRAME_HEADER] = self.bytes.get(at..)?.first_chunk()?;
        // A mark is a place before its frame. In a recycled file, old bytes are looked at by the million: what chance
        // lets through here must not prove anything, and could not, for a mark behind the end lies behind the frame.
        let mark = Lsn::from_bits(u64_at(header, 32));
        if mark > lsn || self.key.crc(lsn, &header[4..]) != u32_at(header, 0) {
            return None;
        }
        let entries_from = (header[12] == Kind::Entries as u8).then(|| u64_at(header, 24));
        let end = lsn.plus(FRAME_HEADER + u32_at(header, 4) as usize);
        Some(Stray { lsn, end, mark, entries_from })
    }
}

impl Iterator for Lookup<'_> {
    type Item = Stray;

    fn next(&mut self) -> Option<Stray> {
        while let Some(at) = self.advance() {
            if let Some(stray) = self.stray(at) {
                return Some(stray);
            }
        }
        None
    }
}
