//! A log in memory, no slower than raft-rs's `MemStorage`: entries in a deque behind a lock.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use oarlock_raftnode::raft::eraftpb::Entry;
use oarlock_raftnode::{LogBatch, LogError, LogReader, LogState, LogStore};

/// Durable as long as the process lives.
#[derive(Clone, Default)]
pub(crate) struct MemoryLog(Arc<RwLock<Held>>);

#[derive(Default)]
struct Held {
    state: LogState,
    entries: VecDeque<Entry>,
}

impl Held {
    fn first(&self) -> u64 {
        self.state.last_index + 1 - self.entries.len() as u64
    }

    fn place(&self, index: u64) -> Result<usize, LogError> {
        let (first, last) = (self.first(), self.state.last_index);
        match index {
            _ if index < first => Err(LogError::Compacted { index, first }),
            _ if index > last => Err(LogError::Unavailable { index, last }),
            _ => Ok((index - first) as usize),
        }
    }
}

impl MemoryLog {
    fn read<T>(&self, read: impl FnOnce(&Held) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Held) -> T) -> T {
        write(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl LogStore for MemoryLog {
    fn state(&self) -> Result<LogState, LogError> {
        Ok(self.read(|held| LogState { first_index: held.first(), ..held.state.clone() }))
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.clone())
    }

    fn append(&mut self, batch: &LogBatch<'_>) -> Result<(), LogError> {
        self.write(|held| {
            let next = held.state.last_index + 1;
            let first = batch.entries.first().map_or(next, |entry| entry.index);
            if batch.install.is_some() || first > next || first < held.first() {
                return Err(LogError::Gap { found: first, expected: next }); // not in this bench
            }
            if let Some(metadata) = &batch.metadata {
                held.state.metadata = metadata.clone();
            }
            let kept = first - held.first();
            held.entries.truncate(kept as usize);
            held.entries.extend(batch.entries.iter().cloned());
            held.state.last_index = first + batch.entries.len() as u64 - 1;
            if let Some(hard_state) = &batch.hard_state {
                held.state.hard_state = hard_state.clone();
            }
            if let Some(mark) = &batch.compact {
                held.state.snapshot = Some(mark.clone());
            }
            Ok(())
        })
    }

    fn sync(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn release(&mut self, before: u64) -> Result<(), LogError> {
        self.write(|held| {
            let free = before.saturating_sub(held.first()).min(held.entries.len() as u64);
            held.entries.drain(..free as usize);
        });
        Ok(())
    }

    fn size(&self) -> u64 {
        self.read(|held| held.entries.len() as u64)
    }

    fn close(self: Box<Self>) -> Result<(), LogError> {
        Ok(())
    }
}

impl LogReader for MemoryLog {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        if low >= high {
            return Ok(Vec::new());
        }
        self.read(|held| {
            let range = held.place(low)?..=held.place(high - 1)?;
            let mut bytes = 0;
            let within = |(n, entry): &(usize, &Entry)| {
                bytes += entry.data.len() as u64;
                *n == 0 || bytes <= max_bytes
            };
            let entries = held.entries.range(range).enumerate().take_while(within);
            Ok(entries.map(|(_, entry)| entry.clone()).collect())
        })
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.read(|held| match &held.state.snapshot {
            Some(mark) if mark.index == index => Ok(mark.term),
            _ => Ok(held.entries[held.place(index)?].term),
        })
    }

    fn first_index(&self) -> u64 {
        self.read(Held::first)
    }

    fn last_index(&self) -> u64 {
        self.read(|held| held.state.last_index)
    }
}
