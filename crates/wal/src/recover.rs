//! Every state a crash can leave, and the answer to each.
//!
//! A crash here again, at any step, leaves a state that the next open answers in the same way: the copy of a torn tail
//! is durable before the tail goes, and what counts is written to a new file, without the tail, that takes the segment's
//! place at once. A process that is killed here leaves the page cache to the next one, where what is written and what is
//! durable look alike: so nothing that decides is believed for being there. Files are replaced only when they are
//! durable, and slots and footers are written again.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::is_full;
use crate::format::{FRAMES_START, FooterState};
use crate::scan::{Junk, Scan};
use crate::segment::{Listing, Segment, Surveyed};
use crate::vfs::{Access, File, Vfs};
use crate::{EntryId, Error, SegmentId, planted};

/// What was found when the log was opened, and done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// A batch that a crash cut off, or several, none of them known to have been durable.
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
                "a crash tore the end of the log; nothing of it is known to have been durable, and a copy is kept"
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
///
/// What gives way on a full disk, segments that were prepared and `spares`, is no longer in the scan or among those.
pub(crate) fn repair(
    vfs: &dyn Vfs,
    dir: &Path,
    scan: &mut Scan,
    spares: &mut Vec<OsString>,
    sync: bool,
    report: &mut Recovery,
) -> Result<bool, Error> {
    let Scan { junk, ready, ends, end, proven, .. } = scan;
    let torn = |segment: &Segment| junk.iter().any(|junk| junk.segment.id == segment.id);
    let first = ready.iter().position(|segment| torn(segment)).unwrap_or(ready.len());
    // What holds pieces of the tail goes, but not before copies of all of them are durable.
    let keep = ready.iter().rposition(|segment| torn(segment)).map_or(0, |last| last + 1);
    let mut room = Room { vfs, dir, ready, keep, spares, sync };
    if let Some(torn) = &mut report.torn {
        for junk in &*junk {
            torn.set_aside.push(room.make(|| set_aside(vfs, dir, junk, sync))?);
        }
    }
    if sync {
        // Also for a segment that was renamed to its final name just before the process died.
        vfs.sync_dir(dir).map_err(Error::io("sync", dir))?;
    }
    // Newest first, so that no crash leaves a hole.
    room.keep = first;
    while room.ready.len() > first {
        room.drop_ready()?;
    }
    room.keep = 0;

    let mut active = ends.last().map(|(segment, _)| segment);
    for (segment, at) in &*ends {
        let from = match segment.id.cmp(&proven.segment()) {
            Ordering::Less => *at,
            Ordering::Equal => proven.offset().max(FRAMES_START),
            Ordering::Greater => FRAMES_START,
        };
        let unproven =
            if sync && !planted("unsynced-tail-trusted") { at.saturating_sub(from) } else { 0 };
        #[cfg(oarlock_planted)]
        if unproven == 0 && crate::planted::zeroed(junk, segment)? {
            continue;
        }
        if unproven > 0 || torn(segment) {
            let durable = Some(*end).filter(|all| sync && all.lsn.segment() == segment.id);
            room.make(|| segment.replace(vfs, dir, *at, durable, sync))?;
            report.rewritten += u64::from(unproven);
            active = active.filter(|active| active.id != segment.id);
        }
    }
    // If the log was closed there, that is taken back before anything is written behind.
    if let Some(active) = active
        && (sync || active.closed())
        && !(planted("clean-flag-not-cleared") && active.closed())
    {
        active.reopen(*end, sync)?;
    }
    Ok(report.torn.is_some() || report.rewritten > 0)
}

/// What can give way when the disk is full: a full disk must not keep the log from opening.
struct Room<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    /// Segments prepared ahead, of which the first few must stay.
    ready: &'a mut Vec<Arc<Segment>>,
    keep: usize,
    spares: &'a mut Vec<OsString>,
    sync: bool,
}

impl Room<'_> {
    /// Tries until there is room, or nothing is left to give way.
    fn make<T>(&mut self, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            match attempt() {
                Err(error @ Error::NoSpace { .. }) if !self.give_way()? => return Err(error),
                Err(Error::NoSpace { .. }) => {}
                done => return done,
            }
        }
    }

    fn give_way(&mut self) -> Result<bool, Error> {
        if self.ready.len() > self.keep {
            return self.drop_ready().map(|()| true);
        }
        let Some(spare) = self.spares.pop().map(|name| self.dir.join(name)) else {
            return Ok(false);
        };
        self.vfs.remove(&spare).map_err(Error::io("remove", &spare))?;
        Ok(true)
    }

    fn drop_ready(&mut self) -> Result<(), Error> {
        let newest = self.ready.pop();
        newest.map_or(Ok(()), |segment| segment.remove(self.vfs, self.dir, self.sync))
    }
}

/// Copies a piece of a torn tail to a file of its own, durably.
fn set_aside(vfs: &dyn Vfs, dir: &Path, junk: &Junk, sync: bool) -> Result<PathBuf, Error> {
    let mut bytes = vec![0; (junk.end - junk.start) as usize];
    junk.segment.read(&mut bytes, junk.start)?;
    let path = dir.join(format!("{:08x}.torn-{:08x}", junk.segment.id.0, junk.start));
    let failed = |path: &Path, source| {
        if is_full(&source) {
            Error::NoSpace { path: path.into(), source }
        } else {
            Error::io("write", path)(source)
        }
    };
    let (file, path) = free(vfs, &path, &bytes).map_err(|source| failed(&path, source))?;
    let kept = file.write_all_at(&bytes, 0);
    let kept = kept.and_then(|()| if sync { file.sync_all() } else { Ok(()) });
    match kept {
        Ok(()) => Ok(path),
        Err(source) => {
            let _ = vfs.remove(&path); // part of a copy of what is still there
            Err(failed(&path, source))
        }
    }
}

/// Opens a file under this name, or under one with a number behind it. What an earlier recovery kept is never written
/// over, but with what it says.
fn free(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) -> io::Result<(Box<dyn File>, PathBuf)> {
    let mut name = path.to_owned();
    let mut tries = 1_u32;
    loop {
        match vfs.create_new(&name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|file| (file, name)),
        }
        let file = vfs.open(&name, Access::ReadWrite)?;
        let len = file.len()?.min(bytes.len() as u64 + 1) as usize;
        let mut there = vec![0; len];
        file.read_exact_at(&mut there, 0)?;
        if bytes.starts_with(&there) {
            return Ok((file, name)); // it died, or the disk was full behind it, and it was about the same tail
        }
        name = path.as_os_str().to_owned().into();
        name.as_mut_os_string().push(format!("-{tries}"));
        tries += 1;
    }
}

/// Makes the newest footer durable, and the slot beside it. Of those before it is known: they are written one by one, each
/// synced before the next.
pub(crate) fn keep_footer(segments: &[Surveyed]) -> Result<(), Error> {
    let newest = segments.iter().rev().find(|one| one.footer != FooterState::Missing);
    match newest.map(|one| (&one.segment, one.footer)) {
        Some((segment, FooterState::Valid(trailer)))
            if !planted("footer-in-the-page-cache-believed") =>
        {
            segment.finish_again(&trailer)
        }
        _ => Ok(()), // one that does not read back is written anew in due course
    }
}
