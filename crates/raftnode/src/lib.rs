//! oarlock-raftnode
#![forbid(unsafe_code)]

pub use {oarlock_membership as membership, oarlock_transport as transport, raft};

mod failpoint;

pub mod bootstrap;

pub mod convert;

mod proposal;
pub use proposal::{AttributeUpdate, HeaderError, Payload, Verdict, Window, WindowError};

mod slog_bridge;
pub use slog_bridge::raft_logger;

mod snapshot_head;
pub use snapshot_head::{SnapshotHead, SnapshotHeadError};

mod storage;
pub use storage::{
    LogBatch, LogError, LogReader, LogState, LogStore, LogView, SnapshotError, SnapshotId,
    SnapshotMark, SnapshotSink, SnapshotSource, SnapshotStore, SnapshotWish,
};
#[cfg(any(test, feature = "testing"))]
pub use storage::{MemSnapshots, MemStore};

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub mod wire;
