//! The end of the log: encoding batches, writing them, rolling to the next segment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::{Encoder, FRAMES_START, Position, Staging};
use crate::format::{batch_len, checkpoint_len, footer_len};
use crate::log::Inner;
use crate::segment::Segment;
use crate::{Batch, Error, Lsn};

/// Staging buffers larger than this are given back after use.
const KEEP: usize = 4 << 20;

/// From this many bytes on, large payloads of a batch are not copied. Below, one plain write is the faster one.
const VECTORED: u64 = 64 << 10;

/// Where the next frame goes. One append at a time holds it.
#[derive(Debug)]
pub(crate) struct Writer {
    active: Arc<Segment>,
    /// Where in the active segment the next write goes.
    offset: u32,
    /// The checksum of the last frame, staged ones included.
    chain: u32,
    /// Frames on their way to `offset`.
    staging: Staging,
    /// What the active segment's footer must have room for.
    held: Held,
}

/// How many entries a segment holds, and how many runs of terms. Those that were overwritten may be counted too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) entries: u64,
    pub(crate) terms: u64,
    /// The last term.
    pub(crate) term: u64,
}

impl Held {
    /// With the entries of a batch. Terms that go up and down within one, as those of a Raft log never do, are not all
    /// counted; then the footer may not fit, and the segment does without. So does one that a single batch of many terms
    /// fills.
    fn and(self, batch: &Batch<'_>) -> Self {
        let Some((first, last)) = batch.entries.first().zip(batch.entries.last()) else {
            return self;
        };
        let pairs = if first.term == last.term { &[] } else { batch.entries };
        let changes = pairs.windows(2).filter(|pair| pair[0].term != pair[1].term).count() as u64;
        let begun = u64::from(self.terms == 0 || self.term != first.term);
        let entries = self.entries + batch.entries.len() as u64;
        Self { entries, terms: self.terms + begun + changes, term: last.term }
    }

    fn footer_len(self) -> u64 {
        footer_len(self.entries, self.terms)
    }

    /// What must have room in a segment of its own: a batch is not refused for the sake of a footer full of terms.
    fn least_footer_len(self) -> u64 {
        footer_len(self.entries, self.terms.min(1))
    }
}

impl Writer {
    pub(crate) fn new(active: Arc<Segment>, end: Position, held: Held) -> Self {
        let Position { lsn, chain, .. } = end;
        Self { active, offset: lsn.offset(), chain, staging: Staging::default(), held }
    }

    /// Bytes left in the active segment, but for its footer.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.active.size - self.offset).saturating_sub(self.held.footer_len())
    }

    pub(crate) fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    /// Writes a batch that was checked, and takes it over. Says how many bytes it took, and where it ends.
    pub(crate) fn append(&mut self, inner: &Inner, batch: &Batch<'_>) -> Result<(u64, Lsn), Error> {
        self.staging.clear();
        let len = batch_len(batch);
        self.check_registers(inner, batch)?;
        let held = self.held.and(batch);
        if len + held.footer_len() > u64::from(self.active.size - self.offset) {
            self.roll(inner, len, Held::default().and(batch))?;
        } else {
            self.held = held;
        }
        let mark = inner.commit.mark();
        let base = Lsn::new(self.active.id, self.offset);
        let mut encoder = Encoder::new(&mut self.staging, self.active.key, base, self.chain, mark);
        encoder.batch(batch, len >= VECTORED);
        let (lsn, chain) = encoder.end();
        inner.or_poison(match self.staging.whole() {
            Some(bytes) => self.active.write(bytes, self.offset),
            None => self.active.write_pieces(&mut self.staging.pieces(batch.entries), self.offset),
        })?;
        (self.offset, self.chain) = (lsn.offset(), chain);

        let mut state = inner.state.write();
        state.apply(batch, self.staging.offsets(), lsn.offset());
        let last = state.index.last_id();
        drop(state);
        inner.commit.wrote(&self.active, Position { lsn, chain, last });
        let bytes = self.staging.len() as u64;
        self.staging.shrink_to(KEEP);
        Ok((bytes, lsn))
    }

    /// Refuses what would leave no room in a segment behind its checkpoint.
    fn check_registers(&self, inner: &Inner, batch: &Batch<'_>) -> Result<(), Error> {
        let registers = [
            batch.metadata.as_ref(),
            batch.install.as_ref().map(|mark| &mark.conf),
            batch.compact.as_ref().map(|mark| &mark.conf),
        ];
        let Some(bytes) = registers.into_iter().flatten().map(|r| r.len() as u64).max() else {
            return Ok(());
        };
        let limit = inner.pool.register_limit().min(u64::from(self.active.size / 4));
        if bytes > limit { Err(Error::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Goes to the next segment that has room for `len` bytes behind its checkpoint, which it stages, and for the footer
    /// of what they hold. Nothing is synced: the segment has been durable since it was prepared, and what goes into it is
    /// synced with the next wait.
    ///
    /// What does not fit into any is refused. If none can be had, the log stays as it is (or at the head of a segment
    /// that is too small): retryable.
    fn roll(&mut self, inner: &Inner, len: u64, held: Held) -> Result<(), Error> {
        let head = checkpoint_len(&inner.state.read().checkpoint());
        let capacity = u64::from(inner.pool.layout.segment_size - FRAMES_START);
        let limit = capacity.saturating_sub(head + held.least_footer_len());
        if len > limit {
            return Err(Error::TooLarge { bytes: len, limit });
        }
        loop {
            let (next, prepared) = inner.or_poison(inner.pool.take())?;
            self.active = next;
            let counters = &inner.counters;
            counters.rolls.fetch_add(1, Ordering::Relaxed);
            counters.foreground_rolls.fetch_add(u64::from(!prepared), Ordering::Relaxed);
            inner.bell.ring();
            inner.observer.iter().for_each(|observer| observer.roll(prepared));

            let mut state = inner.state.write();
            let checkpoint = state.checkpoint();
            let left = state.index.leave_segment(self.offset, self.chain);
            state.index.begin_segment(self.active.clone());
            let last = state.index.last_id();
            drop(state);
            inner.unfinished.lock().extend(left);
            (self.offset, self.held) = (FRAMES_START, Held::default());
            self.staging.clear();
            let base = Lsn::new(self.active.id, self.offset);
            let mark = inner.commit.mark();
            let mut encoder =
                Encoder::new(&mut self.staging, self.active.key, base, self.chain, mark);
            encoder.checkpoint(&checkpoint);
            let (lsn, chain) = encoder.end();
            self.chain = chain;
            let footer = held.least_footer_len();
            if self.staging.len() as u64 + len + footer <= self.active.capacity() {
                self.held = held;
                return Ok(());
            }
            // Too small, as the first ones are: it holds its checkpoint only.
            let checkpoint = self.staging.whole().unwrap_or_default();
            inner.or_poison(self.active.write(checkpoint, self.offset))?;
            inner.commit.wrote(&self.active, Position { lsn, chain, last });
            self.offset = lsn.offset();
            self.staging.clear();
        }
    }
}
