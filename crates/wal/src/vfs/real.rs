//! The operating system behind the seam.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Access, File, Lock, Vfs};
use crate::{mmap, planted};

/// The operating system's files.
///
/// Every descriptor is close-on-exec, new files are 0600 and new directories 0700 (less what the umask takes), and a
/// new file is never made through a symbolic link. Reads by [`File::view`] come from a map that is made at the first
/// view and made anew when the file has grown beyond it. Whoever has a file open, or holds bytes of it, holds a shared
/// lock on it (`flock`), so that [`File::is_viewed`] sees other handles and other processes too. A file that lost the name
/// it is being opened by for reading, because it may be written over from now on, is not found.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealVfs;

impl Vfs for RealVfs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|d| !named(d).is_dir()).collect();
        // The deepest directory that exists may have been made by a run that died just before it synced the name.
        // Where the parent may not even be read, its maker was somebody else, and long ago.
        let present = dir.ancestors().nth(missing.len());
        if let Some(parent) = present.and_then(Path::parent) {
            match self.sync_dir(parent) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                done => done?,
            }
        }
        for made in missing.into_iter().rev() {
            match fs::DirBuilder::new().mode(0o700).create(made) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && made.is_dir() => {}
                done => done?,
            }
            self.sync_dir(made.parent().unwrap_or(Path::new("")))?;
        }
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(RealFile::new(file, None)?))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let file =
            fs::OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path)?;
        let reader = (access == Access::Read).then(|| path.to_owned());
        Ok(Box::new(RealFile::new(file, reader)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(named(dir))?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(named(dir))?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            // Who only asks (`is_locked`) holds it for microseconds, and is not to keep a server from starting.
            Err(fs::TryLockError::WouldBlock) => {
                thread::sleep(Duration::from_millis(5));
                file.try_lock()?;
            }
            locked => locked?,
        }
        // Only now is it ours to write; whoever is refused from here on reads who holds it.
        file.set_len(0)?;
        file.write_all_at(std::process::id().to_string().as_bytes(), 0)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        match fs::File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            // Given back when the file is closed, at the end of this line.
            opened => match opened?.try_lock_shared() {
                Err(fs::TryLockError::WouldBlock) => Ok(true),
                free => Ok(free.map(|()| false)?),
            },
        }
    }
}

/// `Path::parent` of a bare name is the empty path, which the operating system does not know.
fn named(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

#[derive(Debug)]
struct RealFile {
    /// Every map holds it too, and with it the lock.
    file: Arc<fs::File>,
    /// The first map, from which nearly every view is cut, without a lock.
    first: OnceLock<Bytes>,
    /// Whether the file was cut off since, so that the first map may reach beyond its end.
    cut: AtomicBool,
    /// Where the first one does not do; empty until then. Locked for pointer arithmetic only.
    map: Mutex<Bytes>,
    /// Held by whoever uses the file's cursor.
    cursor: Mutex<()>,
    /// The name that it was opened by, if for reading only, and not held yet.
    reader: Option<PathBuf>,
}

impl RealFile {
    fn new(file: fs::File, reader: Option<PathBuf>) -> io::Result<Self> {
        let (file, first, cut) = (Arc::new(file), OnceLock::new(), AtomicBool::new(false));
        let cursor = Mutex::new(());
        let mut new = Self { file, first, cut, map: Mutex::default(), cursor, reader };
        let mut held = new.hold()?;
        if !held && new.reader.is_some() {
            // Who only asks (`is_viewed`) holds it for microseconds.
            thread::sleep(Duration::from_millis(5));
            held = new.hold()?;
        }
        if held {
            new.reader = None;
        }
        Ok(new)
    }

    fn cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Keeps the file from being written over: by a shared lock, and if it is opened for reading, only while it has its
    /// name. Whoever writes it over renames it first, and looks for locks then. Says whether nobody has it to himself.
    fn hold(&self) -> io::Result<bool> {
        if planted("earlier-handles-not-seen") && self.reader.is_none() {
            return Ok(true);
        }
        match self.file.try_lock_shared() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(false),
            // Where there are no locks, nobody can find out that nobody reads, and nothing is written over.
            Err(fs::TryLockError::Error(_)) => return Ok(true),
        }
        let Some(path) = &self.reader else { return Ok(true) };
        let same = fs::metadata(path).and_then(|named| {
            let now = self.file.metadata()?;
            Ok((named.dev(), named.ino()) == (now.dev(), now.ino()))
        });
        if same.as_ref().is_ok_and(|same| *same) {
            return Ok(true);
        }
        self.file.unlock()?;
        same.and(Err(io::ErrorKind::NotFound.into()))
    }
}

impl File for RealFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(&*self.file, bytes, offset)
    }

    /// std has no positioned write of several pieces, so this one moves the cursor, which nothing else uses: a system call
    /// more, which is nothing beside the copy that it saves, and no other dependency.
    fn write_all_vectored_at(&self, mut pieces: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let _cursor = self.cursor.lock();
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(offset))?;
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match file.write_vectored(pieces) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut pieces, written),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(&*self.file, buf, offset)
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        let first = || self.first.get().filter(|map| end <= map.len() && !self.cut());
        if let Some(map) = first() {
            return Ok(map.slice(start..end));
        }
        let mut map = self.map.lock();
        if map.len() < end {
            let size = self.len()?;
            if size < end as u64 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.reader.is_some() && !self.hold()? {
                return Err(io::ErrorKind::NotFound.into());
            }
            let bytes = mmap::map(&self.file, size)?;
            if self.cut() {
                *map = bytes;
            } else if let Err(bytes) = self.first.set(bytes) {
                *map = bytes; // the file has grown
            }
        }
        Ok(first().unwrap_or(&map).slice(start..end))
    }

    fn is_viewed(&mut self) -> bool {
        // Its own maps go; those that are left then are held by somebody.
        self.first.take();
        *self.map.get_mut() = Bytes::new();
        if Arc::get_mut(&mut self.file).is_none() {
            return true;
        }
        // The lock is had alone for a moment, to see whether it can be, and shared again.
        let alone = self.file.try_lock().is_ok();
        let shared = self.file.try_lock_shared().is_ok();
        // Whoever made a second name for the file, as backups by hard links do, wants it as it is.
        !alone || !shared || self.file.metadata().map_or(true, |data| data.nlink() > 1)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut map = self.map.lock();
        self.cut.store(true, Ordering::Release);
        *map = Bytes::new(); // a map beyond the new end must not serve another view
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The lock belongs to the open file, so closing it gives the lock back.
#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").permissions().mode() & 0o777
    }

    #[test]
    fn directories_and_files_are_for_their_owner_only() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let dir = tmp.path().join("a/b/c");
        RealVfs.create_dir_all(&dir).expect("creates");
        RealVfs.create_dir_all(&dir).expect("is there already");
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&tmp.path().join("a")), 0o700);
        let file = dir.join("f");
        RealVfs.create_new(&file).expect("creates");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(
            RealVfs.create_new(&file).expect_err("is there").kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(RealVfs.list(&dir).expect("lists"), ["f"]);
        RealVfs.rename(&file, &dir.join("g")).expect("renames");
        RealVfs.sync_dir(&dir).expect("syncs");
        RealVfs.remove(&dir.join("g")).expect("removes");
        assert_eq!(
            RealVfs.open(&file, Access::Read).expect_err("gone").kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_file_is_not_created_through_a_symbolic_link() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let (link, target) = (tmp.path().join("link"), tmp.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).expect("links");
        assert_eq!(
            RealVfs.create_new(&link).expect_err("a link").kind(),
            io::ErrorKind::AlreadyExists
        );
        assert!(!target.exists());
    }

    #[test]
    fn views_show_what_was_written_and_outlive_the_file() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let path = tmp.path().join("f");
        let file = RealVfs.create_new(&path).expect("creates");
        assert!(file.is_empty().expect("len"));
        assert_eq!(file.view(0, 1).expect_err("empty").kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(file.view(u64::MAX, 1).expect_err("far").kind(), io::ErrorKind::UnexpectedEof);
        file.write_all_at(&[0; 8192], 0).expect("writes");
        let before = file.view(0, 4).expect("views");
        file.write_all_at(b"oars", 4096).expect("writes");
        assert_eq!(file.view(4096, 4).expect("same map"), "oars");
        file.write_all_at(b"more", 8192).expect("writes");
        let grown = file.view(8190, 6).expect("a new map");
        assert_eq!(grown, &b"\0\0more"[..]);
        file.set_len(16).expect("cuts");
        assert_eq!(file.view(8190, 6).expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
        file.sync_data().expect("syncs");
        file.sync_all().expect("syncs");
        drop(file);
        RealVfs.remove(&path).expect("removes");
        assert_eq!(before, &[0; 4][..]);
    }

    #[test]
    fn pieces_are_written_one_behind_the_other() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let file = RealVfs.create_new(&tmp.path().join("f")).expect("creates");
        // More pieces than one system call takes, empty ones among them.
        let parts: Vec<Vec<u8>> = (0..2500).map(|n| vec![n as u8; n % 5]).collect();
        let mut pieces: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_all_vectored_at(&mut pieces, 100).expect("writes");
        file.write_all_vectored_at(&mut [], 0).expect("nothing to write");
        let expected = parts.concat();
        assert_eq!(file.len().expect("len"), 100 + expected.len() as u64);
        assert_eq!(file.view(100, expected.len()).expect("views"), expected);
        assert_eq!(file.view(0, 100).expect("views"), &[0; 100][..]);
    }

    #[test]
    fn a_file_is_viewed_while_anybody_holds_bytes_of_it() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let path = tmp.path().join("f");
        let mut file = RealVfs.create_new(&path).expect("creates");
        file.write_all_at(&[7; 8192], 0).expect("writes");
        assert!(!file.is_viewed());
        drop(file.view(0, 8).expect("views"));
        assert!(!file.is_viewed(), "what was held is given up");
        let view = file.view(0, 8).expect("views");
        assert!(file.is_viewed());
        assert!(file.is_viewed(), "asking changes nothing");
        file.write_all_at(&[7; 8192], 8192).expect("grows");
        drop(file.view(8192, 8).expect("a new map"));
        assert!(file.is_viewed(), "the old map is held");
        drop(file);

        let mut file = RealVfs.open(&path, Access::ReadWrite).expect("opens");
        assert!(file.is_viewed(), "by the owner before, that is gone");
        drop(view);
        assert!(!file.is_viewed());
        for access in [Access::Read, Access::ReadWrite] {
            let other = RealVfs.open(&path, access).expect("opens");
            assert!(
                file.is_viewed(),
                "open for {access:?} by another handle, as another process has"
            );
            let view = other.view(0, 8).expect("views");
            drop(other);
            assert!(file.is_viewed(), "held by another handle that was open for {access:?}");
            drop(view);
            assert!(!file.is_viewed());
        }

        let second = tmp.path().join("second");
        fs::hard_link(&path, &second).expect("links");
        assert!(file.is_viewed(), "by whoever linked it");
        fs::remove_file(&second).expect("removes");
        assert!(!file.is_viewed());

        let reader = RealVfs.open(&path, Access::Read).expect("opens");
        RealVfs.remove(&path).expect("removes");
        assert_eq!(reader.view(0, 8).expect("never written over"), &[7; 8][..]);
    }

    /// Between finding a file by its name and holding it, a reader may lose the name to the next segment.
    #[test]
    fn a_file_that_lost_its_name_while_it_was_opened_is_not_found() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let (path, spare) = (tmp.path().join("f"), tmp.path().join("g"));
        let mut file = RealVfs.create_new(&path).expect("creates");
        file.write_all_at(&[7; 8192], 0).expect("writes");
        let opened = || fs::File::open(&path).expect("opens");
        let (late, later) = (opened(), opened());
        RealVfs.rename(&path, &spare).expect("renames");
        for file in [late, later] {
            let found = RealFile::new(file, Some(path.clone()));
            assert_eq!(found.expect_err("another's").kind(), io::ErrorKind::NotFound);
            RealVfs.create_new(&path).map(drop).unwrap_or_default(); // and then another file has it
        }
        assert!(!file.is_viewed(), "nobody was left holding it");
    }

    #[test]
    fn a_file_opened_for_reading_refuses_writes() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let path = tmp.path().join("f");
        RealVfs.create_new(&path).expect("creates").write_all_at(b"oar", 0).expect("writes");
        let file = RealVfs.open(&path, Access::Read).expect("opens");
        file.write_all_at(b"x", 0).expect_err("read only");
        let mut buf = [0; 3];
        file.read_exact_at(&mut buf, 0).expect("reads");
        assert_eq!(&buf, b"oar");
        assert_eq!(
            file.read_exact_at(&mut buf, 1).expect_err("short").kind(),
            io::ErrorKind::UnexpectedEof
        );
        RealVfs
            .open(&path, Access::ReadWrite)
            .expect("opens")
            .write_all_at(b"x", 0)
            .expect("writes");
    }

    #[test]
    fn a_lock_is_exclusive_names_its_holder_and_ends_with_it() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let path = tmp.path().join("LOCK");
        assert!(!RealVfs.is_locked(&path).expect("nothing there"));
        assert!(!path.exists(), "asking makes nothing");
        let lock = RealVfs.lock(&path).expect("free");
        assert!(RealVfs.is_locked(&path).expect("held"));
        assert_eq!(RealVfs.lock(&path).expect_err("held").kind(), io::ErrorKind::WouldBlock);
        assert_eq!(fs::read_to_string(&path).expect("reads"), std::process::id().to_string());
        drop(lock);
        assert!(!RealVfs.is_locked(&path).expect("given back"));
        RealVfs.lock(&path).expect("free again");
    }
}
