//! Opening the segments of a directory: names, headers, lengths, mark slots. No frame is read here.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Segment;
use crate::format::{FRAMES_START, FooterState, HEADER_COPIES, HeaderError, Key};
use crate::format::{SLOT_OFFSETS, SegmentHeader, Slot, SlotState, Trailer};
use crate::vfs::{Access, Vfs};
use crate::{Damage, Error, Lsn, SegmentId};

/// The names in a log's directory, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Ascending.
    pub(crate) segments: Vec<SegmentId>,
    /// What a crash left of segments that were being prepared.
    pub(crate) temporaries: Vec<OsString>,
    /// Released, and waiting to become segments again.
    pub(crate) spares: Vec<OsString>,
    /// Set aside by earlier recoveries.
    pub(crate) torn: Vec<OsString>,
    /// Not ours; left alone.
    pub(crate) unknown: Vec<OsString>,
}

/// The extension of a spare's name.
pub(crate) const SPARE: &str = "free";

/// The name of the lock file.
pub(crate) const LOCK: &str = "LOCK";

impl Listing {
    /// Lists `dir`; `None` if there is no such directory.
    pub(crate) fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Self>, Error> {
        let names = match vfs.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            listed => listed.map_err(Error::io("list", dir))?,
        };
        let mut listing = Self::default();
        for name in names {
            let text = name.to_str().unwrap_or_default();
            let stem = |suffix| text.strip_suffix(suffix).and_then(SegmentId::from_stem);
            if let Some(id) = SegmentId::from_file_name(text) {
                listing.segments.push(id);
            } else if stem(".tmp").is_some() {
                listing.temporaries.push(name);
            } else if stem(".free").is_some() {
                listing.spares.push(name);
            } else if text.split_once(".torn-").and_then(|s| SegmentId::from_stem(s.0)).is_some() {
                listing.torn.push(name);
            } else if text != LOCK {
                listing.unknown.push(name);
            }
        }
        listing.segments.sort_unstable();
        listing.unknown.sort_unstable();
        Ok(Some(listing))
    }
}

/// An opened segment and what its mark slots say.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) slots: [SlotState; 2],
    /// The end of the footer; the rest of it is not read here.
    pub(crate) footer: FooterState,
    /// Header copies that do not read back, while another does.
    pub(crate) damaged_headers: Vec<u32>,
}

impl Surveyed {
    /// Whether the log was closed at `end`, by a slot that nothing contradicts: then nothing stands behind.
    pub(crate) fn closed_at(&self, end: Lsn) -> bool {
        let newest = self.slots.iter().filter_map(SlotState::valid).max_by_key(|slot| slot.counter);
        !self.slots.contains(&SlotState::Damaged)
            && newest.is_some_and(|slot| slot.clean && slot.durable.lsn == end)
    }
}

/// Opens the segments `ids`, all of which must be there, whole, and of one log.
pub(crate) fn survey(
    vfs: &dyn Vfs,
    dir: &Path,
    ids: &[SegmentId],
    access: Access,
) -> Result<Vec<Surveyed>, Error> {
    let mut found: Vec<Surveyed> = Vec::with_capacity(ids.len());
    for &id in ids {
        let one = open(vfs, dir, id, access)?;
        if let Some(before) = found.last() {
            if before.segment.id.next() != Some(id) {
                let missing = before.segment.id.next().unwrap_or(id);
                return Err(Error::corrupt(missing, 0_u64, Damage::Missing));
            }
            let (expected, found) = (before.segment.key.0, one.segment.key.0);
            if expected != found {
                return Err(Error::corrupt(id, 0_u64, Damage::Foreign { expected, found }));
            }
        }
        found.push(one);
    }
    Ok(found)
}

/// Opens one segment: its header must be there, its length right, and one of its mark slots whole.
pub(crate) fn open(
    vfs: &dyn Vfs,
    dir: &Path,
    id: SegmentId,
    access: Access,
) -> Result<Surveyed, Error> {
    let path = dir.join(id.to_string());
    let file = vfs.open(&path, access).map_err(Error::io("open", &path))?;
    let len = file.len().map_err(Error::io("read the length of", &path))?;
    let mut head = vec![0; FRAMES_START as usize];
    let there = len.min(u64::from(FRAMES_START)) as usize;
    file.read_exact_at(&mut head[..there], 0).map_err(Error::io("read", &path))?;

    let copy = |offset: u32| SegmentHeader::decode(&head[offset as usize..]);
    let damaged_headers: Vec<u32> =
        HEADER_COPIES.into_iter().filter(|at| copy(*at).is_err()).collect();
    let mut valid = HEADER_COPIES.into_iter().filter_map(|at| copy(at).ok());
    let Some(header) = valid.next() else {
        let offset = 0;
        return Err(
            match HEADER_COPIES.into_iter().find_map(|at| match copy(at) {
                Err(HeaderError::Version(found)) => Some(found),
                _ => None,
            }) {
                Some(found) => {
                    Error::UnknownVersion { segment: id, offset, what: "format version", found }
                }
                None => Error::corrupt(id, offset, Damage::Header),
            },
        );
    };
    if valid.any(|other| other != header) {
        return Err(Error::corrupt(id, 0_u64, Damage::Header));
    }
    if header.id != id {
        return Err(Error::corrupt(id, 24_u64, Damage::Renamed { found: header.id }));
    }
    let key = Key(header.log_id);
    let slots = SLOT_OFFSETS.map(|at| Slot::decode(&head[at as usize..], key, Lsn::new(id, at)));
    if slots == [SlotState::Damaged; 2] {
        return Err(Error::corrupt(id, SLOT_OFFSETS[0], Damage::MarkSlots));
    }
    let newest = slots.iter().filter_map(SlotState::valid).max_by_key(|slot| slot.counter);
    let segment = Segment::new(header, path, file, newest);
    segment.check_length()?;
    let mut end = [0; Trailer::LEN];
    segment.read(&mut end, Trailer::offset(segment.size))?;
    let footer = Trailer::decode(&end, key, id, segment.size);
    Ok(Surveyed { segment: Arc::new(segment), slots, footer, damaged_headers })
}
