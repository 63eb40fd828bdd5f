//! The floor as a contender: the payloads' bytes and nothing else, into written blocks.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;

use super::{Batch, Log, Shared};
use crate::Result;
use crate::limit::Written;

pub(crate) struct Floor {
    file: Written,
    staged: Vec<u8>,
}

impl Floor {
    pub(super) fn create(dir: &Path) -> Result<Self> {
        Ok(Self { file: Written::create(&dir.join("floor"), 64 << 20)?, staged: Vec::new() })
    }
}

impl Log for Floor {
    fn stage(&mut self, batch: &Batch<'_>) {
        self.staged.clear();
        batch.payloads.iter().for_each(|payload| self.staged.extend_from_slice(payload));
    }

    fn commit(&mut self, sync: bool) -> Result<()> {
        Ok(self.file.append(&self.staged, sync)?)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.file.append(&[], true)?)
    }

    fn get(&mut self, _: u64) -> Result<usize> {
        Err("the floor of reads is a map".into())
    }

    fn range(&mut self, _: Range<u64>) -> Result<usize> {
        Err("the floor of reads is a map".into())
    }
}

/// One write and one sync for every entry, one caller after the other.
pub(crate) struct SharedFloor(Mutex<Written>);

impl SharedFloor {
    pub(super) fn create(dir: &Path) -> Result<Self> {
        Ok(Self(Mutex::new(Written::create(&dir.join("floor"), 64 << 20)?)))
    }
}

impl Shared for SharedFloor {
    fn append(&self, _: usize, payload: &Bytes) -> Result<()> {
        let mut file = self.0.lock().map_err(|_| "another caller panicked")?;
        Ok(file.append(payload, true)?)
    }
}
