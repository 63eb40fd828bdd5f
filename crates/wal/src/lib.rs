//! A segmented, checksummed write-ahead log for Raft.
//!
//! It stores entries, hard state and snapshot marks for one Raft group, of any Raft library: it takes no decision and
//! interprets no vote. Any number of threads append and read. [`Wal::append`] returns a [`Ticket`]; [`Wal::wait`]
//! returns once it is durable, and callers that wait together share one fdatasync.
//!
//! ```
//! # let tmp = tempfile::tempdir()?;
//! use oarlock_wal::{Batch, Entry, HardState, Options};
//!
//! let log = Options::new().create(tmp.path().join("wal"), b"member 1")?;
//! let entries = [Entry::new(1, 1, 0, "set x=1"), Entry::new(2, 1, 0, "set y=2")];
//! let state = HardState { term: 1, vote: 1, commit: 0 };
//! let ticket = log.append(&Batch { hard_state: Some(state), ..Batch::of(&entries) })?;
//! assert_eq!(log.entry(2)?.data, "set y=2"); // readable at once
//! log.wait(ticket)?; // durable from here on
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # After a crash
//!
//! Every batch whose ticket was waited for is there; the batch in flight is there whole or not at all. A tail that a
//! crash tore is set aside in a file, cut off, and reported in [`Wal::recovery`]. Anything else that does not read
//! back is refused with its place ([`Error::Corrupt`]), never repaired away: every frame says how far the log was known
//! to be durable when it was written, and so proves what came before.
//!
//! # What this crate does not do
//!
//! It starts no thread unasked ([`Maintainer`] is one you may ask for), and opening it never repairs damage: [`repair`]
//! plans what can be done, and does it when told. The README argues each promise; `docs/wal-format.md` in the repository
//! has the bytes.

mod bell;

mod commit;
pub use commit::Ticket;

mod dump;
pub use dump::{Content, Dump, Follow, MarkSlot, News, Record};

mod error;
pub use error::{Damage, Error};

pub mod examine;

mod format;
pub use format::FORMAT_VERSION;

mod index;

mod log;
pub use log::{Released, Wal};

mod lsn;
pub use lsn::{Lsn, SegmentId};

mod maintain;
pub use maintain::Maintainer;

mod mmap;

mod options;
pub use options::Options;

mod planted;
use planted::planted;

mod read;

mod read_only;
pub use read_only::{ReadOnly, SegmentReport};

mod record;
pub use record::{Batch, Entry, EntryId, EntryRef, HardState, SnapshotMark};

mod recover;
pub use recover::{Recovery, TornTail};

pub mod repair;

mod scan;

mod segment;

pub mod snapshot;

mod state;

mod stats;
pub use stats::{Observer, Stats};

#[cfg(feature = "testing")]
pub mod testing;

pub mod vfs;
pub use vfs::{RealVfs, Vfs};

mod writer;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
