//! Ours, used as its documentation says: a maintainer, or its calls, off the append path.

use std::hint::black_box;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use oarlock_wal::{Batch as WalBatch, Entry, Maintainer, Options, Stats, Wal};

use super::{Batch, Log, Shared};
use crate::Result;

pub(crate) struct Oarlock {
    log: Wal,
    /// A thread that prepares segments while the caller appends; without it [`Log::settle`] does.
    maintainer: Option<Maintainer>,
    staged: Vec<Entry>,
}

impl Oarlock {
    /// A log whose segments grow up to `segment_size`.
    pub(crate) fn create(dir: &Path, segment_size: u64) -> Result<Self> {
        let log = Options::new().segment_size(segment_size).create(dir.join("wal"), b"bench")?;
        Ok(Self { log, maintainer: None, staged: Vec::new() })
    }

    pub(crate) fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            log: Options::new().open(dir.join("wal"))?,
            maintainer: None,
            staged: Vec::new(),
        })
    }

    /// Opens the log and checks every byte of it.
    pub(crate) fn verify(dir: &Path) -> Result<Wal> {
        Ok(Options::new().verify(true).open(dir.join("wal"))?)
    }

    /// Leaves the first segments, which are smaller, behind: with metadata, so that no entry is there yet.
    pub(crate) fn grown(self) -> Result<Self> {
        let filler = Bytes::from(vec![1; 512 << 10]);
        while self.log.stats().rolls < 4 {
            let metadata = Some(filler.clone());
            let _ = self.log.append(&WalBatch { metadata, ..WalBatch::default() })?;
        }
        let metadata = Some(Bytes::from_static(b"bench"));
        let _ = self.log.append(&WalBatch { metadata, ..WalBatch::default() })?;
        Ok(self)
    }

    /// Has a thread do the maintenance from now on.
    pub(crate) fn maintained(mut self) -> Result<Self> {
        self.maintainer = Some(Maintainer::spawn(&self.log)?);
        Ok(self)
    }

    pub(crate) fn stats(&self) -> Stats {
        self.log.stats()
    }
}

impl Log for Oarlock {
    fn stage(&mut self, batch: &Batch<'_>) {
        let entries = (batch.first..).zip(batch.payloads);
        self.staged.clear();
        self.staged.extend(entries.map(|(index, data)| Entry::new(index, 1, 0, data.clone())));
    }

    fn commit(&mut self, sync: bool) -> Result<()> {
        let ticket = self.log.append(&WalBatch::of(&self.staged))?;
        if sync {
            self.log.wait(ticket)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.log.sync()?;
        self.log.finish_segment()?;
        self.log.prepare()?;
        Ok(())
    }

    fn get(&mut self, index: u64) -> Result<usize> {
        Ok(self.log.entry(index)?.data.len())
    }

    fn range(&mut self, range: Range<u64>) -> Result<usize> {
        let mut bytes = 0;
        let _all = self.log.visit::<()>(range, |entry| {
            bytes += black_box(entry).data.len();
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }

    fn index_bytes(&self) -> Option<u64> {
        Some(self.log.stats().index_bytes)
    }

    fn rolls(&self) -> u64 {
        self.log.stats().rolls
    }
}

/// Callers take the next index under one lock and append there; they wait outside.
pub(crate) struct SharedOarlock {
    log: Wal,
    next: Mutex<u64>,
    _maintainer: Maintainer,
}

impl SharedOarlock {
    pub(super) fn create(dir: &Path) -> Result<Self> {
        let Oarlock { log, .. } = Oarlock::create(dir, 64 << 20)?;
        log.prepare()?;
        Ok(Self { _maintainer: Maintainer::spawn(&log)?, log, next: Mutex::new(1) })
    }
}

impl Shared for SharedOarlock {
    fn append(&self, _: usize, payload: &Bytes) -> Result<()> {
        let ticket = {
            let mut next = self.next.lock().map_err(|_| "another caller panicked")?;
            let entry = [Entry::new(*next, 1, 0, payload.clone())];
            *next += 1;
            self.log.append(&WalBatch::of(&entry))?
        };
        Ok(self.log.wait(ticket)?)
    }

    fn shared(&self) -> Option<f64> {
        let stats = self.log.stats();
        Some(stats.entries as f64 / stats.syncs as f64)
    }
}
