//! What can go wrong with a log or a snapshot, and whose fault it is.

use std::{io, path::PathBuf};

use super::SnapshotId;

/// Why a log could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The entry was there once and has been compacted away: take a snapshot instead.
    #[error("entry {index} was compacted away, the log begins at {first}")]
    Compacted {
        /// The entry asked for.
        index: u64,
        /// The first one held.
        first: u64,
    },
    /// The entry was never appended: the caller's mistake.
    #[error("entry {index} is not in the log, which ends at {last}")]
    Unavailable {
        /// The entry asked for.
        index: u64,
        /// The last one held.
        last: u64,
    },
    /// Entries do not continue the log: the caller's mistake, and the log is as it was.
    #[error("entry {found} cannot follow, index {expected} or lower is next")]
    Gap {
        /// The index offered.
        found: u64,
        /// The highest index that would have fitted.
        expected: u64,
    },
    /// A batch or entry beyond the log's limits: the caller's mistake, and the log is as it was.
    #[error("batch of {bytes} bytes is beyond the log's limit")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// No durable snapshot mark covers what was to be released.
    #[error("entries below {before} cannot be released: no durable snapshot mark covers them")]
    NoMark {
        /// The release that was asked for.
        before: u64,
    },
    /// The disk is full. Nothing was written; make room and try again.
    #[error("no space left for the log")]
    NoSpace {
        /// What the store, or the operating system, says of it: for which file, if the store keeps files.
        source: io::Error,
    },
    /// What was acknowledged does not read back. Not repairable here: restore the member from its peers.
    #[error("the log is damaged: {detail}")]
    Corrupt {
        /// Where and how, in the store's words.
        detail: String,
        /// The damaged file and the offset in it, if the store keeps files and knows; relative to the log's directory.
        place: Option<(PathBuf, u64)>,
    },
    /// The operating system refused. After a write or sync the log is poisoned.
    #[error("cannot {op} the log")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// An earlier write or sync failed, so what the disk holds is unknown. Reopen to find out.
    #[error("the log is poisoned by an earlier i/o failure")]
    Poisoned {
        /// The failure that came first, if the store remembers: what could not be done, to which file. Whoever meets the
        /// poison need not be whom the failure was told, for a log may have threads of its own.
        #[source]
        cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Anything else a store may report.
    #[error("log store: {0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no such snapshot.
    #[error("there is no snapshot {0}")]
    NotFound(SnapshotId),
    /// It does not read back as it was written: use an older one, or get one from a peer.
    #[error("snapshot {id} is damaged: {detail}")]
    Corrupt {
        /// Which.
        id: SnapshotId,
        /// Where and how, in the store's words.
        detail: String,
    },
    /// The disk is full. Nothing is left behind; make room and try again.
    #[error("no space left for a snapshot")]
    NoSpace {
        /// What the store, or the operating system, says of it: for which file, if the store keeps files.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("cannot {op} a snapshot")]
    Io {
        /// What was attempted.
        op: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Anything else a store may report.
    #[error("snapshot store: {0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}
