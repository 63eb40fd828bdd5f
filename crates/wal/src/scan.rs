//! Reading a whole log, and deciding what of it counts: torn or corrupt, by proof.
//!
//! Let P be the end of the last batch that reads back whole, and M the highest mark anywhere: in a slot, in a frame
//! before P, in a frame header after it. A mark is the position that was known to be durable when it was written. So if
//! M is beyond P, bytes that were durable are gone, and no crash can have done that: refuse. Otherwise nothing after P
//! was ever acknowledged, and it is a torn tail.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::{FRAMES_START, Fault, Kind, Lookup, Position, SlotState};
use crate::format::{first_frame, is_zero, read_frame};
use crate::segment::{Segment, Surveyed};
use crate::state::State;
use crate::{Damage, EntryId, Error, Lsn, SegmentId, planted};

/// What a log says.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) state: State,
    /// P: the end of what counts.
    pub(crate) end: Position,
    /// M: what is known to have been durable; at most the end.
    pub(crate) proven: Lsn,
    /// The segments that count, oldest first, and where the frames of each end.
    pub(crate) ends: Vec<(Arc<Segment>, u32)>,
    /// The segments after those: prepared ahead, but for the junk.
    pub(crate) ready: Vec<Arc<Segment>>,
    /// What is not zero after the end.
    pub(crate) junk: Vec<Junk>,
}

/// Bytes of a torn tail in one segment, from the first that does not count to the last that is not zero.
#[derive(Debug)]
pub(crate) struct Junk {
    pub(crate) segment: Arc<Segment>,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// Reads `segments`, all there are. Every byte of every one is read once, into one buffer.
pub(crate) fn scan(segments: &[Surveyed]) -> Result<Scan, Error> {
    let mut walk = Walk::new(segments);
    let mut bytes = Vec::new();
    for one in segments {
        bytes.resize(one.segment.size as usize, 0);
        one.segment.read(&mut bytes, 0)?;
        walk.segment(&one.segment, &bytes)?;
    }
    walk.verdict(segments)
}

/// The walk along the frames, and what was seen where it could not go on.
struct Walk {
    scan: Scan,
    /// Checksums that the mark slots name, by the position they name.
    marks: BTreeMap<Lsn, u32>,
    /// Where reading stopped in the last segment that counts, and where the one after it failed to continue.
    faults: Vec<Fault>,
    /// Whether the next segment may continue: not after a batch was cut off in the middle.
    live: bool,
    first_after: Option<EntryId>,
}

impl Walk {
    fn new(segments: &[Surveyed]) -> Self {
        let slots = segments.iter().flat_map(|one| &one.slots).filter_map(SlotState::valid);
        let marks: BTreeMap<_, _> = slots.map(|s| (s.durable.lsn, s.durable.chain)).collect();
        let scan = Scan {
            state: State::default(),
            end: Position::default(),
            proven: marks.last_key_value().map_or(Lsn::default(), |(lsn, _)| *lsn),
            ends: Vec::new(),
            ready: Vec::new(),
            junk: Vec::new(),
        };
        Self { scan, marks, faults: Vec::new(), live: true, first_after: None }
    }

    fn segment(&mut self, segment: &Arc<Segment>, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = FRAMES_START;
        if self.live {
            let (fault, inside) = self.frames(segment, bytes)?;
            let counts = self.scan.end.lsn.segment() == segment.id;
            if counts {
                rest = self.scan.end.lsn.offset();
                self.scan.ends.push((segment.clone(), rest));
                self.faults.clear();
                self.scan.junk.clear(); // what stood behind the end of the segment before was never part of the log
                self.first_after = None;
            }
            self.faults.push(fault);
            self.live = counts && !inside;
        }
        if self.scan.end.lsn.segment() != segment.id {
            self.scan.ready.push(segment.clone());
        }
        self.look_behind(segment, bytes, rest);
        Ok(())
    }

    /// Follows the frames of a segment as far as they go. Says where and why they end, and whether that is inside a
    /// batch. Whole batches are taken over.
    fn frames(&mut self, segment: &Arc<Segment>, bytes: &[u8]) -> Result<(Fault, bool), Error> {
        let oldest = self.scan.ends.is_empty();
        let (mut at, mut chain) = (FRAMES_START, self.scan.end.chain);
        let mut batch = Vec::new();
        loop {
            let frame = match read_frame(bytes, segment.key, segment.id, at) {
                Ok(frame) => frame,
                Err(fault) if oldest && at == FRAMES_START => {
                    // The first frame was durable before the segment got its name.
                    return Err(Error::corrupt(segment.id, fault.at.offset(), fault.damage));
                }
                Err(fault) => return Ok((fault, !batch.is_empty())),
            };
            let kind = frame.known().ok_or_else(|| {
                let (what, found) = frame.unknown();
                let offset = u64::from(at);
                Error::UnknownVersion { segment: segment.id, offset, what, found }
            })?;
            let contradiction =
                || Error::corrupt(segment.id, frame.lsn.offset(), Damage::Contradiction);
            if at == FRAMES_START && oldest {
                let checkpoint = frame.checkpoint().filter(|_| kind == Kind::Checkpoint);
                self.scan.state.begin(&checkpoint.ok_or_else(contradiction)?);
            } else if frame.prev != chain {
                let damage = Damage::Chain { expected: chain, found: frame.prev };
                return Ok((Fault { at: frame.lsn, damage }, !batch.is_empty()));
            }
            if (at == FRAMES_START) != (kind == Kind::Checkpoint) {
                return Err(contradiction());
            }
            self.scan.proven = self.scan.proven.max(frame.mark);
            (at, chain) = (frame.end().offset(), frame.crc);
            batch.push((kind, frame));
            if frame.more() {
                continue;
            }
            for (kind, frame) in batch.drain(..) {
                if kind == Kind::Checkpoint {
                    let state = &mut self.scan.state;
                    state.replay(kind, &frame).map_err(|_| contradiction())?;
                    state.index.begin_segment(segment.clone());
                } else {
                    let replayed = self.scan.state.replay(kind, &frame);
                    replayed.map_err(|_| contradiction())?;
                }
            }
            let last = self.scan.state.index.last_id();
            self.scan.end = Position { lsn: frame.end(), chain, last };
            if let Some(expected) = self.marks.remove(&frame.end()).filter(|c| *c != chain) {
                let damage = Damage::Mark { expected, found: chain };
                return Err(Error::corrupt(segment.id, frame.lsn.offset(), damage));
            }
        }
    }

    /// Looks at what stands behind the end, for marks and for what is to be set aside.
    fn look_behind(&mut self, segment: &Arc<Segment>, bytes: &[u8], start: u32) {
        let from = &bytes[(start as usize).min(bytes.len())..];
        if is_zero(from) {
            return;
        }
        let zeros = from.iter().rev().take_while(|byte| **byte == 0).count();
        let end = (bytes.len() - zeros) as u32;
        let failed = self.faults.first().map_or(Lsn::default(), |fault| fault.at);
        let mut tries = 8; // for the report only, so that no bytes can make it take long
        for stray in Lookup::new(bytes, segment.key, segment.id, start) {
            self.scan.proven = self.scan.proven.max(stray.mark);
            if self.first_after.is_none() && stray.lsn > failed && tries > 0 {
                self.first_after = stray.first_entry(bytes, segment.key);
                tries -= 1;
            }
        }
        self.scan.junk.push(Junk { segment: segment.clone(), start, end });
    }

    fn verdict(mut self, segments: &[Surveyed]) -> Result<Scan, Error> {
        let (end, proven) = (self.scan.end, self.scan.proven);
        if planted("stop-at-first-bad-frame")
            || planted("zero-length-means-end")
                && matches!(
                    self.faults[..],
                    [Fault { damage: Damage::Bounds { found: 0 }, .. }, ..]
                )
        {
            self.scan.state.settle();
            return Ok(self.scan);
        }
        if proven > end.lsn {
            return Err(self.damage(segments));
        }
        if planted("next-segment-refused-behind-a-torn-one")
            && self.scan.junk.iter().any(|junk| junk.segment.id > end.lsn.segment())
        {
            return Err(self.damage(segments));
        }
        // Marks at or before the end that named no frame's end. Older than the oldest segment, they may.
        let start = segments.first().map_or(Lsn::default(), |one| first_frame(one.segment.id));
        if let Some((lsn, expected)) = self.marks.range(start..).next() {
            let damage = Damage::Mark { expected: *expected, found: 0 };
            return Err(Error::corrupt(lsn.segment(), lsn.offset(), damage));
        }
        if !self.scan.state.settle() {
            let oldest = start.segment();
            let missing = SegmentId(oldest.0.saturating_sub(1).max(1));
            return Err(Error::corrupt(missing, 0_u64, Damage::Missing));
        }
        Ok(self.scan)
    }

    /// What is proven to have been durable does not read back: names the place.
    fn damage(&self, segments: &[Surveyed]) -> Error {
        let (end, proven) = (self.scan.end, self.scan.proven);
        let last_segment = segments.last().map_or(SegmentId(0), |one| one.segment.id);
        // Where the segment ends in zeros, and the proof is in a later one, it is that one that does not continue.
        let ended = self.scan.junk.iter().all(|junk| junk.segment.id != end.lsn.segment());
        let later = ended && proven.segment() > end.lsn.segment();
        let fault = match &self.faults[..] {
            [_, next, ..] if later => *next,
            [_] if later && proven.segment() > last_segment => {
                let missing = SegmentId(last_segment.0.saturating_add(1));
                Fault { at: Lsn::new(missing, 0), damage: Damage::Missing }
            }
            [first, ..] => *first,
            [] => Fault { at: end.lsn, damage: Damage::Incomplete },
        };
        Error::Corrupt {
            segment: fault.at.segment(),
            offset: u64::from(fault.at.offset()),
            damage: fault.damage,
            last_good: Some(end.last).filter(|last| last.index > 0),
            first_after: self.first_after,
            proven,
        }
    }
}
