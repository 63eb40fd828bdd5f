//! Writing a snapshot: under a temporary name until it is whole and synced.

use std::io;
use std::path::PathBuf;

use super::format::{self, CHUNK, CHUNK_HEAD, Key};
use super::store::Claim;
use super::{Error, SnapshotId};
use crate::vfs::File;

/// Bytes after which what was written so far is synced, so that a large snapshot does not leave gigabytes to one sync
/// at the end, behind which the log's own would wait.
const SYNC_EVERY: u64 = 16 << 20;

/// A snapshot and its content, as both ends of a transfer can compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotFile {
    /// Which snapshot.
    pub id: SnapshotId,
    /// The length of its content in bytes. The file is a little longer.
    pub len: u64,
    /// The CRC-32 (IEEE) of its content.
    pub crc: u32,
}

/// Takes the content of a new snapshot through [`io::Write`] and keeps it if [`commit`](Self::commit) is called.
/// Dropped before that, it leaves nothing behind.
///
/// `flush` does nothing: chunks are written when they are full. After an error the writer is poisoned.
#[derive(Debug)]
pub struct SnapshotWriter {
    /// `None` once an error has made the file worthless, or after the commit.
    file: Option<Box<dyn File>>,
    temporary: PathBuf,
    claim: Claim,
    key: Key,
    /// The chunk being filled, its head left free.
    chunk: Vec<u8>,
    /// Where that chunk begins in the file, and how much of the file is synced.
    offset: u64,
    synced: u64,
    len: u64,
    crc: crc32fast::Hasher,
}

impl SnapshotWriter {
    pub(super) fn new(claim: Claim) -> Result<Self, Error> {
        let temporary = claim.temporary_path();
        let file = match claim.vfs().create_new(&temporary) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a writer that could not clean up; the claim says that nobody else is writing it.
                claim.vfs().remove(&temporary).map_err(Error::io("remove", &temporary))?;
                claim.vfs().create_new(&temporary)
            }
            file => file,
        }
        .map_err(Error::io("create", &temporary))?;
        let (header, key) = format::header(claim.id());
        let mut writer = Self {
            file: Some(file),
            temporary,
            claim,
            key,
            chunk: vec![0; CHUNK_HEAD],
            offset: 0,
            synced: 0,
            len: 0,
            crc: crc32fast::Hasher::new(),
        };
        writer.append(&header)?;
        Ok(writer)
    }

    /// The snapshot that is being written.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.claim.id()
    }

    /// The length of the content so far, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no content yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the snapshot durable under its name, replacing one of the same index and term. When this returns `Ok` it
    /// survives power loss, and the log may be told (O5).
    ///
    /// # Errors
    /// [`Error::Io`] if writing, syncing or renaming failed: there is no new file then. If it is the last step that
    /// failed, the sync of the directory, the whole file may be found after a restart, and the store is poisoned.
    /// [`Error::Poisoned`] after an earlier error.
    pub fn commit(mut self) -> Result<SnapshotFile, Error> {
        self.claim.check()?;
        self.write_chunk()?;
        let crc = self.crc.clone().finalize();
        let footer = self.key.footer(self.offset, self.len, crc);
        self.append(&footer)?;
        self.sync()?;
        self.claim.rename(&self.temporary)?;
        self.file = None; // from here on there is nothing to clean up
        self.claim.publish()?;
        Ok(SnapshotFile { id: self.id(), len: self.len, crc })
    }

    /// As [`commit`](Self::commit), if the content is the one that the sender announced.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if it is not, and then nothing is kept; else as `commit`.
    pub fn commit_expecting(self, announced: SnapshotFile) -> Result<SnapshotFile, Error> {
        let mut content = self.crc.clone();
        content.update(&self.chunk[CHUNK_HEAD..]);
        let found = SnapshotFile { id: self.id(), len: self.len, crc: content.finalize() };
        if found != announced {
            return Err(Error::Mismatch {
                id: announced.id,
                announced_len: announced.len,
                announced_crc: announced.crc,
                len: found.len,
                crc: found.crc,
            });
        }
        self.commit()
    }

    fn write_chunk(&mut self) -> Result<(), Error> {
        let data = &self.chunk[CHUNK_HEAD..];
        if data.is_empty() {
            return Ok(());
        }
        let mut data_crc = crc32fast::Hasher::new();
        data_crc.update(data);
        self.crc.combine(&data_crc);
        let head = self.key.chunk_head(self.offset, data.len(), data_crc.finalize());
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk[..CHUNK_HEAD].copy_from_slice(&head);
        let written = self.append(&chunk);
        chunk.truncate(CHUNK_HEAD);
        self.chunk = chunk;
        written?;
        if self.offset - self.synced >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let offset = self.offset;
        self.with_file("write", |file| file.write_all_at(bytes, offset))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        if self.claim.syncs() {
            self.with_file("sync", |file| file.sync_all())?;
        }
        self.synced = self.offset;
        Ok(())
    }

    /// A failed write or sync is never tried again: the file is discarded (O13).
    fn with_file(
        &mut self,
        op: &'static str,
        run: impl FnOnce(&dyn File) -> io::Result<()>,
    ) -> Result<(), Error> {
        let file = self.file.as_deref().ok_or(Error::Poisoned)?;
        run(file).map_err(|source| {
            self.discard();
            Error::io(op, &self.temporary)(source)
        })
    }

    fn discard(&mut self) {
        if self.file.take().is_some()
            && let Err(error) = self.claim.vfs().remove(&self.temporary)
        {
            // It is removed when the store is opened next.
            log::warn!(path:? = self.temporary, error:%; "cannot remove an unfinished snapshot file");
        }
    }
}

impl io::Write for SnapshotWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            return Err(Error::Poisoned.into());
        }
        if self.chunk.len() == CHUNK_HEAD + CHUNK {
            self.write_chunk()?;
        }
        let n = buf.len().min(CHUNK_HEAD + CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        self.discard();
    }
}
