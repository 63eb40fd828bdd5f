//! Conformance suites for implementations of this crate's traits.
//!
//! Each is a function to be called from a `#[test]`: [`log_store`], [`snapshot_store`], [`state_machine`]. It takes a
//! fixture, which knows how to make an instance, how to crash it, and how to look at its state.
//!
//! ```
//! use oarlock_raftnode::MemStore;
//! use oarlock_raftnode::testing::{LogFixture, log_store};
//!
//! struct InMemory;
//! impl LogFixture for InMemory {
//!     type Store = MemStore;
//!     fn create(&mut self) -> MemStore {
//!         MemStore::new()
//!     }
//!     fn crash(&mut self, store: MemStore) -> MemStore {
//!         store.crash()
//!     }
//! }
//! log_store(&mut InMemory);
//! ```
//!
//! The suites themselves are tested as well: for each check there is an implementation that fails it
//! (`tests/conformance`).

use std::fmt;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

use crate::convert;
use crate::storage::SnapshotMark;

mod log_model;

mod log_store;
pub use log_store::{LogFixture, log_store, log_store_checks};

mod snapshot_store;
pub use snapshot_store::{SnapshotFixture, snapshot_store, snapshot_store_checks};

mod state_machine;
pub use state_machine::{MachineFixture, state_machine, state_machine_checks};

/// One promise, and how it is checked.
pub struct Check<F> {
    promise: &'static str,
    run: fn(&mut F),
}

impl<F> Check<F> {
    const fn new(promise: &'static str, run: fn(&mut F)) -> Self {
        Self { promise, run }
    }

    /// What is promised, in a few words.
    #[must_use]
    pub const fn promise(&self) -> &'static str {
        self.promise
    }

    /// Checks it.
    ///
    /// # Panics
    /// When the promise is broken.
    pub fn run(&self, fixture: &mut F) {
        (self.run)(fixture);
    }
}

impl<F> fmt::Debug for Check<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.promise).finish()
    }
}

/// Runs all checks, and names the one that fails.
fn run<F>(checks: &[Check<F>], fixture: &mut F) {
    /// Says which promise was being checked when a panic passes by.
    struct Named(&'static str);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                log::error!(promise = self.0; "a promise is broken");
            }
        }
    }
    for check in checks {
        let _named = Named(check.promise);
        check.run(fixture);
    }
}

/// An entry of some data.
#[must_use]
pub fn entry(index: u64, term: u64) -> Entry {
    convert::entry(index, term, EntryType::EntryNormal, format!("{index}@{term}"))
}

/// Entries `low..=high` of one term.
#[must_use]
pub fn entries(low: u64, high: u64, term: u64) -> Vec<Entry> {
    (low..=high).map(|index| entry(index, term)).collect()
}

/// A mark with three voters.
#[must_use]
pub fn mark(index: u64, term: u64) -> SnapshotMark {
    SnapshotMark { index, term, conf_state: ConfState::from((vec![1, 2, 3], vec![])) }
}

/// A hard state.
#[must_use]
pub fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    convert::hard_state(term, vote, commit)
}
