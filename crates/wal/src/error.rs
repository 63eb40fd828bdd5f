//! What can go wrong, whose fault it is, and what to do next.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{EntryId, Lsn, SegmentId};

/// Why the log could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The index was released or replaced by a snapshot (below `first`: raft's `Compacted`), or never appended (above
    /// `last`: raft's `Unavailable`). An empty log has `first == last + 1`.
    #[error("index {index} is outside [{first}, {last}]")]
    OutOfRange {
        /// What was asked for.
        index: u64,
        /// The first entry that can be read.
        first: u64,
        /// The last one.
        last: u64,
    },

    /// The entries do not continue the log, or do not follow each other. The caller's fault; nothing was written.
    #[error("entry {index} cannot be appended: it must be within [{lowest}, {next}]")]
    Gap {
        /// The first entry that does not fit.
        index: u64,
        /// The lowest index it may have: nothing at or below a snapshot mark is ever overwritten.
        lowest: u64,
        /// The highest: the one after its predecessor.
        next: u64,
    },

    /// A snapshot mark names an entry outside what the log can vouch for. The caller's fault; nothing was written.
    #[error(
        "a snapshot at index {index} cannot be marked: it must be within [{lowest}, {highest}]"
    )]
    MarkOutOfRange {
        /// The mark's index.
        index: u64,
        /// The lowest it may be: the mark before.
        lowest: u64,
        /// The highest it may be: the last entry, or no bound for an installed snapshot.
        highest: u64,
    },

    /// A snapshot mark and the log disagree about the term of an entry. The caller's fault; nothing was written.
    #[error(
        "a snapshot at index {index} of term {given} cannot be marked: the log holds term {held}"
    )]
    MarkTerm {
        /// The mark's index.
        index: u64,
        /// The mark's term.
        given: u64,
        /// The term that the log has there.
        held: u64,
    },

    /// A term of 2^56 or more, for which an entry has no room. The caller's fault; nothing was written.
    #[error("entry {index} has term {term}, which does not fit into 56 bits")]
    TermTooLarge {
        /// The entry.
        index: u64,
        /// Its term.
        term: u64,
    },

    /// The batch, or a part of it, is larger than a segment can hold. The caller's fault; nothing was written.
    /// Write less at once, or open the log with a larger segment size.
    #[error("{bytes} bytes are more than the {limit} that fit")]
    TooLarge {
        /// Bytes it would take.
        bytes: u64,
        /// Bytes it may take.
        limit: u64,
    },

    /// Entries that no snapshot covers cannot be released. The caller's fault; nothing was released.
    #[error("entries before {before} cannot be released: the newest snapshot ends at {covered}")]
    NotCovered {
        /// What was asked for.
        before: u64,
        /// The newest snapshot mark's index; 0 if there is none.
        covered: u64,
    },

    /// No space for the next segment. The log is whole and readable; nothing of the batch was written. Appends go on
    /// when there is space again.
    #[error("no space to prepare {}", path.display())]
    NoSpace {
        /// The segment that could not be made.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The next segment could not be prepared, and not for want of space: no file descriptor was left, say. The log is
    /// whole and readable; nothing of the batch was written. Try again: what a failed preparation leaves counts for
    /// nothing, and the next one begins anew.
    #[error("cannot prepare {}", path.display())]
    NotPrepared {
        /// The segment that could not be made.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// An earlier write or sync failed, so nobody knows what the disk holds: reopen to recover. It is never retried,
    /// because a second sync may claim success without having written anything.
    #[error("the log is poisoned by an earlier i/o failure")]
    Poisoned {
        /// The failure that came first: what could not be done to which file.
        #[source]
        cause: Arc<Self>,
    },

    /// The log was closed through another handle.
    #[error("the log is closed")]
    Closed,

    /// Another process, or another handle in this one, has the log open for writing.
    #[error("{} is locked{}", path.display(), holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, if that could be read.
        holder: Option<u32>,
    },

    /// There is no log in this directory.
    #[error("no log in {}", dir.display())]
    NotFound {
        /// Where it was looked for.
        dir: PathBuf,
    },

    /// There is a log in this directory already: open it, or choose another.
    #[error("there is a log in {} already", dir.display())]
    AlreadyExists {
        /// Where it was to be made.
        dir: PathBuf,
    },

    /// A newer version of this crate wrote this. Use that version; nothing was changed.
    #[error("{segment}, offset {offset}: unknown {what} {found}")]
    UnknownVersion {
        /// The segment.
        segment: SegmentId,
        /// Where in it.
        offset: u64,
        /// What is not known: the format's version, a frame's kind, a flag.
        what: &'static str,
        /// Its value.
        found: u32,
    },

    /// Bytes that were durable once no longer read back, and no crash can have done that. Nothing was changed. Replace
    /// the member, or restore the directory from a copy.
    #[error(
        "{segment}, offset {offset}: {damage}{}{}",
        last_good.map(|id| format!("; last good entry before: {id}")).unwrap_or_default(),
        first_after.map(|id| format!("; first good entry after: {id}")).unwrap_or_default()
    )]
    Corrupt {
        /// The segment.
        segment: SegmentId,
        /// Bytes from the beginning of its file.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
        /// The last entry before it that reads back.
        last_good: Option<EntryId>,
        /// The first entry after it that does.
        first_after: Option<EntryId>,
        /// Everything before this position is known to have been durable; zero if the damage needs no such proof.
        proven: Lsn,
    },

    /// The operating system refused. Nothing acknowledged is lost.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// Every segment number has been used, after 2^32 segments.
    #[error("the log has used every segment number")]
    Exhausted,
}

/// What is wrong with bytes that were durable once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// No copy of the segment's header is valid, or two valid ones disagree.
    #[error("no trustworthy segment header")]
    Header,
    /// The file was renamed or copied: its header has another number.
    #[error("this is segment {found} under another name")]
    Renamed {
        /// The number in the header.
        found: SegmentId,
    },
    /// The segment belongs to another log.
    #[error("segment of log {found:016x} in log {expected:016x}")]
    Foreign {
        /// The log's id.
        expected: u64,
        /// The segment's.
        found: u64,
    },
    /// The file was cut or has grown.
    #[error("the file is {found} bytes long, not {expected}")]
    Length {
        /// Its length by its header.
        expected: u64,
        /// Its length.
        found: u64,
    },
    /// A segment between others, or the one that held entries not covered by any snapshot, is missing.
    #[error("the segment is missing")]
    Missing,
    /// Neither of the two mark slots reads back, while a crash can tear one at most.
    #[error("both mark slots are damaged")]
    MarkSlots,
    /// A mark was taken over other bytes than these.
    #[error("a mark was taken after a frame with checksum {expected:08x}, not {found:08x}")]
    Mark {
        /// The checksum that the mark names.
        expected: u32,
        /// The one found there; 0 if no frame ends there.
        found: u32,
    },
    /// The checksum of a frame or an entry does not match.
    #[error("checksum is {found:08x}, not {expected:08x}")]
    Checksum {
        /// The checksum of the bytes.
        expected: u32,
        /// The one stored with them.
        found: u32,
    },
    /// A frame does not follow the one before it.
    #[error("the frame follows one with checksum {found:08x}, not {expected:08x}")]
    Chain {
        /// The checksum of the frame before.
        expected: u32,
        /// The one this frame names.
        found: u32,
    },
    /// A frame or an entry is longer than what is left of the segment, or its parts do not add up.
    #[error("impossible length {found}")]
    Bounds {
        /// The length it claims.
        found: u32,
    },
    /// A batch ends before its last frame.
    #[error("the batch is incomplete")]
    Incomplete,
    /// Checksums are fine and the contents contradict what came before: a checkpoint that differs, entries that leave
    /// a gap. Most likely two writers, or a defect.
    #[error("the contents contradict what was written before")]
    Contradiction,
}

impl Error {
    /// Wraps what the operating system said; for `map_err`.
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }

    /// Damage that needs no proof by a mark.
    pub(crate) fn corrupt(segment: SegmentId, offset: impl Into<u64>, damage: Damage) -> Self {
        Self::Corrupt {
            segment,
            offset: offset.into(),
            damage,
            last_good: None,
            first_after: None,
            proven: Lsn::default(),
        }
    }
}

/// Whether the operating system refused for want of space, quota or file size.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
