//! A workload played again up to each of its operations.

use super::disk::SimDisk;
use super::state::{Change, State};

/// What happened since [`SimDisk::record`].
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) base: State,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Change(Change),
    Note(String),
}

/// Iterates over the moments at which a recorded workload can be cut: before its first change and after each one.
#[derive(Debug)]
pub struct CrashPoints {
    state: State,
    steps: std::vec::IntoIter<Step>,
    notes: Vec<String>,
    changes: usize,
    started: bool,
}

/// One moment of a recorded workload.
#[derive(Debug)]
pub struct CrashPoint {
    /// How many changes had been made.
    pub changes: usize,
    /// The notes made by then ([`SimDisk::note`]): what the workload had been promised.
    pub notes: Vec<String>,
    /// The disk at that moment, still powered: call `reboot` or `kill`.
    pub disk: SimDisk,
}

impl CrashPoints {
    pub(super) fn new(record: Record) -> Self {
        let steps = record.steps.into_iter();
        Self { state: record.base, steps, notes: Vec::new(), changes: 0, started: false }
    }

    /// Notes that come before the next change belong to the moment before it.
    fn take_notes(&mut self) {
        while let Some(Step::Note(note)) = self.steps.as_slice().first() {
            self.notes.push(note.clone());
            self.steps.next();
        }
    }
}

impl Iterator for CrashPoints {
    type Item = CrashPoint;

    fn next(&mut self) -> Option<CrashPoint> {
        if self.started {
            let Some(Step::Change(change)) = self.steps.next() else { return None };
            self.state.apply(&change);
            self.changes += 1;
        }
        self.started = true;
        self.take_notes();
        let disk = SimDisk::with(self.state.clone());
        Some(CrashPoint { changes: self.changes, notes: self.notes.clone(), disk })
    }
}
