//! The footer of a segment that was left: where its entries stand, so that opening need not read them.

use super::{FRAMES_START, Key, padded, u32_at, u64_at};
use crate::{EntryId, Lsn, SegmentId, planted};

const MAGIC: [u8; 4] = *b"OARF";

/// An install happened in the segment.
const RESET: u32 = 1;

/// The fixed end of a footer, in the last bytes of the file. In front of it stand the runs of terms, and in front of
/// those the table of offsets.
///
/// It says what the segment's frames did to the index *when the segment was left*. What later segments overwrote is
/// their business: their frames may be lost in a crash, and what this segment held must then be there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Length of the file.
    pub(crate) size: u32,
    /// How many entries there are.
    pub(crate) n: u32,
    /// How many runs of terms.
    terms: u32,
    /// Where the frames end.
    pub(crate) end: u32,
    /// The checksum of the last one.
    pub(crate) chain: u32,
    /// The index of the first entry, or of the next one if there is none. Entries of earlier segments from here on were
    /// overwritten.
    pub(crate) first: u64,
    /// The last snapshot that was installed: it wiped out every entry before.
    pub(crate) reset: Option<EntryId>,
    /// The checksum of table and terms.
    crc: u32,
}

/// What the end of a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FooterState {
    /// None was ever written: zeros, or whatever an earlier use of the file left there.
    Missing,
    Valid(Trailer),
    Damaged,
}

impl Trailer {
    pub(crate) const LEN: usize = 64;

    /// Where the trailer of a file of this length stands.
    pub(crate) const fn offset(size: u32) -> u32 {
        size.saturating_sub(Self::LEN as u32)
    }

    /// Where the table begins.
    pub(crate) fn table(&self) -> u32 {
        self.size.saturating_sub(len(self.n.into(), self.terms.into()) as u32)
    }

    /// Reads the last bytes of a segment.
    pub(crate) fn decode(bytes: &[u8], key: Key, segment: SegmentId, size: u32) -> FooterState {
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else { return FooterState::Missing };
        if bytes[8..12] != MAGIC || u32_at(bytes, 12) != segment.0 {
            return FooterState::Missing;
        }
        let base = EntryId { index: u64_at(bytes, 48), term: u64_at(bytes, 56) };
        let trailer = Self {
            size,
            n: u32_at(bytes, 20),
            terms: u32_at(bytes, 24),
            end: u32_at(bytes, 28),
            chain: u32_at(bytes, 32),
            first: u64_at(bytes, 40),
            reset: (u32_at(bytes, 16) & RESET != 0).then_some(base),
            crc: u32_at(bytes, 4),
        };
        let fits = len(trailer.n.into(), trailer.terms.into()) <= u64::from(size)
            && (FRAMES_START..=trailer.table()).contains(&trailer.end);
        let known = u32_at(bytes, 16) & !RESET == 0;
        let at = Lsn::new(segment, Self::offset(size));
        let checked =
            || planted("footer-without-checksum") || key.crc(at, &bytes[4..]) == u32_at(bytes, 0);
        if known && fits && checked() { FooterState::Valid(trailer) } else { FooterState::Damaged }
    }

    fn encode(&self, key: Key, segment: SegmentId) -> [u8; Self::LEN] {
        let base = self.reset.unwrap_or_default();
        let flags = if self.reset.is_some() { RESET } else { 0 };
        let mut out = [0; Self::LEN];
        out[8..12].copy_from_slice(&MAGIC);
        let words = [segment.0, flags, self.n, self.terms, self.end, self.chain];
        // 36..40: reserved.
        for (place, word) in out[12..36].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        for (place, word) in out[40..].chunks_exact_mut(8).zip([self.first, base.index, base.term])
        {
            place.copy_from_slice(&word.to_le_bytes());
        }
        out[4..8].copy_from_slice(&self.crc.to_le_bytes());
        let crc = key.crc(Lsn::new(segment, Self::offset(self.size)), &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Checks the table and the terms that `bytes`, the whole segment, hold, and gives the terms: `(index, term)` where
    /// they begin. `None` if they do not read back.
    pub(crate) fn terms(
        &self,
        bytes: &[u8],
        key: Key,
        segment: SegmentId,
    ) -> Option<Vec<(u64, u64)>> {
        let (table, trailer) = (self.table(), Self::offset(self.size));
        let body = bytes.get(table as usize..trailer as usize)?;
        let crc = key.crc(Lsn::new(segment, table), body);
        if crc != self.crc && !planted("footer-without-checksum") {
            return None;
        }
        let terms = body.get(padded(self.n as usize * 4)..)?.chunks_exact(16);
        let terms: Vec<_> = terms.map(|run| (u64_at(run, 0), u64_at(run, 8))).collect();
        let ascend = terms.is_sorted_by(|(a, s), (b, t)| a < b && s != t);
        let (begin, last) = (terms.first().map(|run| run.0), terms.last().map(|run| run.0));
        let cover = match (self.n, begin, last) {
            (0, None, None) => true,
            (n, Some(first), Some(last)) => first == self.first && last - first < u64::from(n),
            _ => false,
        };
        (ascend && cover).then_some(terms)
    }

    /// Which entry was the log's last when the segment was left, if it was `before` when the segment was begun. `None`
    /// if this does not follow that.
    pub(crate) fn last(&self, before: EntryId, terms: &[(u64, u64)]) -> Option<EntryId> {
        let before = self.reset.unwrap_or(before);
        let next = before.index.checked_add(1)?;
        match terms.last() {
            None => (self.first == next).then_some(before),
            Some((_, term)) if (1..=next).contains(&self.first) => {
                Some(EntryId { term: *term, index: (self.first - 1).checked_add(self.n.into())? })
            }
            Some(_) => None,
        }
    }
}

/// All that a footer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    /// See [`Trailer::end`] and so on.
    pub(crate) end: u32,
    pub(crate) chain: u32,
    pub(crate) first: u64,
    pub(crate) reset: Option<EntryId>,
    /// Where each entry stands.
    pub(crate) offsets: Vec<u32>,
    /// Where terms begin: `(index, term)`.
    pub(crate) terms: Vec<(u64, u64)>,
}

impl Footer {
    /// Where the table begins in a file of `size` bytes. `None` if there is no room for it behind the frames: then the
    /// segment does without a footer.
    pub(crate) fn table(&self, size: u32) -> Option<u32> {
        let len = len(self.offsets.len() as u64, self.terms.len() as u64);
        let table = u64::from(size).checked_sub(len)? as u32;
        (table >= self.end).then_some(table)
    }

    /// The bytes of the footer, which go to the end of a file of `size` bytes, and where they begin, if there is room.
    pub(crate) fn encode(&self, key: Key, segment: SegmentId, size: u32) -> Option<(u32, Vec<u8>)> {
        let table = self.table(size)?;
        let mut out = Vec::with_capacity((size - table) as usize);
        for offset in &self.offsets {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        out.resize(padded(out.len()), 0);
        for (index, term) in &self.terms {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&term.to_le_bytes());
        }
        let trailer = Trailer {
            size,
            n: self.offsets.len() as u32,
            terms: self.terms.len() as u32,
            end: self.end,
            chain: self.chain,
            first: self.first,
            reset: self.reset,
            crc: key.crc(Lsn::new(segment, table), &out),
        };
        out.extend_from_slice(&trailer.encode(key, segment));
        Some((table, out))
    }
}

/// Bytes that a footer for `n` entries of `terms` runs of terms takes.
pub(crate) const fn len(n: u64, terms: u64) -> u64 {
    (4 * n).next_multiple_of(8) + 16 * terms + Trailer::LEN as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key(7);
    const SEGMENT: SegmentId = SegmentId(3);
    const SIZE: u32 = 16 << 10;

    fn sample() -> Footer {
        Footer {
            end: 13_000,
            chain: 99,
            first: 5,
            reset: Some(EntryId { term: 2, index: 4 }),
            offsets: vec![12_400, 12_500, 12_700],
            terms: vec![(5, 2), (7, 3)],
        }
    }

    fn written(footer: &Footer) -> Vec<u8> {
        let (table, bytes) = footer.encode(KEY, SEGMENT, SIZE).expect("fits");
        let mut file = vec![0; SIZE as usize];
        file[table as usize..].copy_from_slice(&bytes);
        file
    }

    fn read(file: &[u8], segment: SegmentId) -> Option<(Trailer, Vec<(u64, u64)>)> {
        let at = Trailer::offset(SIZE) as usize;
        match Trailer::decode(&file[at..], KEY, segment, SIZE) {
            FooterState::Valid(trailer) => Some((trailer, trailer.terms(file, KEY, segment)?)),
            _ => None,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let footer = sample();
        let file = written(&footer);
        let (trailer, terms) = read(&file, SEGMENT).expect("reads back");
        assert_eq!((trailer.n, trailer.first, trailer.reset), (3, 5, footer.reset));
        assert_eq!((trailer.end, trailer.chain), (13_000, 99));
        assert_eq!(terms, footer.terms);
        let table = trailer.table() as usize;
        assert_eq!([0, 4, 8].map(|i| u32_at(&file, table + i)), [12_400, 12_500, 12_700]);
    }

    /// W3, W4: every byte is under a checksum, which holds in its place alone.
    #[test]
    fn no_flipped_bit_and_no_other_place_passes() {
        let file = written(&sample());
        let table = SIZE as usize - len(3, 2) as usize;
        for bit in table * 8..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bad, SEGMENT), None, "bit {bit}");
        }
        assert_eq!(read(&file, SegmentId(4)), None);
        let state = |bytes: &[u8], segment| Trailer::decode(bytes, KEY, segment, SIZE);
        let end = &file[Trailer::offset(SIZE) as usize..];
        assert_eq!(state(end, SegmentId(4)), FooterState::Missing, "an earlier use of the file");
        assert_eq!(state(&[0; Trailer::LEN], SEGMENT), FooterState::Missing);
        assert_eq!(state(&[1; Trailer::LEN], SEGMENT), FooterState::Missing);
        let mut bad = end.to_vec();
        bad[20] ^= 1;
        assert_eq!(state(&bad, SEGMENT), FooterState::Damaged);
    }

    #[test]
    fn a_footer_without_room_is_none() {
        let footer = Footer { end: SIZE - len(3, 2) as u32, ..sample() };
        assert!(footer.encode(KEY, SEGMENT, SIZE).is_some());
        let footer = Footer { end: footer.end + 8, ..footer };
        assert_eq!(footer.encode(KEY, SEGMENT, SIZE), None);
    }

    #[test]
    fn what_does_not_follow_the_log_is_told() {
        let before = EntryId { term: 1, index: 9 };
        let follow = |first, n: u32, reset, terms: &[(u64, u64)]| {
            let file = written(&Footer {
                first,
                reset,
                offsets: vec![12_400; n as usize],
                terms: terms.to_vec(),
                ..sample()
            });
            let (trailer, terms) = read(&file, SEGMENT).expect("reads back");
            trailer.last(before, &terms)
        };
        let id = |term, index| Some(EntryId { term, index });
        assert_eq!(follow(10, 2, None, &[(10, 1)]), id(1, 11), "appended");
        assert_eq!(follow(8, 1, None, &[(8, 2)]), id(2, 8), "overwritten");
        assert_eq!(follow(10, 0, None, &[]), Some(before), "nothing");
        assert_eq!(follow(11, 2, None, &[(11, 1)]), None, "a gap");
        assert_eq!(follow(9, 0, None, &[]), None, "cut off, and by no entry");
        assert_eq!(follow(21, 1, id(3, 20), &[(21, 3)]), id(3, 21), "installed");
        assert_eq!(follow(21, 0, id(3, 20), &[]), id(3, 20), "installed, and nothing more");
    }
}
