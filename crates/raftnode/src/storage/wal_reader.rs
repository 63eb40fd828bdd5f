//! Entries of an `oarlock-wal` log, in the words of this crate.

use std::sync::Arc;

use oarlock_wal::{ReadOnly, Wal};
use raft::eraftpb::Entry;

use super::wal_store::log_error;
use super::{LogError, LogReader};
use crate::convert;

/// A log that is written, or one that is only looked at.
pub(super) enum WalReader {
    Written(Wal),
    Viewed(Arc<ReadOnly>),
}

impl LogReader for WalReader {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        if low >= high {
            return Ok(Vec::new());
        }
        let entries = match self {
            Self::Written(log) => log.entries(low..high, max_bytes),
            Self::Viewed(log) => log.entries(low..high, max_bytes),
        };
        entries.map_err(log_error)?.into_iter().map(from_wal).collect()
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        let term = match self {
            Self::Written(log) => log.term(index),
            Self::Viewed(log) => log.term(index),
        };
        term.map_err(log_error)
    }

    fn first_index(&self) -> u64 {
        match self {
            Self::Written(log) => log.first_index(),
            Self::Viewed(log) => log.first_index(),
        }
    }

    fn last_index(&self) -> u64 {
        match self {
            Self::Written(log) => log.last_index(),
            Self::Viewed(log) => log.last_index(),
        }
    }
}

fn from_wal(entry: oarlock_wal::Entry) -> Result<Entry, LogError> {
    let oarlock_wal::Entry { index, term, kind, data } = entry;
    let kind = convert::entry_kind_from_number(kind).ok_or_else(|| LogError::Corrupt {
        detail: format!("entry {index} is of the unknown kind {kind}"),
        place: None,
    })?;
    Ok(convert::entry(index, term, kind, data))
}
