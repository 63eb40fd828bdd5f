//! What stands behind the end of the log: strays of a torn tail, or proof that something is gone.

use std::sync::Arc;

use crate::format::{Lookup, is_zero};
use crate::segment::Segment;
use crate::{EntryId, Lsn};

/// Bytes of a torn tail in one segment, from the first that does not count to the last that is not zero; in a recycled
/// segment, to the end of the last frame whose header reads back.
#[derive(Debug)]
pub(crate) struct Junk {
    pub(crate) segment: Arc<Segment>,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// What was found behind the end.
#[derive(Debug)]
pub(super) struct Behind {
    /// Where reading failed.
    failed: Lsn,
    /// The highest mark of any frame's header.
    pub(super) mark: Lsn,
    /// The first entry that reads back behind the place of failure.
    pub(super) first_after: Option<EntryId>,
    pub(super) junk: Vec<Junk>,
}

impl Behind {
    pub(super) fn new(failed: Lsn) -> Self {
        Self { failed, mark: Lsn::default(), first_after: None, junk: Vec::new() }
    }

    /// Looks at what stands in a segment from `start` on.
    pub(super) fn look(&mut self, segment: &Arc<Segment>, bytes: &[u8], start: u32) {
        let from = &bytes[(start as usize).min(bytes.len())..];
        if is_zero(from) {
            return;
        }
        let zeros = from.iter().rev().take_while(|byte| **byte == 0).count();
        let (mut end, whole) = ((bytes.len() - zeros) as u32, bytes.len() as u32);
        if segment.recycled {
            end = start; // what the file held before is not zero either, and no sign of anything
        }
        let mut tries = 8; // for the report only, so that no bytes can make it take long
        for stray in Lookup::new(bytes, segment.key, segment.id, start) {
            self.mark = self.mark.max(stray.mark);
            if segment.recycled {
                let last = Lsn::new(segment.id, whole);
                end = end.max(stray.end.min(last).offset());
            }
            if self.first_after.is_none() && stray.lsn > self.failed && tries > 0 {
                self.first_after = stray.first_entry(bytes, segment.key);
                tries -= 1;
            }
        }
        if end > start {
            self.junk.push(Junk { segment: segment.clone(), start, end });
        }
    }
}
