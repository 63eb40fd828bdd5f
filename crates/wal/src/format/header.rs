//! The segment header, in three copies.

use super::{FORMAT_VERSION, FRAMES_START, u32_at, u64_at};
use crate::SegmentId;

const MAGIC: [u8; 8] = *b"OARLKWAL";

/// Where the copies stand. The first block is never written again; the two others also hold a mark slot each, and a
/// crash can tear one of those at most, because each is synced before the other is written.
pub(crate) const HEADER_COPIES: [u32; 3] = [0, 4096, 8192];

/// What is constant about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u64,
    pub(crate) id: SegmentId,
    /// The length of the file.
    pub(crate) size: u32,
    /// Whether the file was another segment before: then what stands behind the frames is not zero.
    pub(crate) recycled: bool,
}

/// The flag that says so.
const RECYCLED: u32 = 1;

/// Why a copy is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    /// The checksum is right, the version (or a flag) is not one of ours.
    Version(u32),
}

impl SegmentHeader {
    pub(crate) const LEN: usize = 64;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&u32::from(self.recycled).to_le_bytes());
        out[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..28].copy_from_slice(&self.id.0.to_le_bytes());
        out[28..32].copy_from_slice(&self.size.to_le_bytes());
        // 32..60: reserved.
        let crc = crc32fast::hash(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes: &[u8; Self::LEN] = bytes.first_chunk().ok_or(HeaderError::Damaged)?;
        if bytes[..8] != MAGIC || crc32fast::hash(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(HeaderError::Damaged);
        }
        let (version, flags) = (u32_at(bytes, 8), u32_at(bytes, 12));
        if version != FORMAT_VERSION || flags & !RECYCLED != 0 {
            let unknown = if version == FORMAT_VERSION { flags } else { version };
            return Err(HeaderError::Version(unknown));
        }
        let header = Self {
            log_id: u64_at(bytes, 16),
            id: SegmentId(u32_at(bytes, 24)),
            size: u32_at(bytes, 28),
            recycled: flags & RECYCLED != 0,
        };
        if header.size < FRAMES_START { Err(HeaderError::Damaged) } else { Ok(header) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(recycled: bool) -> SegmentHeader {
        SegmentHeader { log_id: 7, id: SegmentId(3), size: 65536, recycled }
    }

    #[test]
    fn a_header_survives_and_no_flipped_bit_does() {
        let [plain, recycled] = [false, true].map(header);
        assert_eq!(SegmentHeader::decode(&recycled.encode()), Ok(recycled));
        let bytes = plain.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(plain));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), Err(HeaderError::Damaged), "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&bytes[..63]), Err(HeaderError::Damaged));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = header(false).encode();
        for (at, unknown) in [(12, 2), (8, 9)] {
            bytes[at] = unknown;
            let crc = crc32fast::hash(&bytes[..60]);
            bytes[60..].copy_from_slice(&crc.to_le_bytes());
            let expected = Err(HeaderError::Version(unknown.into()));
            assert_eq!(SegmentHeader::decode(&bytes), expected);
        }
    }
}
