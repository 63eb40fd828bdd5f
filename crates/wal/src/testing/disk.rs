//! [`SimDisk`] as tests hold it: what can be asked of it and done to it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::fault::{Fault, Planned};
use super::machine::Machine;
use super::outcome::{Unsynced, count, every, kinds};
use super::record::{CrashPoints, Record, Step};
use super::state::{Inode, State, digest};
use super::trace::{Event, Op};

/// A disk in memory, and the machine it is in. A clone is the same disk.
///
/// [`reboot`](Self::reboot) and [`kill`](Self::kill) give a new one and end the old: files, locks and logs that were
/// opened on it fail from then on, as those of a dead process do. Renames work within one directory.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) machine: Mutex<Machine>,
    /// Told when syncs are let go, when one begins to wait, and when the machine ends.
    pub(super) changed: Condvar,
}

impl SimDisk {
    /// An empty disk without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn with(state: State) -> Self {
        let machine = Mutex::new(Machine { state, ..Machine::default() });
        Self { shared: Arc::new(Shared { machine, changed: Condvar::new() }) }
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.machine.lock()
    }

    fn end(&self, why: &'static str) -> (State, Option<Record>) {
        let mut machine = self.machine();
        machine.off = Some(why);
        self.shared.changed.notify_all();
        (machine.state.clone(), machine.record.clone())
    }

    /// An independent copy of the disk as it is now, with a machine of its own; this one goes on.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::with(self.machine().state.clone())
    }

    /// Cuts the power if it is still on, and starts again with what `unsynced` left on the disk: no limits, no plans.
    #[must_use]
    pub fn reboot(&self, unsynced: Unsynced) -> Self {
        Self::with(unsynced.settle(&self.end("the power failed").0))
    }

    /// What a [`reboot`](Self::reboot) now would give, seen from aside: this machine goes on.
    #[must_use]
    pub fn after(&self, unsynced: Unsynced) -> Self {
        Self::with(unsynced.settle(&self.machine().state))
    }

    /// Kills the process: locks are given back, everything written stays, what was not synced stays so. A recording
    /// goes on with the next process.
    #[must_use]
    pub fn kill(&self) -> Self {
        let (state, record) = self.end("the process was killed");
        let next = Self::with(state);
        next.machine().record = record;
        next
    }

    /// Lets `changes` more changes happen (writes, syncs, names made, renamed or removed), then the power fails.
    pub fn cut_power_after(&self, changes: u64) {
        self.machine().changes_left = Some(changes);
    }

    /// Lets `bytes` more bytes be written, then the power fails, in the middle of a write if need be.
    pub fn cut_power_after_bytes(&self, bytes: usize) {
        self.machine().bytes_left = Some(bytes);
    }

    /// Whether a planned power cut has happened.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.machine().off.is_some()
    }

    /// Allows so many bytes in all files together; a write beyond that arrives in part and fails with ENOSPC. Holes
    /// count as written.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.machine().capacity = bytes;
    }

    /// Makes the `nth` operation of a kind from now on (1 is the next) fail, once.
    pub fn fail_nth(&self, op: Op, nth: u64, fault: Fault) {
        self.machine().faults.push(Planned {
            op,
            passes: nth.saturating_sub(1),
            forever: false,
            fault,
        });
    }

    /// Makes the `nth` operation of a kind from now on (1 is the next), and all that follow, fail.
    pub fn fail_from(&self, op: Op, nth: u64, fault: Fault) {
        self.machine().faults.push(Planned {
            op,
            passes: nth.saturating_sub(1),
            forever: true,
            fault,
        });
    }

    /// Forgets the planned faults, and the limits set on power and space.
    pub fn heal(&self) {
        let mut machine = self.machine();
        machine.faults.clear();
        (machine.changes_left, machine.bytes_left, machine.capacity) = (None, None, None);
    }

    /// Keeps file syncs from ending until the returned guard is dropped. A sync that waits covers what was written
    /// before it began, and nothing since.
    #[must_use]
    pub fn hold_syncs(&self) -> HeldSyncs {
        self.machine().syncs_held = true;
        HeldSyncs { disk: self.clone() }
    }

    /// How many operations of a kind were begun, failed ones included.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        self.machine().counts.get(&op).copied().unwrap_or(0)
    }

    /// Everything that happened, in the order in which it ended.
    #[must_use]
    pub fn trace(&self) -> Vec<Event> {
        self.machine().trace.clone()
    }

    /// Writes a remark into the trace and the recording, for what happens outside the disk: "5 was acknowledged".
    pub fn note(&self, note: impl Into<String>) {
        let note = note.into();
        let mut machine = self.machine();
        if let Some(record) = &mut machine.record {
            record.steps.push(Step::Note(note.clone()));
        }
        machine.trace.push(Event::Note(note));
    }

    /// Starts recording, from the disk as it is now; an earlier recording is forgotten.
    pub fn record(&self) {
        let mut machine = self.machine();
        machine.record = Some(Record { base: machine.state.clone(), steps: Vec::new() });
    }

    /// Every moment of what was recorded, from before the first change to after the last. Without a recording, the
    /// present alone.
    #[must_use]
    pub fn crash_points(&self) -> CrashPoints {
        let machine = self.machine();
        let record = machine.record.clone();
        CrashPoints::new(
            record.unwrap_or_else(|| Record { base: machine.state.clone(), steps: Vec::new() }),
        )
    }

    /// How many sectors, lengths and names are not synced now.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        count(&self.machine().state)
    }

    /// The outcomes of a power cut now that are worth trying: all lost, all kept, up to `each` numbers for only one
    /// kept and for only one lost (all of them if there are no more, else evenly spread), and `each` random ones.
    #[must_use]
    pub fn outcomes(&self, each: usize) -> Vec<Unsynced> {
        let count = self.unsynced();
        let mut all = vec![Unsynced::Lost];
        if count == 0 || each == 0 {
            return all; // nothing is in doubt, or the caller wants the worst case only
        }
        all.push(Unsynced::Kept);
        let step = count.div_ceil(each).max(1);
        all.extend((0..count).step_by(step).flat_map(|n| [Unsynced::Only(n), Unsynced::AllBut(n)]));
        all.extend((0..each as u64).map(Unsynced::Random));
        all
    }

    /// As [`outcomes`](Self::outcomes), but with every combination of lost, kept, zeros and garbage if these are no
    /// more than `most`; else with every one of lost and kept if these are no more than half of that; and filled up to
    /// `most` with random ones, drawn from `seed`.
    #[must_use]
    pub fn every_outcome(&self, most: usize, seed: u64) -> Vec<Unsynced> {
        let (names, sectors) = kinds(&self.machine().state);
        let items = names + sectors;
        if names + 2 * sectors < 16 && 1 << (names + 2 * sectors) <= most {
            return every(&self.machine().state, 4);
        }
        let mut all: Vec<_> = if items < 16 && 2 << items <= most {
            every(&self.machine().state, 2)
        } else {
            self.outcomes((most / 6).max(1))
                .into_iter()
                .filter(|o| !matches!(o, Unsynced::Random(_)))
                .collect()
        };
        let random = most.saturating_sub(all.len()) as u64;
        all.extend((0..random).map(|n| Unsynced::Random(seed.wrapping_add(n))));
        all
    }

    /// A digest of the files that `which` chooses, names and contents as a read sees them: disks that differ there have
    /// different ones, but for chance.
    #[must_use]
    pub fn digest(&self, which: impl Fn(&Path) -> bool) -> u64 {
        digest(&self.machine().state, which)
    }

    /// Bytes in files that have a name: what [`set_capacity`](Self::set_capacity) is compared with.
    #[must_use]
    pub fn used(&self) -> usize {
        self.machine().state.used()
    }

    /// The contents of a file as a read sees them; `None` if there is none. Works on a machine that is off, too.
    #[must_use]
    pub fn contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let machine = self.machine();
        let id = machine.state.file(path.as_ref().parent()?, path.as_ref().file_name()?)?;
        machine.state.files.get(&id).map(|f| f.live.to_vec())
    }

    /// Rot: changes a file's contents behind everybody's back, durably. Says whether there is such a file.
    pub fn tamper(&self, path: impl AsRef<Path>, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(mut bytes) = self.contents(&path) else { return false };
        change(&mut bytes);
        let mut machine = self.machine();
        let (parent, name) = (path.as_ref().parent(), path.as_ref().file_name());
        let Some(id) = parent.zip(name).and_then(|(dir, name)| machine.state.file(dir, name))
        else {
            return false;
        };
        machine.state.files.insert(id, Inode::settled(bytes));
        true
    }
}

/// While this lives, file syncs begin and do not end. See [`SimDisk::hold_syncs`].
#[derive(Debug)]
pub struct HeldSyncs {
    disk: SimDisk,
}

impl HeldSyncs {
    /// Waits until `count` syncs are waiting, for at most `limit`; says whether they are.
    #[must_use]
    pub fn wait_for(&self, count: usize, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut machine = self.disk.machine();
        while machine.syncs_waiting < count {
            if self.disk.shared.changed.wait_until(&mut machine, deadline).timed_out() {
                return machine.syncs_waiting >= count;
            }
        }
        true
    }
}

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.disk.machine().syncs_held = false;
        self.disk.shared.changed.notify_all();
    }
}
