//! What a power cut leaves of that which was not synced.

use std::collections::BTreeMap;

use super::state::{Dir, Dirty, Inode, SECTOR, State, put};

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
    /// Two bits for each, the lowest for the first: 0 lost, 1 kept, and for a sector also 2 zeros, 3 garbage where it
    /// was written. What there are no bits for is lost.
    Each(u128),
}

impl Unsynced {
    /// The state after the cut: everything in it is durable.
    pub(super) fn settle(self, state: &State) -> State {
        let mut dice = Dice::new(self);
        let mut dirs = BTreeMap::new();
        for (path, dir) in &state.dirs {
            let mut names = dir.durable.clone();
            for change in &dir.pending {
                if dice.keep() {
                    change.apply(&mut names);
                }
            }
            let settled = Dir { live: names.clone(), durable: names, pending: Vec::new() };
            dirs.insert(path.clone(), settled);
        }
        let named: Vec<_> = dirs.values().flat_map(|d| d.live.values().copied()).collect();
        let mut files = BTreeMap::new();
        for (id, inode) in &state.files {
            let settled = dice.inode(inode); // also if it goes: the dice fall in a fixed order
            if named.contains(id) {
                files.insert(*id, settled);
            }
        }
        State { dirs, files, ..*state }
    }
}

/// How many sectors, lengths and names are not synced.
pub(super) fn count(state: &State) -> usize {
    let names: usize = state.dirs.values().map(|d| d.pending.len()).sum();
    let files: usize =
        state.files.values().map(|f| usize::from(!f.lens.is_empty()) + f.dirty.len()).sum();
    names + files
}

/// How many lengths and names, which are there or not, and how many sectors are not synced.
pub(super) fn kinds(state: &State) -> (usize, usize) {
    let sectors = state.files.values().map(|f| f.dirty.len()).sum();
    (count(state) - sectors, sectors)
}

/// Every combination of outcomes: two ways for a length or name, `ways` (two or four) for a sector.
pub(super) fn every(state: &State, ways: u32) -> Vec<Unsynced> {
    let mut all = vec![0_u128];
    for (place, is_sector) in are_sectors(state).into_iter().enumerate() {
        let ways = if is_sector { ways } else { 2 };
        let more = |way: u32| all.iter().map(move |each| each | u128::from(way) << (2 * place));
        all = (0..ways).flat_map(more).collect();
    }
    all.into_iter().map(Unsynced::Each).collect()
}

/// Which of the unsynced things are sectors, in their order.
fn are_sectors(state: &State) -> Vec<bool> {
    let mut are = vec![false; state.dirs.values().map(|d| d.pending.len()).sum()];
    for file in state.files.values() {
        are.extend(std::iter::repeat_n(false, usize::from(!file.lens.is_empty())));
        are.extend(std::iter::repeat_n(true, file.dirty.len()));
    }
    are
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
            Unsynced::Each(_) => self.digit(number) == 1,
        }
    }

    /// The two bits for the thing with this number.
    fn digit(&self, number: usize) -> u128 {
        let Unsynced::Each(each) = self.outcome else { return 0 };
        if number < 64 { each >> (2 * number) & 3 } else { 0 }
    }

    fn inode(&mut self, file: &Inode) -> Inode {
        if file.dirty.is_empty() && file.lens.is_empty() && file.durable.len() == file.durable_len {
            let (live, durable) = (file.durable.clone(), file.durable.clone());
            return Inode { live, durable, durable_len: file.durable_len, ..Inode::default() };
        }
        Inode::settled(self.contents(file))
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
        let mut bytes = file.durable.to_vec();
        for (&sector, dirty) in &file.dirty {
            if let Some(new) = self.sector(file.durable.get(sector * SECTOR..), dirty) {
                put(&mut bytes, sector, &new);
            }
        }
        bytes.resize(len, 0);
        bytes
    }

    fn sector(&mut self, old: Option<&[u8]>, dirty: &Dirty) -> Option<[u8; SECTOR]> {
        let number = self.next;
        let keep = self.keep();
        if let digit @ 2.. = self.digit(number) {
            let version = dirty.versions.last()?;
            let mut torn = *version.bytes;
            let touched = &mut torn[version.touched.clone()];
            match digit {
                2 => touched.fill(0),
                _ => self.rng.fill(touched),
            }
            return Some(torn);
        }
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
