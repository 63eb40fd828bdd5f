//! Doing what a plan says.
//!
//! A crash at any step leaves a log that is refused as before, or one that opens with what the plan keeps, and no third
//! thing: what is removed lies behind the end of what reads back, or in front of what a snapshot covers, and a segment is
//! replaced by a rename. In both cases the same call, on a new plan, ends what was begun. Until the copy is durable nothing
//! is touched.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Cut, DropFront, Plan, Remedy, Weight};
use crate::error::is_full;
use crate::segment::Loose;
use crate::vfs::{Access, Vfs};
use crate::{Damage, EntryId, Error, SegmentId};

/// How a plan is carried out.
///
/// ```
/// use oarlock_wal::repair::ApplyOptions;
/// let options = ApplyOptions::new().accept_loss(true).copy_to("/mnt/spare/before-repair");
/// # drop(options);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    accept_loss: bool,
    copy_to: Option<PathBuf>,
}

impl ApplyOptions {
    /// Loses nothing that may have been acknowledged, and keeps the copy beside the log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether what was committed, or may have been acknowledged, may be cut off. Off by default.
    #[must_use]
    pub fn accept_loss(mut self, on: bool) -> Self {
        self.accept_loss = on;
        self
    }

    /// Where the copy goes: a directory that does not exist yet, on another disk if this one is full. By default beside
    /// the log's: `wal.before-repair-1`, or the next number that is free.
    #[must_use]
    pub fn copy_to(mut self, dir: impl Into<PathBuf>) -> Self {
        self.copy_to = Some(dir.into());
        self
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Repaired {
    /// Where the files are that were replaced or removed, as they were, with the plan in `PLAN.txt`. `None` if nothing had
    /// to be done.
    pub copy: Option<PathBuf>,
    /// The last entry of the log now.
    pub last: EntryId,
}

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The plan gives up what may have been acknowledged, and nobody said that it may. Nothing was changed.
    #[error("what would be cut off was {}", match weight {
        Weight::Committed => "committed",
        _ => "durable or cannot be looked at, and may have been acknowledged",
    })]
    Loss {
        /// How bad it is.
        weight: Weight,
    },
    /// The plan keeps nothing. Nothing was changed.
    #[error("nothing of the log can be kept")]
    NoRemedy,
    /// The log is not what it was when the plan was made: make another. Nothing was changed.
    #[error("the log has changed since the plan was made")]
    Changed,
    /// There is something in the directory for the copy. Nothing was changed.
    #[error("there is something in {} already", dir.display())]
    CopyExists {
        /// The directory.
        dir: PathBuf,
    },
    /// The copy could not be made, for want of space or otherwise. Nothing was changed; what there is of the copy can be
    /// removed.
    #[error("cannot make a copy in {}", dir.display())]
    Copy {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        source: Box<Error>,
    },
    /// The log is in use ([`Error::Locked`]), or the disk failed on the way: the copy is whole, and the same may be tried
    /// again.
    #[error(transparent)]
    Log(#[from] Error),
}

/// Written into the copy last.
const MANIFEST: &str = "PLAN.txt";

impl Plan {
    /// Does what the plan says: locks the log, makes sure that nothing has changed, copies every file that will be touched,
    /// syncs the copy, and only then repairs. At the end the log is read again, every byte of it.
    ///
    /// # Errors
    /// [`RepairError`], which says whether anything was changed.
    pub fn apply(&self, how: &ApplyOptions) -> Result<Repaired, RepairError> {
        let (vfs, dir) = (&**self.options.files(), &*self.dir);
        let _lock = self.options.lock(dir)?;
        let now = Self::new(&self.options, dir)?;
        if (&now.finding, &now.remedy) != (&self.finding, &self.remedy) {
            return Err(RepairError::Changed);
        }
        let touched = match &self.remedy {
            Remedy::Nothing => Vec::new(),
            Remedy::DropFront(front) => front.removed.clone(),
            Remedy::Cut(cut) => cut.rewritten.iter().chain(&cut.removed).copied().collect(),
            Remedy::None => return Err(RepairError::NoRemedy),
        };
        let weight = self.weight();
        if weight > Weight::Nothing && !how.accept_loss {
            return Err(RepairError::Loss { weight });
        }
        let mut copy = None;
        if !touched.is_empty() {
            let to = self.copy_dir(how)?;
            let copied = self.copy(&touched, &to);
            copied.map_err(|error| RepairError::Copy { dir: to.clone(), source: error.into() })?;
            log::warn!(dir:% = dir.display(), copy:% = to.display(); "repairing the log, a copy is kept");
            copy = Some(to);
        }
        match &self.remedy {
            Remedy::DropFront(DropFront { removed, .. }) => {
                removed.iter().try_for_each(|id| remove(vfs, dir, *id))?;
            }
            Remedy::Cut(cut) => cut_off(vfs, dir, cut)?,
            _ => {}
        }
        let log = self.options.open_read_only(dir)?;
        let last = log.last_index();
        let last = EntryId { term: log.term(last)?, index: last };
        Ok(Repaired { copy, last })
    }

    fn copy_dir(&self, how: &ApplyOptions) -> Result<PathBuf, RepairError> {
        let vfs = self.options.files();
        let is_free = |dir: &Path| match vfs.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            listed => Ok(listed.map_err(Error::io("list", dir))?.is_empty()),
        };
        if let Some(dir) = &how.copy_to {
            return match is_free(dir) {
                Ok(true) => Ok(dir.clone()),
                Ok(false) => Err(RepairError::CopyExists { dir: dir.clone() }),
                Err(error) => Err(RepairError::Log(error)),
            };
        }
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for number in 1_u32.. {
            let dir = self.dir.with_file_name(format!("{name}.before-repair-{number}"));
            if is_free(&dir)? {
                return Ok(dir);
            }
        }
        Err(RepairError::CopyExists { dir: self.dir.clone() })
    }

    /// Copies segments, and the plan, durably.
    fn copy(&self, segments: &[SegmentId], to: &Path) -> Result<(), Error> {
        let vfs = &**self.options.files();
        vfs.create_dir_all(to).map_err(Error::io("create directory", to))?;
        let mut piece = vec![0; 64 << 10];
        for id in segments {
            let from = self.dir.join(id.to_string());
            let source = vfs.open(&from, Access::Read).map_err(Error::io("open", &from))?;
            let len = source.len().map_err(Error::io("read the length of", &from))?;
            let path = to.join(id.to_string());
            write(vfs, &path, |write| {
                let mut at = 0;
                while at < len {
                    piece.truncate((len - at).min(64 << 10) as usize);
                    source.read_exact_at(&mut piece, at)?;
                    write(&piece, at)?;
                    at += piece.len() as u64;
                }
                piece.resize(64 << 10, 0);
                Ok(())
            })?;
        }
        write(vfs, &to.join(MANIFEST), |write| write(self.to_string().as_bytes(), 0))?;
        vfs.sync_dir(to).map_err(Error::io("sync", to))
    }
}

/// Writes a new file and syncs it.
fn write(
    vfs: &dyn Vfs,
    path: &Path,
    fill: impl FnOnce(&mut dyn FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<()>,
) -> Result<(), Error> {
    let written = vfs.create_new(path).and_then(|file| {
        fill(&mut |bytes, at| file.write_all_at(bytes, at))?;
        file.sync_all()
    });
    written.map_err(|source| match source {
        source if is_full(&source) => Error::NoSpace { path: path.into(), source },
        source => Error::io("write", path)(source),
    })
}

fn remove(vfs: &dyn Vfs, dir: &Path, id: SegmentId) -> Result<(), Error> {
    let path = dir.join(id.to_string());
    vfs.remove(&path).map_err(Error::io("remove", &path))?;
    vfs.sync_dir(dir).map_err(Error::io("sync", dir))
}

/// Newest first, so that no step leaves a gap; then the segments that stay, each replaced at once by one whose marks are
/// true of what is left.
fn cut_off(vfs: &dyn Vfs, dir: &Path, cut: &Cut) -> Result<(), Error> {
    for id in cut.removed.iter().rev() {
        remove(vfs, dir, *id)?;
    }
    for (id, end) in &cut.ends {
        if cut.rewritten.contains(id) {
            let unreadable = || Error::corrupt(*id, 0_u64, Damage::Header);
            let loose = Loose::open(vfs, dir, *id)?.ok_or_else(unreadable)?;
            loose.segment.replace(vfs, dir, *end, Some(cut.end), true)?;
        }
    }
    Ok(())
}
