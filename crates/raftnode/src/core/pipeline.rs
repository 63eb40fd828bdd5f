//! The persist stages on their way to disk, and how much of the log is durable.

use std::collections::VecDeque;

use super::Persist;
use super::apply::Handover;
use crate::planted::planted;

/// The persist stages that were given out and are not reported as durable yet, and what the reports so far add up to.
#[derive(Debug)]
pub(super) struct Pipeline {
    in_flight: VecDeque<InFlight>,
    /// The highest number reported as durable. It may be ahead of `acknowledged`: see [`complete`](Self::complete).
    reported: u64,
    /// The highest number that raft-rs has been told of.
    pub(super) acknowledged: u64,
    durable_index: u64,
    durable_term: u64,
    /// The number of the stage that installs a snapshot, until the state machine has restored it.
    pub(super) installing: Option<u64>,
    pub(super) handover: Handover,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    /// (index, term) of its last entry.
    last_entry: Option<(u64, u64)>,
    install: Option<u64>,
    hard_state_term: Option<u64>,
    /// The number of a later stage that overwrites entries of this one.
    overwritten_by: Option<u64>,
}

/// What raft-rs may be told after a report.
#[derive(Debug, Default)]
pub(super) struct Completed {
    /// The highest stage that counts as durable; 0 if the report changed nothing.
    pub(super) number: u64,
    /// (index, term) of the last entry that became durable.
    pub(super) last_entry: Option<(u64, u64)>,
}

impl Pipeline {
    pub(super) const fn new(durable_index: u64, durable_term: u64, applied: u64) -> Self {
        Self {
            in_flight: VecDeque::new(),
            reported: 0,
            acknowledged: 0,
            durable_index,
            durable_term,
            installing: None,
            handover: Handover::new(applied),
        }
    }

    pub(super) const fn durable_index(&self) -> u64 {
        self.durable_index
    }

    pub(super) const fn durable_term(&self) -> u64 {
        self.durable_term
    }

    /// Whether every stage given out is durable.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// A stage is given out.
    pub(super) fn start(&mut self, persist: &Persist) {
        let number = persist.number;
        if let Some(mark) = &persist.install {
            self.installing = Some(number);
            // The rest of the log is discarded, and the snapshot is not durable yet. What was applied stays covered.
            self.durable_index = self.durable_index.min(self.handover.handed());
            self.handover.install(mark.index);
        }
        if let Some(first) = persist.entries.first() {
            // Overwritten entries stop counting at once, not only when their replacements are durable.
            if !planted("overwritten-counts-as-durable") {
                self.durable_index = self.durable_index.min(first.index - 1);
            }
            for earlier in &mut self.in_flight {
                if earlier.last_entry.is_some_and(|(last, _)| last >= first.index) {
                    earlier.overwritten_by = Some(number);
                }
            }
        }
        self.in_flight.push_back(InFlight {
            number,
            last_entry: persist.entries.last().map(|entry| (entry.index, entry.term)),
            install: persist.install.as_ref().map(|mark| mark.index),
            hard_state_term: persist.hard_state.as_ref().map(|hard_state| hard_state.term),
            overwritten_by: None,
        });
    }

    /// Everything up to `number` is durable.
    ///
    /// A stage whose entries a later stage overwrites counts only once that later stage is durable too. raft-rs compares
    /// the reported index and term with the log as it is *now*. If the same entries were appended, overwritten, and
    /// appended again while all three writes are under way, a report of the first would make raft-rs count the third as
    /// durable, which no disk holds yet.
    pub(super) fn complete(&mut self, number: u64) -> Completed {
        self.reported = self.reported.max(number);
        let mut completed = Completed::default();
        while let Some(first) = self.in_flight.front() {
            let settled = first.overwritten_by.is_none_or(|by| by <= self.reported)
                || planted("overwritten-stage-counts-alone");
            if first.number > self.reported || !settled {
                break;
            }
            let Some(first) = self.in_flight.pop_front() else { break };
            completed.number = first.number;
            if let Some(index) = first.install {
                (self.durable_index, completed.last_entry) = (index, None);
            }
            if let Some((index, term)) = first.last_entry {
                (self.durable_index, completed.last_entry) = (index, Some((index, term)));
            }
            if let Some(term) = first.hard_state_term {
                self.durable_term = term;
            }
            if planted("one-report-counts-for-one-write") {
                break;
            }
        }
        if completed.number != 0 {
            self.acknowledged = completed.number;
        }
        if planted("released-before-raft-is-told") {
            self.acknowledged = self.reported;
        }
        completed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft::eraftpb::{Entry, HardState};

    use super::*;
    use crate::SnapshotMark;

    fn entries(places: &[(u64, u64)]) -> Vec<Entry> {
        places.iter().map(|&(term, index)| Entry { term, index, ..Entry::default() }).collect()
    }

    fn stage(number: u64, places: &[(u64, u64)]) -> Persist {
        Persist { number, entries: Arc::new(entries(places)), ..Persist::default() }
    }

    #[test]
    fn durable_falls_back_when_an_entry_is_overwritten() {
        let mut pipeline = Pipeline::new(7, 1, 0);
        pipeline.start(&stage(1, &[(2, 6)]));
        assert_eq!(pipeline.durable_index(), 5);
        pipeline.complete(1);
        assert_eq!(pipeline.durable_index(), 6);
    }

    #[test]
    fn durable_falls_back_when_a_snapshot_replaces_the_log() {
        let mut pipeline = Pipeline::new(20, 1, 4);
        let install = Some(SnapshotMark { index: 9, term: 3, ..SnapshotMark::default() });
        pipeline.start(&Persist { number: 1, install, ..Persist::default() });
        assert_eq!(pipeline.durable_index(), 4, "5 to 20 are discarded, 5 to 9 are not written");
        pipeline.start(&stage(2, &[(3, 10)]));
        assert_eq!(pipeline.durable_index(), 4);
        pipeline.complete(1);
        assert_eq!(pipeline.durable_index(), 9);
    }

    #[test]
    fn an_overwritten_stage_counts_only_with_the_one_that_overwrites_it() {
        let mut pipeline = Pipeline::new(4, 1, 0);
        pipeline.start(&stage(1, &[(1, 5), (1, 6)]));
        pipeline.start(&stage(2, &[(2, 5), (2, 6)]));
        pipeline.start(&stage(3, &[(1, 5), (1, 6)]));
        assert_eq!(
            pipeline.complete(1).number,
            0,
            "the third copy looks like the first and is not durable"
        );
        assert_eq!(pipeline.acknowledged, 0, "what waits would leave before raft is told (O16)");
        assert_eq!(pipeline.complete(2).number, 0);
        let completed = pipeline.complete(3);
        assert_eq!((completed.number, completed.last_entry), (3, Some((6, 1))));
        assert_eq!(pipeline.durable_index(), 6);
    }

    #[test]
    fn the_term_is_durable_when_its_stage_is() {
        let mut pipeline = Pipeline::new(0, 1, 0);
        let hard_state = Some(HardState { term: 2, ..HardState::default() });
        pipeline.start(&Persist { number: 1, hard_state, ..Persist::default() });
        assert_eq!(pipeline.durable_term(), 1);
        pipeline.complete(1);
        assert_eq!(pipeline.durable_term(), 2);
    }
}
