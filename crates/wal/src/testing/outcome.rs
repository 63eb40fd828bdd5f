//! What a power cut leaves of that which was not synced.

use super::state::{Dirty, Inode, SECTOR, State, put};

/// What becomes of the unsynced sectors, lengths and names when the power fails.
///
/// They are counted in a fixed order ([`SimDisk::unsynced`](super::SimDisk::unsynced)), so that an outcome printed by
/// a failing test can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsynced {
    /// All of it is gone.
    Lost,
    /// All of it had reached the disk.
    Kept,
    /// Only the one with this number had reached the disk.
    Only(usize),
    /// Only the one with this number had not.
    AllBut(usize),
    /// Drawn from this seed: how much is kept, and whether sectors may also be an older version of themselves, or
    /// torn, zero or garbage where they were written.
    Random(u64),
}

impl Unsynced {
    /// The state after the cut: everything in it is durable.
    pub(super) fn settle(self, state: &State) -> State {
        let mut dice = Dice::new(self);
        let mut after = state.clone();
        for dir in after.dirs.values_mut() {
            let mut names = dir.durable.clone();
            for change in std::mem::take(&mut dir.pending) {
                if dice.keep() {
                    change.apply(&mut names);
                }
            }
            (dir.live, dir.durable) = (names.clone(), names);
        }
        for inode in after.files.values_mut() {
            *inode = Inode::settled(dice.contents(inode));
        }
        let named: Vec<_> = after.dirs.values().flat_map(|d| d.live.values().copied()).collect();
        after.files.retain(|id, _| named.contains(id));
        after
    }
}

/// How many sectors, lengths and names are not synced.
pub(super) fn count(state: &State) -> usize {
    let names: usize = state.dirs.values().map(|d| d.pending.len()).sum();
    let files: usize =
        state.files.values().map(|f| usize::from(!f.lens.is_empty()) + f.dirty.len()).sum();
    names + files
}

struct Dice {
    outcome: Unsynced,
    next: usize,
    rng: fastrand::Rng,
    /// Chance of being kept, and of being mangled.
    keep: f64,
    mangle: f64,
}

impl Dice {
    fn new(outcome: Unsynced) -> Self {
        let seed = if let Unsynced::Random(seed) = outcome { seed } else { 0 };
        let mut rng = fastrand::Rng::with_seed(seed);
        let keep = [0.1, 0.5, 0.5, 0.9][rng.usize(..4)];
        let mangle = [0.0, 0.1, 0.5][rng.usize(..3)];
        Self { outcome, next: 0, rng, keep, mangle }
    }

    fn keep(&mut self) -> bool {
        let number = self.next;
        self.next += 1;
        match self.outcome {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Only(n) => number == n,
            Unsynced::AllBut(n) => number != n,
            Unsynced::Random(_) => self.rng.f64() < self.keep,
        }
    }

    fn contents(&mut self, file: &Inode) -> Vec<u8> {
        let mut len = file.durable_len;
        if let Some(&(_, newest)) = file.lens.last()
            && self.keep()
        {
            len = match self.outcome {
                Unsynced::Random(_) => file.lens[self.rng.usize(..file.lens.len())].1,
                _ => newest,
            };
        }
        let mut bytes = file.durable.clone();
        for (&sector, dirty) in &file.dirty {
            if let Some(new) = self.sector(file.durable.get(sector * SECTOR..), dirty) {
                put(&mut bytes, sector, &new);
            }
        }
        bytes.resize(len, 0);
        bytes
    }

    fn sector(&mut self, old: Option<&[u8]>, dirty: &Dirty) -> Option<[u8; SECTOR]> {
        let keep = self.keep();
        let Unsynced::Random(_) = self.outcome else {
            return keep.then(|| dirty.versions.last().map(|v| *v.bytes)).flatten();
        };
        let version = &dirty.versions[self.rng.usize(..dirty.versions.len())];
        if self.rng.f64() >= self.mangle {
            // Mostly the newest: an older version needs a write-back between two writes.
            let version = if self.rng.bool() { version } else { dirty.versions.last()? };
            return keep.then_some(*version.bytes);
        }
        // The write of this version was cut short, over whatever was written before it: only what it touched suffers.
        let mut torn = *version.bytes;
        let touched = version.touched.clone();
        match self.rng.u8(..3) {
            0 => torn[touched].fill(0),
            1 => self.rng.fill(&mut torn[touched]),
            _ => {
                let cut = self.rng.usize(touched.start..=touched.end);
                let old = old.unwrap_or_default();
                torn[cut..touched.end].fill(0);
                let end = touched.end.min(old.len());
                if cut < end {
                    torn[cut..end].copy_from_slice(&old[cut..end]);
                }
            }
        }
        Some(torn)
    }
}
