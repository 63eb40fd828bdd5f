//! Making segments: out of zeros, or out of a file that was one before.

use std::io;
use std::path::Path;

use super::{Segment, ZEROS};
use crate::error::is_full;
use crate::format::{FRAMES_START, HEADER_COPIES, SegmentHeader, Trailer};
use crate::vfs::{Access, File, Vfs};
use crate::{Error, planted};

/// Where there is time, zeros are synced in pieces of so many bytes: an append's own sync then waits for one of those at
/// most, and not for a whole segment.
const PACE: u32 = 1 << 20;

impl Segment {
    /// Makes a segment that is durable under its final name, every block written, with what `fill` adds to the headers.
    /// A crash before the end leaves a temporary file at most, so a segment under its own name is always whole; one
    /// that had the name before is replaced at once. `hurry` says whether somebody may be waiting for it by now.
    ///
    /// A failure leaves nothing that counts and can be tried again, but for that of the directory's sync, which is an
    /// [`Error::Io`].
    pub(crate) fn make(
        vfs: &dyn Vfs,
        dir: &Path,
        header: SegmentHeader,
        sync: bool,
        hurry: impl Fn() -> bool,
        fill: impl FnOnce(&dyn File) -> io::Result<()>,
    ) -> Result<Self, Error> {
        let temporary = dir.join(header.id.to_string()).with_extension("tmp");
        let make = || {
            match vfs.remove(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let file = vfs.create_new(&temporary)?;
            for offset in (0..header.size).step_by(ZEROS.len()) {
                let piece = ZEROS.len().min((header.size - offset) as usize);
                file.write_all_at(&ZEROS[..piece], u64::from(offset))?;
                if sync && (offset + ZEROS.len() as u32).is_multiple_of(PACE) && !hurry() {
                    file.sync_data()?;
                }
            }
            for offset in HEADER_COPIES {
                file.write_all_at(&header.encode(), u64::from(offset))?;
            }
            fill(&*file)?;
            Ok(file)
        };
        Self::name(vfs, dir, header, sync, &temporary, make)
    }

    /// Makes a segment of a spare, in the same way: its blocks are written already, so only the head is, and the place of
    /// the footer's end. Nothing that it holds counts: it is keyed to another segment. `None` if it is no good, because it
    /// is not as long or somebody holds bytes of it; it is removed then, and after a failure too.
    pub(crate) fn recycle(
        vfs: &dyn Vfs,
        dir: &Path,
        header: SegmentHeader,
        sync: bool,
        spare: &Path,
    ) -> Result<Option<Self>, Error> {
        let open = || {
            let mut file = vfs.open(spare, Access::ReadWrite)?;
            let viewed = file.is_viewed() && !planted("recycled-while-read");
            let good = file.len()? == u64::from(header.size) && !viewed;
            Ok::<_, io::Error>(good.then_some(file))
        };
        let Ok(Some(file)) = open() else {
            let _ = vfs.remove(spare); // a name that counts for nothing; the next open tries again
            return Ok(None);
        };
        let make = || {
            let mut head = vec![0; FRAMES_START as usize];
            for offset in HEADER_COPIES {
                let copy = &mut head[offset as usize..][..SegmentHeader::LEN];
                copy.copy_from_slice(&header.encode());
            }
            file.write_all_at(&head, 0)?;
            file.write_all_at(&[0; Trailer::LEN], Trailer::offset(header.size).into())?;
            // An append that begins or ends inside a block reads it, if it is not in the page cache; better here.
            let mut piece = vec![0; ZEROS.len()];
            for offset in (0..header.size).step_by(ZEROS.len()) {
                piece.truncate((header.size - offset) as usize);
                file.read_exact_at(&mut piece, u64::from(offset))?;
            }
            Ok(file)
        };
        Self::name(vfs, dir, header, sync, spare, make).map(Some)
    }

    /// Makes what `make` makes under the name `from` durable, then its final name, and cleans up if that fails.
    fn name(
        vfs: &dyn Vfs,
        dir: &Path,
        header: SegmentHeader,
        sync: bool,
        from: &Path,
        make: impl FnOnce() -> io::Result<Box<dyn File>>,
    ) -> Result<Self, Error> {
        let path = dir.join(header.id.to_string());
        let made = make().and_then(|file| {
            if sync {
                file.sync_all()?;
            }
            vfs.rename(from, &path)?;
            Ok(file)
        });
        let file = match made {
            Ok(file) => file,
            Err(source) => {
                // Not worth a second error: what is left is removed by the next try or the next open.
                let _ = vfs.remove(from);
                return Err(if is_full(&source) {
                    Error::NoSpace { path, source }
                } else {
                    Error::NotPrepared { path, source }
                });
            }
        };
        if sync && !planted("no-directory-sync") {
            // Unlike the rest, this is about names that count.
            vfs.sync_dir(dir).map_err(Error::io("sync", dir))?;
        }
        Ok(Self::new(header, path, file, None))
    }
}
