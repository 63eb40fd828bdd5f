//! What was asked of the disk, in order.

use std::path::{Path, PathBuf};

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Op {
    /// A directory was made.
    CreateDir,
    /// `Vfs::create_new`, and the file that `Vfs::lock` makes.
    Create,
    /// `Vfs::open`.
    Open,
    /// `File::read_exact_at` or `File::view`.
    Read,
    /// `File::write_all_at`.
    Write,
    /// `File::set_len`.
    SetLen,
    /// `File::sync_data` or `File::sync_all`.
    Sync,
    /// `Vfs::sync_dir`.
    SyncDir,
    /// `Vfs::rename`; the path is the new name.
    Rename,
    /// `Vfs::remove`.
    Remove,
    /// `Vfs::list`.
    List,
    /// `Vfs::lock`.
    Lock,
}

/// An entry of [`SimDisk::trace`](super::SimDisk::trace), made when the operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The operation succeeded. A file has the path it was opened under; `offset` and `len` are in bytes and 0 where
    /// there is none.
    Done {
        /// What was done.
        op: Op,
        /// To which file or directory.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// How many bytes; the new length for `SetLen`.
        len: u64,
    },
    /// The operation failed.
    Failed {
        /// What was tried.
        op: Op,
        /// On which file or directory.
        path: PathBuf,
    },
    /// The test said so ([`SimDisk::note`](super::SimDisk::note)).
    Note(String),
}

impl Event {
    /// Whether this is a successful `op` on `path`.
    #[must_use]
    pub fn is(&self, op: Op, path: impl AsRef<Path>) -> bool {
        matches!(self, Self::Done { op: o, path: p, .. } if *o == op && p == path.as_ref())
    }
}
