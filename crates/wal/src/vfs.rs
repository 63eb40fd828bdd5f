//! The seam to the operating system: every file operation of this crate goes through [`Vfs`] and [`File`].
//!
//! # What a disk promises, and what it does not
//!
//! * Once [`File::sync_data`] or [`File::sync_all`] returned `Ok`, every earlier write to that file survives power
//!   loss, and so does its length.
//! * Once [`Vfs::sync_dir`] returned `Ok`, every earlier creation, rename and removal of a name in that directory
//!   survives power loss.
//! * **Nothing else does.** Writes that were not synced may be there or not, in any order, each 512-byte sector for
//!   itself; where a sector was being written it may hold old bytes, new bytes, or neither. A file's contents may be
//!   durable while its name is not, and the other way round.
//! * Bytes beside a write stay what they are, in the same sector too: a disk replaces a sector as a whole or, torn,
//!   damages only what it was told to change.
//! * A rename happens whole or not at all.
//! * After a sync failed, nothing is known about what was written since the last one that succeeded. Calling it again
//!   may return `Ok` without having written anything (Linux marks the pages clean), so nobody here ever does.
//! * A process that dies loses nothing of the above: what it wrote is in the page cache and readable.
//!
//! [`RealVfs`] is the operating system. `testing::SimDisk` (feature `testing`) keeps exactly these promises and breaks
//! everything else.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::Path;

use bytes::Bytes;

mod real;
pub use real::RealVfs;

/// The file system operations that the log and the snapshot files need.
///
/// All errors are the operating system's own. Implementations deal with `EINTR` and short transfers themselves.
pub trait Vfs: std::fmt::Debug + Send + Sync + 'static {
    /// Creates `dir` and its missing parents, readable by the owner only (0700), and makes their names durable.
    ///
    /// A directory that exists already is fine; its name is then made durable too, because the process that made it
    /// may have died before it could.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Creates a file for reading and writing by its owner only (0600). Fails with `AlreadyExists` if there is one,
    /// be it a dangling symbolic link. The name is durable after [`sync_dir`](Self::sync_dir).
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens an existing file. Fails with `NotFound` if there is none.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;

    /// Gives the file `from` the name `to` at once, replacing what had that name. Durable after a
    /// [`sync_dir`](Self::sync_dir) of the directory (of both, if they differ).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name. Open files and views of it stay readable. Durable after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no particular order. Fails with `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Makes the names in `dir` durable: the one way to do that in this crate.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on the file `path`, which is created if missing and then holds this process's id in
    /// decimal. Fails with `WouldBlock`, at once, while anybody else holds it (in this process too). The lock ends
    /// when the returned value is dropped, or the process dies; the file stays.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;

    /// Whether somebody holds the lock on `path`, for reports: nothing is made, and by the time of the answer it may have
    /// changed. What cannot tell says no.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(false)
    }
}

/// An open file. All access is positioned, so `&self` is enough and threads need no lock between them.
pub trait File: std::fmt::Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`, beyond the end if need be. After an error any part may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `pieces`, one behind the other, at `offset`: as one write if the implementation can, without copying
    /// them. `pieces` are used up. After an error any part may have been written.
    fn write_all_vectored_at(&self, pieces: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut whole = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        self.write_all_at(&whole, offset)
    }

    /// Fills `buf` from `offset` with a read call: a bad disk is an error here, where a [`view`](Self::view) would be
    /// a signal. Fails with `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The bytes at `offset..offset + len`, without a copy if the implementation can: [`RealVfs`] serves them from one
    /// read-only map per open file. They stay valid after the file is closed and removed. Fails with `UnexpectedEof`
    /// beyond the end, unless `len` is 0.
    ///
    /// The caller promises that nobody writes into that range, or cuts it off, while the bytes are held; and that a
    /// file that was viewed is cut off, if at all, through this handle, which then knows that its map is stale.
    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Whether anybody, here or in another process, may hold bytes of a [`view`](Self::view) of this file, has it open
    /// through another handle, or counts on it as it is. Only a file of which nobody does is ever written over, and only
    /// after it was renamed: whoever opens it for reading by the old name from then on does not get it. True unless the
    /// implementation knows better.
    ///
    /// The question is for whoever has this handle to himself, and takes from it what it keeps for later views.
    fn is_viewed(&mut self) -> bool {
        true
    }

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file off at `len`, or extends it with zeros. Durable after a sync.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the contents durable, and of the metadata what is needed to read them back (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the contents and all metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
}

/// A lock that is held until this is dropped. See [`Vfs::lock`].
pub trait Lock: std::fmt::Debug + Send + Sync {}

/// What an existing file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; a write fails.
    Read,
    /// Reading and writing.
    ReadWrite,
}
