//! fjall 3, at its defaults: the index is the key.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Batch, Log, key, missing};
use crate::Result;

pub(crate) struct Fjall {
    database: Database,
    entries: Keyspace,
    staged: Vec<(u64, Bytes)>,
}

impl Fjall {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let database = Database::builder(dir.join("fjall")).open()?;
        let entries = database.keyspace("entries", KeyspaceCreateOptions::default)?;
        Ok(Self { database, entries, staged: Vec::new() })
    }
}

impl Log for Fjall {
    fn stage(&mut self, batch: &Batch<'_>) {
        self.staged = (batch.first..).zip(batch.payloads.iter().cloned()).collect();
    }

    fn commit(&mut self, sync: bool) -> Result<()> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for (index, payload) in &self.staged {
            batch.insert(&self.entries, key(*index), &payload[..]);
        }
        Ok(batch.commit()?)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn get(&mut self, index: u64) -> Result<usize> {
        Ok(self.entries.get(key(index))?.ok_or_else(|| missing(index))?.len())
    }

    fn range(&mut self, range: Range<u64>) -> Result<usize> {
        let mut sum = 0;
        for pair in self.entries.range(key(range.start)..key(range.end)) {
            sum += pair.value()?.len();
        }
        Ok(sum)
    }
}
