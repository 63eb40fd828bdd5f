#![doc = include_str!("../README.md")]
//!
//! # Where to start
//!
//! [`NodeBuilder`] starts a node on a [`LogStore`] and a [`SnapshotStore`] that [`bootstrap::boot`] has prepared;
//! [`NodeHandle`] is what you hold afterwards. [`StateMachine`] is what you implement, and [`Config`] what you tune.
//! [`core`] is the ready loop itself, for simulators and for drivers of your own.
//!
//! # Threads and callbacks
//!
//! [`NodeHandle`] can be used from any thread; its methods do not block, except those that say so. [`StateMachine`] is
//! called on the apply thread, [`Observer`] on the thread that each of its methods names, queries on the transport's.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))] // docs.rs builds with nightly, and then says which items need a feature

#[cfg(all(feature = "protobuf-codec", feature = "prost-codec"))]
compile_error!(
    "features `protobuf-codec` and `prost-codec` exclude each other: raft-rs has one codec at a time"
);

#[cfg(feature = "wal")]
pub use oarlock_wal as wal;
pub use {oarlock_membership as membership, oarlock_transport as transport, raft, slog};

mod chain;
mod failpoint;
mod planted;

mod hex;

mod config;
pub use config::{Config, ConfigError, WriteMode};

mod error;
pub use error::{
    Busy, ChangeMembersError, NodeEnd, NodeError, ProposeError, ReadError, StartError,
    TransferError, Unknown,
};

mod state_machine;
pub use state_machine::{Applied, ApplyError, Committed, RestoreError, SnapshotView, StateMachine};

mod status;
pub use status::{
    LinkStatus, PeerState, PeerStatus, Quarantine, RefusalStatus, Role, Status, Vitals,
};

mod observer;
pub use observer::{NoObserver, Observer, Stalled, Stats};

mod waiter;
pub use waiter::{Abandoned, Pending};

pub mod core;

mod driver;
pub use driver::{Apply, ApplyQueue, Command, NodeBuilder, NodeHandle, Step};

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
    Fetch, LogBatch, LogError, LogReader, LogState, LogStore, LogView, SnapshotError, SnapshotId,
    SnapshotMark, SnapshotSink, SnapshotSource, SnapshotStore, SnapshotWish,
};
#[cfg(any(test, feature = "testing"))]
pub use storage::{MemSnapshots, MemStore};
#[cfg(feature = "wal")]
pub use storage::{WalOptions, WalStore, WalStoreError, WalView};

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub mod wire;
