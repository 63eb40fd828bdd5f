//! Encoding batches into frames.

use prost::Message;

use super::frame::{ENTRY_HEADER, FRAME_HEADER, Kind, MORE};
use super::{Checkpoint, Key, padded};
use crate::{Batch, Entry, Lsn, SnapshotMark};

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
        let mut digest = self.key.hasher(self.base.plus(self.out.len()), 0);
        for entry in entries {
            let at = self.out.len();
            let lsn = self.base.plus(at);
            placed(lsn.offset());
            self.out.extend_from_slice(&[0; 4]);
            self.out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
            self.out.extend_from_slice(&(entry.term << 8 | u64::from(entry.kind)).to_le_bytes());
            self.out.extend_from_slice(&entry.data);
            self.out.resize(padded(self.out.len()), 0);
            let crc = self.key.entry_crc(lsn, entry.index, &self.out[at + 4..]).to_le_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FRAMES_START, Frame, Lookup, MAX_TERM, first_frame, read_frame};
    use crate::{HardState, SegmentId};

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
