//! A look at everything a member keeps on disk: the log, every byte of it, and the snapshot files beside it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::segment::{LOCK, Listing};
use crate::snapshot::{self, SnapshotReader};
use crate::vfs::{Access, Vfs};
use crate::{EntryId, Error, HardState, Lsn, Options, SegmentId};

mod watched;
use watched::Watched;

/// How far an examination has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes read and checked.
    pub done: u64,
    /// Bytes there are. While a log is written to this is what there was at the beginning.
    pub total: u64,
}

/// What an examination found. Nothing was changed to make it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Examination {
    /// The log, or why it cannot be read as a whole.
    pub log: Result<LogReport, Error>,
    /// The snapshot files, by name.
    pub snapshots: Vec<SnapshotReport>,
    /// Whether the log needs a snapshot that is not there whole: it begins behind entry 1, and no file that is whole ends
    /// where it begins or later.
    pub snapshot_missing: bool,
}

/// A log that reads back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogReport {
    /// The entries that can be read.
    pub entries: RangeInclusive<u64>,
    /// The last entry, or the one that the log begins after.
    pub last: EntryId,
    /// The latest hard state.
    pub hard_state: HardState,
    /// The entry up to which the newest snapshot mark reaches.
    pub snapshot: Option<EntryId>,
    /// How many segments there are, prepared ones included.
    pub segments: usize,
    /// The bytes of their files.
    pub bytes: u64,
    /// Up to where the log is proven to have been durable: damage there is refused, never cut off.
    pub proven: Lsn,
    /// How it ends.
    pub end: End,
    /// Copies of segment headers that do not read back, by segment and offset, while others do.
    pub damaged_headers: Vec<(SegmentId, u32)>,
    /// Files in its directory that are not the log's.
    pub unknown: Vec<String>,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum End {
    /// With its last batch.
    Whole,
    /// With a batch that is being written: somebody has the log open.
    BeingWritten {
        /// Where it begins.
        at: Lsn,
    },
    /// With what a crash left of a batch that was never acknowledged. The next opening sets it aside.
    Torn {
        /// Where it begins.
        at: Lsn,
        /// How many bytes.
        bytes: u64,
    },
}

/// One file of the snapshots' directory.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it is.
    #[serde(flatten)]
    pub state: SnapshotState,
}

/// What a file among the snapshots is.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SnapshotState {
    /// A snapshot, intact to its last byte.
    Whole {
        /// The last entry that it covers.
        covers: EntryId,
    },
    /// A snapshot, and not intact.
    Damaged {
        /// What is wrong.
        #[serde(serialize_with = "displayed")]
        error: snapshot::Error,
    },
    /// Unfinished, or set aside earlier, or not a snapshot at all: nobody reads it.
    Ignored,
}

impl Examination {
    /// Whether nothing is damaged and nothing missing. A torn end is no damage.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let damaged =
            |report: &SnapshotReport| matches!(report.state, SnapshotState::Damaged { .. });
        self.log.is_ok() && !self.snapshot_missing && !self.snapshots.iter().any(damaged)
    }

    pub(crate) fn new(
        options: &Options,
        dir: &Path,
        snapshots: Option<&Path>,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let files = options.files();
        let segments = Listing::read(&**files, dir)?.unwrap_or_default().segments;
        if segments.is_empty() {
            return Err(Error::NotFound { dir: dir.into() });
        }
        let names = match snapshots.map(|dir| (dir, files.list(dir))) {
            Some((_, Err(error))) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Some((dir, listed)) => {
                let mut names = listed.map_err(Error::io("list", dir))?;
                names.sort_unstable();
                names.into_iter().map(|name| dir.join(name)).collect()
            }
            None => Vec::new(),
        };
        let log_files = segments.iter().map(|id| dir.join(id.to_string()));
        let total = log_files.chain(names.iter().cloned()).map(|path| len(&**files, &path)).sum();
        let watched: Arc<dyn Vfs> = Arc::new(Watched::new(files.clone(), total, progress));

        let log = options.clone().vfs(watched.clone()).open_read_only(dir).map(|log| {
            let recovery = log.recovery();
            let end = match &recovery.torn {
                None => End::Whole,
                // Looked at only now: who starts at this very instant is not to find the lock taken.
                Some(_) if files.is_locked(&dir.join(LOCK)).unwrap_or(false) => {
                    End::BeingWritten { at: log.end() }
                }
                Some(torn) => End::Torn { at: log.end(), bytes: torn.bytes },
            };
            LogReport {
                entries: log.first_index()..=log.last_index(),
                last: recovery.last,
                hard_state: log.hard_state(),
                snapshot: log.snapshot().map(|mark| mark.id()),
                segments: log.segments().len(),
                bytes: log.segments().iter().map(|segment| segment.bytes).sum(),
                proven: log.proven(),
                end,
                damaged_headers: recovery.damaged_headers.clone(),
                unknown: recovery
                    .unknown
                    .iter()
                    .map(|name| name.to_string_lossy().into())
                    .collect(),
            }
        });
        let snapshots: Vec<_> =
            names.into_iter().map(|path| SnapshotReport::new(&*watched, path)).collect();
        let reaches = |report: &SnapshotReport, index| match report.state {
            SnapshotState::Whole { covers } => covers.index >= index,
            _ => false,
        };
        let snapshot_missing = log.as_ref().is_ok_and(|log| {
            let before = log.entries.start().saturating_sub(1);
            before > 0 && !snapshots.iter().any(|report| reaches(report, before))
        });
        Ok(Self { log, snapshots, snapshot_missing })
    }
}

impl SnapshotReport {
    fn new(vfs: &dyn Vfs, path: PathBuf) -> Self {
        let bytes = len(vfs, &path);
        let state = if !snapshot::is_snapshot(&path) {
            SnapshotState::Ignored
        } else {
            match SnapshotReader::open(vfs, &path).and_then(SnapshotReader::verify) {
                Ok(file) => SnapshotState::Whole {
                    covers: EntryId { term: file.id.term, index: file.id.index },
                },
                Err(error) => SnapshotState::Damaged { error },
            }
        };
        Self { path, bytes, state }
    }
}

/// The length of a file, for the report alone.
fn len(vfs: &dyn Vfs, path: &Path) -> u64 {
    vfs.open(path, Access::Read).and_then(|file| file.len()).unwrap_or(0)
}

fn displayed<S: serde::Serializer>(error: &snapshot::Error, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(error)
}
