//! The end of the log: encoding batches, writing them, rolling to the next segment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::{Encoder, FRAMES_START, Position, batch_len, checkpoint_len};
use crate::log::Inner;
use crate::segment::Segment;
use crate::{Batch, Error, Lsn};

/// Staging buffers larger than this are given back after use.
const KEEP: usize = 4 << 20;

/// Where the next frame goes. One append at a time holds it.
#[derive(Debug)]
pub(crate) struct Writer {
    active: Arc<Segment>,
    /// Where in the active segment the next write goes.
    offset: u32,
    /// The checksum of the last frame, staged ones included.
    chain: u32,
    /// Frames on their way to `offset`.
    staging: Vec<u8>,
    /// Where the entries of the batch in hand stand.
    offsets: Vec<u32>,
}

impl Writer {
    pub(crate) fn new(active: Arc<Segment>, end: Position) -> Self {
        let Position { lsn, chain, .. } = end;
        Self { active, offset: lsn.offset(), chain, staging: Vec::new(), offsets: Vec::new() }
    }

    /// Bytes left in the active segment.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.active.size - self.offset)
    }

    pub(crate) fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    /// Writes a batch that was checked, and takes it over. Says how many bytes it took.
    pub(crate) fn append(&mut self, inner: &Inner, batch: &Batch<'_>) -> Result<u64, Error> {
        self.staging.clear();
        self.offsets.clear();
        let len = batch_len(batch);
        self.check_registers(inner, batch)?;
        if len > self.room() {
            self.roll(inner, len)?;
        }
        let mark = inner.commit.mark();
        let offsets = &mut self.offsets;
        let base = Lsn::new(self.active.id, self.offset);
        let mut encoder = Encoder::new(&mut self.staging, self.active.key, base, self.chain, mark);
        encoder.batch(batch, |offset| offsets.push(offset));
        let (lsn, chain) = encoder.end();
        inner.or_poison(self.active.write(&self.staging, self.offset))?;
        (self.offset, self.chain) = (lsn.offset(), chain);

        let mut state = inner.state.write();
        state.apply(batch, &self.offsets, lsn.offset());
        let last = state.index.last_id();
        drop(state);
        inner.commit.wrote(&self.active, Position { lsn, chain, last });
        let bytes = self.staging.len() as u64;
        self.staging.shrink_to(KEEP);
        Ok(bytes)
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

    /// Goes to the next segment that has room for `len` bytes behind its checkpoint, which it stages. Nothing is synced:
    /// the segment has been durable since it was prepared, and what goes into it is synced with the next wait.
    ///
    /// What does not fit into any is refused. If none can be had, the log stays as it is (or at the head of a segment
    /// that is too small): retryable.
    fn roll(&mut self, inner: &Inner, len: u64) -> Result<(), Error> {
        let head = checkpoint_len(&inner.state.read().checkpoint());
        let limit = u64::from(inner.pool.layout.segment_size - FRAMES_START).saturating_sub(head);
        if len > limit {
            return Err(Error::TooLarge { bytes: len, limit });
        }
        loop {
            let (next, prepared) = inner.or_poison(inner.pool.take())?;
            let left = std::mem::replace(&mut self.active, next);
            inner.unfinished.lock().push(left);
            let counters = &inner.counters;
            counters.rolls.fetch_add(1, Ordering::Relaxed);
            counters.foreground_rolls.fetch_add(u64::from(!prepared), Ordering::Relaxed);
            inner.bell.ring();
            inner.observer.roll(prepared);

            let mut state = inner.state.write();
            let checkpoint = state.checkpoint();
            state.index.begin_segment(self.active.clone());
            let last = state.index.last_id();
            drop(state);
            self.offset = FRAMES_START;
            self.staging.clear();
            let base = Lsn::new(self.active.id, self.offset);
            let mark = inner.commit.mark();
            let mut encoder =
                Encoder::new(&mut self.staging, self.active.key, base, self.chain, mark);
            encoder.checkpoint(&checkpoint);
            let (lsn, chain) = encoder.end();
            self.chain = chain;
            if self.staging.len() as u64 + len <= self.active.capacity() {
                return Ok(());
            }
            // Too small, as the first ones are: it holds its checkpoint only.
            inner.or_poison(self.active.write(&self.staging, self.offset))?;
            inner.commit.wrote(&self.active, Position { lsn, chain, last });
            self.offset = lsn.offset();
            self.staging.clear();
        }
    }
}
