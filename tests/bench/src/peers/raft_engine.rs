//! raft-engine 0.4, at its defaults and tuned.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use raft::eraftpb::Entry;
use raft_engine::{Config, LogBatch, MessageExt, ReadableSize};

use super::{Batch, Log, Shared, missing};
use crate::Result;

/// The group that a single caller writes to.
const GROUP: u64 = 1;
/// The most callers of a shared engine.
const CALLERS: usize = 64;
/// Length of a file of the tuned engine.
const FILE: u64 = 64 << 20;

#[derive(Clone)]
struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

pub(crate) struct Engine {
    engine: raft_engine::Engine,
    batch: LogBatch,
    staged: Vec<Entry>,
    /// The next index of every caller: each has a group of its own, because the engine takes a group's entries in order
    /// of their indexes and callers of one group would have to wait for each other's syncs.
    next: Vec<Mutex<u64>>,
}

impl Engine {
    fn new(dir: &Path, config: Config) -> Result<Self> {
        let config = Config { dir: dir.join("engine").display().to_string(), ..config };
        Ok(Self {
            engine: raft_engine::Engine::open(config)?,
            batch: LogBatch::default(),
            staged: Vec::new(),
            next: (0..CALLERS).map(|_| Mutex::new(1)).collect(),
        })
    }

    /// At its defaults.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        Self::new(dir, Config::default())
    }

    /// With files of 64 MiB and no compression.
    pub(super) fn open_uncompressed(dir: &Path) -> Result<Self> {
        Self::new(dir, uncompressed())
    }

    /// The same with files filled with zeros ahead, for `bytes` at least, and past the first file, which never is one
    /// of those.
    pub(super) fn open_tuned(dir: &Path, bytes: u64) -> Result<Self> {
        // It prefills half as much again as it is told.
        let limit = (bytes * 2 / 3).max(2 * FILE);
        let config = Config {
            prefill_for_recycle: true,
            prefill_limit: Some(ReadableSize(limit)),
            ..uncompressed()
        };
        let mut engine = Self::new(dir, config)?;
        let filler = [Bytes::from(vec![1; 1 << 20])];
        // Into a group of its own, which nobody reads.
        for first in 1..=FILE / (1 << 20) + 1 {
            engine.stage(&Batch { first, payloads: &filler });
            engine.write(u64::MAX, false)?;
        }
        engine.engine.sync()?;
        Ok(engine)
    }

    fn write(&mut self, group: u64, sync: bool) -> Result<()> {
        self.batch.add_entries::<Entries>(group, &self.staged)?;
        self.engine.write(&mut self.batch, sync)?;
        Ok(())
    }
}

fn uncompressed() -> Config {
    Config {
        target_file_size: ReadableSize(FILE),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    }
}

fn entry(index: u64, payload: &Bytes) -> Entry {
    Entry { index, term: 1, data: payload.clone(), ..Entry::default() }
}

impl Log for Engine {
    fn stage(&mut self, batch: &Batch<'_>) {
        self.staged.clear();
        self.staged.extend((batch.first..).zip(batch.payloads).map(|(i, data)| entry(i, data)));
    }

    fn commit(&mut self, sync: bool) -> Result<()> {
        self.write(GROUP, sync)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.engine.sync()?)
    }

    fn get(&mut self, index: u64) -> Result<usize> {
        let entry = self.engine.get_entry::<Entries>(GROUP, index)?;
        Ok(entry.ok_or_else(|| missing(index))?.data.len())
    }

    fn range(&mut self, range: Range<u64>) -> Result<usize> {
        let mut entries = Vec::new();
        let Range { start, end } = range;
        self.engine.fetch_entries_to::<Entries>(GROUP, start, end, None, &mut entries)?;
        Ok(entries.iter().map(|entry| entry.data.len()).sum())
    }
}

impl Shared for Engine {
    fn append(&self, thread: usize, payload: &Bytes) -> Result<()> {
        let mut next = self.next[thread].lock().map_err(|_| "another caller panicked")?;
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entries>(GROUP + thread as u64, &[entry(*next, payload)])?;
        self.engine.write(&mut batch, true)?;
        *next += 1;
        Ok(())
    }
}
