//! Frames whose checksums are right and whose contents are anything: no check but the decoder's own stands before them.
//!
//! The encoder here is not the log's: it follows `docs/wal-format.md`.

use oarlock_wal::testing::SimDisk;

use super::bytes::Bytes;
use super::open::{look, put};

const SIZE: usize = 32 << 10;
const FRAMES: usize = 12_288;
const LOG_ID: u64 = 7;

/// `key(lsn, index, bytes)` of the format's page.
fn key(lsn: u64, index: u64, bytes: &[u8]) -> u32 {
    let mut x = LOG_ID
        ^ lsn.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ index.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut crc = crc32fast::Hasher::new_with_initial((x ^ x >> 32) as u32);
    crc.update(bytes);
    crc.finalize()
}

fn lsn(segment: u32, offset: usize) -> u64 {
    u64::from(segment) << 32 | offset as u64
}

/// An empty segment with a good header.
fn segment(number: u32) -> Vec<u8> {
    let mut header = [0; 64];
    header[..8].copy_from_slice(b"OARLKWAL");
    header[8..12].copy_from_slice(&1_u32.to_le_bytes());
    header[16..24].copy_from_slice(&LOG_ID.to_le_bytes());
    header[24..28].copy_from_slice(&number.to_le_bytes());
    header[28..32].copy_from_slice(&(SIZE as u32).to_le_bytes());
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    let mut file = vec![0; SIZE];
    for at in [0, 4096, 8192] {
        file[at..at + 64].copy_from_slice(&header);
    }
    file
}

/// The body of a frame of entries, and the digest of it.
fn entries(data: &mut Bytes<'_>, start: u64, first: u64, n: u8) -> (Vec<u8>, u32) {
    let (mut body, mut crcs) = (Vec::new(), Vec::new());
    for nth in 0..u64::from(n) {
        let at = start + body.len() as u64;
        let len = usize::from(data.byte() % 40);
        let term = data.number();
        let payload = data.take(len);
        let mut entry = vec![0; 4];
        entry.extend_from_slice(&(len as u32).to_le_bytes());
        entry.extend_from_slice(&(term << 8 | 1).to_le_bytes());
        entry.extend_from_slice(&payload);
        entry.resize(entry.len().next_multiple_of(8), 0);
        let crc = key(at, first.wrapping_add(nth), &entry[4..]).to_le_bytes();
        entry[..4].copy_from_slice(&crc);
        body.extend_from_slice(&entry);
        crcs.extend_from_slice(&crc);
    }
    let digest = key(start, 0, &crcs);
    (body, digest)
}

/// One segment or two, of frames with right checksums. Each frame: kind, flags, how it lies, then what it holds.
pub fn frame(data: &[u8]) {
    let mut data = Bytes(data);
    let disk = SimDisk::new();
    let mut prev = 0_u32;
    for number in 1..=1 + u32::from(data.byte() % 2) {
        let mut file = segment(number);
        let mut at = FRAMES;
        // A good beginning, mostly: an empty checkpoint.
        let mut begin = data.byte() % 4 > 0;
        while !data.is_empty() && data.byte() != 0xfe {
            let (kind, flags, lies) =
                if begin { (1, 0, 0) } else { (data.byte() % 9, data.byte() & 3, data.byte()) };
            let (first, n) = (data.number(), data.byte());
            let body_at = lsn(number, at + 40);
            let (body, digest, n) = if kind == 3 {
                let n = n % 6;
                let (body, digest) = entries(&mut data, body_at, first, n);
                (body, digest, u32::from(n))
            } else {
                let n = if begin { 0 } else { usize::from(n) };
                let mut body = data.take(n);
                body.resize(n.next_multiple_of(8), 0);
                let digest = key(body_at, 0, &body);
                (body, digest, n as u32)
            };
            begin = false;
            if at + 40 + body.len() > SIZE {
                break;
            }
            let mut header = [0; 40];
            header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
            header[8..12].copy_from_slice(&(if lies & 1 == 0 { n } else { n + 1 }).to_le_bytes());
            header[12] = kind;
            header[13] = flags;
            header[16..20]
                .copy_from_slice(&(if lies & 2 == 0 { prev } else { !prev }).to_le_bytes());
            header[20..24]
                .copy_from_slice(&(if lies & 4 == 0 { digest } else { !digest }).to_le_bytes());
            header[24..32].copy_from_slice(&first.to_le_bytes());
            let mark = if lies & 8 == 0 { 0 } else { lsn(number, at) };
            header[32..].copy_from_slice(&mark.to_le_bytes());
            prev = key(lsn(number, at), 0, &header[4..]);
            header[..4].copy_from_slice(&prev.to_le_bytes());
            file[at..at + 40].copy_from_slice(&header);
            file[at + 40..at + 40 + body.len()].copy_from_slice(&body);
            at += 40 + body.len();
        }
        put(&disk, number, &file);
    }
    look(&disk);
}
