//! Read-only maps of files: the only `unsafe` code of the workspace.

use std::fs::File;
use std::io;

use bytes::Bytes;

/// A map, and what must live as long.
struct Mapped {
    map: memmap2::Mmap,
    _held: Option<File>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps the first `len` bytes of `file` for reading. The map lives as long as any slice of the returned bytes, and so does
/// `held`.
pub(crate) fn map(file: &File, len: u64, held: Option<File>) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // SAFETY: `map` asks that the mapped bytes do not change while they are borrowed. Nothing borrows the map as a
    // whole: `Bytes::from_owner` takes its address, `Bytes::slice` computes with it. What is borrowed are the ranges
    // handed out by `File::view`, whose callers promise that nobody writes there or cuts them off meanwhile; they
    // view only what was written completely and is never written again, and a file becomes another segment only when
    // `File::is_viewed` says that nobody holds such a range: here by the count of the map's slices, in other processes by
    // the lock that is `held`. The log's own lock keeps a second writer of ours out. What remains, somebody writing to
    // the file or truncating it by hand, changes bytes under a checksum or raises SIGBUS.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
    Ok(Bytes::from_owner(Mapped { map, _held: held }))
}
