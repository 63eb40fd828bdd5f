//! What the stream of frames says: the one place that knows what each record does, for appending and for replay.

use std::ops::Range;

use bytes::Bytes;

use crate::format::{Checkpoint, Frame, Kind, MAX_TERM, Trailer};
use crate::index::Index;
use crate::{Batch, EntryId, Error, HardState, SnapshotMark, planted};

/// The log's contents after some position.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) metadata: Bytes,
    pub(crate) hard_state: HardState,
    /// The newest mark, compact or install.
    pub(crate) mark: Option<SnapshotMark>,
}

/// A record contradicts the ones before it.
#[derive(Debug)]
pub(crate) struct Contradiction;

impl State {
    pub(crate) fn covered(&self) -> EntryId {
        self.mark.as_ref().map_or_else(EntryId::default, SnapshotMark::id)
    }

    /// What the next segment begins with.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let last = self.index.last_id();
        Checkpoint::new(self.metadata.clone(), self.hard_state, last, self.mark.as_ref())
    }

    /// The term of an entry, of the one before the first, or of the one that the newest mark names.
    pub(crate) fn term(&self, index: u64) -> Result<u64, Error> {
        let marked = self.mark.as_ref().filter(|mark| mark.index == index);
        match self.index.term(index).or(marked.map(|mark| mark.term)) {
            Some(term) => Ok(term),
            None => Err(self.out_of_range(index)),
        }
    }

    /// Whether every entry of `range` is there.
    pub(crate) fn check_range(&self, range: &Range<u64>) -> Result<(), Error> {
        let (first, beyond) = (self.index.first(), self.index.last() + 1);
        if range.start < first {
            Err(self.out_of_range(range.start))
        } else if range.end > beyond || range.start > beyond {
            Err(self.out_of_range(range.end.max(range.start)))
        } else {
            Ok(())
        }
    }

    pub(crate) fn out_of_range(&self, index: u64) -> Error {
        Error::OutOfRange { index, first: self.index.first(), last: self.index.last() }
    }

    /// Whether a batch may follow. What is refused here never reaches the disk.
    pub(crate) fn check(&self, batch: &Batch<'_>) -> Result<(), Error> {
        let mut last = self.index.last();
        let mut covered = self.covered();
        if let Some(install) = &batch.install {
            if install.index < covered.index || install.index == u64::MAX {
                let (index, lowest, highest) = (install.index, covered.index, u64::MAX - 1);
                return Err(Error::MarkOutOfRange { index, lowest, highest });
            }
            (last, covered) = (install.index, install.id());
        }
        let (mut lowest, mut next) = (covered.index + 1, last.saturating_add(1));
        for entry in batch.entries {
            if entry.index < lowest || entry.index > next || entry.index == u64::MAX {
                return Err(Error::Gap { index: entry.index, lowest, next });
            }
            if entry.term >= MAX_TERM {
                return Err(Error::TermTooLarge { index: entry.index, term: entry.term });
            }
            (lowest, next) = (entry.index + 1, entry.index + 1);
            last = entry.index;
        }
        if let Some(compact) = &batch.compact {
            let (index, lowest) = (compact.index, covered.index);
            if index < lowest || index > last {
                return Err(Error::MarkOutOfRange { index, lowest, highest: last });
            }
            let given = compact.term;
            let held = match batch.entries.first() {
                Some(first) if first.index <= index => {
                    batch.entries.get((index - first.index) as usize).map(|entry| entry.term)
                }
                _ if index == covered.index => Some(covered.term),
                _ if batch.install.is_some() => None,
                _ => self.term(index).ok(),
            };
            if let Some(held) = held.filter(|held| *held != given && index > 0) {
                return Err(Error::MarkTerm { index, given, held });
            }
        }
        Ok(())
    }

    /// Takes over a batch that was written; its entries stand at `offsets`, and the last one ends at `end`.
    pub(crate) fn apply(&mut self, batch: &Batch<'_>, offsets: &[u32], end: u32) {
        if let Some(metadata) = &batch.metadata {
            self.metadata = metadata.clone();
        }
        if let Some(mark) = &batch.install {
            self.install(mark.clone());
        }
        if let Some(first) = batch.entries.first() {
            self.index.truncate(first.index + u64::from(planted("overwrite-off-by-one")));
            for (entry, offset) in batch.entries.iter().zip(offsets) {
                self.index.push(*offset, entry.term);
            }
            self.index.extend_to(end);
        }
        if let Some(state) = batch.hard_state {
            self.hard_state = state;
        }
        if let Some(mark) = &batch.compact {
            self.mark = Some(mark.clone());
        }
    }

    fn install(&mut self, mark: SnapshotMark) {
        if !planted("stale-entries-after-install") || self.index.last() <= mark.index {
            self.index.install(mark.id());
        }
        self.mark = Some(mark);
    }

    /// Takes over a frame that was read back, unless it cannot follow.
    pub(crate) fn replay(&mut self, kind: Kind, frame: &Frame<'_>) -> Result<(), Contradiction> {
        match kind {
            Kind::Checkpoint => {
                if frame.checkpoint().ok_or(Contradiction)? != self.checkpoint() {
                    return Err(Contradiction);
                }
            }
            Kind::Metadata => self.metadata = frame.metadata(),
            Kind::Entries => {
                let last = self.index.last();
                if frame.first_index == 0 || frame.first_index > last.saturating_add(1) {
                    return Err(Contradiction);
                }
                self.index.truncate(frame.first_index);
                for (head, _) in frame.entries() {
                    self.index.push(head.lsn.offset(), head.term);
                }
                self.index.extend_to(frame.end().offset());
            }
            Kind::HardState => self.hard_state = frame.hard_state().ok_or(Contradiction)?,
            Kind::Install | Kind::Compact => {
                let mark = frame.snapshot().ok_or(Contradiction)?;
                let beyond = kind == Kind::Compact && mark.index > self.index.last();
                if mark.index < self.covered().index || beyond || mark.index == u64::MAX {
                    return Err(Contradiction);
                }
                if kind == Kind::Install {
                    self.install(mark);
                } else {
                    self.mark = Some(mark);
                }
            }
        }
        Ok(())
    }

    /// Takes over all of a segment by its footer, which was checked and follows, and by the checkpoint of the next one:
    /// what the frames said besides entries.
    pub(crate) fn adopt(
        &mut self,
        trailer: &Trailer,
        terms: &[(u64, u64)],
        checkpoint: &Checkpoint,
    ) {
        self.index.adopt(trailer, terms);
        self.set_registers(checkpoint);
    }

    fn set_registers(&mut self, checkpoint: &Checkpoint) {
        self.metadata = checkpoint.metadata.clone();
        self.hard_state = checkpoint.hard_state();
        self.mark = checkpoint.mark();
    }

    /// Begins with the checkpoint of the oldest segment: everything before is known by it alone.
    pub(crate) fn begin(&mut self, checkpoint: &Checkpoint) {
        self.index.reset(checkpoint.last());
        self.set_registers(checkpoint);
    }

    /// Ends a replay. Says whether every entry that no snapshot covers is there.
    ///
    /// Where the oldest segment begins by overwriting what a released one held, the term of the entry before is not
    /// known; the mark knows it, or covers one entry more, which then serves as the one before.
    pub(crate) fn settle(&mut self) -> bool {
        let (base, covered) = (self.index.base(), self.covered());
        if base.index > covered.index {
            return false;
        }
        if base.term == 0 && base.index > 0 {
            if base.index == covered.index {
                self.index.set_base_term(covered.term);
            } else {
                self.index.shift();
            }
        }
        true
    }
}
