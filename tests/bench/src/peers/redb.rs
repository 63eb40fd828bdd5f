//! redb 3, at its defaults: the index is the key. Its reads do not look at the payload.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::{Batch, Log, missing};
use crate::Result;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

pub(crate) struct Redb {
    database: Database,
    /// Open while nothing is written, as a reader would keep it.
    table: Option<ReadOnlyTable<u64, &'static [u8]>>,
    staged: Vec<(u64, Bytes)>,
}

impl Redb {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let database = Database::create(dir.join("redb"))?;
        Ok(Self { database, table: None, staged: Vec::new() })
    }

    fn table(&mut self) -> Result<&ReadOnlyTable<u64, &'static [u8]>> {
        match &mut self.table {
            Some(table) => Ok(table),
            none => Ok(none.insert(self.database.begin_read()?.open_table(ENTRIES)?)),
        }
    }

    fn write(&self, entries: &[(u64, Bytes)], sync: bool) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
        {
            let mut table = transaction.open_table(ENTRIES)?;
            for (index, payload) in entries {
                table.insert(*index, &payload[..])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Log for Redb {
    fn stage(&mut self, batch: &Batch<'_>) {
        self.staged = (batch.first..).zip(batch.payloads.iter().cloned()).collect();
    }

    fn commit(&mut self, sync: bool) -> Result<()> {
        self.table = None;
        self.write(&self.staged, sync)
    }

    fn settle(&mut self) -> Result<()> {
        self.table = None;
        self.write(&[], true)
    }

    fn get(&mut self, index: u64) -> Result<usize> {
        let entry = self.table()?.get(index)?.ok_or_else(|| missing(index))?;
        Ok(entry.value().len())
    }

    fn range(&mut self, range: Range<u64>) -> Result<usize> {
        let mut sum = 0;
        for pair in self.table()?.range(range)? {
            sum += pair?.1.value().len();
        }
        Ok(sum)
    }
}
