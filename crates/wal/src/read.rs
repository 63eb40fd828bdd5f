//! Reading entries back: out of the index, over the map, under their checksums.

use std::ops::Range;

use bytes::Buf;

use crate::index::Piece;
use crate::{Entry, Error};

/// Entries that are looked up in the index at a time.
const CHUNK: usize = 256;

/// Looks entries up; the numbers say where they stand. It alone takes the log's lock: what may have to wait for a disk,
/// a page of the map or of a footer's table, is touched outside.
pub(crate) trait Find: Fn(Range<u64>, &mut [u32]) -> Result<Piece, Error> {}
impl<F: Fn(Range<u64>, &mut [u32]) -> Result<Piece, Error>> Find for F {}

/// Reads one entry.
pub(crate) fn entry(index: u64, find: impl Find) -> Result<Entry, Error> {
    let mut places = [0; 2];
    let piece = find(index..index.saturating_add(1), &mut places)?;
    piece.locate(&mut places)?;
    let [start, end] = places;
    let mut view = piece.segment.view(start, end)?;
    let (term, kind, payload) = piece.segment.entry(&view, start, index)?;
    view.truncate(payload.end);
    view.advance(payload.start);
    Ok(Entry { index, term, kind, data: view })
}

/// Reads `range`, up to `max_bytes` of payload but one entry at least.
pub(crate) fn entries(
    range: Range<u64>,
    max_bytes: u64,
    find: impl Find,
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let mut places = [0; CHUNK + 1];
    let (mut lo, mut bytes) = (range.start, 0_u64);
    while lo < range.end {
        let piece = find(lo..range.end, &mut places)?;
        piece.locate(&mut places)?;
        let (start, end) = (places[0], places[piece.len]);
        let view = piece.segment.view(start, end)?;
        entries.reserve(piece.len);
        for (index, offset) in (piece.first..).zip(&places[..piece.len]) {
            let from = offset.wrapping_sub(start) as usize;
            let rest = view.get(from..).unwrap_or_default();
            let (term, kind, payload) = piece.segment.entry(rest, *offset, index)?;
            bytes = bytes.saturating_add(payload.len() as u64);
            if bytes > max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            let data = view.slice(from + payload.start..from + payload.end);
            entries.push(Entry { index, term, kind, data });
        }
        lo += piece.len as u64;
    }
    Ok(entries)
}
