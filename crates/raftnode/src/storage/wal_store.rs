//! `oarlock-wal` behind the storage traits.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use oarlock_membership::record;
use oarlock_wal::{Maintainer, Vfs, Wal, snapshot};
use prost::Message;

use super::wal_reader::WalReader;
use super::{
    LogBatch, LogError, LogReader, LogState, LogStore, SnapshotError, SnapshotId, SnapshotMark,
    SnapshotSink, SnapshotSource, SnapshotStore,
};
use crate::planted::planted;
use crate::{HeaderError, convert};

/// How to make or open a [`WalStore`].
///
/// ```
/// # let tmp = tempfile::tempdir()?;
/// use oarlock_raftnode::{LogStore, WalOptions};
/// let store = WalOptions::new(tmp.path()).segment_size(8 << 20).open_or_create()?;
/// assert_eq!(store.state()?.last_index, 0);
/// Box::new(store).close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WalOptions {
    dir: PathBuf,
    log: oarlock_wal::Options,
    snapshots: snapshot::Options,
    maintainer: bool,
}

/// Why a [`WalStore`] could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalStoreError {
    /// The log could not be.
    #[error(transparent)]
    Log(#[from] oarlock_wal::Error),
    /// The snapshots could not be.
    #[error(transparent)]
    Snapshots(#[from] snapshot::Error),
    /// There are snapshots and no log: what a member loses, not what it begins with. Nothing was changed. Restore the
    /// log, or replace the member.
    #[error("there are snapshots in {} and no log beside them", dir.display())]
    LogMissing {
        /// Where the snapshots are.
        dir: PathBuf,
    },
}

impl WalOptions {
    /// The log in `<dir>/wal`, the snapshots in `<dir>/snap`, both made with mode 0700; every default that of
    /// [`oarlock_wal::Options`], but for [`verify`](Self::verify).
    #[must_use]
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_owned(),
            log: oarlock_wal::Options::new().verify(true),
            snapshots: snapshot::Options::new(),
            maintainer: true,
        }
    }

    /// Bytes after which the log rolls to a new segment; see [`oarlock_wal::Options::segment_size`].
    #[must_use]
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.log = self.log.segment_size(bytes);
        self
    }

    /// Whether opening reads every byte of the log; see [`oarlock_wal::Options::verify`]. On by default, as etcd reads its
    /// whole log: a member answers for what it acknowledged, so it shall know before it votes that some of it rotted, and
    /// not when it has become the leader and a follower asks. What opening then takes is bounded by how often snapshots
    /// release the log.
    #[must_use]
    pub fn verify(mut self, on: bool) -> Self {
        self.log = self.log.verify(on);
        self
    }

    /// Skips every sync: a crash may lose anything. For throw-away data.
    #[must_use]
    pub fn unsafe_no_fsync(mut self, on: bool) -> Self {
        self.log = self.log.unsafe_no_fsync(on);
        self.snapshots = self.snapshots.unsafe_no_fsync(on);
        self
    }

    /// Who is told about syncs and rolls.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn oarlock_wal::Observer>) -> Self {
        self.log = self.log.observer(observer);
        self
    }

    /// The files to work on, for both.
    #[must_use]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Self {
        self.log = self.log.vfs(vfs.clone());
        self.snapshots = self.snapshots.vfs(vfs);
        self
    }

    /// Whether a thread keeps segments prepared and marks written, off the append path. On by default; a simulation
    /// that must not depend on threads makes those calls by itself, through [`WalStore::wal`].
    #[must_use]
    pub fn maintainer(mut self, on: bool) -> Self {
        self.maintainer = on;
        self
    }

    /// Whether there is a log.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn exists(&self) -> Result<bool, WalStoreError> {
        Ok(self.log.exists(self.dir.join("wal"))?)
    }

    /// Opens what is there.
    ///
    /// # Errors
    /// As for [`oarlock_wal::Options::open`] and [`snapshot::Options::open`].
    pub fn open(self) -> Result<WalStore, WalStoreError> {
        let wal = self.log.open(self.dir.join("wal"))?;
        self.finish(wal)
    }

    /// Makes an empty log, whose metadata is empty: it belongs to no member until [`boot`](crate::bootstrap::boot) has
    /// written whose it is.
    ///
    /// # Errors
    /// As for [`oarlock_wal::Options::create`] and [`snapshot::Options::open`]; [`WalStoreError::LogMissing`] if there
    /// are snapshots: their log was lost, and a new one would answer for fewer entries than were acknowledged.
    pub fn create(self) -> Result<WalStore, WalStoreError> {
        let dir = self.dir.join("snap");
        if !self.exists()? && !self.snapshots.clone().open(&dir)?.list().is_empty() {
            return Err(WalStoreError::LogMissing { dir });
        }
        let wal = self.log.create(self.dir.join("wal"), &[])?;
        self.finish(wal)
    }

    /// Opens what is there, or makes an empty log if there is none.
    ///
    /// # Errors
    /// As for [`open`](Self::open) and [`create`](Self::create).
    pub fn open_or_create(self) -> Result<WalStore, WalStoreError> {
        if self.exists()? { self.open() } else { self.create() }
    }

    fn finish(self, wal: Wal) -> Result<WalStore, WalStoreError> {
        let snapshots = WalSnapshots(self.snapshots.open(self.dir.join("snap"))?);
        let maintainer = self.maintainer.then(|| Maintainer::spawn(&wal)).transpose()?;
        Ok(WalStore { maintainer, wal, snapshots, buffer: Vec::new() })
    }
}

/// A [`LogStore`] on files.
#[derive(Debug)]
pub struct WalStore {
    /// Before the log, so that the thread has ended when the log closes.
    maintainer: Option<Maintainer>,
    wal: Wal,
    snapshots: WalSnapshots,
    /// Kept between appends for its capacity.
    buffer: Vec<oarlock_wal::Entry>,
}

impl WalStore {
    /// The log itself, for its statistics and its recovery report.
    #[must_use]
    pub const fn wal(&self) -> &Wal {
        &self.wal
    }

    /// The snapshots beside it.
    #[must_use]
    pub fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        Arc::new(self.snapshots.clone())
    }
}

impl LogStore for WalStore {
    fn state(&self) -> Result<LogState, LogError> {
        let wal = &self.wal;
        let (first, last) = (wal.first_index(), wal.last_index());
        state(wal.metadata(), wal.hard_state(), wal.snapshot(), first, last)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(WalReader::Written(self.wal.clone()))
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        self.buffer.clear();
        for entry in batch.entries {
            if !entry.context.is_empty() {
                return Err(LogError::Other(Box::new(HeaderError::Context)));
            }
            self.buffer.push(oarlock_wal::Entry {
                index: entry.index,
                term: entry.term,
                kind: convert::entry_kind_to_number(entry.get_entry_type()),
                data: convert::from_raft(entry.data.clone()),
            });
        }
        let result = self.wal.append(&oarlock_wal::Batch {
            metadata: batch.metadata.clone(),
            install: batch.install.as_ref().map(mark_to_wal),
            entries: &self.buffer,
            hard_state: batch.hard_state.as_ref().map(|state| oarlock_wal::HardState {
                term: state.term,
                vote: state.vote,
                commit: state.commit,
            }),
            compact: batch.compact.as_ref().map(mark_to_wal),
        });
        // The payloads live in the tail cache if anywhere.
        self.buffer.clear();
        result.map(drop).map_err(log_error)
    }

    fn max_batch(&self) -> u64 {
        // A mark's configuration may come with them.
        self.wal.batch_limit().saturating_sub(4 << 10)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.wal.sync().map_err(log_error)
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        let released = self.wal.release(before).map_err(log_error)?;
        if released.segments > 0 {
            log::info!(before, segments = released.segments, bytes = released.bytes; "released log segments");
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.wal.size()
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        let Self { maintainer, wal, .. } = *self;
        drop(maintainer);
        wal.close().map_err(log_error)
    }
}

/// What a log says, in the words of this crate.
pub(super) fn state(
    metadata: Bytes,
    hard_state: oarlock_wal::HardState,
    snapshot: Option<oarlock_wal::SnapshotMark>,
    first_index: u64,
    last_index: u64,
) -> Result<LogState, LogError> {
    let oarlock_wal::HardState { term, vote, commit } = hard_state;
    let hard_state = convert::hard_state(term, vote, commit);
    let snapshot = snapshot.map(mark_from_wal).transpose()?;
    Ok(LogState { metadata, hard_state, snapshot, first_index, last_index })
}

fn mark_to_wal(mark: &SnapshotMark) -> oarlock_wal::SnapshotMark {
    let conf: Bytes = convert::conf_state_to_record(&mark.conf_state).encode_to_vec().into();
    oarlock_wal::SnapshotMark { index: mark.index, term: mark.term, conf }
}

fn mark_from_wal(mark: oarlock_wal::SnapshotMark) -> Result<SnapshotMark, LogError> {
    let record = record::ConfState::decode_checked(&mark.conf).map_err(|error| {
        let detail = format!("snapshot mark {}: {error}", mark.index);
        LogError::Corrupt { detail, place: None }
    })?;
    let conf_state = convert::conf_state_from_record(record);
    Ok(SnapshotMark { index: mark.index, term: mark.term, conf_state })
}

pub(super) fn log_error(error: oarlock_wal::Error) -> LogError {
    use oarlock_wal::Error;
    match error {
        Error::OutOfRange { index, first, .. } if index < first => {
            LogError::Compacted { index, first }
        }
        Error::OutOfRange { index, last, .. } => LogError::Unavailable { index, last },
        Error::Gap { index, next, .. } => LogError::Gap { found: index, expected: next },
        Error::TooLarge { bytes, .. } => LogError::TooLarge { bytes },
        Error::NotCovered { before, .. } => LogError::NoMark { before },
        // The path is in these errors' texts, and in the errors themselves for whoever asks `io::Error::get_ref`.
        Error::NoSpace { ref source, .. } => {
            LogError::NoSpace { source: io::Error::new(source.kind(), error) }
        }
        Error::Poisoned { .. } if planted("poison-without-its-cause") => {
            LogError::Poisoned { cause: None }
        }
        Error::Poisoned { cause } => LogError::Poisoned { cause: Some(Box::new(cause)) },
        Error::Closed => LogError::Poisoned { cause: Some(Box::new(error)) },
        Error::Corrupt { segment, offset, .. } | Error::UnknownVersion { segment, offset, .. } => {
            let place = Some((segment.to_string().into(), offset));
            LogError::Corrupt { detail: error.to_string(), place }
        }
        Error::NotPrepared { ref source, .. } => {
            LogError::Io { op: "make room in", source: io::Error::new(source.kind(), error) }
        }
        Error::Io { op, ref source, .. } => {
            LogError::Io { op, source: io::Error::new(source.kind(), error) }
        }
        other => LogError::Other(Box::new(other)),
    }
}

#[derive(Clone, Debug)]
pub(super) struct WalSnapshots(pub(super) snapshot::SnapshotStore);

impl SnapshotStore for WalSnapshots {
    fn create(&self, id: SnapshotId) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        let writer = self.0.create(id.index, id.term).map_err(|error| snapshot_error(id, error))?;
        Ok(Box::new(WalSink { id, writer }))
    }

    fn open(&self, id: SnapshotId) -> Result<SnapshotSource, SnapshotError> {
        let reader =
            self.0.open_file(id.index, id.term).map_err(|error| snapshot_error(id, error))?;
        Ok(SnapshotSource { len: reader.len(), content: Box::new(reader) })
    }

    fn newest(
        &self,
        vouched: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<Option<SnapshotId>, SnapshotError> {
        self.0
            .newest(|index, term| vouched(SnapshotId { index, term }))
            .map(|id| id.map(|id| SnapshotId { index: id.index, term: id.term }))
            .map_err(|error| snapshot_error(SnapshotId::default(), error))
    }

    fn purge(&self, keep_from: u64) -> Result<(), SnapshotError> {
        let id = SnapshotId { index: keep_from, term: 0 };
        self.0.purge(keep_from).map(drop).map_err(|error| snapshot_error(id, error))
    }
}

struct WalSink {
    id: SnapshotId,
    writer: snapshot::SnapshotWriter,
}

impl Write for WalSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writer.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl SnapshotSink for WalSink {
    fn commit(self: Box<Self>) -> Result<u64, SnapshotError> {
        let Self { id, writer } = *self;
        writer.commit().map(|file| file.len).map_err(|error| snapshot_error(id, error))
    }
}

fn snapshot_error(id: SnapshotId, error: snapshot::Error) -> SnapshotError {
    use snapshot::Error;
    match error {
        Error::NotFound { .. } => SnapshotError::NotFound(id),
        Error::Corrupt { .. } | Error::UnknownVersion { .. } | Error::Mismatch { .. } => {
            SnapshotError::Corrupt { id, detail: error.to_string() }
        }
        Error::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            SnapshotError::NoSpace { source: io::Error::new(source.kind(), error) }
        }
        Error::Io { op, ref source, .. } => {
            SnapshotError::Io { op, source: io::Error::new(source.kind(), error) }
        }
        other => SnapshotError::Other(Box::new(other)),
    }
}
