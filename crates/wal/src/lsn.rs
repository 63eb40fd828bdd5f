//! Positions in the log.

use std::fmt;

use serde::{Serialize, Serializer};

/// A position in the log as a whole: a segment's number in the upper half, a byte offset in the lower.
///
/// Positions order as the bytes were written, across segments. Zero comes before everything that was ever written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The position `offset` bytes into `segment`.
    #[must_use]
    pub const fn new(segment: SegmentId, offset: u32) -> Self {
        Self((segment.0 as u64) << 32 | offset as u64)
    }

    /// The segment it points into.
    #[must_use]
    pub const fn segment(self) -> SegmentId {
        SegmentId((self.0 >> 32) as u32)
    }

    /// Bytes from the beginning of that segment's file.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// `bytes` further on in the same segment. Segments are shorter than 4 GiB, so this stays inside one.
    pub(crate) const fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}:{:08x}", self.segment().0, self.offset())
    }
}

/// The number of a segment, counted from 1. Displays as the name of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// Reads a file's name: eight hexadecimal digits and `.wal`, exactly as [`Display`](fmt::Display) writes it.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::from_stem(name.strip_suffix(".wal")?)
    }

    pub(crate) fn from_stem(stem: &str) -> Option<Self> {
        let canonical =
            stem.len() == 8 && stem.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u32::from_str_radix(stem, 16).ok().filter(|n| canonical && *n > 0).map(Self)
    }

    /// The segment after this one, unless every number has been used.
    pub(crate) fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.wal", self.0)
    }
}

/// As it is displayed.
impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// As it is displayed.
impl Serialize for SegmentId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_order_across_segments() {
        let early = Lsn::new(SegmentId(1), u32::MAX);
        let late = Lsn::new(SegmentId(2), 0);
        assert!(Lsn::default() < early && early < late);
        assert_eq!((late.segment(), late.offset()), (SegmentId(2), 0));
        assert_eq!(early.to_string(), "00000001:ffffffff");
    }

    #[test]
    fn only_canonical_names_are_segments() {
        let id = SegmentId(0xab);
        assert_eq!(SegmentId::from_file_name(&id.to_string()), Some(id));
        for name in ["000000AB.wal", "ab.wal", "00000000.wal", "000000ab", "+00000ab.wal"] {
            assert_eq!(SegmentId::from_file_name(name), None, "{name}");
        }
    }
}
