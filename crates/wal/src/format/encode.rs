//! Encoding batches into frames.

use std::io::IoSlice;

use prost::Message;

use super::frame::{ENTRY_HEADER, FRAME_HEADER, Kind, MORE};
use super::{Checkpoint, Key, padded};
use crate::{Batch, Entry, HardState, Lsn, SnapshotMark};

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

/// Payloads of this length and more are written from where they are: a copy of one costs more than two more pieces in the
/// write. Measured: with 256 payloads of 8 KiB a fifth of the time is saved, with 256 of 1 KiB as much is lost.
const SHARED: usize = 2 << 10;

/// Encoded frames on their way to the disk. Its buffers are kept from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    /// Everything but the payloads that are shared.
    bytes: Vec<u8>,
    /// Those payloads: where in `bytes` each comes in, and which entry of the batch it belongs to.
    shared: Vec<(usize, usize)>,
    shared_bytes: usize,
    /// Where the batch's entries stand.
    offsets: Vec<u32>,
    /// Their checksums, in a row.
    checksums: Vec<u8>,
}

impl Staging {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.shared.clear();
        self.shared_bytes = 0;
        self.offsets.clear();
    }

    /// Gives buffers back that are larger than `keep` bytes.
    pub(crate) fn shrink_to(&mut self, keep: usize) {
        self.bytes.shrink_to(keep);
    }

    /// Bytes on their way.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    /// Where the batch's entries stand in the segment.
    pub(crate) fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// All of it, if nothing is shared.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        self.shared.is_empty().then_some(&self.bytes)
    }

    /// All of it in pieces; `entries` are those of the batch.
    pub(crate) fn pieces<'a>(&'a self, entries: &'a [Entry]) -> Vec<IoSlice<'a>> {
        let mut pieces = Vec::with_capacity(2 * self.shared.len() + 1);
        let mut from = 0;
        for (at, entry) in &self.shared {
            pieces.push(IoSlice::new(&self.bytes[from..*at]));
            pieces.extend(entries.get(*entry).map(|entry| IoSlice::new(&entry.data)));
            from = *at;
        }
        pieces.push(IoSlice::new(&self.bytes[from..]));
        pieces
    }
}

/// Encodes frames one behind the other, the first of which goes to a given place.
pub(crate) struct Encoder<'a> {
    out: &'a mut Staging,
    key: Key,
    /// Where the first byte goes.
    base: Lsn,
    /// The checksum of the last frame.
    prev: u32,
    mark: Lsn,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Staging, key: Key, base: Lsn, prev: u32, mark: Lsn) -> Self {
        Self { out, key, base, prev, mark }
    }

    /// Where the next frame goes, and the checksum of the last one.
    pub(crate) fn end(&self) -> (Lsn, u32) {
        (self.place(), self.prev)
    }

    /// Where the next byte goes.
    fn place(&self) -> Lsn {
        self.base.plus(self.out.len())
    }

    pub(crate) fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.frame(Kind::Checkpoint, false, 0, &[&checkpoint.encode_to_vec()]);
    }

    /// Encodes a batch. With `share`, large payloads stay where they are.
    pub(crate) fn batch(&mut self, batch: &Batch<'_>, share: bool) {
        let mut left = batch.records();
        let mut more = || {
            left -= 1;
            left > 0
        };
        if let Some(metadata) = &batch.metadata {
            self.frame(Kind::Metadata, more(), 0, &[metadata]);
        }
        if let Some(mark) = &batch.install {
            self.snapshot(Kind::Install, more(), mark);
        }
        if !batch.entries.is_empty() {
            self.entries(more(), batch.entries, share);
        }
        if let Some(HardState { term, vote, commit }) = batch.hard_state {
            let words = [term, vote, commit].map(u64::to_le_bytes);
            self.frame(Kind::HardState, more(), 0, &[words.as_flattened()]);
        }
        if let Some(mark) = &batch.compact {
            self.snapshot(Kind::Compact, more(), mark);
        }
    }

    fn snapshot(&mut self, kind: Kind, more: bool, mark: &SnapshotMark) {
        let words = [mark.index, mark.term].map(u64::to_le_bytes);
        self.frame(kind, more, mark.index, &[words.as_flattened(), &mark.conf]);
    }

    fn entries(&mut self, more: bool, entries: &[Entry], share: bool) {
        let (start, at) = self.open();
        let body = self.place();
        self.out.checksums.clear();
        for (n, entry) in entries.iter().enumerate() {
            let lsn = self.place();
            self.out.offsets.push(lsn.offset());
            let mut header = [0; ENTRY_HEADER];
            header[4..8].copy_from_slice(&(entry.data.len() as u32).to_le_bytes());
            header[8..].copy_from_slice(&(entry.term << 8 | u64::from(entry.kind)).to_le_bytes());
            let padding = &[0; 8][..padded(entry.data.len()) - entry.data.len()];
            let bytes = &mut self.out.bytes;
            let at = bytes.len();
            bytes.extend_from_slice(&header);
            let crc = if share && entry.data.len() >= SHARED {
                self.out.shared.push((bytes.len(), n));
                self.out.shared_bytes += entry.data.len();
                bytes.extend_from_slice(padding);
                let mut hasher = self.key.hasher(lsn, entry.index);
                [&header[4..], &entry.data, padding].iter().for_each(|part| hasher.update(part));
                hasher.finalize()
            } else {
                bytes.extend_from_slice(&entry.data);
                bytes.extend_from_slice(padding);
                // One pass over what was just copied, while it is near.
                self.key.entry_crc(lsn, entry.index, &bytes[at + 4..])
            };
            let crc = crc.to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&crc);
            self.out.checksums.extend_from_slice(&crc);
        }
        let first = entries.first().map_or(0, |e| e.index);
        let digest = self.key.crc(body, &self.out.checksums);
        self.close((start, at), Kind::Entries, more, entries.len(), first, digest);
    }

    fn frame(&mut self, kind: Kind, more: bool, first: u64, parts: &[&[u8]]) {
        let (start, at) = self.open();
        let (body, place) = (self.out.bytes.len(), self.place());
        parts.iter().for_each(|part| self.out.bytes.extend_from_slice(part));
        let n = self.out.bytes.len() - body;
        self.out.bytes.resize(body + padded(n), 0);
        let digest = self.key.crc(place, &self.out.bytes[body..]);
        self.close((start, at), kind, more, n, first, digest);
    }

    /// Leaves room for the header of a frame that begins here: at this place in the buffer, and in the log.
    fn open(&mut self) -> (usize, Lsn) {
        let (start, at) = (self.out.bytes.len(), self.place());
        self.out.bytes.extend_from_slice(&[0; FRAME_HEADER]);
        (start, at)
    }

    /// Fills in the header of the frame that was opened at `start` and ends here.
    fn close(
        &mut self,
        (start, at): (usize, Lsn),
        kind: Kind,
        more: bool,
        n: usize,
        first: u64,
        digest: u32,
    ) {
        let len = self.place().offset() - at.offset() - FRAME_HEADER as u32;
        let header = &mut self.out.bytes[start..start + FRAME_HEADER];
        header[4..8].copy_from_slice(&len.to_le_bytes());
        header[8..12].copy_from_slice(&(n as u32).to_le_bytes());
        header[12] = kind as u8;
        header[13] = if more { MORE as u8 } else { 0 };
        header[16..20].copy_from_slice(&self.prev.to_le_bytes());
        header[20..24].copy_from_slice(&digest.to_le_bytes());
        header[24..32].copy_from_slice(&first.to_le_bytes());
        header[32..40].copy_from_slice(&self.mark.bits().to_le_bytes());
        self.prev = self.key.crc(at, &header[4..]);
        header[..4].copy_from_slice(&self.prev.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SegmentId;
    use crate::format::{FRAMES_START, Frame, Lookup, MAX_TERM, first_frame, read_frame};

    const SEGMENT: SegmentId = SegmentId(3);

    /// A checkpoint and a batch of every kind, as they stand in a segment.
    fn sample(key: Key) -> Vec<u8> {
        let mut frames = Staging::default();
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
        encoder.batch(&batch, false);
        let (end, _) = encoder.end();
        assert_eq!(u64::from(end.offset() - before.offset()), batch_len(&batch));
        let mut bytes = vec![0; FRAMES_START as usize];
        bytes.extend_from_slice(frames.whole().expect("nothing is shared"));
        bytes
    }

    /// Where a payload is written from makes no difference to what is written.
    #[test]
    fn shared_payloads_are_encoded_as_copied_ones() {
        let key = Key(7);
        let payload = |len: usize| (0..len).map(|i| i as u8).collect::<Vec<_>>();
        let lens = [SHARED, 3, SHARED + 3, 0, SHARED - 1, 3 * SHARED + 7];
        let entries: Vec<_> =
            (5..).zip(lens).map(|(index, len)| Entry::new(index, 2, 1, payload(len))).collect();
        let state = HardState { term: 2, vote: 1, commit: 5 };
        let batch = Batch { hard_state: Some(state), ..Batch::of(&entries) };
        let [copied, shared] = [false, true].map(|share| {
            let mut staging = Staging::default();
            let mut encoder =
                Encoder::new(&mut staging, key, first_frame(SEGMENT), 17, Lsn::default());
            encoder.batch(&batch, share);
            let end = encoder.end();
            let pieces = staging.pieces(&entries);
            assert_eq!(pieces.len(), if share { 2 * 3 + 1 } else { 1 });
            let bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<_>>();
            assert_eq!((bytes.len(), bytes.len() as u64), (staging.len(), batch_len(&batch)));
            (bytes, end, staging.offsets().to_vec(), staging.whole().is_some())
        });
        assert_eq!((&copied.0, copied.1, &copied.2), (&shared.0, shared.1, &shared.2));
        assert_eq!((copied.3, shared.3), (true, false));
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
