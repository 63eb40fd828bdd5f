//! How much of a damaged log reads back: a walk that goes on where opening stops.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Cut, DropFront, Lost, Remedy, Weight};
use crate::format::{FRAMES_START, Kind, Lookup, Position, Slot, is_zero, read_frame};
use crate::segment::{Listing, Loose, Segment};
use crate::state::State;
use crate::vfs::Vfs;
use crate::{Error, Lsn, ReadOnly, SegmentId, SnapshotMark};

/// What can be done about the log in `dir`, which is damaged.
pub(super) fn remedy(vfs: &dyn Vfs, dir: &Path) -> Result<Remedy, Error> {
    let listing = Listing::read(vfs, dir)?.unwrap_or_default();
    let walk = Walk::along(vfs, dir, &listing.segments)?;
    let cut = walk.cut(&listing.segments);
    if let Some(cut) = cut.as_ref().filter(|cut| cut.lost.weight == Weight::Nothing) {
        return Ok(Remedy::Cut(cut.clone()));
    }
    if let Some(front) = drop_front(vfs, dir, &listing)? {
        return Ok(Remedy::DropFront(front));
    }
    Ok(cut.map_or(Remedy::None, Remedy::Cut))
}

/// The longest suffix of the log that is a log: its first checkpoint says everything but entries, and the newest snapshot
/// covers those.
fn drop_front(vfs: &dyn Vfs, dir: &Path, listing: &Listing) -> Result<Option<DropFront>, Error> {
    let mut from = 1;
    while let Some(rest) = listing.segments.get(from..).filter(|rest| !rest.is_empty()) {
        match ReadOnly::read(vfs, dir, &Listing { segments: rest.to_vec(), ..Listing::default() }) {
            Ok(log) => {
                let Some(snapshot) = log.snapshot() else { return Ok(None) };
                return Ok(Some(DropFront {
                    removed: listing.segments[..from].to_vec(),
                    snapshot: snapshot.id(),
                    kept: log.first_index()..=log.last_index(),
                    hard_state: log.hard_state(),
                }));
            }
            Err(Error::Corrupt { segment, .. }) => {
                // No log that begins before the damage is whole; one that does not settle may be, from the next one on.
                let behind = rest.iter().position(|id| *id > segment).unwrap_or(rest.len());
                from += behind.max(1);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The way along a damaged log, and what was seen behind its end.
#[derive(Default)]
struct Walk {
    state: State,
    /// P: the end of what reads back.
    end: Position,
    /// M: how far the log is proven to have been durable.
    proven: Lsn,
    /// The segments up to the end: where their frames end, and whether they must be written again whatever happens.
    kept: Vec<(Arc<Segment>, u32, bool)>,
    lost: Lost,
    last_lost: u64,
    /// Whether the frames ended with one that reads back and makes no sense: no crash does that.
    senseless: bool,
}

impl Walk {
    fn along(vfs: &dyn Vfs, dir: &Path, ids: &[SegmentId]) -> Result<Self, Error> {
        let mut found = BTreeMap::new();
        for &id in ids {
            found.extend(Loose::open(vfs, dir, id)?.map(|loose| (id, loose)));
        }
        // A segment of another log is not part of this one, were it the first.
        let mut logs: BTreeMap<u64, usize> = BTreeMap::new();
        for loose in found.values() {
            *logs.entry(loose.segment.key.0).or_default() += 1;
        }
        let log_id = logs.into_iter().max_by_key(|(_, segments)| *segments).map(|(id, _)| id);
        found.retain(|_, loose| Some(loose.segment.key.0) == log_id);

        let mut walk = Self::default();
        let mut slots = BTreeMap::new();
        for Slot { durable, .. } in found.values().flat_map(|loose| &loose.slots) {
            slots.insert(durable.lsn, durable.chain);
            if durable.lsn > walk.proven {
                (walk.proven, walk.last_lost) = (durable.lsn, durable.last.index);
            }
        }
        let mut expected = ids.first().copied();
        for (&id, loose) in &found {
            let bytes = loose.bytes()?;
            let mut from = FRAMES_START;
            if expected == Some(id) {
                let goes_on = walk.frames(&loose.segment, &bytes, &slots);
                expected = id.next().filter(|_| goes_on);
                if walk.end.lsn.segment() == id {
                    from = walk.end.lsn.offset();
                    walk.kept.push((loose.segment.clone(), from, loose.damaged));
                }
            }
            walk.beyond(&loose.segment, &bytes, from);
        }
        walk.lost.unseen = walk.unseen(ids, &found);
        Ok(walk)
    }

    /// Whether something at the end or behind it cannot be looked at, so that marks which are not found prove nothing: a
    /// segment that is missing, or not this log's, or without a header; a file that was cut; mark slots that are gone.
    fn unseen(&self, ids: &[SegmentId], found: &BTreeMap<SegmentId, Loose>) -> bool {
        let end = self.end.lsn;
        let mute = |id: &SegmentId| found.get(id).is_none_or(Loose::is_mute);
        let behind = ids.iter().filter(|id| **id >= end.segment());
        let missing = behind.clone().zip(behind.clone().skip(1)).any(|(a, b)| a.next() != Some(*b));
        let beyond = ids.last().is_some_and(|last| *last < self.proven.segment());
        let closed = found.get(&end.segment()).is_some_and(|loose| loose.closed_at(end));
        (missing || beyond || behind.clone().any(mute)) && !(closed && self.proven <= end)
    }

    /// Takes over the batches of a segment as far as they go. Says whether the next segment may continue.
    fn frames(&mut self, segment: &Arc<Segment>, bytes: &[u8], slots: &BTreeMap<Lsn, u32>) -> bool {
        let oldest = self.kept.is_empty();
        let (mut at, mut chain) = (FRAMES_START, self.end.chain);
        let mut batch = Vec::new();
        loop {
            let Ok(frame) = read_frame(bytes, segment.key, segment.id, at) else {
                return self.end.lsn.segment() == segment.id && batch.is_empty();
            };
            let first = at == FRAMES_START;
            let Some(kind) = frame.known().filter(|kind| first == (*kind == Kind::Checkpoint))
            else {
                self.senseless = true;
                return false;
            };
            if first && oldest {
                let Some(checkpoint) = frame.checkpoint() else { return false };
                self.state.begin(&checkpoint);
            } else if frame.prev != chain {
                return false;
            }
            self.proven = self.proven.max(frame.mark);
            (at, chain) = (frame.end().offset(), frame.crc);
            batch.push((kind, frame));
            if frame.more() {
                continue;
            }
            // A mark that is about other frames than these proves that these are not the ones that were durable.
            let begin = if first { Lsn::new(segment.id, 0) } else { self.end.lsn.plus(1) };
            let agrees = |(lsn, mark): (&Lsn, &u32)| (*lsn, *mark) == (frame.end(), chain);
            if !slots.range(begin..=frame.end()).all(agrees) {
                return false;
            }
            if first {
                self.state.index.begin_segment(segment.clone());
            }
            for (kind, frame) in batch.drain(..) {
                if self.state.replay(kind, &frame).is_err() {
                    self.senseless = true;
                    return false;
                }
            }
            self.end = Position { lsn: frame.end(), chain, last: self.state.index.last_id() };
        }
    }

    /// Looks at what stands behind the end.
    fn beyond(&mut self, segment: &Segment, bytes: &[u8], from: u32) {
        if is_zero(bytes.get(from as usize..).unwrap_or_default()) {
            return;
        }
        let mut tries = 64; // bodies that do not read back: no bytes can make this take long
        let mut inside = Lsn::default();
        for stray in Lookup::new(bytes, segment.key, segment.id, from) {
            self.proven = self.proven.max(stray.mark);
            if stray.lsn < inside || tries == 0 {
                continue;
            }
            let Ok(frame) = read_frame(bytes, segment.key, segment.id, stray.lsn.offset()) else {
                self.last_lost = self.last_lost.max(stray.entries_from.unwrap_or(0));
                tries -= 1;
                continue;
            };
            inside = frame.end();
            self.lost.records += 1;
            self.lost.bytes += frame.len() as u64;
            let mut hard_state = None;
            match frame.known() {
                Some(Kind::Entries) => {
                    let last =
                        frame.first_index.saturating_add(u64::from(frame.n)).saturating_sub(1);
                    self.last_lost = self.last_lost.max(last);
                }
                Some(Kind::HardState) => hard_state = frame.hard_state(),
                Some(Kind::Checkpoint) => {
                    if let Some(checkpoint) = frame.checkpoint() {
                        hard_state = Some(checkpoint.hard_state());
                        self.last_lost = self.last_lost.max(checkpoint.last().index);
                    }
                }
                Some(Kind::Compact | Kind::Install) => {
                    let mark = frame.snapshot().map_or(0, |mark| mark.index);
                    self.lost.commit = self.lost.commit.max(mark);
                }
                _ => {}
            }
            if let Some(state) = hard_state {
                self.lost.commit = self.lost.commit.max(state.commit);
                self.lost.hard_state = Some(state);
            }
        }
    }

    /// What can be kept of the beginning; `None` if that is no log.
    fn cut(mut self, ids: &[SegmentId]) -> Option<Cut> {
        let (last_kept, ..) = self.kept.last()?;
        let last_kept = last_kept.id;
        if !self.state.settle() {
            return None;
        }
        let (end, last) = (self.end, self.state.index.last_id());
        let must = |(segment, _, damaged): &&(Arc<Segment>, u32, bool)| {
            *damaged || segment.id == last_kept || segment.slot_mark() > end.lsn
        };
        let rewritten = self.kept.iter().filter(must).map(|(segment, ..)| segment.id).collect();
        let hard_state = self.state.hard_state;
        let mut lost = self.lost;
        lost.proven = self.proven;
        lost.commit = lost.commit.max(hard_state.commit);
        lost.entries = (self.last_lost > last.index).then(|| last.index + 1..=self.last_lost);
        lost.weight = if self.proven <= end.lsn && !lost.unseen && !self.senseless {
            Weight::Nothing
        } else if lost.commit > last.index {
            Weight::Committed
        } else {
            Weight::Acknowledged
        };
        Some(Cut {
            at: end.lsn,
            first: self.state.index.first(),
            last,
            hard_state,
            snapshot: self.state.mark.as_ref().map(SnapshotMark::id),
            rewritten,
            removed: ids.iter().copied().filter(|id| *id > last_kept).collect(),
            lost,
            end,
            ends: self.kept.iter().map(|(segment, end, _)| (segment.id, *end)).collect(),
        })
    }
}
