//! The contenders: every log behind the same few calls.

mod fjall;
mod floor;
mod oarlock;
mod okaywal;
mod raft_engine;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use std::fs;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::Result;

pub(crate) use self::oarlock::Oarlock;

/// Entries to append: consecutive, in one unit.
pub(crate) struct Batch<'a> {
    pub(crate) first: u64,
    pub(crate) payloads: &'a [Bytes],
}

/// A log with one caller.
pub(crate) trait Log {
    /// Not timed: puts a batch into the form in which this log takes it.
    fn stage(&mut self, batch: &Batch<'_>);

    /// Timed: encodes, writes and indexes what was staged; with `sync`, returns once it is durable.
    fn commit(&mut self, sync: bool) -> Result<()>;

    /// Not timed: makes everything durable, and has the log do what its owner would have it do in the background.
    fn settle(&mut self) -> Result<()>;

    /// One entry by its index: gives its length.
    fn get(&mut self, index: u64) -> Result<usize>;

    /// Consecutive entries: gives the sum of their lengths.
    fn range(&mut self, range: Range<u64>) -> Result<usize>;

    /// The log's own words about its heap, if it has any: bytes.
    fn index_bytes(&self) -> Option<u64> {
        None
    }

    /// How many segments it has begun, if it counts them.
    fn rolls(&self) -> u64 {
        0
    }
}

/// A log with many callers, each of which appends entries of its own and waits until they are durable.
pub(crate) trait Shared: Sync {
    /// Appends one entry as caller number `thread`.
    fn append(&self, thread: usize, payload: &Bytes) -> Result<()>;

    /// Entries made durable by one sync so far, on average, if it counts them.
    fn shared(&self) -> Option<f64> {
        None
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Floor,
    Oarlock,
    RaftEngine,
    RaftEngineTuned,
    OkayWal,
    Fjall,
    Redb,
    #[cfg(feature = "rocksdb")]
    RocksDb,
}

impl Who {
    /// Everybody.
    pub(crate) const ALL: &[Self] = &[
        Self::Floor,
        Self::Oarlock,
        Self::RaftEngine,
        Self::RaftEngineTuned,
        Self::OkayWal,
        Self::Fjall,
        Self::Redb,
        #[cfg(feature = "rocksdb")]
        Self::RocksDb,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Oarlock => "oarlock-wal",
            Self::RaftEngine => "raft-engine",
            Self::RaftEngineTuned => "raft-engine tuned",
            Self::OkayWal => "okaywal",
            Self::Fjall => "fjall",
            Self::Redb => "redb",
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => "rocksdb",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|who| who.name() == name)
    }

    /// Whether its appends can be left unsynced. okaywal's commit always syncs.
    pub(crate) fn appends_unsynced(self) -> bool {
        self != Self::OkayWal
    }

    /// A new log in `dir`, which is made, settled in: past files that are unlike later ones, with `bytes` of room
    /// prepared by those that prepare.
    pub(crate) fn create(self, dir: &Path, bytes: u64) -> Result<Box<dyn Log>> {
        fs::create_dir_all(dir)?;
        let mut log: Box<dyn Log> = match self {
            Self::Floor => Box::new(floor::Floor::create(dir)?),
            Self::Oarlock => Box::new(Oarlock::create(dir, 64 << 20)?.grown()?.maintained()?),
            Self::RaftEngine => Box::new(raft_engine::Engine::open(dir)?),
            Self::RaftEngineTuned => Box::new(raft_engine::Engine::open_tuned(dir, bytes)?),
            Self::OkayWal => Box::new(okaywal::OkayWal::recycling(dir)?),
            _ => self.open(dir)?,
        };
        log.settle()?;
        settle_files(dir)?;
        Ok(log)
    }

    /// A new log in `dir` that keeps everything, to be read and opened again.
    pub(crate) fn create_to_read(self, dir: &Path) -> Result<Box<dyn Log>> {
        fs::create_dir_all(dir)?;
        match self {
            Self::Oarlock => Ok(Box::new(Oarlock::create(dir, 64 << 20)?)),
            _ => self.open(dir),
        }
    }

    /// The log in `dir`.
    pub(crate) fn open(self, dir: &Path) -> Result<Box<dyn Log>> {
        Ok(match self {
            Self::Floor => return Err("the floor is no log".into()),
            Self::Oarlock => Box::new(Oarlock::open(dir)?),
            Self::RaftEngine => Box::new(raft_engine::Engine::open(dir)?),
            Self::RaftEngineTuned => Box::new(raft_engine::Engine::open_uncompressed(dir)?),
            Self::OkayWal => Box::new(okaywal::OkayWal::keeping(dir)?),
            Self::Fjall => Box::new(fjall::Fjall::open(dir)?),
            Self::Redb => Box::new(redb::Redb::open(dir)?),
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => Box::new(rocksdb::RocksDb::open(dir)?),
        })
    }

    /// A new log in `dir` for several callers; `None` if it has no way to share a sync among them.
    pub(crate) fn create_shared(self, dir: &Path, bytes: u64) -> Result<Option<Box<dyn Shared>>> {
        fs::create_dir_all(dir)?;
        let log: Box<dyn Shared> = match self {
            Self::Floor => Box::new(floor::SharedFloor::create(dir)?),
            Self::Oarlock => Box::new(oarlock::SharedOarlock::create(dir)?),
            Self::RaftEngine => Box::new(raft_engine::Engine::open(dir)?),
            Self::RaftEngineTuned => Box::new(raft_engine::Engine::open_tuned(dir, bytes)?),
            Self::OkayWal => Box::new(okaywal::OkayWal::recycling(dir)?),
            _ => return Ok(None),
        };
        settle_files(dir)?;
        Ok(Some(log))
    }
}

/// Writes back what a log left dirty while it set itself up, so that nobody else's sync waits for it.
pub(crate) fn settle_files(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            settle_files(&path)?;
        } else {
            fs::File::open(path)?.sync_all()?;
        }
    }
    Ok(())
}

/// A key that sorts as the index does, for those that keep keys.
fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// For those that keep keys: an entry must be there.
fn missing(index: u64) -> crate::Error {
    format!("entry {index} is missing").into()
}
