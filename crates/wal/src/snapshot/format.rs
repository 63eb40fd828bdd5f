//! The bytes of a snapshot file: header, chunk heads, footer. Pure functions; the layout is in [`super`]'s page.

use super::SnapshotId;

pub(super) const HEADER: usize = 40;
pub(super) const CHUNK: usize = 64 << 10;
pub(super) const CHUNK_HEAD: usize = 8;
pub(super) const FOOTER: usize = 20;

const MAGIC: [u8; 8] = *b"OARSNAP\n";
const VERSION: u32 = 1;
const FOOTER_MARK: u32 = u32::MAX;

/// Binds chunks and footer to their header: the header's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Magic,
    Checksum,
    Version(u32),
}

pub(super) fn header(id: SnapshotId) -> ([u8; HEADER], Key) {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(CHUNK as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&id.index.to_le_bytes());
    bytes[24..32].copy_from_slice(&id.term.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..36]);
    bytes[36..].copy_from_slice(&crc.to_le_bytes());
    (bytes, Key(crc))
}

pub(super) fn parse_header(bytes: &[u8; HEADER]) -> Result<(SnapshotId, Key), BadHeader> {
    if bytes[..8] != MAGIC {
        return Err(BadHeader::Magic);
    }
    if u32_at(bytes, 36) != crc32fast::hash(&bytes[..36]) {
        return Err(BadHeader::Checksum);
    }
    if u32_at(bytes, 8) != VERSION {
        return Err(BadHeader::Version(u32_at(bytes, 8)));
    }
    let id = SnapshotId { index: u64_at(bytes, 16), term: u64_at(bytes, 24) };
    let (expected, key) = header(id);
    // A checksum over other chunks or over something in the place of zeros is no header of version 1.
    if expected == *bytes { Ok((id, key)) } else { Err(BadHeader::Checksum) }
}

impl Key {
    /// The head of the chunk at `offset` in the file, whose data of `len` bytes has the checksum `data`.
    pub(super) fn chunk_head(self, offset: u64, len: usize, data: u32) -> [u8; CHUNK_HEAD] {
        let len = (len as u32).to_le_bytes();
        let mut crc = self.hasher(offset);
        crc.update(&len);
        crc.update(&data.to_le_bytes());
        let mut bytes = [0; CHUNK_HEAD];
        bytes[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes[4..].copy_from_slice(&len);
        bytes
    }

    /// The footer at `offset` in the file, after `len` bytes of content with checksum `content`.
    pub(super) fn footer(self, offset: u64, len: u64, content: u32) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        bytes[4..8].copy_from_slice(&FOOTER_MARK.to_le_bytes());
        bytes[8..16].copy_from_slice(&len.to_le_bytes());
        bytes[16..].copy_from_slice(&content.to_le_bytes());
        let mut crc = self.hasher(offset);
        crc.update(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes
    }

    /// The content's length and checksum.
    pub(super) fn parse_footer(self, offset: u64, bytes: &[u8; FOOTER]) -> Option<(u64, u32)> {
        let (len, content) = (u64_at(bytes, 8), u32_at(bytes, 16));
        (*bytes == self.footer(offset, len, content)).then_some((len, content))
    }

    fn hasher(self, offset: u64) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.0.to_le_bytes());
        crc.update(&offset.to_le_bytes());
        crc
    }
}

/// How long the file with so much content is; `None` if no file can be.
pub(super) fn file_len(content: u64) -> Option<u64> {
    let heads = content.div_ceil(CHUNK as u64).checked_mul(CHUNK_HEAD as u64)?;
    content.checked_add(heads)?.checked_add((HEADER + FOOTER) as u64)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SnapshotId = SnapshotId { index: 42, term: 7 };

    #[test]
    fn a_header_of_another_version_is_named_and_a_damaged_version_is_not() {
        let (mut bytes, key) = header(ID);
        assert_eq!(parse_header(&bytes), Ok((ID, key)));
        bytes[8] = 2;
        assert_eq!(parse_header(&bytes), Err(BadHeader::Checksum));
        let crc = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(parse_header(&bytes), Err(BadHeader::Version(2)));
    }

    #[test]
    fn a_chunk_head_belongs_to_its_file_place_and_data() {
        let (_, key) = header(ID);
        let (_, other) = header(SnapshotId { index: 43, term: 7 });
        let head = key.chunk_head(40, 100, 1);
        for moved in
            [other.chunk_head(40, 100, 1), key.chunk_head(48, 100, 1), key.chunk_head(40, 100, 2)]
        {
            assert_ne!(head[..4], moved[..4]);
        }
    }

    #[test]
    fn no_length_overflows() {
        assert_eq!(file_len(0), Some(60));
        assert_eq!(file_len(65536), Some(60 + 65544));
        assert_eq!(file_len(65537), Some(60 + 65544 + 9));
        assert_eq!(file_len(u64::MAX), None);
    }
}
