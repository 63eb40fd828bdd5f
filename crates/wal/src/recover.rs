//! Every state a crash can leave, and the answer to each.
//!
//! A crash here again, at any step, leaves a state that the next open answers in the same way: the copy of a torn tail
//! is durable before the tail is zeroed, zeroing takes nothing away that counted, and what counts is written again to
//! a new file that takes the segment's place at once.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::format::FRAMES_START;
use crate::scan::{Junk, Scan};
use crate::segment::{Listing, Surveyed};
use crate::vfs::Vfs;
use crate::{EntryId, Error, SegmentId, planted};

/// What was found when the log was opened, and done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// A batch that a crash cut off, or several, none of them ever acknowledged.
    pub torn: Option<TornTail>,
    /// The last entry that counts.
    pub last: EntryId,
    /// Bytes that counted without a proof that they were durable. They were written again and synced, because a process
    /// that was killed leaves its unsynced writes readable (contract O20).
    pub rewritten: u64,
    /// Temporary files of segments that were being prepared, removed.
    pub temporaries: Vec<OsString>,
    /// Copies of the segment header that do not read back, by segment and offset, while others do. No crash damages
    /// the first: if it is here, look at the disk.
    pub damaged_headers: Vec<(SegmentId, u32)>,
    /// Segments whose footer was written whole and no longer reads back, or does not say what the frames say. Nothing is
    /// lost: the segment was read instead, and the footer is written anew. But no crash does that.
    pub damaged_footers: Vec<SegmentId>,
    /// Files in the directory that are not the log's; left alone.
    pub unknown: Vec<OsString>,
}

/// The end of a log that a crash tore: cut off, and kept in files beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The segment it begins in.
    pub segment: SegmentId,
    /// Where in that segment's file.
    pub offset: u64,
    /// How many bytes, from the first that does not count to the last that is not zero, in each segment.
    pub bytes: u64,
    /// The copies, one for each segment; empty if the log was opened read-only, which changes nothing.
    pub set_aside: Vec<PathBuf>,
}

impl Recovery {
    pub(crate) fn of(surveyed: &[Surveyed], listing: &Listing, scan: &Scan) -> Self {
        let damaged = surveyed
            .iter()
            .flat_map(|one| one.damaged_headers.iter().map(|offset| (one.segment.id, *offset)));
        Self {
            temporaries: listing.temporaries.clone(),
            unknown: listing.unknown.clone(),
            damaged_headers: damaged.collect(),
            damaged_footers: scan.damaged_footers.clone(),
            torn: TornTail::of(&scan.junk),
            last: scan.end.last,
            ..Self::default()
        }
    }

    /// Tells the operator.
    pub(crate) fn log(&self, dir: &Path) {
        let dir = dir.display();
        if let Some(torn) = &self.torn {
            let TornTail { segment, offset, bytes, .. } = torn;
            let last = self.last.index;
            log::warn!(
                dir:%, segment:%, offset, bytes, last;
                "a crash tore the end of the log; nothing of it was acknowledged, and a copy is kept"
            );
        }
        for (segment, offset) in &self.damaged_headers {
            log::warn!(dir:%, segment:%, offset; "a copy of a segment header does not read back");
        }
        for segment in &self.damaged_footers {
            log::warn!(dir:%, segment:%; "the footer of a segment does not read back; it is written anew");
        }
        for name in &self.unknown {
            log::warn!(dir:%, name:?; "not a file of the log, left alone");
        }
        let Self { last, rewritten, .. } = self;
        log::info!(dir:%, last_index = last.index, last_term = last.term, rewritten; "log opened");
    }
}

impl TornTail {
    pub(crate) fn of(junk: &[Junk]) -> Option<Self> {
        let first = junk.first()?;
        Some(Self {
            segment: first.segment.id,
            offset: first.start.into(),
            bytes: junk.iter().map(|j| u64::from(j.end - j.start)).sum(),
            set_aside: Vec::new(),
        })
    }
}

/// Cuts a torn tail off, and makes durable what counts. Says whether anything had to be changed: then the scan speaks
/// of files that were replaced, and another one will find nothing to do.
pub(crate) fn repair(
    vfs: &dyn Vfs,
    dir: &Path,
    scan: &mut Scan,
    sync: bool,
    report: &mut Recovery,
) -> Result<bool, Error> {
    if let Some(torn) = &mut report.torn {
        for junk in &scan.junk {
            torn.set_aside.push(set_aside(vfs, dir, junk, sync)?);
        }
    }
    if sync {
        // Also for a segment that was renamed to its final name just before the process died.
        vfs.sync_dir(dir).map_err(Error::io("sync", dir))?;
    }
    for junk in scan.junk.iter().rev() {
        junk.segment.zero(junk.start, junk.end)?;
        if sync {
            junk.segment.sync()?;
        }
    }
    if sync {
        report.rewritten = rewrite(vfs, dir, scan)?;
    }
    // If the log was closed there, that is taken back before anything is written behind.
    if report.rewritten == 0
        && let Some((active, _)) = scan.ends.last()
        && (sync || active.closed())
        && !(planted("clean-flag-not-cleared") && active.closed())
    {
        active.write_slot(scan.end, false, sync)?;
    }
    Ok(report.torn.is_some() || report.rewritten > 0)
}

/// Writes everything that counts beyond the proven mark once more, and syncs it (O20): each segment that holds some of
/// it gives way to a copy, oldest first, and the last of them says that now all is durable.
fn rewrite(vfs: &dyn Vfs, dir: &Path, scan: &mut Scan) -> Result<u64, Error> {
    let mut rewritten = 0;
    for (segment, end) in &scan.ends {
        let proven = match segment.id.cmp(&scan.proven.segment()) {
            Ordering::Less => continue,
            Ordering::Equal => scan.proven.offset().max(FRAMES_START),
            Ordering::Greater => FRAMES_START,
        };
        if proven < *end && !planted("unsynced-tail-trusted") {
            let durable = Some(scan.end).filter(|all| all.lsn.segment() == segment.id);
            loop {
                match (segment.replace(vfs, dir, *end, durable), scan.ready.pop()) {
                    // A full disk must not keep the log from opening: what was prepared ahead makes room for the copy.
                    (Err(Error::NoSpace { .. }), Some(spare)) => spare.remove(vfs, dir, true)?,
                    (replaced, spare) => {
                        scan.ready.extend(spare);
                        break replaced?;
                    }
                }
            }
            rewritten += u64::from(end - proven);
        }
    }
    Ok(rewritten)
}

/// Copies a piece of a torn tail to a file of its own, durably.
fn set_aside(vfs: &dyn Vfs, dir: &Path, junk: &Junk, sync: bool) -> Result<PathBuf, Error> {
    let mut bytes = vec![0; (junk.end - junk.start) as usize];
    junk.segment.read(&mut bytes, junk.start)?;
    let stem = format!("{:08x}.torn-{:08x}", junk.segment.id.0, junk.start);
    let mut path = dir.join(&stem);
    let mut tries = 1_u32;
    let file = loop {
        match vfs.create_new(&path) {
            // An earlier recovery died here, or tore at the same place: never overwrite what it kept.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                path = dir.join(format!("{stem}-{tries}"));
                tries += 1;
            }
            created => break created.map_err(Error::io("create", &path))?,
        }
    };
    file.write_all_at(&bytes, 0).map_err(Error::io("write to", &path))?;
    if sync {
        file.sync_all().map_err(Error::io("sync", &path))?;
    }
    Ok(path)
}
