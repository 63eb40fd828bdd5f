//! RocksDB, at its defaults: the index is the key.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{DB, Direction, IteratorMode, WriteBatch, WriteOptions};

use super::{Batch, Log, key, missing};
use crate::Result;

pub(crate) struct RocksDb {
    database: DB,
    staged: Vec<(u64, Bytes)>,
}

impl RocksDb {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        Ok(Self { database: DB::open_default(dir.join("rocksdb"))?, staged: Vec::new() })
    }
}

impl Log for RocksDb {
    fn stage(&mut self, batch: &Batch<'_>) {
        self.staged = (batch.first..).zip(batch.payloads.iter().cloned()).collect();
    }

    fn commit(&mut self, sync: bool) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (index, payload) in &self.staged {
            batch.put(key(*index), payload);
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        Ok(self.database.write_opt(batch, &options)?)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.database.flush_wal(true)?)
    }

    fn get(&mut self, index: u64) -> Result<usize> {
        Ok(self.database.get_pinned(key(index))?.ok_or_else(|| missing(index))?.len())
    }

    fn range(&mut self, range: Range<u64>) -> Result<usize> {
        let first = key(range.start);
        let n = (range.end - range.start) as usize;
        let pairs = self.database.iterator(IteratorMode::From(&first, Direction::Forward));
        pairs.take(n).map(|pair| Ok(pair?.1.len())).sum()
    }
}
