//! Files that tell how much of them has been read.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::Progress;
use crate::vfs::{Access, File, Lock, Vfs};

/// Bytes after which it tells, so that a segment does not pass in one step.
const STEP: usize = 1 << 20;

/// A [`Vfs`] for reading, which counts.
#[derive(Debug)]
pub(super) struct Watched {
    vfs: Arc<dyn Vfs>,
    meter: Arc<Meter>,
}

struct Meter {
    done: AtomicU64,
    total: u64,
    tell: Box<dyn Fn(Progress) + Send + Sync>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("total", &self.total).finish_non_exhaustive()
    }
}

impl Meter {
    fn add(&self, bytes: usize) {
        // What is read twice, because a writer came in between, is not shown twice.
        let done = self.done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        (self.tell)(Progress { done: done.min(self.total), total: self.total });
    }
}

impl Watched {
    pub(super) fn new(
        vfs: Arc<dyn Vfs>,
        total: u64,
        tell: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Self {
        let meter = Meter { done: AtomicU64::new(0), total, tell: Box::new(tell) };
        Self { vfs, meter: Arc::new(meter) }
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Vfs for Watched {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn create_new(&self, _: &Path) -> io::Result<Box<dyn File>> {
        read_only()
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        if access == Access::ReadWrite {
            return read_only();
        }
        let file = self.vfs.open(path, access)?;
        Ok(Box::new(WatchedFile { file, meter: self.meter.clone() }))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.vfs.list(dir)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Lock>> {
        read_only()
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.vfs.is_locked(path)
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn File>,
    meter: Arc<Meter>,
}

impl File for WatchedFile {
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        read_only()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for piece in buf.chunks_mut(STEP) {
            self.file.read_exact_at(piece, at)?;
            at += piece.len() as u64;
            self.meter.add(piece.len());
        }
        Ok(())
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let view = self.file.view(offset, len)?;
        self.meter.add(len);
        Ok(view)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        read_only()
    }

    fn sync_data(&self) -> io::Result<()> {
        read_only()
    }

    fn sync_all(&self) -> io::Result<()> {
        read_only()
    }
}
