//! [`SimDisk`] as the log sees it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::disk::SimDisk;
use super::fault::Fault;
use super::machine::Machine;
use super::state::{Change, FileId};
use super::trace::Op;
use crate::vfs::{Access, File, Lock, Vfs};

const NO_RANGE: (u64, u64) = (0, 0);

impl SimDisk {
    /// One operation on a name: begin, do, put into the trace.
    fn name<T>(
        &self,
        op: Op,
        path: &Path,
        run: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.machine();
        let done = machine.begin(op).and_then(|()| run(&mut machine));
        machine.end((op, path), NO_RANGE, done)
    }

    fn file(&self, path: &Path, id: FileId, access: Access) -> SimFile {
        SimFile { disk: self.clone(), path: path.to_owned(), id, access }
    }
}

impl Vfs for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<_> = {
            let machine = self.machine();
            machine.powered()?;
            dir.ancestors().filter(|d| !machine.state.dirs.contains_key(*d)).collect()
        };
        let mut made = missing.into_iter().rev();
        made.try_for_each(|d| {
            self.name(Op::CreateDir, d, |m| m.change(Change::CreateDir(d.to_owned())))
        })
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.name(Op::Create, path, |machine| create(machine, path))
            .map(|id| Box::new(self.file(path, id, Access::ReadWrite)) as Box<dyn File>)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.name(Op::Open, path, |machine| find(machine, path))
            .map(|id| Box::new(self.file(path, id, access)) as Box<dyn File>)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.name(Op::Rename, to, |machine| {
            find(machine, from)?;
            let ((dir, from), (other, to)) = (split(from)?, split(to)?);
            if dir != other {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "SimDisk renames within a directory",
                ));
            }
            machine.change(Change::Rename {
                dir: dir.to_owned(),
                from: from.to_owned(),
                to: to.to_owned(),
            })
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.name(Op::Remove, path, |machine| {
            find(machine, path)?;
            let (dir, name) = split(path)?;
            machine.change(Change::Remove { dir: dir.to_owned(), name: name.to_owned() })
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.name(Op::List, dir, |machine| {
            let dirs = &machine.state.dirs;
            let files = dirs.get(dir).ok_or(io::ErrorKind::NotFound)?.live.keys().cloned();
            let below = dirs.keys().filter(|d| d.parent() == Some(dir));
            let below: BTreeSet<_> =
                below.filter_map(|d| Some(d.file_name()?.to_owned())).collect();
            Ok(files.chain(below).collect())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.name(Op::SyncDir, dir, |machine| {
            if !machine.state.dirs.contains_key(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            machine.change(Change::SyncDir(dir.to_owned()))
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.name(Op::Lock, path, |machine| {
            if machine.locks.contains(path) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let file = match find(machine, path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => create(machine, path)?,
                found => found?,
            };
            machine.change(Change::SetLen { file, len: 0 })?;
            machine.change(Change::Write {
                file,
                offset: 0,
                data: std::process::id().to_string().into(),
            })?;
            machine.locks.insert(path.to_owned());
            Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }) as Box<dyn Lock>)
        })
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        Ok(self.machine().locks.contains(path))
    }
}

fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    path.parent().zip(path.file_name()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn find(machine: &Machine, path: &Path) -> io::Result<FileId> {
    let (dir, name) = split(path)?;
    machine.state.file(dir, name).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn create(machine: &mut Machine, path: &Path) -> io::Result<FileId> {
    let (dir, name) = split(path)?;
    if find(machine, path).is_ok() || machine.state.dirs.contains_key(path) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    if !machine.state.dirs.contains_key(dir) {
        return Err(io::ErrorKind::NotFound.into());
    }
    machine.change(Change::Create { dir: dir.to_owned(), name: name.to_owned() })?;
    find(machine, path)
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    id: FileId,
    access: Access,
}

impl SimFile {
    /// One operation on the contents: begin, do, put into the trace.
    fn run<T>(
        &self,
        op: Op,
        range: (u64, u64),
        run: impl FnOnce(&mut Machine, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.disk.machine();
        let done = machine.begin_faulty(op).and_then(|fault| run(&mut machine, fault));
        machine.end((op, &self.path), range, done)
    }

    fn read<T>(&self, offset: u64, len: usize, take: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        self.run(Op::Read, (offset, len as u64), |machine, fault| {
            no_fault(fault)?;
            let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            let end = start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
            let file = machine.state.files.get(&self.id).ok_or(io::ErrorKind::NotFound)?;
            let bytes = if len == 0 { Some(&[][..]) } else { file.live.get(start..end) };
            Ok(take(bytes.ok_or(io::ErrorKind::UnexpectedEof)?))
        })
    }

    fn writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.disk.machine();
        let done = machine.begin_faulty(Op::Sync).and_then(|fault| {
            let upto = machine.state.now;
            machine.syncs_waiting += 1;
            self.disk.shared.changed.notify_all();
            while machine.syncs_held && machine.off.is_none() {
                self.disk.shared.changed.wait(&mut machine);
            }
            machine.syncs_waiting -= 1;
            if let Some(fault) = fault {
                machine.change(Change::SyncFailed { file: self.id, upto })?;
                return Err(fault.error());
            }
            machine.change(Change::Sync { file: self.id, upto })
        });
        machine.end((Op::Sync, &self.path), NO_RANGE, done)
    }
}

fn no_fault(fault: Option<Fault>) -> io::Result<()> {
    fault.map_or(Ok(()), |fault| Err(fault.error()))
}

impl File for SimFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.run(Op::Write, (offset, bytes.len() as u64), |machine, fault| {
            self.writable()?;
            let file = self.id;
            let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let end = offset.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            let mut fits = bytes.len();
            let mut error = None;
            if let Some(fault) = fault {
                fits = if let Fault::Short(n) = fault { fits.min(n) } else { 0 };
                error = Some(fault.error());
            }
            let len = machine.state.files.get(&file).map_or(0, |f| f.live.len());
            let grows = end.saturating_sub(len);
            let room =
                machine.capacity.map_or(usize::MAX, |c| c.saturating_sub(machine.state.used()));
            if grows > room {
                fits = fits.min((len + room).saturating_sub(offset));
                error = error.or(Some(Fault::NoSpace.error()));
            }
            let mut cut = false;
            if let Some(left) = &mut machine.bytes_left {
                cut = *left < fits;
                fits = fits.min(*left);
                *left -= fits;
            }
            if fits > 0 || error.is_none() && !cut {
                machine.change(Change::Write {
                    file,
                    offset,
                    data: Bytes::copy_from_slice(&bytes[..fits]),
                })?;
            }
            if cut {
                machine.off = Some("the power failed");
            }
            machine.powered()?;
            error.map_or(Ok(()), Err)
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(offset, buf.len(), |bytes| buf.copy_from_slice(bytes))
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.read(offset, len, Bytes::copy_from_slice)
    }

    fn is_viewed(&mut self) -> bool {
        false // views are copies
    }

    fn len(&self) -> io::Result<u64> {
        let machine = self.disk.machine();
        machine.powered()?;
        Ok(machine.state.files.get(&self.id).map_or(0, |f| f.live.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.run(Op::SetLen, (0, len), |machine, fault| {
            no_fault(fault)?;
            self.writable()?;
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let grows =
                len.saturating_sub(machine.state.files.get(&self.id).map_or(0, |f| f.live.len()));
            if machine.capacity.is_some_and(|c| machine.state.used() + grows > c) {
                return Err(Fault::NoSpace.error());
            }
            machine.change(Change::SetLen { file: self.id, len })
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.machine().locks.remove(&self.path);
    }
}
