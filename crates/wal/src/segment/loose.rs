//! Opening a segment whatever is wrong with it, to save what can be saved.

use std::path::Path;
use std::sync::Arc;

use super::Segment;
use crate::format::{FRAMES_START, HEADER_COPIES, Key, SLOT_OFFSETS};
use crate::format::{SegmentHeader, Slot, SlotState};
use crate::vfs::{Access, Vfs};
use crate::{Error, Lsn, SegmentId};

/// A segment of which something can be read.
#[derive(Debug)]
pub(crate) struct Loose {
    pub(crate) segment: Arc<Segment>,
    /// How much of the file is there, up to its proper length.
    len: u32,
    pub(crate) slots: Vec<Slot>,
    /// Whether opening would refuse it, or complain, whatever its frames say.
    pub(crate) damaged: bool,
}

impl Loose {
    /// `None` if nothing can be read: without a header there is no key to check anything by.
    pub(crate) fn open(vfs: &dyn Vfs, dir: &Path, id: SegmentId) -> Result<Option<Self>, Error> {
        let path = dir.join(id.to_string());
        let file = vfs.open(&path, Access::Read).map_err(Error::io("open", &path))?;
        let len = file.len().map_err(Error::io("read the length of", &path))?;
        let mut head = vec![0; FRAMES_START as usize];
        let there = len.min(head.len() as u64) as usize;
        file.read_exact_at(&mut head[..there], 0).map_err(Error::io("read", &path))?;
        let copies = HEADER_COPIES.map(|at| SegmentHeader::decode(&head[at as usize..]).ok());
        let mut valid = copies.iter().flatten();
        let Some(header) = valid.next().copied() else { return Ok(None) };
        if header.id != id || valid.any(|other| *other != header) {
            return Ok(None);
        }
        let key = Key(header.log_id);
        let slots =
            SLOT_OFFSETS.map(|at| Slot::decode(&head[at as usize..], key, Lsn::new(id, at)));
        let damaged = len != u64::from(header.size)
            || slots == [SlotState::Damaged; 2]
            || copies.iter().any(Option::is_none);
        let slots: Vec<_> = slots.iter().filter_map(SlotState::valid).collect();
        let newest = slots.iter().max_by_key(|slot| slot.counter).copied();
        let segment = Arc::new(Segment::new(header, path, file, newest));
        let len = len.min(header.size.into()) as u32;
        Ok(Some(Self { segment, len, slots, damaged }))
    }

    /// The whole segment, with zeros where the file ends too early.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.segment.size as usize];
        self.segment.read(&mut bytes[..self.len as usize], 0)?;
        Ok(bytes)
    }
}
