//! Reading entries back: out of the index, over the map, under their checksums.

use std::ops::Range;

use crate::index::Piece;
use crate::{Entry, Error};

/// Entries that are looked up in the index at a time.
const CHUNK: u64 = 512;

/// Reads `range`, up to `max_bytes` of payload but one entry at least. `piece` looks entries up.
pub(crate) fn entries(
    range: Range<u64>,
    max_bytes: u64,
    piece: impl Fn(Range<u64>) -> Result<Piece, Error>,
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let (mut lo, mut bytes) = (range.start, 0_u64);
    while lo < range.end {
        let found = piece(lo..range.end.min(lo + CHUNK))?;
        let Some(&start) = found.offsets.first() else { break };
        let view = found.segment.view(start, found.end)?;
        for (index, offset) in (found.first..).zip(&found.offsets) {
            let entry = found.segment.entry(&view, start, *offset, index)?;
            bytes = bytes.saturating_add(entry.data.len() as u64);
            if bytes > max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
            lo = index + 1;
        }
    }
    Ok(entries)
}
