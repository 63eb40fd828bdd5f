//! What is replicated: the one trait that a user of this crate implements.

use std::io;

use bytes::Bytes;
use oarlock_membership::Cluster;

use crate::SnapshotId;

/// One committed application entry.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// Its index in the log. It grows with every call, with gaps where the log has other kinds of entries.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// What was proposed. It may be a slice of a larger buffer, which a clone of it keeps alive: 16 KiB shared by small
    /// proposals, a leader's message, a segment of the log. Copy what you keep.
    pub data: &'a Bytes,
}

/// The result of an applied proposal, and its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<R> {
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
    /// What [`StateMachine::apply`] returned for it on this node.
    pub output: R,
}

/// An error of a state machine. It ends the node, because a member that skips an entry would diverge from the others.
pub type ApplyError = Box<dyn std::error::Error + Send + Sync>;

/// An error while restoring a snapshot. It ends the node.
pub type RestoreError = Box<dyn std::error::Error + Send + Sync>;

/// The replicated state.
///
/// **Determinism.** The same entries must lead every member to the same state: no clocks, no randomness, no hash order
/// that shows. The suite in `testing::state_machine` (feature `testing`) tests what this trait asks for; run it against
/// yours.
///
/// **Threads.** All methods are called on one thread, `oarlock-apply`, except that a restore at the start of a node
/// happens on the thread that starts it. None may wait for the node, by [`Pending::wait`](crate::Pending::wait) for
/// example: what it waits for would have to be applied by the same thread.
///
/// **Reading.** The node owns the state machine. To read the state from outside, share it through an `Arc`, and call
/// [`NodeHandle::read_index`](crate::NodeHandle::read_index) first if the read is to be linearizable:
///
/// ```
/// use std::collections::BTreeMap;
/// use std::io;
/// use std::sync::{Arc, RwLock};
///
/// use oarlock_raftnode::{ApplyError, Committed, RestoreError, SnapshotId, SnapshotView, StateMachine};
///
/// type Words = BTreeMap<String, u64>;
///
/// /// Counts words. The handlers of requests hold clones of the `Arc`.
/// struct WordCount(Arc<RwLock<Words>>);
///
/// impl StateMachine for WordCount {
///     type Output = Result<u64, &'static str>; // a bad request is an answer, not an error of the state machine
///
///     fn apply(&mut self, entry: &Committed<'_>) -> Result<Self::Output, ApplyError> {
///         let Ok(word) = std::str::from_utf8(entry.data) else { return Ok(Err("not UTF-8")) };
///         let mut words = self.0.write().map_err(|_| "poisoned")?;
///         let count = words.entry(word.to_owned()).or_default();
///         *count += 1;
///         Ok(Ok(*count))
///     }
///
///     fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError> {
///         let words = self.0.read().map_err(|_| "poisoned")?.clone(); // a large state would share structure instead
///         Ok(Box::new(View(words)))
///     }
///
///     fn restore(&mut self, _: SnapshotId, content: &mut dyn io::Read) -> Result<(), RestoreError> {
///         let mut words = Words::new();
///         for line in io::read_to_string(content)?.lines() {
///             let (count, word) = line.split_once(' ').ok_or("damaged")?;
///             words.insert(word.to_owned(), count.parse()?);
///         }
///         *self.0.write().map_err(|_| "poisoned")? = words; // only now that all of it was read and verified
///         Ok(())
///     }
/// }
///
/// struct View(Words);
///
/// impl SnapshotView for View {
///     fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()> {
///         self.0.iter().try_for_each(|(word, count)| writeln!(to, "{count} {word}"))
///     }
/// }
/// ```
pub trait StateMachine: Send + 'static {
    /// The result of applying an entry, which its proposer gets if it proposed on this node.
    type Output: Send + 'static;

    /// Applies one entry: application entries only, each once, in the order of the log (O22, O23).
    ///
    /// A request that makes no sense is no error: the entry is in every member's log, so return an `Output` that says
    /// what is wrong with it.
    ///
    /// # Errors
    /// The state can no longer be trusted. The node ends with [`NodeError::Apply`](crate::NodeError::Apply).
    fn apply(&mut self, entry: &Committed<'_>) -> Result<Self::Output, ApplyError>;

    /// Returns a view of the state as it is now. This should be cheap, because nothing is applied meanwhile. Another
    /// thread writes the view out while further entries are applied, which it must not show: share structure, or copy.
    ///
    /// # Errors
    /// The node ends with [`NodeError::Apply`](crate::NodeError::Apply).
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, ApplyError>;

    /// Replaces the state by what [`SnapshotView::write_to`] wrote on this or another member.
    ///
    /// Read `content` to its end before giving up the old state: it is verified as it is read, so an error may come late.
    ///
    /// # Errors
    /// Damage ends the node with [`NodeError::Restore`](crate::NodeError::Restore).
    fn restore(&mut self, at: SnapshotId, content: &mut dyn io::Read) -> Result<(), RestoreError>;

    /// For state machines with storage of their own: the index up to which the state durably holds everything. Entries
    /// up to there are not applied again. Asked once, at the start. Defaults to 0: everything after the snapshot is
    /// applied.
    fn applied_index(&self) -> u64 {
        0
    }

    /// About how many bytes a snapshot would take; snapshots of large states are taken less often, see
    /// [`Config::snapshot_count`](crate::Config::snapshot_count). Defaults to 0: only entries are counted.
    fn size(&self) -> u64 {
        0
    }

    /// The members changed, by a conf change, an update of a member's attributes, or a snapshot. Defaults to doing
    /// nothing.
    fn members_changed(&mut self, cluster: &Cluster) {
        let _ = cluster;
    }
}

/// The state at one instant, to be written out by another thread.
pub trait SnapshotView: Send {
    /// Writes all of it.
    ///
    /// # Errors
    /// Those of `to`. The snapshot is then abandoned; another is taken later.
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()>;
}
