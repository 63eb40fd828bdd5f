//! Read-only maps of files: the only `unsafe` code of the workspace.

use std::fs::File;
use std::io;

use bytes::Bytes;

/// Maps the first `len` bytes of `file` for reading. The map lives as long as any slice of the returned bytes.
pub(crate) fn map(file: &File, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // SAFETY: `map` asks that the mapped bytes do not change while they are borrowed. Nothing borrows the map as a
    // whole: `Bytes::from_owner` takes its address, `Bytes::slice` computes with it. What is borrowed are the ranges
    // handed out by `File::view`, whose callers promise that nobody writes there or cuts them off meanwhile; they
    // view only what was written completely and is never written again. The lock keeps a second process of ours out.
    // What remains, somebody truncating the file by hand, raises SIGBUS.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
    Ok(Bytes::from_owner(map))
}
