//! Frames: the units of the stream, and the entries inside. Reading them; `encode` writes them.

use bytes::Bytes;
use prost::Message;

use super::{Checkpoint, FRAMES_START, Key, padded, u32_at, u64_at};
use crate::{Damage, HardState, Lsn, SegmentId, SnapshotMark, planted};

/// Bytes in front of a frame's body.
pub(super) const FRAME_HEADER: usize = 40;
/// Bytes in front of an entry's payload.
pub(super) const ENTRY_HEADER: usize = 16;
/// Terms are below this: they share a word with the entry's kind.
pub(crate) const MAX_TERM: u64 = 1 << 56;

/// Set on every frame of a batch but the last: the batch counts only when that one is there too (W2).
pub(super) const MORE: u32 = 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Checkpoint = 1,
    Metadata = 2,
    Entries = 3,
    HardState = 4,
    Compact = 5,
    Install = 6,
}

impl Kind {
    fn new(byte: u8) -> Option<Self> {
        let kinds = [
            Self::Checkpoint,
            Self::Metadata,
            Self::Entries,
            Self::HardState,
            Self::Compact,
            Self::Install,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame that was read and whose every byte was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) lsn: Lsn,
    /// Its checksum, which the next frame repeats.
    pub(crate) crc: u32,
    /// The raw kind: this version may not know it.
    pub(crate) kind: u8,
    /// The flags, and above them the two reserved bytes.
    pub(crate) flags: u32,
    /// The checksum of the frame before.
    pub(crate) prev: u32,
    /// The index of the first entry, or of the snapshot.
    pub(crate) first_index: u64,
    /// The position known to be durable when this was written.
    pub(crate) mark: Lsn,
    /// The number of entries, or of bytes in the body without its padding.
    pub(crate) n: u32,
    pub(crate) body: &'a [u8],
}

/// Why no frame can be read at a place, and where exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Lsn,
    pub(crate) damage: Damage,
}

impl<'a> Frame<'a> {
    pub(crate) fn more(&self) -> bool {
        self.flags & MORE != 0
    }

    /// The kind, or `None` if this version does not know it or one of the flags.
    pub(crate) fn known(&self) -> Option<Kind> {
        Kind::new(self.kind).filter(|_| self.flags & !MORE == 0)
    }

    /// What this version does not know about it.
    pub(crate) fn unknown(&self) -> (&'static str, u32) {
        match Kind::new(self.kind) {
            None => ("frame kind", self.kind.into()),
            Some(_) => ("frame flags", self.flags),
        }
    }

    pub(crate) fn len(&self) -> usize {
        FRAME_HEADER + self.body.len()
    }

    pub(crate) fn end(&self) -> Lsn {
        self.lsn.plus(self.len())
    }

    fn content(&self) -> &'a [u8] {
        self.body.get(..self.n as usize).unwrap_or(self.body)
    }

    pub(crate) fn metadata(&self) -> Bytes {
        Bytes::copy_from_slice(self.content())
    }

    /// The hard state, or `None` if the body is not as long as one.
    pub(crate) fn hard_state(&self) -> Option<HardState> {
        let [term, vote, commit] = [0, 8, 16].map(|at| u64_at(self.body, at));
        (self.n == 24).then_some(HardState { term, vote, commit })
    }

    /// The snapshot mark, or `None` if the body is too short for one.
    pub(crate) fn snapshot(&self) -> Option<SnapshotMark> {
        let conf = Bytes::copy_from_slice(self.content().get(16..)?);
        Some(SnapshotMark { index: u64_at(self.body, 0), term: u64_at(self.body, 8), conf })
    }

    /// The checkpoint, or `None` if the body is no such message.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        Checkpoint::decode(self.content()).ok()
    }

    /// The entries of a frame of entries, in order.
    pub(crate) fn entries(&self) -> Entries<'a> {
        Entries { body: self.body, at: 0, lsn: self.lsn.plus(FRAME_HEADER) }
    }
}

/// What stands in front of a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryHead {
    pub(crate) lsn: Lsn,
    pub(crate) crc: u32,
    pub(crate) len: u32,
    pub(crate) term: u64,
    pub(crate) kind: u8,
}

impl EntryHead {
    /// The payload in the entry's bytes.
    pub(crate) fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let rest = bytes.get(ENTRY_HEADER..).unwrap_or_default();
        rest.get(..self.len as usize).unwrap_or_default()
    }
}

/// Walks the entries of a body, checking nothing but that they lie inside.
pub(crate) struct Entries<'a> {
    body: &'a [u8],
    at: usize,
    lsn: Lsn,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (EntryHead, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = head_at(self.body.get(self.at..)?, self.lsn.plus(self.at))?;
        let end = self.at.checked_add(ENTRY_HEADER)?.checked_add(padded(head.len as usize))?;
        let bytes = self.body.get(self.at..end)?;
        self.at = end;
        Some((head, bytes))
    }
}

#[inline]
fn head_at(bytes: &[u8], lsn: Lsn) -> Option<EntryHead> {
    let bytes: &[u8; ENTRY_HEADER] = bytes.first_chunk()?;
    let word = u64_at(bytes, 8);
    Some(EntryHead {
        lsn,
        crc: u32_at(bytes, 0),
        len: u32_at(bytes, 4),
        term: word >> 8,
        kind: word as u8,
    })
}

/// Reads the frame at `offset` of a segment whose first bytes are `bytes`, and checks every byte of it.
pub(crate) fn read_frame(
    bytes: &[u8],
    key: Key,
    segment: SegmentId,
    offset: u32,
) -> Result<Frame<'_>, Fault> {
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    read_frame_from(rest, key, Lsn::new(segment, offset))
}

/// Reads the frame at the beginning of `rest`, which stands at `lsn`, and checks every byte of it.
pub(crate) fn read_frame_from(rest: &[u8], key: Key, lsn: Lsn) -> Result<Frame<'_>, Fault> {
    let fault = |damage| Fault { at: lsn, damage };
    let Some(header) = rest.first_chunk::<FRAME_HEADER>() else {
        return Err(fault(Damage::Bounds { found: rest.len() as u32 }));
    };
    let (crc, len) = (u32_at(header, 0), u32_at(header, 4));
    if len == 0 && planted("zero-length-means-end") {
        return Err(fault(Damage::Bounds { found: 0 }));
    }
    let expected = key.crc(lsn, &header[4..]);
    if crc != expected {
        return Err(fault(Damage::Checksum { expected, found: crc }));
    }
    let body = rest[FRAME_HEADER..].get(..len as usize).filter(|_| len.is_multiple_of(8));
    let body = body.ok_or(fault(Damage::Bounds { found: len }))?;
    let frame = Frame {
        lsn,
        crc,
        kind: header[12],
        flags: u32_at(header, 12) >> 8,
        prev: u32_at(header, 16),
        first_index: u64_at(header, 24),
        mark: Lsn::from_bits(u64_at(header, 32)),
        n: u32_at(header, 8),
        body,
    };
    check_body(&frame, key, u32_at(header, 20))?;
    Ok(frame)
}

/// Checks a frame's body against the digest in its header: the checksum of the body, or of the entries' checksums.
fn check_body(frame: &Frame<'_>, key: Key, digest: u32) -> Result<(), Fault> {
    let at = frame.lsn.plus(FRAME_HEADER);
    let mismatch = |at, expected, found| Fault { at, damage: Damage::Checksum { expected, found } };
    if frame.kind != Kind::Entries as u8 {
        if padded(frame.n as usize) != frame.body.len() {
            return Err(Fault { at: frame.lsn, damage: Damage::Bounds { found: frame.n } });
        }
        let expected = key.crc(at, frame.body);
        return if digest == expected { Ok(()) } else { Err(mismatch(at, expected, digest)) };
    }
    let (mut hasher, mut n, mut end) = (key.hasher(at, 0), 0, at);
    for (head, bytes) in frame.entries() {
        let index = frame.first_index.wrapping_add(n.into());
        let expected = key.entry_crc(head.lsn, index, &bytes[4..]);
        if head.crc != expected {
            return Err(mismatch(head.lsn, expected, head.crc));
        }
        hasher.update(&bytes[..4]);
        n += 1;
        end = head.lsn.plus(bytes.len());
    }
    let expected = hasher.finalize();
    if n != frame.n || end != frame.end() || n == 0 {
        Err(Fault { at: end, damage: Damage::Bounds { found: frame.n } })
    } else if digest != expected {
        Err(mismatch(at, expected, digest))
    } else {
        Ok(())
    }
}

/// Reads entry `index` from `bytes`, which begin with its header at `lsn`, and checks it. Gives term, kind, and where
/// its payload is in `bytes`.
#[inline]
pub(crate) fn read_entry(
    bytes: &[u8],
    key: Key,
    lsn: Lsn,
    index: u64,
) -> Result<(u64, u8, std::ops::Range<usize>), Fault> {
    let bounds = |found| Fault { at: lsn, damage: Damage::Bounds { found } };
    let head = head_at(bytes, lsn).ok_or(bounds(bytes.len() as u32))?;
    let range = ENTRY_HEADER..ENTRY_HEADER + head.len as usize;
    let covered = bytes.get(4..padded(range.end)).ok_or(bounds(head.len))?;
    let expected = key.entry_crc(lsn, index, covered);
    if head.crc != expected {
        return Err(Fault { at: lsn, damage: Damage::Checksum { expected, found: head.crc } });
    }
    Ok((head.term, head.kind, range))
}

/// The lowest place a frame can stand at.
pub(crate) const fn first_frame(segment: SegmentId) -> Lsn {
    Lsn::new(segment, FRAMES_START)
}
