//! Read-only maps of files: the only `unsafe` code of the workspace.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

/// A map, and the file, whose lock must live as long. They go in this order.
struct Mapped {
    map: memmap2::Mmap,
    _file: Arc<File>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps the first `len` bytes of `file` for reading. The map lives as long as any slice of the returned bytes, and so does
/// this `file`, with its lock.
pub(crate) fn map(file: &Arc<File>, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // SAFETY: `map` asks that the mapped bytes do not change while they are borrowed. Nothing borrows the map as a
    // whole: `Bytes::from_owner` takes its address, `Bytes::slice` computes with it. What is borrowed are the ranges
    // handed out by `File::view`, whose callers promise that nobody writes there or cuts them off meanwhile; they
    // view only what was written completely and is never written again, and a file becomes another segment only when
    // `File::is_viewed` says that nobody holds such a range: of this handle by the count of those who hold `file`, of any
    // other, here or in another process, by the shared lock on it. The log's own lock keeps a second writer of ours out.
    // What remains, somebody writing to the file or truncating it by hand, changes bytes under a checksum or raises
    // SIGBUS.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(&**file)? };
    Ok(Bytes::from_owner(Mapped { map, _file: file.clone() }))
}
