//! A disk that is slow, or stands still, when it is told to.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_wal::vfs::{Access, File, Lock, RealVfs, Vfs};
use parking_lot::{Condvar, Mutex};

/// The real disk, every sync of which first waits as long as it was told to. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<State>);

#[derive(Debug, Default)]
struct State {
    mood: Mutex<Mood>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Mood {
    delay: Duration,
    stands_still: bool,
    /// When a sync first met the standstill.
    met: Option<Instant>,
}

impl Disk {
    /// From now on every sync takes this much longer.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.mood.lock().delay = delay;
    }

    /// From now on no sync ends, until [`go_on`](Self::go_on).
    pub(crate) fn stand_still(&self) {
        let mut mood = self.0.mood.lock();
        (mood.stands_still, mood.met) = (true, None);
    }

    pub(crate) fn go_on(&self) {
        self.0.mood.lock().stands_still = false;
        self.0.changed.notify_all();
    }

    /// When a sync first met the standstill, if one has.
    pub(crate) fn met(&self) -> Option<Instant> {
        self.0.mood.lock().met
    }

    fn pause(&self) {
        let mut mood = self.0.mood.lock();
        if mood.stands_still {
            mood.met.get_or_insert_with(Instant::now);
            while mood.stands_still {
                self.0.changed.wait(&mut mood);
            }
        }
        let delay = mood.delay;
        drop(mood);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
    }
}

impl Vfs for Disk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealVfs.create_dir_all(dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(SlowFile { file: RealVfs.create_new(path)?, disk: self.clone() }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        Ok(Box::new(SlowFile { file: RealVfs.open(path, access)?, disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealVfs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealVfs.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        RealVfs.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.pause();
        RealVfs.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        RealVfs.lock(path)
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Box<dyn File>,
    disk: Disk,
}

impl File for SlowFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_all_vectored_at(&self, pieces: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_all_vectored_at(pieces, offset)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.file.view(offset, len)
    }

    fn is_viewed(&mut self) -> bool {
        self.file.is_viewed()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.pause();
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.pause();
        self.file.sync_all()
    }
}
