//! Operations that fail on command.

use std::io;

use super::trace::Op;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How a planned failure looks to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// EIO; nothing was done. A sync that fails like this also behaves like Linux afterwards: what it should have
    /// written may be lost although later syncs succeed, unless it is written anew.
    Io,
    /// ENOSPC; nothing was done.
    NoSpace,
    /// Of a write, the first so many bytes arrive, then ENOSPC. Anything but a write fails with ENOSPC.
    Short(usize),
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => EIO,
            Self::NoSpace | Self::Short(_) => ENOSPC,
        })
    }
}

/// A fault that waits for its turn.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) op: Op,
    /// How many operations of that kind still pass.
    pub(super) passes: u64,
    pub(super) forever: bool,
    pub(super) fault: Fault,
}

/// The fault that is due for `op`, if any. Each plan counts for itself.
pub(super) fn due(plans: &mut Vec<Planned>, op: Op) -> Option<Fault> {
    let mut due = None;
    plans.retain_mut(|plan| {
        if plan.op != op {
            return true;
        }
        if plan.passes > 0 {
            plan.passes -= 1;
            return true;
        }
        due = due.or(Some(plan.fault));
        plan.forever
    });
    due
}
