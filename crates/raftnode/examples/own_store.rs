//! A log of your own: implement two traits, and let the conformance suite check them.
//!
//! This one keeps everything in a vector and calls it durable, which is enough to show the shape. A store on a database
//! would write a batch in a transaction, and commit in `sync`.
//!
//! ```sh
//! cargo run -p oarlock-raftnode --features testing --example own_store
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what came of it")]

use std::sync::{Arc, RwLock};

use oarlock_raftnode::bootstrap::{Boot, boot};
use oarlock_raftnode::membership::Cluster;
use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::testing::{LogFixture, log_store};
use oarlock_raftnode::{LogBatch, LogError, LogReader, LogState, LogStore, MemSnapshots};

/// What is "on disk": readers share it with the writer.
#[derive(Clone, Default)]
struct VecStore(Arc<RwLock<Held>>);

#[derive(Default)]
struct Held {
    state: LogState,
    entries: Vec<Entry>,
}

impl VecStore {
    fn held<T>(&self, read: impl FnOnce(&Held) -> T) -> T {
        read(&self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl Held {
    fn first(&self) -> u64 {
        self.state.last_index + 1 - self.entries.len() as u64
    }

    /// Where an entry is in the vector.
    fn place(&self, index: u64) -> Result<usize, LogError> {
        let (first, last) = (self.first(), self.state.last_index);
        match index {
            _ if index < first => Err(LogError::Compacted { index, first }),
            _ if index > last => Err(LogError::Unavailable { index, last }),
            _ => Ok((index - first) as usize),
        }
    }

    /// Checks before anything is changed: a refused batch leaves the log as it was.
    fn check(&self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        let (mut lowest, mut next) = match &batch.install {
            Some(mark) => (mark.index + 1, mark.index + 1),
            None => (self.first(), self.state.last_index + 1),
        };
        for entry in batch.entries {
            if entry.index < lowest || entry.index > next {
                return Err(LogError::Gap { found: entry.index, expected: next });
            }
            (lowest, next) = (entry.index + 1, entry.index + 1);
        }
        Ok(())
    }

    fn write(&mut self, batch: &LogBatch<'_>) {
        if let Some(metadata) = &batch.metadata {
            self.state.metadata = metadata.clone();
        }
        if let Some(mark) = &batch.install {
            self.entries.clear();
            self.state.last_index = mark.index;
            self.state.snapshot = Some(mark.clone());
        }
        if let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) {
            let kept = first.index - self.first();
            self.entries.truncate(kept as usize);
            self.entries.extend_from_slice(batch.entries);
            self.state.last_index = last.index;
        }
        if let Some(hard_state) = &batch.hard_state {
            self.state.hard_state = hard_state.clone();
        }
        if let Some(mark) = &batch.compact {
            self.state.snapshot = Some(mark.clone());
        }
        self.state.first_index = self.first();
    }
}

impl LogStore for VecStore {
    fn state(&self) -> Result<LogState, LogError> {
        Ok(self.held(|held| LogState { first_index: held.first(), ..held.state.clone() }))
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.clone())
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        let mut held = self.0.write().map_err(|_| LogError::Poisoned { cause: None })?;
        held.check(batch)?;
        held.write(batch);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        Ok(()) // a real store waits for its disk here, and is poisoned for good if that fails
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        let mut held = self.0.write().map_err(|_| LogError::Poisoned { cause: None })?;
        let covered = held.state.snapshot.as_ref().map_or(0, |mark| mark.index);
        if before > covered + 1 {
            return Err(LogError::NoMark { before });
        }
        let free = before.saturating_sub(held.first()).min(held.entries.len() as u64);
        held.entries.drain(..free as usize);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.held(|held| held.entries.iter().map(|entry| entry.data.len() as u64).sum())
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}

impl LogReader for VecStore {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        if low >= high {
            return Ok(Vec::new());
        }
        self.held(|held| {
            let range = held.place(low)?..=held.place(high - 1)?;
            let mut bytes = 0;
            let within = |(n, entry): &(usize, &Entry)| {
                bytes += entry.data.len() as u64;
                *n == 0 || bytes <= max_bytes
            };
            let entries = held.entries[range].iter().enumerate().take_while(within);
            Ok(entries.map(|(_, entry)| entry.clone()).collect())
        })
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.held(|held| match &held.state.snapshot {
            Some(mark) if mark.index == index => Ok(mark.term),
            _ => Ok(held.entries[held.place(index)?].term),
        })
    }

    fn first_index(&self) -> u64 {
        self.held(Held::first)
    }

    fn last_index(&self) -> u64 {
        self.held(|held| held.state.last_index)
    }
}

/// A vector that survives every crash.
struct Immortal;

impl LogFixture for Immortal {
    type Store = VecStore;

    fn create(&mut self) -> VecStore {
        VecStore::default()
    }

    fn crash(&mut self, store: VecStore) -> VecStore {
        store
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    log_store(&mut Immortal);

    // It can be booted like any other.
    let mut store = VecStore::default();
    let cluster = Cluster::from_initial("token", &[("a", ["http://127.0.0.1:2380"])])?;
    let id = cluster.members().next().map_or(0, |member| member.id);
    let snapshots = MemSnapshots::new();
    boot(&mut store, &snapshots, &Boot::New { id, cluster })?;
    let recovered = boot(&mut store, &snapshots, &Boot::Restart)?;
    assert_eq!((recovered.incarnation, recovered.last_index), (2, 1));
    println!("the store keeps its promises, and a node was booted from it, twice");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_keeps_its_promises() -> Result<(), Box<dyn std::error::Error>> {
        super::main()
    }
}
