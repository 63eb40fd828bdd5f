//! What can go wrong with snapshot files.

use std::io;
use std::path::{Path, PathBuf};

use super::SnapshotId;

/// Why a snapshot could not be written, found or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such snapshot here: ask for one of `SnapshotStore::list`.
    #[error("there is no snapshot {id}")]
    NotFound {
        /// What was asked for.
        id: SnapshotId,
    },
    /// A snapshot of this index and term is being written or purged: wait for that to end.
    #[error("snapshot {id} is being written or purged")]
    Busy {
        /// What was to be created.
        id: SnapshotId,
    },
    /// The bytes are not what was written. The disk's fault (or its editor's): fall back to an older snapshot that the
    /// log still continues, or get one from a peer.
    #[error("{}, offset {offset}: {damage}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// A newer program wrote this file; this one neither reads it nor sets it aside.
    #[error("{} has format version {version}, this program reads version 1", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// What arrived is not what was announced: the transfer's fault. Nothing was kept; ask for it again.
    #[error(
        "snapshot {id}: announced {announced_len} bytes with checksum {announced_crc:08x}, got {len} with {crc:08x}"
    )]
    Mismatch {
        /// What was being received.
        id: SnapshotId,
        /// The announced length of the content in bytes.
        announced_len: u64,
        /// The announced checksum of the content.
        announced_crc: u32,
        /// The length of what arrived.
        len: u64,
        /// The checksum of what arrived.
        crc: u32,
    },
    /// The operating system refused. No snapshot that was committed is lost; one being written is discarded.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not. `StorageFull` means that space must be made.
        source: io::Error,
    },
    /// An earlier write or sync failed, so what is on disk is not known: of this file for a writer, of the directory
    /// for a store. Discard the writer; open the store again.
    #[error("an earlier write or sync failed")]
    Poisoned,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The first bytes are not those of a snapshot file.
    #[error("not a snapshot file")]
    Magic,
    /// The header's checksum does not match.
    #[error("bad header")]
    Header,
    /// The header is valid and belongs to another name.
    #[error("this is snapshot {found}, by its header")]
    WrongId {
        /// What the header says.
        found: SnapshotId,
    },
    /// The file has another length than its footer says, or none that a snapshot file can have.
    #[error("wrong length of {found} bytes")]
    Length {
        /// The length in bytes.
        found: u64,
    },
    /// A chunk does not match its checksum, or is not the one that belongs here.
    #[error("bad chunk")]
    Chunk,
    /// The last bytes are not the footer, as when the end is missing.
    #[error("bad or missing footer")]
    Footer,
    /// Every chunk is valid, and together they are not what the footer says.
    #[error("the chunks are valid and are not the content")]
    Content,
}

impl Error {
    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, path: path.to_owned(), source }
    }
}

impl From<Error> for io::Error {
    /// For `Read` and `Write`: keeps the error as the source, and the operating system's kind where there is one.
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::NotFound { .. } => io::ErrorKind::NotFound,
            Error::Busy { .. } => io::ErrorKind::ResourceBusy,
            Error::Corrupt { .. } | Error::UnknownVersion { .. } | Error::Mismatch { .. } => {
                io::ErrorKind::InvalidData
            }
            Error::Poisoned => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
