//! Why a node cannot start, and what to do about it.

use oarlock_membership::PlanError;
use oarlock_membership::record::RecordError;

use super::MetadataError;
use crate::storage::{LogError, SnapshotError, SnapshotId};
use crate::{HeaderError, SnapshotHeadError};

/// Why a node cannot start from what is on disk. Nothing was written, unless it is [`Log`](Self::Log).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// A member's data is here already: restart it, or choose an empty directory for the new one.
    #[error(
        "the log belongs to member {id:x} of cluster {cluster_id:x} already: restart it instead"
    )]
    AlreadyInitialised {
        /// Whose log it is.
        id: u64,
        /// Its cluster.
        cluster_id: u64,
    },
    /// No member's data is here: found a cluster or join one first.
    #[error("the log belongs to no member yet: found a cluster or join one")]
    NotInitialised,
    /// The log holds entries but not whose they are: something else than this crate wrote it.
    #[error(
        "the log holds entries up to {last} but does not say whose they are: another program wrote it, choose another directory"
    )]
    ForeignLog {
        /// The last of them.
        last: u64,
    },
    /// A member id of 0, which stands for nobody.
    #[error("a member's id is 0, which stands for nobody")]
    ZeroId,
    /// The founders, or the members reported by a peer, do not name this member: check its peer URLs.
    #[error("member {id:x} is not among the members given")]
    NotAMember {
        /// The member.
        id: u64,
    },
    /// A founding list without a voter, or with members that founders cannot have.
    #[error("these members cannot found a cluster: {0}")]
    Founders(&'static str),
    /// The metadata record does not decode.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Committed entries are missing at the end: the disk lost what it had acknowledged. Peers count on them, so this
    /// member must not vote any more: remove it and add it again as a new one.
    #[error(
        "the log ends at {last} but commit is {commit}: acknowledged entries were lost; \
         remove this member and add it again"
    )]
    LogShorterThanCommit {
        /// The commit index.
        commit: u64,
        /// The last entry.
        last: u64,
    },
    /// Entries are missing between the snapshot and the log: restore the snapshot file, or replace the member.
    #[error(
        "entries {snapshot} < index < {first} are missing: restore the snapshot that holds them, or remove this member and \
         add it again"
    )]
    Gap {
        /// Where the newest usable snapshot ends; 0 without one.
        snapshot: u64,
        /// The first entry held.
        first: u64,
    },
    /// The log needs a snapshot that is not there, or is damaged: restore the file, or replace the member.
    #[error(
        "snapshot {needed} is missing or damaged, and the log begins after it: restore its file, or remove this member and add \
         it again"
    )]
    SnapshotMissing {
        /// Which.
        needed: SnapshotId,
    },
    /// Indexes do not follow one another, or an entry does not read back (0): the log is damaged.
    #[error(
        "entry {found} where {expected} should be: the log is damaged; remove this member and add it again"
    )]
    NotContiguous {
        /// The index found.
        found: u64,
        /// The index expected.
        expected: u64,
    },
    /// Terms go back, or begin before the snapshot's: the log is damaged.
    #[error(
        "entry {index} has term {term} after term {previous}: the log is damaged; remove this member and add it again"
    )]
    TermGoesBack {
        /// Which entry.
        index: u64,
        /// Its term.
        term: u64,
        /// The term before it.
        previous: u64,
    },
    /// The last entry is newer than the hard state, which was written with or before it.
    #[error(
        "the last entry has term {last_term}, the hard state {term}: the log is damaged; remove this member and add it again"
    )]
    TermBehindLog {
        /// Of the hard state.
        term: u64,
        /// Of the last entry.
        last_term: u64,
    },
    /// An entry that a node of this crate does not write, or a newer version did: upgrade.
    #[error("entry {index} cannot be read: if a newer version wrote it, upgrade")]
    Entry {
        /// Which.
        index: u64,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A conf change that does not decode: it must not be skipped, or members would disagree on who they are.
    #[error(
        "the conf change at entry {index} cannot be read: if a newer version wrote it, upgrade"
    )]
    Change {
        /// Which entry.
        index: u64,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The log's configuration at the snapshot is not the one in the snapshot's head.
    #[error(
        "the log and the head of snapshot {0} disagree: restore the file that belongs to the log, or remove this member and add \
         it again"
    )]
    SnapshotDisagrees(SnapshotId),
    /// The data belongs to another cluster than its snapshot does: files were mixed up.
    #[error(
        "the log is of cluster {log:x}, its snapshot of cluster {snapshot:x}: two data directories were mixed up"
    )]
    ForeignSnapshot {
        /// By the log's metadata.
        log: u64,
        /// By the snapshot's head.
        snapshot: u64,
    },
    /// This member was removed from the cluster. Its data is of no more use; add it again under a new id.
    #[error(
        "member {id:x} was removed from the cluster: delete its data and add it again as a new one"
    )]
    Removed {
        /// The member.
        id: u64,
    },
    /// A rescue is not possible from what is here.
    #[error("cannot restart as a cluster of one")]
    Plan(#[from] PlanError),
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The head of a snapshot cannot be read.
    #[error("snapshot {id} cannot be used")]
    SnapshotHead {
        /// Which.
        id: SnapshotId,
        /// What is wrong with it.
        source: SnapshotHeadError,
    },
}
