//! Where every entry stands: four bytes an entry of the segment being written, nothing for those of the others, and a
//! few for every change of term.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::format::Trailer;
use crate::segment::Segment;
use crate::writer::Held;
use crate::{EntryId, Error, SegmentId};

mod run;
use run::Run;
pub(crate) use run::{Left, Piece};

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
        self.runs.push_back(Run::new(segment, self.last()));
    }

    /// No more entries go to the current segment, whose frames end at `end`, the last one with the checksum `chain`. What
    /// it says of itself is fixed here, whatever is overwritten later. `None` if it was left before, or there is none.
    pub(crate) fn leave_segment(&mut self, end: u32, chain: u32) -> Option<Left> {
        let first = self.runs.back()?.held_from();
        let later = self.terms.iter().filter(|(index, _)| *index > first);
        let mut terms: Vec<_> = match self.term(first).filter(|_| first <= self.last()) {
            Some(term) => std::iter::once((first, term)).chain(later.copied()).collect(),
            None => Vec::new(),
        };
        terms.dedup_by_key(|(_, term)| *term); // the first may have become the base, and the next one begin the terms
        self.runs.back_mut()?.leave(end, chain, terms)
    }

    /// What the current segment holds.
    pub(crate) fn held(&self) -> Held {
        let Some(run) = self.runs.back() else { return Held::default() };
        let begun = self.terms.iter().filter(|(index, _)| *index > run.held_from()).count() as u64;
        Held { entries: run.held(), terms: 1 + begun, term: self.last_id().term }
    }

    /// The footer of `segment` is on disk, if there is room for it.
    pub(crate) fn footer_written(&mut self, segment: SegmentId) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.segment.id == segment) {
            run.written();
        }
    }

    /// How long the footer of `segment` is that the entries are looked up in.
    pub(crate) fn footer_len(&self, segment: SegmentId) -> Option<u64> {
        self.runs.iter().find(|run| run.segment.id == segment)?.footer_len()
    }

    /// Does to the log what the current segment does, by its footer, which was checked and follows.
    pub(crate) fn adopt(&mut self, trailer: &Trailer, terms: &[(u64, u64)]) {
        if let Some(base) = trailer.reset {
            self.reset(base);
        }
        self.truncate(trailer.first);
        if let Some(run) = self.runs.back_mut() {
            run.adopt(trailer);
        }
        for (index, term) in terms {
            self.push_term(*index, *term);
        }
    }

    /// Forgets every entry, because a snapshot takes their place; the next one is the one after `base`.
    pub(crate) fn install(&mut self, base: EntryId) {
        self.reset(base);
        if let Some(run) = self.runs.back_mut() {
            run.installed(base);
        }
    }

    /// Forgets every entry; the next one is the one after `base`.
    pub(crate) fn reset(&mut self, base: EntryId) {
        self.base = base;
        self.terms.clear();
        for run in &mut self.runs {
            run.clear(base.index + 1);
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
            run.truncate(index);
        }
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
    }

    /// Adds the next entry, which stands at `offset` of the current segment. [`extend_to`](Self::extend_to) follows.
    pub(crate) fn push(&mut self, offset: u32, term: u64) {
        let Some(run) = self.runs.back_mut() else { return };
        let index = run.next();
        run.push(offset);
        self.push_term(index, term);
    }

    fn push_term(&mut self, index: u64, term: u64) {
        if self.terms.back().is_none_or(|(_, t)| *t != term) {
            self.terms.push_back((index, term));
        }
    }

    /// The last entry ends at `end`.
    pub(crate) fn extend_to(&mut self, end: u32) {
        if let Some(run) = self.runs.back_mut() {
            run.extend_to(end);
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
        for run in self.runs.iter_mut().take(emptied + 1) {
            run.shift();
        }
        self.base = EntryId { term, index: first };
        self.drop_terms();
    }

    /// Drops the oldest segments as long as all their entries are before `before`, but none from `keep` on.
    pub(crate) fn release(&mut self, before: u64, keep: SegmentId) -> Vec<Arc<Segment>> {
        let mut released = Vec::new();
        while let Some((run, next)) = self.runs.front().zip(self.runs.get(1)) {
            if run.segment.id >= keep || gone_before(run, next) > before {
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

    /// What to [`release`](Self::release) so that files of at least `bytes` go; as much as may go at all, if that is less.
    pub(crate) fn before(&self, bytes: u64) -> u64 {
        let (mut before, mut gone) = (0, 0);
        for (run, next) in self.runs.iter().zip(self.runs.iter().skip(1)) {
            if gone >= bytes {
                break;
            }
            gone += u64::from(run.segment.size);
            before = gone_before(run, next);
        }
        before
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

    /// The entries from `lo` to before `hi` that stand in one segment with `lo`, as many as `places` has room for, which
    /// takes one more number than entries. [`Piece::locate`] completes it. `None` if `lo` is not there.
    pub(crate) fn piece(
        &self,
        lo: u64,
        hi: u64,
        places: &mut [u32],
    ) -> Result<Option<Piece>, Error> {
        let after = self.runs.partition_point(|run| run.first <= lo);
        let run = after.checked_sub(1).and_then(|at| self.runs.get(at));
        run.filter(|run| lo < run.next()).map(|run| run.piece(lo, hi, places)).transpose()
    }

    /// The segments on disk, oldest first.
    pub(crate) fn segments(&self) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        self.runs.iter().map(|run| &run.segment)
    }

    /// Heap bytes behind the index.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let runs: usize = self.runs.iter().map(Run::heap_bytes).sum();
        (runs + self.terms.capacity() * 16) as u64
    }
}

/// The first index that may still be wanted when `run` goes.
///
/// Where the next segment overwrites the end of this one, nobody will know the term of the entry before its first: that
/// one will serve as the entry before instead, and must not be wanted either.
fn gone_before(run: &Run, next: &Run) -> u64 {
    let known = next.after == run.next() - 1;
    run.next() + u64::from(!known)
}
