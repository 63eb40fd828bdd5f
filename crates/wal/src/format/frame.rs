//! Frames: the units of the stream, and the entries inside.

use bytes::Bytes;
use prost::Message;

use super::{BLOCK, Checkpoint, FRAMES_START, Key, is_zero, padded, u32_at, u64_at};
use crate::{Batch, Damage, Entry, EntryId, HardState, Lsn, SegmentId, SnapshotMark};

/// Bytes in front of a frame's body.
pub(crate) const FRAME_HEADER: usize = 40;
/// Bytes in front of an entry's payload.
pub(crate) const ENTRY_HEADER: usize = 16;
/// Terms are below this: they share a word with the entry's kind.
pub(crate) const MAX_TERM: u64 = 1 << 56;

/// Set on every frame of a batch but the last: the batch counts only when that one is there too (W2).
const MORE: u32 = 1;

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
    let lsn = Lsn::new(segment, offset);
    let fault = |damage| Fault { at: lsn, damage };
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    let Some(header) = rest.first_chunk::<FRAME_HEADER>() else {
        return Err(fault(Damage::Bounds { found: rest.len() as u32 }));
    };
    let (crc, len) = (u32_at(header, 0), u32_at(header, 4));
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
    let (mut hasher, mut n, mut end) = (key.hasher(at), 0, at);
    for (head, bytes) in frame.entries() {
        let expected = key.crc(head.lsn, &bytes[4..]);
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

/// A frame's header that stands behind a place where reading failed. Its own checksum is all the proof it needs: what
/// it says about the past was true when it was written, whatever became of its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stray {
    pub(crate) lsn: Lsn,
    pub(crate) mark: Lsn,
    /// The index of its first entry, if it is a frame of entries.
    pub(crate) entries_from: Option<u64>,
}

impl Stray {
    /// Its first entry, if that reads back.
    pub(crate) fn first_entry(&self, bytes: &[u8], key: Key) -> Option<EntryId> {
        let lsn = self.lsn.plus(FRAME_HEADER);
        let (term, ..) = read_entry(bytes.get(lsn.offset() as usize..)?, key, lsn).ok()?;
        Some(EntryId { term, index: self.entries_from? })
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
        if self.key.crc(lsn, &header[4..]) != u32_at(header, 0) {
            return None;
        }
        let entries_from = (header[12] == Kind::Entries as u8).then(|| u64_at(header, 24));
        Some(Stray { lsn, mark: Lsn::from_bits(u64_at(header, 32)), entries_from })
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

/// Reads one entry from `bytes`, which begin with its header at `lsn`, and checks it. Gives term, kind, and where its
/// payload is in `bytes`.
pub(crate) fn read_entry(
    bytes: &[u8],
    key: Key,
    lsn: Lsn,
) -> Result<(u64, u8, std::ops::Range<usize>), Fault> {
    let bounds = |found| Fault { at: lsn, damage: Damage::Bounds { found } };
    let head = head_at(bytes, lsn).ok_or(bounds(bytes.len() as u32))?;
    let range = ENTRY_HEADER..ENTRY_HEADER + head.len as usize;
    let covered = bytes.get(4..padded(range.end)).ok_or(bounds(head.len))?;
    let expected = key.crc(lsn, covered);
    if head.crc != expected {
        return Err(Fault { at: lsn, damage: Damage::Checksum { expected, found: head.crc } });
    }
    Ok((head.term, head.kind, range))
}

/// Bytes that a batch takes.
pub(crate) fn batch_len(batch: &Batch<'_>) -> u64 {
    let body = |len: usize| (FRAME_HEADER + padded(len)) as u64;
    let mark = |mark: &Option<SnapshotMark>| mark.as_ref().map_or(0, |m| body(16 + m.conf.len()));
    let entries: u64 =
        batch.entries.iter().map(|e| (ENTRY_HEADER + padded(e.data.len())) as u64).sum();
    batch.metadata.as_ref().map_or(0, |m| body(m.len()))
        + mark(&batch.install)
        + if batch.entries.is_empty() { 0 } else { FRAME_HEADER as u64 + entries }
        + batch.hard_state.map_or(0, |_| body(24))
        + mark(&batch.compact)
}

/// Bytes that a checkpoint takes.
pub(crate) fn checkpoint_len(checkpoint: &Checkpoint) -> u64 {
    (FRAME_HEADER + padded(checkpoint.encoded_len())) as u64
}

/// Encodes frames one behind the other into a buffer whose first byte goes to a given place.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    key: Key,
    /// Where `out[0]` goes.
    base: Lsn,
    /// The checksum of the last frame.
    prev: u32,
    mark: Lsn,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, key: Key, base: Lsn, prev: u32, mark: Lsn) -> Self {
        Self { out, key, base, prev, mark }
    }

    /// Where the next frame goes, and the checksum of the last one.
    pub(crate) fn end(&self) -> (Lsn, u32) {
        (self.base.plus(self.out.len()), self.prev)
    }

    pub(crate) fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.frame(Kind::Checkpoint, false, 0, |out| {
            out.extend_from_slice(&checkpoint.encode_to_vec());
        });
    }

    /// Writes a batch and calls `placed` with the offset of each entry.
    pub(crate) fn batch(&mut self, batch: &Batch<'_>, placed: impl FnMut(u32)) {
        let mut left = batch.records();
        let mut more = || {
            left -= 1;
            left > 0
        };
        if let Some(metadata) = &batch.metadata {
            self.frame(Kind::Metadata, more(), 0, |out| out.extend_from_slice(metadata));
        }
        if let Some(mark) = &batch.install {
            self.snapshot(Kind::Install, more(), mark);
        }
        if !batch.entries.is_empty() {
            self.entries(more(), batch.entries, placed);
        }
        if let Some(state) = batch.hard_state {
            self.frame(Kind::HardState, more(), 0, |out| {
                for word in [state.term, state.vote, state.commit] {
                    out.extend_from_slice(&word.to_le_bytes());
                }
            });
        }
        if let Some(mark) = &batch.compact {
            self.snapshot(Kind::Compact, more(), mark);
        }
    }

    fn snapshot(&mut self, kind: Kind, more: bool, mark: &SnapshotMark) {
        self.frame(kind, more, mark.index, |out| {
            out.extend_from_slice(&mark.index.to_le_bytes());
            out.extend_from_slice(&mark.term.to_le_bytes());
            out.extend_from_slice(&mark.conf);
        });
    }

    fn entries(&mut self, more: bool, entries: &[Entry], mut placed: impl FnMut(u32)) {
        let start = self.out.len();
        self.out.resize(start + FRAME_HEADER, 0);
        let mut digest = self.key.hasher(self.base.plus(self.out.len()));
        for entry in entries {
            let at = self.out.len();
            let lsn = self.base.plus(at);
            placed(lsn.offset());
            self.out.extend_from_slice(&[0; 4]);
            self.out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
            self.out.extend_from_slice(&(entry.term << 8 | u64::from(entry.kind)).to_le_bytes());
            self.out.extend_from_slice(&entry.data);
            self.out.resize(padded(self.out.len()), 0);
            let crc = self.key.crc(lsn, &self.out[at + 4..]).to_le_bytes();
            self.out[at..at + 4].copy_from_slice(&crc);
            digest.update(&crc);
        }
        let first = entries.first().map_or(0, |e| e.index);
        self.close(start, Kind::Entries, more, entries.len(), first, digest.finalize());
    }

    fn frame(&mut self, kind: Kind, more: bool, first: u64, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        let body_start = start + FRAME_HEADER;
        self.out.resize(body_start, 0);
        body(self.out);
        let n = self.out.len() - body_start;
        self.out.resize(padded(self.out.len()), 0);
        let digest = self.key.crc(self.base.plus(body_start), &self.out[body_start..]);
        self.close(start, kind, more, n, first, digest);
    }

    /// Fills in the header of the frame that begins at `start` and ends where the buffer does.
    fn close(&mut self, start: usize, kind: Kind, more: bool, n: usize, first: u64, digest: u32) {
        let len = (self.out.len() - start - FRAME_HEADER) as u32;
        let header = &mut self.out[start..start + FRAME_HEADER];
        header[4..8].copy_from_slice(&len.to_le_bytes());
        header[8..12].copy_from_slice(&(n as u32).to_le_bytes());
        header[12] = kind as u8;
        header[13] = if more { MORE as u8 } else { 0 };
        header[16..20].copy_from_slice(&self.prev.to_le_bytes());
        header[20..24].copy_from_slice(&digest.to_le_bytes());
        header[24..32].copy_from_slice(&first.to_le_bytes());
        header[32..40].copy_from_slice(&self.mark.bits().to_le_bytes());
        self.prev = self.key.crc(self.base.plus(start), &header[4..]);
        header[..4].copy_from_slice(&self.prev.to_le_bytes());
    }
}

/// The lowest place a frame can stand at.
pub(crate) const fn first_frame(segment: SegmentId) -> Lsn {
    Lsn::new(segment, FRAMES_START)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentId = SegmentId(3);

    /// A checkpoint and a batch of every kind, as they stand in a segment.
    fn sample(key: Key) -> Vec<u8> {
        let mut frames = Vec::new();
        let mark = Lsn::new(SegmentId(2), 99 * 8);
        let mut encoder = Encoder::new(&mut frames, key, first_frame(SEGMENT), 17, mark);
        encoder.checkpoint(&Checkpoint::default());
        let entries = [Entry::new(5, 2, 1, "five"), Entry::new(6, MAX_TERM - 1, 255, "")];
        let batch = Batch {
            metadata: Some("metadata".into()),
            install: Some(SnapshotMark::new(4, 2, "conf")),
            entries: &entries,
            hard_state: Some(HardState { term: 2, vote: 1, commit: 5 }),
            compact: Some(SnapshotMark::new(5, 2, "")),
        };
        let before = encoder.end().0;
        encoder.batch(&batch, |_| {});
        let (end, _) = encoder.end();
        assert_eq!(u64::from(end.offset() - before.offset()), batch_len(&batch));
        let mut bytes = vec![0; FRAMES_START as usize];
        bytes.extend(frames);
        bytes
    }

    fn frames(bytes: &[u8], key: Key) -> Vec<Frame<'_>> {
        let mut frames: Vec<Frame<'_>> = Vec::new();
        loop {
            let at = frames.last().map_or(FRAMES_START, |frame| frame.end().offset());
            match read_frame(bytes, key, SEGMENT, at) {
                Ok(frame) => frames.push(frame),
                Err(_) => return frames,
            }
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let key = Key(7);
        let bytes = sample(key);
        let frames = frames(&bytes, key);
        let kinds: Vec<_> = frames.iter().filter_map(Frame::known).collect();
        use Kind::{Checkpoint, Compact, Entries, HardState as State, Install, Metadata};
        assert_eq!(kinds, [Checkpoint, Metadata, Install, Entries, State, Compact]);
        let more: Vec<_> = frames.iter().map(Frame::more).collect();
        assert_eq!(more, [false, true, true, true, true, false]);
        assert_eq!(frames[0].prev, 17);
        assert!(frames.windows(2).all(|pair| pair[1].prev == pair[0].crc), "a chain");
        assert!(frames.iter().all(|frame| frame.mark == Lsn::new(SegmentId(2), 99 * 8)));
        assert_eq!(frames[1].metadata(), "metadata");
        assert_eq!(frames[2].snapshot(), Some(SnapshotMark::new(4, 2, "conf")));
        let heads: Vec<_> = frames[3].entries().map(|(head, _)| (head.term, head.kind)).collect();
        assert_eq!((frames[3].first_index, heads), (5, vec![(2, 1), (MAX_TERM - 1, 255)]));
        assert_eq!(frames[4].hard_state(), Some(HardState { term: 2, vote: 1, commit: 5 }));
        assert_eq!(frames.last().map(|frame| frame.end().offset() as usize), Some(bytes.len()));
    }

    /// W3: every byte of a frame is under a checksum.
    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let key = Key(7);
        let bytes = sample(key);
        for bit in FRAMES_START as usize * 8..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = frames(&bad, key);
            assert!(read.len() < 6, "bit {bit}");
            assert!(
                read.iter().all(|frame| (frame.end().offset() as usize) <= bit / 8),
                "bit {bit}"
            );
        }
    }

    /// W4: a frame is one only where it was written, in the log it was written for.
    #[test]
    fn a_frame_elsewhere_is_no_frame() {
        let key = Key(7);
        let bytes = sample(key);
        let found = |bytes: &[u8], key, segment| Lookup::new(bytes, key, segment, 0).count();
        assert_eq!(found(&bytes, key, SEGMENT), 6);
        assert_eq!(found(&bytes, key, SegmentId(4)), 0);
        assert_eq!(found(&bytes, Key(8), SEGMENT), 0);
        for shift in (8..200).step_by(8) {
            let mut moved = vec![0; shift];
            moved.extend(&bytes);
            assert_eq!(found(&moved, key, SEGMENT), 0, "moved by {shift}");
        }
    }

    #[test]
    fn a_cut_frame_is_a_fault_and_no_panic() {
        let key = Key(7);
        let bytes = sample(key);
        for len in 0..bytes.len() {
            assert!(frames(&bytes[..len], key).len() < 6, "{len} bytes");
            let _ = Lookup::new(&bytes[..len], key, SEGMENT, FRAMES_START).count();
        }
    }
}
