//! The machine around the disk: power, faults, space, and the books kept of every operation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::fault::{Fault, Planned, due};
use super::record::{Record, Step};
use super::state::{Change, State};
use super::trace::{Event, Op};

#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) state: State,
    /// Why nothing works any more.
    pub(super) off: Option<&'static str>,
    pub(super) changes_left: Option<u64>,
    pub(super) bytes_left: Option<usize>,
    pub(super) capacity: Option<usize>,
    pub(super) faults: Vec<Planned>,
    pub(super) counts: BTreeMap<Op, u64>,
    pub(super) trace: Vec<Event>,
    pub(super) record: Option<Record>,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) syncs_held: bool,
    pub(super) syncs_waiting: usize,
}

impl Machine {
    /// Begins an operation: counts it, and fails if the machine is off or a fault is due.
    pub(super) fn begin(&mut self, op: Op) -> io::Result<()> {
        match self.begin_faulty(op)? {
            Some(fault) => Err(fault.error()),
            None => Ok(()),
        }
    }

    /// As [`begin`](Self::begin), but leaves the fault to the caller.
    pub(super) fn begin_faulty(&mut self, op: Op) -> io::Result<Option<Fault>> {
        self.powered()?;
        *self.counts.entry(op).or_default() += 1;
        Ok(due(&mut self.faults, op))
    }

    pub(super) fn powered(&self) -> io::Result<()> {
        self.off.map_or(Ok(()), |why| Err(io::Error::other(why)))
    }

    /// Makes a change, unless the power fails first.
    pub(super) fn change(&mut self, change: Change) -> io::Result<()> {
        if let Some(left) = &mut self.changes_left {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => self.off = Some("the power failed"),
            }
        }
        self.powered()?;
        self.state.apply(&change);
        if let Some(record) = &mut self.record {
            record.steps.push(Step::Change(change));
        }
        Ok(())
    }

    /// Ends an operation: writes it into the trace.
    pub(super) fn end<T>(
        &mut self,
        (op, path): (Op, &Path),
        (offset, len): (u64, u64),
        done: io::Result<T>,
    ) -> io::Result<T> {
        let path = path.to_owned();
        self.trace.push(match done {
            Ok(_) => Event::Done { op, path, offset, len },
            Err(_) => Event::Failed { op, path },
        });
        done
    }
}
