//! The bytes on disk, pure over slices. `docs/wal-format.md` describes them one by one.
//!
//! All numbers are little-endian. Frames and entries begin at multiples of eight.

use crate::{Lsn, planted};

mod checkpoint;
pub(crate) use checkpoint::Checkpoint;

mod encode;
pub(crate) use encode::{Encoder, Staging, batch_len, checkpoint_len};

mod footer;
pub(crate) use footer::{Footer, FooterState, Trailer, len as footer_len};

mod frame;
pub(crate) use frame::{
    Fault, Frame, Kind, MAX_TERM, first_frame, read_entry, read_frame, read_frame_from,
};

mod header;
pub(crate) use header::{HEADER_COPIES, HeaderError, SegmentHeader};

mod lookup;
pub(crate) use lookup::Lookup;

mod slot;
pub(crate) use slot::{Position, SLOT_OFFSETS, Slot, SlotState};

/// The version of the format that this crate writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Where the frames of a segment begin: after three blocks of headers and mark slots.
pub(crate) const FRAMES_START: u32 = 3 * BLOCK;

/// The largest piece that a device may tear.
pub(crate) const BLOCK: u32 = 4096;

/// What every checksum in a log is keyed with, so that a record moved elsewhere is no record (W4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    /// The checksum of `bytes`, which stand at `lsn`.
    pub(crate) fn crc(self, lsn: Lsn, bytes: &[u8]) -> u32 {
        self.entry_crc(lsn, 0, bytes)
    }

    /// The checksum of the entry with this index. It is keyed with that too: an entry read by itself proves which one it
    /// is, whatever table led to it.
    #[inline]
    pub(crate) fn entry_crc(self, lsn: Lsn, index: u64, bytes: &[u8]) -> u32 {
        let mut hasher = self.hasher(lsn, index);
        hasher.update(bytes);
        hasher.finalize()
    }

    /// A checksum begun for what stands at `lsn`. A CRC tells any two initial values apart, whatever follows.
    #[inline]
    fn hasher(self, lsn: Lsn, index: u64) -> crc32fast::Hasher {
        let lsn = match lsn {
            _ if planted("crc-not-keyed") => Lsn::default(),
            lsn if planted("stale-recycled-frame-accepted") => {
                Lsn::new(crate::SegmentId(0), lsn.offset())
            }
            lsn => lsn,
        };
        let place = lsn.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0 ^ place ^ index.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        crc32fast::Hasher::new_with_initial((x ^ x >> 32) as u32)
    }
}

/// `len` rounded up to the next multiple of eight.
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// The four bytes at `at`; zeros beyond the end, so that no caller can panic.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.copied().map_or(0, u32::from_le_bytes)
}

/// The eight bytes at `at`; zeros beyond the end.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.copied().map_or(0, u64::from_le_bytes)
}

/// Whether all of `bytes` are zero, at the speed of a comparison of memory.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}
