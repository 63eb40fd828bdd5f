//! The libraries' errors as ends of the process: whose fault it is, and the way out.

use std::{io, path::Path, sync::Arc};

use oarlock_raftnode::{
    LogError, NodeEnd, NodeError, SnapshotError, StartError, WalStoreError, bootstrap::BootError,
};
use oarlock_wal::{Error as WalError, snapshot::Error as FileError};

use crate::exit::{Failure, Kind};

/// What to do about a member whose data cannot be trusted.
pub(crate) const REPLACE: &str = "keep the directory for inspection; remove this member from its cluster (etcdctl member remove) \
     and add it again with an empty --data-dir; if it is the only copy there is, `oarlock wal repair` shows what can be kept";

/// What to do about a disk that fails.
const LOOK_AT_DISK: &str = "look at the disk and the kernel's log, then start again: nothing acknowledged is lost as \
     long as what was synced can be read";

/// The log or the snapshots in `member_dir` could not be opened.
pub(crate) fn store(error: &WalStoreError, member_dir: &Path) -> Failure {
    match error {
        WalStoreError::Log(error) => log(error, &member_dir.join("wal")),
        WalStoreError::Snapshots(error) => snapshot_file(error),
        WalStoreError::LogMissing { .. } => {
            Failure::from_error(Kind::Damaged, error).at(member_dir.join("wal"), None).help(REPLACE)
        }
        other => Failure::from_error(Kind::Internal, other),
    }
}

/// The log in `dir` could not be opened or read.
pub(crate) fn log(error: &WalError, dir: &Path) -> Failure {
    match error {
        WalError::Corrupt { segment, offset, .. } => Failure::from_error(Kind::Damaged, error)
            .context(format_args!("the log in {} is damaged", dir.display()))
            .at(dir.join(segment.to_string()), Some(*offset))
            .help(REPLACE),
        WalError::UnknownVersion { segment, offset, .. } => {
            Failure::from_error(Kind::Damaged, error)
                .context(format_args!("the log in {} is of a newer version", dir.display()))
                .at(dir.join(segment.to_string()), Some(*offset))
                .help("start the version of oarlock that wrote it")
        }
        WalError::Locked { path, .. } => {
            Failure::from_error(Kind::InUse, error).at(path, None).help(
                "another oarlock serves from this --data-dir: stop it, or choose another directory",
            )
        }
        WalError::NotFound { dir } => Failure::from_error(Kind::Usage, error)
            .at(dir, None)
            .help("give the --data-dir of a member that has run"),
        WalError::NoSpace { source, .. }
        | WalError::Io { source, .. }
        | WalError::NotPrepared { source, .. } => io_failure(error, source),
        other => Failure::from_error(Kind::Io, other).help(LOOK_AT_DISK),
    }
}

pub(crate) fn snapshot_file(error: &FileError) -> Failure {
    match error {
        FileError::Corrupt { path, offset, .. } => {
            Failure::from_error(Kind::Damaged, error).at(path, Some(*offset)).help(REPLACE)
        }
        FileError::UnknownVersion { path, .. } => Failure::from_error(Kind::Damaged, error)
            .at(path, None)
            .help("start the version of oarlock that wrote it"),
        FileError::Io { source, .. } => io_failure(error, source),
        other => Failure::from_error(Kind::Io, other).help(LOOK_AT_DISK),
    }
}

/// A file that could not be opened, read or written.
fn io_failure(error: &(dyn std::error::Error + 'static), source: &io::Error) -> Failure {
    let failure = Failure::from_error(Kind::Io, error);
    let failure = match file_of(error) {
        Some(path) => failure.at(path, None),
        None => failure,
    };
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            failure.help("let the user that runs oarlock own the --data-dir")
        }
        io::ErrorKind::StorageFull => failure.help("make room on the disk, then start again"),
        _ => failure.help(LOOK_AT_DISK),
    }
}

/// The file that an error, or one of its causes, is about.
fn file_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Path> {
    // The first failure of a log is shared by all who come after it.
    let first = || error.downcast_ref::<Arc<WalError>>().map(|first| &**first);
    if let Some(
        WalError::NoSpace { path, .. }
        | WalError::NotPrepared { path, .. }
        | WalError::Io { path, .. },
    ) = error.downcast_ref().or_else(first)
    {
        return Some(path);
    }
    if let Some(FileError::Io { path, .. }) = error.downcast_ref() {
        return Some(path);
    }
    // `source` of an `io::Error` passes over the error that it was made of.
    let made_of = error.downcast_ref().and_then(io::Error::get_ref);
    let made_of = made_of.map(|error| error as &(dyn std::error::Error + 'static));
    file_of(made_of.or_else(|| error.source())?)
}

/// What is on disk is nothing to start from.
pub(crate) fn boot(error: &BootError) -> Failure {
    match error {
        BootError::Log(error) => log_error(error),
        BootError::Snapshot(error) => snapshot_error(error),
        BootError::Removed { .. } => Failure::from_error(Kind::NotMember, error)
            .help("delete its data and add it again as a new member (etcdctl member add)"),
        BootError::AlreadyInitialised { .. } | BootError::NotInitialised | BootError::ZeroId => {
            Failure::from_error(Kind::Usage, error)
        }
        BootError::NotAMember { .. } | BootError::Founders(_) => {
            Failure::from_error(Kind::Usage, error)
                .help("check --initial-cluster and --initial-advertise-peer-urls")
        }
        other => Failure::from_error(Kind::Damaged, other).help(REPLACE),
    }
}

/// The node did not start.
pub(crate) fn start(error: &StartError) -> Failure {
    match error {
        StartError::Config(error) => Failure::from_error(Kind::Usage, error),
        StartError::Log(error) => log_error(error),
        StartError::Snapshot(error) => snapshot_error(error),
        StartError::SnapshotHead(_)
        | StartError::OtherSnapshots { .. }
        | StartError::ForeignSnapshots { .. }
        | StartError::Restore(_)
        | StartError::StateMachineAhead { .. } => {
            Failure::from_error(Kind::Damaged, error).help(REPLACE)
        }
        StartError::Transport(_) | StartError::Thread(_) => Failure::from_error(Kind::Io, error),
        other => Failure::from_error(Kind::Internal, other),
    }
}

/// How the node ended: well, or a failure.
pub(crate) fn end(end: &NodeEnd) -> Result<(), Failure> {
    match end {
        NodeEnd::Stopped => Ok(()),
        NodeEnd::Removed => Err(removed()),
        NodeEnd::Failed(error) => Err(node(error)),
        other => Err(Failure::new(
            Kind::Internal,
            format!("the node ended in an unknown way: {other:?}"),
        )),
    }
}

/// This member has no place in its cluster any more.
pub(crate) fn removed() -> Failure {
    Failure::new(Kind::NotMember, "this member has been permanently removed from the cluster").help(
        "its data directory is of no further use and can be deleted; to come back it has to be added again \
         (etcdctl member add) and started with an empty --data-dir and --initial-cluster-state existing",
    )
}

fn node(error: &NodeError) -> Failure {
    match error {
        NodeError::Log(error) => log_error(error),
        NodeError::Snapshot(error) => snapshot_error(error),
        NodeError::Restore { .. } | NodeError::BadEntry { .. } | NodeError::BadSnapshot { .. } => {
            Failure::from_error(Kind::Damaged, error).help(REPLACE)
        }
        other => Failure::from_error(Kind::Internal, other)
            .help("this is a bug: please report it with the log; starting again is safe"),
    }
}

fn log_error(error: &LogError) -> Failure {
    match error {
        LogError::Corrupt { place, .. } => {
            let failure = Failure::from_error(Kind::Damaged, error).help(REPLACE);
            match place {
                Some((file, offset)) => failure.at(file, Some(*offset)),
                None => failure,
            }
        }
        LogError::Io { source, .. } | LogError::NoSpace { source } => io_failure(error, source),
        // Somebody else met the failure first, in the background perhaps.
        LogError::Poisoned { .. } => {
            let failure = Failure::from_error(Kind::Io, error);
            match file_of(error) {
                Some(file) => failure.at(file, None).help(LOOK_AT_DISK),
                None => failure
                    .help(format!("the log above says which file failed, and how: {LOOK_AT_DISK}")),
            }
        }
        other => Failure::from_error(Kind::Internal, other),
    }
}

fn snapshot_error(error: &SnapshotError) -> Failure {
    match error {
        SnapshotError::Corrupt { .. } | SnapshotError::NotFound(_) => {
            Failure::from_error(Kind::Damaged, error).help(REPLACE)
        }
        SnapshotError::Io { source, .. } | SnapshotError::NoSpace { source } => {
            io_failure(error, source)
        }
        other => Failure::from_error(Kind::Internal, other),
    }
}

#[cfg(test)]
mod tests {
    use oarlock_wal::SegmentId;

    use super::*;

    fn io(kind: io::ErrorKind) -> io::Error {
        kind.into()
    }

    #[test]
    fn the_fault_decides_the_code() {
        let dir = Path::new("data/member/wal");
        let poisoned = || NodeError::Log(LogError::Poisoned { cause: None });
        let poisoned = || NodeEnd::Failed(Arc::new(poisoned()));
        let panicked = NodeError::Panicked { thread: "oarlock-node", message: String::new() };
        let cases = [
            (log(&WalError::Locked { path: "LOCK".into(), holder: Some(1) }, dir), Kind::InUse),
            (log(&WalError::NotFound { dir: dir.into() }, dir), Kind::Usage),
            (
                log(
                    &WalError::Io {
                        op: "read",
                        path: dir.into(),
                        source: io(io::ErrorKind::Other),
                    },
                    dir,
                ),
                Kind::Io,
            ),
            (boot(&BootError::LogShorterThanCommit { commit: 2, last: 1 }), Kind::Damaged),
            (boot(&BootError::Removed { id: 1 }), Kind::NotMember),
            (
                boot(&BootError::Log(LogError::NoSpace { source: io(io::ErrorKind::StorageFull) })),
                Kind::Io,
            ),
            (start(&StartError::Restore("damaged".into())), Kind::Damaged),
            (end(&poisoned()).expect_err("a failure"), Kind::Io),
            (end(&NodeEnd::Removed).expect_err("a failure"), Kind::NotMember),
            (end(&NodeEnd::Failed(Arc::new(panicked))).expect_err("a failure"), Kind::Internal),
        ];
        for (failure, kind) in cases {
            assert_eq!(failure.kind(), kind, "{}", failure.text());
        }
        assert!(end(&NodeEnd::Stopped).is_ok());
    }

    /// Also damage that is met while it serves, where the store knows its own directory alone.
    #[test]
    fn damage_met_while_running_names_its_place() {
        let place = Some(("00000001.wal".into(), 8));
        let error = NodeError::Log(LogError::Corrupt { detail: "a bit".into(), place });
        let failure = end(&NodeEnd::Failed(Arc::new(error))).expect_err("a failure");
        let failure = failure.within(Path::new("member/wal"));
        assert_eq!(failure.place(), (Some(Path::new("member/wal/00000001.wal")), Some(8)));
        // A directory is no file of the log, whatever its name.
        let failure = Failure::new(Kind::Io, "no").at("data", None).within(Path::new("member/wal"));
        assert_eq!(failure.place(), (Some(Path::new("data")), None));
    }

    /// What filled up or failed, also where a store's error came through the library.
    #[test]
    fn a_disk_that_refuses_names_the_file() {
        let full = || io(io::ErrorKind::StorageFull);
        let path = || Path::new("/data/member/wal/00000004.wal").to_owned();
        let wrap = |error: WalError| io::Error::new(io::ErrorKind::StorageFull, error);
        let in_log =
            LogError::NoSpace { source: wrap(WalError::NoSpace { path: path(), source: full() }) };
        let sync = wrap(WalError::Io { op: "sync", path: path(), source: full() });
        let in_sync = LogError::Io { op: "sync", source: sync };
        // Whoever comes after the one whom the log told why.
        let first = Arc::new(WalError::Io { op: "prepare", path: path(), source: full() });
        let later = LogError::Poisoned { cause: Some(Box::new(first)) };
        let file = FileError::Io { op: "write", path: path(), source: full() };
        let in_snapshot =
            SnapshotError::NoSpace { source: io::Error::new(io::ErrorKind::StorageFull, file) };
        for error in [
            NodeError::Log(in_log),
            NodeError::Log(in_sync),
            NodeError::Log(later),
            NodeError::Snapshot(in_snapshot),
        ] {
            let failure = end(&NodeEnd::Failed(Arc::new(error))).expect_err("a failure");
            assert_eq!((failure.kind(), failure.place()), (Kind::Io, (Some(&*path()), None)));
            assert!(failure.text().contains("/data/member/wal/00000004.wal"), "{}", failure.text());
        }
    }

    #[test]
    fn unknown_versions_name_their_place() {
        let error = WalError::UnknownVersion {
            segment: SegmentId(1),
            offset: 8,
            what: "version",
            found: 9,
        };
        let failure = log(&error, Path::new("wal"));
        assert_eq!(failure.place(), (Some(Path::new("wal/00000001.wal")), Some(8)));
    }
}
