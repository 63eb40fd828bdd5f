//! Where every entry stands: four bytes an entry, and a few for every change of term.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::segment::Segment;
use crate::{EntryId, SegmentId};

/// The live entries, one run for every segment on disk, oldest first.
///
/// Invariant: the runs are contiguous. Every run's `first` is the one before it plus that one's length, empty runs
/// included, and the first one's is `base.index + 1`.
#[derive(Debug, Default)]
pub(crate) struct Index {
    runs: VecDeque<Run>,
    /// Where terms begin: `(index, term)`, ascending. Covers exactly the live entries.
    terms: VecDeque<(u64, u64)>,
    /// The entry before the first.
    base: EntryId,
}

/// The live entries of one segment.
#[derive(Debug)]
struct Run {
    segment: Arc<Segment>,
    first: u64,
    offsets: Vec<u32>,
    /// The end of the last entry that was written to the segment.
    end: u32,
    /// The last entry of the log when the segment was begun: its checkpoint knows the term of that one.
    after: u64,
}

/// Consecutive entries of one segment, and the bytes they stand in.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) segment: Arc<Segment>,
    pub(crate) first: u64,
    pub(crate) offsets: Vec<u32>,
    pub(crate) end: u32,
}

impl Run {
    fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    /// The end of the bytes in which the entry at `at` stands: where the next one begins, or the last one ends.
    fn end_of(&self, at: usize) -> u32 {
        self.offsets.get(at + 1).copied().unwrap_or(self.end)
    }
}

impl Index {
    pub(crate) fn first(&self) -> u64 {
        self.base.index + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.runs.back().map_or(self.base.index, |run| run.next() - 1)
    }

    pub(crate) fn last_id(&self) -> EntryId {
        let term = self.terms.back().map_or(self.base.term, |(_, term)| *term);
        EntryId { term, index: self.last() }
    }

    pub(crate) fn base(&self) -> EntryId {
        self.base
    }

    pub(crate) fn contains(&self, index: u64) -> bool {
        self.first() <= index && index <= self.last()
    }

    /// The term of an entry that it contains, or of the one before the first.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        self.contains(index).then(|| self.terms.get(after.checked_sub(1)?).map(|t| t.1)).flatten()
    }

    /// From here on entries go to `segment`.
    pub(crate) fn begin_segment(&mut self, segment: Arc<Segment>) {
        let after = self.last();
        self.runs.push_back(Run { segment, first: after + 1, offsets: Vec::new(), end: 0, after });
    }

    /// Forgets every entry; the next one is the one after `base`.
    pub(crate) fn reset(&mut self, base: EntryId) {
        self.base = base;
        self.terms.clear();
        for run in &mut self.runs {
            run.first = base.index + 1;
            run.offsets = Vec::new();
        }
    }

    /// Forgets the entries from `index` on. With `index` at or below the base, that too: then the term of the new base
    /// is not known, and given as 0.
    pub(crate) fn truncate(&mut self, index: u64) {
        if index <= self.base.index {
            self.reset(EntryId { term: 0, index: index.saturating_sub(1) });
            return;
        }
        for run in self.runs.iter_mut().rev().take_while(|run| run.next() > index) {
            run.offsets.truncate(index.saturating_sub(run.first) as usize);
            run.first = run.first.min(index);
        }
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
    }

    /// Adds the next entry, which stands at `offset` of the current segment. [`extend_to`](Self::extend_to) follows.
    pub(crate) fn push(&mut self, offset: u32, term: u64) {
        let index = self.last() + 1;
        if let Some(run) = self.runs.back_mut() {
            run.offsets.push(offset);
        }
        if self.terms.back().is_none_or(|(_, t)| *t != term) {
            self.terms.push_back((index, term));
        }
    }

    /// The last entry ends at `end`.
    pub(crate) fn extend_to(&mut self, end: u32) {
        if let Some(run) = self.runs.back_mut() {
            run.end = end;
        }
    }

    pub(crate) fn set_base_term(&mut self, term: u64) {
        self.base.term = term;
    }

    /// Drops the first entry, which becomes the base.
    pub(crate) fn shift(&mut self) {
        let first = self.first();
        let Some(term) = self.term(first).filter(|_| self.contains(first)) else { return };
        let emptied = self.runs.iter().take_while(|run| run.next() <= first).count();
        for run in self.runs.iter_mut().take(emptied) {
            run.first = first + 1;
        }
        if let Some(run) = self.runs.get_mut(emptied) {
            run.offsets.remove(0);
            run.first = first + 1;
        }
        self.base = EntryId { term, index: first };
        self.drop_terms();
    }

    /// Drops the oldest segments as long as all their entries are before `before`, but none from `keep` on.
    pub(crate) fn release(&mut self, before: u64, keep: SegmentId) -> Vec<Arc<Segment>> {
        let mut released = Vec::new();
        while let Some(next) = self.runs.get(1) {
            let goes = |run: &Run| {
                // Where the next segment overwrites the end of this one, nobody will know the term of the entry before
                // its first: that one will serve as the entry before instead, and must not be wanted either.
                let known = next.after == run.next() - 1;
                run.segment.id < keep && run.next() + u64::from(!known) <= before
            };
            if !self.runs.front().is_some_and(goes) {
                break;
            }
            let Some(run) = self.runs.pop_front() else { break };
            let last = run.next() - 1;
            if let Some(term) = self.term_of_released(last) {
                self.base = EntryId { term, index: last };
            }
            released.push(run.segment);
        }
        self.drop_terms();
        released
    }

    fn term_of_released(&self, index: u64) -> Option<u64> {
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        if index == self.base.index {
            Some(self.base.term)
        } else {
            self.terms.get(after.checked_sub(1)?).map(|t| t.1)
        }
    }

    /// Forgets the terms of entries before the first.
    fn drop_terms(&mut self) {
        let first = self.first();
        while self.terms.get(1).is_some_and(|(next, _)| *next <= first) {
            self.terms.pop_front();
        }
        if self.last() < first {
            self.terms.clear();
        } else if let Some(front) = self.terms.front_mut() {
            front.0 = front.0.max(first);
        }
    }

    /// The entries from `lo` to before `hi` that stand in one segment with `lo`.
    pub(crate) fn piece(&self, lo: u64, hi: u64) -> Option<Piece> {
        let after = self.runs.partition_point(|run| run.first <= lo);
        let run = self.runs.get(after.checked_sub(1)?).filter(|run| lo < run.next())?;
        let from = (lo - run.first) as usize;
        let to = (hi.min(run.next()).saturating_sub(run.first) as usize).max(from + 1);
        Some(Piece {
            segment: run.segment.clone(),
            first: lo,
            offsets: run.offsets[from..to].to_vec(),
            end: run.end_of(to - 1),
        })
    }

    /// The segments on disk, oldest first.
    pub(crate) fn segments(&self) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        self.runs.iter().map(|run| &run.segment)
    }

    /// Heap bytes behind the index.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let offsets: usize = self.runs.iter().map(|run| run.offsets.capacity() * 4).sum();
        (offsets + self.terms.capacity() * 16) as u64
    }
}
