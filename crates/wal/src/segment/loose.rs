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
    /// Mark slots that do not read back. A crash tears one at most.
    pub(crate) slots_lost: usize,
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
        let slots_lost = slots.iter().filter(|slot| **slot == SlotState::Damaged).count();
        let damaged = len != u64::from(header.size)
            || slots_lost == slots.len()
            || copies.iter().any(Option::is_none);
        let slots: Vec<_> = slots.iter().filter_map(SlotState::valid).collect();
        let newest = slots.iter().max_by_key(|slot| slot.counter).copied();
        let segment = Arc::new(Segment::new(header, path, file, newest));
        let len = len.min(header.size.into()) as u32;
        Ok(Some(Self { segment, len, slots, slots_lost, damaged }))
    }

    /// Whether something of it is gone that would have told what was durable: bytes that the file had from its first day
    /// (W1), or both of the mark slots.
    pub(crate) fn is_mute(&self) -> bool {
        self.len < self.segment.size || self.slots_lost > 1
    }

    /// Whether the log was closed at `end`, by a slot that nothing contradicts: then nothing stood behind.
    pub(crate) fn closed_at(&self, end: Lsn) -> bool {
        let newest = self.slots.iter().max_by_key(|slot| slot.counter);
        self.slots_lost == 0 && newest.is_some_and(|slot| slot.clean && slot.durable.lsn == end)
    }

    /// The whole segment, with zeros where the file ends too early.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.segment.size as usize];
        self.segment.read(&mut bytes[..self.len as usize], 0)?;
        Ok(bytes)
    }
}
