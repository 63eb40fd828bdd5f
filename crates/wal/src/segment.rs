//! A segment: one file of the log, of fixed length, every block of it written before its first use.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::format::{FRAMES_START, Footer, Key, Position, SegmentHeader, Slot, SlotState, Trailer};
use crate::vfs::{File, Vfs};
use crate::{Damage, Error, Lsn, SegmentId, planted};

mod make;

mod loose;
pub(crate) use loose::Loose;

mod pool;
pub(crate) use pool::{Layout, Pool};

mod survey;
pub(crate) use survey::{LOCK, Listing, SPARE, Surveyed, open, survey};

/// How zeros are written. Larger pieces make larger folios in the page cache, and every later small write to one of
/// those costs several times as much.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open segment. What is known about its contents is in the index; this is the file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    /// Length of the file.
    pub(crate) size: u32,
    /// Whether the file was another segment before: what stands behind the frames is not zero then.
    pub(crate) recycled: bool,
    pub(crate) key: Key,
    pub(crate) path: PathBuf,
    file: Box<dyn File>,
    /// The last mark slot written.
    slot: Mutex<Option<Slot>>,
    /// Whether this run has written the footer: once, because readers look into it from then on.
    finished: AtomicBool,
}

impl Segment {
    /// A segment that exists, with what its slots say.
    pub(crate) fn new(
        header: SegmentHeader,
        path: PathBuf,
        file: Box<dyn File>,
        slot: Option<Slot>,
    ) -> Self {
        let SegmentHeader { log_id, id, size, recycled } = header;
        let (key, slot, finished) = (Key(log_id), Mutex::new(slot), AtomicBool::new(false));
        Self { id, size, recycled, key, path, file, slot, finished }
    }

    /// Puts a copy in the segment's place, with the frames before `end`, zeros behind, and its newest mark slot; or,
    /// if given, one that says `durable`. Neither says that the log was closed.
    ///
    /// Frames that may have been acknowledged are never written over where they stand, not even with the same bytes: a
    /// power cut could leave neither. Nor are those that do not count: the page cache would show zeros to the next
    /// process if this one dies before its sync, or the sync fails, and the disk would keep what they hide.
    pub(crate) fn replace(
        &self,
        vfs: &dyn Vfs,
        dir: &Path,
        end: u32,
        durable: Option<Position>,
        sync: bool,
    ) -> Result<(), Error> {
        let (log_id, id, size) = (self.key.0, self.id, self.size);
        let header = SegmentHeader { log_id, id, size, recycled: false };
        let before = *self.slot.lock();
        let counter = before.map_or(0, |slot| slot.counter) + 1;
        let before = before.map(|slot| Slot { clean: false, ..slot });
        let slot = durable.map(|durable| Slot { counter, durable, clean: false }).or(before);
        let copy = Self::make(
            vfs,
            dir,
            header,
            sync,
            || true,
            |file| {
                let mut piece = vec![0; ZEROS.len().min((end - FRAMES_START) as usize)];
                for offset in (FRAMES_START..end).step_by(ZEROS.len()) {
                    piece.truncate((end - offset) as usize);
                    self.file.read_exact_at(&mut piece, u64::from(offset))?;
                    file.write_all_at(&piece, u64::from(offset))?;
                }
                slot.map_or(Ok(()), |slot| {
                    file.write_all_at(&slot.encode(self.key, self.id), u64::from(slot.offset()))
                })
            },
        );
        copy.map(drop)
    }

    /// Removes the file, durably. Whoever reads from it may go on.
    pub(crate) fn remove(&self, vfs: &dyn Vfs, dir: &Path, sync: bool) -> Result<(), Error> {
        vfs.remove(&self.path).map_err(Error::io("remove", &self.path))?;
        if sync { vfs.sync_dir(dir).map_err(Error::io("sync", dir)) } else { Ok(()) }
    }

    /// Gives the file a name under which it waits to become another segment, durably: from then on no crash brings it
    /// back as this one, and it may be written over.
    pub(crate) fn spare(&self, vfs: &dyn Vfs, dir: &Path, sync: bool) -> Result<PathBuf, Error> {
        let spare = self.path.with_extension(SPARE);
        vfs.rename(&self.path, &spare).map_err(Error::io("rename", &self.path))?;
        if sync {
            vfs.sync_dir(dir).map_err(Error::io("sync", dir))?;
        }
        Ok(spare)
    }

    /// Whether anybody holds bytes of the file.
    pub(crate) fn is_viewed(&mut self) -> bool {
        self.file.is_viewed()
    }

    /// Bytes that frames may take.
    pub(crate) fn capacity(&self) -> u64 {
        u64::from(self.size - FRAMES_START)
    }

    pub(crate) fn write(&self, bytes: &[u8], offset: u32) -> Result<(), Error> {
        let fits = self.check_fits(bytes.len(), offset);
        let written = fits.and_then(|()| self.file.write_all_at(bytes, u64::from(offset)));
        written.map_err(|source| self.failed("write to", source))
    }

    /// Writes pieces one behind the other, in one go.
    pub(crate) fn write_pieces(
        &self,
        pieces: &mut [IoSlice<'_>],
        offset: u32,
    ) -> Result<(), Error> {
        let fits = self.check_fits(pieces.iter().map(|piece| piece.len()).sum(), offset);
        let written =
            fits.and_then(|()| self.file.write_all_vectored_at(pieces, u64::from(offset)));
        written.map_err(|source| self.failed("write to", source))
    }

    /// A segment never grows: a file that is longer than its header says is damage. Whoever writes has made sure of it; this
    /// is to fail, and not to lose the log, if he has not.
    fn check_fits(&self, len: usize, offset: u32) -> io::Result<()> {
        let fits = offset as usize + len <= self.size as usize;
        if fits { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    pub(crate) fn read(&self, buf: &mut [u8], offset: u32) -> Result<(), Error> {
        let read = self.file.read_exact_at(buf, u64::from(offset));
        read.map_err(Error::io("read", &self.path))
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|source| self.failed("sync", source))
    }

    /// Only a failure copies the path.
    #[cold]
    fn failed(&self, op: &'static str, source: io::Error) -> Error {
        Error::Io { op, path: self.path.clone(), source }
    }

    /// How far the newest slot here says that the log was durable.
    pub(crate) fn slot_mark(&self) -> Lsn {
        self.slot.lock().map_or(Lsn::default(), |slot| slot.durable.lsn)
    }

    /// Writes a mark slot and syncs it, unless the newest one here says as much; `clean` says that nothing stands behind
    /// `durable`. Synced before it returns: of two slots one at most can be torn, and a header copy with it. Says whether
    /// it wrote.
    pub(crate) fn write_slot(
        &self,
        durable: Position,
        clean: bool,
        sync: bool,
    ) -> Result<bool, Error> {
        let mut slot = self.slot.lock();
        let wrote = self.put_slot(&mut slot, durable, clean)?;
        if wrote && sync {
            self.sync()?;
        }
        Ok(wrote)
    }

    /// Says that the log is open from `durable` on, for whoever opens it: what was said last is made durable once more, and
    /// what is to be said then.
    ///
    /// What a process left that died, or whose sync failed, may be in the page cache alone: a slot that seems to be there
    /// proves nothing, and neither must another one be written before it is durable, or a crash could tear both.
    pub(crate) fn reopen(&self, durable: Position, sync: bool) -> Result<(), Error> {
        let mut slot = self.slot.lock();
        if sync
            && let Some(newest) = &*slot
            && !planted("slot-in-the-page-cache-believed")
        {
            self.put_again(newest)?;
            self.sync()?;
        }
        if self.put_slot(&mut slot, durable, false)? && sync {
            self.sync()?;
        }
        Ok(())
    }

    /// Writes the newest slot once more, in its place, unless the other one is damaged: that was written later then, so
    /// this one had been synced before, and is the only one left.
    fn put_again(&self, newest: &Slot) -> Result<(), Error> {
        let other = Slot { counter: newest.counter + 1, ..*newest }.offset();
        let mut bytes = [0; Slot::LEN];
        self.read(&mut bytes, other)?;
        if Slot::decode(&bytes, self.key, Lsn::new(self.id, other)) == SlotState::Damaged {
            return Ok(());
        }
        self.write(&newest.encode(self.key, self.id), newest.offset())
    }

    /// Writes the footer that is there, and the newest slot, once more, and syncs them: a process that died while it
    /// finished the segment may have left them in the page cache alone.
    pub(crate) fn finish_again(&self, trailer: &Trailer) -> Result<(), Error> {
        let slot = self.slot.lock();
        let mut footer = vec![0; (self.size - trailer.table()) as usize];
        self.read(&mut footer, trailer.table())?;
        self.write(&footer, trailer.table())?;
        slot.iter().try_for_each(|newest| self.put_again(newest))?;
        self.sync()
    }

    fn put_slot(
        &self,
        slot: &mut Option<Slot>,
        durable: Position,
        clean: bool,
    ) -> Result<bool, Error> {
        if slot.is_some_and(|slot| slot.durable.lsn >= durable.lsn && slot.clean == clean) {
            return Ok(false);
        }
        let next = Slot { counter: slot.map_or(0, |slot| slot.counter) + 1, durable, clean };
        self.write(&next.encode(self.key, self.id), next.offset())?;
        *slot = Some(next);
        Ok(true)
    }

    /// Writes what is still to be written to a segment that was left: its footer, if there is room for it, and a slot
    /// that names a later segment. One sync makes both durable; either may be missing after a crash. Says whether there
    /// was anything to write.
    ///
    /// Everything that the footer speaks of must be durable, and the head of the next segment too.
    pub(crate) fn finish(&self, footer: Option<&Footer>, durable: Position) -> Result<bool, Error> {
        let mut slot = self.slot.lock();
        let footer = footer.filter(|_| !self.finished.swap(true, Ordering::AcqRel));
        let footer = footer.and_then(|footer| footer.encode(self.key, self.id, self.size));
        if let Some((at, bytes)) = &footer {
            self.write(bytes, *at)?;
        }
        let wrote = self.put_slot(&mut slot, durable, false)? || footer.is_some();
        if wrote {
            self.sync()?;
        }
        Ok(wrote)
    }

    /// Whether the newest slot says that the log was closed here.
    pub(crate) fn closed(&self) -> bool {
        self.slot.lock().is_some_and(|slot| slot.clean)
    }

    /// The bytes of one whole entry or several, from `start` to `end`, which must have been written completely.
    pub(crate) fn view(&self, start: u32, end: u32) -> Result<Bytes, Error> {
        // What leads here was checked once; a disk may have changed it since.
        let damage = Damage::Bounds { found: end };
        let len = end.checked_sub(start).filter(|_| end <= self.size);
        let len = len.ok_or_else(|| Error::corrupt(self.id, start, damage))?;
        let view = self.file.view(u64::from(start), len as usize);
        view.map_err(|source| self.failed("map", source))
    }

    /// The damage that a wrong length is.
    pub(crate) fn check_length(&self) -> Result<(), Error> {
        let found = self.file.len().map_err(Error::io("read the length of", &self.path))?;
        let expected = u64::from(self.size);
        if found == expected {
            Ok(())
        } else {
            let damage = Damage::Length { expected, found };
            Err(Error::corrupt(self.id, expected.min(found), damage))
        }
    }
}
