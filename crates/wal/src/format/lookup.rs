//! Looking for frames where the stream of them has ended.

use super::frame::{FRAME_HEADER, Kind};
use super::{BLOCK, Key, is_zero, padded, read_entry, u32_at, u64_at};
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

    fn header_at(&self, at: usize) -> Option<&'a [u8; FRAME_HEADER]> {
        self.bytes.get(at..)?.first_chunk()
    }

    fn stray(&self, at: usize, header: &[u8; FRAME_HEADER]) -> Option<Stray> {
        // A kind of zero or a bit set in the reserved field is no frame of any version: most places fail here.
        let lsn = Lsn::new(self.segment, at as u32);
        if header[12] == 0 || header[14..16] != [0, 0] {
            return None;
        }
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
        while let Some(header) = self.header_at(self.at) {
            let at = self.at;
            let block_end = (at + BLOCK as usize).min(self.bytes.len());
            if at.is_multiple_of(BLOCK as usize) && is_zero(&self.bytes[at..block_end]) {
                self.at = block_end;
                continue;
            }
            self.at += 8;
            if let Some(stray) = self.stray(at, header) {
                return Some(stray);
            }
        }
        None
    }
}
