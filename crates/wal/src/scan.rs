//! Reading a whole log, and deciding what of it counts: torn or corrupt, by proof.
//!
//! Let P be the end of the last batch that reads back whole, and M the highest mark anywhere: in a slot, in a frame
//! before P, in a frame header after it. A mark is the position that was known to be durable when it was written. So if
//! M is beyond P, bytes that were durable are gone, and no crash can have done that: refuse. Otherwise nothing after P
//! was ever acknowledged, and it is a torn tail.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{Checkpoint, FRAMES_START, Fault, FooterState, Frame, Kind, Position};
use crate::format::{SlotState, first_frame, read_frame};
use crate::index::Left;
use crate::segment::{Segment, Surveyed};
use crate::state::State;
use crate::{Damage, EntryId, Error, Lsn, SegmentId, planted};

mod behind;
use behind::Behind;
pub(crate) use behind::Junk;

mod source;
use source::Source;

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
    /// Those that were left and lack a footer, or a slot that names a later segment.
    pub(crate) unfinished: Vec<Left>,
    /// Those whose footer was there, and is not what it was or should be.
    pub(crate) damaged_footers: Vec<SegmentId>,
    /// The segments after those that count: prepared ahead, but for the junk.
    pub(crate) ready: Vec<Arc<Segment>>,
    /// What is not zero after the end.
    pub(crate) junk: Vec<Junk>,
}

/// How a log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By the one who holds its lock: by footers where there are good ones.
    Footers,
    /// By the one who holds its lock: every byte.
    Everything,
    /// By somebody beside it: every byte, and the writer may be at work.
    Beside,
}

/// Reads `segments`, all there are.
pub(crate) fn scan(segments: &[Surveyed], how: How) -> Result<Scan, Error> {
    let mut source = match how {
        How::Footers | How::Everything => Source::Views(Bytes::new()),
        How::Beside => Source::Calls(Vec::new()),
    };
    let mut walk = Walk::new(segments, how);
    let mut rest = segments;
    while let [one, later @ ..] = rest
        && walk.live
    {
        walk.segment(one, later.first(), &mut source)?;
        rest = later;
    }
    walk.footers(segments)?;
    walk.look_behind(segments, &mut source)?;
    walk.verdict(segments)
}

/// The walk along the frames, and what was seen where it could not go on.
struct Walk {
    scan: Scan,
    how: How,
    /// Checksums that the mark slots name, by the position they name.
    marks: BTreeMap<Lsn, u32>,
    /// What the segments that were read, and left, should have for a footer.
    left: Vec<Left>,
    /// Where reading stopped in the last segment that counts, and where the one after it failed to continue.
    faults: Vec<Fault>,
    /// Whether the next segment may continue: not after a batch was cut off in the middle.
    live: bool,
    first_after: Option<EntryId>,
}

/// How a segment begins.
struct Head {
    prev: u32,
    checkpoint: Checkpoint,
}

impl Head {
    fn of(segment: &Segment, bytes: &[u8]) -> Option<Self> {
        let frame = read_frame(bytes, segment.key, segment.id, FRAMES_START).ok()?;
        let whole = frame.known() == Some(Kind::Checkpoint) && !frame.more();
        let checkpoint = frame.checkpoint().filter(|_| whole)?;
        Some(Self { prev: frame.prev, checkpoint })
    }
}

impl Walk {
    fn new(segments: &[Surveyed], how: How) -> Self {
        let slots = segments.iter().flat_map(|one| &one.slots).filter_map(SlotState::valid);
        let marks: BTreeMap<_, _> = slots.map(|s| (s.durable.lsn, s.durable.chain)).collect();
        let scan = Scan {
            state: State::default(),
            end: Position::default(),
            proven: marks.last_key_value().map_or(Lsn::default(), |(lsn, _)| *lsn),
            ends: Vec::new(),
            unfinished: Vec::new(),
            damaged_footers: Vec::new(),
            ready: Vec::new(),
            junk: Vec::new(),
        };
        let (left, faults) = (Vec::new(), Vec::new());
        Self { scan, how, marks, left, faults, live: true, first_after: None }
    }

    fn segment(
        &mut self,
        one: &Surveyed,
        next: Option<&Surveyed>,
        source: &mut Source,
    ) -> Result<(), Error> {
        let footer = self.how == How::Footers && matches!(one.footer, FooterState::Valid(_));
        let head = match next.filter(|_| footer) {
            Some(next) => Head::of(&next.segment, source.read(&next.segment)?),
            None => None,
        };
        let (fault, inside) = self.frames(one, source.read(&one.segment)?, head)?;
        let counts = self.scan.end.lsn.segment() == one.segment.id;
        if counts {
            self.scan.ends.push((one.segment.clone(), self.scan.end.lsn.offset()));
            self.faults.clear();
        }
        self.faults.extend(fault);
        self.live = counts && !inside;
        Ok(())
    }

    /// Follows the frames of a segment as far as they go. Says where and why they end, and whether that is inside a
    /// batch. Whole batches are taken over. Given the `head` of the next segment, the footer may stand for the frames.
    fn frames(
        &mut self,
        one: &Surveyed,
        bytes: &[u8],
        mut head: Option<Head>,
    ) -> Result<(Option<Fault>, bool), Error> {
        let segment = &one.segment;
        let oldest = self.scan.ends.is_empty();
        let (mut at, mut chain) = (FRAMES_START, self.scan.end.chain);
        let mut batch: Vec<(Kind, Frame<'_>)> = Vec::new();
        loop {
            let frame = match read_frame(bytes, segment.key, segment.id, at) {
                Ok(frame) => frame,
                Err(fault) if oldest && at == FRAMES_START => {
                    // The first frame was durable before the segment got its name.
                    return Err(Error::corrupt(segment.id, fault.at.offset(), fault.damage));
                }
                Err(fault) => return Ok((Some(fault), !batch.is_empty())),
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
            } else if frame.prev != chain && !planted("stale-recycled-frame-accepted") {
                let damage = Damage::Chain { expected: chain, found: frame.prev };
                return Ok((Some(Fault { at: frame.lsn, damage }), !batch.is_empty()));
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
                let state = &mut self.scan.state;
                state.replay(kind, &frame).map_err(|_| contradiction())?;
                if kind == Kind::Checkpoint {
                    let Position { lsn, chain, .. } = self.scan.end;
                    self.left.extend(state.index.leave_segment(lsn.offset(), chain));
                    state.index.begin_segment(segment.clone());
                }
            }
            let last = self.scan.state.index.last_id();
            self.scan.end = Position { lsn: frame.end(), chain, last };
            if let Some(expected) = self.marks.remove(&frame.end()).filter(|c| *c != chain) {
                let damage = Damage::Mark { expected, found: chain };
                return Err(Error::corrupt(segment.id, frame.lsn.offset(), damage));
            }
            if head.take().is_some_and(|head| self.jump(one, bytes, &head)) {
                return Ok((None, false));
            }
        }
    }

    /// Goes to the end of a segment without reading its frames: its footer knows what they did to the index, and the
    /// `head` of the next segment everything else. Says whether the three fit together; if not, the frames decide.
    fn jump(&mut self, one: &Surveyed, bytes: &[u8], head: &Head) -> bool {
        let (segment, state) = (&one.segment, &mut self.scan.state);
        let FooterState::Valid(trailer) = &one.footer else { return false };
        let Some(terms) = trailer.terms(bytes, segment.key, segment.id) else { return false };
        let end = Lsn::new(segment.id, trailer.end);
        // Slots are compared where they can be; inside the segment they cannot.
        let mut named = self.marks.range(end..Lsn::new(segment.id, u32::MAX));
        let slots_agree = named.all(|(lsn, chain)| (*lsn, *chain) == (end, trailer.chain));
        let last = trailer.last(state.index.last_id(), &terms);
        let fits = |last| last == head.checkpoint.last() || planted("footer-of-the-truncated-run");
        let Some(last) = last.filter(|last| fits(*last)) else { return false };
        if !slots_agree || head.prev != trailer.chain || end < self.scan.end.lsn {
            return false;
        }
        state.adopt(trailer, &terms, &head.checkpoint);
        self.scan.end = Position { lsn: end, chain: trailer.chain, last };
        self.marks.retain(|lsn, _| lsn.segment() != segment.id || *lsn > end);
        true
    }

    /// Compares the footers of segments that were read with what they should be.
    fn footers(&mut self, segments: &[Surveyed]) -> Result<(), Error> {
        let scan = &mut self.scan;
        for left in self.left.drain(..) {
            let Left { segment, footer } = &left;
            let there = segments.iter().find(|one| one.segment.id == segment.id);
            let found = there.map_or(FooterState::Missing, |one| one.footer);
            if let Some(footer) = footer
                && let Some((at, expected)) = footer.encode(segment.key, segment.id, segment.size)
                && found != FooterState::Missing
            {
                let mut bytes = vec![0; expected.len()];
                segment.read(&mut bytes, at)?;
                if bytes == expected {
                    scan.state.index.footer_written(segment.id);
                    continue;
                }
                // They are written one by one, each synced before the next: a crash tears the last one only.
                let later = segments.iter().filter(|one| one.segment.id > segment.id);
                if later.map(|one| one.footer).any(|footer| footer != FooterState::Missing) {
                    scan.damaged_footers.push(segment.id);
                }
            }
            scan.unfinished.push(left);
        }
        // The slot is written with the footer, and the crash may have spared one of the two.
        let (last, finished) = (scan.end.lsn.segment(), scan.unfinished.len());
        for (segment, _) in scan.ends.iter().filter(|(segment, _)| segment.id < last) {
            let known =
                scan.unfinished[..finished].iter().any(|left| left.segment.id == segment.id);
            if !known && segment.slot_mark().segment() <= segment.id {
                scan.unfinished.push(Left { segment: segment.clone(), footer: None });
            }
        }
        scan.unfinished.sort_unstable_by_key(|left| left.segment.id);
        Ok(())
    }

    /// Looks at what stands behind the end, for marks and for what is to be set aside. Where the log was closed, and
    /// nobody may have begun to write since, that is nothing.
    fn look_behind(&mut self, segments: &[Surveyed], source: &mut Source) -> Result<(), Error> {
        let end = self.scan.end;
        let beyond = segments.iter().filter(|one| one.segment.id > end.lsn.segment());
        self.scan.ready = beyond.map(|one| one.segment.clone()).collect();
        let from = segments.iter().position(|one| one.segment.id == end.lsn.segment());
        let rest = &segments[from.unwrap_or(0)..];
        let closed =
            self.how == How::Footers && rest.first().is_some_and(|one| one.closed_at(end.lsn));
        if closed && self.scan.proven <= end.lsn {
            return Ok(());
        }
        let mut behind = Behind::new(self.faults.first().map_or(end.lsn, |fault| fault.at));
        for one in rest {
            let (id, bytes) = (one.segment.id, source.read(&one.segment)?);
            match &one.footer {
                _ if id > end.lsn.segment() => behind.look(&one.segment, bytes, FRAMES_START),
                // The next segment is lost, but for the footer of this one.
                FooterState::Valid(t) if (t.end, t.chain) == (end.lsn.offset(), end.chain) => {
                    behind.look(&one.segment, &bytes[..t.table() as usize], t.end);
                }
                _ => behind.look(&one.segment, bytes, end.lsn.offset()),
            }
        }
        self.scan.proven = self.scan.proven.max(behind.mark);
        (self.scan.junk, self.first_after) = (behind.junk, behind.first_after);
        Ok(())
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
