//! The floor: what any log must at least do for the same bytes on the same disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use oarlock_wal::vfs::{Access, RealVfs, Vfs};

/// Larger pieces make larger folios in the page cache, which make every later small write dearer.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes in front of a payload, as a log has them; all but the first four are under the checksum.
const HEADER: usize = 16;

/// Writes: a file whose blocks were all written before, begun anew when its end is reached.
#[derive(Debug)]
pub struct Written {
    file: File,
    size: u64,
    at: u64,
}

impl Written {
    /// Makes the file, durably.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        for offset in (0..size).step_by(ZEROS.len()) {
            let piece = ZEROS.len().min((size - offset) as usize);
            file.write_all_at(&ZEROS[..piece], offset)?;
        }
        file.sync_all()?;
        Ok(Self { file, size, at: 0 })
    }

    /// One positioned write, and an fdatasync if asked for.
    pub fn append(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        if self.at + bytes.len() as u64 > self.size {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

/// Reads: a map of payloads with room for a header before each.
#[derive(Debug)]
pub struct Records {
    map: Bytes,
    record: usize,
}

impl Records {
    /// Makes a file of `n` records with payloads of `len` bytes out of `noise`.
    pub fn create(path: &Path, noise: &[u8], len: usize, n: usize) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let record = record(len);
        let piece = noise.len() / record;
        for first in (0..n).step_by(piece) {
            let bytes = &noise[..piece.min(n - first) * record];
            file.write_all_at(bytes, (first * record) as u64)?;
        }
        file.sync_all()
    }

    /// Maps the file. Nothing is read yet.
    pub fn open(path: &Path, len: usize) -> io::Result<Self> {
        let file = RealVfs.open(path, Access::Read)?;
        let map = file.view(0, file.len()? as usize)?;
        Ok(Self { map, record: record(len) })
    }

    pub fn len(&self) -> usize {
        self.map.len() / self.record
    }

    /// The checksum of one record.
    pub fn check(&self, at: usize) -> u32 {
        let start = at * self.record;
        crc32fast::hash(&self.map[start + 4..start + self.record])
    }

    /// The checksums of `n` records in a row, each for itself.
    pub fn check_range(&self, first: usize, n: usize) -> u32 {
        (first..first + n).fold(0, |all, at| all ^ self.check(at))
    }
}

const fn record(len: usize) -> usize {
    HEADER + len.next_multiple_of(8)
}
