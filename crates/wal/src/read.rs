//! Reading entries back: out of the index, over the map, under their checksums.

use std::ops::{ControlFlow, Range};

use bytes::{Buf, Bytes};

use crate::index::Piece;
use crate::{Entry, EntryRef, Error};

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
    piece.locate(&mut places);
    let (term, kind, payload) = piece.entry(places[0], index)?;
    let mut data = piece.bytes;
    data.truncate(payload.end);
    data.advance(payload.start);
    Ok(Entry { index, term, kind, data })
}

/// Reads `range`, up to `max_bytes` of payload but one entry at least.
pub(crate) fn entries(
    range: Range<u64>,
    max_bytes: u64,
    find: impl Find,
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let mut bytes = 0_u64;
    let _full = each(range, find, |view, head, payload| {
        bytes = bytes.saturating_add(payload.len() as u64);
        if bytes > max_bytes && !entries.is_empty() {
            return ControlFlow::Break(());
        }
        if entries.len() == entries.capacity() {
            entries.reserve(CHUNK.min(head.left));
        }
        let Head { index, term, kind, .. } = head;
        entries.push(Entry { index, term, kind, data: view.slice(payload) });
        ControlFlow::Continue(())
    })?;
    Ok(entries)
}

/// Shows the entries of `range` to `visit`, in order, until that breaks off.
pub(crate) fn visit<B>(
    range: Range<u64>,
    find: impl Find,
    mut visit: impl FnMut(EntryRef<'_>) -> ControlFlow<B>,
) -> Result<ControlFlow<B>, Error> {
    each(range, find, |view, Head { index, term, kind, .. }, payload| {
        visit(EntryRef { index, term, kind, data: view.get(payload).unwrap_or_default() })
    })
}

/// What an entry says besides its payload, and how many follow it at the most.
struct Head {
    index: u64,
    term: u64,
    kind: u8,
    left: usize,
}

/// Gives each entry's payload as a range of a view.
fn each<B>(
    range: Range<u64>,
    find: impl Find,
    mut one: impl FnMut(&Bytes, Head, Range<usize>) -> ControlFlow<B>,
) -> Result<ControlFlow<B>, Error> {
    let mut places = [0; CHUNK + 1];
    let mut lo = range.start;
    while lo < range.end {
        let piece = find(lo..range.end, &mut places)?;
        piece.locate(&mut places);
        for (index, place) in (piece.first..).zip(&places[..piece.len]) {
            let (term, kind, payload) = piece.entry(*place, index)?;
            let left = usize::try_from(range.end - index).unwrap_or(usize::MAX);
            let shown = one(&piece.bytes, Head { index, term, kind, left }, payload);
            if shown.is_break() {
                return Ok(shown);
            }
        }
        lo += piece.len as u64;
    }
    Ok(ControlFlow::Continue(()))
}
