//! The log under a loop of one's own: a counter that survives whatever happens to its process.
//!
//! `cargo run -p oarlock-wal --example durable_counter`. It shows the three orders that a user of this crate keeps: what is
//! answered was waited for; what is recovered is the snapshot that the log vouches for, and the entries behind it; and a
//! prefix is given up as file, mark, release, purge.

use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;

use oarlock_wal::snapshot::SnapshotStore;
use oarlock_wal::{Batch, Entry, HardState, Maintainer, Options, SnapshotMark, Wal};

/// Entries after which the state is snapshotted, and how many stay behind a snapshot for those who lag.
const SNAPSHOT_AFTER: u64 = 1000;
const KEEP: u64 = 100;

struct Counter {
    log: Wal,
    snapshots: SnapshotStore,
    /// Keeps segments prepared, and marks the end when the log is idle. Ends when the log is closed.
    _maintainer: Maintainer,
    term: u64,
    sum: u64,
    applied: u64,
    snapshot: u64,
}

impl Counter {
    fn open(dir: &Path) -> Result<Self, Box<dyn Error>> {
        let options = Options::new().segment_size(32 << 10); // small, so that a few thousand entries roll it
        let wal = dir.join("wal");
        // The log comes first: its lock is what keeps a second process off the snapshots too.
        let log = if options.exists(&wal)? {
            options.open(&wal)?
        } else {
            options.create(&wal, b"me")?
        };
        let maintainer = Maintainer::spawn(&log)?;
        let snapshots = SnapshotStore::open(dir.join("snap"))?;

        let (mut sum, mut snapshot) = (0, 0);
        if let Some(mark) = log.snapshot() {
            let vouched = |index, term| (index, term) == (mark.index, mark.term);
            let found =
                snapshots.newest(vouched)?.ok_or("the log's snapshot is gone or damaged")?;
            let mut content = [0; 8];
            snapshots.open_file(found.index, found.term)?.read_exact(&mut content)?;
            (sum, snapshot) = (u64::from_be_bytes(content), found.index);
        }
        // Nobody else could disagree, so whatever the log holds counts. With peers, only what is committed does.
        let mut applied = snapshot;
        while applied < log.last_index() {
            for entry in log.entries(applied + 1..log.last_index() + 1, 1 << 20)? {
                sum += u64::from_be_bytes(entry.data[..].try_into()?);
                applied = entry.index;
            }
        }
        let term = log.hard_state().term + 1; // another life
        let state = HardState { term, vote: 1, commit: applied };
        log.wait(log.append(&Batch::hard_state(state))?)?;
        Ok(Self { log, snapshots, _maintainer: maintainer, term, sum, applied, snapshot })
    }

    /// Adds all of `steps`, in one write and one sync. What it returns is durable.
    fn add(&mut self, steps: &[u64]) -> Result<u64, Box<dyn Error>> {
        let entries: Vec<Entry> = (self.applied + 1..)
            .zip(steps)
            .map(|(index, step)| Entry::new(index, self.term, 0, step.to_be_bytes().to_vec()))
            .collect();
        let ticket = self.log.append(&Batch::of(&entries))?;
        self.log.wait(ticket)?; // not before this may anybody be told
        self.sum += steps.iter().sum::<u64>();
        self.applied = self.log.last_index();
        if self.applied - self.snapshot >= SNAPSHOT_AFTER {
            self.compact()?;
        }
        Ok(self.sum)
    }

    fn compact(&mut self) -> Result<(), Box<dyn Error>> {
        let (index, term) = (self.applied, self.log.term(self.applied)?);
        let mut file = self.snapshots.create(index, term)?;
        file.write_all(&self.sum.to_be_bytes())?;
        file.commit()?; // 1. the whole file is durable,
        let mark = Batch::compact(SnapshotMark::new(index, term, "no members but me"));
        self.log.wait(self.log.append(&mark)?)?; // 2. then the log vouches for it,
        self.log.release(index.saturating_sub(KEEP))?; // 3. then what it replaces may go,
        self.snapshots.purge(index)?; // 4. and the file before it.
        self.snapshot = index;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let tmp = tempfile::tempdir()?;
    let mut counter = Counter::open(tmp.path())?;
    for _ in 0..100 {
        counter.add(&[3; 50])?;
    }
    assert!(counter.log.first_index() > 1, "old segments are gone");
    drop(counter);

    let mut counter = Counter::open(tmp.path())?;
    assert_eq!((counter.sum, counter.applied, counter.term), (15_000, 5_000, 2));
    assert_eq!(counter.add(&[1])?, 15_001);
    Ok(counter.log.close()?)
}
