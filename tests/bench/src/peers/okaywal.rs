//! okaywal 0.3: no index of its own, so the positions of entries are kept here, as its callers must.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogPosition, LogVoid, ReadChunkResult,
    SegmentReader, WriteAheadLog,
};

use super::{Batch, Log, Shared, missing};
use crate::Result;

pub(crate) struct OkayWal {
    log: WriteAheadLog,
    positions: Vec<LogPosition>,
    staged: Vec<Bytes>,
}

impl OkayWal {
    /// With files of 64 MiB that are recycled as soon as they are full.
    pub(super) fn recycling(dir: &Path) -> Result<Self> {
        let config = Configuration::default_for(dir.join("okay"))
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(60 << 20);
        Ok(Self { log: config.open(LogVoid)?, positions: Vec::new(), staged: Vec::new() })
    }

    /// With one file that is never given up. Opening reads everything and checks it.
    pub(super) fn keeping(dir: &Path) -> Result<Self> {
        let config = Configuration::default_for(dir.join("okay"))
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(u64::MAX);
        let found = Arc::new(Mutex::new(Vec::new()));
        let log = config.open(Replay(found.clone()))?;
        let positions = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self { log, positions, staged: Vec::new() })
    }
}

impl Log for OkayWal {
    fn stage(&mut self, batch: &Batch<'_>) {
        self.staged = batch.payloads.to_vec();
    }

    fn commit(&mut self, _: bool) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        for payload in &self.staged {
            self.positions.push(entry.write_chunk(payload)?.position);
        }
        entry.commit()?;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    fn get(&mut self, index: u64) -> Result<usize> {
        let position = self.positions.get(index as usize - 1).ok_or_else(|| missing(index))?;
        let mut chunk = self.log.read_at(*position)?;
        let mut bytes = Vec::with_capacity(chunk.chunk_length() as usize);
        chunk.read_to_end(&mut bytes)?;
        if chunk.crc_is_valid()? { Ok(bytes.len()) } else { Err("checksum".into()) }
    }

    fn range(&mut self, range: Range<u64>) -> Result<usize> {
        range.map(|index| self.get(index)).sum()
    }
}

impl Shared for OkayWal {
    fn append(&self, _: usize, payload: &Bytes) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }
}

/// Reads every chunk that is recovered, and keeps where it stands.
struct Replay(Arc<Mutex<Vec<LogPosition>>>);

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay")
    }
}

impl LogManager for Replay {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            found.push(chunk.log_position());
            bytes.clear();
            chunk.read_to_end(&mut bytes)?;
            if !chunk.check_crc()? {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}
